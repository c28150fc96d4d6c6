//! `POST /v1/queues/{queue}/pause`, `/resume`, `/drain`

use axum::response::Response;
use lovage_core::Pause;

use super::change;
use crate::ask::Ask;
use crate::problem::Refusal;
use crate::schema;

/// Pause a queue
///
/// Waiting tasks do not start (`dispatch`), new ones are refused with `queue_paused` (`intake`), until `until` or until it is
/// resumed. What runs goes on. The pause takes the place of an earlier one and is in force everywhere within a second.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/pause", operation_id = "pauseQueue", tag = "queues",
    params(("queue" = String, Path, description = "Its name"), schema::Preconditions),
    request_body(content = Option<schema::PauseIn>),
    responses((status = 200, description = "The queue", body = schema::Queue))
)]
pub(super) async fn pause(ask: Ask) -> Result<Response, Refusal> {
    let pause = ask.pause().await?;
    set(&ask, Some(pause)).await
}

/// Resume a queue
///
/// Ends a pause or a drain.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/resume", operation_id = "resumeQueue", tag = "queues",
    params(("queue" = String, Path, description = "Its name"), schema::Preconditions),
    responses((status = 200, description = "The queue", body = schema::Queue))
)]
pub(super) async fn resume(ask: Ask) -> Result<Response, Refusal> {
    ask.nothing().await?;
    set(&ask, None).await
}

/// Drain a queue
///
/// New tasks are refused with `queue_paused`, the rest is delivered, also if it was paused before. It stays so until it is
/// resumed.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/drain", operation_id = "drainQueue", tag = "queues",
    params(("queue" = String, Path, description = "Its name"), schema::Preconditions),
    responses((status = 200, description = "The queue", body = schema::Queue))
)]
pub(super) async fn drain(ask: Ask) -> Result<Response, Refusal> {
    ask.nothing().await?;
    set(&ask, Some(Pause { intake: true, dispatch: false, until: None })).await
}

async fn set(ask: &Ask, pause: Option<Pause>) -> Result<Response, Refusal> {
    change(ask, |config| {
        config.paused = pause;
        Ok(())
    })
    .await
}
