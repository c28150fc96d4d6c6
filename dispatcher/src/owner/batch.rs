//! Tasks of a lane that are delivered together: one slot, one request, an end for each.
//!
//! What does not fit into one request goes with the next, over the same slot, when the first has come back. Each task keeps its
//! own attempt: one that is called off or ended by a report leaves the connection to the others.

use std::sync::Arc;

use lovage_core::classify::classify_batch;
use lovage_core::{Attempt, LaneDef, Outcome, Partition, RawOutcome, Rules, TaskId, TaskKey};
use tokio_util::task::AbortOnDropHandle;

use super::admit::Begun;
use super::settle::{Note, Told, tell_gate, tell_instance};
use super::{Owner, Running, Shared, background};
use crate::batch::{Array, Item};
use crate::egress::{PushRequest, Pushed, Target};
use crate::gate::Slot;
use crate::instances;
use crate::push;
use crate::registry::Worker;

/// How many tasks of this lane this worker takes together; `None`: it takes them one by one.
pub(super) fn most(lane: &LaneDef, worker: &Worker) -> Option<usize> {
    let (lane, worker) = (lane.batch.as_ref()?, worker.config.batch?);
    Some(usize::from(lane.max.min(worker.max).max(1)))
}

/// Tasks that are to be delivered together.
pub(super) struct Batch {
    items: Vec<Item>,
    worker: Arc<Worker>,
    target: Arc<Target>,
    instance: Arc<str>,
    slot: Arc<Slot>,
}

/// A task of a request.
struct Sent {
    key: TaskKey,
    attempt: Attempt,
    waited_for: Vec<TaskId>,
}

/// The request of a batch came back.
pub(super) struct BatchEnd {
    sent: Vec<Sent>,
    /// What is to be delivered next.
    rest: Batch,
    pushed: Pushed,
}

impl Batch {
    /// Without tasks, on the way that `first` goes.
    pub fn new(slot: Arc<Slot>, worker: Arc<Worker>, first: &Begun) -> Self {
        let (target, instance) = (Arc::clone(&first.target), Arc::clone(&first.instance));
        Self { items: Vec::new(), worker, target, instance, slot }
    }

    /// Whether its tasks share this slot.
    pub fn goes_by(&self, slot: &Arc<Slot>) -> bool {
        Arc::ptr_eq(&self.slot, slot)
    }

    /// Adds a task.
    pub fn add(&mut self, begun: Begun, running: &Running) {
        let (head, spec) = (running.head.clone(), Arc::clone(&running.spec));
        self.items.push(Item { key: begun.key, head, spec, body: begun.body });
    }

    /// The next request, and whose it is; what does not fit stays.
    async fn request(&mut self, shared: &Shared, p: Partition) -> (PushRequest, Vec<Sent>) {
        let options = &shared.options;
        let (mut array, mut sent) = (Array::new(), Vec::with_capacity(self.items.len()));
        for item in &self.items {
            let children = if item.is_resumed() { Some(background::children(shared, p, &item.key).await) } else { None };
            let (children, waited_for) = children.unzip();
            if !array.add(item, children.as_ref(), options) {
                metrics::counter!("lovage_batches_split_total").increment(1);
                break;
            }
            let (key, attempt) = (item.key.clone(), item.head.open_attempt());
            sent.push(Sent { key, attempt, waited_for: waited_for.unwrap_or_default() });
        }
        let rest = self.items.split_off(array.len());
        let gone = std::mem::replace(&mut self.items, rest);
        let first = gone.first().map(|item| Arc::clone(&item.spec)).unwrap_or_default();
        drop(gone);
        let random = u128::from((shared.random)()) << 64 | u128::from((shared.random)());
        let id = lovage_core::TaskId::Generated(random).to_string();
        let now = shared.store.clock().now();
        (array.request(&id, &first, &self.worker, Arc::clone(&self.target), now, options), sent)
    }
}

