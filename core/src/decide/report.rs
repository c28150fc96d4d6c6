//! Reports of an attempt that goes on.

use std::time::Duration;

use bytes::Bytes;

use super::{Refusal, Task, Transition, plain};
use crate::attempt::AttemptEntry;
use crate::body::ResultValue;
use crate::callback::CallbackKind;
use crate::head::Flags;
use crate::state::{Reason, State};

impl Task<'_> {
    /// Only the lease of an accepted attempt is renewed: a pushed one ends with its connection, and a cancel with its grace.
    pub(super) fn heartbeat(self, lease: Option<Duration>) -> Result<Transition, Refusal> {
        if !self.head.is_accepted() || self.head.flags.has(Flags::CANCEL) {
            return Err(Refusal::Unchanged);
        }
        let mut next = self.step(State::Running, Reason::Accepted);
        self.lease(&mut next, lease.unwrap_or(Duration::from_millis(self.head.due.0)));
        Ok(plain(next))
    }

    pub(super) fn progress(self, value: Bytes) -> Transition {
        let next = self.step(State::Running, self.head.reason);
        let mut transition = plain(next).with_interim(ResultValue::Progress(value));
        self.notify(&mut transition, &[CallbackKind::Progress]);
        transition
    }

    /// Lines beyond the room are dropped without a word: a worker does not fail because it talks much.
    pub(super) fn logs(self, lines: Vec<String>, room: usize) -> Result<Transition, Refusal> {
        if room == 0 || lines.is_empty() {
            return Err(Refusal::Unchanged);
        }
        let mut transition = plain(self.step(State::Running, self.head.reason));
        transition.attempt = Some(AttemptEntry::open(self.head).with_logs(lines, room));
        Ok(transition.with_flag(Flags::HAS_ATTEMPTS))
    }
}
