//! The one way to change a task: head and event in, transition out. Pure.
//!
//! An answer, a crash, a cancel, a give-back, an expiry and the janitor all come through here. Nothing is decided in
//! stores, routes or loops; they carry out what the transition says.

use std::time::Duration;

use bytes::Bytes;

use crate::answer::{Outcome, TaskError};
use crate::attempt::AttemptEntry;
use crate::body::ResultValue;
use crate::callback::CallbackKind;
use crate::event::Event;
use crate::head::{Attempt, Flags, Head, SessionId};
use crate::retry::{Exhausted, Verdict};
use crate::spec::Spec;
use crate::state::{Reason, State};
use crate::time::Millis;

/// A task whose dispatcher died this often while it ran fails as `poison`.
pub const POISON_AFTER: u8 = 3;
/// How long a worker that says "not now" without a time is left alone at least.
pub const THROTTLE_PAUSE: Duration = Duration::from_secs(1);

/// The least wait after a fault of the endpoint, whatever the policy says: nothing else bounds those attempts.
pub const ENDPOINT_PAUSE: Duration = Duration::from_millis(100);

/// What follows from an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The head after; `None`: the record is deleted.
    pub head: Option<Head>,
    /// `Some(Some(_))` stores a result, `Some(None)` removes it.
    pub result: Option<Option<ResultValue>>,
    /// An entry for the attempts. A first-try success has none: it is told by head and result.
    pub attempt: Option<AttemptEntry>,
    /// Who is told, in order.
    pub notices: Vec<CallbackKind>,
}

/// Why an event changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The state does not allow it.
    #[error("not possible in state {0}")]
    WrongState(State),
    /// It speaks of an attempt that is not the open one.
    #[error("the attempt is not the open one")]
    Superseded,
    /// Its time has not come.
    #[error("not due yet")]
    NotDue,
}

/// What follows when `event` happens to the task at `now`. `random` decides the jitter.
pub fn decide(head: &Head, spec: &Spec, event: Event, now: Millis, random: u64) -> Result<Transition, Refusal> {
    match event {
        Event::Claim { session, worker } => claim(head, session, worker, now).map(plain),
        Event::Answered { attempt, outcome } => {
            fence(head, attempt)?;
            Ok(answered(head, spec, outcome, now, random))
        }
        Event::GivenBack { attempt } => {
            fence(head, attempt)?;
            Ok(given_back(head, spec, now))
        }
        Event::Lost { session } => {
            if head.state != State::Running || head.reason == Reason::Accepted || head.session != session {
                return Err(Refusal::Superseded);
            }
            Ok(lost(head, spec, now))
        }
        Event::Due => due(head, spec, now),
        Event::Cancel { hard } => cancel(head, spec, hard, now),
        Event::Aborted { attempt } => {
            fence(head, attempt)?;
            if !head.flags.has(Flags::CANCEL) {
                return Err(Refusal::WrongState(head.state));
            }
            Ok(end(head, spec, State::Canceled, Reason::Requested, None, now).with_attempt(head, now, "canceled", None))
        }
        Event::Sweep => sweep(head, spec, now),
        Event::Delete => {
            if !head.state.is_final() {
                return Err(Refusal::WrongState(head.state));
            }
            Ok(Transition { head: None, result: None, attempt: None, notices: vec![] })
        }
    }
}

/// The head of a task whose attempt starts now. Apart from [`decide`] because the owner claims before it has read the body.
pub fn claim(head: &Head, session: SessionId, worker: u32, now: Millis) -> Result<Head, Refusal> {
    if head.state != State::Queued || head.flags.has(Flags::HELD) || head.is_expired(now) {
        return Err(Refusal::WrongState(head.state));
    }
    let mut next = step(head, State::Running, Reason::Dispatched);
    next.attempt += 1;
    next.session = session;
    next.worker = worker;
    next.started = now;
    if next.first_started.0 == 0 {
        next.first_started = now;
    }
    Ok(next)
}

fn fence(head: &Head, attempt: Attempt) -> Result<(), Refusal> {
    let open = head.state == State::Running && head.open_attempt() == attempt;
    if open { Ok(()) } else { Err(Refusal::Superseded) }
}

