//! What the cases are written with: a store, made-up tasks, and waiting for conditions.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lovage_core::{
    Flags, Head, IdRun, LaneDef, LaneId, Millis, Ns, Partition, Reason, Route, SessionId, Slot, State, TaskId, TaskKey,
};

use super::Fixture;
use crate::{
    Claim, Claimed, Commit, Committed, Cursor, FeedBatch, FeedEntry, FeedPos, Index, Insert, Inserted, KeyKind, KeyPut,
    ListQuery, Mode, OnExists, OwnReply, OwnRequest, OwnToken, Parts, QueueCounts, Store, Stored, Sync, Want,
};

/// Long enough for anything to happen on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// A lease that does not run out during a case.
pub const LONG: Duration = Duration::from_secs(3_600);
/// The session that most cases use.
pub const SESSION: SessionId = SessionId(0x5e55_0001);
/// Another session.
pub const OTHER: SessionId = SessionId(0x5e55_0002);

/// A store and what a case needs to talk to it.
pub struct Kit<'a> {
    fixture: &'a dyn Fixture,
    /// The store under test.
    pub store: Arc<dyn Store>,
    /// The partition that the case works in.
    pub p: Partition,
    ids: IdRun,
    made: AtomicU32,
}

/// A stored task as the case knows it.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its key.
    pub key: TaskKey,
    /// Its head as stored last.
    pub head: Head,
    /// Its queue.
    pub queue: Arc<str>,
}

impl Task {
    /// The claim of this task for `session`.
    pub fn claim(&self, session: SessionId) -> Claim {
        Claim { key: self.key.clone(), was: self.head.clone(), head: running(&self.head, session), queue: self.queue.clone() }
    }

    /// The change to `head` and nothing else; `None` deletes.
    pub fn commit(&self, head: Option<Head>) -> Commit {
        Commit {
            key: self.key.clone(),
            was: self.head.clone(),
            head,
            queue: self.queue.clone(),
            lane: None,
            body: None,
            result: None,
            attempt: None,
            effects: Vec::new(),
        }
    }

    /// The move to `lane` with whatever else `edit` changes, and the task as it is then.
    pub fn moved(&self, lane: &Arc<LaneDef>, edit: impl FnOnce(&mut Head)) -> (Commit, Self) {
        let mut item = self.change(edit);
        let head = item.head.as_mut().map(|head| {
            head.lane = lane.id();
            head.clone()
        });
        let after =
            Self { key: self.key.clone(), head: head.unwrap_or_else(|| self.head.clone()), queue: lane.queue.as_str().into() };
        item.lane = Some(lane.clone());
        (item, after)
    }

    /// The change to the next version of the head after `edit`.
    pub fn change(&self, edit: impl FnOnce(&mut Head)) -> Commit {
        self.commit(Some(next(&self.head, edit)))
    }
}

/// The head one version later, edited.
pub fn next(was: &Head, edit: impl FnOnce(&mut Head)) -> Head {
    let mut head = Head { version: was.version + 1, ..was.clone() };
    edit(&mut head);
    head
}

/// The head after a claim.
pub fn running(was: &Head, session: SessionId) -> Head {
    next(was, |head| {
        head.state = State::Running;
        head.reason = Reason::Dispatched;
        head.attempt += 1;
        head.session = session;
    })
}

/// The head after an ending at `at`, kept for `keep`.
pub fn ended(was: &Head, state: State, at: Millis, keep: Duration) -> Head {
    next(was, |head| {
        head.state = state;
        head.reason = Reason::None;
        head.session = SessionId(0);
        head.ended = at;
        head.due = at.after(keep);
    })
}

/// A key that ends so long from now, or has no end of its own.
pub fn key_put(kit: &Kit<'_>, kind: KeyKind, key: &'static str, lasts: Option<Duration>) -> KeyPut {
    let until = lasts.map(|lasts| kit.now().after(lasts));
    KeyPut { kind, key: key.into(), value: Bytes::from_static(b"\0value\xff"), until, steal: None }
}

/// The lane of tasks called `name` in `queue`.
pub fn lane(ns: Ns, queue: &str, name: &str) -> Arc<LaneDef> {
    Arc::new(LaneDef::of(ns, queue, Route::Task(name.into())))
}

