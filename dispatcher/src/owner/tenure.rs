//! Who owns the partition: renewals, shares, hand-overs, and what dead sessions left.
//!
//! A free partition is for the candidate whose share it is ([`crate::balance`]); another one takes it only if it stays free. An
//! owner whose partition has been another's share for a while lets go, one partition of the process at a time. Attempts that run
//! then stay with this session, which goes on renewing its lease here and reads the feed until nothing of it is left.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::{Ns, Partition, SessionId};
use lovage_store::{DocGuard, DocKind, DocPut, Error, OwnReply, OwnRequest, Result, Want};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calls::Done;
use super::{Owner, Shared, background};
use crate::balance::shares;

/// The longest that one of the last calls of a session may take.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// How often it is looked whether the heir of a partition that was let go of has come.
const HEIR_COMES: Duration = Duration::from_millis(50);

/// What is known of who should own the partition.
#[derive(Default)]
pub(super) struct Seat {
    /// Whose share it is, as of the last renewal.
    heir: Option<SessionId>,
    /// It is owned here although it is another's share, since then.
    misplaced: Option<Instant>,
    /// Nobody has owned it since then, as far as is known here.
    vacant: Option<Instant>,
    /// When it may become free.
    look_at: Option<Instant>,
    /// It is being let go of for the heir.
    turn: Option<OwnedSemaphorePermit>,
    waits_for_turn: bool,
    /// Something changed while a renewal was on its way.
    again: bool,
    /// Ends the recovery of dead sessions.
    halt: CancellationToken,
}

impl Seat {
    /// When to look at it again although nothing happened.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }
}

impl Shared {
    /// Whose share this partition is.
    fn heir(&self, partition: usize, candidates: &[SessionId]) -> Option<SessionId> {
        if candidates.len() < 2 {
            return candidates.first().copied();
        }
        let mut known = self.shares.lock();
        if known.as_ref().is_none_or(|(of, _)| of != candidates) {
            *known = Some((candidates.to_vec(), shares(self.store.caps().partitions, candidates).into()));
        }
        known.as_ref().map(|(_, owners)| owners[partition])
    }
}

impl Owner {
    fn want(&self) -> Want {
        let session = self.shared.session;
        let seat = &self.seat;
        if self.stopping.is_some() || self.shared.notices.drain() {
            Want::Release
        } else if seat.turn.is_some() {
            Want::Stand
        } else if self.token.is_some() || seat.heir.is_none_or(|heir| heir == session) {
            Want::Own
        } else if seat.vacant.is_some_and(|since| since.elapsed() >= self.shared.options.renew_every) {
            // Its heir may be dead.
            Want::Own
        } else {
            Want::Stand
        }
    }

    /// Whether what has the right to claim is to use it.
    pub(super) fn may_claim(&self) -> bool {
        self.token.is_some() && self.want() == Want::Own
    }

    /// Neither the partition nor any attempt is here.
    pub(super) fn is_done_here(&self) -> bool {
        self.token.is_none() && self.is_idle()
    }

    /// Renews the partition and the session, or lets go of them.
    pub(super) fn renew(&mut self) {
        if std::mem::replace(&mut self.renewing, true) {
            self.seat.again = true;
            return;
        }
        self.seat.again = false;
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        let want = self.want();
        if want != Want::Own {
            // A dead session that has come back may own the partition next: what it starts then is not lost.
            self.seat.halt.cancel();
            self.seat.halt = CancellationToken::new();
        }
        let drop = std::mem::take(&mut self.recovered);
        let started = (shared.uptime)();
        self.calls.push(Box::pin(async move {
            let request = OwnRequest { session: shared.session, want, lease: shared.options.lease, drop };
            Done::Owned(started, want, shared.store.own(p, request).await)
        }));
    }

    pub(super) fn on_owned(&mut self, started: Duration, asked: Want, reply: Result<OwnReply>) {
        self.renewing = false;
        let reply = match reply {
            Ok(reply) => reply,
            Err(Error::Fenced) => return self.on_fenced(),
            Err(error) => return self.store_failed("renew the partition", &error),
        };
        let until = started + self.shared.options.close_after;
        if (self.shared.uptime)() >= until {
            // It says nothing about now; the next one does.
            return;
        }
        // It may have run out before this answer came, without a turn of the loop in between.
        self.check_lease();
        (self.renewed, self.lapsed) = (started, false);
        let is_new = reply.token.is_some() && self.token != reply.token;
        if is_new {
            tracing::debug!(partition = self.partition.0, "owns the partition");
            self.meters.taken.increment(1);
            self.meters.owned.set(1.0);
        } else if reply.token.is_none() && asked == Want::Own {
            self.lose_token("lost the partition");
        } else if reply.token.is_none() {
            self.let_go(&reply);
        }
        self.token.clone_from(&reply.token);
        if is_new {
            // Whatever was seen before belongs to another ownership.
            self.reload(None);
        }
        self.look_around(&reply);
        let want = self.want();
        let is_free = reply.owner.is_none();
        let unlike = if self.token.is_some() { want != Want::Own } else { want == Want::Own && is_free };
        if unlike || (self.seat.again && self.token.is_none()) {
            return self.renew();
        }
        if self.may_claim() {
            // As long as nobody else can own the partition, a session that comes back starts nothing here.
            for session in reply.lapsed {
                self.recover(session, until);
            }
        }
    }

