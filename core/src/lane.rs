//! Lanes: tasks that wait behind the same gate, in the order in which they may pass it.

use serde::{Deserialize, Serialize};

use crate::head::LaneId;
use crate::id::Ns;
use crate::keys::Batching;

/// Where the tasks of a lane are pushed to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// To whichever worker serves this task name.
    Task(String),
    /// Straight to URLs of this origin (`https://host:port`).
    Origin(String),
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
}

impl LaneDef {
    /// The lane's id: a hash of its definition that never changes between releases (64-bit FNV-1a, finished by
    /// an avalanche step). Never 0.
    pub fn id(&self) -> LaneId {
        let (tag, name) = match &self.route {
            Route::Task(name) => (b't', name),
            Route::Origin(origin) => (b'o', origin),
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
        let lane = |queue: &str, route| LaneDef { ns: Ns(0), queue: queue.into(), route, batch: None }.id();
        assert_eq!(lane("default", Route::Task("demo.add".into())), LaneId(GOLDEN));
        assert_ne!(lane("a", Route::Task("b".into())), lane("a", Route::Origin("b".into())));
        assert_ne!(lane("ab", Route::Task("c".into())), lane("a", Route::Task("bc".into())));
    }

    #[test]
    fn tasks_that_are_batched_differently_have_lanes_of_their_own() {
        let lane = |batch| LaneDef { ns: Ns(0), queue: "q".into(), route: Route::Task("t".into()), batch }.id();
        let batch = |key: &str, max, ms| Some(Batching { key: key.into(), max, max_wait: crate::units::Dur::from_millis(ms) });
        let ids = [lane(None), lane(batch("a", 5, 1)), lane(batch("b", 5, 1)), lane(batch("a", 6, 1)), lane(batch("a", 5, 2))];
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), ids.len());
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
