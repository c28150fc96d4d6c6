//! `GET /v1/tasks/{id}/attempts`

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lovage_core::attempt::EXCERPT_BYTES;
use lovage_core::redact::{HIDDEN, Redaction};
use lovage_core::{AttemptEntry, Flags, Head, ResultValue, State as TaskState, TaskError, TaskId, TaskKey};
use lovage_store::{Parts, Stored};
use serde::Serialize;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{cursor, schema, view};

#[derive(Serialize)]
struct AttemptView {
    attempt: u32,
    generation: u8,
    outcome: String,
    started_at: String,
    ended_at: Option<String>,
    duration_ms: Option<u64>,
    worker: Option<String>,
    instance: Option<String>,
    status: Option<u16>,
    error: Option<TaskError>,
    /// The first bytes of the answer.
    excerpt: Option<String>,
    /// Lines that the worker logged.
    logs: Vec<String>,
    /// Tasks that the worker spawned.
    children: Vec<TaskId>,
}

#[derive(Serialize)]
struct Attempts {
    items: Vec<AttemptView>,
    next_cursor: Option<String>,
}

/// Every attempt
#[utoipa::path(
    get, path = "/v1/tasks/{id}/attempts", operation_id = "listTaskAttempts", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::PageQuery),
    responses((status = 200, description = "A page of the attempts, oldest first, the open one last", body = schema::Attempts))
)]
pub(crate) async fn attempts(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
) -> Result<Response, Refusal> {
    let (limit, from) = query.page()?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    // A cursor names the last attempt that was shown, of this task.
    let list = format!("attempts {}", key.id);
    let after = match from {
        Some(text) => u32::from_be_bytes(cursor::decode(&list, &text)?.try_into().map_err(|_| cursor::refused())?),
        None => 0,
    };
    let parts = Parts { body: true, result: true, attempts: true };
    let (_, stored) = app.find(&key, parts).await?.ok_or_else(|| Refusal::no_task(&id))?;
    let (spec, _) = view::taken_apart(&stored)?;
    let mut entries = entries(&stored);
    if let Some(last) = entries.last_mut().filter(|last| last.outcome == "succeeded")
        && !view::result_is_over(&app, &stored.head, &spec)
    {
        last.excerpt = last.excerpt.take().or_else(|| excerpt(&stored));
    }
    entries.retain(|entry| entry.number > after);
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next_cursor = entries.last().filter(|_| more).map(|last| cursor::encode(&list, &last.number.to_be_bytes()));
    let redaction = Redaction::of(&spec.redact);
    let items = entries.into_iter().map(|entry| show(&app, &key, hidden(entry, &redaction))).collect();
    Ok(view::json(StatusCode::OK, &Attempts { items, next_cursor }))
}

/// One entry per attempt, the open one last.
pub(super) fn entries(stored: &Stored) -> Vec<AttemptEntry> {
    let head = &stored.head;
    let mut entries: Vec<AttemptEntry> = stored.attempts.iter().filter_map(|bytes| AttemptEntry::decode(bytes)).collect();
    if head.state == TaskState::Running {
        entries.push(open(head));
    } else if head.state == TaskState::Succeeded && !head.flags.has(Flags::HAS_ATTEMPTS) {
        // A success at the first try stores no entry.
        entries.push(AttemptEntry::of_success(head));
    }
    AttemptEntry::merged(entries)
}

/// The answer of a success is the result: its beginning is not stored twice.
fn excerpt(stored: &Stored) -> Option<String> {
    match ResultValue::decode(stored.result.as_ref()?)? {
        ResultValue::Value { bytes, .. } => {
            let start = &bytes[..bytes.len().min(EXCERPT_BYTES)];
            (!start.is_empty()).then(|| String::from_utf8_lossy(start).into_owned())
        }
        ResultValue::Error(_) | ResultValue::Progress(_) => None,
    }
}

fn open(head: &Head) -> AttemptEntry {
    AttemptEntry { outcome: "running".to_owned(), ..AttemptEntry::open(head) }
}

/// What may be shown. Texts that a worker wrote have no places to point at: if anything is hidden, they are.
pub(super) fn hidden(entry: AttemptEntry, redaction: &Redaction) -> AttemptEntry {
    if redaction.is_empty() {
        return entry;
    }
    // Of a task that goes to its own address the instance is the origin of that.
    let is_url = entry.worker == 0 && redaction.hides("url");
    AttemptEntry {
        instance: entry.instance.map(|instance| if is_url { HIDDEN.to_owned() } else { instance }),
        error: entry.error.map(|error| redaction.error(error)),
        excerpt: entry.excerpt.map(|_| HIDDEN.to_owned()),
        logs: entry.logs.iter().map(|_| HIDDEN.to_owned()).collect(),
        ..entry
    }
}

fn show(app: &App, key: &TaskKey, entry: AttemptEntry) -> AttemptView {
    let ended = (entry.ended.0 != 0).then_some(entry.ended);
    AttemptView {
        attempt: entry.number,
        generation: entry.generation,
        outcome: entry.outcome,
        started_at: entry.started.rfc3339(),
        ended_at: ended.map(lovage_core::Millis::rfc3339),
        duration_ms: ended.map(|ended| ended.since(entry.started).as_millis() as u64),
        worker: app.directory.worker(key.ns, entry.worker).map(|name| name.to_string()),
        instance: entry.instance,
        status: entry.status,
        error: entry.error,
        excerpt: entry.excerpt,
        logs: entry.logs,
        children: entry.children,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_of_a_hidden_url_is_hidden_and_the_instance_of_a_worker_is_not() {
        let instance = |worker, pointer: &str| {
            let entry = AttemptEntry { worker, instance: Some("http://a.example".to_owned()), ..AttemptEntry::default() };
            hidden(entry, &Redaction::of(&[pointer.to_owned()])).instance
        };
        assert_eq!(instance(0, "/url").as_deref(), Some(HIDDEN));
        for shown in [instance(0, "/args"), instance(7, "/url")] {
            assert_eq!(shown.as_deref(), Some("http://a.example"));
        }
    }
}
