//! The processes of the cluster.

use serde::Serialize;
use utoipa::ToSchema;

use super::Duration;

/// A process of the cluster.
#[derive(ToSchema, Serialize)]
pub(crate) struct Node {
    /// Another one after each start.
    pub id: String,
    /// What people call it: its host unless it was given another.
    pub name: String,
    /// `gateway`, `dispatcher`.
    pub roles: Vec<String>,
    /// The version of its binary.
    pub version: String,
    /// Its process on its host.
    pub pid: u32,
    /// Where it listens.
    pub url: Option<String>,
    /// When it started.
    #[schema(format = DateTime)]
    pub started_at: String,
    /// `active`, `draining`: it takes nothing new, or `gone`: its lease has run out.
    pub state: String,
    /// Since it last renewed its lease; null if that is over.
    pub silent_for: Option<Duration>,
    /// The partitions whose tasks it may start.
    pub partitions: Vec<u16>,
    /// Attempts that it has open, as it said within the last seconds; null: it said nothing.
    pub open_attempts: Option<u64>,
}

/// The processes of the cluster.
#[derive(ToSchema, Serialize)]
pub(crate) struct Nodes {
    /// By their start.
    pub items: Vec<Node>,
    /// Always null.
    pub next_cursor: Option<String>,
}

/// How a node is fenced.
#[derive(ToSchema, Serialize)]
pub(crate) struct Fence {
    /// Although it was heard of just now (false).
    pub force: Option<bool>,
}
