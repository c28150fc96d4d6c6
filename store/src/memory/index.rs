//! Where each record of a partition sits: real indexes, kept from `lovage_core::placement` alone.
//!
//! Every index is a set of (number, key) in the order in which it is walked. A change takes the record out of all its
//! places and puts it into the new ones: slower than a difference, and impossible to get wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};

use lovage_core::{LaneId, Millis, Ns, TaskId, TaskKey, placement};

use super::tasks::Record;
use crate::{Cursor, Error, Index, QueueCounts, Result};

/// Keys in the order of a number, equal numbers in the order of the keys.
type Ordered = BTreeSet<(u64, TaskKey)>;

/// The indexes and counts of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Indexes {
    lanes: BTreeMap<LaneId, Ordered>,
    timers: Ordered,
    running: Ordered,
    done: Ordered,
    members: BTreeMap<TaskKey, Ordered>,
    newest: BTreeMap<Ns, Ordered>,
    counts: BTreeMap<(Ns, String), [u64; 9]>,
}

impl Indexes {
    /// Puts a record into all its places.
    pub(super) fn add(&mut self, key: &TaskKey, record: &Record) {
        let head = &record.head;
        let place = placement(head);
        let at = |number: u64| (number, key.clone());
        if let Some((lane, score)) = place.lane {
            self.lanes.entry(lane).or_default().insert(at(score.0));
        }
        if let Some(Millis(time)) = place.timer {
            self.timers.insert(at(time));
        }
        if place.running {
            self.running.insert(at(head.session.0));
        }
        if let Some(Millis(time)) = place.done {
            self.done.insert(at(time));
        }
        if let Some(root) = &record.root {
            self.members.entry(root.clone()).or_default().insert(at(head.seq));
        }
        self.newest.entry(key.ns).or_default().insert(at(u64::MAX - head.seq));
        self.counts.entry((key.ns, record.lane.queue.clone())).or_default()[head.state as usize] += 1;
    }

    /// Takes a record out of all its places.
    pub(super) fn remove(&mut self, key: &TaskKey, record: &Record) {
        let head = &record.head;
        let place = placement(head);
        let at = |number: u64| (number, key.clone());
        if let Some((lane, score)) = place.lane {
            remove_from(&mut self.lanes, &lane, &at(score.0));
        }
        if let Some(Millis(time)) = place.timer {
            self.timers.remove(&at(time));
        }
        if place.running {
            self.running.remove(&at(head.session.0));
        }
        if let Some(Millis(time)) = place.done {
            self.done.remove(&at(time));
        }
        if let Some(root) = &record.root {
            remove_from(&mut self.members, root, &at(head.seq));
        }
        remove_from(&mut self.newest, &key.ns, &at(u64::MAX - head.seq));
        self.counts.entry((key.ns, record.lane.queue.clone())).or_default()[head.state as usize] -= 1;
    }

    /// At most `limit` keys of an index behind the cursor, and where to go on.
    pub(super) fn page(&self, index: &Index, from: &Cursor, limit: usize) -> Result<(Vec<TaskKey>, Option<Cursor>)> {
        let all = 0..=u64::MAX;
        match index {
            Index::Lane { lane, after: None } => page(self.lanes.get(lane), all, from, limit),
            Index::Lane { lane, after: Some(score) } => match score.0.checked_add(1) {
                Some(first) => page(self.lanes.get(lane), first..=u64::MAX, from, limit),
                None => Ok((Vec::new(), None)),
            },
            Index::Timer { until } => page(Some(&self.timers), 0..=until.0, from, limit),
            Index::Running { session: None } => page(Some(&self.running), all, from, limit),
            Index::Running { session: Some(session) } => page(Some(&self.running), session.0..=session.0, from, limit),
            Index::Done { until } => page(Some(&self.done), 0..=until.0, from, limit),
            Index::Members { root } => page(self.members.get(root), all, from, limit),
        }
    }

