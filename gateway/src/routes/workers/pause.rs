//! `POST /v1/workers/{name}/pause`, `…/resume`, `…/drain`: nothing new is sent to a worker, and what is open goes on.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use lovage_core::fields::{self, Errors};
use lovage_core::problem::{Code, Problem};
use lovage_core::worker::{WorkerConfig, WorkerPause};
use lovage_core::{Millis, Ns};
use lovage_store::DocKind;

use super::show::{self, Secret};
use super::unknown;
use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::documents::{Precondition, bytes_of, content};
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{body, schema};

/// Send nothing new to a worker
///
/// What is open goes on; a worker that pulls gets nothing new. It holds until `until`, or until `resume`, also over restarts and
/// replacements of the worker.
#[utoipa::path(
    post, path = "/v1/workers/{name}/pause", operation_id = "pauseWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name"), schema::Preconditions),
    request_body(content = Option<schema::WorkerPauseIn>),
    responses((status = 200, description = "The worker", body = schema::Worker))
)]
pub(crate) async fn pause(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    let bytes = body::read(body, &headers, "this body", app.options.limits.document_bytes, &app.options.times).await?;
    if !bytes.is_empty() {
        body::require_json(&headers)?;
    }
    let until = until(&bytes, app.now())?;
    set(&app, caller.ns, &name, &headers, Some(WorkerPause { until, drain: false })).await
}

/// Empty a worker
///
/// As a pause without an end; it is shown as `draining` while something is open, and as `drained` afterwards.
#[utoipa::path(
    post, path = "/v1/workers/{name}/drain", operation_id = "drainWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name"), schema::Preconditions),
    responses((status = 200, description = "The worker", body = schema::Worker))
)]
pub(crate) async fn drain(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    body::read_none(&app, &headers, body).await?;
    set(&app, caller.ns, &name, &headers, Some(WorkerPause { until: None, drain: true })).await
}

/// Let a worker go on
///
/// Ends a pause or a drain. What the worker asked for itself, and its breaker, hold all the same.
#[utoipa::path(
    post, path = "/v1/workers/{name}/resume", operation_id = "resumeWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name"), schema::Preconditions),
    responses((status = 200, description = "The worker", body = schema::Worker))
)]
pub(crate) async fn resume(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    body::read_none(&app, &headers, body).await?;
    set(&app, caller.ns, &name, &headers, None).await
}

async fn set(app: &App, ns: Ns, name: &str, headers: &HeaderMap, pause: Option<WorkerPause>) -> Result<Response, Refusal> {
    let mut config = WorkerConfig::default();
    let edited = app.edit_doc(DocKind::Worker, ns, name, Precondition::of(headers)?, |stored| {
        config = content(stored.ok_or_else(|| -> Problem { unknown(name).0 })?)?;
        config.paused = pause;
        bytes_of(&config)
    });
    let version = edited.await?.version;
    Ok(show::answer(app, ns, StatusCode::OK, (name, &config), version, &Secret::Hidden).await)
}

fn until(bytes: &Bytes, now: Millis) -> Result<Option<Millis>, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::new(Code::Malformed, "the body is not UTF-8"))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let (mut until, mut errors) = (None, Errors::default());
    for (name, raw) in fields::document(text)? {
        match &*name {
            "until" if fields::is_null(raw) => {}
            "until" => match fields::string(raw, "/until", &mut errors).map(|text| Millis::parse_rfc3339(&text)) {
                Some(Ok(time)) if time <= now => errors.invalid("/until", "is over already"),
                Some(Ok(time)) => until = Some(time),
                Some(Err(why)) => errors.invalid("/until", why),
                None => {}
            },
            other => errors.unknown("", other, &["until"]),
        }
    }
    errors.problem().map_or(Ok(until), Err)
}
