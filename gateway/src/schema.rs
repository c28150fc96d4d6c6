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

/// Parameters of a page.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Items at most (50).
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Filters of task lists.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TaskFilters {
    /// In this state; repeatable.
    pub state: Option<Vec<String>>,
    /// With this name.
    pub task: Option<String>,
    /// In this queue.
    pub queue: Option<String>,
    /// Last sent to this worker.
    pub worker: Option<String>,
    /// With this label, `KEY:VALUE`; repeatable.
    pub label: Option<Vec<String>>,
    /// Descendants of this task.
    pub root: Option<String>,
    /// Accepted at this time or later.
    pub created_after: Option<String>,
    /// Accepted before this time.
    pub created_before: Option<String>,
    /// Failed with an error of this type.
    pub error_type: Option<String>,
    /// Failed and kept for inspection (or, with `false`, not).
    pub dead: Option<bool>,
}

/// A page of tasks.
#[derive(ToSchema, Serialize)]
pub(crate) struct Tasks {
    /// The records, without results.
    pub items: Vec<Task>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// How to cancel.
#[derive(ToSchema, Serialize)]
pub(crate) struct Cancel {
    /// `soft` (default) or `hard`.
    pub mode: Option<String>,
    /// Children too (default).
    pub cascade: Option<bool>,
}

/// The attempts of a task.
#[derive(ToSchema, Serialize)]
pub(crate) struct Attempts {
    /// In order.
    pub items: Vec<Attempt>,
    /// Always null.
    pub next_cursor: Option<String>,
}

/// One attempt.
#[derive(ToSchema, Serialize)]
pub(crate) struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// Rises with every manual retry.
    pub generation: u8,
    /// `running`, `succeeded`, `failed`, `canceled`, `given_back`, `lost`, or the reason of the retry.
    pub outcome: String,
    /// When it began.
    #[schema(format = DateTime)]
    pub started_at: String,
    /// When it ended.
    #[schema(format = DateTime)]
    pub ended_at: Option<String>,
    /// Between the two.
    pub duration_ms: Option<u64>,
    /// Who was called.
    pub worker: Option<String>,
    /// Which instance of it.
    pub instance: Option<String>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<TaskError>,
    /// The first 2 KiB of the answer.
    pub excerpt: Option<String>,
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

/// Preconditions of a change.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct Preconditions {
    /// Only if the stored document has this `ETag`, or `*`: if there is one.
    #[param(rename = "If-Match")]
    pub if_match: Option<String>,
    /// `*`: only if there is none.
    #[param(rename = "If-None-Match")]
    pub if_none_match: Option<String>,
}

/// A worker to be registered.
#[derive(ToSchema, Serialize)]
pub(crate) struct WorkerIn {
    /// Where it is; `{task}` stands for the task's name.
    pub url: Option<String>,
    /// Where its instances are, instead of `url`.
    pub urls: Option<Vec<String>>,
    /// Patterns of the task names it serves; the most specific one of all workers wins.
    #[schema(example = json!(["images.*"]))]
    pub tasks: Option<Vec<String>>,
    /// Only tasks of these queues.
    pub queues: Option<Vec<String>>,
    /// Open requests per instance (100).
    #[schema(minimum = 1)]
    pub concurrency: Option<u32>,
    /// How long a running attempt may go on after a soft cancel (10 s).
    pub cancel_grace: Option<Duration>,
    /// Added to every delivery. Values are never shown; `null` keeps the stored value.
    pub headers: Option<BTreeMap<String, Option<String>>>,
    /// What its statuses mean.
    pub status_map: Option<StatusMap>,
    /// `whsec_…`, made if not given.
    pub signing: Option<String>,
}

/// A preset's name, or a preset with exceptions.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub(crate) enum StatusMap {
    /// `lovage`, `cloud-tasks` or `qstash`.
    Preset(String),
    /// With exceptions.
    Object(StatusMapObject),
}

