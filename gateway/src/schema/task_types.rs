//! Task types.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Batch, Callbacks, Debounce, Duration, Links, Pause, RetryPolicy, TaskLimit, Unique};

/// Defaults for what a signature leaves out, and a schema for the arguments.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskTypeIn {
    /// Push to this URL.
    pub url: Option<String>,
    /// The method of the delivery.
    pub method: Option<String>,
    /// Headers of the delivery; those of the signature are joined with them.
    pub headers: Option<BTreeMap<String, String>>,
    /// Shown in lists and logs.
    pub name: Option<String>,
    /// The queue.
    pub queue: Option<String>,
    /// 0 to 9, higher first.
    #[schema(minimum = 0, maximum = 9)]
    pub priority: Option<u8>,
    /// Not before so much later; not beside `eta` or `debounce`.
    pub delay: Option<Duration>,
    /// Never started so much later; not beside `expires_at`.
    pub expires_in: Option<Duration>,
    /// After this long of an attempt its worker is told to come to an end.
    pub soft_time_limit: Option<Duration>,
    /// Of the open request of one attempt.
    pub time_limit: Option<Duration>,
    /// Of an attempt in all once it was accepted with 202.
    pub max_run: Option<Duration>,
    /// When and how often to try again; taken whole.
    pub retry: Option<RetryPolicy>,
    /// Taken whole. What all tasks of a name share is better said with `rate`, `burst` and `concurrency`.
    pub limits: Option<Vec<TaskLimit>>,
    /// All tasks that have it from this type run one after the other; not beside `batch`, not for tasks that other tasks start.
    pub order_key: Option<String>,
    /// Share of the queue.
    pub fair_key: Option<String>,
    /// One task at a time of all that have it from this type; not for tasks that other tasks start.
    pub unique: Option<Unique>,
    /// Only the last of a row runs; not for tasks that other tasks start.
    pub debounce: Option<Debounce>,
    /// May be delivered together with others.
    pub batch: Option<Batch>,
    /// Run after success; not for tasks that are links themselves.
    pub link: Option<Links>,
    /// Run after final failure; not for tasks that are links themselves.
    pub link_error: Option<Links>,
    /// As a link: do not take the result of the task before.
    pub immutable: Option<bool>,
    /// Who is told; joined with those of the signature.
    pub callbacks: Option<Callbacks>,
    /// Do not keep the result.
    pub ignore_result: Option<bool>,
    /// How long the result is kept.
    pub result_ttl: Option<Duration>,
    /// How long the record is kept after its end.
    pub retention: Option<Duration>,
    /// Joined with those of the signature.
    pub labels: Option<BTreeMap<String, String>>,
    /// JSON pointers to what no view shows, beside those of the signature.
    pub redact: Option<Vec<String>>,
    /// JSON Schema 2020-12 of what is delivered: `{"args": […], "kwargs": {…}}`, or `{"payload": …}`.
    #[schema(example = json!({"properties": {"kwargs": {"required": ["width"]}}}))]
    pub args_schema: Option<Value>,
    /// Starts of each task name by itself, over all nodes: the limit `task:NAME`.
    #[schema(example = "200/m")]
    pub rate: Option<String>,
    /// Starts that may come at once (1); needs a rate.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub burst: Option<u32>,
    /// Tasks of each name that may run at once, over all nodes; 0 stops them.
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub concurrency: Option<u32>,
    /// The worker of these tasks, whatever the patterns of workers say.
    pub worker: Option<String>,
}

/// A task type.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskType {
    /// Task names, with `*` for any run of characters.
    pub pattern: String,
    #[serde(flatten)]
    pub defaults: TaskTypeIn,
    /// What is closed for its tasks now; not there: nothing.
    pub paused: Option<Pause>,
    /// Also the `ETag`.
    pub version: u64,
}

/// A page of task types.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskTypes {
    /// By pattern.
    pub items: Vec<TaskType>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}
