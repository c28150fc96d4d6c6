//! Who owns a partition, and until when each session lives.

use std::collections::BTreeMap;

use lovage_core::{Millis, SessionId};

use crate::{OwnReply, OwnRequest, OwnToken, Want};

/// The owner of a partition.
#[derive(Debug)]
struct Owner {
    session: SessionId,
    token: OwnToken,
    until: Millis,
}

/// The owner, and the sessions that have open attempts or want to have some.
///
/// A token is good until another session takes the partition or its holder lets go: an owner that is merely late has
/// not been replaced by anybody. A session that has lapsed stays listed until it is dropped or renews itself.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    owner: Option<Owner>,
    sessions: BTreeMap<SessionId, Millis>,
    epoch: u64,
}

impl Ownership {
    /// Whether this token is the right to claim.
    pub(super) fn holds(&self, token: &OwnToken) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.token == *token)
    }

    /// Carries out a renewal at `now`; `random` makes a new token unlike any before.
    pub(super) fn renew(&mut self, now: Millis, request: &OwnRequest, random: u64) -> OwnReply {
        for session in &request.drop {
            // One that has come back since it was reported is not lapsed any more.
            if self.sessions.get(session).is_some_and(|until| *until <= now) {
                self.sessions.remove(session);
            }
        }
        let session = request.session;
        let until = now.after(request.lease);
        self.sessions.insert(session, until);
        match request.want {
            Want::Own => self.take_or_keep(now, session, until, random),
            Want::Release => self.let_go(session),
            Want::Leave => {
                self.let_go(session);
                self.sessions.remove(&session);
            }
        }
        let mine = self.owner.as_ref().filter(|owner| owner.session == session);
        OwnReply {
            now,
            token: mine.map(|owner| owner.token.clone()),
            lapsed: self.sessions.iter().filter(|(_, until)| **until <= now).map(|(session, _)| *session).collect(),
        }
    }

    fn take_or_keep(&mut self, now: Millis, session: SessionId, until: Millis, random: u64) {
        match &mut self.owner {
            Some(owner) if owner.session == session => owner.until = until,
            Some(owner) if owner.until > now => {}
            _ => {
                self.epoch += 1;
                let token = OwnToken(format!("{}:{}:{random:016x}", self.epoch, session.0));
                self.owner = Some(Owner { session, token, until });
            }
        }
    }

    fn let_go(&mut self, session: SessionId) {
        self.owner.take_if(|owner| owner.session == session);
    }
}
