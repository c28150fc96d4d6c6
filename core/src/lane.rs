//! Lanes: tasks that wait behind the same gate, in the order in which they may pass it.

use serde::{Deserialize, Serialize};

use crate::head::{Flags, LaneId};
use crate::id::Ns;
use crate::keys::Batching;
use crate::limit::TaskLimit;
use crate::spec::DEFAULT_PRIORITY;

/// Where the tasks of a lane are pushed to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// To whichever worker serves this task name.
    Task(String),
    /// Straight to URLs of this origin (`https://host:port`).
    Origin(String),
    /// Each of its tasks says for itself: they share the lane for the sake of their order.
    Mixed,
}

/// In which order the tasks of a queue start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneOrder {
    /// Higher priority first; keys of `fair_key` share what is equal.
    #[default]
    Priority,
    /// Round robin by `fair_key`, priority within a key.
    Fair,
    /// In order of acceptance, whatever their priority: all tasks of the queue have one lane.
    Fifo,
}

impl LaneOrder {
    // serde's `skip_serializing_if` passes a reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(crate) fn is_priority(&self) -> bool {
        *self == Self::Priority
    }
}

/// What all tasks of a lane share: the keys of every gate they have to pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LaneDef {
    /// The tenant.
    pub ns: Ns,
    /// The queue.
    pub queue: String,
    /// Where its tasks go.
    pub route: Route,
    /// Its tasks may be delivered together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batching>,
    /// One at a time, in order of acceptance: the `order_key`. Lanes of several queues that have it share the order; all of
    /// them are in one partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_key: Option<String>,
    /// The tasks of this key share the queue with those of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fair_key: Option<String>,
    /// How the queue orders its tasks.
    #[serde(default, skip_serializing_if = "LaneOrder::is_priority")]
    pub order: LaneOrder,
    /// The limits of its tasks' own, in order of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<TaskLimit>,
    /// The priority of all its tasks; none: they differ, as in lanes that are kept in order or delivered together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Its tasks start whatever their limits say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
}

impl LaneDef {
    /// A lane with nothing but these.
    pub fn of(ns: Ns, queue: impl Into<String>, route: Route) -> Self {
        Self {
            ns,
            queue: queue.into(),
            route,
            batch: None,
            order_key: None,
            fair_key: None,
            order: LaneOrder::default(),
            limits: Vec::new(),
            priority: None,
            now: false,
        }
    }

    /// The lane of those of its tasks that start whatever their limits say. What is kept in order stays where it is.
    #[must_use]
    pub fn at_once(self) -> Self {
        if self.route == Route::Mixed { self } else { Self { batch: None, now: true, ..self } }
    }

    /// What the heads of its tasks say of it.
    pub fn flags(&self) -> Flags {
        match self.order {
            _ if self.order_key.is_some() => Flags::ORDERED,
            LaneOrder::Fifo => Flags::FIFO,
            LaneOrder::Priority | LaneOrder::Fair => Flags::default(),
        }
    }

    /// The lane's id: a hash of its definition that never changes between releases (64-bit FNV-1a, finished by
    /// an avalanche step). Never 0.
    pub fn id(&self) -> LaneId {
        let (tag, name) = match &self.route {
            Route::Task(name) => (b't', name.as_str()),
            Route::Origin(origin) => (b'o', origin.as_str()),
            Route::Mixed => (b'm', ""),
        };
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut feed = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        feed(&self.ns.0.to_be_bytes());
        feed(&(self.queue.len() as u32).to_be_bytes());
        feed(self.queue.as_bytes());
        feed(&[tag]);
        feed(name.as_bytes());
        // Only when present: the ids of all other lanes stay what they were. A zero byte is in no name.
        let keys = [(b'k', &self.order_key), (b'f', &self.fair_key)];
        let keys = keys.into_iter().filter_map(|(tag, key)| Some((tag, key.as_deref()?, None)));
        for (tag, key, limit) in keys.chain(self.limits.iter().map(|limit| (b'l', &*limit.key, Some(limit)))) {
            feed(&[0, tag]);
            feed(&(key.len() as u32).to_be_bytes());
            feed(key.as_bytes());
            let Some(limit) = limit else { continue };
            let rate = limit.rate.map(|rate| (u64::from(rate.count()) << 16) | rate.per().secs());
            for part in [rate, limit.burst.map(Into::into), limit.concurrency.map(Into::into), Some(limit.cost.into())] {
                feed(&[u8::from(part.is_some())]);
                feed(&part.unwrap_or_default().to_be_bytes());
            }
        }
        match self.order {
            _ if self.order_key.is_some() => {}
            LaneOrder::Priority => {}
            LaneOrder::Fair => feed(&[0, b'r']),
            LaneOrder::Fifo => feed(&[0, b'i']),
        }
        // The lane of the usual priority is the one that all priorities shared before they had lanes of their own.
        if let Some(priority) = self.priority.filter(|priority| *priority != DEFAULT_PRIORITY) {
            feed(&[0, b'p', priority]);
        }
        if self.now {
            feed(&[0, b'n']);
        }
        if let Some(Batching { key, max, max_wait }) = &self.batch {
            feed(&[0, b'b']);
            feed(&max.to_be_bytes());
            feed(&max_wait.millis().to_be_bytes());
            feed(key.as_bytes());
        }
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 33;
        LaneId(hash.max(1))
    }
}

