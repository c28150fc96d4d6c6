//! `POST /v1/tasks/{id}/cancel`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use lovage_core::problem::{Code, Problem};
use lovage_core::worker::DEFAULT_CANCEL_GRACE;
use lovage_core::{Event, Reason, State as TaskState};

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::change::{Changed, wrong_state};
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{body, schema, view};
use lovage_core::fields::{self, Errors};

const FIELDS: [&str; 2] = ["mode", "cascade"];

/// Call a task off
///
/// A waiting task never starts. A running one is asked to stop; in mode `hard` its connection is closed at once.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/cancel", operation_id = "cancelTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    request_body(content = Option<schema::Cancel>),
    responses(
        (status = 200, description = "Canceled", body = schema::Task),
        (status = 202, description = "Running; it is being canceled", body = schema::Task),
        (status = 409, description = "It is final", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    let bytes = body::read(body, &headers, "this body", app.options.limits.document_bytes, &app.options.times).await?;
    let hard = is_hard(&headers, &bytes)?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    let changed = app
        .happen(&key, Event::Cancel { hard, reason: Reason::Requested, grace: DEFAULT_CANCEL_GRACE })
        .await?
        .ok_or_else(|| Refusal::no_task(&id))?;
    let status = match changed {
        Changed::Applied(head) if head.as_ref().is_some_and(|head| head.state.is_final()) => StatusCode::OK,
        // Running: asked now, or before.
        Changed::Applied(_) | Changed::Not(TaskState::Running) => StatusCode::ACCEPTED,
        Changed::Not(state) => return Err(wrong_state(state, "canceled")),
    };
    let stored = app.load(&key).await?.ok_or_else(|| Refusal::no_task(&id))?;
    let mut response = view::record(&app, &key, &stored)?;
    *response.status_mut() = status;
    Ok(response)
}

fn is_hard(headers: &HeaderMap, bytes: &Bytes) -> Result<bool, Problem> {
    if bytes.is_empty() {
        return Ok(false);
    }
    body::require_json(headers)?;
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::new(Code::Malformed, "the body is not UTF-8"))?;
    let mut errors = Errors::default();
    let mut hard = false;
    for (name, raw) in fields::document(text)? {
        match &*name {
            "mode" => match fields::string(raw, "/mode", &mut errors).as_deref() {
                Some("hard") => hard = true,
                Some("soft") | None => {}
                Some(_) => errors.invalid("/mode", "must be \"soft\" or \"hard\""),
            },
            // Tasks of this version have no children but callbacks, which are told, not canceled.
            "cascade" => drop(fields::boolean(raw, "/cascade", &mut errors)),
            other => errors.unknown("", other, &FIELDS),
        }
    }
    errors.problem().map_or(Ok(hard), Err)
}
