//! The verbs of the contract.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lovage_core::{Head, LaneDef, LaneId, Ns, Partition, SessionId, TaskKey};

use super::queue::{Op, Work};
use super::reads::{self, INLINE_ROWS};
use super::{EmbeddedStore, Shared, documents, keys, outbox};
use crate::limit::Times;
use crate::{
    Caps, Claim, Claimed, Commit, Committed, Cursor, DocKind, DocOutcome, DocPage, DocPut, Document, FeedBatch, FeedPos, Index,
    Insert, Inserted, KeyEntry, KeyKind, KeyTake, LanePage, LimitKey, LimitReply, LimitRequest, ListQuery, Mode, OutboxPage,
    OwnReply, OwnRequest, OwnToken, Ownership, Page, Parts, QueueCounts, Result, Store, StoreClock, Stored, Sync,
};

impl Shared {
    fn times(&self) -> Times {
        Times { rate: self.clock.now().0 * 1_000, lease: (self.options.lease_clock)() }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn clock(&self) -> &dyn StoreClock {
        &self.shared.clock
    }

    async fn insert(&self, p: Partition, items: Vec<Insert>, mode: Mode) -> Result<Vec<Inserted>> {
        self.caps.check_call(p, items.len())?;
        self.caps.check_inserts(p, &items)?;
        self.submit(items.len(), |reply| Work::Insert { items, mode, reply }).await
    }

    async fn claim(&self, p: Partition, own: &OwnToken, source: SessionId, items: Vec<Claim>) -> Result<Vec<Claimed>> {
        self.caps.check_call(p, items.len())?;
        let own = own.clone();
        self.submit(items.len(), |reply| Work::Claim { own, source, items, reply }).await
    }

    async fn commit(
        &self,
        p: Partition,
        source: SessionId,
        items: Vec<Commit>,
        mode: Mode,
        sync: Sync,
    ) -> Result<Vec<Committed>> {
        self.caps.check_call(p, items.len())?;
        self.caps.check_commits(&items)?;
        let ordered = sync == Sync::Ordered;
        self.submit(items.len(), |reply| Work::Commit { source, items, mode, ordered, reply }).await
    }

    async fn own(&self, p: Partition, request: OwnRequest) -> Result<OwnReply> {
        self.caps.check_call(p, 0)?;
        self.check_open()?;
        let now = (self.shared.options.lease_clock)();
        let random = getrandom::u64().map_err(|error| crate::Error::Unavailable(format!("no random numbers: {error}")))?;
        let reply = self.shared.owners.lock().renew(now, &request, random)?;
        self.shared.queue.put(Op { work: Work::Tidy, _room: None });
        self.shared.local.tidy(&self.shared.times());
        Ok(OwnReply { now: self.shared.clock.now(), ..reply })
    }

    async fn ownership(&self, p: Partition) -> Result<Ownership> {
        self.caps.check_call(p, 0)?;
        Ok(self.shared.owners.lock().seen((self.shared.options.lease_clock)()))
    }

    async fn tail(&self, p: Partition) -> Result<FeedPos> {
        self.caps.check_call(p, 0)?;
        Ok(self.shared.feed.tail())
    }

    async fn feed(&self, p: Partition, at: FeedPos, wait: Duration) -> Result<FeedBatch> {
        self.caps.check_call(p, 0)?;
        Ok(self.shared.feed.read(at, wait).await)
    }

    async fn heads(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Head>>> {
        self.caps.check_call(p, 0)?;
        if keys.len() <= INLINE_ROWS {
            return self.shared.readers.with(|conn| reads::heads(conn, keys));
        }
        let keys = keys.to_vec();
        self.shared.readers.offload(move |conn| reads::heads(conn, &keys)).await
    }

    async fn get(&self, p: Partition, key: &TaskKey, parts: Parts) -> Result<Option<Stored>> {
        self.caps.check_call(p, 0)?;
        self.shared.readers.with(|conn| reads::get(conn, key, parts))
    }

    async fn bodies(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Bytes>>> {
        self.caps.check_call(p, 0)?;
        if keys.len() <= INLINE_ROWS {
            return self.shared.readers.with(|conn| reads::bodies(conn, keys));
        }
        let keys = keys.to_vec();
        self.shared.readers.offload(move |conn| reads::bodies(conn, &keys)).await
    }

    async fn scan(&self, p: Partition, index: &Index, from: Cursor, limit: usize) -> Result<Page> {
        self.caps.check_call(p, 0)?;
        if limit <= INLINE_ROWS {
            return self.shared.readers.with(|conn| reads::scan(conn, index, &from, limit));
        }
        let index = index.clone();
        self.shared.readers.offload(move |conn| reads::scan(conn, &index, &from, limit)).await
    }

    async fn lanes(&self, p: Partition, from: Cursor, limit: usize) -> Result<LanePage> {
        self.caps.check_call(p, 0)?;
        self.shared.readers.offload(move |conn| reads::lanes(conn, &from, limit)).await
    }

    async fn lane_defs(&self, p: Partition, lanes: &[LaneId]) -> Result<Vec<Option<LaneDef>>> {
        self.caps.check_call(p, 0)?;
        if lanes.len() <= INLINE_ROWS {
            return self.shared.readers.with(|conn| reads::lane_defs(conn, lanes));
        }
        let lanes = lanes.to_vec();
        self.shared.readers.offload(move |conn| reads::lane_defs(conn, &lanes)).await
    }

    async fn lane_sizes(&self, p: Partition, lanes: &[LaneId]) -> Result<Vec<u64>> {
        self.caps.check_call(p, 0)?;
        let lanes = lanes.to_vec();
        self.shared.readers.offload(move |conn| reads::lane_sizes(conn, &lanes)).await
    }

    async fn list(&self, p: Partition, query: &ListQuery, from: Cursor, limit: usize) -> Result<Page> {
        self.caps.check_call(p, 0)?;
        let query = query.clone();
        self.shared.readers.offload(move |conn| reads::list(conn, &query, &from, limit)).await
    }

    async fn put_key(&self, p: Partition, take: KeyTake) -> Result<Option<KeyEntry>> {
        self.caps.check_call(p, 0)?;
        self.caps.check_take(&take)?;
        self.submit(1, |reply| Work::Key { take, reply }).await
    }

    async fn lookup(&self, p: Partition, ns: Ns, kind: KeyKind, key: &[u8]) -> Result<Option<KeyEntry>> {
        self.caps.check_call(p, 0)?;
        let entry = self.shared.readers.with(|conn| keys::lookup(conn, ns, kind, key))?;
        Ok(entry.filter(|entry| !entry.is_over(self.shared.clock.now())))
    }

    async fn outbox(&self, p: Partition, after: FeedPos, limit: usize) -> Result<OutboxPage> {
        self.caps.check_call(p, 0)?;
        self.shared.readers.offload(move |conn| outbox::page(conn, after, limit)).await
    }

    async fn delivered(&self, p: Partition, messages: &[FeedPos]) -> Result<()> {
        self.caps.check_call(p, messages.len())?;
        let messages = messages.to_vec();
        self.submit(messages.len(), |reply| Work::Delivered { messages, reply }).await
    }

    async fn counts(&self, p: Partition) -> Result<Vec<QueueCounts>> {
        self.caps.check_call(p, 0)?;
        self.shared.readers.offload(reads::counts).await
    }

    async fn docs(&self, kind: DocKind, ns: Option<Ns>, after: Option<(Ns, String)>, limit: usize) -> Result<DocPage> {
        self.shared.readers.offload(move |conn| documents::page(conn, kind, ns, after.as_ref(), limit)).await
    }

    async fn doc(&self, kind: DocKind, ns: Ns, name: &str) -> Result<Option<Document>> {
        let found = self.shared.readers.with(|conn| documents::read(conn, kind, ns, name))?;
        Ok(found.filter(|document| document.bytes.is_some()))
    }

    async fn put_docs(&self, items: Vec<DocPut>) -> Result<Vec<DocOutcome>> {
        self.caps.check_call(Partition(0), items.len())?;
        self.submit(items.len(), |reply| Work::Documents { items, reply }).await
    }

    async fn doc_version(&self, seen: u64, wait: Duration) -> Result<u64> {
        let mut version = self.shared.doc_version.subscribe();
        let changed = tokio::time::timeout(wait, version.wait_for(|now| *now != seen)).await;
        if let Ok(Ok(now)) = changed {
            return Ok(*now);
        }
        Ok(*self.shared.doc_version.borrow())
    }

    async fn limit(&self, requests: Vec<LimitRequest>) -> Result<Vec<Result<LimitReply>>> {
        Ok(self.shared.local.limit(&self.shared.times(), &requests).into_iter().map(Ok).collect())
    }

    async fn wake(&self, session: SessionId, keys: &[LimitKey]) -> Result<()> {
        self.shared.local.wake(session, keys);
        Ok(())
    }

    async fn woken(&self, session: SessionId, wait: Duration) -> Result<Vec<LimitKey>> {
        Ok(self.shared.local.woken(session, wait).await)
    }

    async fn publish(&self, session: SessionId, board: Option<Bytes>) -> Result<()> {
        self.shared.local.publish((self.shared.options.lease_clock)(), session, board)
    }

    async fn boards(&self) -> Result<Vec<(SessionId, Bytes)>> {
        Ok(self.shared.local.boards((self.shared.options.lease_clock)()))
    }

    async fn ping(&self) -> Result<()> {
        self.check_open()?;
        self.shared.readers.with(|conn| conn.prepare_cached("SELECT 1")?.query_row([], |_| Ok(())))
    }
}