    /// At most `limit` keys of a namespace behind the cursor, newest first, and where to go on.
    pub(super) fn newest(&self, ns: Ns, from: &Cursor, limit: usize) -> Result<(Vec<TaskKey>, Option<Cursor>)> {
        page(self.newest.get(&ns), 0..=u64::MAX, from, limit)
    }

    /// At most `limit` lanes that hold tasks behind the cursor, and where to go on.
    pub(super) fn lanes(&self, from: &Cursor, limit: usize) -> Result<(Vec<LaneId>, Option<Cursor>)> {
        let start = match from.0.as_slice() {
            [] => Bound::Unbounded,
            last => Bound::Excluded(LaneId(u64::from_be_bytes(last.try_into().map_err(|_| not_a_cursor())?))),
        };
        let mut rest = self.lanes.range((start, Bound::Unbounded)).map(|(lane, _)| *lane).peekable();
        let lanes: Vec<_> = rest.by_ref().take(limit.max(1)).collect();
        let more = rest.peek().is_some();
        let next = lanes.last().filter(|_| more).map(|lane| Cursor(lane.0.to_be_bytes().to_vec()));
        Ok((lanes, next))
    }

    /// The first task of a lane.
    pub(super) fn first_of(&self, lane: LaneId) -> Option<&TaskKey> {
        self.lanes.get(&lane)?.first().map(|(_, key)| key)
    }

    /// How many tasks there are in a lane.
    pub(super) fn lane_size(&self, lane: LaneId) -> u64 {
        self.lanes.get(&lane).map_or(0, |tasks| tasks.len() as u64)
    }

    /// The counts that are not all zero.
    pub(super) fn counts(&self) -> Vec<QueueCounts> {
        let counted = self.counts.iter().filter(|(_, states)| states.iter().any(|n| *n > 0));
        counted.map(|((ns, queue), states)| QueueCounts { ns: *ns, queue: queue.clone(), states: *states }).collect()
    }
}

fn remove_from<K: Ord>(sets: &mut BTreeMap<K, Ordered>, name: &K, entry: &(u64, TaskKey)) {
    if let Some(set) = sets.get_mut(name) {
        set.remove(entry);
        if set.is_empty() {
            sets.remove(name);
        }
    }
}

/// The cursor is the last entry shown, so that a page goes on rightly whatever was added or removed meanwhile.
fn page(
    set: Option<&Ordered>,
    numbers: RangeInclusive<u64>,
    from: &Cursor,
    limit: usize,
) -> Result<(Vec<TaskKey>, Option<Cursor>)> {
    let smallest = TaskKey::new(Ns(0), TaskId::Generated(0));
    let start = match decode(from)? {
        Some(last) if last.0 >= *numbers.start() => Bound::Excluded(last),
        _ => Bound::Included((*numbers.start(), smallest)),
    };
    let Some(set) = set else { return Ok((Vec::new(), None)) };
    let mut rest = set.range((start, Bound::Unbounded)).take_while(|(number, _)| numbers.contains(number)).peekable();
    let mut keys = Vec::new();
    let mut last = None;
    while keys.len() < limit.max(1) {
        let Some(entry) = rest.next() else { break };
        keys.push(entry.1.clone());
        last = Some(entry);
    }
    let next = if rest.peek().is_some() { last.map(encode) } else { None };
    Ok((keys, next))
}

fn encode((number, key): &(u64, TaskKey)) -> Cursor {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend_from_slice(&key.to_bytes());
    Cursor(bytes)
}

fn decode(cursor: &Cursor) -> Result<Option<(u64, TaskKey)>> {
    if cursor.0.is_empty() {
        return Ok(None);
    }
    let entry = cursor
        .0
        .split_first_chunk::<8>()
        .and_then(|(number, key)| Some((u64::from_be_bytes(*number), TaskKey::from_bytes(key)?)));
    entry.map(Some).ok_or_else(not_a_cursor)
}

fn not_a_cursor() -> Error {
    Error::Invalid("not a cursor of this store".into())
}
