//! `POST /v1/queues/{queue}/pause`, `/resume`, `/drain`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use lovage_core::Pause;

use super::change;
use crate::app::Shared;
use crate::auth::Caller;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{body, schema};

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
pub(super) async fn pause(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    let pause = body::read_pause(&app, &headers, body).await?;
    change(&app, caller.ns, &name, &headers, |config| {
        config.paused = Some(pause);
        Ok(())
    })
    .await
}

/// Resume a queue
///
/// Ends a pause or a drain.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/resume", operation_id = "resumeQueue", tag = "queues",
    params(("queue" = String, Path, description = "Its name"), schema::Preconditions),
    responses((status = 200, description = "The queue", body = schema::Queue))
)]
pub(super) async fn resume(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    body::read_none(&app, &headers, body).await?;
    change(&app, caller.ns, &name, &headers, |config| {
        config.paused = None;
        Ok(())
    })
    .await
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
pub(super) async fn drain(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    body::read_none(&app, &headers, body).await?;
    change(&app, caller.ns, &name, &headers, |config| {
        config.paused = Some(Pause { intake: true, dispatch: false, until: None });
        Ok(())
    })
    .await
}
