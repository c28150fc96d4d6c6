//! What happened to a task.

use serde::Serialize;
use utoipa::ToSchema;

use super::TaskError;

/// What is known of a task, in order.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskEvents {
    /// Its creation, the starts and ends of its attempts, its state now.
    pub items: Vec<TaskEvent>,
    /// Always null.
    pub next_cursor: Option<String>,
}

/// Something that happened to a task.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskEvent {
    /// `task.created`, `attempt.started`, `attempt.ended`, or at last how it is now (`task.queued`, `task.started`, …).
    pub event: String,
    /// When; null where nobody knows.
    #[schema(format = DateTime)]
    pub at: Option<String>,
    /// The attempt.
    pub attempt: Option<u32>,
    /// The generation of the task that the attempt belongs to.
    pub generation: Option<u8>,
    /// The worker that was called.
    pub worker: Option<String>,
    /// How the attempt ended.
    pub outcome: Option<String>,
    /// Why the task is in its state.
    pub reason: Option<String>,
    /// What went wrong.
    pub error: Option<TaskError>,
    /// The task's version now.
    pub version: Option<u64>,
}
