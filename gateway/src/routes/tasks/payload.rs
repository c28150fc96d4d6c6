//! `GET /v1/tasks/{id}/payload`

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::view;

/// The payload as received
///
/// Of a call it is `{"args": …, "kwargs": …}`.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/payload", operation_id = "getTaskPayload", tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The bytes, with the content type of the submit", body = Vec<u8>, content_type = "application/octet-stream"))
)]
pub(crate) async fn payload(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
) -> Result<Response, Refusal> {
    query.done()?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    let body = app.store.bodies(app.partition(&key), std::slice::from_ref(&key)).await?.pop().flatten();
    let body = body.ok_or_else(|| Refusal::no_task(&id))?;
    let Some((_, body)) = view::read_body(Some(&body)) else { return Err(view::damaged("a task's body")) };
    Ok(view::foreign(StatusCode::OK, &String::from_utf8_lossy(&body.content_type), body.payload))
}
