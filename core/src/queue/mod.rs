//! Queues: what holds for the tasks in them. See API: Queues, limits, task types.
//!
//! A queue is a stored document in which every field is optional: one that was never written limits nothing. What a queue says
//! of its tasks (`retry`, time limits, `retention`, `order`) is put into a task when it is accepted; what it says of itself
//! (`rate`, `concurrency`, `worker`, a pause) holds for all tasks that wait in it.

mod document;
pub(crate) mod fill;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ahash::AHashMap;
use serde::{Deserialize, Serialize};

use crate::id::Ns;
use crate::lane::LaneOrder;
use crate::limit::LimitRule;
use crate::retry::RetryPolicy;
use crate::time::Millis;
use crate::units::{Dur, Rate};

pub(crate) use document::pause_end;
pub use document::{FIELDS, MOST_CONCURRENCY, apply, read_pause, read_until};

/// What happens to a task that comes when its queue is as long as it may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// It is refused.
    #[default]
    Reject,
    /// The oldest that wait make room for it.
    DropOldest,
}

/// What is closed, by whom it was asked to be. Over at `until`, without anybody doing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// New tasks are refused.
    pub intake: bool,
    /// Waiting tasks do not start.
    pub dispatch: bool,
    /// Until then; none: until somebody resumes it.
    #[serde(default, with = "rfc3339")]
    pub until: Option<Millis>,
}

impl Pause {
    /// Whether it holds at this moment.
    pub fn holds(&self, now: Millis) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// Of two pauses that hold the one that is over later.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        let end = |pause: &Self| pause.until.unwrap_or(Millis::MAX);
        if end(&self) >= end(&other) { self } else { other }
    }
}

/// A queue as it is stored, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueConfig {
    /// When it was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Starts per period, over all nodes: the limit `queue:Q`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Starts that may come at once; none: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Tasks that may run at once, over all nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// How many tasks may be blocked, scheduled, queued or retrying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// What happens to a task that would be one more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_full: Option<OnFull>,
    /// A task that has waited for so long is not started any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Dur>,
    /// When and how often tasks that do not say it are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// As in a signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_time_limit: Option<Dur>,
    /// As in a signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Dur>,
    /// As in a signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_run: Option<Dur>,
    /// As in a signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Dur>,
    /// The worker of all its tasks that have no URL of their own, whatever patterns say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// In which order the tasks start that are accepted from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<LaneOrder>,
    /// What is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
}

impl QueueConfig {
    /// The limit `queue:Q`.
    pub fn rule(&self) -> LimitRule {
        LimitRule { rate: self.rate, burst: self.burst, concurrency: self.concurrency }
    }

    /// In which order its tasks start.
    pub fn order(&self) -> LaneOrder {
        self.order.unwrap_or_default()
    }

    /// What is closed at this moment.
    pub fn pause(&self, now: Millis) -> Option<Pause> {
        self.paused.filter(|pause| pause.holds(now))
    }

    /// The pause that holds new tasks back at this moment.
    pub fn intake_closed(&self, now: Millis) -> Option<Pause> {
        self.pause(now).filter(|pause| pause.intake)
    }

    /// The pause that holds waiting tasks back at this moment.
    pub fn dispatch_closed(&self, now: Millis) -> Option<Pause> {
        self.pause(now).filter(|pause| pause.dispatch)
    }
}

/// The queues of a namespace that say anything, by name.
pub type Queues = AHashMap<Box<str>, Arc<QueueConfig>>;

/// All queues at one moment, as a process knows them.
#[derive(Debug, Default, PartialEq)]
pub struct QueueLibrary {
    queues: AHashMap<Ns, Arc<Queues>>,
}

impl QueueLibrary {
    /// The queues that are stored: namespace, name and content. One that cannot be read says nothing and is told.
    pub fn read<'a>(
        stored: impl Iterator<Item = (Ns, &'a str, &'a [u8])>,
        mut unreadable: impl FnMut(Ns, &'a str, serde_json::Error),
    ) -> Self {
        let mut queues: AHashMap<Ns, Queues> = AHashMap::new();
        for (ns, name, bytes) in stored {
            match serde_json::from_slice::<QueueConfig>(bytes) {
                Ok(config) => {
                    let config = QueueConfig { created_at: None, ..config };
                    // Most queues are made on first use and stay as they are.
                    if config != QueueConfig::default() {
                        queues.entry(ns).or_default().insert(name.into(), Arc::new(config));
                    }
                }
                Err(error) => unreadable(ns, name, error),
            }
        }
        Self { queues: queues.into_iter().map(|(ns, queues)| (ns, Arc::new(queues))).collect() }
    }

    /// The queues of a namespace; `None`: none says anything.
    pub fn of(&self, ns: Ns) -> Option<&Arc<Queues>> {
        self.queues.get(&ns)
    }

    /// What a queue says, if it says anything.
    pub fn get(&self, ns: Ns, name: &str) -> Option<&Arc<QueueConfig>> {
        self.queues.get(&ns)?.get(name)
    }
}

mod rfc3339 {
    //! Instants as they leave the API.

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::time::Millis;

    // serde passes a reference.
    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)]
    pub(super) fn serialize<S: Serializer>(time: &Option<Millis>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(Millis::rfc3339).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Millis>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| Millis::parse_rfc3339(&text)).transpose().map_err(D::Error::custom)
    }
}
