//! `GET /v1/limits`, `GET|PUT|PATCH|DELETE /v1/limits/{key}`, `POST /v1/limits/{key}/pause|resume`

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lovage_core::fields::Errors;
use lovage_core::limit::{is_built_in, refuse_built_in};
use lovage_core::problem::{Code, Problem};
use lovage_core::queue::read_until;
use lovage_core::worker::{WorkerConfig, closeness};
use lovage_core::{Ns, StoredLimit, Version, names};
use lovage_store::{DocKind, all_docs};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{App, Shared};
use crate::ask::Ask;
use crate::auth::Caller;
use crate::documents::{content, shown};
use crate::limits::{Counters, FOR_EVER, LimitView};
use crate::problem::Refusal;
use crate::query::Query;
use crate::{schema, view};

pub(super) fn router() -> OpenApiRouter<Shared> {
    let named = OpenApiRouter::new().routes(routes!(put, get, patch, delete));
    OpenApiRouter::new().routes(routes!(list)).merge(named).routes(routes!(pause)).routes(routes!(resume))
}

/// `limit_unknown`
fn unknown(key: &str) -> Refusal {
    Refusal::unknown(Code::LimitUnknown, "limit", key)
}

/// List limits
///
/// Those that are stored. Keys that only tasks name have no entry here and are shown by themselves.
#[utoipa::path(
    get, path = "/v1/limits", operation_id = "listLimits", tag = "limits",
    params(schema::PageQuery),
    responses((status = 200, description = "A page of limits", body = schema::Limits))
)]
async fn list(State(app): State<Shared>, caller: Caller, query: Query) -> Result<Response, Refusal> {
    let (limit, from) = query.page()?;
    let (documents, next) = app.page_docs(DocKind::Limit, caller.ns, "", from, limit).await?;
    let mut stored = Vec::with_capacity(documents.len());
    for document in documents {
        stored.push((content::<StoredLimit>(&document)?, document.version, document.name));
    }
    let seen = app.look_at(caller.ns, stored.iter().map(|(limit, _, key)| (&**key, limit.rule))).await?;
    let items: Vec<LimitView<'_>> = stored
        .iter()
        .zip(seen)
        .map(|((limit, version, key), seen)| LimitView::of(key, limit, Some(*version), seen, app.now()))
        .collect();
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": next })))
}

/// Show a limit
///
/// What is stored, what is in force, and how much of it is used now. Any key that tasks name has an answer, and so have
/// `queue:NAME`, `task:NAME` and `worker:NAME`, whose limits are written on their own resources.
#[utoipa::path(
    get, path = "/v1/limits/{key}", operation_id = "getLimit", tag = "limits",
    params(("key" = String, Path, description = "The key, percent-encoded")),
    responses((status = 200, description = "The limit", body = schema::Limit))
)]
async fn get(Ask { app, ns, name: key, .. }: Ask) -> Result<Response, Refusal> {
    let (stored, version) = match app.stored_limit(ns, &key).await? {
        Some((stored, version)) => (stored, version),
        None if is_built_in(&key) && !is_there(&app, ns, &key).await? => return Err(unknown(&key)),
        // Whoever uses a key makes it known, also without a document.
        None => (StoredLimit::default(), None),
    };
    let counters = app.counters(ns, &key, stored.rule).await?;
    if version.is_none() && !is_built_in(&key) && counters.is_unused() {
        return Err(unknown(&key));
    }
    Ok(answer(&app, StatusCode::OK, &key, &stored, version, counters))
}