impl Owner {
    /// Pushes the next request of a batch, with those of its tasks whose attempts are still open.
    pub(super) fn push_batch(&mut self, mut batch: Batch) {
        let open = |item: &Item| {
            let running = self.running.get(&item.key).filter(|running| !running.ending && !running.over);
            running.is_some_and(|running| running.head.open_attempt() == item.head.open_attempt())
        };
        batch.items.retain(open);
        let keys: Vec<TaskKey> = batch.items.iter().map(|item| item.key.clone()).collect();
        if keys.is_empty() {
            self.slots_freed = true;
            return;
        }
        let (shared, p, ends) = (Arc::clone(&self.shared), self.partition, self.ends_in.clone());
        let task = tokio::spawn(async move {
            let (request, sent) = batch.request(&shared, p).await;
            let pushed = shared.transport.push(request).await;
            // The owner outlives its pushes; if it is gone nobody wants the answer.
            let _ = ends.send(Told::Batch(BatchEnd { sent, rest: batch, pushed }));
        });
        let push = Arc::new(AbortOnDropHandle::new(task));
        for key in keys {
            if let Some(running) = self.running.get_mut(&key) {
                running.push = Some(Arc::clone(&push));
            }
            self.on_cancel_wish(&key);
        }
    }

    pub(super) fn on_batch_end(&mut self, end: BatchEnd) {
        let BatchEnd { sent, rest, pushed } = end;
        let (shared, now) = (Arc::clone(&self.shared), self.now());
        self.meters.batch_items.record(sent.len() as f64);
        self.meters.attempt_seconds.record(pushed.elapsed.as_secs_f64());
        self.freed += sent.len();
        let memory = instances::memory(&pushed);
        let allowance = push::allowance(&pushed, now);
        let answer = push::answer(pushed, shared.options.max_batch);
        let (whole_status, whole_excerpt) = push::excerpt(&answer);
        let ids: Vec<String> = sent.iter().map(|sent| sent.key.id.to_string()).collect();
        let worker = &rest.worker;
        let longest = shared.options.max_answer;
        let mut judged = classify_batch(&answer, &worker.status_map, worker.config.accepts, now.0, &ids, longest);
        self.meters.batch_items_unknown.increment(judged.unknown as u64);
        // What concerns the worker concerns all of them alike.
        let mut items = judged.items.iter_mut().map(|item| &mut item.outcome);
        if let Some(first) = items.next() {
            let is_instance = tell_instance(worker, Some(&rest.slot), &answer, now);
            tell_gate(worker, first, (rest.slot.since(), now), allowance, is_instance);
            if let RawOutcome::Throttled { after: told, .. } = first {
                for outcome in items {
                    if let RawOutcome::Throttled { after, .. } = outcome {
                        *after = *told;
                    }
                }
            }
        }
        instances::count(worker, &rest.instance, judged.items.iter().map(|item| &item.outcome), memory);
        for (Sent { key, attempt, waited_for }, item) in sent.into_iter().zip(judged.items) {
            let open = self.running.get(&key).filter(|r| r.head.open_attempt() == attempt && !r.ending);
            let Some(running) = open else { continue };
            if running.over {
                // What it says was reported before, or came too late.
                self.drop_over(&key);
                continue;
            }
            let (types, queues) = (shared.registry.types(key.ns), shared.registry.queues(key.ns));
            let limits = &shared.options.signatures;
            let rules = Rules {
                limits,
                destinations: shared.registry.policy(),
                types: types.as_deref(),
                queues: queues.as_deref(),
                source: None,
            };
            let outcome = item.outcome.read(&rules);
            let excerpt = match (&outcome, &item.said) {
                // The body of a success is the result: it needs no excerpt.
                (Outcome::Success { .. }, _) => None,
                (_, Some(said)) => push::beginning(said),
                (_, None) => whole_excerpt.clone(),
            };
            let note = Note { instance: Arc::clone(&rest.instance), status: whole_status, excerpt, waited_for };
            self.answered(&key, attempt, outcome, note);
        }
        self.push_batch(rest);
    }
}
