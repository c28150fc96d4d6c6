//! The reads.

use bytes::Bytes;
use lovage_core::{Head, LaneDef, LaneId, Millis, Ns, Partition, Score, SessionId, State, TaskKey};

use crate::{Result, Store};

/// Which parts of a record to read besides its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Spec, content type and payload.
    pub body: bool,
    /// The result.
    pub result: bool,
    /// The attempt entries.
    pub attempts: bool,
}

/// A record as read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its head.
    pub head: Head,
    /// `lovage_core::Body`, if asked for.
    pub body: Option<Bytes>,
    /// `lovage_core::ResultValue`, if asked for and there.
    pub result: Option<Bytes>,
    /// Attempt entries in order, if asked for.
    pub attempts: Vec<Bytes>,
}

/// Where a scan goes on. Opaque bytes; empty means from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub Vec<u8>);

/// An index to walk. The order is the one in which the owner needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Index {
    /// The tasks of a lane with a score above `after`, smallest first.
    Lane {
        /// The lane.
        lane: LaneId,
        /// Start behind this score; `None`: from the first.
        after: Option<Score>,
    },
    /// Tasks with a timer at or before this time, earliest first.
    Timer {
        /// The latest time of interest.
        until: Millis,
    },
    /// Tasks that run, of this session or of all.
    Running {
        /// Only those of this session.
        session: Option<SessionId>,
    },
    /// Final tasks whose janitor time is at or before this, earliest first.
    Done {
        /// The latest time of interest.
        until: Millis,
    },
    /// Tasks of a tree, without the root.
    Members {
        /// The root.
        root: TaskKey,
    },
}

/// A page of an index: keys with their heads.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The records. A page may hold fewer than asked for.
    pub items: Vec<(TaskKey, Head)>,
    /// Where to go on; `None`: this was the end.
    pub next: Option<Cursor>,
}

/// A page of the lanes of a partition.
#[derive(Clone, Debug, Default)]
pub struct LanePage {
    /// The lanes. A page may hold fewer than asked for.
    pub items: Vec<(LaneId, LaneDef)>,
    /// Where to go on; `None`: this was the end.
    pub next: Option<Cursor>,
}

/// Lanes of one page when all of them are wanted.
const LANES: usize = 1_000;

/// All lanes of a partition that hold tasks, in order of their ids.
pub async fn all_lanes<S: Store + ?Sized>(store: &S, p: Partition) -> Result<Vec<(LaneId, LaneDef)>> {
    let (mut lanes, mut from) = (Vec::new(), Cursor::default());
    loop {
        let page = store.lanes(p, from, LANES).await?;
        lanes.extend(page.items);
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    lanes.sort_by_key(|(lane, _)| *lane);
    lanes.dedup_by_key(|(lane, _)| *lane);
    Ok(lanes)
}

/// A listing of a namespace for people, newest first where the store can (the order is stable).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// The tenant.
    pub ns: Ns,
    /// Only tasks in one of these states; empty: all.
    pub states: Vec<State>,
    /// Only tasks created at or after this.
    pub created_after: Option<Millis>,
    /// Only tasks created before this.
    pub created_before: Option<Millis>,
}

/// How many tasks of a queue are in each state (absolute numbers).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueCounts {
    /// The tenant.
    pub ns: Ns,
    /// The queue.
    pub queue: String,
    /// Counts by `State as usize`.
    pub states: [u64; 9],
}
