//! What people ask for: cancel, retry, run, hold, change.

use std::time::Duration;

use bytes::Bytes;

use super::{Refusal, Task, Transition, plain};
use crate::body::Body;
use crate::event::{Patch, When};
use crate::head::{Flags, Head, SessionId};
use crate::keys::unique_holds;
use crate::state::{Reason, State};
use crate::time::Millis;

impl Task<'_> {
    pub(super) fn cancel(self, hard: bool, reason: Reason, grace: Duration) -> Result<Transition, Refusal> {
        match self.head.state {
            State::Blocked | State::Scheduled | State::Queued | State::Retrying => Ok(self.end(State::Canceled, reason, None)),
            State::Running => {
                let flags = self.head.flags;
                let wanted = if hard { Flags::CANCEL.with(Flags::HARD) } else { Flags::CANCEL };
                if flags.has(wanted) {
                    return Err(self.wrong_state());
                }
                let mut next = self.step(State::Running, Reason::Canceling);
                // The first reason stays when a soft cancel becomes a hard one.
                let reason = if flags.has(Flags::CANCEL) { flags.cancel_reason() } else { reason };
                next.flags = flags.with(wanted).with_cancel_reason(reason);
                if !self.head.is_accepted() {
                    return Ok(plain(next));
                }
                if hard {
                    // There is no connection to close.
                    let canceled = self.end(State::Canceled, reason, None);
                    return Ok(self.entry(canceled, "canceled", None));
                }
                next.deadline = next.deadline.min(self.now.after(grace));
                Ok(plain(next))
            }
            State::Succeeded | State::Failed | State::Canceled | State::Expired => Err(self.wrong_state()),
        }
    }

    pub(super) fn aborted(self) -> Result<Transition, Refusal> {
        if self.head.flags.has(Flags::CANCEL) { Ok(self.canceled()) } else { Err(self.wrong_state()) }
    }

    /// The head of the next generation: nothing of the last one counts. The caller has seen that there is a next one.
    pub(super) fn fresh(self, state: State) -> Head {
        let mut next = self.step(state, Reason::None);
        next.generation = next.generation.saturating_add(1);
        (next.budget, next.lost, next.session) = (0, 0, SessionId(0));
        next.first_started = Millis(0);
        (next.due, next.deadline, next.ended) = (Millis(0), Millis(0), Millis(0));
        next.flags = next.flags.of_next_generation();
        next
    }

    pub(super) fn retry(self) -> Result<Transition, Refusal> {
        if !matches!(self.head.state, State::Failed | State::Retrying) {
            return Err(self.wrong_state());
        }
        if self.head.generation == u8::MAX {
            return Err(Refusal::LastGeneration);
        }
        let mut next = self.fresh(State::Queued);
        if self.head.state.is_final() {
            next.flags = next.flags.with(Flags::TOLD);
        }
        if self.head.is_expired(self.now) {
            // Whoever asks for it now does not mean it to expire at once.
            next.expires = Millis(0);
        }
        let stored = self.head.flags.has(Flags::HAS_RESULT) || self.head.flags.has(Flags::INTERIM);
        let holds_again = self.spec.unique.as_ref().is_some_and(|unique| {
            let until = unique.until(next.created).unwrap_or(Millis(u64::MAX));
            unique_holds(unique.scope, until, Some(&next), self.now)
        });
        Ok(Transition { result: stored.then_some(None), holds_again, ..plain(next) })
    }

    pub(super) fn run_now(self) -> Result<Transition, Refusal> {
        match self.head.state {
            State::Queued if self.head.flags.has(Flags::NOW) => Err(Refusal::Unchanged),
            State::Scheduled | State::Retrying | State::Queued => {
                let mut next = self.step(State::Queued, Reason::None);
                if self.head.state != State::Queued {
                    next.due = self.now;
                }
                next.flags = next.flags.with(Flags::NOW);
                let lane = self.lane_of(self.spec, &mut next);
                Ok(Transition { lane, ..plain(next) })
            }
            _ => Err(self.wrong_state()),
        }
    }

    pub(super) fn hold(self, held: bool) -> Result<Transition, Refusal> {
        if self.head.state.is_final() {
            return Err(self.wrong_state());
        }
        if self.head.flags.has(Flags::HELD) == held {
            return Err(Refusal::Unchanged);
        }
        let mut next = self.step(self.head.state, self.head.reason);
        next.flags = if held { next.flags.with(Flags::HELD) } else { next.flags.without(Flags::HELD) };
        Ok(plain(next))
    }

    pub(super) fn patch(self, changes: Patch, content_type: &Bytes, payload: &Bytes) -> Result<Transition, Refusal> {
        let blocked = self.head.state == State::Blocked;
        if !self.head.state.is_waiting() || blocked && changes.due.is_some() {
            return Err(self.wrong_state());
        }
        let mut spec = self.spec.clone();
        let mut next = self.step(self.head.state, self.head.reason);
        let instant = |when| match when {
            When::Never => Millis(0),
            When::In(wait) => self.now.after(wait.get()),
            When::At(time) => Millis(time.0.max(1)),
        };
        if let Some(due) = changes.due.map(instant) {
            spec.eta = Some(due).filter(|due| due.0 != 0);
            next.due = due;
            match (due > self.now, self.head.state) {
                (true, State::Queued) => (next.state, next.reason) = (State::Scheduled, Reason::None),
                (true, _) => {}
                (false, _) => (next.state, next.reason) = (State::Queued, Reason::None),
            }
        }
        if let Some(expires) = changes.expires.map(instant) {
            next.expires = expires;
        }
        if let Some(priority) = changes.priority {
            next.priority = priority.min(9);
        }
        if let Some(queue) = changes.queue {
            spec.queue = Some(queue).filter(|queue| queue != crate::spec::DEFAULT_QUEUE).unwrap_or_default();
        }
        spec.order = changes.order.unwrap_or(spec.order);
        if let Some(labels) = changes.labels {
            spec.labels = labels;
        }
        if let Some(retry) = changes.retry {
            spec.retry = retry;
        }
        if next.state != State::Queued {
            next.flags = next.flags.without(Flags::NOW);
        }
        let lane = self.lane_of(&spec, &mut next);
        if spec == *self.spec && next == self.step(self.head.state, self.head.reason) {
            return Err(Refusal::Unchanged);
        }
        let content_type = String::from_utf8_lossy(content_type);
        let body = Body::encode(&spec.encode(), &content_type, payload);
        Ok(Transition { body: Some(body), lane, ..plain(next) })
    }
}
