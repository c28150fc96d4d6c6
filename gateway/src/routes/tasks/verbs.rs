//! `POST /v1/tasks/{id}/run|retry|hold|release`

use axum::response::Response;
use lovage_core::{Event, TaskKey};

use crate::ask::Ask;
use crate::change::{Changed, wrong_state};
use crate::problem::Refusal;
use crate::{schema, view};

/// Start a task now
///
/// One that is scheduled, waits for its next attempt or for its limits starts as soon as a worker has room. A pause or a hold stays.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/run", operation_id = "runTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::IfMatchHeader),
    responses(
        (status = 200, description = "The record", body = schema::Task),
        (status = 409, description = "It is blocked, running or final", body = schema::Problem, content_type = "application/problem+json"),
        (status = 412, description = "It has another version", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn run(ask: Ask) -> Result<Response, Refusal> {
    carry_out(ask, Event::RunNow, "started now").await
}

/// Try a task again
///
/// Under the same id, from the start: a new generation with the whole retry budget. For one that has failed or waits for its
/// next attempt.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/retry", operation_id = "retryTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::IfMatchHeader),
    responses(
        (status = 200, description = "The record", body = schema::Task),
        (status = 409, description = "It has not failed", body = schema::Problem, content_type = "application/problem+json"),
        (status = 412, description = "It has another version", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn retry(ask: Ask) -> Result<Response, Refusal> {
    carry_out(ask, Event::Retry, "retried").await
}

/// Keep a task from starting
///
/// Until it is released. An attempt that runs goes on; the next one waits.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/hold", operation_id = "holdTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::IfMatchHeader),
    responses(
        (status = 200, description = "The record", body = schema::Task),
        (status = 409, description = "It is final", body = schema::Problem, content_type = "application/problem+json"),
        (status = 412, description = "It has another version", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn hold(ask: Ask) -> Result<Response, Refusal> {
    carry_out(ask, Event::Hold, "held").await
}

/// Let a held task start again
#[utoipa::path(
    post, path = "/v1/tasks/{id}/release", operation_id = "releaseTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::IfMatchHeader),
    responses(
        (status = 200, description = "The record", body = schema::Task),
        (status = 409, description = "It is final", body = schema::Problem, content_type = "application/problem+json"),
        (status = 412, description = "It has another version", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn release(ask: Ask) -> Result<Response, Refusal> {
    carry_out(ask, Event::Release, "released").await
}

/// The record after `event`; what is so already stays so. `what` completes "cannot be".
async fn carry_out(ask: Ask, event: Event, what: &str) -> Result<Response, Refusal> {
    ask.nothing().await?;
    let key = ask.happen(event, what).await?;
    let stored = ask.app.load(&key).await?.ok_or_else(|| ask.no_task())?;
    view::record(&ask.app, &key, &stored)
}

impl Ask {
    /// Lets `event` happen to the task; `what` completes "cannot be".
    pub(super) async fn happen(&self, event: Event, what: &str) -> Result<TaskKey, Refusal> {
        let key = self.task()?;
        match self.app.happen_if(&key, self.wanted()?, event).await?.ok_or_else(|| self.no_task())? {
            Changed::Applied(_) => Ok(key),
            Changed::Not(state) => Err(wrong_state(state, what)),
        }
    }
}
