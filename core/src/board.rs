//! What a dispatcher says of itself right now, for others to see.
//!
//! Only a dispatcher knows how its workers are doing, and what it knows is its own. Each publishes a board once in a while; who
//! shows something reads the boards of all. A board is a sight and not the truth: it is about a second old, and nothing is decided
//! by it.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::id::Ns;
use crate::instance::Counters;
use crate::standing::{BreakerState, Standing};
use crate::time::Millis;

/// The board of one process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Board {
    /// The number of its session.
    pub node: u64,
    /// When it was written.
    pub at: Millis,
    /// Attempts that it has open, over all partitions; none: it makes no attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<u64>,
    /// Workers and origins that it may call, the busiest first.
    pub workers: Vec<WorkerBoard>,
    /// Queues in which this process changed something lately, the busiest first.
    pub queues: Vec<QueueBoard>,
    /// Lanes wait because as many keys of limits are in use as this process holds at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lacks_keys: bool,
    /// Something did not fit and was left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// A worker, or an origin of bare URLs, in one process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerBoard {
    /// The tenant.
    pub ns: Ns,
    /// Its name; of bare URLs the origin.
    pub name: String,
    /// It stands for an origin of bare URLs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub origin: bool,
    /// Its live instances.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceBoard>,
    /// Whether it is left alone because its endpoint fails.
    pub breaker: BreakerState,
    /// Until when nothing is sent to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Millis>,
    /// Requests a second that it is sent at most, because it asked for less; none: as many as it has slots for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_rate: Option<f64>,
    /// Requests that may be open at once while it starts again; none: as many as it has slots for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<u32>,
    /// Requests a second that it was sent lately.
    #[serde(skip_serializing_if = "is_zero")]
    pub out_rate: f64,
}

/// An instance in one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceBoard {
    /// Where it is.
    pub url: String,
    /// Requests that are open.
    pub open: u32,
    /// Requests that may be open at once.
    pub slots: u32,
    /// Whether its health probe finds it well; one that is not probed is.
    #[serde(skip_serializing_if = "is_true")]
    pub healthy: bool,
    /// Its name, if that is not its URL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Bad answers to its probe in a row.
    #[serde(skip_serializing_if = "is_well")]
    pub failures: u8,
    /// Until when it is passed over because nobody was there when it was called, before it is tried again; zero: it is not.
    #[serde(skip_serializing_if = "is_never")]
    pub unreachable: Millis,
    /// When its probe was answered last; zero: never.
    #[serde(skip_serializing_if = "is_never")]
    pub probed: Millis,
    /// Since when it gets no new task because it is to be started anew; zero: it gets tasks.
    #[serde(skip_serializing_if = "is_never")]
    pub drained: Millis,
    /// When all processes began to count, as a document says; zero: each when it first saw the instance.
    #[serde(skip_serializing_if = "is_never")]
    pub born: Millis,
    /// When this one began to count.
    #[serde(skip_serializing_if = "is_never")]
    pub since: Millis,
    /// What was counted since it was last recycled.
    #[serde(flatten)]
    pub counts: InstanceCounts,
}

impl Default for InstanceBoard {
    fn default() -> Self {
        Self {
            url: String::new(),
            open: 0,
            slots: 0,
            healthy: true,
            name: String::new(),
            failures: 0,
            unreachable: Millis(0),
            probed: Millis(0),
            drained: Millis(0),
            born: Millis(0),
            since: Millis(0),
            counts: InstanceCounts::default(),
        }
    }
}

/// What a process has counted of an instance since it was last recycled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceCounts {
    /// Attempts that ended.
    #[serde(skip_serializing_if = "is_none")]
    pub tasks: u64,
    /// Those of them that failed.
    #[serde(skip_serializing_if = "is_none")]
    pub errors: u64,
    /// Bytes of memory that it last said it has; 0: it did not say.
    #[serde(skip_serializing_if = "is_none")]
    pub memory: u64,
}

