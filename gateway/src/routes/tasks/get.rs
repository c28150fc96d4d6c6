//! `GET /v1/tasks/{id}`

use axum::extract::State;
use axum::response::Response;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{schema, view};

/// Show a task
#[utoipa::path(
    get, path = "/v1/tasks/{id}", operation_id = "getTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::WaitQuery),
    responses((status = 200, description = "The record", body = schema::Task, headers(("ETag" = String, description = "Its version"))))
)]
pub(crate) async fn get(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    mut query: Query,
) -> Result<Response, Refusal> {
    let wait = query.wait(app.options.times.wait)?;
    query.done()?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    let stored = app.load_final(&key, wait).await?.ok_or_else(|| Refusal::no_task(&id))?;
    view::whole_record(&app, &key, &stored).await
}
