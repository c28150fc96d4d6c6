//! Does a store agree with itself? Lists, indexes, counts and feed must all tell the same story.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lovage_core::{Head, LaneDef, LaneId, Millis, Ns, Partition, Score, TaskKey, placement};

use crate::{Cursor, FeedBatch, FeedPos, Index, ListQuery, QueueCounts, Result, Store, all_lanes};

/// All heads of a partition.
pub type Heads = BTreeMap<TaskKey, Head>;

/// What the audit is told: the lanes that were ever used and where the feed was before the first write.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The lanes, which also tell the queue of a task.
    pub lanes: BTreeMap<LaneId, Arc<LaneDef>>,
    /// The end of the feed when the partition was empty.
    pub start: FeedPos,
}

impl Known {
    /// With these lanes.
    pub fn new(lanes: impl IntoIterator<Item = Arc<LaneDef>>, start: FeedPos) -> Self {
        Self { lanes: lanes.into_iter().map(|lane| (lane.id(), lane)).collect(), start }
    }
}

/// Compares everything that can be read of a partition with the heads that are listed, and answers these. `Err` says
/// what does not fit. Call it when no write is on its way and the last one was durable.
pub async fn audit(store: &dyn Store, p: Partition, known: &Known) -> Result<Heads, String> {
    let heads = listed(store, p, known).await?;
    compare_heads(store, p, &heads).await?;
    compare_places(store, p, known, &heads).await?;
    compare_counts(store, p, known, &heads).await?;
    compare_outbox(store, p).await?;
    let replayed = replay(store, p, known.start, &heads).await?;
    same("the replayed feed", &replayed, &heads)?;
    Ok(heads)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} differs: found {found:?}, expected {expected:?}")) }
}

#[allow(clippy::needless_pass_by_value)] // the shape that `map_err` takes
fn failed(error: crate::Error) -> String {
    format!("a read failed: {error}")
}

async fn listed(store: &dyn Store, p: Partition, known: &Known) -> Result<Heads, String> {
    let namespaces: BTreeSet<Ns> = known.lanes.values().map(|lane| lane.ns).collect();
    let mut heads = Heads::new();
    for ns in namespaces {
        let query = ListQuery { ns, ..ListQuery::default() };
        let mut from = Cursor::default();
        loop {
            let page = store.list(p, &query, from, 100).await.map_err(failed)?;
            for (key, head) in page.items {
                if key.ns != ns {
                    return Err(format!("{key:?} is listed in namespace {}", ns.0));
                }
                if heads.insert(key.clone(), head).is_some() {
                    return Err(format!("{key:?} is listed twice"));
                }
            }
            let Some(next) = page.next else { break };
            from = next;
        }
    }
    Ok(heads)
}

async fn compare_heads(store: &dyn Store, p: Partition, heads: &Heads) -> Result<(), String> {
    let keys: Vec<_> = heads.keys().cloned().collect();
    for keys in keys.chunks(store.caps().max_batch.max(1)) {
        for (key, found) in keys.iter().zip(store.heads(p, keys).await.map_err(failed)?) {
            same("a head", &found.as_ref(), &heads.get(key))?;
        }
    }
    Ok(())
}

/// An index, read to its end.
pub async fn scan_all(store: &dyn Store, p: Partition, index: &Index, limit: usize) -> Result<Vec<(TaskKey, Head)>, String> {
    let mut items = Vec::new();
    let mut from = Cursor::default();
    loop {
        let page = store.scan(p, index, from, limit).await.map_err(failed)?;
        items.extend(page.items);
        let Some(next) = page.next else { return Ok(items) };
        from = next;
    }
}

