//! A store that tells how long its calls take and how they fail.
//!
//! | metric | labels | meaning |
//! |---|---|---|
//! | `lovage_store_call_seconds` | `verb` | time of each call that does not wait for news |
//! | `lovage_store_errors_total` | `verb`, `error` | calls that failed, by the kind of error |
//!
//! Each call also runs in a debug span `store` with its verb. What is written is counted by queue ([`Traffic`]). A store that stays away is told in the log here, once for all
//! callers (`outage`).

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use lovage_core::{Head, LaneDef, LaneId, Ns, Partition, SessionId, TaskKey};
use tracing::Instrument;

use super::Verb;
use super::outage::Outage;
use crate::traffic::Moves;
use crate::{
    Caps, Claim, Claimed, Commit, Committed, Cursor, DocKind, DocOutcome, DocPage, DocPut, Document, Error, FeedBatch, FeedPos,
    Index, Insert, Inserted, KeyEntry, KeyKind, KeyTake, LanePage, LimitKey, LimitReply, LimitRequest, ListQuery, Mode,
    OutboxPage, OwnReply, OwnRequest, OwnToken, Ownership, Page, Parts, QueueCounts, Result, Store, StoreClock, Stored, Sync,
    Traffic,
};

/// Measures the calls of another store.
pub struct Traced {
    inner: Arc<dyn Store>,
    outage: Outage,
    traffic: Traffic,
}

impl Traced {
    /// Measures the calls of `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, outage: Outage::default(), traffic: Traffic::default() }
    }

    async fn call<T>(&self, verb: Verb, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let started = Instant::now();
        let answer = call.instrument(tracing::debug_span!("store", verb = verb.as_str())).await;
        if !verb.waits() {
            metrics::histogram!("lovage_store_call_seconds", "verb" => verb.as_str()).record(started.elapsed());
        }
        match &answer {
            Ok(_) => self.outage.worked(),
            Err(error) => {
                metrics::counter!("lovage_store_errors_total", "verb" => verb.as_str(), "error" => kind(error)).increment(1);
                if error.is_transient() {
                    self.outage.failed(verb, error);
                }
            }
        }
        answer
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Unavailable(_) => "unavailable",
        Error::Unknown(_) => "unknown",
        Error::Full(_) => "full",
        Error::Fenced => "fenced",
        Error::Corrupt(_) => "corrupt",
        Error::Format { .. } => "format",
        Error::Locked(_) => "locked",
        Error::Invalid(_) => "invalid",
    }
}

#[async_trait]
impl Store for Traced {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn clock(&self) -> &dyn StoreClock {
        self.inner.clock()
    }

    fn traffic(&self) -> Option<&Traffic> {
        Some(&self.traffic)
    }

    async fn insert(&self, p: Partition, items: Vec<Insert>, mode: Mode) -> Result<Vec<Inserted>> {
        let lanes: Vec<Arc<LaneDef>> = items.iter().map(|item| Arc::clone(&item.lane)).collect();
        let answers = self.call(Verb::Insert, self.inner.insert(p, items, mode)).await?;
        let now = self.clock().now();
        let new = lanes.iter().zip(&answers).filter(|(_, answer)| matches!(answer, Inserted::Ok { .. }));
        new.for_each(|(lane, _)| self.traffic.accepted(lane, now));
        Ok(answers)
    }

    async fn claim(&self, p: Partition, own: &OwnToken, source: SessionId, items: Vec<Claim>) -> Result<Vec<Claimed>> {
        let queues: Vec<(Ns, Arc<str>)> = items.iter().map(|item| (item.key.ns, Arc::clone(&item.queue))).collect();
        let answers = self.call(Verb::Claim, self.inner.claim(p, own, source, items)).await?;
        let now = self.clock().now();
        let claimed = queues.iter().zip(&answers).filter(|(_, answer)| matches!(answer, Claimed::Ok(_)));
        claimed.for_each(|((ns, queue), _)| self.traffic.started(*ns, queue, now));
        Ok(answers)
    }

    async fn commit(
        &self,
        p: Partition,
        source: SessionId,
        items: Vec<Commit>,
        mode: Mode,
        sync: Sync,
    ) -> Result<Vec<Committed>> {
        let moves: Vec<Moves> = items.iter().map(Moves::of).collect();
        let answers = self.call(Verb::Commit, self.inner.commit(p, source, items, mode, sync)).await?;
        let now = self.clock().now();
        let applied = moves.iter().zip(&answers).filter(|(_, answer)| **answer == Committed::Ok);
        applied.for_each(|(moves, _)| self.traffic.moved(moves, now));
        Ok(answers)
    }

    async fn own(&self, p: Partition, request: OwnRequest) -> Result<OwnReply> {
        self.call(Verb::Own, self.inner.own(p, request)).await
    }

