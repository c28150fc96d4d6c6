//! What a dry run of a submit answers.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{RetryPolicy, Task};

/// A submit that was answered with 200.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub(crate) enum Created {
    /// The task.
    Task(Box<Task>),
    /// With `dry_run`: what the task would be.
    DryRun(Box<DryRun>),
    /// Made by an earlier request, and its record is gone.
    Gone(TaskGone),
}

/// An earlier request that was answered with 200.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub(crate) enum Repeated {
    /// The task.
    Task(Box<Task>),
    /// Its record is gone.
    Gone(TaskGone),
}

/// A task that was deleted, or kept as long as it was to be, after it was made.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskGone {
    /// Its id.
    pub id: String,
}

/// What a task would be. Nothing was stored.
#[derive(ToSchema, Serialize)]
pub(crate) struct DryRun {
    /// Always true.
    pub dry_run: bool,
    /// `queued` or `scheduled`.
    pub state: String,
    /// Its name.
    pub task: Option<String>,
    /// The address it would be pushed to.
    pub url: Option<String>,
    /// The worker that would get it now; null if it is pushed to its URL or nobody serves it.
    pub worker: Option<String>,
    /// The queue it would wait in.
    pub queue: String,
    /// 0 to 9, higher first.
    pub priority: u8,
    /// Not before.
    #[schema(format = DateTime)]
    pub due_at: Option<String>,
    /// Never started at or after this.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// After this long of an attempt its worker is told to come to an end.
    pub soft_time_limit: Option<String>,
    /// How long the open request of one attempt may take.
    pub time_limit: String,
    /// How long an attempt may take in all after it was accepted.
    pub max_run: Option<String>,
    /// How long the result would be kept.
    pub result_ttl: String,
    /// How long the record would be kept after its end.
    pub retention: String,
    /// The same if it fails.
    pub retention_failed: String,
    /// With those that its task type adds.
    pub labels: BTreeMap<String, String>,
    /// Its order key, also that of its task type.
    pub order_key: Option<String>,
    /// Its fair key, also that of its task type.
    pub fair_key: Option<String>,
    /// The limits that it has to pass: those of its queue, task name and worker, and its own, as they are in force for it.
    pub limits: Vec<DryRunLimit>,
    /// The retry policy in force.
    pub retry: RetryPolicy,
    /// The attempts after the first, up to 100, if each fails at once.
    pub timetable: Vec<PlannedAttempt>,
}

/// A limit that the task would have to pass.
#[derive(ToSchema, Serialize)]
pub(crate) struct DryRunLimit {
    /// `queue:NAME`, `task:NAME`, `worker:NAME` or a key of its own.
    pub key: String,
    /// Starts per second, minute or hour.
    pub rate: Option<String>,
    /// Starts that may come at once.
    pub burst: Option<u32>,
    /// Tasks that may run at once.
    pub concurrency: Option<u32>,
    /// For how many starts it counts.
    pub cost: u32,
}

/// An attempt that would be made.
#[derive(ToSchema, Serialize)]
pub(crate) struct PlannedAttempt {
    /// Its number.
    pub attempt: u32,
    /// How long after the failure before.
    pub delay: DurationRange,
    /// How long after the start of the first attempt.
    pub after: DurationRange,
}

/// Between the two, by chance (`jitter`).
#[derive(ToSchema, Serialize)]
pub(crate) struct DurationRange {
    /// At least.
    pub min: String,
    /// At most.
    pub max: String,
}
