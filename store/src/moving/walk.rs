//! In which order records are moved.

use std::collections::{BTreeMap, BTreeSet};

use lovage_core::{AttemptEntry, Flags, Head, Ns, Partition, State, TaskKey};

use super::{END_OF_TIME, Move, Report, batch};
use crate::{Cursor, Index, ListQuery, Parts, Result, all_lanes};

/// Records of one batch: a call of any store may carry them.
const BATCH: usize = 200;
/// Parents of one batch, whose ended children go before them.
const PARENTS: usize = 50;

/// Moves what waits for others, in all partitions: children may live elsewhere.
pub(super) async fn blocked(this: &Move<'_>, report: &mut Report) -> Result<()> {
    let (mut first, mut then) = (Vec::new(), Vec::new());
    for p in this.partitions() {
        let namespaces: BTreeSet<Ns> = this.from.counts(p).await?.into_iter().map(|counts| counts.ns).collect();
        for ns in namespaces {
            let query = ListQuery { ns, states: vec![State::Blocked], ..ListQuery::default() };
            let mut from = Cursor::default();
            loop {
                let page = this.from.list(p, &query, from, BATCH).await?;
                for (key, head) in page.items {
                    let list = if head.flags.has(Flags::HAS_PARENT) { &mut then } else { &mut first };
                    list.push((p, (key, head)));
                }
                match page.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
    }
    // The oldest first: whoever was spawned came after the one that waits for it.
    first.sort_by_key(|(p, (_, head))| (*p, head.seq));
    then.sort_by_key(|(p, (_, head))| (head.created, *p, head.seq));
    for some in [first, then] {
        for some in some.chunk_by(|a, b| a.0 == b.0) {
            for parents in some.chunks(PARENTS) {
                let parents: Vec<_> = parents.iter().map(|(_, parent)| parent.clone()).collect();
                together(this, some[0].0, parents, report).await?;
            }
        }
    }
    Ok(())
}

/// Moves parents of a partition behind their ended children.
async fn together(this: &Move<'_>, p: Partition, parents: Vec<(TaskKey, Head)>, report: &mut Report) -> Result<()> {
    for (home, ended) in ended_children(this, p, &parents).await? {
        for part in ended.chunks(BATCH) {
            batch::go(this, home, part.to_vec(), report).await?;
        }
    }
    batch::go(this, p, parents, report).await
}

/// Moves the records of a partition that wait for no other.
pub(super) async fn partition(this: &Move<'_>, p: Partition, report: &mut Report) -> Result<()> {
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

/// The children of these parents that have come to their end, by their partitions: what the parents are called with again.
async fn ended_children(
    this: &Move<'_>,
    p: Partition,
    parents: &[(TaskKey, Head)],
) -> Result<BTreeMap<Partition, Vec<(TaskKey, Head)>>> {
    let mut homes: BTreeMap<Partition, BTreeSet<TaskKey>> = BTreeMap::new();
    for (parent, _) in parents {
        let stored = this.from.get(p, parent, Parts { attempts: true, ..Parts::default() }).await?;
        let entries = stored.map(|stored| stored.attempts).unwrap_or_default();
        let entries: Vec<AttemptEntry> = entries.iter().filter_map(|bytes| AttemptEntry::decode(bytes)).collect();
        let (ids, _) = AttemptEntry::waited_for(&entries);
        for key in ids.iter().map(|id| TaskKey::new(parent.ns, id.clone())) {
            homes.entry(key.slot().partition(this.from.caps().partitions)).or_default().insert(key);
        }
    }
    let mut ended = BTreeMap::new();
    for (home, keys) in homes {
        let keys: Vec<TaskKey> = keys.into_iter().collect();
        let heads = this.from.heads(home, &keys).await?;
        let final_one = |(key, head): (TaskKey, Option<Head>)| Some((key, head.filter(|head| head.state.is_final())?));
        ended.insert(home, keys.into_iter().zip(heads).filter_map(final_one).collect());
    }
    Ok(ended)
}
