//! An answer, whether it came over the connection or to the attempt URL.

use std::time::Duration;

use super::{ENDPOINT_PAUSE, SNOOZE_PAUSE, THROTTLE_PAUSE, Task, Transition, error_value, plain};
use crate::answer::{BAD_OUTCOME, TaskError};
use crate::callback::CallbackKind;
use crate::head::{Flags, SessionId};
use crate::lane::LaneOrder;
use crate::outcome::{DEFAULT_LEASE, MAX_LEASE, Outcome, Then};
use crate::retry::{MAX_RETRY_AFTER, Verdict};
use crate::signature::Draft;
use crate::state::{Reason, State};
use crate::time::Millis;

/// The error type of a task whose worker replaces it again and again.
const TOO_OFTEN_REPLACED: &str = "TooOftenReplaced";

/// A failed attempt on its way to the next one or to the end.
pub(super) struct Failed {
    pub verdict: Verdict,
    /// The reason if there is a next one, and if not.
    pub reasons: (Reason, Reason),
    /// The budget used up after it.
    pub charged: u16,
    pub error: TaskError,
}

impl Task<'_> {
    pub(super) fn answered(self, outcome: Outcome) -> Transition {
        if let Outcome::Success { content_type, body } = outcome {
            let done = self.succeeded(content_type, body);
            // A first-try success is told by head and result alone.
            return if self.head.flags.has(Flags::HAS_ATTEMPTS) { self.entry(done, "succeeded", None) } else { done };
        }
        if self.head.flags.has(Flags::CANCEL) {
            return self.canceled();
        }
        let charged = self.head.budget.saturating_add(1);
        let outcome = match outcome.fits(self.spec) {
            Ok(()) => outcome,
            Err(problem) => Outcome::Retry { after: None, error: TaskError::new(BAD_OUTCOME, problem.detail) },
        };
        match outcome {
            // Handled above; kept so that a new outcome makes the compiler ask.
            Outcome::Success { content_type, body } => self.succeeded(content_type, body),
            Outcome::Accepted { lease } => self.accepted(lease),
            Outcome::Cancel => self.canceled(),
            Outcome::Permanent { error } => self.failed(Reason::Permanent, error),
            Outcome::Snooze { after } => {
                let at = self.now.after(after.max(SNOOZE_PAUSE));
                self.entry(plain(self.wait_until(Reason::Snoozed, at)), "snoozed", None)
            }
            Outcome::Retry { after, error } => {
                let verdict = self.next(charged, after);
                self.again(Failed { verdict, reasons: (Reason::Backoff, Reason::Exhausted), charged, error })
            }
            Outcome::TimedOut { error } => self.timed_out(error),
            Outcome::Throttled { after, error } => {
                // Not the task's fault: the budget is untouched, only the age bounds it.
                let wish = after.map_or(THROTTLE_PAUSE, |after| after.clamp(THROTTLE_PAUSE, MAX_RETRY_AFTER));
                let verdict = self.within_age(THROTTLE_PAUSE, wish);
                let reasons = (Reason::Throttled, Reason::Exhausted);
                self.again(Failed { verdict, reasons, charged: self.head.budget, error })
            }
            Outcome::Endpoint { error } => {
                // The delay grows with the attempts although none is charged.
                let tries = u16::try_from(self.head.attempt).unwrap_or(u16::MAX).max(1);
                let wait = self.spec.retry().delay(tries, self.random).max(ENDPOINT_PAUSE);
                let verdict = self.within_age(wait, wait);
                let reasons = (Reason::Endpoint, Reason::Exhausted);
                self.again(Failed { verdict, reasons, charged: self.head.budget, error })
            }
            Outcome::Spawn { tasks, then: Then::Wait, .. } => self.blocked_by(tasks),
            Outcome::Spawn { tasks, then: Then::Detach, result } => {
                let content_type = result.is_some().then(|| "application/json".to_owned());
                let children = self.children(tasks, false);
                let mut done = self.succeeded(content_type, result);
                // Its links are there already, and no children of the worker's.
                let links = done.spawns.len();
                self.give_ids(&mut done, children);
                let ids = done.spawns.iter().skip(links).map(|task| task.key.id.clone()).collect();
                let mut done = self.entry(done, "succeeded", None);
                if let Some(entry) = &mut done.attempt {
                    entry.children = ids;
                }
                done
            }
            Outcome::Replace { replacement } => self.replaced(*replacement),
        }
    }

    /// The worker took it: the attempt stays open, and silence ends it.
    fn accepted(self, lease: Option<Duration>) -> Transition {
        let lease = lease.unwrap_or(DEFAULT_LEASE);
        let mut next = self.step(State::Running, Reason::Accepted);
        self.lease(&mut next, lease);
        plain(next)
    }

    /// Renews the lease of an accepted attempt, within what `max_run` leaves.
    pub(super) fn lease(self, next: &mut crate::head::Head, lease: Duration) {
        let lease = lease.clamp(Duration::from_millis(1), MAX_LEASE);
        next.due = Millis(lease.as_millis() as u64);
        let silent = self.now.after(lease);
        next.deadline = self.run_end().map_or(silent, |end| end.min(silent));
    }

    /// When `max_run` ends this attempt.
    pub(super) fn run_end(self) -> Option<Millis> {
        self.spec.max_run.map(|max_run| self.head.started.after(max_run.get()))
    }

    pub(super) fn timed_out(self, error: TaskError) -> Transition {
        let charged = self.head.budget.saturating_add(1);
        let verdict = self.next(charged, None);
        self.again(Failed { verdict, reasons: (Reason::Backoff, Reason::Timeout), charged, error })
    }

    fn next(self, charged: u16, after: Option<Duration>) -> Verdict {
        self.spec.retry().next(charged, self.head.first_started.0, self.now.0, self.random, after)
    }

    /// Another attempt after `wish`, or as late as the age allows, unless it does not even allow `least`.
    fn within_age(self, least: Duration, wish: Duration) -> Verdict {
        self.spec.retry().within_age(self.head.first_started.0, self.now.0, least, wish)
    }

    /// The attempt failed: wait for the next one, or give up.
    pub(super) fn again(self, failed: Failed) -> Transition {
        let Failed { verdict, reasons: (wait, give_up), charged, error } = failed;
        match verdict {
            Verdict::RetryAt(at) => {
                let mut next = self.wait_until(wait, Millis(at));
                next.budget = charged;
                let mut transition = plain(next).with_interim(error_value(&error));
                self.notify(&mut transition, &[CallbackKind::Retry]);
                self.entry(transition, wait.as_str(), Some(error))
            }
            Verdict::Exhausted(_) => {
                let mut failed = self.failed(give_up, error);
                if let Some(next) = &mut failed.head {
                    next.budget = charged;
                }
                failed
            }
        }
    }

    pub(super) fn wait_until(self, reason: Reason, at: Millis) -> crate::head::Head {
        let mut next = self.step(State::Retrying, reason);
        next.session = SessionId(0);
        next.lost = 0;
        next.deadline = Millis(0);
        next.due = at.max(self.now);
        next
    }

    /// It starts again from the beginning as something else, under the same id.
    fn replaced(self, replacement: Draft) -> Transition {
        if self.head.generation == u8::MAX {
            let error = TaskError::new(TOO_OFTEN_REPLACED, format!("it was started anew {} times before", u8::MAX));
            return self.failed(Reason::Permanent, error);
        }
        let mut draft = replacement;
        let spec = &mut draft.spec;
        self.inherit(&mut spec.labels);
        // What was hidden stays hidden, also in what earlier attempts have left.
        self.hide_in(&mut spec.redact);
        // Who waits for this task waits for what takes its place.
        if spec.callbacks.is_empty() {
            spec.callbacks.clone_from(&self.spec.callbacks);
        }
        if spec.link.is_empty() {
            spec.link.clone_from(&self.spec.link);
        }
        if spec.link_error.is_empty() {
            spec.link_error.clone_from(&self.spec.link_error);
        }
        spec.trace.clone_from(&self.spec.trace);
        spec.parent.clone_from(&self.spec.parent);
        spec.root.clone_from(&self.spec.root);
        spec.arrives.clone_from(&self.spec.arrives);
        spec.unique.clone_from(&self.spec.unique);
        // It keeps its place in the order, in which others wait behind it.
        spec.order_key.clone_from(&self.spec.order_key);
        if spec.queue() == self.spec.queue() {
            spec.order = self.spec.order;
        } else if spec.order == LaneOrder::Fifo {
            // Such a queue lives elsewhere.
            spec.order = LaneOrder::default();
        }
        spec.away = self.spec.away;
        spec.callback = self.spec.callback;
        spec.request_hash = self.spec.request_hash;
        let lane = draft.spec.lane(self.key.ns, draft.priority());
        let first = draft.head(&lane, self.now);
        let mut next = self.fresh(first.state);
        next.priority = first.priority;
        next.lane = first.lane;
        next.flags = next.flags.without(Flags::FIFO).with(lane.flags());
        next.due = first.due;
        next.expires = first.expires;
        let mut transition = plain(next);
        transition.result = self.head.flags.has(Flags::INTERIM).then_some(None);
        transition.body = Some(draft.body(self.now));
        transition.lane = (first.lane != self.head.lane).then_some(lane);
        self.entry(transition, "replaced", None)
    }
}
