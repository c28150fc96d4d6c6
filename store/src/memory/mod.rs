//! The memory store: the reference model of the contract.
//!
//! Ordered maps behind a mutex for each partition, nothing clever: where the words of [`Store`] leave a doubt, this is
//! what they mean, and the other stores are compared with it. Everything is durable for as long as the value lives.

mod barrier;
mod clock;
mod docs;
mod feed;
mod index;
mod inside;
mod tasks;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lovage_core::{Head, LaneDef, LaneId, Millis, Ns, Partition, SessionId, TaskKey};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use clock::MemoryClock;

use crate::limit::Times;
use crate::local::Local;
use crate::ownership::Owners;
use crate::{
    Caps, Claim, Claimed, Commit, Committed, Cursor, DocKind, DocOutcome, DocPage, DocPut, Document, Error, FeedBatch, FeedPos,
    FeedRow, Index, Insert, Inserted, KeyEntry, KeyKind, KeyTake, LanePage, LimitKey, LimitReply, LimitRequest, ListQuery, Mode,
    OutboxPage, OwnReply, OwnRequest, OwnToken, Ownership, Page, Parts, QueueCounts, Result, Store, StoreClock, Stored, Sync,
};

/// How many records one page of a listing looks at.
const LIST_WORK: usize = 500;

/// How a memory store is set up.
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    /// Number of partitions, at least 1.
    pub partitions: u16,
    /// The most items of one call.
    pub max_batch: usize,
    /// How many feed entries each partition keeps when its owner renews; `None`: all.
    pub feed_keep: Option<usize>,
    /// Where the random part of owner tokens starts.
    pub seed: u64,
    /// The store's time.
    pub clock: MemoryClock,
}

impl MemoryOptions {
    /// Two partitions with an unbounded feed and this clock.
    pub fn new(clock: MemoryClock) -> Self {
        Self { partitions: 2, max_batch: 1_000, feed_keep: None, seed: 0, clock }
    }
}

/// A store that lives in memory.
#[derive(Debug)]
pub struct MemoryStore {
    caps: Caps,
    options: MemoryOptions,
    shelves: Vec<Shelf>,
    docs: Mutex<docs::Docs>,
    docs_changed: watch::Sender<()>,
    local: Local,
    random: Mutex<fastrand::Rng>,
}

/// A partition, and whoever waits for its feed.
#[derive(Debug, Default)]
struct Shelf {
    part: Mutex<Part>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Part {
    tasks: tasks::Tasks,
    feed: feed::Feed,
    own: Owners,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(options: MemoryOptions) -> Self {
        let partitions = options.partitions.max(1);
        Self {
            caps: Caps {
                name: "memory",
                partitions,
                durability: "kept in memory until the process ends".into(),
                max_batch: options.max_batch,
            },
            shelves: (0..partitions).map(|_| Shelf::default()).collect(),
            docs: Mutex::default(),
            docs_changed: watch::Sender::default(),
            local: Local::default(),
            random: Mutex::new(fastrand::Rng::with_seed(options.seed)),
            options,
        }
    }

    /// Forgets all feed entries written so far, as if their time were over.
    pub fn forget_feed(&self) {
        for shelf in &self.shelves {
            shelf.part.lock().feed.trim(0);
        }
    }

    fn now(&self) -> Millis {
        self.options.clock.now()
    }

    fn times(&self) -> Times {
        let now = self.now();
        Times { rate: now.0 * 1_000, lease: now }
    }

    fn shelf(&self, p: Partition, items: usize) -> Result<&Shelf> {
        self.caps.check_call(p, items)?;
        self.shelves.get(usize::from(p.0)).ok_or_else(|| Error::Invalid("no such partition".into()))
    }
}

impl Shelf {
    /// Runs a change and shows what it changed to the readers of the feed.
    fn write<T>(&self, source: SessionId, change: impl FnOnce(&mut Part, &mut Vec<FeedRow>) -> T) -> T {
        let mut rows = Vec::new();
        let mut part = self.part.lock();
        let sent = part.tasks.sent();
        let answer = change(&mut part, &mut rows);
        if !rows.is_empty() {
            let sends = part.tasks.sent() != sent;
            part.feed.push(source, rows, sends);
            self.changed.send_replace(());
        }
        answer
    }

