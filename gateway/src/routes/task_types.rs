//! `GET /v1/task-types`, `GET|PUT|PATCH|DELETE /v1/task-types/{pattern}`, `POST …/pause` and `…/resume`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use lovage_core::problem::{Code, Problem};
use lovage_core::{Millis, Ns, Pause, TaskType, names, task_type};
use lovage_store::{DocKind, Document};
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::documents::{Precondition, tag};
use crate::path::PathOf;
use crate::problem::{Refusal, store_problem};
use crate::query::Query;
use crate::{body, schema, view};

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(put, get, patch, delete))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// `task_type_unknown`
fn unknown(pattern: &str) -> Refusal {
    let shown: String = pattern.chars().take(128).collect();
    Refusal::new(Code::TaskTypeUnknown, format!("there is no task type `{shown}`"))
}

/// List task types
#[utoipa::path(
    get, path = "/v1/task-types", operation_id = "listTaskTypes", tag = "task types",
    params(schema::PageQuery),
    responses((status = 200, description = "A page of task types", body = schema::TaskTypes))
)]
async fn list(State(app): State<Shared>, caller: Caller, mut query: Query) -> Result<Response, Refusal> {
    let limit = query.limit()?;
    let from = query.one("cursor")?;
    query.done()?;
    let (documents, next) = app.page_docs(DocKind::TaskType, caller.ns, "", from, limit).await?;
    let mut items = Vec::with_capacity(documents.len());
    for document in &documents {
        items.push(show(&document.name, text(document)?, document.version, app.now())?);
    }
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": next })))
}

/// Show a task type
#[utoipa::path(
    get, path = "/v1/task-types/{pattern}", operation_id = "getTaskType", tag = "task types",
    params(("pattern" = String, Path, description = "Its pattern, percent-encoded")),
    responses((status = 200, description = "The task type", body = schema::TaskType))
)]
async fn get(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(pattern): PathOf<String>,
    query: Query,
) -> Result<Response, Refusal> {
    query.done()?;
    let document = app.store.doc(DocKind::TaskType, caller.ns, &pattern).await?.ok_or_else(|| unknown(&pattern))?;
    answer(&app, StatusCode::OK, &pattern, text(&document)?, document.version)
}

/// Set a task type
///
/// Defaults for the tasks whose names fit the pattern, and a schema for their arguments. The most specific pattern wins.
/// It is in force for all tasks that are submitted a second later.
#[utoipa::path(
    put, path = "/v1/task-types/{pattern}", operation_id = "putTaskType", tag = "task types",
    params(("pattern" = String, Path, description = "Task names, with * for any run of characters"), schema::Preconditions),
    request_body = schema::TaskTypeIn,
    responses(
        (status = 201, description = "Made", body = schema::TaskType),
        (status = 200, description = "Replaced", body = schema::TaskType),
        (status = 412, description = "The stored one is another", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
async fn put(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(pattern): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    if !names::is_task_pattern(&pattern) {
        return Err(Problem::invalid("/pattern", names::PATTERN_RULE).into());
    }
    let bytes = read(&app, &headers, body).await?;
    store(&app, caller.ns, &pattern, Precondition::of(&headers)?, &bytes, false).await
}

/// Change a task type
///
/// Fields that are not given stay; `null` takes one away.
#[utoipa::path(
    patch, path = "/v1/task-types/{pattern}", operation_id = "patchTaskType", tag = "task types",
    params(("pattern" = String, Path, description = "Its pattern, percent-encoded"), schema::Preconditions),
    request_body = schema::TaskTypeIn,
    responses(
        (status = 200, description = "Changed", body = schema::TaskType),
        (status = 412, description = "The stored one is another", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
async fn patch(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(pattern): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    let bytes = read(&app, &headers, body).await?;
    store(&app, caller.ns, &pattern, Precondition::of(&headers)?, &bytes, true).await
}

/// Remove a task type
///
/// Tasks that were submitted keep what it gave them.
#[utoipa::path(
    delete, path = "/v1/task-types/{pattern}", operation_id = "deleteTaskType", tag = "task types",
    params(("pattern" = String, Path, description = "Its pattern, percent-encoded"), schema::Preconditions),
    responses((status = 204, description = "Removed"))
)]
async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(pattern): PathOf<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    query.done()?;
    if !app.delete_doc(DocKind::TaskType, caller.ns, &pattern, Precondition::of(&headers)?).await? {
        return Err(unknown(&pattern));
    }
    refresh(&app).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a task type
///
/// Tasks whose type it is do not start (`dispatch`), and new ones are refused with `queue_paused` (`intake`), until `until` or
/// until it is resumed. What runs goes on. It is in force everywhere within a second.
#[utoipa::path(
    post, path = "/v1/task-types/{pattern}/pause", operation_id = "pauseTaskType", tag = "task types",
    params(("pattern" = String, Path, description = "Its pattern, percent-encoded"), schema::Preconditions),
    request_body(content = Option<schema::PauseIn>),
    responses((status = 200, description = "The task type", body = schema::TaskType))
)]
async fn pause(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(pattern): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    let pause = body::read_pause(&app, &headers, body).await?;
    set_pause(&app, caller.ns, &pattern, &headers, Some(pause)).await
}

