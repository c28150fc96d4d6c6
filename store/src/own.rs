//! Who may claim in a partition, and which sessions still live.

use std::time::Duration;

use lovage_core::{Millis, SessionId};

/// What a session wants of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Take it if it is free, keep it if it is mine. The session stands as a candidate.
    Own,
    /// Do not take it, let go of it if it is mine. The session still stands as a candidate.
    Stand,
    /// Let go of it, and stand no more, but keep the session: while its attempts run, or to show that its process lives.
    Release,
    /// Leave: neither the partition nor the session is needed any more.
    Leave,
    /// Whoever asks: the session's lease ends now, it lets go, and it can never renew here again.
    Fence,
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
    /// The right to claim, if it is the caller's now.
    pub token: Option<OwnToken>,
    /// Store time.
    pub now: Millis,
    /// Sessions whose lease has run out and that were not dropped yet: their attempts are lost.
    pub lapsed: Vec<SessionId>,
    /// Live sessions that stand for the partition, in order.
    pub candidates: Vec<SessionId>,
    /// Who owns it, and for how long unless it renews; `None`: whoever wants it may take it.
    pub owner: Option<(SessionId, Duration)>,
}

/// Who owns a partition and which sessions there are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Now, by the clock that leases are judged by.
    pub now: Millis,
    /// Who owns it, and until when unless it renews.
    pub owner: Option<(SessionId, Millis)>,
    /// All sessions that are not forgotten, in order.
    pub sessions: Vec<Lease>,
}

/// A session in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The session.
    pub session: SessionId,
    /// When it ends, or has ended.
    pub until: Millis,
    /// What the session is there for.
    pub stake: Stake,
}

/// What a session is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stake {
    /// It owns the partition or would.
    Candidate,
    /// Its attempts, or to show that its process lives.
    Presence,
    /// Nothing any more: it was fenced, and its attempts are lost.
    Fenced,
    /// It was fenced, and all that it had is settled. It is remembered for [`Stake::REMEMBERED`].
    Buried,
}

impl Stake {
    /// How long a fenced session cannot come back: far longer than calls that are on their way take to arrive. A process that
    /// was frozen for longer notices that its lease is over before it does anything.
    pub const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
}

impl Ownership {
    /// What a renewal is answered.
    pub(crate) fn reply(self, token: Option<OwnToken>) -> OwnReply {
        let now = self.now;
        let owner = self.owner.map(|(session, until)| (session, until.since(now)));
        let of = |wanted: fn(&Lease, Millis) -> bool| {
            self.sessions.iter().filter(|lease| wanted(lease, now)).map(|lease| lease.session).collect()
        };
        OwnReply {
            token,
            now,
            lapsed: of(|lease, now| lease.until <= now && lease.stake != Stake::Buried),
            candidates: of(|lease, now| lease.until > now && lease.stake == Stake::Candidate),
            owner,
        }
    }
}
