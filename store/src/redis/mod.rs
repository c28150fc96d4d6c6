//! The Redis store: one server, a master behind sentinels, or a cluster.
//!
//! Every change is one script call, so it is atomic and in order; a call carries up to 200 items and costs Redis
//! little more than the data it moves. Scripts guard versions and carry out the index commands that this side has worked
//! out from `lovage_core::placement`; they hold no rules. All keys of a partition share a hash tag and are handed to the
//! scripts as keys. `docs/decisions/003-redis-layout.md` has the layout and what it costs.
//!
//! ```text
//! callers ── Batcher per partition and verb ── Link (a slot, follows its master) ── Node (multiplexed, reconnects) ── redis
//!                                                                             └─ Rounds (writes, then one WAIT) ── redis
//! readers ── Feeds (rings of late entries) ── a connection that blocks in XREAD; in a cluster one for each stream
//!                             Scout (asks nodes or sentinels who the masters are) ── Nodes
//! ```

mod address;
mod batch;
mod boards;
mod change;
mod clock;
mod dial;
mod docs;
mod feed;
mod footprint;
mod general;
mod insert;
mod inside;
mod keys;
mod lanes;
mod limit;
mod link;
mod meta;
mod node;
mod nodes;
mod notes;
mod open;
mod outbox;
mod own;
mod pack;
mod pages;
mod plan;
mod read;
mod rounds;
mod scout;
mod script;
mod sender;
mod slot;
mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
mod value;
mod view;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lovage_core::{Head, LaneDef, LaneId, Ns, Partition, SessionId, TaskKey};
use tokio::runtime::Handle;

use self::batch::Batcher;
use self::clock::RedisClock;
use self::feed::Feeds;
use self::keys::{DocKeys, LimitKeys, PartitionKeys};
use self::link::{Kind, Link};
use self::meta::Watch;
use self::nodes::Nodes;
use self::notes::Ears;
use self::own::FeedBounds;
use self::sender::Sender;
use self::slot::slot_of;
use crate::{
    Caps, Claim, Claimed, Commit, Committed, Cursor, DocKind, DocOutcome, DocPage, DocPut, Document, Error, FeedBatch, FeedPos,
    Index, Insert, Inserted, KeyEntry, KeyKind, KeyTake, LanePage, LimitKey, LimitReply, LimitRequest, ListQuery, Mode,
    OutboxPage, OwnReply, OwnRequest, OwnToken, Ownership, Page, Parts, QueueCounts, Result, Store, StoreClock, Stored, Sync,
};

/// The most items of one call: about 1.5 ms of a busy Redis. Scripts number items with one byte.
pub(crate) const MAX_BATCH: usize = 200;

/// How to reach a Redis store and how large its parts may grow.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `redis://[user:password@]host[:port][/db]`, `redis+cluster://[…@]host[:port],…` or
    /// `redis+sentinel://[…@]host[:port],…/MASTER[/db]`; `rediss…` for TLS (the process must have installed a rustls crypto
    /// provider).
    pub url: String,
    /// Certificates of TLS.
    pub tls: RedisTls,
    /// What every key begins with, so that several stores can share a server.
    pub prefix: String,
    /// Partitions of a new store; one that exists keeps its own number.
    pub partitions: u16,
    /// A command without an answer after this long has failed.
    pub timeout: Duration,
    /// Replicas that have to confirm each write; `None`: it is answered as soon as the master has it.
    pub wait: Option<RedisWait>,
    /// How long feed entries are kept, while `feed_bytes` allows.
    pub feed_keep: Duration,
    /// About how many bytes of feed a partition keeps.
    pub feed_bytes: u64,
}

/// Certificates for connections over TLS, each as PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// The authorities that servers' certificates are checked with; `None`: those of the operating system.
    pub ca: Option<Vec<u8>>,
    /// The certificate by which Lovage shows who it is, and its key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

/// How many replicas have to confirm a write, and within what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisWait {
    /// At least 1.
    pub replicas: u32,
    /// A write that is not confirmed by then may or may not last.
    pub timeout: Duration,
}

impl RedisOptions {
    /// The defaults for the server at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls: RedisTls::default(),
            prefix: "lv".into(),
            partitions: 16,
            timeout: Duration::from_secs(5),
            wait: None,
            feed_keep: Duration::from_secs(600),
            feed_bytes: 8 << 20,
        }
    }
}

