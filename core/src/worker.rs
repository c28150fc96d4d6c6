//! Workers as they are stored, and which of them serves a task.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::classify::StatusMap;
use crate::instance::{Balance, Health, Recycle};
use crate::limit::LimitRule;
use crate::time::Millis;
use crate::units::{Dur, Rate};

/// Open requests per instance, when nothing is said; also for the origin of bare URLs.
pub const DEFAULT_CONCURRENCY: u32 = 100;
/// How long a running attempt may go on after a soft cancel, when nothing is said.
pub const DEFAULT_CANCEL_GRACE: Duration = Duration::from_secs(10);

/// A registered worker: what it serves and how it is called. Stored as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerConfig {
    /// Where its instances are; may contain `{task}`. Empty: only self-registered instances.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Patterns of the task names it serves, such as `images.*`.
    pub tasks: Vec<String>,
    /// Only tasks of these queues; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<String>,
    /// Requests that one dispatcher may have open at one instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Starts of its tasks and how many of them may come at once: the limit `worker:NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// See `rate`; none: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// How long a running attempt may go on after a soft cancel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_grace: Option<Dur>,
    /// Headers added to every delivery; their values are never shown.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Where it is told of cancels and time limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_url: Option<String>,
    /// When it is left alone because its endpoint fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// Every 202 it answers is an acceptance: it will report to the attempt URL.
    #[serde(rename = "async", skip_serializing_if = "std::ops::Not::not")]
    pub accepts: bool,
    /// It takes tasks together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<WorkerBatch>,
    /// It cannot be called: it takes its tasks itself, and has no URL.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pull: bool,
    /// Which instance gets the next task.
    #[serde(skip_serializing_if = "Balance::is_default")]
    pub balance: Balance,
    /// How its instances are asked whether they are well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// When its instances are to be started anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recycle: Option<Recycle>,
    /// What its statuses mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_map: Option<StatusMap>,
    /// Somebody asked that nothing new be sent to it; also of one that pulls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<WorkerPause>,
    /// Its signing secrets, newest first.
    pub signing: Vec<SigningSecret>,
}

/// When a worker is left alone because its endpoint fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// After so many faults of the endpoint in a row.
    pub failures: u32,
    /// For so long at first; then one attempt is tried.
    pub open_for: Dur,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 5, open_for: Dur::from_secs(10) }
    }
}

/// How a worker takes tasks together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerBatch {
    /// The most in one delivery.
    pub max: u16,
}

/// Nothing new is sent to a worker; what is open goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerPause {
    /// Over by itself at this time; none: until somebody ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// It is to be emptied: shown as `draining` while something is open.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

/// A secret with which deliveries are signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningSecret {
    /// `whsec_…`.
    pub secret: String,
    /// Not used after this; none: until it is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
}

/// The signing key of a namespace, for bare URLs and callbacks. Stored as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// Its secrets, newest first.
    pub secrets: Vec<SigningSecret>,
}

/// A self-registered instance of a worker. Stored as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceConfig {
    /// Where it is.
    pub url: String,
    /// Gone at this time unless it registers again.
    pub until: Millis,
    /// When it came, under this URL and with this version; zero: not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: Millis,
    /// Open requests it takes; none: the worker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(time: &Millis) -> bool {
    time.0 == 0
}

impl WorkerConfig {
    /// Requests that one dispatcher may have open at one instance.
    pub fn concurrency(&self) -> u32 {
        self.concurrency.unwrap_or(DEFAULT_CONCURRENCY)
    }

    /// How long a running attempt may go on after a soft cancel.
    pub fn cancel_grace(&self) -> Duration {
        self.cancel_grace.map_or(DEFAULT_CANCEL_GRACE, Into::into)
    }

    /// The limit of its tasks together, `worker:NAME`. What its instances take at once is no part of it.
    pub fn rule(&self) -> LimitRule {
        LimitRule { rate: self.rate, burst: self.burst, concurrency: None }
    }

