//! `GET /v1/dead-letters`, `POST /v1/dead-letters:cancel|retry|replay|delete|patch`
//!
//! Dead letters are failed tasks: nothing is moved or copied, this is a view of the tasks that narrows them to those.

use axum::extract::State;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::tasks::page;
use crate::app::Shared;
use crate::ask::Ask;
use crate::auth::Caller;
use crate::bulk::{self, Kind};
use crate::filter::Filter;
use crate::problem::Refusal;
use crate::query::Query;
use crate::schema;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(cancel))
        .routes(routes!(retry))
        .routes(routes!(replay))
        .routes(routes!(delete))
        .routes(routes!(patch))
}

/// List dead letters
///
/// Tasks that failed and are kept for inspection, with their errors.
#[utoipa::path(
    get, path = "/v1/dead-letters", operation_id = "listDeadLetters", tag = "tasks",
    params(schema::TaskFilters, schema::PageQuery),
    responses((status = 200, description = "A page of records", body = schema::Tasks))
)]
async fn list(State(app): State<Shared>, caller: Caller, mut query: Query) -> Result<Response, Refusal> {
    let mut filter = Filter::take(&mut query)?;
    filter.only_dead();
    page(&app, &caller, &filter, query).await
}

/// Retry dead letters
///
/// Each gets a new generation with a whole retry budget, under its id.
#[utoipa::path(
    post, path = "/v1/dead-letters:retry", operation_id = "retryDeadLetters", tag = "tasks",
    request_body = schema::Bulk,
    responses((status = 200, description = "What was done, and where to go on", body = schema::BulkAnswer))
)]
async fn retry(ask: Ask<()>) -> Result<Response, Refusal> {
    bulk::call(ask, Kind::Retry, true).await
}

/// Delete dead letters
#[utoipa::path(
    post, path = "/v1/dead-letters:delete", operation_id = "deleteDeadLetters", tag = "tasks",
    request_body = schema::Bulk,
    responses((status = 200, description = "What was done, and where to go on", body = schema::BulkAnswer))
)]
async fn delete(ask: Ask<()>) -> Result<Response, Refusal> {
    bulk::call(ask, Kind::Delete, true).await
}

/// Cancel dead letters
///
/// A failed task is final, so each is counted as failed: it is here because dead letters have the verbs of tasks.
#[utoipa::path(
    post, path = "/v1/dead-letters:cancel", operation_id = "cancelDeadLetters", tag = "tasks",
    request_body = schema::BulkCancel,
    responses((status = 200, description = "What was done, and where to go on", body = schema::BulkAnswer))
)]
async fn cancel(ask: Ask<()>) -> Result<Response, Refusal> {
    bulk::call(ask, Kind::Cancel, true).await
}

/// Change dead letters
///
/// Only waiting tasks can be changed, so each is counted as failed: it is here because dead letters have the verbs of tasks.
#[utoipa::path(
    post, path = "/v1/dead-letters:patch", operation_id = "patchDeadLetters", tag = "tasks",
    request_body = schema::BulkPatch,
    responses((status = 200, description = "What was done, and where to go on", body = schema::BulkAnswer))
)]
async fn patch(ask: Ask<()>) -> Result<Response, Refusal> {
    bulk::call(ask, Kind::Patch, true).await
}

/// Submit dead letters again
///
/// Each becomes a new task with the same signature and payload; the dead letter stays. Tasks with a unique or debounce key are counted as failed. A call that ended
/// with 503 may have made some.
#[utoipa::path(
    post, path = "/v1/dead-letters:replay", operation_id = "replayDeadLetters", tag = "tasks",
    request_body = schema::BulkReplay,
    responses((status = 200, description = "What was done, and where to go on", body = schema::BulkAnswer))
)]
async fn replay(ask: Ask<()>) -> Result<Response, Refusal> {
    bulk::call(ask, Kind::Replay, true).await
}
