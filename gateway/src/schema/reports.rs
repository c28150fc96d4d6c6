//! What workers report, and what they are answered.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Duration, Signature};

/// The worker is alive.
#[derive(ToSchema, Serialize)]
pub(crate) struct Heartbeat {
    /// How long it may be silent from now on (as before; 100 ms to 24 h).
    pub lease: Option<Duration>,
    /// Its resident memory, in bytes or with a unit.
    pub memory_rss: Option<String>,
}

/// Why an attempt failed.
#[derive(ToSchema, Serialize)]
pub(crate) struct Fail {
    /// A short name to group by.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// One or a few sentences.
    pub message: Option<String>,
    /// A stack trace.
    pub stack: Option<String>,
    /// The retry policy decides (false).
    pub retry: Option<bool>,
}

/// When to see the task again.
#[derive(ToSchema, Serialize)]
pub(crate) struct Snooze {
    /// So much later.
    pub after: Duration,
}

/// Tasks to start.
#[derive(ToSchema, Serialize)]
pub(crate) struct Spawn {
    /// Up to 1 000 signatures without `id`, `unique` and `debounce`.
    #[schema(min_items = 1, max_items = 1000)]
    pub tasks: Vec<Signature>,
    /// `wait` for their ends and be called again, or `detach` (wait).
    pub then: Option<String>,
}

/// What the task becomes.
#[derive(ToSchema, Serialize)]
pub(crate) struct Replace {
    /// A signature without `id`, `unique` and `debounce`.
    pub replacement: Signature,
}

/// Lines for the record of the attempt.
#[derive(ToSchema, Serialize)]
pub(crate) struct Logs {
    /// In order.
    pub lines: Vec<String>,
}

/// How an attempt stands.
#[derive(ToSchema, Serialize)]
pub(crate) struct Standing {
    /// Whether the worker should go on with this attempt; false when it is over.
    #[serde(rename = "continue")]
    pub goes_on: bool,
    /// The task is called off: come to an end.
    pub cancel_requested: bool,
    /// The soft time limit has passed: come to an end.
    pub soft_deadline_passed: bool,
    /// When the attempt is over unless its lease is renewed; null when it is over.
    #[schema(format = DateTime)]
    pub deadline: Option<String>,
}