/// Whether it is the key of a queue with tasks, or of a task name that a worker serves in whatever queue.
async fn is_there(app: &App, ns: Ns, key: &str) -> Result<bool, Refusal> {
    if let Some(queue) = key.strip_prefix("queue:") {
        return Ok(app.lengths.in_use(&*app.store, ns).await?.contains(queue));
    }
    let Some(task) = key.strip_prefix("task:") else { return Ok(false) };
    for document in all_docs(&*app.store, DocKind::Worker, Some(ns)).await? {
        if content::<WorkerConfig>(&document)?.tasks.iter().any(|pattern| closeness(pattern, task).is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Set a limit
///
/// The fields that it sets hold for all tasks of the key, whatever they say; for the others the values of the newest
/// task hold that a dispatcher has tried to start. It is in force on every node within a second.
#[utoipa::path(
    put, path = "/v1/limits/{key}", operation_id = "putLimit", tag = "limits",
    params(("key" = String, Path, description = "The key, percent-encoded"), schema::Preconditions),
    request_body = schema::LimitIn,
    responses(
        (status = 201, description = "Made", body = schema::Limit),
        (status = 200, description = "Replaced", body = schema::Limit),
        (status = 412, description = "The stored one is another", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
async fn put(ask: Ask) -> Result<Response, Refusal> {
    let text = ask.json("a document").await?;
    store(&ask, Missing::Make, |_| StoredLimit::default().edited(&text, ask.app.now())).await
}

/// Change a limit
///
/// Fields that are not given stay; `null` takes one away.
#[utoipa::path(
    patch, path = "/v1/limits/{key}", operation_id = "patchLimit", tag = "limits",
    params(("key" = String, Path, description = "The key, percent-encoded"), schema::Preconditions),
    request_body = schema::LimitIn,
    responses(
        (status = 200, description = "Changed", body = schema::Limit),
        (status = 412, description = "The stored one is another", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
async fn patch(ask: Ask) -> Result<Response, Refusal> {
    let text = ask.json("a document").await?;
    store(&ask, Missing::Refuse, |stored| stored.edited(&text, ask.app.now())).await
}

/// Remove a limit
///
/// What tasks say of the key holds again, also for those that run.
#[utoipa::path(
    delete, path = "/v1/limits/{key}", operation_id = "deleteLimit", tag = "limits",
    params(("key" = String, Path, description = "The key, percent-encoded"), schema::Preconditions),
    responses((status = 204, description = "Removed"))
)]
async fn delete(ask: Ask) -> Result<StatusCode, Refusal> {
    check_key(&ask.name)?;
    if ask.remove(DocKind::Limit).await? { Ok(StatusCode::NO_CONTENT) } else { Err(unknown(&ask.name)) }
}

/// Pause a limit
///
/// No task with the key starts until then, or until it is resumed; what runs goes on.
#[utoipa::path(
    post, path = "/v1/limits/{key}/pause", operation_id = "pauseLimit", tag = "limits",
    params(("key" = String, Path, description = "The key, percent-encoded")),
    request_body = schema::LimitPause,
    responses((status = 200, description = "The limit", body = schema::Limit))
)]
async fn pause(ask: Ask) -> Result<Response, Refusal> {
    let until = read_until(&ask.json_if_any().await?, ask.app.now())?.unwrap_or(FOR_EVER);
    let paused = |stored| Ok(StoredLimit { paused_until: Some(until), ..stored });
    let mut response = store(&ask, Missing::Make, paused).await?;
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

/// Resume a limit
#[utoipa::path(
    post, path = "/v1/limits/{key}/resume", operation_id = "resumeLimit", tag = "limits",
    params(("key" = String, Path, description = "The key, percent-encoded")),
    responses((status = 200, description = "The limit", body = schema::Limit))
)]
async fn resume(ask: Ask) -> Result<Response, Refusal> {
    ask.nothing().await?;
    store(&ask, Missing::Refuse, |stored| Ok(StoredLimit { paused_until: None, ..stored })).await
}

/// What becomes of a change if nothing is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Refuse,
}

/// Stores what `edit` makes of the stored limit.
async fn store(
    ask: &Ask,
    missing: Missing,
    edit: impl Fn(StoredLimit) -> Result<StoredLimit, Problem>,
) -> Result<Response, Refusal> {
    let Ask { app, ns, name: key, .. } = ask;
    check_key(key)?;
    let most = app.options.limits.stored_limits;
    let is_full = missing == Missing::Make && all_docs(&*app.store, DocKind::Limit, Some(*ns)).await?.len() >= most;
    let put = ask.edit(DocKind::Limit, |stored| match stored {
        None if missing == Missing::Refuse => Err(unknown(key).0),
        None if is_full => Err(Problem::new(Code::QuotaExceeded, format!("a namespace may have at most {most} stored limits"))),
        stored => edit(stored.unwrap_or_default()),
    });
    let put = put.await?;
    let counters = app.counters(*ns, key, put.content.rule).await?;
    Ok(answer(app, put.status(), key, &put.content, Some(put.version), counters))
}

fn check_key(key: &str) -> Result<(), Problem> {
    let mut errors = Errors::default();
    if !names::is_key(key) {
        errors.invalid("/key", names::KEY_RULE);
    }
    refuse_built_in(key, "/key", &mut errors);
    errors.problem().map_or(Ok(()), Err)
}

fn answer(
    app: &App,
    status: StatusCode,
    key: &str,
    stored: &StoredLimit,
    version: Option<Version>,
    counters: Counters,
) -> Response {
    shown(status, &LimitView::of(key, stored, version, counters, app.now()), version)
}
