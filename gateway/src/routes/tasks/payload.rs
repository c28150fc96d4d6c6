//! `GET /v1/tasks/{id}/payload`

use axum::response::Response;
use http::StatusCode;
use lovage_core::Form;
use lovage_core::redact::Redaction;
use lovage_core::view::is_json;
use lovage_store::Parts;

use crate::ask::Ask;
use crate::problem::Refusal;
use crate::view;

/// The payload as received
///
/// Of a call it is `{"args": …, "kwargs": …}`. What the signature hides with `redact` is hidden here, too.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/payload", operation_id = "getTaskPayload", tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The bytes, with the content type of the submit", body = Vec<u8>, content_type = "application/octet-stream"))
)]
pub(crate) async fn payload(ask: Ask) -> Result<Response, Refusal> {
    let key = ask.task()?;
    let found = ask.app.find(&key, Parts { body: true, ..Parts::default() }).await?;
    let (_, stored) = found.ok_or_else(|| ask.no_task())?;
    let (spec, body) = view::taken_apart(&stored)?;
    let (content_type, redaction) = (String::from_utf8_lossy(&body.content_type), Redaction::of(&spec.redact));
    let shown = match spec.form {
        Form::Call => redaction.call(&body.payload),
        Form::Verbatim => redaction.bytes("payload", is_json(&content_type), &body.payload),
    };
    Ok(match shown {
        Some(shown) => view::foreign(StatusCode::OK, view::JSON, shown),
        None => view::foreign(StatusCode::OK, &content_type, body.payload),
    })
}