/// A store in Redis 7.0 or newer, or Valkey.
pub struct RedisStore {
    caps: Caps,
    clock: Arc<RedisClock>,
    /// The way to what belongs to no partition.
    link: Link,
    feeds: Feeds,
    parts: Vec<Part>,
    docs: DocKeys,
    limits: LimitKeys,
    ears: Ears,
    id: u64,
    watch: Watch,
    bounds: FeedBounds,
}

struct Part {
    link: Link,
    names: Arc<PartitionKeys>,
    inserts: Arc<Batcher<Insert, Sender>>,
    commits: Arc<Batcher<Commit, Sender>>,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("caps", &self.caps).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Whether there is a store of this prefix. Nothing is written.
    pub async fn exists(options: &RedisOptions) -> Result<bool> {
        let meta = DocKeys::new(&options.prefix).meta();
        let link = Link::new(Nodes::open(options).await?, slot_of(meta.as_bytes()));
        let [format] = value::exactly(link.send(Kind::Read, redis::cmd("HMGET").arg(meta).arg("format")).await?)?;
        Ok(value::bytes(format)?.is_some())
    }

    /// Connects and checks that the servers are fit: reachable, 7.0 or newer, `maxmemory-policy noeviction`, replicas enough
    /// for `wait`, data of a known format, no key that something else has written.
    /// The tasks of the store run on the runtime of this call.
    pub async fn open(options: RedisOptions) -> Result<Arc<Self>> {
        if options.partitions == 0 || options.partitions > lovage_core::id::SLOTS {
            return Err(Error::Invalid(format!("{} partitions", options.partitions)));
        }
        if options.prefix.contains(['{', '}']) {
            return Err(Error::Invalid("a prefix must not contain braces".into()));
        }
        let nodes = Nodes::open(&options).await?;
        let durability = open::servers(&nodes, options.wait).await?;
        let docs = DocKeys::new(&options.prefix);
        let link = Link::new(Arc::clone(&nodes), slot_of(docs.meta().as_bytes()));
        open::types(&link, &docs.types()).await?;
        let facts = meta::open(&link, &docs, options.partitions).await?;
        let partitions = facts.partitions;
        let clock = Arc::new(RedisClock::new());
        own::set_clock(&link, &clock).await?;

        let runtime = Handle::current();
        let part = |number| {
            let names = Arc::new(PartitionKeys::new(&options.prefix, number));
            let link = Link::new(Arc::clone(&nodes), slot_of(names.own()));
            let sender = Sender { link: link.clone(), names: Arc::clone(&names), clock: Arc::clone(&clock) };
            let (inserts, commits) = (Batcher::new(sender.clone(), runtime.clone()), Batcher::new(sender, runtime.clone()));
            Part { link, names, inserts, commits }
        };
        let parts: Vec<_> = (0..partitions).map(part).collect();
        let checks = parts.iter().map(|part| async move { open::types(&part.link, &part.names.types()).await });
        futures_util::future::try_join_all(checks).await?;
        let streams = parts.iter().map(|part| (part.link.clone(), part.names.feed().to_vec()));
        let feeds = Feeds::start(streams.chain([(link.clone(), docs.feed().into_bytes())]).collect());
        let bounds = FeedBounds { keep_ms: options.feed_keep.as_millis() as u64, keep_bytes: options.feed_bytes };
        let caps = Caps { name: "redis", partitions, durability, max_batch: MAX_BATCH };
        let watch = Watch::start(link.clone(), docs.clone(), facts, Arc::clone(&clock));
        let (limits, ears) = (LimitKeys::new(&options.prefix), Ears::default());
        Ok(Arc::new(Self { caps, clock, link, feeds, parts, docs, limits, ears, id: facts.id, watch, bounds }))
    }

    /// A number for a new session. It is random: a counter in Redis gives a number twice when Redis loses its last writes, and
    /// two processes would be one.
    pub fn next_session(&self) -> Result<SessionId> {
        meta::random().map(SessionId)
    }

    /// A number that no other store has, unless it is a copy of this one.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The way to what belongs to no partition, unless this is not the store any more that was opened.
    fn link(&self) -> Result<&Link> {
        self.watch.check()?;
        Ok(&self.link)
    }

