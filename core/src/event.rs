//! What can happen to a task.

use crate::answer::Outcome;
use crate::head::{Attempt, SessionId};

/// Something that happened to a task; `decide` says what follows.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The owner starts an attempt at this worker (by its mark; 0: a bare URL).
    Claim {
        /// The session that will push it.
        session: SessionId,
        /// `worker_mark` of the worker.
        worker: u32,
    },
    /// The attempt came to an end that the worker, or the way to it, caused.
    Answered {
        /// The attempt: a later one refuses it.
        attempt: Attempt,
        /// What the answer means.
        outcome: Outcome,
    },
    /// A clean stop cut the attempt short: it costs nothing.
    GivenBack {
        /// The attempt.
        attempt: Attempt,
    },
    /// The session that ran it is dead.
    Lost {
        /// The session.
        session: SessionId,
    },
    /// The time in its timer has come.
    Due,
    /// Somebody calls it off.
    Cancel {
        /// Without grace for a running attempt.
        hard: bool,
    },
    /// The connection of a running attempt was closed because of a cancel.
    Aborted {
        /// The attempt.
        attempt: Attempt,
    },
    /// The janitor's time has come.
    Sweep,
    /// Somebody deletes the record.
    Delete,
}
