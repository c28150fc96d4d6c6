//! `GET /v1/tasks/{id}/explain`

use axum::response::Response;
use http::StatusCode;

use crate::ask::Ask;
use crate::problem::Refusal;
use crate::{schema, view};

/// Why a task does not go on
///
/// In plain sentences and for programs: what it waits for and until when, who would get it, how many are before it. Of a
/// final task: how it ended. What is said of workers is what dispatchers show of them.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/explain", operation_id = "explainTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The explanation", body = schema::Explanation))
)]
pub(crate) async fn explain(ask: Ask) -> Result<Response, Refusal> {
    let key = ask.task()?;
    let explanation = ask.app.explain(&key).await?.ok_or_else(|| ask.no_task())?;
    Ok(view::json(StatusCode::OK, &explanation))
}