    fn part(&self, p: Partition, items: usize) -> Result<&Part> {
        self.caps.check_call(p, items)?;
        self.watch.check()?;
        Ok(&self.parts[usize::from(p.0)])
    }
}

#[async_trait]
impl Store for RedisStore {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn clock(&self) -> &dyn StoreClock {
        &*self.clock
    }

    async fn insert(&self, p: Partition, items: Vec<Insert>, mode: Mode) -> Result<Vec<Inserted>> {
        let part = self.part(p, items.len())?;
        self.caps.check_inserts(p, &items)?;
        if items.is_empty() {
            return Ok(Vec::new());
        }
        part.inserts.submit(SessionId(0), items, mode).await
    }

    async fn claim(&self, p: Partition, own: &OwnToken, source: SessionId, items: Vec<Claim>) -> Result<Vec<Claimed>> {
        let Part { link, names, .. } = self.part(p, items.len())?;
        if own.0.is_empty() {
            return Err(Error::Fenced);
        }
        if items.is_empty() {
            let mut cmd = redis::cmd("GET");
            let owner = link.send(Kind::Read, cmd.arg(names.own())).await?;
            return if value::text(owner)? == own.0 { Ok(Vec::new()) } else { Err(Error::Fenced) };
        }
        let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
        // The bodies follow in the same go rather than through the script, which would copy them twice.
        let bodies = read::bodies_command(names, &keys);
        let call = change::claim(names, own, source, &items)?;
        let (moved, bodies) = change::apply(link, names, &call, items.len(), Some(bodies)).await?;
        let bodies = read::read_bodies(bodies)?;
        // A record that was deleted in between has no body, and is as gone as one that was deleted before.
        let one = |(moved, body)| match (moved, body) {
            (Committed::Ok, Some(body)) => Claimed::Ok(body),
            _ => Claimed::Stale,
        };
        Ok(moved.into_iter().zip(bodies).map(one).collect())
    }

    async fn commit(&self, p: Partition, source: SessionId, items: Vec<Commit>, mode: Mode, _: Sync) -> Result<Vec<Committed>> {
        let part = self.part(p, items.len())?;
        self.caps.check_commits(&items)?;
        if items.is_empty() {
            return Ok(Vec::new());
        }
        part.commits.submit(source, items, mode).await
    }

    async fn own(&self, p: Partition, request: OwnRequest) -> Result<OwnReply> {
        let part = self.part(p, 0)?;
        own::renew(&part.link, &self.clock, &part.names, &request, self.bounds).await
    }

    async fn ownership(&self, p: Partition) -> Result<Ownership> {
        let part = self.part(p, 0)?;
        own::seen(&part.link, &part.names, self.clock.now()).await
    }

    async fn tail(&self, p: Partition) -> Result<FeedPos> {
        let part = self.part(p, 0)?;
        stream::tail(&part.link, part.names.feed()).await
    }

    async fn feed(&self, p: Partition, at: FeedPos, wait: Duration) -> Result<FeedBatch> {
        self.part(p, 0)?;
        self.feeds.read(usize::from(p.0), at, wait).await
    }