    async fn ownership(&self, p: Partition) -> Result<Ownership> {
        self.call(Verb::Ownership, self.inner.ownership(p)).await
    }

    async fn tail(&self, p: Partition) -> Result<FeedPos> {
        self.call(Verb::Tail, self.inner.tail(p)).await
    }

    async fn feed(&self, p: Partition, at: FeedPos, wait: Duration) -> Result<FeedBatch> {
        self.call(Verb::Feed, self.inner.feed(p, at, wait)).await
    }

    async fn heads(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Head>>> {
        self.call(Verb::Heads, self.inner.heads(p, keys)).await
    }

    async fn get(&self, p: Partition, key: &TaskKey, parts: Parts) -> Result<Option<Stored>> {
        self.call(Verb::Get, self.inner.get(p, key, parts)).await
    }

    async fn bodies(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Bytes>>> {
        self.call(Verb::Bodies, self.inner.bodies(p, keys)).await
    }

    async fn scan(&self, p: Partition, index: &Index, from: Cursor, limit: usize) -> Result<Page> {
        self.call(Verb::Scan, self.inner.scan(p, index, from, limit)).await
    }

    async fn lanes(&self, p: Partition, from: Cursor, limit: usize) -> Result<LanePage> {
        self.call(Verb::Lanes, self.inner.lanes(p, from, limit)).await
    }

    async fn lane_defs(&self, p: Partition, lanes: &[LaneId]) -> Result<Vec<Option<LaneDef>>> {
        self.call(Verb::LaneDefs, self.inner.lane_defs(p, lanes)).await
    }

    async fn lane_sizes(&self, p: Partition, lanes: &[LaneId]) -> Result<Vec<u64>> {
        self.call(Verb::LaneSizes, self.inner.lane_sizes(p, lanes)).await
    }

    async fn list(&self, p: Partition, query: &ListQuery, from: Cursor, limit: usize) -> Result<Page> {
        self.call(Verb::List, self.inner.list(p, query, from, limit)).await
    }

    async fn put_key(&self, p: Partition, take: KeyTake) -> Result<Option<KeyEntry>> {
        self.call(Verb::PutKey, self.inner.put_key(p, take)).await
    }

    async fn lookup(&self, p: Partition, ns: Ns, kind: KeyKind, key: &[u8]) -> Result<Option<KeyEntry>> {
        self.call(Verb::Lookup, self.inner.lookup(p, ns, kind, key)).await
    }

    async fn outbox(&self, p: Partition, after: FeedPos, limit: usize) -> Result<OutboxPage> {
        self.call(Verb::Outbox, self.inner.outbox(p, after, limit)).await
    }

    async fn delivered(&self, p: Partition, messages: &[FeedPos]) -> Result<()> {
        self.call(Verb::Delivered, self.inner.delivered(p, messages)).await
    }

    async fn counts(&self, p: Partition) -> Result<Vec<QueueCounts>> {
        self.call(Verb::Counts, self.inner.counts(p)).await
    }

    async fn docs(&self, kind: DocKind, ns: Option<Ns>, after: Option<(Ns, String)>, limit: usize) -> Result<DocPage> {
        self.call(Verb::Docs, self.inner.docs(kind, ns, after, limit)).await
    }

    async fn doc(&self, kind: DocKind, ns: Ns, name: &str) -> Result<Option<Document>> {
        self.call(Verb::Doc, self.inner.doc(kind, ns, name)).await
    }

    async fn put_docs(&self, items: Vec<DocPut>) -> Result<Vec<DocOutcome>> {
        self.call(Verb::PutDocs, self.inner.put_docs(items)).await
    }

    async fn doc_version(&self, seen: u64, wait: Duration) -> Result<u64> {
        self.call(Verb::DocVersion, self.inner.doc_version(seen, wait)).await
    }

    async fn limit(&self, requests: Vec<LimitRequest>) -> Result<Vec<Result<LimitReply>>> {
        self.call(Verb::Limit, self.inner.limit(requests)).await
    }

    async fn wake(&self, session: SessionId, keys: &[LimitKey]) -> Result<()> {
        self.call(Verb::Wake, self.inner.wake(session, keys)).await
    }

    async fn woken(&self, session: SessionId, wait: Duration) -> Result<Vec<LimitKey>> {
        self.call(Verb::Woken, self.inner.woken(session, wait)).await
    }

    async fn publish(&self, session: SessionId, board: Option<Bytes>) -> Result<()> {
        self.call(Verb::Publish, self.inner.publish(session, board)).await
    }

    async fn boards(&self) -> Result<Vec<(SessionId, Bytes)>> {
        self.call(Verb::Boards, self.inner.boards()).await
    }

    async fn ping(&self) -> Result<()> {
        self.call(Verb::Ping, self.inner.ping()).await
    }
}
