//! From the end of an attempt to the store: answer → event → `decide` → one guarded commit per batch.

use std::borrow::Cow;
use std::sync::Arc;

use lovage_core::attempt::LOG_BYTES;
use lovage_core::classify::classify;
use lovage_core::pace::Allowance;
use lovage_core::{Answer, Attempt, Event, Flags, Head, Millis, Outcome, Rules, Spec, TaskId, TaskKey, Transition, decide};
use lovage_store::{Commit, Committed, Error, Mode, Result, Sync};
use tokio::time::Instant;

use super::batch::BatchEnd;
use super::broadcast::BroadcastEnd;
use super::calls::Done;
use super::{Owner, Shared};
use crate::control::{About, Order};
use crate::egress::Pushed;
use crate::gate::Slot;
use crate::instances;
use crate::push;
use crate::registry::Worker;
use crate::stream::{self, Stream};

/// What a push tells its owner.
pub(super) enum Told {
    /// It streams, and perhaps there are news.
    News { key: TaskKey, attempt: Attempt, stream: Arc<Stream> },
    /// It came back.
    End(PushEnd),
    /// It came back, and was of several tasks.
    Batch(BatchEnd),
    /// It came back from all instances.
    Broadcast(BroadcastEnd),
}

/// A push that came back.
pub(super) struct PushEnd {
    pub key: TaskKey,
    pub attempt: Attempt,
    pub instance: Arc<str>,
    pub waited_for: Vec<TaskId>,
    pub pushed: Pushed,
}

/// An end of an attempt on its way to the store.
pub(super) struct Settlement {
    key: TaskKey,
    was: Head,
    event: Event,
    transition: Transition,
    spec: Arc<Spec>,
    queue: Arc<str>,
    /// The worker's name; a bare URL has none.
    worker: Option<Arc<str>>,
    note: Option<Note>,
    /// Log lines that are not stored yet.
    logs: Vec<String>,
}

/// What the attempt's entry says beyond the rules.
#[derive(Clone)]
pub(super) struct Note {
    pub instance: Arc<str>,
    pub status: Option<u16>,
    pub excerpt: Option<String>,
    pub waited_for: Vec<TaskId>,
}

/// With so few attempts open there is little to wait for.
const FEW: usize = 8;

impl Owner {
    pub(super) fn on_told(&mut self, told: Told) {
        match told {
            Told::News { key, attempt, stream } => self.on_news(&key, attempt, stream),
            Told::End(end) => self.on_push_end(end),
            Told::Batch(end) => self.on_batch_end(end),
            Told::Broadcast(end) => self.on_broadcast_end(end),
        }
    }

    fn on_push_end(&mut self, end: PushEnd) {
        let Some(running) = self.running.get_mut(&end.key).filter(|r| r.head.open_attempt() == end.attempt && !r.ending) else {
            return;
        };
        if running.over {
            // What it says was reported before, or came too late.
            return self.drop_over(&end.key);
        }
        running.push = None;
        // Free when the breaker knows what came of it.
        let slot = running.slot.take();
        self.freed += 1;
        self.slots_freed = true;
        let now = self.shared.store.clock().now();
        let elapsed = end.pushed.elapsed;
        let complete = end.pushed.outcome.is_ok();
        let streamed = match &running.streaming {
            Some(streaming) => streaming.stream().end(complete),
            None => end.pushed.outcome.as_ref().ok().and_then(|r| stream::collected(r, self.shared.options.max_answer)),
        };
        let memory = instances::memory(&end.pushed);
        let allowance = push::allowance(&end.pushed, now);
        let answer = push::answer(end.pushed, self.shared.options.max_answer);
        let worker = &running.worker;
        let registry = &self.shared.registry;
        let (types, queues) = (registry.types(end.key.ns), registry.queues(end.key.ns));
        let limits = &self.shared.options.signatures;
        let rules =
            Rules { limits, destinations: registry.policy(), types: types.as_deref(), queues: queues.as_deref(), source: None };
        let judged = streamed.unwrap_or_else(|| classify(&answer, &worker.status_map, worker.config.accepts, now.0));
        let mut outcome = judged.read(&rules);
        let sent = slot.as_ref().map_or(now, |slot| slot.since());
        let is_instance = tell_instance(worker, slot.as_deref(), &answer, now);
        tell_gate(worker, &mut outcome, (sent, now), allowance, is_instance);
        instances::count(worker, &end.instance, [&outcome], memory);
        drop(slot);
        self.meters.attempt_seconds.record(elapsed.as_secs_f64());
        let (status, excerpt) = match &answer {
            // The body of a success is the result: it needs no excerpt.
            Answer::Response { status, .. } if matches!(outcome, Outcome::Success { .. }) => (Some(*status), None),
            other => push::excerpt(other),
        };
        let note = Note { instance: end.instance, status, excerpt, waited_for: end.waited_for };
        self.answered(&end.key, end.attempt, outcome, note);
    }

