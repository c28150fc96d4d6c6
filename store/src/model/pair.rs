//! The two stores of a sequence and what is known about both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lovage_core::{Head, Ns, Partition, SessionId, TaskKey, Version};

use super::compare::{bare, meaning, ok, same, timeless};
use super::generate::Source;
use crate::conformance::Fixture;
use crate::conformance::audit::{Heads, Known, audit};
use crate::{DocKind, FeedBatch, FeedEntry, FeedPos, MemoryClock, MemoryOptions, MemoryStore, Store};

/// Readings without news after which a feed is taken to be complete.
const IDLE: usize = 20;

/// A store, its model, and where they stand.
pub(super) struct Pair {
    pub(super) fixture: Arc<dyn Fixture>,
    pub(super) store: Arc<dyn Store>,
    pub(super) model: MemoryStore,
    pub(super) p: Partition,
    pub(super) source: Source,
    /// The store's own `seq` for each of the model's; everything else about a head is taken from the model.
    pub(super) seqs: BTreeMap<u64, u64>,
    /// Every key that was ever used.
    pub(super) keys: BTreeSet<TaskKey>,
    /// Tokens that the store has given.
    pub(super) tokens: BTreeSet<String>,
    /// Tokens that the model has given.
    pub(super) model_tokens: BTreeSet<String>,
    /// Sessions that were reported as lapsed last.
    pub(super) lapsed: Vec<SessionId>,
    /// The latest versions of each document, the store's and the model's.
    pub(super) docs: BTreeMap<(DocKind, Ns, String), (Version, Version)>,
    /// Tasks that were given a barrier.
    pub(super) waiting: Vec<TaskKey>,
    /// Whether a change was ordered that readers need not see yet.
    pub(super) unsettled: bool,
    start: FeedPos,
    model_start: FeedPos,
}

impl Pair {
    pub(super) async fn new(fixture: Arc<dyn Fixture>, seed: u64) -> Result<Self, String> {
        let store = fixture.fresh().await;
        let caps = store.caps().clone();
        let clock = {
            let store = store.clone();
            MemoryClock::following(move || store.clock().now())
        };
        let options = MemoryOptions { partitions: caps.partitions, max_batch: caps.max_batch, seed, ..MemoryOptions::new(clock) };
        let model = MemoryStore::new(options);
        let p = Partition((seed % u64::from(caps.partitions)) as u16);
        let start = ok("tail", store.tail(p).await)?;
        let model_start = ok("tail", model.tail(p).await)?;
        Ok(Self {
            fixture,
            model,
            p,
            source: Source::new(seed, p, caps.partitions),
            seqs: BTreeMap::new(),
            keys: BTreeSet::new(),
            tokens: BTreeSet::new(),
            model_tokens: BTreeSet::new(),
            lapsed: Vec::new(),
            docs: BTreeMap::new(),
            waiting: Vec::new(),
            unsettled: false,
            start,
            model_start,
            store,
        })
    }

    /// One random call on both.
    pub(super) async fn step(&mut self) -> Result<(), String> {
        match self.source.rng.u32(0..100) {
            0..25 => self.insert().await,
            25..60 => self.commit().await,
            60..75 => self.claim().await,
            75..78 => self.own().await.map(drop),
            78..80 => self.put_key().await,
            80..84 => self.put_docs().await,
            84..86 => self.deliver().await,
            86..88 => {
                let by = Duration::from_secs(60 * self.source.rng.u64(1..60));
                self.fixture.advance(by);
                Ok(())
            }
            _ => self.read().await,
        }
    }

    /// A key that was used, or nearly: one in twenty is of nobody.
    pub(super) fn some_key(&mut self) -> Option<TaskKey> {
        if self.keys.is_empty() {
            return None;
        }
        let n = self.source.rng.usize(0..self.keys.len());
        let key = self.keys.iter().nth(n).cloned()?;
        Some(if self.source.chance(5) { TaskKey::new(Ns(77), key.id) } else { key })
    }

    /// The model's head of a task.
    pub(super) async fn model_head(&self, key: &TaskKey) -> Result<Option<Head>, String> {
        Ok(ok("heads", self.model.heads(self.p, std::slice::from_ref(key)).await)?.remove(0))
    }

    /// The head that the store must have where the model has this one.
    pub(super) fn theirs(&self, head: &Head) -> Head {
        Head { seq: self.seqs.get(&head.seq).copied().unwrap_or_default(), ..head.clone() }
    }

