//! The shapes of requests and answers, for the document of the API.
//!
//! Signatures are read by hand so that payload bytes stay as they came; a test compares the names here with those read.
#![allow(dead_code, reason = "these types describe, they are never made")]
#![allow(clippy::struct_field_names, clippy::large_enum_variant, reason = "the names and shapes are those of the wire")]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// `?wait=`
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Answer when the task is final, or after this time (at most 60 s) with its state.
    #[param(example = "20s")]
    pub wait: Option<String>,
}

/// `Idempotency-Key`
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IdempotencyHeader {
    /// The same key and request within 24 h answer what was made the first time.
    #[param(rename = "Idempotency-Key")]
    pub idempotency_key: Option<String>,
}

/// Parameters of a batch.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct BatchQuery {
    /// All items or none; arrays only.
    pub atomic: Option<bool>,
}

/// A duration: `250ms`, `30s`, `5m`, `1h30m`, `7d`, or a number of seconds.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub(crate) enum Duration {
    /// With units.
    Text(String),
    /// Seconds.
    Seconds(f64),
}

/// What to run: exactly one of `task` and `url`, or both, when `task` only names it.
#[derive(ToSchema, Serialize)]
pub(crate) struct Signature {
    /// A name that a registered worker serves.
    #[schema(example = "images.resize")]
    pub task: Option<String>,
    /// Push straight to this URL.
    pub url: Option<String>,
    /// Positional arguments.
    pub args: Option<Vec<Value>>,
    /// Named arguments.
    pub kwargs: Option<BTreeMap<String, Value>>,
    /// Any JSON, delivered as it is instead of `args` and `kwargs`.
    pub payload: Option<Value>,
    /// The method of the delivery (POST).
    pub method: Option<String>,
    /// Headers of the delivery.
    pub headers: Option<BTreeMap<String, String>>,
    /// Client-chosen id.
    #[schema(pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub id: Option<String>,
    /// Shown in lists and logs.
    pub name: Option<String>,
    /// The queue (`default`); made on first use.
    pub queue: Option<String>,
    /// 0 to 9, higher first (4).
    #[schema(minimum = 0, maximum = 9)]
    pub priority: Option<u8>,
    /// Not before so much later.
    pub delay: Option<Duration>,
    /// Not before this time.
    #[schema(format = DateTime)]
    pub eta: Option<String>,
    /// Never started so much later.
    pub expires_in: Option<Duration>,
    /// Never started after this time.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// Of the open request of one attempt (60 s).
    pub time_limit: Option<Duration>,
    /// When and how often to try again.
    pub retry: Option<RetryPolicy>,
    /// Who is told.
    pub callbacks: Option<Callbacks>,
    /// Do not keep the result.
    pub ignore_result: Option<bool>,
    /// How long the result is kept (24 h).
    pub result_ttl: Option<Duration>,
    /// How long the record is kept after its end (24 h; failed tasks 14 d).
    pub retention: Option<Duration>,
    /// For people and filters.
    pub labels: Option<BTreeMap<String, String>>,
}

/// A retry policy; the limit reached first ends it.
#[derive(ToSchema, Serialize)]
pub(crate) struct RetryPolicy {
    /// Charged failures after which the task has failed (10).
    pub max_attempts: Option<u16>,
    /// `exponential`, `linear`, `fixed` or `list` (exponential).
    pub backoff: Option<String>,
    /// The delays of `list`; the last repeats.
    pub delays: Option<Vec<Duration>>,
    /// The first delay (1 s).
    pub min: Option<Duration>,
    /// The longest delay (10 min).
    pub max: Option<Duration>,
    /// What `exponential` multiplies by (2).
    pub factor: Option<f64>,
    /// `full`, `equal` or `none` (full).
    pub jitter: Option<String>,
    /// No attempt starts later than this after the first (24 h).
    pub max_age: Option<Duration>,
}

/// Who is told of a task; each a URL or an object.
#[derive(ToSchema, Serialize)]
pub(crate) struct Callbacks {
    /// After success.
    pub on_success: Option<Callback>,
    /// After final failure.
    pub on_failure: Option<Callback>,
    /// After a failed attempt that will be repeated.
    pub on_retry: Option<Callback>,
    /// After each progress report.
    pub on_progress: Option<Callback>,
    /// After the end, whatever it was.
    pub on_terminal: Option<Callback>,
}

