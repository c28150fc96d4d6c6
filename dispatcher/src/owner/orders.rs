//! When workers are told of cancels and time limits.

use std::sync::Arc;

use lovage_core::{Flags, Head, Millis, Spec, TaskKey};
use tokio::time::Instant;

use super::{Owner, Shared};
use crate::control::{About, Order};
use crate::registry::Worker;

/// An attempt that has a soft time limit.
pub(super) struct Soft {
    attempt: u32,
    deadline: Millis,
    worker: Arc<Worker>,
}

impl Shared {
    /// `max_run` has ended an attempt that its worker had accepted: there is no connection that would tell it.
    pub(super) fn tell_overrun(&self, key: TaskKey, was: &Head) {
        if let Some(worker) = self.registry.marked(key.ns, was.worker) {
            let about = About { key, attempt: was.attempt, deadline: was.deadline };
            self.control.tell(&self.registry, &worker, Order::HardTimeout, &about, self.store.clock().now());
        }
    }
}

impl Owner {
    pub(super) fn tell(&self, worker: &Worker, order: Order, about: &About) {
        self.shared.control.tell(&self.shared.registry, worker, order, about, self.now());
    }

    /// The worker of an attempt that starts now will be told of its soft time limit.
    pub(super) fn note_soft_limit(&mut self, key: &TaskKey, head: &Head, spec: &Spec, worker: &Arc<Worker>) {
        let Some(soft) = spec.soft_time_limit.filter(|_| worker.config.control_url.is_some()) else { return };
        let deadline = head.started.after(spec.max_run.unwrap_or(spec.time_limit()).get());
        let at = Instant::now() + head.started.after(soft.get()).since(self.now());
        self.softs.insert((at, key.clone()), Soft { attempt: head.attempt, deadline, worker: Arc::clone(worker) });
    }

    /// Tells the workers whose soft time limits are over. One that has accepted its task is asked for: its connection is gone.
    pub(super) fn tell_soft_limits(&mut self) {
        let now = Instant::now();
        while let Some(((at, _), _)) = self.softs.first_key_value()
            && *at <= now
        {
            let Some(((_, key), soft)) = self.softs.pop_first() else { break };
            let about = About { key: key.clone(), attempt: soft.attempt, deadline: soft.deadline };
            match self.running.get(&key).filter(|running| running.head.attempt == soft.attempt) {
                Some(running) if running.ending || running.over => {}
                Some(_) => self.tell(&soft.worker, Order::SoftTimeout, &about),
                None => {
                    let (shared, p) = (Arc::clone(&self.shared), self.partition);
                    tokio::spawn(async move {
                        let heads = shared.store.heads(p, std::slice::from_ref(&key)).await;
                        let head = heads.ok().and_then(|mut heads| heads.pop().flatten());
                        if head.is_some_and(|head| head.is_accepted() && head.attempt == about.attempt) {
                            let now = shared.store.clock().now();
                            shared.control.tell(&shared.registry, &soft.worker, Order::SoftTimeout, &about, now);
                        }
                    });
                }
            }
        }
    }

    /// An accepted attempt is called off: its lease ends with the grace.
    pub(super) fn tell_accepted_cancel(&self, key: &TaskKey, head: &Head) {
        if !head.flags.has(Flags::CANCEL) {
            return;
        }
        if let Some(worker) = self.shared.registry.marked(key.ns, head.worker) {
            let about = About { key: key.clone(), attempt: head.attempt, deadline: head.deadline };
            self.tell(&worker, Order::Cancel, &about);
        }
    }
}