/// A task's place in its lane: smaller goes first. Higher priority first, then order of acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Score(pub u64);

impl Score {
    /// Bits left for the order of acceptance: 17 × 10¹² tasks a partition.
    pub const SEQ_BITS: u32 = 44;

    /// The place of a task with this priority (0–9, higher first) and order of acceptance.
    pub fn new(priority: u8, seq: u64) -> Self {
        let rank = u64::from(9u8.saturating_sub(priority));
        Self(rank << Self::SEQ_BITS | (seq & ((1 << Self::SEQ_BITS) - 1)))
    }

    /// The rank part: 0 is the highest priority.
    pub fn rank(self) -> u8 {
        (self.0 >> Self::SEQ_BITS) as u8
    }

    /// The order of acceptance part.
    pub fn seq(self) -> u64 {
        self.0 & ((1 << Self::SEQ_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lane_ids_never_change() {
        let lane = |queue: &str, route| LaneDef::of(Ns(0), queue, route).id();
        assert_eq!(lane("default", Route::Task("demo.add".into())), LaneId(GOLDEN));
        assert_ne!(lane("a", Route::Task("b".into())), lane("a", Route::Origin("b".into())));
        assert_ne!(lane("ab", Route::Task("c".into())), lane("a", Route::Task("bc".into())));
    }

    #[test]
    fn tasks_that_are_batched_differently_have_lanes_of_their_own() {
        let lane = |batch| LaneDef { batch, ..LaneDef::of(Ns(0), "q", Route::Task("t".into())) }.id();
        let batch = |key: &str, max, ms| Some(Batching { key: key.into(), max, max_wait: crate::units::Dur::from_millis(ms) });
        let ids = [lane(None), lane(batch("a", 5, 1)), lane(batch("b", 5, 1)), lane(batch("a", 6, 1)), lane(batch("a", 5, 2))];
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), ids.len());
    }

    #[test]
    fn whatever_tells_lanes_apart_is_in_their_ids() {
        use crate::units::{Period, Rate};
        let plain = LaneDef::of(Ns(0), "q", Route::Task("t".into()));
        let limit = |key: &str| TaskLimit { key: key.into(), rate: None, burst: None, concurrency: Some(1), cost: 1 };
        let mixed = LaneDef::of(Ns(0), "q", Route::Mixed);
        let defs = [
            plain.clone(),
            LaneDef { priority: Some(9), ..plain.clone() },
            plain.clone().at_once(),
            LaneDef { fair_key: Some("a".into()), ..plain.clone() },
            LaneDef { fair_key: Some("b".into()), ..plain.clone() },
            LaneDef { order: LaneOrder::Fair, fair_key: Some("b".into()), ..plain.clone() },
            LaneDef { limits: vec![limit("a")], ..plain.clone() },
            LaneDef { limits: vec![limit("a"), limit("b")], ..plain.clone() },
            LaneDef { limits: vec![TaskLimit { cost: 2, burst: Some(2), ..limit("a") }], ..plain.clone() },
            LaneDef { limits: vec![TaskLimit { rate: Rate::new(1, Period::Hour), ..limit("a") }], ..plain.clone() },
            LaneDef { order: LaneOrder::Fifo, ..mixed.clone() },
            LaneDef { order_key: Some("a".into()), ..mixed.clone() },
            LaneDef { order_key: Some("b".into()), ..mixed.clone() },
        ];
        let ids: std::collections::HashSet<_> = defs.iter().map(LaneDef::id).collect();
        assert_eq!(ids.len(), defs.len());
        assert_eq!(LaneDef { priority: Some(DEFAULT_PRIORITY), ..plain.clone() }.id(), plain.id());
    }

    const GOLDEN: u64 = 8_545_594_306_078_772_303;

    proptest! {
        #[test]
        fn priority_before_order(p in 0u8..10, q in 0u8..10, a in 0u64..1 << 44, b in 0u64..1 << 44) {
            let expected = q.cmp(&p).then(a.cmp(&b));
            prop_assert_eq!(Score::new(p, a).cmp(&Score::new(q, b)), expected);
            prop_assert_eq!((Score::new(p, a).rank(), Score::new(p, a).seq()), (9 - p, a));
        }
    }
}