/// Resume a task type
#[utoipa::path(
    post, path = "/v1/task-types/{pattern}/resume", operation_id = "resumeTaskType", tag = "task types",
    params(("pattern" = String, Path, description = "Its pattern, percent-encoded"), schema::Preconditions),
    responses((status = 200, description = "The task type", body = schema::TaskType))
)]
async fn resume(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(pattern): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    body::read_none(&app, &headers, body).await?;
    set_pause(&app, caller.ns, &pattern, &headers, None).await
}

async fn set_pause(app: &App, ns: Ns, pattern: &str, headers: &HeaderMap, pause: Option<Pause>) -> Result<Response, Refusal> {
    let mut last = String::new();
    let put = app.edit_doc(DocKind::TaskType, ns, pattern, Precondition::of(headers)?, |stored| {
        let stored = stored.ok_or_else(|| unknown(pattern).0)?;
        last = task_type::with_pause(text(stored)?, pause)?;
        Ok(Bytes::from(last.clone()))
    });
    let put = put.await?;
    refresh(app).await;
    answer(app, StatusCode::OK, pattern, &last, put.version)
}

async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    body::require_json(headers)?;
    body::read(body, headers, "a document", app.options.limits.document_bytes, &app.options.times).await
}

/// Stores what `bytes` say, on top of what is stored if `keep`.
async fn store(app: &App, ns: Ns, pattern: &str, wanted: Precondition, bytes: &Bytes, keep: bool) -> Result<Response, Refusal> {
    let given = std::str::from_utf8(bytes).map_err(|_| Problem::new(Code::Malformed, "the body is not UTF-8"))?;
    let known = app.types(ns).await?.type_count();
    let most = app.options.limits.task_types;
    let mut last = String::new();
    let put = app.edit_doc(DocKind::TaskType, ns, pattern, wanted, |stored| {
        if keep && stored.is_none() {
            return Err(unknown(pattern).0);
        }
        if stored.is_none() && known >= most {
            return Err(Problem::new(Code::QuotaExceeded, format!("a namespace may have {most} task types")));
        }
        let stored = stored.map(text).transpose()?;
        last = task_type::merge(stored.filter(|_| keep), given)?;
        let (_, paused) = stored.map_or_else(|| Ok(<_>::default()), task_type::take_pause)?;
        last = task_type::with_pause(&last, paused)?;
        TaskType::read(pattern, &last)?.check(&app.rules())?;
        Ok(Bytes::from(last.clone()))
    });
    let put = put.await?;
    refresh(app).await;
    answer(app, if put.created { StatusCode::CREATED } else { StatusCode::OK }, pattern, &last, put.version)
}

/// Puts the change in force here before it is answered. It is stored: if this fails, the watch of the documents does it.
async fn refresh(app: &App) {
    if let Err(error) = app.types.load(&*app.store).await {
        error.log("read task types");
    }
}

fn text(document: &Document) -> Result<&str, Problem> {
    let text = std::str::from_utf8(document.bytes.as_deref().unwrap_or_default());
    text.map_err(|_| store_problem(&lovage_store::Error::Corrupt(format!("the task type {} is not UTF-8", document.name))))
}

fn answer(app: &App, status: StatusCode, pattern: &str, text: &str, version: u64) -> Result<Response, Refusal> {
    let mut response = view::json(status, &show(pattern, text, version, app.now())?);
    tag(response.headers_mut(), version);
    Ok(response)
}

/// The fields as they were given, between pattern and version, and its pause if that holds.
fn show(pattern: &str, text: &str, version: u64, now: Millis) -> Result<Box<RawValue>, Problem> {
    let (_, paused) = task_type::take_pause(text)?;
    let text = task_type::with_pause(text, paused.filter(|pause| pause.holds(now)))?;
    let fields = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default();
    let comma = if fields.is_empty() { "" } else { "," };
    let whole = format!("{{\"pattern\":{},{fields}{comma}\"version\":{version}}}", serde_json::Value::from(pattern));
    RawValue::from_string(whole)
        .map_err(|error| store_problem(&lovage_store::Error::Corrupt(format!("the task type {pattern}: {error}"))))
}
