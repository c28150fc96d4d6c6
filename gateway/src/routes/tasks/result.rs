//! `GET|DELETE /v1/tasks/{id}/result`

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use lovage_core::problem::{Code, Problem};
use lovage_core::redact::Redaction;
use lovage_core::view::is_json;
use lovage_core::{Event, Flags, ResultValue, State as TaskState, TaskError};
use lovage_store::Stored;

use crate::app::{App, Shared};
use crate::ask::Ask;
use crate::auth::Caller;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{schema, view};

/// The result
#[utoipa::path(
    get, path = "/v1/tasks/{id}/result", operation_id = "getTaskResult", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::WaitQuery),
    responses(
        (status = 200, description = "The bytes, with the worker's content type", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 202, description = "Not final yet", body = schema::TaskAccepted),
        (status = 204, description = "The result is null, or was not to be kept"),
        (status = 410, description = "Its time is over", body = schema::Problem, content_type = "application/problem+json"),
        (status = 424, description = "Failed, canceled or expired", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn result(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    mut query: Query,
) -> Result<Response, Refusal> {
    let wait = query.wait(app.options.times.wait)?;
    query.done()?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    let stored = app.load_final(&key, wait).await?.ok_or_else(|| Refusal::no_task(&id))?;
    let head = &stored.head;
    let value = stored.result.as_ref().and_then(ResultValue::decode);
    let code = match head.state {
        TaskState::Succeeded => return succeeded(&app, &stored, value),
        TaskState::Failed => Code::TaskFailed,
        TaskState::Canceled => Code::TaskCanceled,
        TaskState::Expired => Code::TaskExpired,
        TaskState::Blocked | TaskState::Scheduled | TaskState::Queued | TaskState::Running | TaskState::Retrying => {
            let mut response = view::accepted(&key, head);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return Ok(response);
        }
    };
    let (spec, _) = view::taken_apart(&stored)?;
    Err(Problem::new(code, why(head.state, value, &Redaction::of(&spec.redact))).in_state(head.state.as_str()).into())
}

/// Forget the result
///
/// The record stays; an error is a part of it and stays as well.
#[utoipa::path(
    delete, path = "/v1/tasks/{id}/result", operation_id = "deleteTaskResult", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::IfMatchHeader),
    responses(
        (status = 204, description = "Forgotten, or there was none"),
        (status = 409, description = "It is not final", body = schema::Problem, content_type = "application/problem+json"),
        (status = 412, description = "It has another version", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn forget(ask: Ask) -> Result<StatusCode, Refusal> {
    ask.happen(Event::Forget, "made to forget its result").await?;
    Ok(StatusCode::NO_CONTENT)
}

fn succeeded(app: &App, stored: &Stored, value: Option<ResultValue>) -> Result<Response, Refusal> {
    let (spec, _) = view::taken_apart(stored)?;
    if stored.head.flags.has(Flags::RESULT_GONE) || view::result_is_over(app, &stored.head, &spec) {
        return Err(Refusal::new(Code::ResultExpired, "the result was kept until `result_ttl` had passed"));
    }
    match value {
        Some(ResultValue::Value { content_type, bytes }) if !(is_json(&content_type) && is_null(&bytes)) => {
            let shown = Redaction::of(&spec.redact).bytes("result", is_json(&content_type), &bytes);
            let (content_type, bytes) = shown.map_or((&*content_type, bytes), |shown| (view::JSON, shown));
            Ok(view::foreign(StatusCode::OK, content_type, bytes))
        }
        _ => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

fn is_null(bytes: &Bytes) -> bool {
    bytes.trim_ascii() == b"null"
}

fn why(state: TaskState, value: Option<ResultValue>, redaction: &Redaction) -> String {
    let error = value.and_then(|value| match value {
        ResultValue::Error(bytes) => serde_json::from_slice::<TaskError>(&bytes).ok(),
        ResultValue::Value { .. } | ResultValue::Progress(_) => None,
    });
    match error.map(|error| redaction.error(error)) {
        Some(error) => format!("the task has {state}: {}: {}", error.kind, error.message),
        None => format!("the task is {state}"),
    }
}
