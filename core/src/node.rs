//! What a process of the cluster says about itself.

use serde::{Deserialize, Serialize};

use crate::Millis;

/// A process, as its document tells. The name of the document is the number of its session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// What people call it: the host's name unless it was given another.
    pub name: String,
    /// What it does: `gateway`, `dispatcher`.
    pub roles: Vec<String>,
    /// The version of the binary.
    pub version: String,
    /// Its process id on its host.
    pub pid: u32,
    /// Where it listens, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// When it started.
    pub started_at: Millis,
    /// Somebody asked it to take nothing new.
    #[serde(default)]
    pub drain: bool,
}