    /// When it is left alone because its endpoint fails.
    pub fn breaker(&self) -> Breaker {
        self.breaker.unwrap_or_default()
    }

    /// The pause that somebody asked for, if it is not over.
    pub fn paused(&self, now: Millis) -> Option<WorkerPause> {
        self.paused.filter(|pause| pause.until.is_none_or(|until| until > now))
    }

    /// How closely it names this task; `None`: it does not serve it.
    pub fn serves(&self, queue: &str, task: &str) -> Option<Closeness> {
        if !self.queues.is_empty() && !self.queues.iter().any(|q| q == queue) {
            return None;
        }
        self.tasks.iter().filter_map(|pattern| closeness(pattern, task)).max()
    }
}

/// How closely a pattern names a task: an exact name beats any pattern, then more literal characters win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Closeness {
    exact: bool,
    literal: usize,
}

/// Whether `pattern` names `task`; `*` stands for any run of characters.
pub fn closeness(pattern: &str, task: &str) -> Option<Closeness> {
    if !pattern.contains('*') {
        return (pattern == task).then_some(Closeness { exact: true, literal: pattern.len() });
    }
    let mut parts = pattern.split('*');
    let mut rest = task.strip_prefix(parts.next()?)?;
    let mut parts: Vec<&str> = parts.collect();
    let last = parts.pop()?;
    for part in parts {
        rest = &rest[rest.find(part)? + part.len()..];
    }
    rest.ends_with(last).then(|| Closeness { exact: false, literal: pattern.len() - pattern.matches('*').count() })
}

/// The worker that serves a task: the most specific pattern wins, then the first name in alphabetical order.
pub fn route<'a, W>(workers: impl Iterator<Item = (&'a str, &'a WorkerConfig, W)>, queue: &str, task: &str) -> Option<W> {
    let mut best: Option<(Closeness, &str, W)> = None;
    for (name, config, worker) in workers {
        let Some(closeness) = config.serves(queue, task) else { continue };
        let better = best.as_ref().is_none_or(|(c, n, _)| closeness > *c || closeness == *c && name < *n);
        if better {
            best = Some((closeness, name, worker));
        }
    }
    best.map(|(.., worker)| worker)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_name_tasks() {
        for (pattern, task, yes) in [
            ("images.*", "images.resize", true),
            ("images.*", "images.", true),
            ("images.*", "image", false),
            ("*", "anything", true),
            ("*.resize", "images.resize", true),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(closeness(pattern, task).is_some(), yes, "{pattern} {task}");
        }
    }

    #[test]
    fn the_most_specific_worker_wins() {
        let worker = |tasks: &[&str], queues: &[&str]| WorkerConfig {
            tasks: tasks.iter().map(ToString::to_string).collect(),
            queues: queues.iter().map(ToString::to_string).collect(),
            ..WorkerConfig::default()
        };
        let workers = [
            ("all", worker(&["*"], &[])),
            ("b-images", worker(&["images.*"], &[])),
            ("a-images", worker(&["images.*"], &[])),
            ("exact", worker(&["images.resize"], &["fast"])),
        ];
        let pick = |queue: &str, task: &str| route(workers.iter().map(|(n, w)| (*n, w, *n)), queue, task);
        assert_eq!(pick("default", "images.resize"), Some("a-images"));
        assert_eq!(pick("fast", "images.resize"), Some("exact"));
        assert_eq!(pick("fast", "mail.send"), Some("all"));
        assert_eq!(route(workers[1..].iter().map(|(n, w)| (*n, w, *n)), "default", "mail.send"), None);
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_obvious_definition(pattern in "[ab*]{0,6}", task in "[ab]{0,8}") {
            prop_assert_eq!(closeness(&pattern, &task).is_some(), naive(pattern.as_bytes(), task.as_bytes()));
        }
    }

    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|i| naive(rest, &text[i..])),
            Some((c, rest)) => text.split_first().is_some_and(|(t, others)| t == c && naive(rest, others)),
        }
    }
}
