//! Errands: calls of a worker's instances that a user asks for and a dispatcher makes, as a document with room for the answers.
//!
//! Only dispatchers connect to addresses that users name. A document reaches one from any process; the first that takes it
//! answers, and whoever asked reads the answers and removes it.

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// The name of the task that a test sends.
pub const TEST_TASK: &str = "lovage.test";
/// The most instances that one errand calls.
pub const MOST_CALLED: usize = 100;

/// What is asked of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrandKind {
    /// Whether it is there: a GET of its health path, or of `/`.
    Ping,
    /// Whether it takes tasks: a signed call of [`TEST_TASK`].
    Test,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// What is asked.
    pub kind: ErrandKind,
    /// Of this worker.
    pub worker: String,
    /// Of this instance alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Nobody waits for the answer any more.
    pub until: Millis,
    /// The session that makes the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// What they answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<Called>>,
}

/// What one instance answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Called {
    /// Its name.
    pub instance: String,
    /// Where it is.
    pub url: String,
    /// Its status, if there was an answer.
    pub status: Option<u16>,
    /// Why there was none: a name from a fixed list.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}
