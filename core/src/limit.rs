//! Limits: how often and how many at once tasks of a key may start, over all nodes. See API: Queues, limits, task types.

mod document;

use serde::{Deserialize, Serialize};

use crate::units::Rate;

pub(crate) use document::read_burst;
pub use document::{StoredLimit, check_rule, most, read_rule, refuse_built_in};

/// What a task says of one of its limits. None of the three: it only names the key, and a stored limit rules it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TaskLimit {
    /// The key, of the user's own choice: `queue:`, `task:` and `worker:` are taken.
    pub key: String,
    /// Starts per period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Starts that may come at once; none: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Tasks that may run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// For how many starts this one counts; at most `burst`.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub cost: u32,
}

const fn one() -> u32 {
    1
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_one(cost: &u32) -> bool {
    *cost == 1
}

impl TaskLimit {
    /// What it says of its key.
    pub fn rule(&self) -> LimitRule {
        LimitRule { rate: self.rate, burst: self.burst, concurrency: self.concurrency }
    }
}

/// What holds for a key. Nothing set: it limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitRule {
    /// Starts per period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Starts that may come at once; none: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Tasks that may run at once; 0 stops all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

impl LimitRule {
    /// Starts that may come at once.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or(1).max(1)
    }

    /// The fields that are set here, the others from `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            rate: self.rate.or(below.rate),
            burst: self.burst.or(below.burst),
            concurrency: self.concurrency.or(below.concurrency),
        }
    }

    /// Whether it limits nothing.
    pub fn is_free(&self) -> bool {
        self.rate.is_none() && self.concurrency.is_none()
    }
}

/// The prefixes of keys that follow from where a task is: their limits are written on the queue, the task type and the worker.
pub const BUILT_IN: [&str; 3] = ["queue:", "task:", "worker:"];

/// Whether a key is written elsewhere than under `/v1/limits`.
pub fn is_built_in(key: &str) -> bool {
    BUILT_IN.iter().any(|prefix| key.starts_with(prefix))
}