    /// The records of these keys that there are.
    fn page((keys, next): (Vec<TaskKey>, Option<Cursor>), part: &Part) -> Page {
        let item = |key: TaskKey| part.tasks.get(&key).map(|record| record.head.clone()).map(|head| (key, head));
        Page { items: keys.into_iter().filter_map(item).collect(), next }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn clock(&self) -> &dyn StoreClock {
        &self.options.clock
    }

    async fn insert(&self, p: Partition, items: Vec<Insert>, mode: Mode) -> Result<Vec<Inserted>> {
        let shelf = self.shelf(p, items.len())?;
        self.caps.check_inserts(p, &items)?;
        let now = self.now();
        Ok(shelf.write(SessionId(0), |part, rows| part.tasks.insert(now, items, mode, rows)))
    }

    async fn claim(&self, p: Partition, own: &OwnToken, source: SessionId, items: Vec<Claim>) -> Result<Vec<Claimed>> {
        self.shelf(p, items.len())?
            .write(source, |part, rows| if part.own.holds(own) { Ok(part.tasks.claim(items, rows)) } else { Err(Error::Fenced) })
    }

    async fn commit(&self, p: Partition, source: SessionId, items: Vec<Commit>, mode: Mode, _: Sync) -> Result<Vec<Committed>> {
        let shelf = self.shelf(p, items.len())?;
        self.caps.check_commits(&items)?;
        let now = self.now();
        Ok(shelf.write(source, |part, rows| part.tasks.commit(now, items, mode, rows)))
    }

    async fn own(&self, p: Partition, request: OwnRequest) -> Result<OwnReply> {
        let shelf = self.shelf(p, 0)?;
        let now = self.now();
        let random = self.random.lock().u64(..);
        self.local.tidy(&self.times());
        let mut part = shelf.part.lock();
        part.tasks.drop_old_keys(now);
        if let Some(keep) = self.options.feed_keep {
            part.feed.trim(keep);
        }
        part.own.renew(now, &request, random)
    }

    async fn ownership(&self, p: Partition) -> Result<Ownership> {
        Ok(self.shelf(p, 0)?.part.lock().own.seen(self.now()))
    }

    async fn tail(&self, p: Partition) -> Result<FeedPos> {
        Ok(self.shelf(p, 0)?.part.lock().feed.tail())
    }

    async fn feed(&self, p: Partition, at: FeedPos, wait: Duration) -> Result<FeedBatch> {
        let shelf = self.shelf(p, 0)?;
        // Subscribed before the first look, so that nothing slips in between.
        let mut changed = shelf.changed.subscribe();
        let look = || shelf.part.lock().feed.after(at);
        let first = look();
        let nothing_yet = matches!(&first, FeedBatch::Entries { entries, .. } if entries.is_empty());
        if !nothing_yet || tokio::time::timeout(wait, changed.changed()).await.is_err() {
            return Ok(first);
        }
        Ok(look())
    }

    async fn heads(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Head>>> {
        let part = self.shelf(p, 0)?.part.lock();
        Ok(keys.iter().map(|key| part.tasks.get(key).map(|record| record.head.clone())).collect())
    }

    async fn get(&self, p: Partition, key: &TaskKey, parts: Parts) -> Result<Option<Stored>> {
        let part = self.shelf(p, 0)?.part.lock();
        Ok(part.tasks.get(key).map(|record| Stored {
            head: record.head.clone(),
            body: parts.body.then(|| record.body.clone()),
            result: record.result.clone().filter(|_| parts.result),
            attempts: if parts.attempts { record.attempts.clone() } else { Vec::new() },
        }))
    }

    async fn bodies(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Bytes>>> {
        let part = self.shelf(p, 0)?.part.lock();
        Ok(keys.iter().map(|key| part.tasks.get(key).map(|record| record.body.clone())).collect())
    }

    async fn scan(&self, p: Partition, index: &Index, from: Cursor, limit: usize) -> Result<Page> {
        let part = self.shelf(p, 0)?.part.lock();
        Ok(Shelf::page(part.tasks.index.page(index, &from, limit)?, &part))
    }

    async fn lanes(&self, p: Partition, from: Cursor, limit: usize) -> Result<LanePage> {
        let part = self.shelf(p, 0)?.part.lock();
        let (lanes, next) = part.tasks.index.lanes(&from, limit)?;
        let items = lanes.into_iter().filter_map(|lane| Some((lane, part.tasks.lane(lane)?)));
        Ok(LanePage { items: items.collect(), next })
    }

    async fn lane_defs(&self, p: Partition, lanes: &[LaneId]) -> Result<Vec<Option<LaneDef>>> {
        let part = self.shelf(p, 0)?.part.lock();
        Ok(lanes.iter().map(|lane| part.tasks.lane(*lane)).collect())
    }

    async fn lane_sizes(&self, p: Partition, lanes: &[LaneId]) -> Result<Vec<u64>> {
        let part = self.shelf(p, 0)?.part.lock();
        Ok(lanes.iter().map(|lane| part.tasks.index.lane_size(*lane)).collect())
    }

    async fn list(&self, p: Partition, query: &ListQuery, from: Cursor, limit: usize) -> Result<Page> {
        let part = self.shelf(p, 0)?.part.lock();
        let looked_at = part.tasks.index.newest(query.ns, &from, limit.min(LIST_WORK))?;
        let mut page = Shelf::page(looked_at, &part);
        page.items.retain(|(_, head)| {
            (query.states.is_empty() || query.states.contains(&head.state))
                && query.created_after.is_none_or(|from| head.created >= from)
                && query.created_before.is_none_or(|until| head.created < until)
        });
        Ok(page)
    }

    async fn put_key(&self, p: Partition, take: KeyTake) -> Result<Option<KeyEntry>> {
        let shelf = self.shelf(p, 0)?;
        self.caps.check_take(&take)?;
        let now = self.now();
        Ok(shelf.part.lock().tasks.put_key(now, take))
    }

    async fn lookup(&self, p: Partition, ns: Ns, kind: KeyKind, key: &[u8]) -> Result<Option<KeyEntry>> {
        let shelf = self.shelf(p, 0)?;
        let now = self.now();
        Ok(shelf.part.lock().tasks.lookup(now, ns, kind, key))
    }

    async fn outbox(&self, p: Partition, after: FeedPos, limit: usize) -> Result<OutboxPage> {
        Ok(self.shelf(p, 0)?.part.lock().tasks.outbox(after, limit))
    }

    async fn delivered(&self, p: Partition, messages: &[FeedPos]) -> Result<()> {
        self.shelf(p, 0)?.part.lock().tasks.delivered(messages);
        Ok(())
    }

    async fn counts(&self, p: Partition) -> Result<Vec<QueueCounts>> {
        Ok(self.shelf(p, 0)?.part.lock().tasks.index.counts())
    }

    async fn docs(&self, kind: DocKind, ns: Option<Ns>, after: Option<(Ns, String)>, limit: usize) -> Result<DocPage> {
        Ok(self.docs.lock().page(kind, ns, after, limit))
    }

    async fn doc(&self, kind: DocKind, ns: Ns, name: &str) -> Result<Option<Document>> {
        Ok(self.docs.lock().get(kind, ns, name))
    }

    async fn put_docs(&self, items: Vec<DocPut>) -> Result<Vec<DocOutcome>> {
        let mut docs = self.docs.lock();
        let before = docs.changes();
        let answers = items.into_iter().map(|item| docs.put(item)).collect();
        if docs.changes() != before {
            self.docs_changed.send_replace(());
        }
        Ok(answers)
    }

    async fn doc_version(&self, seen: u64, wait: Duration) -> Result<u64> {
        let mut changed = self.docs_changed.subscribe();
        let first = self.docs.lock().changes();
        if first != seen || tokio::time::timeout(wait, changed.changed()).await.is_err() {
            return Ok(first);
        }
        Ok(self.docs.lock().changes())
    }

    async fn limit(&self, requests: Vec<LimitRequest>) -> Result<Vec<Result<LimitReply>>> {
        Ok(self.local.limit(&self.times(), &requests).into_iter().map(Ok).collect())
    }

    async fn wake(&self, session: SessionId, keys: &[LimitKey]) -> Result<()> {
        self.local.wake(session, keys);
        Ok(())
    }

    async fn woken(&self, session: SessionId, wait: Duration) -> Result<Vec<LimitKey>> {
        Ok(self.local.woken(session, wait).await)
    }

    async fn publish(&self, session: SessionId, board: Option<Bytes>) -> Result<()> {
        self.local.publish(self.now(), session, board)
    }

    async fn boards(&self) -> Result<Vec<(SessionId, Bytes)>> {
        Ok(self.local.boards(self.now()))
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
