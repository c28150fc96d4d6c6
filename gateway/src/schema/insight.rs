//! Trees and explanations.

use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

/// Parameters of a tree.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TreeQuery {
    /// `json` (default), `dot` or `mermaid`.
    pub format: Option<String>,
}

/// A task and all that came of it.
#[derive(ToSchema, Serialize)]
pub(crate) struct Tree {
    /// The first ancestor. Its record may be gone while those of its descendants are kept.
    pub root: String,
    /// The tasks in order of acceptance, the root first.
    pub nodes: Vec<TreeNode>,
    /// There are more tasks than are shown.
    pub truncated: bool,
}

/// A task of a tree.
#[derive(ToSchema, Serialize)]
pub(crate) struct TreeNode {
    /// Its id.
    pub id: String,
    /// The task that it came from.
    pub parent: Option<String>,
    /// `root`, `child`, `link`, `link_error` or `callback`.
    pub kind: String,
    /// Of a callback: what it reports.
    pub callback: Option<String>,
    /// Its task name.
    pub task: Option<String>,
    /// The address it is pushed to.
    pub url: Option<String>,
    /// Its name for people.
    pub name: Option<String>,
    /// Its state.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// Attempts started so far.
    pub attempt: u32,
    /// When it was accepted.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When it became final.
    #[schema(format = DateTime)]
    pub finished_at: Option<String>,
}

/// Why a task does not go on, or how it ended.
#[derive(ToSchema, Serialize)]
pub(crate) struct Explanation {
    /// Its id.
    pub id: String,
    /// Its state.
    pub state: String,
    /// Why it is in that state; of a queued task as observed now: `ready`, `held`, `paused`, `order`, `no_worker`, `no_dispatcher`,
    /// `unhealthy`, `recycling`, `breaker`, `throttled`, `concurrency`, `rate`, `limit_keys` or `batching`.
    pub reason: Option<String>,
    /// All of it in plain sentences.
    pub text: String,
    /// What keeps it from going on, what weighs most first.
    pub causes: Vec<Cause>,
    /// When it may go on by itself, as far as that is known.
    #[schema(format = DateTime)]
    pub next_at: Option<String>,
    /// When it may start, to judge by its place, by rates, or by what its queue started lately; null when nothing tells. The
    /// text says what it is judged by.
    #[schema(format = DateTime)]
    pub estimated_start: Option<String>,
    /// Its place in its lane, if it is queued.
    pub lane: Option<LanePlace>,
    /// Who would get it, or has it.
    pub worker: Option<WorkerStanding>,
}

/// One thing that keeps a task from going on.
#[derive(ToSchema, Serialize)]
pub(crate) struct Cause {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// When it passes by itself.
    #[schema(format = DateTime)]
    pub until: Option<String>,
    /// Of a limit: its key.
    pub key: Option<String>,
    /// Of a limit on tasks that run at once: how many do.
    pub in_use: Option<u32>,
    /// Of such a limit: how many may.
    pub limit: Option<u32>,
}

/// Where a task stands among those that pass the same gate.
#[derive(ToSchema, Serialize)]
pub(crate) struct LanePlace {
    /// The queue.
    pub queue: String,
    /// The task name that all of the lane have.
    pub task: Option<String>,
    /// The origin that all of the lane are pushed to.
    pub origin: Option<String>,
    /// Tasks before it, counted up to 1000.
    pub ahead: u32,
    /// There are more than were counted.
    pub more: bool,
    /// Tasks of the queue with a higher priority, over all partitions.
    pub higher: u64,
    /// There are more of those than were counted.
    pub higher_more: bool,
}

/// A worker, or an origin of bare URLs: of a queued task as the dispatcher of its partition sees it, else as all together do.
#[derive(ToSchema, Serialize)]
pub(crate) struct WorkerStanding {
    /// The worker's name, or the origin.
    pub name: String,
    /// Instances that can be called.
    pub instances: Option<u32>,
    /// Requests that are open now.
    pub open: Option<u32>,
    /// Requests that may be open at once.
    pub slots: Option<u32>,
    /// `closed`, `open` or `half_open`.
    pub breaker: Option<String>,
    /// Nothing is sent to it before this.
    #[schema(format = DateTime)]
    pub paused_until: Option<String>,
}
