//! Tasks taken by workers that cannot be called.
//!
//! A task is claimed and accepted in one commit, guarded by its version: of two that take it at the same moment one gets it,
//! and nothing in between is ever stored. From then on it is like any other accepted attempt: its lease holds it, reports
//! renew or end it, and the owner of its partition declares it lost when the lease has run out.
//!
//! Tasks that are kept in order (an order key, a FIFO queue) are taken one at a time: the next of each order, if it goes to
//! this worker.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use lovage_core::limit::is_built_in;
use lovage_core::problem::{Code, Problem};
use lovage_core::resume::Children;
use lovage_core::spec::DEFAULT_PRIORITY;
use lovage_core::worker::{WorkerConfig, WorkerPause};
use lovage_core::{
    Body, Event, Flags, Head, LaneDef, LaneId, Millis, Ns, Outcome, Partition, Pause, Route, SessionId, Spec, State, TaskError,
    TaskKey, Transition, decide, worker_mark,
};
use lovage_store::{Committed, Cursor, DocKind, Error, Index, Mode, Sync};
use metrics::counter;
use tokio::time::Instant;

use crate::allowed::Candidate;
use crate::app::App;
use crate::documents::content;
use crate::limits::Gate;
use crate::problem::Refusal;
use crate::routes::workers::unknown;
use crate::view::read_body;

/// Lanes that are looked at together, so that each has its turn.
const LANES: usize = 64;
/// Lanes that are read at the same time.
const READS: usize = 8;
/// Records read at once of a lane: some may be held.
const PAGE: usize = 200;
/// The same where only the first one is asked for.
const AHEAD: usize = 8;
/// How long it may take until new tasks are sure to be noticed.
const LIVE_WITHIN: Duration = Duration::from_secs(10);

/// What is asked for.
pub(crate) struct Wish {
    pub ns: Ns,
    pub worker: Arc<str>,
    /// The most tasks.
    pub most: usize,
    /// How long to wait for the first one.
    pub wait: Duration,
    /// How long an attempt may be silent.
    pub lease: Option<Duration>,
}

/// A task that its worker has now.
pub(crate) struct Taken {
    pub key: TaskKey,
    pub head: Head,
    pub spec: Spec,
    pub body: Body,
    /// What it waited for, if it is called again after it.
    pub children: Option<Children>,
}

/// Where tasks wait.
enum Source {
    /// All of its tasks go to this worker.
    Lane(LaneId),
    /// Lanes that share one order: whatever is next may go to anyone, and nothing goes before it.
    Order(Vec<LaneId>),
}

/// What waits somewhere.
#[derive(Default)]
struct Found {
    tasks: Vec<Option<(TaskKey, Head)>>,
    /// What keeps them back.
    pause: Option<Pause>,
}

/// What has been taken so far.
#[derive(Default)]
struct Haul {
    taken: Vec<Taken>,
    bytes: usize,
    /// Nothing more fits.
    full: bool,
    /// When the first pause is over that keeps tasks back.
    paused_until: Option<Millis>,
    /// Some wait for their limits: when to look again, because no news tells.
    again: Option<Instant>,
}

impl Haul {
    /// Some are kept back by this pause.
    fn paused(&mut self, pause: Option<Pause>) {
        self.paused_until = self.paused_until.into_iter().chain(pause.and_then(|pause| pause.until)).min();
    }
}

impl App {
    /// Takes tasks as soon as there are some: none after the wait, and when the server stops. A refusal if the worker is deleted
    /// or stops pulling meanwhile.
    pub(crate) async fn take(&self, wish: &Wish) -> Result<Vec<Taken>, Refusal> {
        let mut haul = Haul::default();
        let until = Instant::now() + wish.wait;
        if wish.wait.is_zero() {
            if self.paused(wish).await?.is_none() {
                self.take_anywhere(wish, &mut haul).await?;
            }
            return Ok(haul.taken);
        }
        // Entered before the first look: what comes after the look is told, also that the worker is gone.
        let poller = self.hub.poll(wish.ns, &wish.worker)?;
        if !poller.live(Instant::now() + LIVE_WITHIN).await {
            return Err(Problem::new(Code::StoreUnavailable, "the store cannot be reached; nothing was changed").into());
        }
        let mut until = until;
        match self.paused(wish).await? {
            None => self.take_anywhere(wish, &mut haul).await?,
            // The worker asks again when its pause is over.
            Some(pause) => until = pause.until.map_or(until, |end| until.min(Instant::now() + end.since(self.now()))),
        }
        while haul.taken.is_empty() {
            tokio::select! {
                mut news = poller.line.news() => {
                    // Asked of the store: what this process knows of the worker may be older than the end of it.
                    let is_paused = self.paused(wish).await?.is_some();
                    while is_paused && let Some(p) = news.first() {
                        // The end of the pause is told anew.
                        news.is_empty_now(p);
                    }
                    while let Some(p) = news.first().filter(|_| !haul.full) {
                        self.take_from(p, wish, &mut haul).await?;
                        if !haul.full {
                            news.is_empty_now(p);
                        }
                    }
                }
                () = tokio::time::sleep_until(haul.again.unwrap_or(until).min(until)) => {
                    if haul.again.take().is_none_or(|again| again >= until) {
                        break;
                    }
                    if self.paused(wish).await?.is_none() {
                        self.take_anywhere(wish, &mut haul).await?;
                    }
                }
                () = self.pause_is_over(haul.paused_until) => {
                    haul.paused_until = None;
                    if self.paused(wish).await?.is_none() {
                        self.take_anywhere(wish, &mut haul).await?;
                    }
                }
                () = self.draining.cancelled() => break,
            }
        }
        Ok(haul.taken)
    }

