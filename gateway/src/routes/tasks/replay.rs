//! `POST /v1/tasks/{id}/replay`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use lovage_core::fields;
use lovage_core::problem::Problem;
use lovage_core::{Draft, Ns};
use lovage_store::Stored;

use super::create;
use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::intake::{Idempotency, short_hash, trace};
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{body, schema, view};

const NO_EDITS: &str = "{}";

/// Submit a task again
///
/// A new task with the signature of this one, whatever its state, with `edits` laid over it: a field that is given takes the
/// place of the stored one, `null` removes it. Delay, expiry and id are not taken over.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/replay", operation_id = "replayTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::WaitQuery, schema::IdempotencyHeader),
    request_body(content = Option<schema::Replay>),
    responses(
        (status = 202, description = "Stored", body = schema::TaskAccepted, headers(("Location" = String, description = "Where the new task is"))),
        (status = 200, description = "Final within `wait`, or the same request was made before", body = schema::Repeated),
    )
)]
pub(crate) async fn replay(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    mut query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let wait = query.wait(app.options.times.wait)?;
    query.done()?;
    let bytes = body::read(body, &headers, "a task", app.options.limits.task_bytes, &app.options.times).await?;
    let edits = edits(&headers, &bytes)?;
    let target = format!("POST /v1/tasks/{id}/replay");
    let idempotency = Idempotency::of(&headers, &target, &bytes)?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    let stored = app.load(&key).await?.ok_or_else(|| Refusal::no_task(&id))?;
    let (mut draft, refused) = app.replayed(caller.ns, &stored, edits).await?;
    if draft.id.is_some() {
        draft.spec.request_hash = Some(short_hash(&[target.as_bytes(), edits.as_bytes()]));
    }
    draft.spec.trace = trace(&headers);
    let draft = app.accept(caller.ns, Ok((draft, refused)), idempotency.as_ref()).await?;
    create::store(&app, caller.ns, draft, idempotency, wait).await
}

impl App {
    /// The task that these edits (a JSON object) make of a stored one, and why it is refused unless it is a repetition.
    pub(crate) async fn replayed(&self, ns: Ns, stored: &Stored, edits: &str) -> Result<(Draft, Option<Problem>), Refusal> {
        let (spec, body) = view::taken_apart(stored)?;
        let types = self.types(ns).await?;
        let draft = types.rules(self.rules()).replay(&spec, stored.head.priority, &body, edits, "/edits")?;
        let refused = types.refusal(&draft, self.now());
        Ok((draft, refused))
    }
}

/// The text of `edits`.
fn edits<'a>(headers: &HeaderMap, bytes: &'a Bytes) -> Result<&'a str, Problem> {
    if bytes.is_empty() {
        return Ok(NO_EDITS);
    }
    body::require_json(headers)?;
    let edits = fields::only(body::utf8(bytes)?, "edits", |raw, _, _| Some(raw.get()))?;
    Ok(edits.unwrap_or(NO_EDITS))
}