fn answered(head: &Head, spec: &Spec, outcome: Outcome, now: Millis, random: u64) -> Transition {
    if let Outcome::Success { content_type, body } = outcome {
        let value = body
            .filter(|_| !spec.ignore_result)
            .map(|bytes| ResultValue::Value { content_type: content_type.unwrap_or_default(), bytes });
        let done = end(head, spec, State::Succeeded, Reason::None, value, now);
        // A first-try success is told by head and result alone.
        return if head.flags.has(Flags::HAS_ATTEMPTS) { done.with_attempt(head, now, "succeeded", None) } else { done };
    }
    if head.flags.has(Flags::CANCEL) {
        return end(head, spec, State::Canceled, Reason::Requested, None, now).with_attempt(head, now, "canceled", None);
    }
    let charged = head.budget.saturating_add(1);
    match outcome {
        // Handled above; kept so that a new outcome makes the compiler ask.
        Outcome::Success { .. } => end(head, spec, State::Succeeded, Reason::None, None, now),
        Outcome::Cancel => {
            end(head, spec, State::Canceled, Reason::Requested, None, now).with_attempt(head, now, "canceled", None)
        }
        Outcome::Permanent { error } => {
            let value = error_value(&error);
            end(head, spec, State::Failed, Reason::Permanent, Some(value), now).with_attempt(head, now, "failed", Some(error))
        }
        Outcome::Snooze { after } => {
            let next = wait_until(head, Reason::Snoozed, now.after(after), now);
            plain(next).with_attempt(head, now, "snoozed", None)
        }
        Outcome::Retry { after, error } => {
            let verdict = spec.retry().next(charged, head.first_started.0, now.0, random, after);
            again(head, spec, verdict, Reason::Backoff, Reason::Exhausted, charged, error, now)
        }
        Outcome::TimedOut { error } => {
            let verdict = spec.retry().next(charged, head.first_started.0, now.0, random, None);
            again(head, spec, verdict, Reason::Backoff, Reason::Timeout, charged, error, now)
        }
        Outcome::Throttled { after, error } => {
            // Not the task's fault: the budget is untouched, only the age bounds it.
            let at = now.after(after.unwrap_or(THROTTLE_PAUSE));
            let verdict = within_age(head, spec, at);
            again(head, spec, verdict, Reason::Throttled, Reason::Exhausted, head.budget, error, now)
        }
        Outcome::Endpoint { error } => {
            let policy = spec.retry();
            // The delay grows with the attempts although none is charged.
            let tries = u16::try_from(head.attempt).unwrap_or(u16::MAX).max(1);
            let at = now.after(policy.delay(tries, random).max(ENDPOINT_PAUSE));
            let verdict = within_age(head, spec, at);
            again(head, spec, verdict, Reason::Endpoint, Reason::Exhausted, head.budget, error, now)
        }
    }
}

fn within_age(head: &Head, spec: &Spec, at: Millis) -> Verdict {
    let limit = head.first_started.after(spec.retry().max_age.into());
    if at > limit { Verdict::Exhausted(Exhausted::Age) } else { Verdict::RetryAt(at.0) }
}

/// The attempt failed: wait for the next one, or give up.
#[allow(clippy::too_many_arguments)] // two callers' worth of facts; a struct would only rename them
fn again(
    head: &Head,
    spec: &Spec,
    verdict: Verdict,
    wait: Reason,
    give_up: Reason,
    charged: u16,
    error: TaskError,
    now: Millis,
) -> Transition {
    match verdict {
        Verdict::RetryAt(at) => {
            let mut next = wait_until(head, wait, Millis(at), now);
            next.budget = charged;
            let mut transition = plain(next).with_attempt(head, now, wait.as_str(), Some(error));
            notify(&mut transition, spec, &[CallbackKind::Retry]);
            transition
        }
        Verdict::Exhausted(_) => {
            let value = error_value(&error);
            let mut failed =
                end(head, spec, State::Failed, give_up, Some(value), now).with_attempt(head, now, "failed", Some(error));
            if let Some(next) = &mut failed.head {
                next.budget = charged;
            }
            failed
        }
    }
}

fn given_back(head: &Head, spec: &Spec, now: Millis) -> Transition {
    if head.flags.has(Flags::CANCEL) {
        return end(head, spec, State::Canceled, Reason::Requested, None, now).with_attempt(head, now, "canceled", None);
    }
    let mut next = step(head, State::Queued, Reason::None);
    next.session = SessionId(0);
    plain(next).with_attempt(head, now, "given_back", None)
}

fn lost(head: &Head, spec: &Spec, now: Millis) -> Transition {
    if head.flags.has(Flags::CANCEL) {
        return end(head, spec, State::Canceled, Reason::Requested, None, now).with_attempt(head, now, "canceled", None);
    }
    let times = head.lost.saturating_add(1);
    let error = TaskError::new("AttemptLost", "the dispatcher that ran the attempt is gone");
    if times >= POISON_AFTER {
        let error = TaskError::new("Poison", format!("its dispatchers died {times} times while it ran"));
        let mut failed = end(head, spec, State::Failed, Reason::Poison, Some(error_value(&error)), now).with_attempt(
            head,
            now,
            "lost",
            Some(error),
        );
        if let Some(next) = &mut failed.head {
            next.lost = times;
        }
        return failed;
    }
    let mut next = wait_until(head, Reason::Lost, now, now);
    next.lost = times;
    let mut transition = plain(next).with_attempt(head, now, "lost", Some(error));
    notify(&mut transition, spec, &[CallbackKind::Retry]);
    transition
}

