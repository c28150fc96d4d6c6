//! The records of a partition and the three ways to change them.
//!
//! Each item of a batch is applied to the state that the items before it left. An atomic batch with a refusal restores
//! the state from before: the copy makes the meaning plain, and only a reference model can afford it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lovage_core::{Head, LaneDef, Millis, Ns, TaskKey};

use super::index::Indexes;
use crate::{Claim, Claimed, Commit, Committed, Effect, FeedRow, Insert, Inserted, KeyEntry, KeyKind, Mode};

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
    last_seq: u64,
}

impl Tasks {
    /// The record of a task.
    pub(super) fn get(&self, key: &TaskKey) -> Option<&Record> {
        self.records.get(key)
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
        if let Some(unique) = &item.unique
            && let Some(entry) = self.lookup(now, item.key.ns, unique.kind, &unique.key)
        {
            return Inserted::Conflict(entry);
        }
        Inserted::Ok { seq: self.store(item, rows) }
    }

    fn store(&mut self, item: Insert, rows: &mut Vec<FeedRow>) -> u64 {
        self.last_seq += 1;
        if let Some(unique) = item.unique {
            let entry = KeyEntry { task: item.key.clone(), value: unique.value, until: unique.until };
            self.keys.insert((item.key.ns, unique.kind, unique.key), entry);
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
    pub(super) fn commit(&mut self, items: Vec<Commit>, mode: Mode, rows: &mut Vec<FeedRow>) -> Vec<Committed> {
        let before = (mode == Mode::Atomic).then(|| self.clone());
        let mut answers: Vec<_> = items.into_iter().map(|item| self.commit_one(item, rows)).collect();
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

    fn commit_one(&mut self, item: Commit, rows: &mut Vec<FeedRow>) -> Committed {
        let Some(mut record) = self.take(&item.key, &item.was) else {
            return Committed::Stale(self.get(&item.key).map(|record| record.head.clone()));
        };
        if let Some(head) = item.head {
            record.head = head;
            if let Some(body) = item.body {
                record.body = body;
            }
            if let Some(result) = item.result {
                record.result = result;
            }
            record.attempts.extend(item.attempt);
            self.put(item.key, record, rows);
        } else {
            rows.push(FeedRow { key: item.key, head: None });
        }
        for effect in item.effects {
            match effect {
                Effect::Spawn(child) => self.store(*child, rows),
            };
        }
        Committed::Ok
    }

    /// Takes a record out of the state if it still has the version of `was`.
    fn take(&mut self, key: &TaskKey, was: &Head) -> Option<Record> {
        if self.records.get(key)?.head.version != was.version {
            return None;
        }
        let record = self.records.remove(key)?;
        self.index.remove(key, &record);
        Some(record)
    }

    fn put(&mut self, key: TaskKey, record: Record, rows: &mut Vec<FeedRow>) {
        rows.push(FeedRow { key: key.clone(), head: Some(record.head.clone()) });
        self.index.add(&key, &record);
        self.records.insert(key, record);
    }

    /// A key that is taken at `now`.
    pub(super) fn lookup(&self, now: Millis, ns: Ns, kind: KeyKind, key: &[u8]) -> Option<KeyEntry> {
        let entry = self.keys.get(&(ns, kind, Bytes::copy_from_slice(key)))?;
        (entry.until > now).then(|| entry.clone())
    }

    /// Forgets keys whose time is over.
    pub(super) fn drop_old_keys(&mut self, now: Millis) {
        self.keys.retain(|_, entry| entry.until > now);
    }
}
