//! `DELETE /v1/tasks/{id}`

use axum::extract::State;
use http::{HeaderMap, StatusCode};
use lovage_core::Event;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::change::{Changed, wrong_state};
use crate::documents::Precondition;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::schema;

/// Delete a final task
#[utoipa::path(
    delete, path = "/v1/tasks/{id}", operation_id = "deleteTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::IfMatchHeader),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "It is not final", body = schema::Problem, content_type = "application/problem+json"),
        (status = 412, description = "It has another version", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    query.done()?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    match app.happen_if(&key, Precondition::of(&headers)?, Event::Delete).await?.ok_or_else(|| Refusal::no_task(&id))? {
        Changed::Applied(_) => Ok(StatusCode::NO_CONTENT),
        Changed::Not(state) => Err(wrong_state(state, "deleted")),
    }
}
