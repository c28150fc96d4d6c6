//! Who may claim in a partition, and which sessions still live.

use std::time::Duration;

use lovage_core::{Millis, SessionId};

/// What a session wants of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Take it if it is free, keep it if it is mine.
    Own,
    /// Let go of it, but keep the session while its attempts run.
    Release,
    /// Leave: neither the partition nor the session is needed any more.
    Leave,
}

/// A renewal: of the right to claim and of the session's lease.
#[derive(Clone, Debug)]
pub struct OwnRequest {
    /// The caller.
    pub session: SessionId,
    /// What it wants.
    pub want: Want,
    /// How long both are good for, counted from the start of this call.
    pub lease: Duration,
    /// Sessions reported as lapsed whose attempts have all been settled: the store forgets them.
    pub drop: Vec<SessionId>,
}

/// The right to claim: epoch, session and a random part, so that a rolled back epoch never matches again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnToken(pub String);

/// The answer to an [`OwnRequest`].
#[derive(Clone, Debug)]
pub struct OwnReply {
    /// Store time.
    pub now: Millis,
    /// The right to claim, if it is the caller's now.
    pub token: Option<OwnToken>,
    /// Sessions whose lease has run out and that were not dropped yet: their attempts are lost.
    pub lapsed: Vec<SessionId>,
}
