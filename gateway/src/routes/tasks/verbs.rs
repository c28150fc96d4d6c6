//! `POST /v1/tasks/{id}/run|retry|hold|release`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use lovage_core::Event;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::change::{Changed, wrong_state};
use crate::documents::Precondition;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{body, schema, view};

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
pub(crate) async fn run(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let ask = Ask { app, caller, id, query, headers, body };
    ask.carry_out(Event::RunNow, "started now").await
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
pub(crate) async fn retry(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let ask = Ask { app, caller, id, query, headers, body };
    ask.carry_out(Event::Retry, "retried").await
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
pub(crate) async fn hold(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let ask = Ask { app, caller, id, query, headers, body };
    ask.carry_out(Event::Hold, "held").await
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
pub(crate) async fn release(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let ask = Ask { app, caller, id, query, headers, body };
    ask.carry_out(Event::Release, "released").await
}

/// A request for a verb that takes nothing else.
struct Ask {
    app: Shared,
    caller: Caller,
    id: String,
    query: Query,
    headers: HeaderMap,
    body: Body,
}

impl Ask {
    /// The record after `event`; what is so already stays so. `what` completes "cannot be".
    async fn carry_out(self, event: Event, what: &str) -> Result<Response, Refusal> {
        let Self { app, caller, id, query, headers, body } = self;
        query.done()?;
        let precondition = Precondition::of(&headers)?;
        body::read_none(&app, &headers, body).await?;
        let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
        match app.happen_if(&key, precondition, event).await?.ok_or_else(|| Refusal::no_task(&id))? {
            Changed::Applied(_) => {}
            Changed::Not(state) => return Err(wrong_state(state, what)),
        }
        let stored = app.load(&key).await?.ok_or_else(|| Refusal::no_task(&id))?;
        view::record(&app, &key, &stored)
    }
}
