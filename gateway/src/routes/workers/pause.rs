//! `POST /v1/workers/{name}/pause`, `…/resume`, `…/drain`: nothing new is sent to a worker, and what is open goes on.

use axum::response::Response;
use lovage_core::queue::read_until;
use lovage_core::worker::{WorkerConfig, WorkerPause};
use lovage_store::DocKind;

use super::show::{self, Secret};
use super::unknown;
use crate::ask::Ask;
use crate::problem::Refusal;
use crate::schema;

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
pub(crate) async fn pause(ask: Ask) -> Result<Response, Refusal> {
    let until = read_until(&ask.json_if_any().await?, ask.app.now())?;
    set(&ask, Some(WorkerPause { until, drain: false })).await
}

/// Empty a worker
///
/// As a pause without an end; it is shown as `draining` while something is open, and as `drained` afterwards.
#[utoipa::path(
    post, path = "/v1/workers/{name}/drain", operation_id = "drainWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name"), schema::Preconditions),
    responses((status = 200, description = "The worker", body = schema::Worker))
)]
pub(crate) async fn drain(ask: Ask) -> Result<Response, Refusal> {
    ask.nothing().await?;
    set(&ask, Some(WorkerPause { until: None, drain: true })).await
}

/// Let a worker go on
///
/// Ends a pause or a drain. What the worker asked for itself, and its breaker, hold all the same.
#[utoipa::path(
    post, path = "/v1/workers/{name}/resume", operation_id = "resumeWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name"), schema::Preconditions),
    responses((status = 200, description = "The worker", body = schema::Worker))
)]
pub(crate) async fn resume(ask: Ask) -> Result<Response, Refusal> {
    ask.nothing().await?;
    set(&ask, None).await
}

async fn set(ask: &Ask, pause: Option<WorkerPause>) -> Result<Response, Refusal> {
    let put = ask.edit(DocKind::Worker, |stored: Option<WorkerConfig>| {
        let config = stored.ok_or_else(|| unknown(&ask.name).0)?;
        Ok(WorkerConfig { paused: pause, ..config })
    });
    Ok(show::answer(ask, &put.await?, &Secret::Hidden).await)
}
