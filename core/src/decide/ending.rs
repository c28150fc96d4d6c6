//! The end of a task, and of its record.

use bytes::Bytes;

use super::{Refusal, Task, Transition, error_value, plain};
use crate::answer::TaskError;
use crate::body::ResultValue;
use crate::callback::CallbackKind;
use crate::head::{Flags, Head, SessionId};
use crate::keys::{HeldKey, UniqueScope};
use crate::spec::Spec;
use crate::state::{Reason, State};
use crate::time::Millis;

fn record_end(head: &Head, spec: &Spec) -> Millis {
    let end = head.ended.after(spec.retention(head.state == State::Failed));
    // A key goes with its record, so the record stays for as long as a success holds its key.
    let unique = spec.unique.as_ref().filter(|_| head.state == State::Succeeded);
    unique.and_then(|unique| unique.until(head.created)).map_or(end, |until| end.max(until))
}

/// When the result of a final task stops being shown; the record may outlive it.
pub fn result_end(head: &Head, spec: &Spec) -> Millis {
    // An error is part of the record and stays with it.
    if head.state == State::Succeeded { head.ended.after(spec.result_ttl()) } else { record_end(head, spec) }
}

impl Task<'_> {
    pub(super) fn succeeded(self, content_type: Option<String>, body: Option<Bytes>) -> Transition {
        let kept = body
            .as_ref()
            .filter(|_| !self.spec.ignore_result)
            .map(|bytes| ResultValue::Value { content_type: content_type.clone().unwrap_or_default(), bytes: bytes.clone() });
        let mut done = self.end(State::Succeeded, Reason::None, kept);
        self.link(&mut done, content_type.as_deref(), body.as_ref());
        done
    }

    pub(super) fn failed(self, reason: Reason, error: TaskError) -> Transition {
        let failed = self.end(State::Failed, reason, Some(error_value(&error)));
        self.entry(failed, "failed", Some(error))
    }

    /// The open attempt ends because of a cancel, or its worker calls it off.
    pub(super) fn canceled(self) -> Transition {
        let canceled = self.end(State::Canceled, self.head.flags.cancel_reason(), None);
        self.entry(canceled, "canceled", None)
    }

    pub(super) fn end(self, state: State, reason: Reason, value: Option<ResultValue>) -> Transition {
        let mut next = self.step(state, reason);
        next.session = SessionId(0);
        next.ended = self.now;
        next.deadline = Millis(0);
        let interim = next.flags.has(Flags::INTERIM);
        next.flags = next.flags.without(Flags::INTERIM);
        if value.is_some() {
            next.flags = next.flags.with(Flags::HAS_RESULT);
        }
        let record_end = record_end(&next, self.spec);
        next.due = if value.is_some() { record_end.min(result_end(&next, self.spec)) } else { record_end };
        let mut transition = plain(next);
        transition.arrive = self.spec.arrives.clone().filter(|_| !self.head.flags.has(Flags::TOLD));
        if let (State::Failed, Some(error)) = (state, &value) {
            self.link_error(&mut transition, error);
        }
        transition.result = if value.is_some() || interim { Some(value) } else { None };
        let kinds: &[CallbackKind] = match state {
            State::Succeeded => &[CallbackKind::Success, CallbackKind::Terminal],
            State::Failed => &[CallbackKind::Failure, CallbackKind::Terminal],
            _ => &[CallbackKind::Terminal],
        };
        self.notify(&mut transition, kinds);
        transition
    }

    /// The janitor: first the result goes, then the record.
    pub(super) fn sweep(self) -> Result<Transition, Refusal> {
        if !self.head.state.is_final() {
            return Err(self.wrong_state());
        }
        if self.head.due > self.now {
            return Err(Refusal::NotDue);
        }
        if record_end(self.head, self.spec) <= self.now {
            return Ok(self.gone());
        }
        Ok(self.without_result())
    }

    pub(super) fn delete(self) -> Result<Transition, Refusal> {
        if self.head.state.is_final() { Ok(self.gone()) } else { Err(self.wrong_state()) }
    }

    /// Somebody wants the result forgotten. An error is part of the record and stays.
    pub(super) fn forget(self) -> Result<Transition, Refusal> {
        match self.head.state {
            State::Succeeded if self.head.flags.has(Flags::HAS_RESULT) => Ok(self.without_result()),
            state if state.is_final() => Err(Refusal::Unchanged),
            _ => Err(self.wrong_state()),
        }
    }

    fn without_result(self) -> Transition {
        let mut next = self.step(self.head.state, self.head.reason);
        next.due = record_end(self.head, self.spec);
        let had = self.head.flags.has(Flags::HAS_RESULT);
        if had {
            next.flags = next.flags.without(Flags::HAS_RESULT).with(Flags::RESULT_GONE);
        }
        Transition { result: had.then_some(None), ..plain(next) }
    }

    /// The record is deleted, and with it go the keys that no longer mean anything. One with a time of its own stays.
    fn gone(self) -> Transition {
        let ends = |scope| scope != UniqueScope::Ttl || self.head.state != State::Succeeded;
        let unique = self.spec.unique.iter().filter(|unique| ends(unique.scope)).filter_map(|_| self.spec.unique_name());
        let debounce = self.spec.debounce.iter().map(|debounce| HeldKey::Debounce(debounce.key.clone()));
        let frees = unique.map(HeldKey::Unique).chain(debounce).collect();
        Transition { frees, ..Transition::default() }
    }
}
