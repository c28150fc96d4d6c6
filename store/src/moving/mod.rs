//! Moves everything from one store to another, while the servers of the destination already work.
//!
//! The source is still: its servers are stopped, and the caller holds its partitions. What is in the destination stays as
//! it is. Nothing is lost and nothing runs twice, wherever a move is cut short, because of the order of its steps:
//!
//! 1. The tasks of a batch are noted in a document of the source (`journal`).
//! 2. They are stored in the destination **parked**: blocked without a time, one version or more below their own, so that
//!    nobody starts them, and then given their attempts, result and barrier.
//! 3. They are deleted from the source.
//! 4. They are given their own heads: from here on the destination works on them.
//!
//! A run that finds a journal first ends that batch: parked copies of tasks that the source still has are thrown away,
//! those that it has no longer get their heads. Only verbs of the contract write, with their guards, so a move is as safe
//! as any other writer; [`Inside`] adds the reads that only a move needs.
//!
//! What waits for others goes first, the oldest first and each behind its ended children: a parent must be there before a
//! child can end, and the ended children before it is called again. Then come attempts that are accepted, waiting tasks in
//! the order of their lanes, and last what is final.

mod batch;
mod belongings;
mod journal;
mod loose;
mod lost;
mod report;
mod same;
#[cfg(test)]
mod tests;
mod walk;

use lovage_core::{Millis, Partition};

pub(crate) use belongings::set_bits;
pub use belongings::{Barrier, Belongings, Inside, KeyPage};
pub use loose::copy_documents;
pub use lost::settle_lost;
pub use report::{Refused, Report, Tally};
pub use same::are_same;

use crate::{Error, Result, Store};

/// Later than any time of a task.
const END_OF_TIME: Millis = Millis((1 << 48) - 1);

/// What is moved where.
pub struct Move<'a> {
    /// The source, of which the caller holds all partitions.
    pub from: &'a dyn Store,
    /// The same store.
    pub inside: &'a dyn Inside,
    /// The destination.
    pub to: &'a dyn Store,
    /// A random number, by which a store that is its own destination is known.
    pub nonce: u64,
    /// Told after every batch.
    pub told: &'a (dyn Fn(&Report) + Send + Sync),
}

impl Move<'_> {
    /// Counts what there is to move.
    pub async fn count(&self) -> Result<Report> {
        let mut report = Report::default();
        for p in self.partitions() {
            for counts in self.from.counts(p).await? {
                for (found, count) in report.found.iter_mut().zip(counts.states) {
                    *found += count;
                }
            }
        }
        Ok(report)
    }

    /// Moves everything. After a failure, a second call goes on where this one ended.
    pub async fn run(&self) -> Result<Report> {
        // What is there already is deleted in the source: in the same store that would be everything.
        if are_same(self.from, self.to, self.nonce).await? {
            return Err(Error::Invalid("a store cannot be moved to itself".into()));
        }
        journal::end(self).await?;
        let mut report = self.count().await?;
        loose::documents(self, &mut report).await?;
        for p in self.partitions() {
            loose::keys(self, p, &mut report).await?;
        }
        walk::blocked(self, &mut report).await?;
        for p in self.partitions() {
            walk::partition(self, p, &mut report).await?;
        }
        journal::clear(self.from).await?;
        (self.told)(&report);
        Ok(report)
    }

    fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.from.caps().partitions).map(Partition)
    }
}
