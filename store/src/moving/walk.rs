//! In which order the records of a partition are moved.

use std::collections::BTreeSet;

use lovage_core::{AttemptEntry, Head, Ns, Partition, State, TaskKey};

use super::{END_OF_TIME, Move, Report, batch};
use crate::{Cursor, Index, ListQuery, Parts, Result, all_lanes};

/// Records of one batch: a call of any store may carry them.
const BATCH: usize = 200;
/// Parents of one batch, whose ended children go before them.
const PARENTS: usize = 50;

/// Moves the records of a partition.
pub(super) async fn partition(this: &Move<'_>, p: Partition, report: &mut Report) -> Result<()> {
    let namespaces: BTreeSet<Ns> = this.from.counts(p).await?.into_iter().map(|counts| counts.ns).collect();
    let mut blocked = Vec::new();
    for ns in &namespaces {
        let query = ListQuery { ns: *ns, states: vec![State::Blocked], ..ListQuery::default() };
        let mut from = Cursor::default();
        loop {
            let page = this.from.list(p, &query, from, BATCH).await?;
            blocked.extend(page.items);
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
    }
    // The oldest first: whoever was spawned came after the one that waits for it.
    blocked.sort_by_key(|(_, head)| head.seq);
    for parents in blocked.chunks(PARENTS) {
        let ended = ended_children(this, p, parents).await?;
        for part in ended.chunks(BATCH) {
            batch::go(this, p, part.to_vec(), report).await?;
        }
        batch::go(this, p, parents.to_vec(), report).await?;
    }
    drop(blocked);
    index(this, p, Index::Running { session: None }, report).await?;
    for (lane, _) in all_lanes(this.from, p).await? {
        index(this, p, Index::Lane { lane, after: None }, report).await?;
    }
    index(this, p, Index::Timer { until: END_OF_TIME }, report).await?;
    index(this, p, Index::Done { until: END_OF_TIME }, report).await
}

async fn index(this: &Move<'_>, p: Partition, index: Index, report: &mut Report) -> Result<()> {
    let mut from = Cursor::default();
    loop {
        let page = this.from.scan(p, &index, from, BATCH).await?;
        batch::go(this, p, page.items, report).await?;
        match page.next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// The children of these parents that have come to their end: what the parents are called with again.
async fn ended_children(this: &Move<'_>, p: Partition, parents: &[(TaskKey, Head)]) -> Result<Vec<(TaskKey, Head)>> {
    let mut keys = BTreeSet::new();
    for (parent, _) in parents {
        let stored = this.from.get(p, parent, Parts { attempts: true, ..Parts::default() }).await?;
        let entries = stored.map(|stored| stored.attempts).unwrap_or_default();
        let entries: Vec<AttemptEntry> = entries.iter().filter_map(|bytes| AttemptEntry::decode(bytes)).collect();
        let (ids, _) = AttemptEntry::waited_for(&entries);
        keys.extend(ids.iter().map(|id| TaskKey::new(parent.ns, id.clone())));
    }
    let keys: Vec<TaskKey> = keys.into_iter().collect();
    let heads = this.from.heads(p, &keys).await?;
    let ended = keys.into_iter().zip(heads).filter_map(|(key, head)| Some((key, head.filter(|head| head.state.is_final())?)));
    Ok(ended.collect())
}
