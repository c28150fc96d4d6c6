//! The feed, kept in memory.
//!
//! Nothing in the contract needs entries to survive a restart: readers live in this process and end with it, so their
//! positions do too, and a position of an earlier life answers `Behind`. So there is no table for the feed and
//! no write for it; an entry is published once its transaction is committed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lovage_core::SessionId;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::apply::News;
use crate::{FeedBatch, FeedEntry, FeedPos};

/// The most entries one read returns.
const READ_LIMIT: usize = 1024;

/// See the module.
pub(super) struct Feed {
    /// The start of the store: the high part of every position.
    life: u64,
    max_rows: usize,
    ring: Mutex<Ring>,
    /// The low part of the last entry's position.
    end: watch::Sender<u64>,
}

struct Ring {
    entries: VecDeque<Arc<FeedEntry>>,
    rows: usize,
    last: u64,
}

impl Feed {
    pub(super) fn new(life: u64, max_rows: usize) -> Self {
        let ring = Ring { entries: VecDeque::new(), rows: 0, last: 0 };
        Self { life, max_rows, ring: Mutex::new(ring), end: watch::Sender::new(0) }
    }

    /// Appends committed changes, one entry per call, and wakes the readers.
    pub(super) fn publish(&self, changes: Vec<(SessionId, News)>) {
        if changes.is_empty() {
            return;
        }
        let mut ring = self.ring.lock();
        for (source, (rows, sends)) in changes {
            ring.last += 1;
            ring.rows += rows.len();
            let pos = FeedPos { high: self.life, low: ring.last };
            ring.entries.push_back(Arc::new(FeedEntry { pos, source, rows, sends }));
        }
        while ring.rows > self.max_rows && ring.entries.len() > 1 {
            if let Some(old) = ring.entries.pop_front() {
                ring.rows -= old.rows.len();
            }
        }
        let last = ring.last;
        drop(ring);
        self.end.send_replace(last);
    }

    /// The end of the feed.
    pub(super) fn tail(&self) -> FeedPos {
        FeedPos { high: self.life, low: self.ring.lock().last }
    }

    /// Forgets all entries, as if there had been many since.
    pub(super) fn forget(&self) {
        let mut ring = self.ring.lock();
        ring.entries.clear();
        ring.rows = 0;
    }

    /// Makes every reader start anew, also those that stand at the end: changes may have become true that are in no entry.
    pub(super) fn restart(&self) {
        let mut ring = self.ring.lock();
        ring.entries.clear();
        ring.rows = 0;
        ring.last += 1;
        let last = ring.last;
        drop(ring);
        self.end.send_replace(last);
    }

    /// Entries after `at`, waiting up to `wait` for the first.
    pub(super) async fn read(&self, at: FeedPos, wait: Duration) -> FeedBatch {
        let deadline = tokio::time::Instant::now() + wait;
        let mut end = self.end.subscribe();
        loop {
            end.mark_unchanged();
            if let Some(batch) = self.after(at) {
                return batch;
            }
            let waited = tokio::time::timeout_at(deadline, end.changed()).await;
            if !matches!(waited, Ok(Ok(()))) {
                return self.after(at).unwrap_or(FeedBatch::Entries { entries: Vec::new(), next: at });
            }
        }
    }

    fn after(&self, at: FeedPos) -> Option<FeedBatch> {
        let ring = self.ring.lock();
        let first = ring.last + 1 - ring.entries.len() as u64;
        if at.high != self.life || at.low > ring.last || at.low + 1 < first {
            return Some(FeedBatch::Behind { tail: FeedPos { high: self.life, low: ring.last } });
        }
        let skip = (at.low + 1 - first) as usize;
        let entries: Vec<_> = ring.entries.iter().skip(skip).take(READ_LIMIT).cloned().collect();
        let next = entries.last()?.pos;
        Some(FeedBatch::Entries { entries, next })
    }
}
