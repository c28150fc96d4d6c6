//! `GET /v1/tasks/{id}/events`

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use lovage_core::callback::event_type;
use lovage_core::redact::Redaction;
use lovage_core::{AttemptEntry, Millis, State as TaskState, TaskError, TaskKey, Version};
use lovage_store::{Parts, Stored};
use serde::Serialize;
use tokio::time::Instant;

use super::attempts::{entries, hidden};
use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{event_stream, schema, view};

const EVENT_STREAM: &str = "text/event-stream";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How long a new stream waits until changes are sure to be noticed; then it looks at what is stored.
const LIVE_WITHIN: Duration = Duration::from_secs(5);

/// Something that happened to a task.
#[derive(Serialize)]
struct EventView {
    event: String,
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<TaskError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
}

#[derive(Serialize)]
struct Events {
    items: Vec<EventView>,
    next_cursor: Option<String>,
}

/// What happens to a task
///
/// With `Accept: text/event-stream` its changes as they come: the id of an event is the task's version, its name
/// `task.` and the state, or `task.progress`, its data the record. With `Last-Event-ID` only what is newer. The stream ends
/// after the final state. Otherwise a list of what is known so far.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/events", operation_id = "watchTask", tag = "tasks",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that was seen"),
    ),
    responses(
        (status = 200, description = "What happened, or happens", content(
            (schema::TaskEvents = "application/json"), (String = "text/event-stream")
        )),
        (status = 204, description = "The task is final, and its last event was seen"),
    )
)]
pub(crate) async fn events(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    query.done()?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    if !wants_stream(&headers) {
        let parts = Parts { attempts: true, body: true, ..Parts::default() };
        let (_, stored) = app.find(&key, parts).await?.ok_or_else(|| Refusal::no_task(&id))?;
        let (spec, _) = view::taken_apart(&stored)?;
        let items = known(&app, &key, &stored, &Redaction::of(&spec.redact));
        return Ok(view::json(StatusCode::OK, &Events { items, next_cursor: None }));
    }
    // Entered before the look: whatever happens afterwards is noticed.
    let waiter = app.hub.follow_task(&key, app.home(&key).await?)?;
    waiter.live(Instant::now() + LIVE_WITHIN).await;
    let stored = app.load(&key).await?.ok_or_else(|| Refusal::no_task(&id))?;
    let version = stored.head.version;
    // A version that the task never had was not given out by it.
    let seen = last_seen(&headers).filter(|seen| *seen <= version).unwrap_or(0);
    if stored.head.state.is_final() && seen == version {
        // What makes a browser stop asking.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Some proxies gather answers unless they are told not to.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(event_stream::events(app, key, waiter, stored, seen))).into_response())
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let essence = |kind: &str| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(EVENT_STREAM);
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(essence)
}

fn last_seen(headers: &HeaderMap) -> Option<Version> {
    headers.get(LAST_EVENT_ID)?.to_str().ok()?.trim().parse().ok()
}

/// What the record tells, in order.
fn known(app: &App, key: &TaskKey, stored: &Stored, redaction: &Redaction) -> Vec<EventView> {
    let head = &stored.head;
    let mut events = vec![event("task.created", head.created)];
    for entry in entries(stored).into_iter().map(|entry| hidden(entry, redaction)) {
        events.push(EventView { worker: worker(app, key, &entry), ..of_attempt("attempt.started", entry.started, &entry) });
        if entry.ended.0 != 0 {
            let ended = of_attempt("attempt.ended", entry.ended, &entry);
            events.push(EventView { outcome: Some(entry.outcome), error: entry.error, ..ended });
        }
    }
    let since = match head.state {
        TaskState::Running => head.started,
        state if state.is_final() => head.ended,
        _ => Millis(0),
    };
    let reason = (head.reason != lovage_core::Reason::None).then(|| head.reason.as_str());
    let now = event(event_type(head), since);
    events.push(EventView { reason, version: Some(head.version), ..now });
    events
}

fn worker(app: &App, key: &TaskKey, entry: &AttemptEntry) -> Option<String> {
    app.directory.worker(key.ns, entry.worker).map(|name| name.to_string())
}

fn of_attempt(name: &str, at: Millis, entry: &AttemptEntry) -> EventView {
    EventView { attempt: Some(entry.number), generation: Some(entry.generation), ..event(name, at) }
}

fn event(name: &str, at: Millis) -> EventView {
    EventView {
        event: name.to_owned(),
        at: (at.0 != 0).then(|| at.rfc3339()),
        attempt: None,
        generation: None,
        worker: None,
        outcome: None,
        reason: None,
        error: None,
        version: None,
    }
}
