//! A store that fails on purpose: by a script for single calls, by a seed for many, or altogether.
//!
//! Every fault is one that a real store has: it could not be asked, its answer got lost, or it was slow.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fastrand::Rng;
use lovage_core::{Head, LaneDef, LaneId, Ns, Partition, SessionId, TaskKey};
use parking_lot::Mutex;

use super::Verb;
use crate::{
    Caps, Claim, Claimed, Commit, Committed, Cursor, DocKind, DocOutcome, DocPage, DocPut, Document, Error, FeedBatch, FeedPos,
    Index, Insert, Inserted, KeyEntry, KeyKind, KeyTake, LanePage, LimitKey, LimitReply, LimitRequest, ListQuery, Mode,
    OutboxPage, OwnReply, OwnRequest, OwnToken, Ownership, Page, Parts, QueueCounts, Result, Store, StoreClock, Stored, Sync,
    Traffic,
};

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call does not reach the store: [`Error::Unavailable`].
    Before,
    /// The call is carried out and its answer gets lost: [`Error::Unknown`] for a verb that writes, else
    /// [`Error::Unavailable`].
    After,
    /// The call is carried out this much later.
    Delay(Duration),
    /// The call is carried out at once and its answer comes this much later.
    Late(Duration),
    /// The call does not reach the store, which nobody can know: the errors of [`Fault::After`].
    Lost,
}

/// Makes calls of another store fail.
pub struct Faulty {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    script: BTreeMap<Verb, VecDeque<Option<Fault>>>,
    random: Option<Random>,
    damaged: BTreeSet<TaskKey>,
    away: bool,
    away_in: BTreeSet<Partition>,
    thin: bool,
}

struct Random {
    rng: Rng,
    per_mille: u32,
    longest: Duration,
}

impl Faulty {
    /// A store that works until it is told otherwise.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, plan: Mutex::default() }
    }

    /// Adds to the script of a verb: each call of it takes the next entry, `None` lets it pass. A scripted call has no
    /// other faults.
    pub fn script(&self, verb: Verb, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.plan.lock().script.entry(verb).or_default().extend(faults);
    }

    /// From now on this many in a thousand calls have a fault, drawn from `seed`; delays take up to `longest`.
    pub fn random(&self, seed: u64, per_mille: u32, longest: Duration) {
        self.plan.lock().random = Some(Random { rng: Rng::with_seed(seed), per_mille, longest });
    }

    /// From now on calls that read or change this record by its key fail as a whole: [`Error::Corrupt`].
    pub fn damage(&self, key: &TaskKey) {
        self.plan.lock().damaged.insert(key.clone());
    }

    /// From now on the first page of each index is empty, as if all of it had been out of date.
    pub fn set_thin(&self) {
        self.plan.lock().thin = true;
    }

    fn check<'a>(&self, keys: impl IntoIterator<Item = &'a TaskKey>) -> Result<()> {
        let plan = self.plan.lock();
        let damaged = keys.into_iter().find(|key| plan.damaged.contains(key));
        damaged.map_or(Ok(()), |key| Err(Error::Corrupt(format!("{} was made to be damaged", key.id))))
    }

    /// Whether the store is away altogether: then every call fails as [`Fault::Before`].
    pub fn set_away(&self, away: bool) {
        self.plan.lock().away = away;
    }

    /// Whether the data of this partition is away: then its calls fail as [`Fault::Before`].
    pub fn set_partition_away(&self, p: Partition, away: bool) {
        let mut plan = self.plan.lock();
        if away {
            plan.away_in.insert(p)
        } else {
            plan.away_in.remove(&p)
        };
    }

    fn reach(&self, p: Partition) -> Result<()> {
        let away = self.plan.lock().away_in.contains(&p);
        if away { Err(Error::Unavailable("the partition was made to be away".into())) } else { Ok(()) }
    }

    /// Forgets all plans: from now on everything works.
    pub fn heal(&self) {
        *self.plan.lock() = Plan::default();
    }

    async fn call<T>(&self, verb: Verb, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        // Taken before the match: a lock held in its head would be held over the call.
        let fault = self.plan.lock().next(verb);
        match fault {
            None => call.await,
            Some(Fault::Before) => Err(Error::Unavailable("made to fail before the call".into())),
            Some(Fault::Delay(by)) => {
                tokio::time::sleep(by).await;
                call.await
            }
            Some(Fault::Late(by)) => {
                let answer = call.await;
                tokio::time::sleep(by).await;
                answer
            }
            Some(Fault::After) => {
                call.await?;
                Err(unanswered(verb))
            }
            Some(Fault::Lost) => Err(unanswered(verb)),
        }
    }
}

fn unanswered(verb: Verb) -> Error {
    let text = "made to lose the answer".to_owned();
    if verb.writes() { Error::Unknown(text) } else { Error::Unavailable(text) }
}

impl Plan {
    fn next(&mut self, verb: Verb) -> Option<Fault> {
        if self.away {
            return Some(Fault::Before);
        }
        if let Some(scripted) = self.script.get_mut(&verb).and_then(VecDeque::pop_front) {
            return scripted;
        }
        let random = self.random.as_mut()?;
        if random.rng.u32(0..1_000) >= random.per_mille {
            return None;
        }
        Some(match random.rng.u32(0..5) {
            0 => Fault::Before,
            1 => Fault::After,
            2 => Fault::Lost,
            3 => Fault::Late(random.longest.mul_f64(random.rng.f64())),
            _ => Fault::Delay(random.longest.mul_f64(random.rng.f64())),
        })
    }
}

#[async_trait]
impl Store for Faulty {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn clock(&self) -> &dyn StoreClock {
        self.inner.clock()
    }

    fn traffic(&self) -> Option<&Traffic> {
        self.inner.traffic()
    }

    async fn insert(&self, p: Partition, items: Vec<Insert>, mode: Mode) -> Result<Vec<Inserted>> {
        self.reach(p)?;
        self.check(items.iter().map(|item| &item.key))?;
        self.call(Verb::Insert, self.inner.insert(p, items, mode)).await
    }

    async fn claim(&self, p: Partition, own: &OwnToken, source: SessionId, items: Vec<Claim>) -> Result<Vec<Claimed>> {
        self.call(Verb::Claim, self.inner.claim(p, own, source, items)).await
    }

    async fn commit(
        &self,
        p: Partition,
        source: SessionId,
        items: Vec<Commit>,
        mode: Mode,
        sync: Sync,
    ) -> Result<Vec<Committed>> {
        self.reach(p)?;
        self.check(items.iter().map(|item| &item.key))?;
        self.call(Verb::Commit, self.inner.commit(p, source, items, mode, sync)).await
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
        self.reach(p)?;
        self.check(keys)?;
        self.call(Verb::Heads, self.inner.heads(p, keys)).await
    }

    async fn get(&self, p: Partition, key: &TaskKey, parts: Parts) -> Result<Option<Stored>> {
        self.call(Verb::Get, self.inner.get(p, key, parts)).await
    }

    async fn bodies(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Bytes>>> {
        self.check(keys)?;
        self.call(Verb::Bodies, self.inner.bodies(p, keys)).await
    }

    async fn scan(&self, p: Partition, index: &Index, from: Cursor, limit: usize) -> Result<Page> {
        let begin = Cursor(b"begin".to_vec());
        if self.plan.lock().thin && from == Cursor::default() {
            return Ok(Page { items: Vec::new(), next: Some(begin) });
        }
        let from = if from == begin { Cursor::default() } else { from };
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
        self.reach(p)?;
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
