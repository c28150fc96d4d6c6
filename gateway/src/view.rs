//! Answers about tasks.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use lovage_core::asked::Follow;
use lovage_core::decide::result_end;
use lovage_core::problem::Code;
use lovage_core::{Body, Flags, Head, Partition, Record, ResultValue, Spec, State, TaskKey};
use lovage_store::{Parts, Stored};
use serde::Serialize;
use tokio::time::Instant;

use crate::app::App;
use crate::feed_hub::Waiter;
use crate::problem::{Refusal, store_problem};
use crate::told::Told;

/// The media type of JSON.
pub(crate) const JSON: &str = "application/json";

/// Record and links: what a task looks like from outside.
#[derive(Serialize)]
struct TaskView {
    #[serde(flatten)]
    record: Record,
    #[serde(flatten)]
    follow: Option<Follow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callbacks: Option<Vec<Told>>,
    links: Links,
}

impl TaskView {
    /// With what is started after it, and the callbacks that were made.
    fn with(self, spec: &Spec, callbacks: Option<Vec<Told>>) -> Self {
        Self { follow: Some(Follow::of(spec)), callbacks, ..self }
    }
}

/// What is known at submit.
#[derive(Serialize)]
struct Brief {
    id: String,
    state: &'static str,
    created_at: String,
    links: Links,
}

#[derive(Serialize)]
struct Links {
    #[serde(rename = "self")]
    itself: String,
    payload: String,
    result: String,
    attempts: String,
    events: String,
    cancel: String,
}

impl Links {
    fn of(path: String) -> Self {
        Self {
            payload: format!("{path}/payload"),
            result: format!("{path}/result"),
            attempts: format!("{path}/attempts"),
            events: format!("{path}/events"),
            cancel: format!("{path}/cancel"),
            itself: path,
        }
    }
}

/// Ids have no character that means something in a path.
fn path_of(key: &TaskKey) -> String {
    format!("/v1/tasks/{}", key.id)
}

/// JSON with this status.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => json_bytes(status, bytes),
        Err(error) => {
            tracing::error!(%error, "cannot write an answer");
            Refusal::new(Code::Fault, "the answer could not be written; the server's log has the cause").into_response()
        }
    }
}

pub(crate) fn json_bytes(status: StatusCode, bytes: Vec<u8>) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response()
}

/// 202: stored, and this is where it is.
pub(crate) fn accepted(key: &TaskKey, head: &Head) -> Response {
    let path = path_of(key);
    let location = HeaderValue::from_str(&path).ok();
    let brief =
        Brief { id: key.id.to_string(), state: head.state.as_str(), created_at: head.created.rfc3339(), links: Links::of(path) };
    let mut response = json(StatusCode::ACCEPTED, &brief);
    response.headers_mut().extend(location.map(|location| (LOCATION, location)));
    response
}

/// 200 with the record.
pub(crate) fn record(app: &App, key: &TaskKey, stored: &Stored) -> Result<Response, Refusal> {
    let (spec, body) = taken_apart(stored)?;
    Ok(with_etag(stored, &shown(app, key, stored, &spec, &body).with(&spec, None)))
}

/// 200 with the record and its callbacks.
pub(crate) async fn whole_record(app: &App, key: &TaskKey, stored: &Stored) -> Result<Response, Refusal> {
    let (spec, body) = taken_apart(stored)?;
    let told = app.told(key, &spec).await?;
    Ok(with_etag(stored, &shown(app, key, stored, &spec, &body).with(&spec, told)))
}

/// The record as JSON, as an event has it: without what is started after it.
pub(crate) fn record_bytes(app: &App, key: &TaskKey, stored: &Stored) -> Result<Vec<u8>, Refusal> {
    let (spec, body) = taken_apart(stored)?;
    serde_json::to_vec(&shown(app, key, stored, &spec, &body)).map_err(|_| damaged("a task's record"))
}