/// The first head of a task in this lane.
pub fn first_head(lane: LaneId, created: Millis) -> Head {
    Head {
        version: 1,
        state: State::Queued,
        reason: Reason::None,
        priority: 5,
        flags: Flags(0),
        attempt: 0,
        budget: 0,
        lost: 0,
        generation: 0,
        session: SessionId(0),
        lane,
        worker: 0,
        seq: 0,
        created,
        due: created,
        expires: Millis(0),
        deadline: Millis(0),
        started: Millis(0),
        first_started: Millis(0),
        ended: Millis(0),
    }
}

impl<'a> Kit<'a> {
    /// A fresh store of this fixture.
    pub async fn new(fixture: &'a dyn Fixture) -> Self {
        Self::over(fixture, fixture.fresh().await)
    }

    /// A store that is there already.
    pub fn over(fixture: &'a dyn Fixture, store: Arc<dyn Store>) -> Self {
        Self::in_partition(fixture, store, Partition(0))
    }

    /// The same for cases that work in another partition.
    pub fn in_partition(fixture: &'a dyn Fixture, store: Arc<dyn Store>, p: Partition) -> Self {
        let ids = IdRun::new(store.clock().now(), Slot::in_partition(p, store.caps().partitions, 0), 7);
        Self { fixture, store, p, ids, made: AtomicU32::new(0) }
    }

    /// The store's time.
    pub fn now(&self) -> Millis {
        self.store.clock().now()
    }

    /// A queued task with a generated id in the lane `demo` of queue `default`, not stored yet.
    pub fn task(&self) -> Insert {
        self.task_in(lane(Ns::DEFAULT, "default", "demo"))
    }

    /// A queued task with a generated id in this lane, not stored yet.
    pub fn task_in(&self, lane: Arc<LaneDef>) -> Insert {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        Insert {
            key: TaskKey::new(lane.ns, self.ids.nth(n)),
            head: first_head(lane.id(), self.now()),
            body: Bytes::from(format!("body {n}")),
            lane,
            exists: OnExists::Generated,
            not_after: None,
            keys: Vec::new(),
            root: None,
        }
    }

    /// A queued task with the `n`-th client-chosen id that lives in the partition, not stored yet.
    pub fn client_task(&self, n: usize) -> Insert {
        let partitions = self.store.caps().partitions;
        let keys = (0u32..).map(|i| TaskKey::new(Ns::DEFAULT, TaskId::Client(format!("order-{i}").into())));
        let mut here = keys.filter(|key| key.slot().partition(partitions) == self.p);
        Insert { key: here.nth(n).unwrap(), exists: OnExists::Return, ..self.task() }
    }

    /// Inserts, each alone.
    pub async fn insert(&self, items: Vec<Insert>) -> Vec<Inserted> {
        self.store.insert(self.p, items, Mode::Each).await.unwrap()
    }

    /// Inserts one that must be taken.
    pub async fn put(&self, item: Insert) -> Task {
        self.put_all(vec![item]).await.remove(0)
    }

    /// Inserts some that must all be taken.
    pub async fn put_all(&self, items: Vec<Insert>) -> Vec<Task> {
        let answers = self.insert(items.clone()).await;
        assert_eq!(answers.len(), items.len());
        let task = |(item, answer): (Insert, Inserted)| match answer {
            Inserted::Ok { seq } => {
                Task { key: item.key, head: Head { seq, ..item.head }, queue: item.lane.queue.as_str().into() }
            }
            other => panic!("a plain insert was answered {other:?}"),
        };
        items.into_iter().zip(answers).map(task).collect()
    }

    /// A renewal.
    pub async fn own(&self, session: SessionId, want: Want, lease: Duration) -> OwnReply {
        self.store.own(self.p, OwnRequest { session, want, lease, drop: Vec::new() }).await.unwrap()
    }

    /// The right to claim for [`SESSION`].
    pub async fn token(&self) -> OwnToken {
        self.own(SESSION, Want::Own, LONG).await.token.expect("a free partition is given to who asks")
    }

