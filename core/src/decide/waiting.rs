//! Start and return: claims, timers, attempts that are given back or lost.

use std::time::Duration;

use super::{POISON_AFTER, Refusal, SUSPECT_PAUSE, Task, Transition, error_value, plain};
use crate::answer::{TIMED_OUT, TaskError};
use crate::callback::CallbackKind;
use crate::head::{Flags, Head, SessionId};
use crate::retry::up_to;
use crate::state::{Reason, State};
use crate::time::Millis;

/// The head of a task whose attempt starts now. Apart from `decide` because the owner claims before it has read the body.
pub fn claim(head: &Head, session: SessionId, worker: u32, now: Millis) -> Result<Head, Refusal> {
    if head.state != State::Queued || head.flags.has(Flags::HELD) || head.is_expired(now) {
        return Err(Refusal::WrongState(head.state));
    }
    let mut next = Head { version: head.version + 1, state: State::Running, reason: Reason::Dispatched, ..head.clone() };
    next.attempt += 1;
    next.session = session;
    next.worker = worker;
    next.started = now;
    next.deadline = Millis(0);
    if next.first_started.0 == 0 {
        next.first_started = now;
    }
    Ok(next)
}

impl Task<'_> {
    pub(super) fn given_back(self) -> Result<Transition, Refusal> {
        // Nobody's connection holds it: there is nothing to give back.
        if self.head.is_accepted() {
            return Err(self.wrong_state());
        }
        if self.head.flags.has(Flags::CANCEL) {
            return Ok(self.canceled());
        }
        let mut next = self.step(State::Queued, Reason::None);
        next.session = SessionId(0);
        Ok(self.entry(plain(next), "given_back", None))
    }

    pub(super) fn session_lost(self, session: SessionId) -> Result<Transition, Refusal> {
        // An accepted attempt outlives the session that pushed it.
        if self.head.state != State::Running || self.head.is_accepted() || self.head.session != session {
            return Err(Refusal::Superseded);
        }
        Ok(self.lost(TaskError::new("AttemptLost", "the dispatcher that ran the attempt is gone")))
    }

    fn lost(self, error: TaskError) -> Transition {
        if self.head.flags.has(Flags::CANCEL) {
            return self.canceled();
        }
        let times = self.head.lost.saturating_add(1);
        if times >= POISON_AFTER {
            let error = TaskError::new(
                "Poison",
                format!("it was lost {times} times in a row while it ran; the last time: {}", error.message),
            );
            let failed = self.end(State::Failed, Reason::Poison, Some(error_value(&error)));
            let mut failed = self.entry(failed, "lost", Some(error));
            if let Some(next) = &mut failed.head {
                next.lost = times;
            }
            return failed;
        }
        // The first time it was probably only near: at once, but then apart from the others.
        let pause = if times == 1 { Duration::ZERO } else { self.apart(SUSPECT_PAUSE) };
        let mut next = self.wait_until(Reason::Lost, self.now.after(pause));
        next.lost = times;
        let mut transition = plain(next).with_interim(error_value(&error));
        self.notify(&mut transition, &[CallbackKind::Retry]);
        self.entry(transition, "lost", Some(error))
    }

    /// Between half of a pause and the whole.
    fn apart(self, pause: Duration) -> Duration {
        let half = pause / 2;
        half + up_to(half, self.random)
    }

    pub(super) fn due(self) -> Result<Transition, Refusal> {
        let head = self.head;
        if head.state.is_waiting() && head.is_expired(self.now) {
            return Ok(self.end(State::Expired, Reason::None, None));
        }
        let over = head.deadline.0 != 0 && head.deadline <= self.now;
        match head.state {
            State::Scheduled | State::Retrying if head.due <= self.now => Ok(plain(self.step(State::Queued, Reason::None))),
            State::Blocked if head.reason == Reason::Children && over => Ok(self.resumed()),
            State::Running if head.is_accepted() && over => Ok(self.silent()),
            State::Running if head.is_accepted() => Err(Refusal::NotDue),
            State::Scheduled | State::Retrying | State::Queued | State::Blocked => Err(Refusal::NotDue),
            State::Running | State::Succeeded | State::Failed | State::Canceled | State::Expired => Err(self.wrong_state()),
        }
    }

    /// All children are final: it is called again, and the age of its attempts counts anew.
    fn resumed(self) -> Transition {
        let mut next = self.step(State::Queued, Reason::None);
        next.flags = next.flags.with(Flags::RESUMED);
        next.deadline = Millis(0);
        next.first_started = Millis(0);
        plain(next)
    }

    /// An accepted attempt has run out of its lease, its grace or `max_run`.
    fn silent(self) -> Transition {
        if self.head.flags.has(Flags::CANCEL) {
            return self.canceled();
        }
        if self.run_end().is_some_and(|end| end <= self.now) {
            return self.timed_out(TaskError::new(TIMED_OUT, "the attempt ran longer than max_run"));
        }
        self.lost(TaskError::new("LeaseExpired", "the lease ran out without a heartbeat"))
    }
}
