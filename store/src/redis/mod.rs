//! The Redis store: one server, several partitions, ready for a cluster.
//!
//! Every change is one script call, so it is atomic and in order; a call carries up to 200 items and costs Redis
//! little more than the data it moves. Scripts guard versions and carry out the index commands that this side has worked
//! out from `lovage_core::placement`; they hold no rules. All keys of a partition share a hash tag and are handed to the
//! scripts as keys. `docs/decisions/003-redis-layout.md` has the layout and what it costs.
//!
//! ```text
//! callers ── Batcher per partition and verb ── Link (multiplexed, reconnects) ── redis
//! readers ── Hub (rings of late entries) ───── one connection that blocks in XREAD
//! ```

mod batch;
mod change;
mod clock;
mod docs;
mod feed;
mod footprint;
mod general;
mod insert;
mod inside;
mod keys;
mod link;
mod open;
mod own;
mod pack;
mod pages;
mod plan;
mod read;
mod script;
mod sender;
mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
mod value;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lovage_core::{Head, LaneDef, LaneId, Ns, Partition, SessionId, TaskKey};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use self::batch::Batcher;
use self::clock::RedisClock;
use self::feed::Hub;
use self::keys::{DocKeys, PartitionKeys};
use self::link::{Dialer, Kind, Link};
use self::own::FeedBounds;
use self::sender::Sender;
use crate::{
    Caps, Claim, Claimed, Commit, Committed, Cursor, DocKind, DocOutcome, DocPage, DocPut, Document, Error, FeedBatch, FeedPos,
    Index, Insert, Inserted, KeyEntry, KeyKind, KeyTake, ListQuery, Mode, OwnReply, OwnRequest, OwnToken, Page, Parts,
    QueueCounts, Result, Store, StoreClock, Stored, Sync,
};

/// The most items of one call: about 1.5 ms of a busy Redis. Scripts number items with one byte.
pub(crate) const MAX_BATCH: usize = 200;

/// How to reach a Redis store and how large its parts may grow.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS (the process must have installed a rustls
    /// crypto provider).
    pub url: String,
    /// What every key begins with, so that several stores can share a server.
    pub prefix: String,
    /// Partitions of a new store; one that exists keeps its own number.
    pub partitions: u16,
    /// A command without an answer after this long has failed.
    pub timeout: Duration,
    /// How long feed entries are kept, while `feed_bytes` allows.
    pub feed_keep: Duration,
    /// About how many bytes of feed a partition keeps.
    pub feed_bytes: u64,
}

impl RedisOptions {
    /// The defaults for the server at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: "lv".into(),
            partitions: 16,
            timeout: Duration::from_secs(5),
            feed_keep: Duration::from_secs(600),
            feed_bytes: 8 << 20,
        }
    }
}

/// A store in Redis 7.0 or newer, or Valkey.
pub struct RedisStore {
    caps: Caps,
    clock: Arc<RedisClock>,
    link: Arc<Link>,
    hub: Arc<Hub>,
    reader: JoinHandle<()>,
    parts: Vec<Part>,
    docs: DocKeys,
    bounds: FeedBounds,
}

struct Part {
    names: Arc<PartitionKeys>,
    inserts: Arc<Batcher<Insert, Sender>>,
    commits: Arc<Batcher<Commit, Sender>>,
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("caps", &self.caps).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Connects and checks that the server is fit: reachable, `maxmemory-policy noeviction`, data of a known format.
    /// The tasks of the store run on the runtime of this call.
    pub async fn open(options: RedisOptions) -> Result<Arc<Self>> {
        if options.partitions == 0 || options.partitions > lovage_core::id::SLOTS {
            return Err(Error::Invalid(format!("{} partitions", options.partitions)));
        }
        if options.prefix.contains(['{', '}']) {
            return Err(Error::Invalid("a prefix must not contain braces".into()));
        }
        let dialer = Dialer::new(&options.url)?;
        let link = Arc::new(Link::start(dialer.clone(), options.timeout));
        let durability = open::server(&link).await?;
        let docs = DocKeys::new(&options.prefix);
        let partitions = open::meta(&link, &docs, options.partitions).await?;
        let clock = Arc::new(RedisClock::new());
        own::set_clock(&link, &clock).await?;

        let runtime = Handle::current();
        let part = |number| {
            let names = Arc::new(PartitionKeys::new(&options.prefix, number));
            let sender = Sender { link: Arc::clone(&link), names: Arc::clone(&names), clock: Arc::clone(&clock) };
            Part { inserts: Batcher::new(sender.clone(), runtime.clone()), commits: Batcher::new(sender, runtime.clone()), names }
        };
        let parts: Vec<_> = (0..partitions).map(part).collect();
        let streams = parts.iter().map(|part| part.names.feed().to_vec()).chain([docs.feed().into_bytes()]);
        let hub = Arc::new(Hub::new(streams));
        let reader = tokio::spawn(Arc::clone(&hub).run(dialer, Arc::clone(&link)));
        let bounds = FeedBounds { keep_ms: options.feed_keep.as_millis() as u64, keep_bytes: options.feed_bytes };
        let caps = Caps { name: "redis", partitions, durability, max_batch: MAX_BATCH };
        Ok(Arc::new(Self { caps, clock, link, hub, reader, parts, docs, bounds }))
    }

