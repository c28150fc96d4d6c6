//! Tasks that workers take.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Duration;

/// What a worker wants to take.
#[derive(ToSchema, Serialize)]
pub(crate) struct LeaseIn {
    /// The worker, registered with `pull: true`.
    pub worker: String,
    /// The most tasks (1).
    #[schema(minimum = 1, maximum = 100)]
    pub max: Option<u32>,
    /// How long to wait for the first one (0; more than 60 s is taken as 60 s).
    pub wait: Option<Duration>,
    /// How long an attempt may be silent (5 m; 100 ms to 24 h).
    pub lease: Option<Duration>,
}

/// Tasks that a worker has now.
#[derive(ToSchema, Serialize)]
pub(crate) struct LeasedTasks {
    /// The tasks.
    pub items: Vec<LeasedTask>,
}

/// A task that a worker has now.
#[derive(ToSchema, Serialize)]
pub(crate) struct LeasedTask {
    /// Its id.
    pub id: String,
    /// Its name.
    pub task: Option<String>,
    /// Its queue.
    pub queue: String,
    /// Positional arguments of a call.
    pub args: Option<Vec<Value>>,
    /// Named arguments of a call.
    pub kwargs: Option<BTreeMap<String, Value>>,
    /// The payload, if it is no call: JSON as it is, text as a string.
    pub payload: Option<Value>,
    /// A payload that is neither JSON nor text, in Base64.
    pub payload_base64: Option<String>,
    /// The payload's content type.
    pub content_type: Option<String>,
    /// What became of the tasks that it spawned and waited for.
    pub children: Option<Vec<Value>>,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The most attempts that are charged.
    pub max_attempts: u32,
    /// Where to report; a secret for this attempt alone.
    pub attempt_url: String,
    /// When the lease runs out, unless it is renewed by a heartbeat.
    #[schema(format = DateTime)]
    pub deadline: String,
    /// When the worker should come to an end.
    #[schema(format = DateTime)]
    pub soft_deadline: Option<String>,
    /// Not before, as it was asked for.
    #[schema(format = DateTime)]
    pub eta: Option<String>,
    /// The task that spawned it.
    pub parent: Option<String>,
    /// The first ancestor.
    pub root: Option<String>,
    /// The trace that its task was submitted in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// As it was submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
}