    /// Waits for the end of a pause that nobody else tells; for ever if there is none.
    async fn pause_is_over(&self, until: Option<Millis>) {
        match until {
            Some(until) => tokio::time::sleep(until.since(self.now())).await,
            None => std::future::pending().await,
        }
    }

    /// Refuses to take tasks for a worker that there is not, or that is called. Answers its pause.
    async fn paused(&self, wish: &Wish) -> Result<Option<WorkerPause>, Refusal> {
        let document = self.store.doc(DocKind::Worker, wish.ns, &wish.worker).await?.ok_or_else(|| unknown(&wish.worker))?;
        let config = content::<WorkerConfig>(&document)?;
        if config.pull {
            return Ok(config.paused(self.now()));
        }
        Err(Problem::invalid("/worker", "must be a worker that is registered with `pull: true`").into())
    }

    /// Begins with another partition each time, so that none is always the last.
    async fn take_anywhere(&self, wish: &Wish, haul: &mut Haul) -> Result<(), Refusal> {
        let count = self.partitions();
        let first = (self.random() % u64::from(count.max(1))) as u16;
        for n in 0..count {
            if !haul.full {
                self.take_from(Partition((first + n) % count), wish, haul).await?;
            }
        }
        Ok(())
    }

    /// Takes what there is in a partition, as far as it fits. What was taken is handed out although the store fails afterwards.
    async fn take_from(&self, p: Partition, wish: &Wish, haul: &mut Haul) -> Result<(), Refusal> {
        match self.try_take_from(p, wish, haul).await {
            Err(error) if haul.taken.is_empty() => Err(error.into()),
            Err(error) => {
                error.log("take tasks for a worker");
                haul.full = true;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn try_take_from(&self, p: Partition, wish: &Wish, haul: &mut Haul) -> Result<(), Error> {
        let mut sources = self.sources_of(p, wish, haul).await?;
        if sources.is_empty() {
            return Ok(());
        }
        let first = (self.random() % sources.len() as u64) as usize;
        sources.rotate_left(first);
        // Higher priority first; those of equal priority in turn.
        sources.sort_by_key(|(priority, _)| Reverse(*priority));
        for sources in sources.chunk_by(|a, b| a.0 == b.0).flat_map(|equal| equal.chunks(LANES)) {
            // Boxed and gathered: the compiler cannot see through a stream of borrowing futures that they are `Send`.
            let reads: Vec<_> = sources.iter().map(|(_, source)| self.look_into(p, source, wish).boxed()).collect();
            let found: Vec<Found> = stream::iter(reads).buffered(READS).try_collect().await?;
            let mut waiting = Vec::with_capacity(found.len());
            for found in found {
                haul.paused(found.pause);
                waiting.push(found.tasks);
            }
            let mut in_turn = Vec::new();
            for n in 0..wish.most {
                in_turn.extend(waiting.iter_mut().filter_map(|lane| lane.get_mut(n)?.take()));
            }
            let mut in_turn = in_turn.into_iter();
            while !haul.full {
                let room = (wish.most - haul.taken.len()).min(self.store.caps().max_batch.max(1));
                let some: Vec<_> = in_turn.by_ref().take(room).collect();
                if some.is_empty() {
                    break;
                }
                self.take_these(p, wish, some, haul).await?;
            }
            if haul.full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Where tasks for this worker wait that are not paused, with their priorities. Of what is kept in order nobody knows yet
    /// whose its tasks are.
    async fn sources_of(&self, p: Partition, wish: &Wish, haul: &mut Haul) -> Result<Vec<(u8, Source)>, Error> {
        let edition = self.hub.desk.edition();
        let lanes = lovage_store::all_lanes(&*self.store, p).await?;
        let (types, now) = (self.types(wish.ns).await?, self.now());
        let (mut routed, mut found) = (Vec::new(), Vec::new());
        let mut keys: HashMap<String, Vec<LaneId>> = HashMap::new();
        for (id, lane) in lanes.into_iter().filter(|(_, lane)| lane.ns == wish.ns) {
            if lane.route == Route::Mixed {
                match lane.order_key {
                    Some(key) => keys.entry(key).or_default().push(id),
                    None => found.push((DEFAULT_PRIORITY, Source::Order(vec![id]))),
                }
                continue;
            }
            let task = if let Route::Task(task) = &lane.route { Some(&**task) } else { None };
            let worker = task.and_then(|task| self.route(lane.ns, &lane.queue, task));
            if worker.as_deref() == Some(&*wish.worker) {
                match types.dispatch_pause(&lane.queue, task, now) {
                    None => found.push((lane.priority.unwrap_or(DEFAULT_PRIORITY), Source::Lane(id))),
                    pause => haul.paused(pause),
                }
            }
            routed.push((id, worker));
        }
        found.extend(keys.into_values().map(|lanes| (DEFAULT_PRIORITY, Source::Order(lanes))));
        self.hub.desk.learn(edition, routed.into_iter());
        Ok(found)
    }

    async fn look_into(&self, p: Partition, source: &Source, wish: &Wish) -> Result<Found, Error> {
        match source {
            Source::Lane(lane) => Ok(Found { tasks: self.first_of(p, *lane, wish.most).await?, pause: None }),
            Source::Order(lanes) => self.next_in_order(p, lanes, wish).await,
        }
    }

    /// The task that is next in the order that these lanes share, if it goes to this worker and may be taken now.
    async fn next_in_order(&self, p: Partition, lanes: &[LaneId], wish: &Wish) -> Result<Found, Error> {
        let Some((key, head)) = self.first_in_order(p, lanes).await? else { return Ok(Found::default()) };
        let body = self.store.bodies(p, std::slice::from_ref(&key)).await?.pop().flatten();
        let Some((spec, _)) = read_body(body.as_ref()) else { return Ok(Found::default()) };
        let Route::Task(task) = spec.gates(key.ns).route else { return Ok(Found::default()) };
        if self.route(key.ns, spec.queue(), &task).as_deref() != Some(&*wish.worker) {
            return Ok(Found::default());
        }
        let pause = self.types(key.ns).await?.dispatch_pause(spec.queue(), Some(&task), self.now());
        let tasks = if pause.is_none() { vec![Some((key, head))] } else { Vec::new() };
        Ok(Found { tasks, pause })
    }

    /// The task that is next in the order that these lanes share, if it may start.
    async fn first_in_order(&self, p: Partition, lanes: &[LaneId]) -> Result<Option<(TaskKey, Head)>, Error> {
        let may_start = |head: &Head| lovage_core::decide::claim(head, SessionId(0), 0, self.now()).is_ok();
        let mut first: Option<(TaskKey, Head)> = None;
        for lane in lanes {
            let (mut from, mut is_seen) = (Cursor::default(), false);
            while !is_seen {
                let page = self.store.scan(p, &Index::Lane { lane: *lane, after: None }, from, AHEAD).await?;
                for (key, head) in page.items {
                    let keeps_place = head.flags.has(Flags::ORDERED);
                    if keeps_place && head.state == State::Running {
                        return Ok(None);
                    }
                    if !keeps_place && !may_start(&head) {
                        continue;
                    }
                    // What runs was the first when it started: only tasks that were started anew since then come before it.
                    is_seen = !keeps_place || head.generation == 0;
                    if first.as_ref().is_none_or(|(_, known)| head.score() < known.score()) {
                        first = Some((key, head));
                    }
                    if is_seen {
                        break;
                    }
                }
                match page.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        Ok(first.filter(|(_, head)| may_start(head)))
    }

    /// The first tasks of a lane that may be taken now.
    async fn first_of(&self, p: Partition, lane: LaneId, most: usize) -> Result<Vec<Option<(TaskKey, Head)>>, Error> {
        let (mut found, mut from) = (Vec::new(), Cursor::default());
        loop {
            let page = self.store.scan(p, &Index::Lane { lane, after: None }, from, PAGE.min(most * 2)).await?;
            let now = self.now();
            let free = page.items.into_iter().filter(|(_, head)| lovage_core::decide::claim(head, SessionId(0), 0, now).is_ok());
            found.extend(free.map(Some));
            found.truncate(most);
            match page.next {
                Some(next) if found.len() < most => from = next,
                _ => return Ok(found),
            }
        }
    }

    /// Takes those of them that nobody else takes, as long as their bodies fit into an answer.
    async fn take_these(&self, p: Partition, wish: &Wish, some: Vec<(TaskKey, Head)>, haul: &mut Haul) -> Result<(), Error> {
        let keys: Vec<TaskKey> = some.iter().map(|(key, _)| key.clone()).collect();
        let bodies = self.store.bodies(p, &keys).await?;
        let (now, unread) = (self.now(), Spec::default());
        let (mut candidates, mut commits, mut limited) = (Vec::new(), Vec::new(), Vec::new());
        let mut known: HashMap<LaneDef, Vec<Gate>> = HashMap::new();
        for ((key, head), body) in some.into_iter().zip(bodies) {
            let bytes = body.as_ref().map_or(0, Bytes::len);
            if haul.bytes > 0 && haul.bytes + bytes > self.options.limits.array_bytes {
                haul.full = true;
                break;
            }
            // Read before the claim: what fails here has changed nothing.
            let resumed = head.flags.has(Flags::RESUMED);
            let children = if resumed { Some(lovage_store::children(&*self.store, p, &key).await?.0) } else { None };
            let content = read_body(body.as_ref());
            let spec = content.as_ref().map_or(&unread, |(spec, _)| spec);
            let Some(transition) = leased(&key, &head, content.as_ref().map(|(spec, _)| spec), wish, now, self.random()) else {
                continue;
            };
            let lane = spec.gates(key.ns);
            let mut gates = if let Some(gates) = known.get(&lane) {
                gates.clone()
            } else {
                let gates = self.limits_of(key.ns, spec, wish).await?;
                known.insert(lane, gates.clone());
                gates
            };
            if head.flags.has(Flags::NOW) {
                gates.retain(|gate| gate.stored.paused(now).is_some());
            }
            limited.push(Candidate { key: key.clone(), attempt: head.attempt + 1, created: head.created, gates });
            haul.bytes += bytes;
            let after = transition.head.clone();
            commits.push(self.commit(&key, head, transition, spec, Some(&wish.worker), now));
            // One that cannot be read fails instead.
            let taken = content.zip(after).map(|((spec, body), head)| Taken { key, head, spec, body, children });
            candidates.push(taken);
        }
        let allowed = self.allow(&mut limited).await?;
        if let Some(after) = allowed.again {
            let again = Instant::now() + after;
            haul.again = Some(haul.again.map_or(again, |known| known.min(again)));
        }
        let mut may = allowed.may.iter();
        commits.retain(|_| may.next() == Some(&true));
        let chosen = candidates.into_iter().zip(limited).zip(&allowed.may).filter(|(_, may)| **may);
        let (candidates, limited): (Vec<_>, Vec<_>) = chosen.map(|(both, _)| both).unzip();
        if commits.is_empty() {
            return Ok(());
        }
        let committed = self.store.commit(p, SessionId(0), commits, Mode::Each, Sync::Durable).await?;
        // Of the others somebody else was faster.
        let lost = limited.iter().zip(&committed).filter(|(_, committed)| **committed != Committed::Ok);
        self.release(lost.map(|(candidate, _)| candidate)).await;
        let ours = candidates.into_iter().zip(committed).filter(|(_, committed)| *committed == Committed::Ok);
        haul.taken.extend(ours.filter_map(|(taken, _)| taken).inspect(|_| counter!("lovage_tasks_leased_total").increment(1)));
        haul.full |= haul.taken.len() >= wish.most;
        Ok(())
    }

    /// The limits of a task that say anything, or of which another task may have said something.
    async fn limits_of(&self, ns: Ns, spec: &Spec, wish: &Wish) -> Result<Vec<Gate>, Error> {
        let gates = self.gates_of(ns, spec, Some(&wish.worker)).await;
        let mut gates = gates.map_err(|_| Error::Unavailable("the limits of a task cannot be read".to_owned()))?;
        gates.retain(|gate| !gate.rule().is_free() || gate.stored.paused_until.is_some() || !is_built_in(&gate.key));
        Ok(gates)
    }
}

/// The attempt starts and is accepted at once; one of a task without a readable `spec` fails. No session holds it.
fn leased(key: &TaskKey, head: &Head, spec: Option<&Spec>, wish: &Wish, now: Millis, random: u64) -> Option<Transition> {
    let outcome = match spec {
        Some(_) => Outcome::Accepted { lease: wish.lease },
        None => Outcome::Permanent { error: TaskError::new("Damaged", "the stored task cannot be read") },
    };
    let unread = Spec::default();
    let spec = spec.unwrap_or(&unread);
    let claim = Event::Claim { session: SessionId(0), worker: worker_mark(&wish.worker) };
    let claimed = decide(key, head, spec, claim, now, random).ok()?.head?;
    decide(key, &claimed, spec, Event::Answered { attempt: claimed.open_attempt(), outcome }, now, random).ok()
}