    /// The head by which the store knows the task where the model has `head`. One that was woken bears the time of that call,
    /// see [`timeless`].
    pub(super) async fn their_guard(&mut self, key: &TaskKey, head: &Head) -> Result<Head, String> {
        let mut guard = self.theirs(head);
        if self.timeless(head) != *head {
            self.settle().await?;
            let stored = ok("heads", self.store.heads(self.p, std::slice::from_ref(key)).await)?.remove(0);
            guard.deadline = stored.filter(|stored| stored.is_still(&guard)).map_or(guard.deadline, |stored| stored.deadline);
        }
        Ok(guard)
    }

    /// Notes the order of acceptance that the store gave a task where the model gave it `model`. Both number the same tasks
    /// in the same order, and a task once.
    pub(super) fn numbered(&mut self, model: u64, seq: u64) -> Result<(), String> {
        let before = self.seqs.range(..model).next_back().is_none_or(|(_, before)| *before < seq);
        let after = self.seqs.range(model + 1..).next().is_none_or(|(_, after)| seq < *after);
        if !(before && after) || *self.seqs.entry(model).or_insert(seq) != seq {
            return Err(format!("{seq} is not in order where the model has {model}: {:?}", self.seqs));
        }
        Ok(())
    }

    /// A head as it is compared: see [`timeless`].
    pub(super) fn timeless(&self, head: &Head) -> Head {
        timeless(head, self.now())
    }

    /// The audits of both, all records in full, and both feeds.
    pub(super) async fn finish(&mut self) -> Result<(), String> {
        self.settle().await?;
        let lanes = self.source.lanes().to_vec();
        let heads = audit(&*self.store, self.p, &Known::new(lanes.clone(), self.start)).await?;
        let expected =
            audit(&self.model, self.p, &Known::new(lanes, self.model_start)).await.map_err(|e| format!("the model: {e}"))?;
        let heads: Heads = heads.iter().map(|(key, head)| (key.clone(), self.timeless(head))).collect();
        let expected: Heads = expected.iter().map(|(key, head)| (key.clone(), self.timeless(&self.theirs(head)))).collect();
        same("all heads", &heads, &expected)?;
        for key in self.keys.clone() {
            self.compare_record(&key).await?;
            self.compare_members(&key).await?;
        }
        self.compare_lookup().await?;
        self.compare_counts().await?;
        self.compare_docs().await?;
        self.compare_outbox().await?;
        self.compare_feeds().await
    }

    async fn compare_feeds(&self) -> Result<(), String> {
        let expected = read_feed(&self.model, self.p, self.model_start, usize::MAX).await?;
        let found = read_feed(&*self.store, self.p, self.start, expected.len()).await?;
        same("the number of feed entries", &found.len(), &expected.len())?;
        for (found, expected) in found.iter().zip(&expected) {
            same("the source of a feed entry", &found.source, &expected.source)?;
            same("whether a feed entry sends", &found.sends, &expected.sends)?;
            same("a feed entry", &meaning(found, self.now()), &meaning(expected, self.now()))?;
        }
        Ok(())
    }

    /// That a head of the store is the one the model has.
    pub(super) fn compare_head(&mut self, what: &str, found: Option<&Head>, expected: Option<&Head>) -> Result<(), String> {
        let plain = |head: &Head| bare(&self.timeless(head));
        same(what, &found.map(plain), &expected.map(plain))?;
        match found.zip(expected) {
            Some((found, expected)) => self.numbered(expected.seq, found.seq).map_err(|order| format!("{what}: {order}")),
            None => Ok(()),
        }
    }
}

/// All entries that say something; stops early at `enough`, and waits a while for those that are missing.
async fn read_feed(store: &dyn Store, p: Partition, mut at: FeedPos, enough: usize) -> Result<Vec<Arc<FeedEntry>>, String> {
    let mut all = Vec::new();
    let mut idle = 0;
    // One look beyond what is enough finds entries that should not be there.
    let mut beyond = false;
    while idle < IDLE && !beyond {
        let complete = enough == usize::MAX || all.len() >= enough;
        let wait = if complete { Duration::ZERO } else { Duration::from_millis(100) };
        match ok("feed", store.feed(p, at, wait).await)? {
            FeedBatch::Behind { .. } => return Err(format!("the feed has lost {at}")),
            FeedBatch::Entries { entries, next } => {
                if entries.is_empty() {
                    beyond = complete;
                    idle += 1;
                }
                all.extend(entries.into_iter().filter(|entry| !entry.rows.is_empty()));
                at = next;
            }
        }
    }
    Ok(all)
}