    /// A number for a new session, never given before.
    pub async fn next_session(&self) -> Result<SessionId> {
        let mut cmd = redis::cmd("INCR");
        cmd.arg(self.docs.session());
        value::number(self.link.send(Kind::Write, &cmd).await?).map(SessionId)
    }

    fn part(&self, p: Partition, items: usize) -> Result<&Part> {
        self.caps.check_call(p, items)?;
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
        let names = &self.part(p, items.len())?.names;
        if own.0.is_empty() {
            return Err(Error::Fenced);
        }
        if items.is_empty() {
            let mut cmd = redis::cmd("GET");
            let owner = self.link.send(Kind::Read, cmd.arg(names.own())).await?;
            return if value::text(owner)? == own.0 { Ok(Vec::new()) } else { Err(Error::Fenced) };
        }
        let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
        // The bodies follow in the same go rather than through the script, which would copy them twice.
        let bodies = read::bodies_command(names, &keys);
        let call = change::claim(names, own, source, &items)?;
        let (moved, bodies) = change::apply(&self.link, names, &call, items.len(), Some(bodies)).await?;
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
        own::renew(&self.link, &self.clock, &self.part(p, 0)?.names, &request, self.bounds).await
    }

    async fn tail(&self, p: Partition) -> Result<FeedPos> {
        stream::tail(&self.link, self.part(p, 0)?.names.feed()).await
    }

    async fn feed(&self, p: Partition, at: FeedPos, wait: Duration) -> Result<FeedBatch> {
        self.part(p, 0)?;
        self.hub.read(&self.link, usize::from(p.0), at, wait).await
    }

    async fn heads(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Head>>> {
        read::heads(&self.link, &self.part(p, 0)?.names, keys).await
    }

    async fn get(&self, p: Partition, key: &TaskKey, parts: Parts) -> Result<Option<Stored>> {
        read::get(&self.link, &self.part(p, 0)?.names, key, parts).await
    }

    async fn bodies(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Bytes>>> {
        read::bodies(&self.link, &self.part(p, 0)?.names, keys).await
    }

    async fn scan(&self, p: Partition, index: &Index, from: Cursor, limit: usize) -> Result<Page> {
        pages::scan(&self.link, &self.part(p, 0)?.names, index, from, limit).await
    }

    async fn lanes(&self, p: Partition) -> Result<Vec<(LaneId, LaneDef)>> {
        read::lanes(&self.link, &self.part(p, 0)?.names).await
    }

    async fn list(&self, p: Partition, query: &ListQuery, from: Cursor, limit: usize) -> Result<Page> {
        pages::list(&self.link, &self.part(p, 0)?.names, query, from, limit).await
    }

    async fn put_key(&self, p: Partition, take: KeyTake) -> Result<Option<KeyEntry>> {
        let names = &self.part(p, 0)?.names;
        self.caps.check_take(&take)?;
        general::put_key(&self.link, names, self.clock.now(), &take).await
    }

    async fn lookup(&self, p: Partition, ns: Ns, kind: KeyKind, key: &[u8]) -> Result<Option<KeyEntry>> {
        let found = read::lookup(&self.link, &self.part(p, 0)?.names, ns, kind, key).await?;
        Ok(found.filter(|entry| !entry.is_over(self.clock.now())))
    }

    async fn counts(&self, p: Partition) -> Result<Vec<QueueCounts>> {
        read::counts(&self.link, &self.part(p, 0)?.names).await
    }

    async fn docs(&self, kind: DocKind, ns: Option<Ns>, after: Option<(Ns, String)>, limit: usize) -> Result<DocPage> {
        docs::page(&self.link, &self.docs, kind, ns, after, limit).await
    }

    async fn doc(&self, kind: DocKind, ns: Ns, name: &str) -> Result<Option<Document>> {
        docs::get(&self.link, &self.docs, kind, ns, name).await
    }

    async fn put_docs(&self, items: Vec<DocPut>) -> Result<Vec<DocOutcome>> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        docs::put(&self.link, &self.docs, &items).await
    }

    async fn doc_version(&self, seen: u64, wait: Duration) -> Result<u64> {
        // The end of the stream is read first, so that a change after the look at the number ends the wait.
        let tail = stream::tail(&self.link, self.docs.feed().as_bytes()).await?;
        let now = docs::changes(&self.link, &self.docs).await?;
        if now != seen {
            return Ok(now);
        }
        self.hub.read(&self.link, self.parts.len(), tail, wait).await?;
        docs::changes(&self.link, &self.docs).await
    }

    async fn ping(&self) -> Result<()> {
        self.link.send(Kind::Read, &redis::cmd("PING")).await.map(drop)
    }
}