/// A queue in one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueBoard {
    /// The tenant.
    pub ns: Ns,
    /// Its name.
    pub name: String,
    /// Attempts that started in the last [`LATELY`] seconds.
    pub started: u64,
    /// Tasks that came into it in the last [`WINDOW`] seconds.
    pub accepted: u64,
    /// Tasks that left it, because they became final, in the last [`WINDOW`] seconds.
    pub finished: u64,
}

/// The seconds over which starts are counted.
pub const LATELY: u64 = 10;
/// The seconds over which what comes into a queue and leaves it is counted.
pub const WINDOW: u64 = 60;

// serde passes references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_none(count: &u64) -> bool {
    *count == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_well(failures: &u8) -> bool {
    *failures == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_never(time: &Millis) -> bool {
    time.0 == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_true(healthy: &bool) -> bool {
    *healthy
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(rate: &f64) -> bool {
    *rate <= 0.0
}

impl Board {
    /// The JSON of a board in at most `most` bytes: what does not fit is left out, the last ones first.
    pub fn encode(mut self, most: usize) -> Vec<u8> {
        loop {
            // Plain data into a Vec cannot fail.
            let bytes = serde_json::to_vec(&self).unwrap_or_default();
            if bytes.len() <= most || self.workers.is_empty() && self.queues.is_empty() {
                return bytes;
            }
            self.cut = true;
            self.workers.truncate(self.workers.len() * 3 / 4);
            self.queues.truncate(self.queues.len() * 3 / 4);
        }
    }

    /// Reads what [`Board::encode`] wrote, also that of an older or newer version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The worker with this name, or the origin.
    pub fn worker(&self, ns: Ns, name: &str, origin: bool) -> Option<&WorkerBoard> {
        self.workers.iter().find(|worker| worker.ns == ns && worker.origin == origin && worker.name == name)
    }

    /// The queue with this name, if something happened in it lately.
    pub fn queue(&self, ns: Ns, name: &str) -> Option<&QueueBoard> {
        self.queues.iter().find(|queue| queue.ns == ns && queue.name == name)
    }
}

impl InstanceBoard {
    /// Its name.
    pub fn name(&self) -> &str {
        if self.name.is_empty() { &self.url } else { &self.name }
    }

    /// Whether it gets tasks.
    pub fn is_usable(&self) -> bool {
        self.healthy && self.drained.0 == 0
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        Counters { since: self.since, tasks: self.counts.tasks, errors: self.counts.errors, memory: self.counts.memory }
    }

    /// The same instance as two processes see it. Of counters that began at other times the later ones hold.
    fn add(&mut self, theirs: &Self) {
        self.open = self.open.saturating_add(theirs.open);
        self.slots = self.slots.saturating_add(theirs.slots);
        self.healthy &= theirs.healthy;
        self.failures = self.failures.max(theirs.failures);
        self.unreachable = self.unreachable.max(theirs.unreachable);
        self.probed = self.probed.max(theirs.probed);
        self.drained = self.drained.max(theirs.drained);
        let counters = match self.born.cmp(&theirs.born) {
            Ordering::Less => theirs.counters(),
            Ordering::Equal => self.counters().with(theirs.counters()),
            Ordering::Greater => self.counters(),
        };
        self.born = self.born.max(theirs.born);
        self.since = counters.since;
        self.counts = InstanceCounts { tasks: counters.tasks, errors: counters.errors, memory: counters.memory };
    }
}

impl WorkerBoard {
    /// How it is doing, in short.
    pub fn standing(&self) -> Standing {
        // Those that nobody answers at are passed over as long as there are others.
        let passes = self.instances.iter().any(|instance| instance.is_usable() && instance.unreachable.0 == 0);
        let is_counted = |it: &&InstanceBoard| it.is_usable() && (it.unreachable.0 == 0 || !passes);
        let usable = || self.instances.iter().filter(is_counted);
        let sum = |count: fn(&InstanceBoard) -> u32| usable().map(count).fold(0, u32::saturating_add);
        let slots = sum(|instance| instance.slots);
        Standing {
            instances: usable().count() as u32,
            open: sum(|instance| instance.open),
            slots: self.allowed.map_or(slots, |allowed| allowed.min(slots)),
            breaker: self.breaker,
            paused_until: self.paused_until,
            effective_rate: self.effective_rate,
        }
    }

    /// The same worker as several processes see it: what is counted is added up, and the worst of the rest holds.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for theirs in &other.instances {
            if let Some(ours) = self.instances.iter_mut().find(|ours| ours.url == theirs.url) {
                ours.add(theirs);
            } else {
                self.instances.push(theirs.clone());
            }
        }
        self.breaker = self.breaker.max(other.breaker);
        self.paused_until = self.paused_until.max(other.paused_until);
        // One that is not slowed counts with what it sends.
        if self.effective_rate.is_some() || other.effective_rate.is_some() {
            self.effective_rate =
                Some(self.effective_rate.unwrap_or(self.out_rate) + other.effective_rate.unwrap_or(other.out_rate));
        }
        let slots = |worker: &Self| worker.instances.iter().map(|instance| instance.slots).fold(0, u32::saturating_add);
        if self.allowed.is_some() || other.allowed.is_some() {
            let before = slots(&self).saturating_sub(slots(other));
            self.allowed = Some(self.allowed.unwrap_or(before).saturating_add(other.allowed.unwrap_or_else(|| slots(other))));
        }
        self.out_rate += other.out_rate;
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn instance(url: &str, open: u32, slots: u32) -> InstanceBoard {
        InstanceBoard { url: url.into(), open, slots, ..InstanceBoard::default() }
    }

    #[test]
    fn boards_are_read_as_they_were_written_and_of_other_versions_too() {
        let worker = WorkerBoard { name: "w".into(), instances: vec![instance("http://a/", 1, 100)], ..WorkerBoard::default() };
        let queue = QueueBoard { name: "q".into(), started: 3, ..QueueBoard::default() };
        let board = Board { node: u64::MAX, at: Millis(5), workers: vec![worker], queues: vec![queue], ..Board::default() };
        assert_eq!(Board::decode(&board.clone().encode(10_000)).unwrap(), board);
        let newer = br#"{"node":7,"news":1,"workers":[{"name":"w","moods":[],"instances":[{"url":"u"}]}]}"#;
        let board = Board::decode(newer).unwrap();
        assert!(board.node == 7 && board.workers[0].instances[0].healthy);
        assert_eq!(Board::decode(b"junk"), None);
    }

    #[test]
    fn of_a_board_that_is_too_long_the_last_are_left_out() {
        let name = |n: usize| format!("worker-{n}");
        let workers = (0..1_000).map(|n| WorkerBoard { name: name(n), ..WorkerBoard::default() }).collect();
        let queues = (0..1_000).map(|n| QueueBoard { name: name(n), ..QueueBoard::default() }).collect();
        let bytes = Board { workers, queues, ..Board::default() }.encode(20_000);
        let board = Board::decode(&bytes).unwrap();
        assert!(bytes.len() <= 20_000 && board.cut && board.workers.len() > 50, "{} of {}", board.workers.len(), bytes.len());
        assert_eq!(board.worker(Ns::DEFAULT, &name(board.workers.len() - 1), false).map(|w| w.origin), Some(false));
        assert_eq!(board.worker(Ns::DEFAULT, &name(board.workers.len()), false), None);
    }

    #[test]
    fn what_several_see_is_added_up() {
        let mine = WorkerBoard { instances: vec![instance("a", 1, 10)], out_rate: 2.0, ..WorkerBoard::default() };
        let theirs = WorkerBoard {
            instances: vec![instance("a", 2, 10), instance("b", 0, 5)],
            breaker: BreakerState::Open,
            paused_until: Some(Millis(9)),
            effective_rate: Some(1.0),
            allowed: Some(1),
            ..WorkerBoard::default()
        };
        for both in [mine.clone().and(&theirs), theirs.clone().and(&mine)] {
            let standing = both.standing();
            assert_eq!((standing.instances, standing.open, standing.slots), (2, 3, 11));
            assert_eq!((standing.breaker, standing.paused_until), (BreakerState::Open, Some(Millis(9))));
            assert_eq!((standing.effective_rate, both.out_rate), (Some(3.0), 2.0));
        }
    }
}
