//! What can happen to a task.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::head::{Attempt, SessionId};
use crate::lane::LaneOrder;
use crate::outcome::Outcome;
use crate::retry::RetryPolicy;
use crate::signature::Draft;
use crate::state::Reason;
use crate::time::Millis;
use crate::units::Dur;

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
    /// The attempt came to an end, or was accepted: by an answer, a report, or a fault on the way.
    Answered {
        /// The attempt: a later one refuses it.
        attempt: Attempt,
        /// What the answer means.
        outcome: Outcome,
    },
    /// The worker of an accepted attempt is alive.
    Heartbeat {
        /// The attempt.
        attempt: Attempt,
        /// How long it may be silent from now on; none: as before.
        lease: Option<Duration>,
    },
    /// The worker says how far it is.
    Progress {
        /// The attempt.
        attempt: Attempt,
        /// As JSON.
        value: Bytes,
    },
    /// The worker adds lines to the record of its attempt.
    Logs {
        /// The attempt.
        attempt: Attempt,
        /// The lines.
        lines: Vec<String>,
        /// Bytes of log lines that the attempt may still store ([`crate::AttemptEntry::log_room`]).
        room: usize,
    },
    /// The worker starts other tasks and goes on.
    Spawned {
        /// The attempt.
        attempt: Attempt,
        /// At least one.
        tasks: Vec<Draft>,
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
    /// It is called off.
    Cancel {
        /// Without grace for a running attempt.
        hard: bool,
        /// `Requested`, `Upstream`, `Replaced`, `Debounced`, `Purged`, `Dropped` or `Overlap`.
        reason: Reason,
        /// How long an accepted attempt may go on (the worker's `cancel_grace`). Of a pushed one the dispatcher takes care.
        grace: Duration,
    },
    /// The connection of a running attempt was closed because of a cancel.
    Aborted {
        /// The attempt.
        attempt: Attempt,
    },
    /// Somebody wants it tried again from the start.
    Retry,
    /// Somebody wants it started now.
    RunNow,
    /// Somebody keeps it from starting.
    Hold,
    /// It may start again.
    Release,
    /// Somebody changes what was asked for.
    Patch {
        /// The changes.
        changes: Box<Patch>,
        /// The stored payload's media type: the body is written anew as a whole.
        content_type: Bytes,
        /// The stored payload.
        payload: Bytes,
    },
    /// Somebody wants its result forgotten.
    Forget,
    /// The janitor's time has come.
    Sweep,
    /// Somebody deletes the record.
    Delete,
}

/// An instant that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// None: start at once, never expire.
    Never,
    /// So much later than the change.
    In(Dur),
    /// Then.
    At(Millis),
}

/// Changes of a waiting task; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// Not before.
    pub due: Option<When>,
    /// 0–9, higher first.
    pub priority: Option<u8>,
    /// The queue.
    pub queue: Option<String>,
    /// Never started at or after.
    pub expires: Option<When>,
    /// All labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// The whole retry policy; the inner `None` is the default one.
    pub retry: Option<Option<RetryPolicy>>,
    /// How the new queue orders its tasks; set by `Rules::reset`.
    pub order: Option<LaneOrder>,
    /// Which of `priority`, `queue`, `labels` and `retry` were null. They have the general defaults until `Rules::reset` gives
    /// them those of a task's type.
    pub reset: Vec<&'static str>,
}
