//! `PATCH /v1/tasks/{id}`

use axum::response::Response;
use lovage_core::Event;

use crate::ask::Ask;
use crate::change::{Changed, wrong_state};
use crate::problem::Refusal;
use crate::{schema, view};

/// Change a waiting task
///
/// What is not given stays; `null` gives a field its default again, that of the task's type if it has one. Labels and retry policy are replaced as a whole.
#[utoipa::path(
    patch, path = "/v1/tasks/{id}", operation_id = "patchTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::IfMatchHeader),
    request_body = schema::TaskPatch,
    responses(
        (status = 200, description = "The record", body = schema::Task, headers(("ETag" = String, description = "Its version"))),
        (status = 409, description = "It is running or final", body = schema::Problem, content_type = "application/problem+json"),
        (status = 412, description = "It has another version", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn patch(ask: Ask) -> Result<Response, Refusal> {
    let (precondition, text) = (ask.wanted()?, ask.json("this body").await?);
    let app = &ask.app;
    let changes = app.rules().patch(&text)?;
    let key = ask.task()?;
    // Looked at before a queue is made for it.
    let stored = app.load(&key).await?.ok_or_else(|| ask.no_task())?;
    precondition.check_version(Some(stored.head.version))?;
    if !stored.head.state.is_waiting() {
        return Err(wrong_state(stored.head.state, "changed"));
    }
    let (spec, _) = view::taken_apart(&stored)?;
    let changes = app.changes_of(ask.ns, &changes, &spec, true).await?;
    let changed = app.change(&key, |head, body| {
        precondition.check_version(Some(head.version))?;
        Ok(Event::Patch {
            changes: Box::new(changes.clone()),
            content_type: body.content_type.clone(),
            payload: body.payload.clone(),
        })
    });
    match changed.await?.ok_or_else(|| ask.no_task())? {
        Changed::Applied(_) => {}
        Changed::Not(state) => return Err(wrong_state(state, "changed")),
    }
    let stored = app.load(&key).await?.ok_or_else(|| ask.no_task())?;
    view::record(app, &key, &stored)
}
