//! The signature of a task.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

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
    /// After this long of an attempt its worker is told to come to an end (none).
    pub soft_time_limit: Option<Duration>,
    /// Of the open request of one attempt (60 s).
    pub time_limit: Option<Duration>,
    /// Of an attempt in all once it was accepted with 202 (none).
    pub max_run: Option<Duration>,
    /// When and how often to try again.
    pub retry: Option<RetryPolicy>,
    /// Its limits beside those of its queue, task type and worker: up to 8, all of which have to agree.
    #[schema(max_items = 8)]
    pub limits: Option<Vec<TaskLimit>>,
    /// One task at a time has this key, in order of acceptance whatever the priority; not beside `batch`. A task that
    /// takes the place of another has the key of that.
    #[schema(min_length = 1, max_length = 255)]
    pub order_key: Option<String>,
    /// Tasks of this key share the queue evenly with those of other keys; an `order_key` beside it rules alone.
    #[schema(min_length = 1, max_length = 255)]
    pub fair_key: Option<String>,
    /// At most one task at a time has this key; with `order_key` one of each order key.
    pub unique: Option<Unique>,
    /// Of the tasks submitted with this key in a row, only the last runs.
    pub debounce: Option<Debounce>,
    /// May be delivered together with others, to workers that take batches.
    pub batch: Option<Batch>,
    /// Run after success, with the result in front of its arguments: a signature or a list of up to 16.
    #[schema(value_type = Option<Links>, no_recursion)]
    pub link: Option<Value>,
    /// Run after final failure, with `{id, task, error}` in front of its arguments: a signature or a list of up to 16.
    #[schema(value_type = Option<Links>, no_recursion)]
    pub link_error: Option<Value>,
    /// As a link: do not take the result of the task before.
    pub immutable: Option<bool>,
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
    /// JSON pointers to what no view shows, such as `/kwargs/password`.
    pub redact: Option<Vec<String>>,
}

/// How often and how many at once tasks of a key start, over all nodes. A stored limit of the key goes before.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskLimit {
    /// Of your own choice, but not `queue:…`, `task:…` or `worker:…`.
    #[schema(example = "customer:42", min_length = 1, max_length = 255)]
    pub key: String,
    /// Starts per second, minute or hour (none).
    #[schema(example = "10/s")]
    pub rate: Option<String>,
    /// Starts that may come at once (1).
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub burst: Option<u32>,
    /// Tasks that may run at once (any number).
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub concurrency: Option<u32>,
    /// For how many starts this one counts in the rate (1); at most `burst`.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub cost: Option<u32>,
}

/// A signature or a list of them; without `id`, `unique` and `debounce`.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub(crate) enum Links {
    /// One.
    #[schema(no_recursion)]
    One(Box<Signature>),
    /// Up to 16.
    #[schema(no_recursion)]
    List(Vec<Signature>),
}

/// A key that one task at a time holds; a failed run frees it.
#[derive(ToSchema, Serialize)]
pub(crate) struct Unique {
    /// Unique per namespace.
    pub key: String,
    /// `queued` (until it starts), `active` (until it is final) or `ttl` (active).
    pub scope: Option<String>,
    /// With `ttl`: for how long from submit on.
    pub ttl: Option<Duration>,
    /// `return` (the task that holds it), `reject` or `replace` it (return).
    pub on_conflict: Option<String>,
}

/// A key of which only the last task runs.
#[derive(ToSchema, Serialize)]
pub(crate) struct Debounce {
    /// Unique per namespace.
    pub key: String,
    /// How long after the last one.
    pub wait: Duration,
    /// How long after the first one at the latest.
    pub max_wait: Option<Duration>,
}

/// With which tasks one may be delivered.
#[derive(ToSchema, Serialize)]
pub(crate) struct Batch {
    /// Tasks with different keys are not mixed.
    pub key: String,
    /// The most in one delivery (1000).
    #[schema(minimum = 1, maximum = 1000)]
    pub max: Option<u16>,
    /// How long the first waits for others (50 ms).
    pub max_wait: Option<Duration>,
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
