//! `GET /v1/task-types`, `GET|PUT|PATCH|DELETE /v1/task-types/{pattern}`, `POST …/pause` and `…/resume`

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lovage_core::problem::{Code, Problem};
use lovage_core::{Millis, Pause, TaskType, Version, names, task_type};
use lovage_store::DocKind;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{App, Shared};
use crate::ask::Ask;
use crate::auth::Caller;
use crate::documents::{content, shown};
use crate::problem::{Refusal, store_problem};
use crate::query::Query;
use crate::{schema, view};

/// The document of a task type: its fields as they were given.
type Text = Box<RawValue>;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(put, get, patch, delete))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// `task_type_unknown`
fn unknown(pattern: &str) -> Refusal {
    Refusal::unknown(Code::TaskTypeUnknown, "task type", pattern)
}

/// List task types
#[utoipa::path(
    get, path = "/v1/task-types", operation_id = "listTaskTypes", tag = "task types",
    params(schema::PageQuery),
    responses((status = 200, description = "A page of task types", body = schema::TaskTypes))
)]
async fn list(State(app): State<Shared>, caller: Caller, query: Query) -> Result<Response, Refusal> {
    let (limit, from) = query.page()?;
    let (documents, next) = app.page_docs(DocKind::TaskType, caller.ns, "", from, limit).await?;
    let mut items = Vec::with_capacity(documents.len());
    for document in &documents {
        items.push(show(&document.name, &content::<Text>(document)?, document.version, app.now())?);
    }
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": next })))
}

/// Show a task type
#[utoipa::path(
    get, path = "/v1/task-types/{pattern}", operation_id = "getTaskType", tag = "task types",
    params(("pattern" = String, Path, description = "Its pattern, percent-encoded")),
    responses((status = 200, description = "The task type", body = schema::TaskType))
)]
async fn get(Ask { app, ns, name, .. }: Ask) -> Result<Response, Refusal> {
    let document = app.store.doc(DocKind::TaskType, ns, &name).await?.ok_or_else(|| unknown(&name))?;
    answer(&app, StatusCode::OK, &name, &content::<Text>(&document)?, document.version)
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
async fn put(ask: Ask) -> Result<Response, Refusal> {
    if !names::is_task_pattern(&ask.name) {
        return Err(Problem::invalid("/pattern", names::PATTERN_RULE).into());
    }
    let given = ask.json("a document").await?;
    store(&ask, &given, false).await
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
async fn patch(ask: Ask) -> Result<Response, Refusal> {
    let given = ask.json("a document").await?;
    store(&ask, &given, true).await
}

/// Remove a task type
///
/// Tasks that were submitted keep what it gave them.
#[utoipa::path(
    delete, path = "/v1/task-types/{pattern}", operation_id = "deleteTaskType", tag = "task types",
    params(("pattern" = String, Path, description = "Its pattern, percent-encoded"), schema::Preconditions),
    responses((status = 204, description = "Removed"))
)]
async fn delete(ask: Ask) -> Result<StatusCode, Refusal> {
    if !ask.remove(DocKind::TaskType).await? {
        return Err(unknown(&ask.name));
    }
    refresh(&ask.app).await;
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
async fn pause(ask: Ask) -> Result<Response, Refusal> {
    let pause = ask.pause().await?;
    set(&ask, Some(pause)).await
}

/// Resume a task type
#[utoipa::path(
    post, path = "/v1/task-types/{pattern}/resume", operation_id = "resumeTaskType", tag = "task types",
    params(("pattern" = String, Path, description = "Its pattern, percent-encoded"), schema::Preconditions),
    responses((status = 200, description = "The task type", body = schema::TaskType))
)]
async fn resume(ask: Ask) -> Result<Response, Refusal> {
    ask.nothing().await?;
    set(&ask, None).await
}

async fn set(ask: &Ask, pause: Option<Pause>) -> Result<Response, Refusal> {
    change(ask, |stored| task_type::with_pause(stored.ok_or_else(|| unknown(&ask.name).0)?, pause)).await
}

/// Stores what is given, on top of what is stored if `keep`.
async fn store(ask: &Ask, given: &str, keep: bool) -> Result<Response, Refusal> {
    let Ask { app, ns, name: pattern, .. } = ask;
    let known = app.types(*ns).await?.type_count();
    let most = app.options.limits.task_types;
    change(ask, |stored| {
        if keep && stored.is_none() {
            return Err(unknown(pattern).0);
        }
        if stored.is_none() && known >= most {
            return Err(Problem::new(Code::QuotaExceeded, format!("a namespace may have at most {most} task types")));
        }
        let text = task_type::merge(stored.filter(|_| keep), given)?;
        let (_, paused) = stored.map_or_else(|| Ok(<_>::default()), task_type::take_pause)?;
        let text = task_type::with_pause(&text, paused)?;
        TaskType::read(pattern, &text)?.check(&app.rules())?;
        Ok(text)
    })
    .await
}

/// Stores what `edit` makes of a task type, puts it in force here, and shows it.
async fn change(ask: &Ask, edit: impl Fn(Option<&str>) -> Result<String, Problem>) -> Result<Response, Refusal> {
    let put = ask.edit(DocKind::TaskType, |stored: Option<Text>| {
        let text = edit(stored.as_deref().map(RawValue::get))?;
        RawValue::from_string(text).map_err(|error| damaged(&ask.name, &error))
    });
    let put = put.await?;
    refresh(&ask.app).await;
    answer(&ask.app, put.status(), &ask.name, &put.content, put.version)
}

/// Puts the change in force here before it is answered. It is stored: if this fails, the watch of the documents does it.
async fn refresh(app: &App) {
    if let Err(error) = app.types.load(&*app.store).await {
        error.log("read task types");
    }
}

fn answer(app: &App, status: StatusCode, pattern: &str, stored: &RawValue, version: Version) -> Result<Response, Refusal> {
    Ok(shown(status, &show(pattern, stored, version, app.now())?, Some(version)))
}

/// The fields as they were given, between pattern and version, and its pause if that holds.
fn show(pattern: &str, stored: &RawValue, version: Version, now: Millis) -> Result<Text, Problem> {
    let (_, paused) = task_type::take_pause(stored.get())?;
    let text = task_type::with_pause(stored.get(), paused.filter(|pause| pause.holds(now)))?;
    let fields = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default();
    let comma = if fields.is_empty() { "" } else { "," };
    let whole = format!("{{\"pattern\":{},{fields}{comma}\"version\":{version}}}", serde_json::Value::from(pattern));
    RawValue::from_string(whole).map_err(|error| damaged(pattern, &error))
}

fn damaged(pattern: &str, error: &serde_json::Error) -> Problem {
    store_problem(&lovage_store::Error::Corrupt(format!("the task type {pattern}: {error}")))
}
