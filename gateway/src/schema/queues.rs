//! Queues.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Duration, RetryPolicy};

/// What holds for a queue and its tasks.
#[derive(ToSchema, Serialize)]
pub(crate) struct QueueIn {
    /// Starts per second, minute or hour, over all nodes.
    #[schema(example = "200/m")]
    pub rate: Option<String>,
    /// Starts that may come at once (1).
    #[schema(minimum = 1)]
    pub burst: Option<u32>,
    /// Tasks that may run at once, over all nodes.
    pub concurrency: Option<u32>,
    /// How many tasks may be blocked, scheduled, queued or retrying.
    #[schema(minimum = 1)]
    pub max_length: Option<u64>,
    /// What happens to a task that would be one more (`reject`).
    pub on_full: Option<OnFull>,
    /// No attempt of a task starts later than so long after it could have started.
    pub max_age: Option<Duration>,
    /// For tasks that do not say it, nor does their type.
    pub retry: Option<RetryPolicy>,
    /// For tasks that do not say it, nor does their type.
    pub soft_time_limit: Option<Duration>,
    /// For tasks that do not say it, nor does their type.
    pub time_limit: Option<Duration>,
    /// For tasks that do not say it, nor does their type.
    pub max_run: Option<Duration>,
    /// For tasks that do not say it, nor does their type.
    pub retention: Option<Duration>,
    /// The worker that all its tasks without a URL go to, whatever patterns say.
    pub worker: Option<String>,
    /// In which order its tasks start (`priority`). Tasks that wait when it is changed keep theirs.
    pub order: Option<QueueOrder>,
}

/// What happens at a full queue.
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnFull {
    /// New tasks are refused with `queue_full`.
    Reject,
    /// The oldest that wait are canceled (`dropped`).
    DropOldest,
}

/// The order of a queue.
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum QueueOrder {
    /// Higher priority first.
    Priority,
    /// In order of acceptance.
    Fifo,
    /// Round robin by `fair_key`, priority within a key.
    Fair,
}

/// What is closed.
#[derive(ToSchema, Serialize)]
pub(crate) struct Pause {
    /// New tasks are refused.
    pub intake: bool,
    /// Waiting tasks do not start.
    pub dispatch: bool,
    /// Until then; null: until it is resumed.
    #[schema(format = DateTime)]
    pub until: Option<String>,
}

/// What to close.
#[derive(ToSchema, Serialize)]
pub(crate) struct PauseIn {
    /// Refuse new tasks (false).
    pub intake: Option<bool>,
    /// Do not start waiting tasks (true).
    pub dispatch: Option<bool>,
    /// When it is over; none: when it is resumed.
    #[schema(format = DateTime)]
    pub until: Option<String>,
}

/// A queue.
#[derive(ToSchema, Serialize)]
pub(crate) struct Queue {
    /// Its name.
    pub name: String,
    /// When it was made or first used; null for `default` until it is set up.
    #[schema(format = DateTime)]
    pub created_at: Option<String>,
    #[serde(flatten)]
    pub settings: QueueIn,
    /// What is closed now; null: nothing.
    pub paused: Option<Pause>,
    /// Also the `ETag`; null for `default` until it is set up.
    pub version: Option<u64>,
}

/// A page of queues.
#[derive(ToSchema, Serialize)]
pub(crate) struct Queues {
    /// By name.
    pub items: Vec<Queue>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// What a purge did.
#[derive(ToSchema, Serialize)]
pub(crate) struct Purged {
    /// Tasks that it canceled.
    pub count: u64,
}

/// What is in a queue.
#[derive(ToSchema, Serialize)]
pub(crate) struct QueueStats {
    /// Tasks by state.
    pub depth: BTreeMap<String, u64>,
    /// How long the oldest queued task has been waiting; null if none waits.
    pub oldest_age: Option<String>,
    /// Tasks a second that came into it in the last minute: submitted, started by others, tried again by hand, or moved here. Over
    /// all nodes and about a second old; null: so many queues are busy that this one is not shown.
    pub in_rate: Option<f64>,
    /// Tasks a second that left it in the last minute, because they became final or were moved.
    pub out_rate: Option<f64>,
}
