//! Query parameters, headers and lists of tasks.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::{Duration, RetryPolicy, Signature, Task, TaskError};

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

/// `?dry_run=`
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DryRunQuery {
    /// Check it, and say where it would go and when it would be tried again; nothing is stored.
    pub dry_run: Option<bool>,
}

/// `If-Match`
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfMatchHeader {
    /// The `ETag` that the record must still have.
    #[param(rename = "If-Match")]
    pub if_match: Option<String>,
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
    /// What it has started, too: children and links (default).
    pub cascade: Option<bool>,
}

/// What a replay changes.
#[derive(ToSchema, Serialize)]
pub(crate) struct Replay {
    /// Fields of a signature that take the place of the stored ones; `null` removes one.
    #[schema(value_type = Option<Signature>)]
    pub edits: Option<Signature>,
}

/// Changes of a waiting task.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskPatch {
    /// Not before this time; null: at once.
    #[schema(format = DateTime)]
    pub eta: Option<String>,
    /// Not before so much later than now.
    pub delay: Option<Duration>,
    /// 0 to 9, higher first.
    #[schema(minimum = 0, maximum = 9)]
    pub priority: Option<u8>,
    /// The queue; made on first use.
    pub queue: Option<String>,
    /// Never started after this time; null: no expiry.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// Never started so much later than now.
    pub expires_in: Option<Duration>,
    /// All labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// The whole retry policy.
    pub retry: Option<RetryPolicy>,
}

/// A page of the attempts of a task.
#[derive(ToSchema, Serialize)]
pub(crate) struct Attempts {
    /// Oldest first.
    pub items: Vec<Attempt>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// One attempt.
#[derive(ToSchema, Serialize)]
pub(crate) struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// Rises with every manual retry.
    pub generation: u8,
    /// `running`, `succeeded`, `failed`, `canceled`, `given_back`, `lost`, `spawned`, `replaced`, or the reason of the
    /// retry.
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
    /// Which instance of it was called; null while the attempt runs, of a success at the first try, and of one that was
    /// accepted and reported its end.
    pub instance: Option<String>,
    /// The status of the answer that ended it; null where `instance` is.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<TaskError>,
    /// The first 2 KiB of the answer.
    pub excerpt: Option<String>,
    /// Lines that the worker logged, up to 8 KiB.
    pub logs: Vec<String>,
    /// Ids of the tasks that the worker spawned.
    pub children: Vec<String>,
}