    /// The worker has answered this.
    pub(super) fn answered(&mut self, key: &TaskKey, attempt: Attempt, outcome: Outcome, note: Note) {
        self.meters.attempt(&outcome);
        if let (Outcome::TimedOut { .. }, Some(running)) = (&outcome, self.running.get(key)) {
            let about = About { key: key.clone(), attempt: attempt.number, deadline: self.now() };
            self.tell(&running.worker, Order::HardTimeout, &about);
        }
        self.end_attempt(key, Event::Answered { attempt, outcome }, Some(note));
    }

    /// The attempt is over: close its connection, give back its slot, and send its end to the store.
    pub(super) fn end_attempt(&mut self, key: &TaskKey, event: Event, note: Option<Note>) {
        let (now, random) = (self.now(), (self.shared.random)());
        if self.running.get(key).is_some_and(|running| running.over) {
            return self.drop_over(key);
        }
        let Some(running) = self.running.get_mut(key) else { return };
        running.push = None;
        let permit = running.permit.take();
        if running.slot.take().is_some() {
            self.slots_freed = true;
        }
        running.ending = true;
        let logs = running.streaming.take().map(|streaming| streaming.stream().take().logs).unwrap_or_default();
        let head = with_entry(&running.head, &logs);
        let transition = match decide(key, &head, &running.spec, event.clone(), now, random) {
            Ok(transition) => transition,
            Err(refusal) => {
                tracing::error!(%refusal, task.id = %key.id, "the end of an attempt was refused");
                self.running.remove(key);
                return;
            }
        };
        let settlement = Box::new(Settlement {
            key: key.clone(),
            was: running.head.clone(),
            event,
            transition,
            spec: Arc::clone(&running.spec),
            queue: Arc::clone(&running.queue),
            worker: (running.worker.mark != 0).then(|| Arc::clone(&running.worker.name)),
            note,
            logs,
        });
        let accepted = settlement.transition.head.as_ref().filter(|head| head.is_accepted());
        let accepted = accepted.map(|head| (head.attempt, head.deadline));
        self.end_permit(key, permit, accepted);
        self.settle(settlement);
    }

    fn settle(&mut self, settlement: Box<Settlement>) {
        if self.settling.is_empty() {
            self.settling_since = Instant::now();
        }
        self.settling.push(settlement);
    }

    /// Sends what has gathered: at once if no other end can come, or few can and none was sent just now; else in full batches
    /// or after the linger.
    pub(super) fn flush(&mut self) {
        if self.settling.is_empty() {
            return;
        }
        let full = self.settling.len() >= self.shared.options.settle_batch.min(self.running.len());
        let since = if self.running.len() < FEW { self.settled_at } else { self.settling_since };
        if full || since.elapsed() >= self.shared.options.settle_linger {
            self.flush_now();
        }
    }

    pub(super) fn flush_now(&mut self) {
        let most = self.shared.options.settle_batch.min(self.shared.store.caps().max_batch);
        self.settled_at = Instant::now();
        while !self.settling.is_empty() {
            let rest = self.settling.split_off(self.settling.len().min(most));
            let items = std::mem::replace(&mut self.settling, rest);
            self.send(items);
        }
    }

