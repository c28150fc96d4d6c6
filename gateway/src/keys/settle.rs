//! Storing a task whose keys may be taken.

use futures_util::{StreamExt, stream};
use lovage_core::problem::{Code, Problem};
use lovage_core::{Body, Event, Head, Millis, Partition, Reason, SessionId, SlotKind, Spec, TaskKey, Version, decide};
use lovage_store::{Commit, Committed, Effect, Inserted, KeyEntry, KeyKind, KeyPut, KeyTake, Mode, Parts, Sync, directory};

use super::Coming;
use super::home::Behind;
use super::judge::{Verdict, unique_conflict};
use crate::app::App;
use crate::intake::{id_exists, odd_answer};
use crate::problem::{Refusal, store_problem};
use crate::view::taken_apart;
use lovage_store::Result as StoreResult;

/// How often a task is tried again because its key changed hands.
const TRIES: usize = 32;
/// Tasks with keys of one request that are stored at the same time.
const AT_ONCE: usize = 64;

/// What became of a task that was to be stored.
#[derive(Debug)]
pub(crate) enum Settled {
    /// Stored, with this head but for its order of acceptance.
    Stored(Head),
    /// An earlier request made this task, or it has the unique key and is to be the answer.
    Existing(TaskKey),
    /// The idempotency key names this task.
    Replayed(TaskKey),
}

/// A task whose place another one takes.
pub(crate) struct Replaced {
    pub holder: TaskKey,
    /// As it was judged.
    pub head: Head,
    /// Why it is called off.
    pub reason: Reason,
}

/// Why a task was not stored.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is refused.
    Problem(Problem),
    /// The store failed; perhaps it was stored.
    Store(lovage_store::Error),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Problem(refusal.0)
    }
}

impl From<lovage_store::Error> for Stop {
    fn from(error: lovage_store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Stop> for Problem {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Problem(problem) => problem,
            Stop::Store(error) => store_problem(&error),
        }
    }
}

impl App {
    /// Stores a task, or says what stands in its place.
    pub(crate) async fn settle(&self, coming: &mut Coming) -> Result<Settled, Stop> {
        let mut noted = None;
        if let Some(idempotency) = &coming.idempotency {
            match self.note_request(idempotency, coming.partition, &coming.key).await? {
                Ok(note) => noted = note,
                // A client's id that is stored is answered first.
                Err(problem) => {
                    let p = self.home(&coming.key).await?;
                    let stored = self.store.heads(p, std::slice::from_ref(&coming.key)).await?.pop().flatten();
                    return if stored.is_some() { self.same(coming, p).await } else { Err(problem.into()) };
                }
            }
        }
        let settled = self.try_settle(coming).await;
        if let (Err(Stop::Problem(_)), Some(noted)) = (&settled, noted) {
            self.forget_request(noted).await;
        }
        // After a failure of the store nobody knows whether the task is there: then its entry stays until that is settled.
        if !matches!(settled, Ok(Settled::Stored(_)) | Err(Stop::Store(_))) {
            self.leave(coming).await;
        }
        settled
    }

    /// Settles many: those that want the same key or are kept in one order one after the other, so that the last one is the last.
    pub(crate) async fn settle_all<T>(&self, all: Vec<(T, Coming)>) -> Vec<(T, TaskKey, Result<Settled, Stop>)> {
        let mut lines: Vec<Vec<(T, Coming)>> = Vec::new();
        let mut places = ahash::AHashMap::new();
        for (tag, coming) in all {
            match coming.rivals().map(|rivals| *places.entry(rivals).or_insert(lines.len())) {
                Some(place) if place < lines.len() => lines[place].push((tag, coming)),
                _ => lines.push(vec![(tag, coming)]),
            }
        }
        let settle = |line: Vec<(T, Coming)>| async move {
            let mut done = Vec::with_capacity(line.len());
            for (tag, mut coming) in line {
                let settled = self.settle(&mut coming).await;
                done.push((tag, coming.key, settled));
            }
            done
        };
        stream::iter(lines).map(settle).buffer_unordered(AT_ONCE).concat().await
    }