    /// Claims one that must be given, and answers it as it is then.
    pub async fn claimed(&self, token: &OwnToken, task: &Task) -> Task {
        let claim = task.claim(SESSION);
        let head = claim.head.clone();
        let answers = self.store.claim(self.p, token, SESSION, vec![claim]).await.unwrap();
        assert!(matches!(answers[..], [Claimed::Ok(_)]), "a claim was answered {answers:?}");
        Task { head, ..task.clone() }
    }

    /// Commits durably, each alone.
    pub async fn commit(&self, items: Vec<Commit>) -> Vec<Committed> {
        self.store.commit(self.p, SESSION, items, Mode::Each, Sync::Durable).await.unwrap()
    }

    /// Commits one that must apply, and answers the task as it is then.
    pub async fn committed(&self, task: &Task, item: Commit) -> Task {
        let head = item.head.clone().unwrap_or_else(|| task.head.clone());
        assert_eq!(self.commit(vec![item]).await, [Committed::Ok]);
        Task { head, ..task.clone() }
    }

    /// The head of a task.
    pub async fn head(&self, key: &TaskKey) -> Option<Head> {
        self.store.heads(self.p, std::slice::from_ref(key)).await.unwrap().remove(0)
    }

    /// All of a record.
    pub async fn whole(&self, key: &TaskKey) -> Option<Stored> {
        self.store.get(self.p, key, Parts { body: true, result: true, attempts: true }).await.unwrap()
    }

    /// An index, read to its end in pages of `limit`.
    pub async fn scan(&self, index: &Index, limit: usize) -> Vec<(TaskKey, Head)> {
        let mut items = Vec::new();
        let mut from = Cursor::default();
        loop {
            let page = self.store.scan(self.p, index, from, limit).await.unwrap();
            assert!(page.items.len() <= limit, "a page of {} for a limit of {limit}", page.items.len());
            items.extend(page.items);
            let Some(next) = page.next else { return items };
            from = next;
        }
    }

    /// The keys of an index.
    pub async fn scan_keys(&self, index: &Index, limit: usize) -> Vec<TaskKey> {
        self.scan(index, limit).await.into_iter().map(|(key, _)| key).collect()
    }

    /// A listing, read to its end in pages of `limit`.
    pub async fn list(&self, query: &ListQuery, limit: usize) -> Vec<(TaskKey, Head)> {
        let mut items = Vec::new();
        let mut from = Cursor::default();
        loop {
            let page = self.store.list(self.p, query, from, limit).await.unwrap();
            assert!(page.items.len() <= limit, "a page of {} for a limit of {limit}", page.items.len());
            items.extend(page.items);
            let Some(next) = page.next else { return items };
            from = next;
        }
    }

    /// The count of a queue in a state.
    pub async fn count(&self, ns: Ns, queue: &str, state: State) -> u64 {
        let counts: Vec<QueueCounts> = self.store.counts(self.p).await.unwrap();
        counts.iter().find(|c| c.ns == ns && c.queue == queue).map_or(0, |c| c.states[state as usize])
    }

    /// The entries after `at` that say something, until there are `n` of them.
    pub async fn entries(&self, mut at: FeedPos, n: usize) -> Vec<Arc<FeedEntry>> {
        let mut seen = Vec::new();
        let reading = async {
            while seen.len() < n {
                match self.store.feed(self.p, at, Duration::from_secs(1)).await.unwrap() {
                    FeedBatch::Entries { entries, next } => {
                        at = next;
                        seen.extend(entries.into_iter().filter(|entry| !entry.rows.is_empty()));
                    }
                    FeedBatch::Behind { .. } => panic!("the feed lost the place {at}"),
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, reading).await.is_ok();
        assert!(in_time, "{} of {n} entries came", seen.len());
        seen
    }

    /// Lets the store's time pass.
    pub async fn pass(&self, by: Duration) {
        let until = self.now().after(by);
        if !self.fixture.advance(by) {
            eventually("the store's time passes", async || self.now() >= until).await;
        }
    }

    /// Lets the store's time pass only if that takes no real time.
    pub fn pass_if_free(&self, by: Duration) -> bool {
        self.fixture.advance(by)
    }
}

/// Waits until `check` holds, for as long as [`PATIENCE`].
pub async fn eventually<F, C>(what: &str, mut check: F)
where
    F: FnMut() -> C,
    C: Future<Output = bool>,
{
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "in {PATIENCE:?} this did not happen: {what}");
}
