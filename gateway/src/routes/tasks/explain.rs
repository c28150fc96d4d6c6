//! `GET /v1/tasks/{id}/explain`

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{schema, view};

/// Why a task does not go on
///
/// In plain sentences and for programs: what it waits for and until when, who would get it, how many are before it. Of a
/// final task: how it ended. What is said of workers is what this server sees of them.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/explain", operation_id = "explainTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The explanation", body = schema::Explanation))
)]
pub(crate) async fn explain(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
) -> Result<Response, Refusal> {
    query.done()?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    let explanation = app.explain(&key).await?.ok_or_else(|| Refusal::no_task(&id))?;
    Ok(view::json(StatusCode::OK, &explanation))
}
