//! The feed: every change of a partition, in order, in batches. Whoever waits for anything reads it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use lovage_core::{Head, SessionId, TaskKey};

/// A place in a partition's feed or outbox. Opaque to users; `Display` and `FromStr` round-trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedPos {
    /// The life of the feed (embedded: a start of the store) or the high part of a stream id.
    pub high: u64,
    /// The entry within it.
    pub low: u64,
}

impl fmt::Display for FeedPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.high, self.low)
    }
}

impl FromStr for FeedPos {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { high: high.parse()?, low: low.parse()? })
    }
}

/// A record that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedRow {
    /// The task.
    pub key: TaskKey,
    /// Its head now; `None`: deleted.
    pub head: Option<Head>,
}

/// The changes of one call.
#[derive(Clone, Debug)]
pub struct FeedEntry {
    /// Where it stands.
    pub pos: FeedPos,
    /// The session that made the change; 0 for callers without one (gateways).
    pub source: SessionId,
    /// What changed, in order.
    pub rows: Vec<FeedRow>,
    /// Whether the call put messages into the outbox.
    pub sends: bool,
}

/// What a reader of the feed gets.
#[derive(Clone, Debug)]
pub enum FeedBatch {
    /// Entries after the asked place, in order; empty after the time-out.
    Entries {
        /// The entries.
        entries: Vec<Arc<FeedEntry>>,
        /// Where to read on.
        next: FeedPos,
    },
    /// The asked place is gone: re-read the state, then read on from `tail`.
    Behind {
        /// The end of the feed, taken before the state is read.
        tail: FeedPos,
    },
}