    async fn try_settle(&self, coming: &mut Coming) -> Result<Settled, Stop> {
        for _ in 0..TRIES {
            if coming.away
                && coming.entered.is_none()
                && let Some(p) = self.enter(coming).await?
            {
                return self.same(coming, p).await;
            }
            let now = self.now();
            let insert = coming.insert(self, now);
            let head = insert.head.clone();
            let answer = self.store.insert(coming.partition, vec![insert], Mode::Each).await?.pop().unwrap_or(Inserted::Aborted);
            match answer {
                Inserted::Ok { .. } => return Ok(Settled::Stored(head)),
                Inserted::Exists(_) => return self.same(coming, coming.partition).await,
                Inserted::Conflict { kind: KeyKind::Directory, entry, .. } => {
                    if let Some(p) = self.look_behind(&coming.key, entry).await? {
                        return self.same(coming, p).await;
                    }
                }
                Inserted::Conflict { kind: KeyKind::Idempotency, entry, .. } => return coming.replay(&entry),
                Inserted::Conflict { kind: kind @ (KeyKind::Unique | KeyKind::Debounce), entry, head } => {
                    match coming.judge(kind, &entry, head.as_ref(), now) {
                        Verdict::Take => coming.take_from(&entry, head.as_ref()),
                        Verdict::Return => return self.returned(coming, entry.task).await,
                        Verdict::Refuse(problem) => return Err(problem.into()),
                        Verdict::Replace(reason) => {
                            let Some(head) = head else { continue };
                            coming.continue_burst(&entry, reason);
                            if let Some(settled) = self.replace(coming, &entry, head, reason).await? {
                                return Ok(settled);
                            }
                        }
                    }
                }
                Inserted::Late => {
                    return Err(Problem::new(Code::Overloaded, "it took too long to get its keys; try again").into());
                }
                Inserted::Aborted => return Err(odd_answer(&answer).into()),
            }
        }
        Err(Problem::new(Code::Overloaded, "its keys change hands too fast; try again").into())
    }

    /// What is behind a directory entry that keeps a task from its home; `None`: the way is free now.
    pub(crate) async fn look_behind(&self, key: &TaskKey, entry: KeyEntry) -> StoreResult<Option<Partition>> {
        match self.behind(key, &entry).await? {
            Behind::Task(p) => Ok(Some(p)),
            Behind::Nothing => directory::strike(&*self.store, entry).await.map(|()| None),
            Behind::Changed => Ok(None),
        }
    }

    /// Answers a task whose id is taken.
    async fn same(&self, coming: &Coming, p: Partition) -> Result<Settled, Stop> {
        let same = self.is_same(p, &coming.key, coming.spec().request_hash).await?;
        if same { Ok(Settled::Existing(coming.key.clone())) } else { Err(id_exists(&coming.key.id).into()) }
    }

    /// Whether the task that is stored under this key was asked for by the same request.
    pub(crate) async fn is_same(&self, p: Partition, key: &TaskKey, hash: Option<u64>) -> StoreResult<bool> {
        let body = self.store.bodies(p, std::slice::from_ref(key)).await?.pop().flatten();
        let stored = body.and_then(|body| Spec::decode(&Body::decode(&body)?.spec)?.request_hash);
        Ok(hash.is_some() && stored == hash)
    }

    /// Answers with the task that has the key, and makes sure that the same request is answered so again.
    async fn returned(&self, coming: &Coming, holder: TaskKey) -> Result<Settled, Stop> {
        let Some(idempotency) = &coming.idempotency else { return Ok(Settled::Existing(holder)) };
        match self.remember(coming.partition, idempotency.put(self, self.now(), 1), holder.clone()).await? {
            None => Ok(Settled::Existing(holder)),
            Some(entry) => coming.replay(&entry),
        }
    }

    /// Takes an idempotency key for a request whose answer is this task. `Some`: another request has it.
    pub(crate) async fn remember(&self, p: Partition, put: KeyPut, task: TaskKey) -> StoreResult<Option<KeyEntry>> {
        let entry = KeyEntry { task, value: put.value, until: put.until };
        self.store.put_key(p, KeyTake { kind: put.kind, key: put.key, entry, seen: None }).await
    }