    /// Whose share the partition is now, and when to look again.
    fn look_around(&mut self, reply: &OwnReply) {
        let now = Instant::now();
        let owned = self.token.is_some();
        let heir = self.shared.heir(usize::from(self.partition.0), &reply.candidates);
        let seat = &mut self.seat;
        seat.heir = heir;
        seat.vacant = if reply.owner.is_none() { seat.vacant.or(Some(now)) } else { None };
        let patience = self.shared.options.renew_every;
        seat.look_at = match (reply.owner, seat.vacant) {
            _ if owned => None,
            // A moment later, because clocks count in milliseconds.
            (Some((_, left)), _) => Some(now + left + Duration::from_millis(1)),
            (None, Some(since)) if now < since + patience => {
                Some(if seat.turn.is_some() { now + HEIR_COMES } else { since + patience })
            }
            (None, _) => None,
        };
        let misplaced = owned && heir.is_some_and(|heir| heir != self.shared.session);
        seat.misplaced = if misplaced { seat.misplaced.or(Some(now)) } else { None };
        if !owned && (reply.owner.is_some() || seat.vacant.is_some_and(|since| since + patience <= now)) {
            // The heir has it, or does not come.
            seat.turn = None;
        }
        let overdue = seat.misplaced.is_some_and(|since| since + self.shared.options.rebalance_after <= now);
        if overdue && seat.turn.is_none() && !std::mem::replace(&mut seat.waits_for_turn, true) {
            let handing = Arc::clone(&self.shared.handing);
            self.calls.push(Box::pin(async move { Done::Handing(handing.acquire_owned().await.ok()) }));
        }
    }

    pub(super) fn on_turn_to_let_go(&mut self, turn: Option<OwnedSemaphorePermit>) {
        self.seat.waits_for_turn = false;
        if self.token.is_some() && self.seat.misplaced.is_some() {
            self.seat.turn = turn;
            self.renew();
        }
    }

    /// The partition may be free by now.
    pub(super) fn look_at_seat(&mut self) {
        if self.seat.look_at.is_some_and(|at| at <= Instant::now()) {
            self.seat.look_at = None;
            self.renew();
        }
    }

    /// A partition was let go of, a session was fenced, or this node is to drain or to work again.
    pub(super) fn on_notice(&mut self) {
        if self.stopping.is_none() {
            self.renew();
        }
    }

    /// The store says that the partition is not this session's any more, as was asked.
    fn let_go(&mut self, reply: &OwnReply) {
        if self.token.is_none() {
            return;
        }
        tracing::debug!(partition = self.partition.0, "let go of the partition");
        self.meters.let_go.increment(1);
        if reply.candidates.iter().any(|session| *session != self.shared.session) {
            self.shared.notices.ring();
        }
        self.drop_view();
    }

    /// Somebody else has the right to claim.
    pub(super) fn lose_token(&mut self, why: &str) {
        if self.token.is_some() {
            tracing::warn!(partition = self.partition.0, "{why}");
            self.drop_view();
        }
    }

    fn drop_view(&mut self) {
        self.token = None;
        self.meters.owned.set(0.0);
        self.forget_lanes();
    }

    fn on_fenced(&self) {
        if !self.shared.fenced.is_cancelled() {
            tracing::error!("this node was fenced: its session is over; closing all open attempts");
            self.shared.fenced.cancel();
        }
    }

    fn recover(&mut self, session: SessionId, until: Duration) {
        if session == self.shared.session || self.recovered.contains(&session) || !self.recovering.insert(session) {
            return;
        }
        let (shared, p, halt) = (Arc::clone(&self.shared), self.partition, self.seat.halt.clone());
        self.calls.push(Box::pin(async move {
            let all = tokio::select! {
                biased;
                () = halt.cancelled() => false,
                all = background::recover(&shared, p, session, until) => all,
            };
            Done::Recovered(session, all)
        }));
    }

    /// A node that died is shown until its attempts are settled; whoever looks after the first partition clears it away.
    pub(super) fn forget_node(&self, session: SessionId) {
        if self.partition != Partition(0) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let (kind, name) = (DocKind::Node, session.0.to_string());
            // One that stays is cleared away when the next node starts.
            if let Ok(Some(_)) = shared.store.doc(kind, Ns::DEFAULT, &name).await {
                let gone = DocPut { kind, ns: Ns::DEFAULT, name, guard: DocGuard::Any, bytes: None };
                let _ = shared.store.put_docs(vec![gone]).await;
            }
        });
    }

    /// The session is not needed here any more.
    pub(super) async fn leave(&mut self) {
        // A session with attempts left must lapse, so that they are found: also those that only the store knows.
        let is_over = self.is_idle()
            && tokio::time::timeout(LEAVE_LIMIT, background::nothing_left(&self.shared, self.partition)).await == Ok(true);
        let want = if is_over { Want::Leave } else { Want::Release };
        let request = OwnRequest {
            session: self.shared.session,
            want,
            lease: self.shared.options.lease,
            drop: std::mem::take(&mut self.recovered),
        };
        let left = tokio::time::timeout(LEAVE_LIMIT, self.shared.store.own(self.partition, request)).await;
        if let Ok(Ok(reply)) = left {
            self.let_go(&reply);
        } else {
            tracing::warn!(
                partition = self.partition.0,
                "could not tell the store that this session ends; its lease will run out"
            );
        }
    }
}