/// A URL, or an object with more.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub(crate) enum Callback {
    /// Just where.
    Url(String),
    /// Where and how.
    Full(CallbackObject),
}

/// Where and how to tell.
#[derive(ToSchema, Serialize)]
pub(crate) struct CallbackObject {
    /// The address.
    pub url: String,
    /// Headers of the post.
    pub headers: Option<BTreeMap<String, String>>,
    /// Its own retry policy.
    pub retry: Option<RetryPolicy>,
    /// How long one post may take.
    pub time_limit: Option<Duration>,
}

/// A stored task, at submit.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskAccepted {
    /// Its id.
    pub id: String,
    /// `queued` or `scheduled`.
    pub state: String,
    /// When it was accepted.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// Where it and its parts are.
    pub links: BTreeMap<String, String>,
}

/// The record of a task.
#[derive(ToSchema, Serialize)]
pub(crate) struct Task {
    /// Its id.
    pub id: String,
    /// `blocked`, `scheduled`, `queued`, `running`, `retrying`, `succeeded`, `failed`, `canceled` or `expired`.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// Its name.
    pub task: Option<String>,
    /// The address it is pushed to.
    pub url: Option<String>,
    /// Its name for people.
    pub name: Option<String>,
    /// The queue it waits in.
    pub queue: String,
    /// 0 to 9, higher first.
    pub priority: u8,
    /// Attempts started so far.
    pub attempt: u32,
    /// Attempts that the retry budget still allows.
    pub attempts_left: u32,
    /// Rises with every manual retry.
    pub generation: u8,
    /// A cancel was asked for while it ran.
    pub cancel_requested: Option<bool>,
    /// When it was accepted.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// Not before.
    #[schema(format = DateTime)]
    pub due_at: Option<String>,
    /// Never started after.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// Start of the latest attempt.
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// When it became final.
    #[schema(format = DateTime)]
    pub finished_at: Option<String>,
    /// The worker of the latest attempt.
    pub worker: Option<String>,
    /// Positional arguments, when small.
    pub args: Option<Vec<Value>>,
    /// Named arguments, when small.
    pub kwargs: Option<BTreeMap<String, Value>>,
    /// The payload, when it is JSON and small.
    pub payload: Option<Value>,
    /// The result, when it is JSON of up to 16 KiB.
    pub result: Option<Value>,
    /// What went wrong.
    pub error: Option<TaskError>,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// The retry policy in force.
    pub retry: RetryPolicy,
    /// How long the open request of one attempt may take.
    pub time_limit: String,
    /// The task that spawned this one.
    pub parent: Option<String>,
    /// The first ancestor.
    pub root: Option<String>,
    /// Set on a callback: what it reports.
    pub callback: Option<String>,
    /// Rises by one with every change; also the `ETag`.
    pub version: u64,
    /// Where its parts are.
    pub links: Option<BTreeMap<String, String>>,
}

/// What went wrong with a task or an attempt.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskError {
    /// A short name to group by.
    #[serde(rename = "type")]
    pub kind: String,
    /// One or a few sentences.
    pub message: String,
    /// The worker's stack trace.
    pub stack: Option<String>,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
}

/// The answers to a batch.
#[derive(ToSchema, Serialize)]
pub(crate) struct BatchAnswers {
    /// One per item, in order.
    pub items: Vec<BatchAnswer>,
}

/// The answer to one item.
#[derive(ToSchema, Serialize)]
pub(crate) struct BatchAnswer {
    /// 202 stored, 200 stored before, else refused.
    pub status: u16,
    /// The task's id.
    pub id: Option<String>,
    /// Why it was refused.
    pub problem: Option<Problem>,
}

/// A refused request (RFC 9457).
#[derive(ToSchema, Serialize)]
pub(crate) struct Problem {
    /// The page about the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// The code for programs.
    pub code: String,
    /// The same as in `X-Request-Id`.
    pub request_id: String,
    /// The refused fields.
    pub errors: Option<Vec<FieldError>>,
    /// The task that is in the way.
    pub existing_id: Option<String>,
    /// The state that does not allow it.
    pub state: Option<String>,
}

/// A refused field.
#[derive(ToSchema, Serialize)]
pub(crate) struct FieldError {
    /// A JSON pointer into the request.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
}