    /// Who may lose its unique key to another task, and at which version; `unique_conflict` if it holds the key.
    pub(crate) async fn loser_of(&self, p: Partition, entry: &KeyEntry, now: Millis) -> Result<(TaskKey, Version), Refusal> {
        let head = self.store.heads(p, std::slice::from_ref(&entry.task)).await?.into_iter().flatten().next();
        if entry.is_held(head.as_ref(), now) {
            return Err(unique_conflict("of this task", entry).into());
        }
        Ok((entry.task.clone(), head.map_or(0, |head| head.version)))
    }

    /// Calls off the one that has the key, and takes its place in the same step. `None`: not yet; what is stored has changed.
    async fn replace(&self, coming: &mut Coming, entry: &KeyEntry, head: Head, reason: Reason) -> Result<Option<Settled>, Stop> {
        let now = self.now();
        let replaced = Replaced { holder: entry.task.clone(), head, reason };
        let Some(mut commit) = self.call_off(coming.partition, &replaced, now).await? else { return Ok(None) };
        if coming.away {
            // What a commit stores comes however late, which an entry in the directory does not allow: one after the other.
            self.store.commit(coming.partition, SessionId(0), vec![commit], Mode::Each, Sync::Durable).await?;
            return Ok(None);
        }
        coming.take_from(entry, Some(&replaced.head));
        let insert = coming.insert(self, now);
        let head = insert.head.clone();
        commit.effects.push(Effect::Spawn(Box::new(insert)));
        let done = self.store.commit(coming.partition, SessionId(0), vec![commit], Mode::Each, Sync::Durable).await?;
        if done.first() != Some(&Committed::Ok) {
            coming.take_from_nobody();
            return Ok(None);
        }
        // An id that was taken at the last moment is left alone by a commit.
        if coming.has_own_id() && !self.is_same(coming.partition, &coming.key, coming.spec().request_hash).await? {
            return Err(id_exists(&coming.key.id).into());
        }
        Ok(Some(Settled::Stored(head)))
    }

    /// The change that calls a task off; `None`: it has changed since.
    pub(crate) async fn call_off(&self, p: Partition, replaced: &Replaced, now: Millis) -> Result<Option<Commit>, Stop> {
        let Replaced { holder, head, reason } = replaced;
        let parts = Parts { body: true, ..Parts::default() };
        let Some(stored) = self.store.get(p, holder, parts).await?.filter(|stored| stored.head.version == head.version) else {
            return Ok(None);
        };
        let (spec, _) = taken_apart(&stored)?;
        let grace = self.cancel_grace(holder.ns, &stored.head).await?;
        let event = Event::Cancel { hard: false, reason: *reason, grace };
        let Ok(change) = decide(holder, &stored.head, &spec, event, now, self.random()) else { return Ok(None) };
        Ok(Some(self.commit(holder, stored.head, change, &spec, None, now)))
    }
}

impl Coming {
    /// What others of the same request may have as well, so that one has to come after the other. Of an order key it is the
    /// order, in which all that have a unique key of it are.
    fn rivals(&self) -> Option<(SlotKind, String)> {
        let spec = &self.draft.spec;
        let unique = || spec.unique.as_ref().map(|unique| (SlotKind::Unique, unique.key.clone()));
        let debounce = || spec.debounce.as_ref().map(|debounce| (SlotKind::Debounce, debounce.key.clone()));
        let order = |wanted| spec.order_name().filter(|(kind, _)| *kind == wanted).map(|(kind, name)| (kind, name.to_owned()));
        order(SlotKind::Order).or_else(unique).or_else(debounce).or_else(|| order(SlotKind::Queue))
    }

    /// The answer of the request that took the idempotency key.
    fn replay(&self, entry: &KeyEntry) -> Result<Settled, Stop> {
        match &self.idempotency {
            Some(idempotency) => Ok(Settled::Replayed(idempotency.replay(entry)?)),
            None => Err(Problem::new(Code::Fault, "the store named a key that the task does not take").into()),
        }
    }
}