fn with_etag(stored: &Stored, task: &TaskView) -> Response {
    let mut response = json(StatusCode::OK, task);
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", stored.head.version)) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

fn shown(app: &App, key: &TaskKey, stored: &Stored, spec: &Spec, body: &Body) -> TaskView {
    let kept = stored.result.as_ref().filter(|_| !result_is_over(app, &stored.head, spec));
    let result = kept.and_then(ResultValue::decode);
    let content_type = String::from_utf8_lossy(&body.content_type);
    let record =
        summary(app, key, &stored.head, spec).with_result(result.as_ref()).with_payload(spec, &content_type, &body.payload);
    TaskView { record, follow: None, callbacks: None, links: Links::of(path_of(key)) }
}

/// Whether the time of a result has passed. The janitor may be late; what is over is not shown.
pub(crate) fn result_is_over(app: &App, head: &Head, spec: &Spec) -> bool {
    head.state == State::Succeeded && head.flags.has(Flags::HAS_RESULT) && result_end(head, spec) <= app.now()
}

/// The record without payload and result.
pub(crate) fn summary(app: &App, key: &TaskKey, head: &Head, spec: &Spec) -> Record {
    let mut record = Record::new(&key.id, head, spec);
    record.worker = app.directory.worker(key.ns, head.worker).map(|name| name.to_string());
    record
}

/// Signature and body of a stored task.
pub(crate) fn taken_apart(stored: &Stored) -> Result<(Spec, Body), Refusal> {
    read_body(stored.body.as_ref()).ok_or_else(|| damaged("a task's body"))
}

/// Stored bytes that cannot be read.
pub(crate) fn damaged(what: &str) -> Refusal {
    store_problem(&lovage_store::Error::Corrupt(what.into())).into()
}

/// Bytes that a user or a worker made, with their own type. A browser neither guesses another type nor runs them.
pub(crate) fn foreign(status: StatusCode, content_type: &str, bytes: Bytes) -> Response {
    let content_type = if content_type.is_empty() { "application/json" } else { content_type };
    let content_type = HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let headers = [
        (CONTENT_TYPE, content_type),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'")),
    ];
    (status, headers, bytes).into_response()
}

pub(crate) fn read_body(body: Option<&Bytes>) -> Option<(Spec, Body)> {
    let body = Body::decode(body?)?;
    Some((Spec::decode(&body.spec)?, body))
}

impl App {
    /// The record with body and result.
    pub(crate) async fn load(&self, key: &TaskKey) -> Result<Option<Stored>, Refusal> {
        let parts = Parts { body: true, result: true, attempts: false };
        Ok(self.find(key, parts).await?.map(|(_, stored)| stored))
    }

    /// Parts of the record, and the partition where it lives: where its id says, or elsewhere.
    pub(crate) async fn find(&self, key: &TaskKey, parts: Parts) -> Result<Option<(Partition, Stored)>, Refusal> {
        let own = self.partition(key);
        if let Some(stored) = self.store.get(own, key, parts).await? {
            return Ok(Some((own, stored)));
        }
        let Some(away) = self.away(key).await? else { return Ok(None) };
        Ok(self.store.get(away, key, parts).await?.map(|stored| (away, stored)))
    }

    /// The record as soon as it is final, or as it is after `wait`.
    pub(crate) async fn load_final(&self, key: &TaskKey, wait: Duration) -> Result<Option<Stored>, Refusal> {
        if wait.is_zero() {
            return self.load(key).await;
        }
        let until = Instant::now() + wait;
        // Entered before the first look: a change after the look is sure to wake it.
        let waiter = self.hub.subscribe(key, self.home(key).await?)?;
        waiter.live(until).await;
        self.watch(&waiter, key, until, true).await
    }

    /// Looks at the record each time the waiter is woken (and at once, if asked) until it is final.
    pub(crate) async fn watch(
        &self,
        waiter: &Waiter,
        key: &TaskKey,
        until: Instant,
        look: bool,
    ) -> Result<Option<Stored>, Refusal> {
        let mut look = look;
        loop {
            if look {
                let stored = self.load(key).await?;
                if stored.as_ref().is_none_or(|stored| stored.head.state.is_final()) {
                    return Ok(stored);
                }
            }
            tokio::select! {
                () = waiter.changed() => look = true,
                () = tokio::time::sleep_until(until) => return self.load(key).await,
                () = self.draining.cancelled() => return self.load(key).await,
            }
        }
    }
}
