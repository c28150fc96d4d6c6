//! `POST /v1/tasks:cancel|retry|replay|delete|patch`

use axum::response::Response;

use crate::ask::Ask;
use crate::bulk::{self, Kind};
use crate::problem::Refusal;
use crate::schema;

/// Cancel many tasks
///
/// Those that pass a filter or have one of these ids. Without a state in the filter: those that are not final. One call
/// changes a bounded number; call again with `next_cursor` as `cursor` until it is null.
#[utoipa::path(
    post, path = "/v1/tasks:cancel", operation_id = "cancelTasks", tag = "tasks",
    request_body = schema::BulkCancel,
    responses((status = 200, description = "What was done, and where to go on", body = schema::BulkAnswer))
)]
pub(crate) async fn cancel(ask: Ask<()>) -> Result<Response, Refusal> {
    bulk::call(ask, Kind::Cancel, false).await
}

/// Retry many tasks
///
/// As a retry of each. Without a state in the filter: those that failed or wait for their next attempt.
#[utoipa::path(
    post, path = "/v1/tasks:retry", operation_id = "retryTasks", tag = "tasks",
    request_body = schema::Bulk,
    responses((status = 200, description = "What was done, and where to go on", body = schema::BulkAnswer))
)]
pub(crate) async fn retry(ask: Ask<()>) -> Result<Response, Refusal> {
    bulk::call(ask, Kind::Retry, false).await
}

/// Delete many tasks
///
/// Without a state in the filter: those that are final.
#[utoipa::path(
    post, path = "/v1/tasks:delete", operation_id = "deleteTasks", tag = "tasks",
    request_body = schema::Bulk,
    responses((status = 200, description = "What was done, and where to go on", body = schema::BulkAnswer))
)]
pub(crate) async fn delete(ask: Ask<()>) -> Result<Response, Refusal> {
    bulk::call(ask, Kind::Delete, false).await
}

/// Change many tasks
///
/// Without a state in the filter: those that wait.
#[utoipa::path(
    post, path = "/v1/tasks:patch", operation_id = "patchTasks", tag = "tasks",
    request_body = schema::BulkPatch,
    responses((status = 200, description = "What was done, and where to go on", body = schema::BulkAnswer))
)]
pub(crate) async fn patch(ask: Ask<()>) -> Result<Response, Refusal> {
    bulk::call(ask, Kind::Patch, false).await
}

/// Submit many tasks again
///
/// Each becomes a new task with the same signature and payload; the old one stays. Without a state in the filter: those
/// that are final. Tasks with a unique or debounce key are counted as failed. A call that ended
/// with 503 may have made some.
#[utoipa::path(
    post, path = "/v1/tasks:replay", operation_id = "replayTasks", tag = "tasks",
    request_body = schema::BulkReplay,
    responses((status = 200, description = "What was done, and where to go on", body = schema::BulkAnswer))
)]
pub(crate) async fn replay(ask: Ask<()>) -> Result<Response, Refusal> {
    bulk::call(ask, Kind::Replay, false).await
}
