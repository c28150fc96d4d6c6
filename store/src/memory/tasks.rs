//! The records of a partition and the three ways to change them.
//!
//! Each item of a batch is applied to the state that the items before it left. An atomic batch with a refusal restores
//! the state from before: the copy makes the meaning plain, and only a reference model can afford it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use lovage_core::attempt::KEPT_ENTRIES;
use lovage_core::{Head, LaneDef, LaneId, Millis, Ns, State, TaskKey};

use super::barrier::Barriers;
use super::index::Indexes;
use crate::moving::Belongings;
use crate::{
    Claim, Claimed, Commit, Committed, Effect, FeedPos, FeedRow, Insert, Inserted, KeyEntry, KeyKind, KeyPut, KeyTake, Message,
    Mode, OutboxPage, Sent,
};

/// Everything about one task.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) head: Head,
    pub(super) body: Bytes,
    pub(super) result: Option<Bytes>,
    pub(super) attempts: Vec<Bytes>,
    pub(super) lane: Arc<LaneDef>,
    pub(super) root: Option<TaskKey>,
}

/// The tasks of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    records: BTreeMap<TaskKey, Record>,
    pub(super) index: Indexes,
    keys: BTreeMap<(Ns, KeyKind, Bytes), KeyEntry>,
    barriers: Barriers,
    /// Stored as bytes, so that nothing is found in it that other stores would lose.
    outbox: BTreeMap<FeedPos, (Millis, Bytes)>,
    last_sent: u64,
    last_seq: u64,
}

impl Tasks {
    /// The record of a task.
    pub(super) fn get(&self, key: &TaskKey) -> Option<&Record> {
        self.records.get(key)
    }

    /// What defines a lane that holds tasks.
    pub(super) fn lane(&self, lane: LaneId) -> Option<LaneDef> {
        Some((*self.get(self.index.first_of(lane)?)?.lane).clone())
    }

    /// Inserts a batch; the rows that changed go to `rows`.
    pub(super) fn insert(&mut self, now: Millis, items: Vec<Insert>, mode: Mode, rows: &mut Vec<FeedRow>) -> Vec<Inserted> {
        let before = (mode == Mode::Atomic).then(|| self.clone());
        let mut answers: Vec<_> = items.into_iter().map(|item| self.insert_one(now, item, rows)).collect();
        let refused = answers.iter().any(|answer| !matches!(answer, Inserted::Ok { .. }));
        if let (Some(before), true) = (before, refused) {
            *self = before;
            rows.clear();
            for answer in &mut answers {
                if matches!(answer, Inserted::Ok { .. }) {
                    *answer = Inserted::Aborted;
                }
            }
        }
        answers
    }

    fn insert_one(&mut self, now: Millis, item: Insert, rows: &mut Vec<FeedRow>) -> Inserted {
        if item.not_after.is_some_and(|limit| now > limit) {
            return Inserted::Late;
        }
        if let Some(record) = self.records.get(&item.key) {
            return Inserted::Exists(record.head.clone());
        }
        if let Some((kind, entry)) = self.conflict(now, &item, None) {
            let head = self.records.get(&entry.task).map(|record| record.head.clone());
            return Inserted::Conflict { kind, entry, head };
        }
        Inserted::Ok { seq: self.store(item, rows) }
    }

    /// The first key that the item cannot have; a commit's spawned task may steal from the commit's own task, `parent`.
    fn conflict(&self, now: Millis, item: &Insert, parent: Option<&TaskKey>) -> Option<(KeyKind, KeyEntry)> {
        item.keys.iter().find_map(|put| Some((put.kind, self.in_the_way(now, item.key.ns, put, parent)?)))
    }

    /// The entry of a key that cannot be had.
    fn in_the_way(&self, now: Millis, ns: Ns, put: &KeyPut, parent: Option<&TaskKey>) -> Option<KeyEntry> {
        let entry = self.lookup(now, ns, put.kind, &put.key)?;
        let may_steal = put.steal.as_ref().is_some_and(|(from, version)| {
            let unchanged = || self.records.get(from).is_none_or(|record| record.head.version == *version);
            *from == entry.task && (parent == Some(from) || unchanged())
        });
        (!may_steal).then_some(entry)
    }

