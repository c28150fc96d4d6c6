//! The feed of a partition: entries numbered from 1, all kept unless a bound is set.

use std::collections::VecDeque;
use std::sync::Arc;

use lovage_core::SessionId;

use crate::{FeedBatch, FeedEntry, FeedPos, FeedRow};

/// The most entries of one answer; a reader goes on from `next`.
const PAGE: usize = 1_000;

/// The entries still kept, and how many there ever were.
#[derive(Debug, Default)]
pub(super) struct Feed {
    entries: VecDeque<Arc<FeedEntry>>,
    written: u64,
}

impl Feed {
    /// Appends what a call changed.
    pub(super) fn push(&mut self, source: SessionId, rows: Vec<FeedRow>, sends: bool) {
        self.written += 1;
        self.entries.push_back(Arc::new(FeedEntry { pos: self.tail(), source, rows, sends }));
    }

    /// The end.
    pub(super) fn tail(&self) -> FeedPos {
        FeedPos { high: 0, low: self.written }
    }

    /// Keeps the latest `keep` entries.
    pub(super) fn trim(&mut self, keep: usize) {
        let surplus = self.entries.len().saturating_sub(keep);
        self.entries.drain(..surplus);
    }

    /// What comes after `at`: `Behind` if some of it is gone, or if the place is not of this feed.
    pub(super) fn after(&self, at: FeedPos) -> FeedBatch {
        let forgotten = self.written - self.entries.len() as u64;
        if at < (FeedPos { high: 0, low: forgotten }) || at > self.tail() {
            return FeedBatch::Behind { tail: self.tail() };
        }
        let seen = (at.low - forgotten) as usize;
        let entries: Vec<_> = self.entries.iter().skip(seen).take(PAGE).cloned().collect();
        let next = entries.last().map_or(at, |entry| entry.pos);
        FeedBatch::Entries { entries, next }
    }
}
