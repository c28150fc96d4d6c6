//! Which tasks start now, and their claims.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::decide::claim;
use lovage_core::instance::Balance;
use lovage_core::resume;
use lovage_core::spec::delivered;
use lovage_core::{
    Body, Event, Flags, Head, LaneDef, LaneId, Millis, Outcome, Pause, Route, Spec, State, TaskError, TaskId, TaskKey,
};
use lovage_store::{Claim, Claimed, Error, Parts, Result, Stored};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::batch::{self, Batch};
use super::calls::Done;
use super::settle::{PushEnd, Told};
use super::{Claiming, Owner, Running, STORE_PAUSE, Shared, background};
use crate::egress::{Pushed, Target};
use crate::gate::Slot;
use crate::lanes::{Closed, Turn, Waiting};
use crate::limits::{Count, From, Gates, NO_ROOM, Permit, Verdict};
use crate::line::Asker;
use crate::push::{Attempt, Common};
use crate::registry::{Admission, Instance, Worker};
use crate::stream::{self, Sink};

/// A task on its way to running, with everything its push needs.
pub(super) struct Plan {
    task: Waiting,
    head: Head,
    queue: Arc<str>,
    worker: Arc<Worker>,
    instance: Instance,
    /// Plans with the same one are delivered together.
    slot: Arc<Slot>,
    together: bool,
    /// The attempt that its claim would open is open here already: its lane is out of date, and the store will refuse it.
    open: bool,
    permit: Right,
    room: OwnedSemaphorePermit,
}

/// A claimed task that is to be pushed now.
pub(super) struct Begun {
    pub key: TaskKey,
    pub attempt: lovage_core::Attempt,
    pub body: Body,
    pub target: Arc<Target>,
    pub instance: Arc<str>,
    /// Where else it goes at the same time.
    pub others: Vec<(Arc<str>, Arc<Target>)>,
}

/// What an attempt is counted by for its limits.
pub(super) enum Right {
    Granted(Permit),
    /// It was started whatever they say.
    Taken(Count),
}

/// Where tasks of a lane go now.
#[derive(Clone)]
struct Place {
    queue: Arc<str>,
    limits: Arc<Gates>,
    worker: Arc<Worker>,
    instance: Instance,
    slot: Arc<Slot>,
    together: bool,
}

/// What became of a place for a task.
enum Taken {
    Task(Box<Plan>),
    /// That one cannot start.
    None,
    /// The lane is empty, or has to wait for a limit.
    Empty,
    /// This process has no room.
    NoRoom,
}

/// Freed slots that are worth a claim of their own while many pushes are open.
const WORTH_A_CLAIM: usize = 64;
/// Lanes that cannot start anything and are looked at in one go.
const VISITS: usize = 1_000;
/// A claim that takes longer does not keep the others waiting: their tasks may live on another server.
const LONGEST_TURN: Duration = Duration::from_millis(50);