    async fn heads(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Head>>> {
        let part = self.part(p, 0)?;
        read::heads(&part.link, &part.names, keys).await
    }

    async fn get(&self, p: Partition, key: &TaskKey, parts: Parts) -> Result<Option<Stored>> {
        let part = self.part(p, 0)?;
        read::get(&part.link, &part.names, key, parts).await
    }

    async fn bodies(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Bytes>>> {
        let part = self.part(p, 0)?;
        read::bodies(&part.link, &part.names, keys).await
    }

    async fn scan(&self, p: Partition, index: &Index, from: Cursor, limit: usize) -> Result<Page> {
        let part = self.part(p, 0)?;
        pages::scan(&part.link, &part.names, index, from, limit).await
    }

    async fn lanes(&self, p: Partition, from: Cursor, limit: usize) -> Result<LanePage> {
        let part = self.part(p, 0)?;
        lanes::page(&part.link, &part.names, from, limit).await
    }

    async fn lane_defs(&self, p: Partition, lanes: &[LaneId]) -> Result<Vec<Option<LaneDef>>> {
        let part = self.part(p, 0)?;
        lanes::definitions(&part.link, &part.names, lanes).await
    }

    async fn lane_sizes(&self, p: Partition, lanes: &[LaneId]) -> Result<Vec<u64>> {
        let part = self.part(p, 0)?;
        lanes::sizes(&part.link, &part.names, lanes).await
    }

    async fn list(&self, p: Partition, query: &ListQuery, from: Cursor, limit: usize) -> Result<Page> {
        let part = self.part(p, 0)?;
        pages::list(&part.link, &part.names, query, from, limit).await
    }

    async fn put_key(&self, p: Partition, take: KeyTake) -> Result<Option<KeyEntry>> {
        let Part { link, names, .. } = self.part(p, 0)?;
        self.caps.check_take(&take)?;
        general::put_key(link, names, self.clock.now(), &take).await
    }

    async fn lookup(&self, p: Partition, ns: Ns, kind: KeyKind, key: &[u8]) -> Result<Option<KeyEntry>> {
        let part = self.part(p, 0)?;
        let found = read::lookup(&part.link, &part.names, ns, kind, key).await?;
        Ok(found.filter(|entry| !entry.is_over(self.clock.now())))
    }

    async fn outbox(&self, p: Partition, after: FeedPos, limit: usize) -> Result<OutboxPage> {
        let part = self.part(p, 0)?;
        outbox::page(&part.link, &part.names, after, limit).await
    }

    async fn delivered(&self, p: Partition, messages: &[FeedPos]) -> Result<()> {
        let part = self.part(p, messages.len())?;
        if messages.is_empty() {
            return Ok(());
        }
        outbox::delivered(&part.link, &part.names, messages).await
    }

    async fn counts(&self, p: Partition) -> Result<Vec<QueueCounts>> {
        let part = self.part(p, 0)?;
        read::counts(&part.link, &part.names).await
    }

    async fn docs(&self, kind: DocKind, ns: Option<Ns>, after: Option<(Ns, String)>, limit: usize) -> Result<DocPage> {
        docs::page(self.link()?, &self.docs, kind, ns, after, limit).await
    }

    async fn doc(&self, kind: DocKind, ns: Ns, name: &str) -> Result<Option<Document>> {
        docs::get(self.link()?, &self.docs, kind, ns, name).await
    }

    async fn put_docs(&self, items: Vec<DocPut>) -> Result<Vec<DocOutcome>> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        docs::put(self.link()?, &self.docs, &items).await
    }

    async fn doc_version(&self, seen: u64, wait: Duration) -> Result<u64> {
        // The end of the stream is read first, so that a change after the look at the number ends the wait.
        let tail = stream::tail(self.link()?, self.docs.feed().as_bytes()).await?;
        let now = docs::changes(self.link()?, &self.docs).await?;
        if now != seen {
            return Ok(now);
        }
        self.feeds.read(self.parts.len(), tail, wait).await?;
        docs::changes(self.link()?, &self.docs).await
    }

    async fn limit(&self, requests: Vec<LimitRequest>) -> Result<Vec<Result<LimitReply>>> {
        limit::judge(self.link()?, &self.limits, &requests).await
    }

    async fn wake(&self, session: SessionId, keys: &[LimitKey]) -> Result<()> {
        notes::leave(self.link()?, &self.limits.notes(session), keys).await
    }

    async fn woken(&self, session: SessionId, wait: Duration) -> Result<Vec<LimitKey>> {
        self.ears.listen(self.link()?, &self.limits.notes(session), wait).await
    }

    async fn publish(&self, session: SessionId, board: Option<Bytes>) -> Result<()> {
        boards::publish(self.link()?, &self.docs, self.clock.now(), session, board).await
    }

    async fn boards(&self) -> Result<Vec<(SessionId, Bytes)>> {
        boards::read(self.link()?, &self.docs).await
    }

    async fn ping(&self) -> Result<()> {
        // As a write, which is not answered unless replicas have confirmed the last one, where they have to.
        self.link()?.send(Kind::Write, &redis::cmd("PING")).await.map(drop).map_err(|error| match error {
            Error::Unknown(why) => Error::Unavailable(why),
            other => other,
        })
    }
}
