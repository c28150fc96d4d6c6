//! Bulk verbs.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Signature, TaskPatch};

/// The filters of a task list as an object.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskFilter {
    /// In one of these states; also a string.
    #[schema(nullable = false)]
    pub state: Option<Vec<String>>,
    /// With this name.
    #[schema(nullable = false)]
    pub task: Option<String>,
    /// In this queue.
    #[schema(nullable = false)]
    pub queue: Option<String>,
    /// Last sent to this worker.
    #[schema(nullable = false)]
    pub worker: Option<String>,
    /// With all of these labels, `KEY:VALUE`; also a string.
    #[schema(nullable = false)]
    pub label: Option<Vec<String>>,
    /// Descendants of this task.
    #[schema(nullable = false)]
    pub root: Option<String>,
    /// Accepted at this time or later.
    #[schema(format = DateTime, nullable = false)]
    pub created_after: Option<String>,
    /// Accepted before this time.
    #[schema(format = DateTime, nullable = false)]
    pub created_before: Option<String>,
    /// Failed with an error of this type.
    #[schema(nullable = false)]
    pub error_type: Option<String>,
    /// Failed and kept for inspection (or, with `false`, not).
    #[schema(nullable = false)]
    pub dead: Option<bool>,
}

/// Which tasks a bulk verb is about: `filter` or `ids`.
#[derive(ToSchema, Serialize)]
pub(crate) struct Bulk {
    /// All that pass; `{}` is all of them.
    pub filter: Option<TaskFilter>,
    /// These.
    pub ids: Option<Vec<String>>,
    /// Count only.
    pub dry_run: Option<bool>,
    /// `next_cursor` of the call before, with the same filter.
    pub cursor: Option<String>,
}

/// Which tasks to cancel, and how.
#[derive(ToSchema, Serialize)]
pub(crate) struct BulkCancel {
    /// All that pass; `{}` is all of them.
    pub filter: Option<TaskFilter>,
    /// These.
    pub ids: Option<Vec<String>>,
    /// Count only.
    pub dry_run: Option<bool>,
    /// `next_cursor` of the call before, with the same filter.
    pub cursor: Option<String>,
    /// `soft` (default) or `hard`.
    pub mode: Option<String>,
    /// What they have started, too: children and links (default).
    pub cascade: Option<bool>,
}

/// Which tasks to submit again, and with what changes.
#[derive(ToSchema, Serialize)]
pub(crate) struct BulkReplay {
    /// All that pass; `{}` is all of them.
    pub filter: Option<TaskFilter>,
    /// These.
    pub ids: Option<Vec<String>>,
    /// Count only.
    pub dry_run: Option<bool>,
    /// `next_cursor` of the call before, with the same filter.
    pub cursor: Option<String>,
    /// Fields of a signature that take the place of the stored ones; `null` removes one.
    #[schema(value_type = Option<Signature>)]
    pub edits: Option<Signature>,
}

/// Which tasks to change, and how.
#[derive(ToSchema, Serialize)]
pub(crate) struct BulkPatch {
    /// All that pass; `{}` is all of them.
    pub filter: Option<TaskFilter>,
    /// These.
    pub ids: Option<Vec<String>>,
    /// Count only.
    pub dry_run: Option<bool>,
    /// `next_cursor` of the call before, with the same filter.
    pub cursor: Option<String>,
    /// The changes.
    pub patch: TaskPatch,
}

/// What a call of a bulk verb did.
#[derive(ToSchema, Serialize)]
pub(crate) struct BulkAnswer {
    /// Tasks that were found.
    pub matched: u64,
    /// Tasks that were changed; none in a dry run.
    pub changed: u64,
    /// Tasks that could not be changed, or that do not exist; in a dry run those that could not.
    pub failed: u64,
    /// Call again with it; null: there are no more.
    pub next_cursor: Option<String>,
    /// The first 20 of those that failed.
    pub errors: Vec<BulkError>,
}

/// A task that could not be changed.
#[derive(ToSchema, Serialize)]
pub(crate) struct BulkError {
    /// Its id.
    pub id: String,
    /// The code for programs.
    pub code: String,
    /// Why, in a sentence.
    pub detail: String,
}