impl Owner {
    /// Claims what may start: one call at a time, so that what becomes free meanwhile goes together with the next. Owners
    /// take turns for the same reason.
    pub(super) fn admit(&mut self) {
        // A turn that is not used now is the next one's.
        let turn = self.turn.take();
        self.more_lanes = false;
        if self.slots_at.is_some_and(|at| at <= self.now()) {
            (self.slots_at, self.slots_freed) = (None, true);
        }
        if self.claim_calls > 0 || self.waits_for_room || self.waits_for_turn {
            return;
        }
        self.open_gates();
        let nothing = !self.lanes.is_any_open() || !self.may_claim();
        let Some(token) = self.token.as_ref().filter(|_| !nothing).cloned() else {
            // Others may have the room that was waited for.
            self.room = None;
            return;
        };
        let open = self.running.len();
        let linger = self.shared.options.claim_linger;
        // With many pushes open, slots that become free are gathered for a moment: a claim costs a transaction.
        let few = self.freed < WORTH_A_CLAIM.min(open / 4);
        if few && self.last_claim.elapsed() < linger {
            return;
        }
        let Some(turn) = turn.or_else(|| self.ask_for_turn()) else { return };
        let plans = self.plan();
        for plan in &plans {
            plan.worker.gate.pass_on();
        }
        self.room = None;
        if plans.is_empty() {
            return;
        }
        self.freed = 0;
        self.last_claim = Instant::now();
        self.claim_calls += 1;
        self.meters.claim_batch.record(plans.len() as f64);
        let items = plans.iter().map(|plan| item(plan)).collect();
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move {
            let mut claim = shared.store.claim(p, &token, shared.session, items);
            let quick = tokio::time::timeout(LONGEST_TURN, &mut claim).await;
            drop(turn);
            let outcome = match quick {
                Ok(outcome) => outcome,
                Err(_) => claim.await,
            };
            if let Err(Error::Unknown(_)) = &outcome {
                return settle_unknown(&shared, p, plans).await;
            }
            Done::Claimed(plans, outcome)
        }));
    }

    /// The turn, if it is free; else it comes later.
    fn ask_for_turn(&mut self) -> Option<OwnedSemaphorePermit> {
        let turns = &self.shared.turns;
        let turn = Arc::clone(turns).try_acquire_owned().ok();
        if turn.is_none() {
            self.waits_for_turn = true;
            let turns = Arc::clone(turns);
            self.calls.push(Box::pin(async move { Done::Turn(turns.acquire_owned().await.ok()) }));
        }
        turn
    }

    /// Takes tasks from the lanes in turn while slots are free.
    fn plan(&mut self) -> Vec<Box<Plan>> {
        let now = self.now();
        let most = self.shared.options.claim_batch.min(self.shared.store.caps().max_batch);
        let mut plans: Vec<Box<Plan>> = Vec::new();
        // The gates of a batch are few: the route of the last ones is kept.
        let mut last: Option<(Arc<LaneDef>, Arc<str>, Option<(Arc<Worker>, Arc<Gates>)>)> = None;
        let mut visits = 0;
        while plans.len() < most && !self.asking.is_full() {
            // In parts, if there are very many that cannot start: others use the thread too.
            visits += 1;
            if visits > most + VISITS {
                self.more_lanes = true;
                break;
            }
            let Some(Turn { lane: id, gates: lane }) = self.lanes.next() else { break };
            let is_last = last.as_ref().is_some_and(|(known, ..)| Arc::ptr_eq(known, &lane));
            if let Some(pause) = (!is_last).then(|| self.pause(&lane, now)).flatten() {
                // Open again as soon as documents change.
                self.lanes.close(id, pause.until.map_or(Closed::Paused, Closed::Until));
                continue;
            }
            let (queue, worker) = match &last {
                Some((_, queue, worker)) if is_last => (Arc::clone(queue), worker.clone()),
                _ => {
                    let worker = self.route(&lane).map(|worker| {
                        let limits = self.shared.limits.gates(&lane, Some(&worker));
                        (worker, limits)
                    });
                    (lane.queue.as_str().into(), worker)
                }
            };
            last = Some((Arc::clone(&lane), Arc::clone(&queue), worker.clone()));
            let Some((worker, limits)) = worker else {
                self.lanes.close(id, Closed::NoWorker);
                continue;
            };
            let together = batch::most(&lane, &worker).map(|most_of_all| most_of_all.min(most));
            if let (Some(enough), Some(batch)) = (together, &lane.batch) {
                // The end of a call would cut it in two.
                if plans.len() + enough > most && !plans.is_empty() {
                    break;
                }
                if !self.lanes.gather(id, enough, now, batch.max_wait.get()) {
                    continue;
                }
            }
            let gate = worker.gate.number;
            match worker.admit(now, &self.asker(id, gate)) {
                Admission::Slot(slot, instance) => {
                    let slot = Arc::new(slot);
                    let place = Place { queue, limits, worker, instance, slot, together: together.is_some() };
                    for _ in 0..together.unwrap_or(1) {
                        match self.take_task(id, now, &place) {
                            Taken::Task(plan) => plans.push(plan),
                            Taken::None => {}
                            Taken::Empty => break,
                            Taken::NoRoom => return plans,
                        }
                    }
                }
                Admission::Busy => self.lanes.close(id, Closed::Busy(gate)),
                Admission::Behind(again) => {
                    self.slots_at = Some(self.slots_at.map_or(again, |at| at.min(again)));
                    self.lanes.close(id, Closed::Busy(gate));
                }
                Admission::Paused(until) => self.lanes.close(id, Closed::Until(until)),
                Admission::NoInstance => self.lanes.close(id, Closed::NoWorker),
            }
        }
        plans
    }

    /// What this owner wants of a gate: a slot for the first task of a lane, and more for others.
    fn asker(&self, id: LaneId, gate: u64) -> Asker {
        let wants = self.lanes.urgency(id);
        let next = self.lanes.first(id).filter(|(_, at_hand)| *at_hand > 1).map(|_| wants);
        let waits = next.into_iter().chain(self.lanes.urgency_at(gate)).min();
        Asker { number: self.partition.0.into(), wants, waits }
    }

    /// The first task of a lane, for this place.
    fn take_task(&mut self, id: LaneId, now: Millis, place: &Place) -> Taken {
        let Some(room) = self.take_room() else { return Taken::NoRoom };
        let Some((first, at_hand)) = self.lanes.first(id) else {
            self.room = Some(room);
            return Taken::Empty;
        };
        // What a lane showed first may have moved to another one and be on its way from there.
        let is_newer = self.claiming.get(&first.key).is_some_and(|claim| claim.version > first.head.version);
        if is_newer || first.head.flags.has(Flags::HELD) {
            self.room = Some(room);
            self.lanes.take(id);
            return Taken::None;
        }
        let Ok(head) = claim(&first.head, self.shared.session, place.worker.mark, now) else {
            // Past its expiry: its timer ends it.
            self.timers.add(now, &first.key);
            self.lanes.take(id);
            return Taken::None;
        };
        // Of those that are kept in order one starts at a time.
        let at_hand = if first.head.flags.has(Flags::ORDERED) { 1 } else { at_hand };
        let limits = &self.shared.limits;
        let from = From { partition: self.partition, lane: id };
        let closed = match limits.try_start(&place.limits, from, first.head.created, at_hand) {
            Verdict::Go(permit) => Ok(Right::Granted(permit)),
            // Counted as what its worker has accepted: for that nobody is asked.
            Verdict::Wait(wait) if wait.number != NO_ROOM && first.head.flags.has(Flags::NOW) => {
                let gates = Err((Arc::clone(&place.limits), first.head.created));
                let silent = !self.accepted.is_complete();
                Ok(Right::Taken(limits.accept(gates, self.partition, now, None, silent)))
            }
            Verdict::Wait(wait) => {
                if wait.asks {
                    self.asking.wait(wait.number, Arc::clone(&place.slot));
                }
                Err(Closed::Limit(wait.number))
            }
            Verdict::Until(until) => Err(Closed::Until(until)),
        };
        let permit = match closed {
            Ok(permit) => permit,
            Err(closed) => {
                self.room = Some(room);
                self.lanes.close(id, closed);
                return Taken::Empty;
            }
        };
        let Some(task) = self.lanes.take(id) else {
            permit.unused();
            self.room = Some(room);
            return Taken::Empty;
        };
        let claiming = Claiming { version: task.head.version, newer: None };
        self.claiming.insert(task.key.clone(), claiming);
        let open = self.running.get(&task.key).is_some_and(|running| running.head.open_attempt() == head.open_attempt());
        let Place { queue, limits: _, worker, instance, slot, together } = place.clone();
        Taken::Task(Box::new(Plan { task, head, queue, worker, instance, slot, together, open, permit, room }))
    }

    /// A permit for one more open attempt in this process. If there is none it is waited for: in turn, so that an owner with
    /// much to do leaves something to the others.
    fn take_room(&mut self) -> Option<OwnedSemaphorePermit> {
        let room = self.room.take().or_else(|| Arc::clone(&self.shared.room).try_acquire_owned().ok());
        if room.is_none() {
            self.waits_for_room = true;
            let room = Arc::clone(&self.shared.room);
            self.calls.push(Box::pin(async move { Done::Room(room.acquire_owned().await.ok()) }));
        }
        room
    }

    fn route(&self, lane: &LaneDef) -> Option<Arc<Worker>> {
        match &lane.route {
            Route::Task(task) => self.shared.registry.worker(lane.ns, &lane.queue, task),
            Route::Origin(origin) => Some(self.shared.registry.origin(lane.ns, origin, self.now())),
            // No task leaves this to others.
            Route::Mixed => None,
        }
    }

    /// The pause that keeps the tasks of a lane from starting.
    fn pause(&self, lane: &LaneDef, now: Millis) -> Option<Pause> {
        let task = match &lane.route {
            Route::Task(task) => Some(&**task),
            // A URL's name is in its signature: what comes by this lane may have several.
            Route::Origin(_) | Route::Mixed => None,
        };
        self.shared.registry.pause(lane.ns, &lane.queue, task, now)
    }

    /// Opens as many of the lanes that wait for a slot as there are slots.
    fn open_gates(&mut self) {
        if !std::mem::take(&mut self.slots_freed) {
            return;
        }
        let now = self.now();
        let gates = self.lanes.busy_gates();
        if !gates.is_empty() {
            for (gate, slots) in self.shared.registry.free(&gates, now) {
                self.lanes.open_busy(gate, slots);
            }
        }
    }

    pub(super) fn on_claimed(&mut self, plans: Vec<Box<Plan>>, outcome: Result<Vec<Claimed>>) {
        self.claim_calls -= 1;
        let void = std::mem::take(&mut self.claims_void);
        let claimed = match outcome {
            Ok(claimed) => claimed,
            Err(error) => return self.claim_failed(plans, &error),
        };
        let mut gathered: Option<Batch> = None;
        for (plan, claimed) in plans.into_iter().zip(claimed) {
            let newer = self.not_claiming(&plan).and_then(|claim| claim.newer);
            let Claimed::Ok(body) = claimed else {
                // Somebody else changed it: the feed brings the truth.
                self.meters.claims_refused.increment(1);
                plan.permit.unused();
                continue;
            };
            let (slot, worker, together) = (Arc::clone(&plan.slot), Arc::clone(&plan.worker), plan.together);
            let Some(begun) = self.begin(plan, newer, &body, void) else { continue };
            if !together {
                self.push(begun);
                continue;
            }
            if gathered.as_ref().is_none_or(|batch| !batch.goes_by(&slot))
                && let Some(batch) = gathered.replace(Batch::new(slot, worker, &begun))
            {
                self.push_batch(batch);
            }
            if let (Some(batch), Some(running)) = (&mut gathered, self.running.get(&begun.key)) {
                batch.add(begun, running);
            }
        }
        if let Some(batch) = gathered {
            self.push_batch(batch);
        }
    }

    /// The claim of this task is not on its way any more; a newer one of the same task may be.
    fn not_claiming(&mut self, plan: &Plan) -> Option<Claiming> {
        let same = self.claiming.get(&plan.task.key).is_some_and(|claim| claim.version == plan.task.head.version);
        if same { self.claiming.remove(&plan.task.key) } else { None }
    }

    fn claim_failed(&mut self, plans: Vec<Box<Plan>>, error: &Error) {
        if matches!(error, Error::Fenced) {
            // Another owner: the view is worthless.
            self.lose_token("lost the partition");
            self.renew();
        } else {
            self.store_failed("claim tasks", error);
            if matches!(error, Error::Unknown(_)) {
                self.audit_at = Instant::now();
            }
        }
        for plan in plans {
            self.not_claiming(&plan);
            plan.permit.unused();
            self.lanes.offer(plan.task);
        }
    }

    /// Claims whose outcome was unknown: some are ours after all. What still waits is offered again, because nothing
    /// changed that the feed could tell.
    ///
    /// An earlier claim of this session may have opened the same attempt, if a lane showed its task once more. Such an attempt
    /// was pushed and must not be again: it was open here when this claim was sent, or its worker has accepted it since; any
    /// other end changes what is stored before it is forgotten here.
    pub(super) fn on_found(&mut self, plans: Vec<Box<Plan>>, found: Vec<Option<Stored>>) {
        let mut claimed = Vec::with_capacity(plans.len());
        for (plan, stored) in plans.iter().zip(found) {
            claimed.push(match stored {
                Some(Stored { head, body: Some(body), .. })
                    if head.state == State::Running
                        && head.open_attempt() == plan.head.open_attempt()
                        && !plan.open
                        && !head.is_accepted() =>
                {
                    Claimed::Ok(body)
                }
                Some(Stored { head, .. }) if head.state == State::Queued => {
                    self.lanes.offer(Waiting::new(plan.task.key.clone(), head));
                    Claimed::Stale
                }
                _ => Claimed::Stale,
            });
        }
        self.on_claimed(plans, Ok(claimed));
    }

    /// Notes a claimed task as running; `None`: it has ended already. If the claim is `void`, the task is given back.
    fn begin(&mut self, plan: Box<Plan>, newer: Option<Head>, body: &bytes::Bytes, void: bool) -> Option<Begun> {
        let Plan { task, head, queue, worker, instance, slot, together, open: _, permit, room } = *plan;
        let key = task.key;
        let head = newer.filter(|n| n.open_attempt() == head.open_attempt() && n.version > head.version).unwrap_or(head);
        let decoded = Body::decode(body).and_then(|body| Some((Spec::decode(&body.spec)?, body)));
        let (spec, body) = match decoded {
            Some((spec, body)) => (Arc::new(spec), Some(body)),
            None => (Arc::new(Spec::default()), None),
        };
        let target = self.target(&spec, &instance);
        let other = |other: &Instance| Some((Arc::clone(&other.url), self.target(&spec, other)?));
        let others: Option<Vec<_>> = instance.others.iter().map(other).collect();
        let attempt = head.open_attempt();
        let running = Running {
            head,
            spec,
            queue,
            worker,
            push: None,
            slot: (!together).then_some(slot),
            permit: Some(permit),
            _room: room,
            ending: false,
            over: false,
            streaming: None,
            told_cancel: false,
        };
        // One that a report has ended may still have its connection open.
        self.slots_freed |= self.running.insert(key.clone(), running).is_some();
        if void {
            self.end_attempt(&key, Event::GivenBack { attempt }, None);
            return None;
        }
        let running = self.running.get(&key)?;
        let Some(body) = body else {
            let error = TaskError::new("Damaged", "the stored task cannot be read");
            self.end_attempt(&key, Event::Answered { attempt, outcome: Outcome::Permanent { error } }, None);
            return None;
        };
        let Some((target, others)) = target.zip(others) else {
            // Judged again at every attempt: the rules may have become stricter since it was registered.
            let error = lovage_core::Fault::Forbidden.error();
            self.end_attempt(&key, Event::Answered { attempt, outcome: Outcome::Endpoint { error } }, None);
            return None;
        };
        if running.spec.soft_time_limit.is_some() {
            let (started, given, called) = (running.head.clone(), Arc::clone(&running.spec), Arc::clone(&running.worker));
            self.note_soft_limit(&key, &started, &given, &called);
        }
        Some(Begun { key, attempt, body, target, instance: instance.url, others })
    }

    /// Where an instance is called with this task; `None`: it may not be called.
    fn target(&self, spec: &Spec, instance: &Instance) -> Option<Arc<Target>> {
        match (&spec.url, &instance.target) {
            (Some(url), _) => self.shared.registry.target(url),
            (None, Some(target)) if !target.is_template() => Some(Arc::clone(target)),
            (None, Some(target)) => target.with_task(spec.task.as_deref().unwrap_or_default()).ok().map(Arc::new),
            (None, None) => None,
        }
    }

    /// Pushes a task by itself.
    fn push(&mut self, begun: Begun) {
        if self.running.get(&begun.key).is_some_and(|running| running.worker.config.balance == Balance::Broadcast) {
            return self.push_to_all(begun);
        }
        let Begun { key, attempt, body, target, instance, others: _ } = begun;
        let Some(running) = self.running.get_mut(&key) else { return };
        let limits = stream::Limits {
            silence: running.spec.time_limit().get(),
            until: running.spec.max_run.map(|max_run| Instant::now() + max_run.get()),
            max_line: self.shared.options.max_answer,
        };
        let (sink_key, news) = (key.clone(), self.ends_in.clone());
        let sink = Sink::new(limits, move |stream| {
            // As with ends: if the owner is gone nobody wants it.
            let _ = news.send(Told::News { key: sink_key.clone(), attempt, stream });
        });
        let mut end = PushTo { key: key.clone(), attempt, instance, waited_for: Vec::new(), ends: self.ends_in.clone() };
        let transport = Arc::clone(&self.shared.transport);
        let task = if running.head.flags.has(Flags::RESUMED) {
            let (shared, p, key) = (Arc::clone(&self.shared), self.partition, key.clone());
            let (head, spec, worker) = (running.head.clone(), Arc::clone(&running.spec), Arc::clone(&running.worker));
            tokio::spawn(async move {
                let (children, waited_for) = background::children(&shared, p, &key).await;
                end.waited_for = waited_for;
                let mut request = Attempt {
                    key: &key,
                    head: &head,
                    spec: &spec,
                    content_type: b"",
                    body: resume::body(&spec, &key.id, &body, &children),
                    worker: &worker,
                    target,
                    instance: &end.instance,
                    common: &mut Common::new(&shared.options.user_agent),
                }
                .request(&shared.options);
                drop(children);
                request.sink = Some(Box::new(sink));
                end.send(transport.push(request).await);
            })
        } else {
            let mut request = Attempt {
                key: &key,
                head: &running.head,
                spec: &running.spec,
                content_type: &body.content_type,
                body: delivered(&running.spec, &key.id, &body.payload),
                worker: &running.worker,
                target,
                instance: &end.instance,
                common: &mut self.common,
            }
            .request(&self.shared.options);
            request.sink = Some(Box::new(sink));
            tokio::spawn(async move { end.send(transport.push(request).await) })
        };
        running.push = Some(Arc::new(AbortOnDropHandle::new(task)));
        if running.head.flags.has(Flags::CANCEL) {
            self.on_cancel_wish(&key);
        }
    }
}