    fn send(&mut self, items: Vec<Box<Settlement>>) {
        self.settle_calls += 1;
        self.meters.settle_batch.record(items.len() as f64);
        let commits = items.iter().map(|item| commit(&self.shared, item)).collect();
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move {
            let outcome = shared.store.commit(p, shared.session, commits, Mode::Each, Sync::Ordered).await;
            Done::Settled(items, outcome)
        }));
    }

    pub(super) fn on_settled(&mut self, items: Vec<Box<Settlement>>, outcome: Result<Vec<Committed>>) {
        self.settle_calls -= 1;
        let committed = match outcome {
            Ok(committed) => committed,
            Err(error) if error.is_of_the_items() => return self.settle_apart(items, &error),
            Err(error) => {
                // Nothing is lost: the same guarded change is sent again until the store takes or refuses it.
                self.store_failed("settle attempts", &error);
                for item in items {
                    self.settle(item);
                }
                return;
            }
        };
        for (item, committed) in items.into_iter().zip(committed) {
            match committed {
                Committed::Ok => self.forget(&item),
                Committed::Stale(Some(head)) if item.transition.head.as_ref() == Some(&head) => {
                    // Our own change: an earlier call was carried out although its answer was lost.
                    self.forget(&item);
                }
                Committed::Stale(Some(head)) => self.settle_again(item, head),
                // What settlements spawn takes no keys.
                Committed::Stale(None) | Committed::Aborted | Committed::Conflict { .. } => {
                    self.meters.answers_fenced.increment(1);
                    self.forget(&item);
                }
            }
        }
    }

    /// One of these makes the store refuse them all: the halves are sent apart, until it is found and given up.
    fn settle_apart(&mut self, mut items: Vec<Box<Settlement>>, error: &Error) {
        if let [bad] = &items[..] {
            self.shared.give_up(&bad.key, error);
            return self.forget(bad);
        }
        let rest = items.split_off(items.len() / 2);
        self.send(items);
        self.send(rest);
    }

    /// The attempt is settled; a newer one of the same task stays.
    fn forget(&mut self, item: &Settlement) {
        if self.running.get(&item.key).is_some_and(|r| r.head.open_attempt() == item.was.open_attempt()) {
            self.running.remove(&item.key);
        }
    }

    /// The record changed meanwhile: a cancel leaves the attempt open, anything else has fenced it.
    fn settle_again(&mut self, mut item: Box<Settlement>, head: Head) {
        let (now, random) = (self.now(), (self.shared.random)());
        // Not every event names its attempt: a later one of this session must not be ended by it.
        let same = head.open_attempt() == item.was.open_attempt();
        let Some(transition) =
            decide(&item.key, &with_entry(&head, &item.logs), &item.spec, item.event.clone(), now, random).ok().filter(|_| same)
        else {
            self.meters.answers_fenced.increment(1);
            return self.forget(&item);
        };
        if let Some(running) = self.running.get_mut(&item.key) {
            running.head = head.clone();
        }
        item.was = head;
        item.transition = transition;
        self.settle(item);
    }
}

/// Notes whether anybody was there at the instance that this slot is of. Answers whether a fault is the instance's alone: the
/// others get its tasks, and the worker as a whole is not left alone because of it.
pub(super) fn tell_instance(worker: &Worker, slot: Option<&Slot>, answer: &Answer, now: Millis) -> bool {
    let Some(slot) = slot else { return false };
    if !matches!(answer, Answer::Fault(fault) if fault.before_send()) {
        slot.reached();
        return false;
    }
    if let Some(pause) = slot.unreached(now, worker.config.breaker()) {
        metrics::counter!("lovage_instances_passed_over_total").increment(1);
        // Whoever waits for a slot then may try it.
        let gate = Arc::clone(slot.gate());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            gate.tell();
        });
    }
    worker.is_any_reached(now)
}

/// Lets the worker's gate know what it answered to what was sent at `sent`; a worker that said "not now" learns here for how long
/// it is left alone. `is_instance`: if nobody was there, this is about one of its instances.
pub(super) fn tell_gate<S>(
    worker: &Worker,
    outcome: &mut Outcome<S>,
    (sent, now): (Millis, Millis),
    allowance: Option<Allowance>,
    is_instance: bool,
) {
    let gate = &worker.gate;
    match outcome {
        Outcome::Endpoint { .. } if is_instance => {}
        Outcome::Throttled { after, .. } => *after = Some(gate.throttle(now, sent, *after)),
        Outcome::Endpoint { .. } => gate.fault(now, sent, worker.config.breaker()),
        _ => gate.recovered(sent),
    }
    if let Some(allowance) = allowance {
        gate.told(now, allowance);
    }
    if !matches!(outcome, Outcome::Endpoint { .. }) {
        let good = !matches!(outcome, Outcome::Throttled { .. } | Outcome::Retry { .. } | Outcome::TimedOut { .. });
        gate.works(now, sent, good);
    }
}

/// The head to decide on: log lines need an entry, also of an attempt that has none otherwise.
fn with_entry<'h>(head: &'h Head, logs: &[String]) -> Cow<'h, Head> {
    if logs.is_empty() {
        return Cow::Borrowed(head);
    }
    Cow::Owned(Head { flags: head.flags.with(Flags::HAS_ATTEMPTS), ..head.clone() })
}

fn commit(shared: &Shared, item: &Settlement) -> Commit {
    let mut transition = item.transition.clone();
    if let (Some(entry), Some(note)) = (&mut transition.attempt, &item.note) {
        entry.instance = Some(note.instance.to_string());
        entry.status = note.status.or(entry.status);
        entry.excerpt.clone_from(&note.excerpt);
        entry.waited_for.clone_from(&note.waited_for);
    }
    if !item.logs.is_empty()
        && let Some(entry) = transition.attempt.take()
    {
        transition.attempt = Some(entry.with_logs(item.logs.clone(), LOG_BYTES));
    }
    let (queue, now) = (Arc::clone(&item.queue), shared.store.clock().now());
    Commit::of(
        &item.key,
        item.was.clone(),
        transition,
        &item.spec,
        queue,
        item.worker.as_deref(),
        now,
        &*shared.random,
        shared.store.caps().partitions,
    )
}