/// A preset with exceptions.
#[derive(ToSchema, Serialize)]
pub(crate) struct StatusMapObject {
    /// `lovage`, `cloud-tasks` or `qstash`.
    pub preset: Option<String>,
    /// Failed and charged.
    pub retry: Option<Vec<u16>>,
    /// Failed for good.
    pub permanent: Option<Vec<u16>>,
    /// The endpoint's fault.
    pub endpoint: Option<Vec<u16>>,
}

/// A registered worker.
#[derive(ToSchema, Serialize)]
pub(crate) struct Worker {
    /// Its name.
    pub name: String,
    /// Where its instances are.
    pub urls: Vec<String>,
    /// Patterns of the task names it serves.
    pub tasks: Vec<String>,
    /// Only tasks of these queues; empty: all.
    pub queues: Vec<String>,
    /// Open requests per instance.
    pub concurrency: u32,
    /// How long a running attempt may go on after a soft cancel.
    pub cancel_grace: String,
    /// Names of the headers added to every delivery.
    pub headers: BTreeMap<String, Option<String>>,
    /// What its statuses mean.
    pub status_map: StatusMap,
    /// The secret, only in the answer to the request that made it.
    pub signing: Option<String>,
    /// Also the `ETag`.
    pub version: u64,
}

/// A page of workers.
#[derive(ToSchema, Serialize)]
pub(crate) struct Workers {
    /// By name.
    pub items: Vec<Worker>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// A secret that was made now; it is not shown again.
#[derive(ToSchema, Serialize)]
pub(crate) struct NewSecret {
    /// `whsec_…`
    pub signing: String,
}

/// An instance that registers itself.
#[derive(ToSchema, Serialize)]
pub(crate) struct InstanceIn {
    /// Where it is.
    pub url: String,
    /// Gone after this unless it registers again (60 s; at most 24 h).
    pub ttl: Option<Duration>,
    /// Open requests it takes; the worker's if not given.
    #[schema(minimum = 1)]
    pub capacity: Option<u32>,
    /// What it says of itself.
    pub version: Option<String>,
}

/// A registered instance.
#[derive(ToSchema, Serialize)]
pub(crate) struct Instance {
    /// Its name within the worker.
    pub id: String,
    /// The worker.
    pub worker: String,
    /// Where it is.
    pub url: String,
    /// Gone at this time unless it registers again.
    #[schema(format = DateTime)]
    pub expires_at: String,
    /// Open requests it takes.
    pub capacity: Option<u32>,
    /// What it says of itself.
    pub version: Option<String>,
}

/// A page of instances.
#[derive(ToSchema, Serialize)]
pub(crate) struct Instances {
    /// By name.
    pub items: Vec<Instance>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// A queue.
#[derive(ToSchema, Serialize)]
pub(crate) struct Queue {
    /// Its name.
    pub name: String,
    /// When it was first used; null for `default`.
    #[schema(format = DateTime)]
    pub created_at: Option<String>,
}

/// A page of queues.
#[derive(ToSchema, Serialize)]
pub(crate) struct Queues {
    /// By name.
    pub items: Vec<Queue>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// What is in a queue.
#[derive(ToSchema, Serialize)]
pub(crate) struct QueueStats {
    /// Tasks by state.
    pub depth: BTreeMap<String, u64>,
    /// How long the oldest queued task has been waiting; null if none waits.
    pub oldest_age: Option<String>,
}

/// A page of signing keys.
#[derive(ToSchema, Serialize)]
pub(crate) struct SigningKeys {
    /// The keys.
    pub items: Vec<SigningKey>,
    /// Always null.
    pub next_cursor: Option<String>,
}

/// A signing key without its secrets.
#[derive(ToSchema, Serialize)]
pub(crate) struct SigningKey {
    /// `default`.
    pub name: String,
    /// The secrets in use, newest first.
    pub secrets: Vec<SigningSecret>,
}

/// A secret without itself.
#[derive(ToSchema, Serialize)]
pub(crate) struct SigningSecret {
    /// Not used after this.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
}
