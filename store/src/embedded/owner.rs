//! Who owns the only partition, and whose leases live.
//!
//! The lock on the data directory lets one process in, so ownership is a matter of this process's memory: a session of an
//! earlier process is over the moment this one has opened the store; the index of running tasks tells which had attempts open.

use std::collections::BTreeMap;

use lovage_core::{Millis, SessionId};
use parking_lot::Mutex;

use crate::{OwnRequest, OwnToken, Want};

struct Holder {
    session: SessionId,
    token: OwnToken,
    until: Millis,
}

#[derive(Default)]
struct State {
    holder: Option<Holder>,
    epoch: u64,
    leases: BTreeMap<SessionId, Millis>,
}

/// See the module.
///
/// A token is good until another session takes the partition or its holder lets go. A session that has lapsed stays listed until it
/// is dropped or renews itself.
pub(super) struct Owner {
    state: Mutex<State>,
}

impl Owner {
    /// Whether this token gives the right to claim.
    pub(super) fn holds(&self, token: &OwnToken) -> bool {
        self.state.lock().holder.as_ref().is_some_and(|h| h.token == *token)
    }

    /// An owner that knows of sessions with open attempts left by an earlier process: they have lapsed.
    pub(super) fn new(left: Vec<SessionId>) -> Self {
        let leases = left.into_iter().map(|session| (session, Millis(0))).collect();
        Self { state: Mutex::new(State { leases, ..State::default() }) }
    }

    /// Renews, takes or gives up the partition. Answers the right to claim, if it is the caller's, and the sessions that have lapsed.
    pub(super) fn renew(&self, request: &OwnRequest, now: Millis) -> (Option<OwnToken>, Vec<SessionId>) {
        let mut state = self.state.lock();
        for session in &request.drop {
            // One that has come back since it was reported is not lapsed any more.
            if state.leases.get(session).is_some_and(|until| *until <= now) {
                state.leases.remove(session);
            }
        }
        let until = now.after(request.lease);
        state.leases.insert(request.session, until);
        let token = match request.want {
            Want::Own => state.take_or_keep(request.session, now, until),
            Want::Release => state.let_go(request.session),
            Want::Leave => {
                state.leases.remove(&request.session);
                state.let_go(request.session)
            }
        };
        let lapsed = state.leases.iter().filter(|(_, until)| **until <= now).map(|(session, _)| *session).collect();
        (token, lapsed)
    }
}

impl State {
    fn take_or_keep(&mut self, session: SessionId, now: Millis, until: Millis) -> Option<OwnToken> {
        match &mut self.holder {
            Some(holder) if holder.session == session => {
                holder.until = until;
                return Some(holder.token.clone());
            }
            Some(holder) if holder.until > now => return None,
            _ => {}
        }
        let mut random = [0; 8];
        // Without a random number there is no token; the next renewal asks again.
        getrandom::fill(&mut random).ok()?;
        self.epoch += 1;
        let token = OwnToken(format!("{}:{}:{:016x}", self.epoch, session.0, u64::from_be_bytes(random)));
        self.holder = Some(Holder { session, token: token.clone(), until });
        Some(token)
    }

    fn let_go(&mut self, session: SessionId) -> Option<OwnToken> {
        self.holder.take_if(|holder| holder.session == session);
        None
    }
}