async fn compare_places(store: &dyn Store, p: Partition, known: &Known, heads: &Heads) -> Result<(), String> {
    let mut lanes: BTreeMap<LaneId, BTreeMap<Score, TaskKey>> = BTreeMap::new();
    let (mut timers, mut running, mut done) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (key, head) in heads {
        let place = placement(head);
        if let Some((lane, score)) = place.lane {
            lanes.entry(lane).or_default().insert(score, key.clone());
        }
        timers.extend(place.timer.map(|time| (key.clone(), time.0)));
        running.extend(place.running.then(|| (key.clone(), 0)));
        done.extend(place.done.map(|time| (key.clone(), time.0)));
    }
    let defined: BTreeMap<_, _> = all_lanes(store, p).await.map_err(failed)?.into_iter().collect();
    for (lane, def) in &known.lanes {
        let index = Index::Lane { lane: *lane, after: None };
        let found: Vec<_> = scan_all(store, p, &index, 64).await?;
        check_heads(&index, &found, heads)?;
        let expected: Vec<_> = lanes.remove(lane).unwrap_or_default().into_values().collect();
        same(&format!("{index:?}"), &found.into_iter().map(|(key, _)| key).collect(), &expected)?;
        match defined.get(lane) {
            Some(found) => same("a lane's definition", &found, &&**def)?,
            None if expected.is_empty() => {}
            None => return Err(format!("{def:?} holds tasks and is not among the lanes")),
        }
    }
    if !lanes.is_empty() {
        return Err(format!("tasks in unknown lanes: {lanes:?}"));
    }
    let expected = [
        (Index::Timer { until: Millis::MAX }, timers),
        (Index::Running { session: None }, running),
        (Index::Done { until: Millis::MAX }, done),
    ];
    for (index, expected) in expected {
        let found = scan_all(store, p, &index, 64).await?;
        check_heads(&index, &found, heads)?;
        let numbers: Vec<u64> = found.iter().map(|(key, _)| expected.get(key).copied().unwrap_or_default()).collect();
        if !numbers.is_sorted() {
            return Err(format!("{index:?} is out of order: {numbers:?}"));
        }
        if found.len() != expected.len() {
            return Err(format!("{index:?} holds {} and should hold {}", found.len(), expected.len()));
        }
        let found: BTreeSet<_> = found.into_iter().map(|(key, _)| key).collect();
        same(&format!("{index:?}"), &found, &expected.into_keys().collect())?;
    }
    Ok(())
}

fn check_heads(index: &Index, found: &[(TaskKey, Head)], heads: &Heads) -> Result<(), String> {
    found.iter().try_for_each(|(key, head)| same(&format!("a head in {index:?}"), &Some(head), &heads.get(key)))
}

async fn compare_counts(store: &dyn Store, p: Partition, known: &Known, heads: &Heads) -> Result<(), String> {
    let mut recount: BTreeMap<(Ns, String), [u64; 9]> = BTreeMap::new();
    for (key, head) in heads {
        let queue = known.lanes.get(&head.lane).map(|lane| lane.queue.clone()).unwrap_or_default();
        recount.entry((key.ns, queue)).or_default()[head.state as usize] += 1;
    }
    let recount = recount.into_iter().map(|((ns, queue), states)| QueueCounts { ns, queue, states }).collect();
    same("the counts", &store.counts(p).await.map_err(failed)?, &recount)
}

/// That the pages of the outbox are in order, and as many messages as are said to wait.
async fn compare_outbox(store: &dyn Store, p: Partition) -> Result<(), String> {
    let (mut after, mut count) = (FeedPos::default(), 0);
    loop {
        let page = store.outbox(p, after, 3).await.map_err(failed)?;
        let Some(last) = page.messages.last() else { return same("the size of the outbox", &count, &page.waiting) };
        if page.messages[0].pos <= after || !page.messages.is_sorted_by_key(|sent| sent.pos) {
            return Err(format!("the outbox after {after} is out of order: {:?}", page.messages));
        }
        (after, count) = (last.pos, count + page.messages.len() as u64);
    }
}

/// The heads that follow from the feed alone. Reads on until they are the expected ones or nothing more comes.
async fn replay(store: &dyn Store, p: Partition, start: FeedPos, expected: &Heads) -> Result<Heads, String> {
    let mut heads = Heads::new();
    let mut at = start;
    let mut idle = 0;
    while idle < 20 {
        // The first looks do not wait: mostly everything is there.
        let wait = Duration::from_millis(if idle == 0 { 0 } else { 100 });
        match store.feed(p, at, wait).await.map_err(failed)? {
            FeedBatch::Behind { tail } => return Err(format!("the feed has lost {at}, its tail is {tail}")),
            FeedBatch::Entries { entries, next } => {
                if entries.is_empty() {
                    if heads == *expected {
                        break;
                    }
                    idle += 1;
                }
                for entry in entries {
                    if entry.pos <= at {
                        return Err(format!("feed entry {} comes after {at}", entry.pos));
                    }
                    at = entry.pos;
                    for row in &entry.rows {
                        match &row.head {
                            Some(head) => heads.insert(row.key.clone(), head.clone()),
                            None => heads.remove(&row.key),
                        };
                    }
                }
                at = at.max(next);
            }
        }
    }
    Ok(heads)
}