    fn store(&mut self, item: Insert, rows: &mut Vec<FeedRow>) -> u64 {
        self.last_seq += 1;
        for put in item.keys {
            let entry = put.entry(&item.key);
            self.keys.insert((item.key.ns, put.kind, put.key), entry);
        }
        let head = Head { seq: self.last_seq, ..item.head };
        rows.push(FeedRow { key: item.key.clone(), head: Some(head.clone()) });
        let record = Record { head, body: item.body, result: None, attempts: Vec::new(), lane: item.lane, root: item.root };
        self.index.add(&item.key, &record);
        self.records.insert(item.key, record);
        self.last_seq
    }

    /// Moves tasks to running; the rows that changed go to `rows`.
    pub(super) fn claim(&mut self, items: Vec<Claim>, rows: &mut Vec<FeedRow>) -> Vec<Claimed> {
        let one = |item: Claim| {
            let Some(mut record) = self.take(&item.key, &item.was) else { return Claimed::Stale };
            record.head = item.head;
            let body = record.body.clone();
            self.put(item.key, record, rows);
            Claimed::Ok(body)
        };
        items.into_iter().map(one).collect()
    }

    /// Applies guarded changes; the rows that changed go to `rows`.
    pub(super) fn commit(&mut self, now: Millis, items: Vec<Commit>, mode: Mode, rows: &mut Vec<FeedRow>) -> Vec<Committed> {
        let before = (mode == Mode::Atomic).then(|| self.clone());
        let mut answers: Vec<_> = items.into_iter().map(|item| self.commit_one(now, item, rows)).collect();
        let refused = answers.iter().any(|answer| *answer != Committed::Ok);
        if let (Some(before), true) = (before, refused) {
            *self = before;
            rows.clear();
            for answer in &mut answers {
                if *answer == Committed::Ok {
                    *answer = Committed::Aborted;
                }
            }
        }
        answers
    }

    fn commit_one(&mut self, now: Millis, item: Commit, rows: &mut Vec<FeedRow>) -> Committed {
        if self.records.get(&item.key).is_none_or(|record| !record.head.is_still(&item.was)) {
            return Committed::Stale(self.get(&item.key).map(|record| record.head.clone()));
        }
        let before = item.may_conflict().then(|| (self.clone(), rows.len()));
        match (self.change(now, item, rows), before) {
            (Err(refused), Some((before, rows_before))) => {
                *self = before;
                rows.truncate(rows_before);
                refused
            }
            (Err(answer), None) => answer,
            (Ok(()), _) => Committed::Ok,
        }
    }

    /// Carries out a change whose guard holds; it may have been carried out in part when it is refused.
    fn change(&mut self, now: Millis, item: Commit, rows: &mut Vec<FeedRow>) -> Result<(), Committed> {
        let Some(mut record) = self.take(&item.key, &item.was) else { return Err(Committed::Stale(None)) };
        let stays = item.head.is_some();
        if let Some(head) = item.head {
            record.head = head;
            if let Some(lane) = item.lane {
                record.lane = lane;
            }
            if let Some(body) = item.body {
                record.body = body;
            }
            if let Some(result) = item.result {
                record.result = result;
            }
            record.attempts.extend(item.attempt);
            let most = record.attempts.len().min(KEPT_ENTRIES);
            record.attempts.drain(..record.attempts.len() - most);
            self.put(item.key.clone(), record, rows);
        } else {
            self.barriers.remove(&item.key);
            self.keys.retain(|(_, kind, _), entry| !kind.ends_with_record() || entry.task != item.key);
            rows.push(FeedRow { key: item.key.clone(), head: None });
        }
        for effect in item.effects {
            match effect {
                Effect::Spawn(child) => {
                    if self.records.contains_key(&child.key) {
                        continue;
                    }
                    if let Some((kind, entry)) = self.conflict(now, &child, Some(&item.key)) {
                        return Err(Committed::Conflict { kind, entry });
                    }
                    self.store(*child, rows);
                }
                Effect::Barrier { members } => {
                    // Another one under the id of a deleted task may have been spawned before this effect.
                    let blocked = stays && self.records.get(&item.key).is_some_and(|record| record.head.state == State::Blocked);
                    if blocked && self.barriers.make(&item.key, members) {
                        self.wake(now, &item.key, rows);
                    }
                }
                Effect::Arrive { barrier, index } => {
                    if self.barriers.arrive(&barrier, index) {
                        self.wake(now, &barrier, rows);
                    }
                }
                Effect::TakeKey(put) => {
                    let other = self.in_the_way(now, item.key.ns, &put, None).filter(|entry| entry.task != item.key);
                    if let Some(entry) = other {
                        return Err(Committed::Conflict { kind: put.kind, entry });
                    }
                    let entry = put.entry(&item.key);
                    self.keys.insert((item.key.ns, put.kind, put.key), entry);
                }
                Effect::FreeKey { kind, key } => {
                    let place = (item.key.ns, kind, key);
                    if self.keys.get(&place).is_some_and(|entry| entry.task == item.key) {
                        self.keys.remove(&place);
                    }
                }
                Effect::Send { to, message } => {
                    self.last_sent += 1;
                    self.outbox.insert(FeedPos { high: 0, low: self.last_sent }, (now, message.encode(to)));
                }
            }
        }
        Ok(())
    }