/// Where the end of a push is told.
struct PushTo {
    key: TaskKey,
    attempt: lovage_core::Attempt,
    instance: Arc<str>,
    waited_for: Vec<TaskId>,
    ends: mpsc::UnboundedSender<Told>,
}

impl PushTo {
    fn send(self, pushed: Pushed) {
        let Self { key, attempt, instance, waited_for, ends } = self;
        // The owner outlives its pushes; if it is gone nobody wants the answer.
        let _ = ends.send(Told::End(PushEnd { key, attempt, instance, waited_for, pushed }));
    }
}

impl Right {
    /// The task was not started after all.
    fn unused(self) {
        if let Self::Granted(permit) = self {
            permit.unused();
        }
    }
}

fn item(plan: &Plan) -> Claim {
    Claim { key: plan.task.key.clone(), was: plan.task.head.clone(), head: plan.head.clone(), queue: Arc::clone(&plan.queue) }
}

/// Nobody knows whether a claim was carried out: look until the store can tell.
async fn settle_unknown(shared: &Shared, p: lovage_core::Partition, plans: Vec<Box<Plan>>) -> Done {
    let keys: Vec<TaskKey> = plans.iter().map(|plan| plan.task.key.clone()).collect();
    let started = (shared.uptime)();
    loop {
        tokio::time::sleep(STORE_PAUSE).await;
        let read = async {
            let mut out = Vec::with_capacity(keys.len());
            for key in &keys {
                out.push(shared.store.get(p, key, Parts { body: true, ..Parts::default() }).await?);
            }
            Ok::<_, Error>(out)
        };
        match read.await {
            Ok(found) => return Done::Found(plans, found),
            // The session's lease is over: whoever owns the partition takes care of them.
            Err(error) if (shared.uptime)().saturating_sub(started) > shared.options.close_after => {
                return Done::Claimed(plans, Err(error));
            }
            Err(_) => {}
        }
    }
}
