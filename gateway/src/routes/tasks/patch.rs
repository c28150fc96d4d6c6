//! `PATCH /v1/tasks/{id}`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use lovage_core::Event;
use lovage_core::problem::{Code, Problem};

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::change::{Changed, wrong_state};
use crate::documents::Precondition;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{body, schema, view};

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
pub(crate) async fn patch(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    let precondition = Precondition::of(&headers)?;
    let bytes = body::read(body, &headers, "this body", app.options.limits.document_bytes, &app.options.times).await?;
    body::require_json(&headers)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Problem::new(Code::Malformed, "the body is not UTF-8"))?;
    let changes = app.rules().patch(text)?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    // Looked at before a queue is made for it.
    let stored = app.load(&key).await?.ok_or_else(|| Refusal::no_task(&id))?;
    precondition.check_version(Some(stored.head.version))?;
    if !stored.head.state.is_waiting() {
        return Err(wrong_state(stored.head.state, "changed"));
    }
    let (spec, _) = view::taken_apart(&stored)?;
    let changes = app.changes_of(caller.ns, &changes, &spec, true).await?;
    let changed = app.change(&key, |head, body| {
        precondition.check_version(Some(head.version))?;
        Ok(Event::Patch {
            changes: Box::new(changes.clone()),
            content_type: body.content_type.clone(),
            payload: body.payload.clone(),
        })
    });
    match changed.await?.ok_or_else(|| Refusal::no_task(&id))? {
        Changed::Applied(_) => {}
        Changed::Not(state) => return Err(wrong_state(state, "changed")),
    }
    let stored = app.load(&key).await?.ok_or_else(|| Refusal::no_task(&id))?;
    view::record(&app, &key, &stored)
}