    /// Makes the wait of a blocked task run out: all that it waited for has arrived.
    fn wake(&mut self, now: Millis, key: &TaskKey, rows: &mut Vec<FeedRow>) {
        let Some(mut record) = self.records.remove(key) else { return };
        self.index.remove(key, &record);
        record.head.version += 1;
        record.head.deadline = now;
        self.put(key.clone(), record, rows);
    }

    /// Takes a record out of the state if its head is still `was`.
    fn take(&mut self, key: &TaskKey, was: &Head) -> Option<Record> {
        if !self.records.get(key)?.head.is_still(was) {
            return None;
        }
        let record = self.records.remove(key)?;
        self.index.remove(key, &record);
        Some(record)
    }

    fn put(&mut self, key: TaskKey, record: Record, rows: &mut Vec<FeedRow>) {
        if record.head.state != State::Blocked {
            self.barriers.remove(&key);
        }
        rows.push(FeedRow { key: key.clone(), head: Some(record.head.clone()) });
        self.index.add(&key, &record);
        self.records.insert(key, record);
    }

    /// A key that is taken at `now`.
    pub(super) fn lookup(&self, now: Millis, ns: Ns, kind: KeyKind, key: &[u8]) -> Option<KeyEntry> {
        let entry = self.keys.get(&(ns, kind, Bytes::copy_from_slice(key)))?;
        (!entry.is_over(now)).then(|| entry.clone())
    }

    /// Takes a key alone, or answers the entry that is in the way.
    pub(super) fn put_key(&mut self, now: Millis, take: KeyTake) -> Option<KeyEntry> {
        let ns = take.entry.task.ns;
        let there = self.lookup(now, ns, take.kind, &take.key);
        let in_the_way = there.filter(|entry| *entry != take.entry && Some(entry) != take.seen.as_ref());
        if in_the_way.is_none() {
            self.keys.insert((ns, take.kind, take.key), take.entry);
        }
        in_the_way
    }

    /// How many messages were ever sent.
    pub(super) fn sent(&self) -> u64 {
        self.last_sent
    }

    /// The oldest messages after a place.
    pub(super) fn outbox(&self, after: FeedPos, limit: usize) -> OutboxPage {
        let later = self.outbox.range((Bound::Excluded(after), Bound::Unbounded)).take(limit);
        let sent =
            |(pos, (at, bytes)): (&FeedPos, &(Millis, Bytes))| Sent { pos: *pos, at: *at, content: Message::decode(bytes) };
        OutboxPage { messages: later.map(sent).collect(), waiting: self.outbox.len() as u64 }
    }

    /// Forgets messages.
    pub(super) fn delivered(&mut self, messages: &[FeedPos]) {
        self.outbox.retain(|pos, _| !messages.contains(pos));
    }

    /// What belongs to a task besides its record.
    pub(super) fn belongings(&self, key: &TaskKey) -> Option<Belongings> {
        let record = self.records.get(key)?;
        let held = self.keys.iter().filter(|((_, kind, _), entry)| kind.ends_with_record() && entry.task == *key);
        Some(Belongings {
            lane: (*record.lane).clone(),
            root: record.root.clone(),
            keys: held.map(|((_, kind, name), entry)| (*kind, name.clone(), entry.clone())).collect(),
            barrier: self.barriers.get(key),
        })
    }

    /// The keys that do not end with a record.
    pub(super) fn loose_keys(&self) -> Vec<(KeyKind, Bytes, KeyEntry)> {
        let loose = self.keys.iter().filter(|((_, kind, _), _)| !kind.ends_with_record());
        loose.map(|((_, kind, name), entry)| (*kind, name.clone(), entry.clone())).collect()
    }

    /// Forgets keys whose time is over.
    pub(super) fn drop_old_keys(&mut self, now: Millis) {
        self.keys.retain(|_, entry| !entry.is_over(now));
    }
}