fn due(head: &Head, spec: &Spec, now: Millis) -> Result<Transition, Refusal> {
    let waiting = matches!(head.state, State::Scheduled | State::Retrying | State::Queued);
    if waiting && head.is_expired(now) {
        return Ok(end(head, spec, State::Expired, Reason::None, None, now));
    }
    match head.state {
        State::Scheduled | State::Retrying if head.due <= now => Ok(plain(step(head, State::Queued, Reason::None))),
        State::Scheduled | State::Retrying | State::Queued => Err(Refusal::NotDue),
        State::Blocked | State::Running | State::Succeeded | State::Failed | State::Canceled | State::Expired => {
            Err(Refusal::WrongState(head.state))
        }
    }
}

fn cancel(head: &Head, spec: &Spec, hard: bool, now: Millis) -> Result<Transition, Refusal> {
    match head.state {
        State::Blocked | State::Scheduled | State::Queued | State::Retrying => {
            Ok(end(head, spec, State::Canceled, Reason::Requested, None, now))
        }
        State::Running => {
            let wanted = if hard { Flags::CANCEL.with(Flags::HARD) } else { Flags::CANCEL };
            if head.flags.has(wanted) {
                return Err(Refusal::WrongState(head.state));
            }
            let mut next = step(head, State::Running, Reason::Canceling);
            next.flags = next.flags.with(wanted);
            Ok(plain(next))
        }
        State::Succeeded | State::Failed | State::Canceled | State::Expired => Err(Refusal::WrongState(head.state)),
    }
}

/// The janitor: first the result goes, then the record.
fn sweep(head: &Head, spec: &Spec, now: Millis) -> Result<Transition, Refusal> {
    if !head.state.is_final() {
        return Err(Refusal::WrongState(head.state));
    }
    if head.due > now {
        return Err(Refusal::NotDue);
    }
    let keep_until = record_end(head, spec);
    if keep_until <= now {
        return Ok(Transition { head: None, result: None, attempt: None, notices: vec![] });
    }
    let mut next = step(head, head.state, head.reason);
    next.due = keep_until;
    let had = head.flags.has(Flags::HAS_RESULT);
    if had {
        next.flags = next.flags.without(Flags::HAS_RESULT).with(Flags::RESULT_GONE);
    }
    Ok(Transition { head: Some(next), result: had.then_some(None), attempt: None, notices: vec![] })
}

fn record_end(head: &Head, spec: &Spec) -> Millis {
    head.ended.after(spec.retention(head.state == State::Failed))
}

/// When the result of a final task stops being shown; the record may outlive it.
pub fn result_end(head: &Head, spec: &Spec) -> Millis {
    // An error is part of the record and stays with it.
    if head.state == State::Succeeded { head.ended.after(spec.result_ttl()) } else { record_end(head, spec) }
}

fn end(head: &Head, spec: &Spec, state: State, reason: Reason, value: Option<ResultValue>, now: Millis) -> Transition {
    let mut next = step(head, state, reason);
    next.session = SessionId(0);
    next.ended = now;
    next.deadline = Millis(0);
    let has_result = value.is_some();
    if has_result {
        next.flags = next.flags.with(Flags::HAS_RESULT);
    }
    let record_end = record_end(&next, spec);
    next.due = if has_result { record_end.min(result_end(&next, spec)) } else { record_end };
    let mut transition = Transition { head: Some(next), result: value.map(Some), attempt: None, notices: vec![] };
    let kinds: &[CallbackKind] = match state {
        State::Succeeded => &[CallbackKind::Success, CallbackKind::Terminal],
        State::Failed => &[CallbackKind::Failure, CallbackKind::Terminal],
        _ => &[CallbackKind::Terminal],
    };
    notify(&mut transition, spec, kinds);
    transition
}

fn wait_until(head: &Head, reason: Reason, at: Millis, now: Millis) -> Head {
    let mut next = step(head, State::Retrying, reason);
    next.session = SessionId(0);
    next.due = at.max(now);
    next
}

fn step(head: &Head, state: State, reason: Reason) -> Head {
    Head { version: head.version + 1, state, reason, ..head.clone() }
}

fn plain(head: Head) -> Transition {
    Transition { head: Some(head), result: None, attempt: None, notices: vec![] }
}

fn notify(transition: &mut Transition, spec: &Spec, kinds: &[CallbackKind]) {
    if !spec.callbacks.is_empty() {
        transition.notices.extend(kinds.iter().filter(|kind| spec.callbacks.has(**kind)));
    }
}

fn error_value(error: &TaskError) -> ResultValue {
    ResultValue::Error(Bytes::from(serde_json::to_vec(error).unwrap_or_default()))
}

impl Transition {
    fn with_attempt(mut self, was: &Head, now: Millis, outcome: &str, error: Option<TaskError>) -> Self {
        self.attempt = Some(AttemptEntry::ended(was, now, outcome, error));
        if let Some(head) = &mut self.head {
            head.flags = head.flags.with(Flags::HAS_ATTEMPTS);
        }
        self
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
