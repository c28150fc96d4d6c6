//! `DELETE /v1/tasks/{id}`

use http::StatusCode;
use lovage_core::Event;

use crate::ask::Ask;
use crate::problem::Refusal;
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
pub(crate) async fn delete(ask: Ask) -> Result<StatusCode, Refusal> {
    ask.happen(Event::Delete, "deleted").await?;
    Ok(StatusCode::NO_CONTENT)
}
