//! Who owns a partition, and until when each session lives, for stores that keep this in their process's memory.

use std::collections::BTreeMap;

use lovage_core::{Millis, SessionId};

use crate::own::{Lease, Ownership, Stake};
use crate::{Error, OwnReply, OwnRequest, OwnToken, Result, Want};

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
pub(crate) struct Owners {
    owner: Option<Owner>,
    sessions: BTreeMap<SessionId, (Millis, Stake)>,
    epoch: u64,
}

impl Owners {
    /// Nobody owns it, and these sessions have lapsed.
    pub(crate) fn after(left: Vec<SessionId>) -> Self {
        let sessions = left.into_iter().map(|session| (session, (Millis(0), Stake::Presence))).collect();
        Self { sessions, ..Self::default() }
    }

    /// Whether this token is the right to claim.
    pub(crate) fn holds(&self, token: &OwnToken) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.token == *token)
    }

    /// Carries out a renewal at `now`; `random` makes a new token unlike any before.
    pub(crate) fn renew(&mut self, now: Millis, request: &OwnRequest, random: u64) -> Result<OwnReply> {
        for session in &request.drop {
            self.forget(now, *session);
        }
        let session = request.session;
        let fenced = self.sessions.get(&session).is_some_and(|(_, stake)| matches!(stake, Stake::Fenced | Stake::Buried));
        if fenced && request.want != Want::Fence {
            return Err(Error::Fenced);
        }
        let until = now.after(request.lease);
        match request.want {
            Want::Own => self.take_or_keep(now, session, until, random),
            Want::Stand | Want::Release | Want::Leave | Want::Fence => _ = self.owner.take_if(|owner| owner.session == session),
        }
        match request.want {
            Want::Own | Want::Stand => _ = self.sessions.insert(session, (until, Stake::Candidate)),
            Want::Release => _ = self.sessions.insert(session, (until, Stake::Presence)),
            Want::Leave => _ = self.sessions.remove(&session),
            Want::Fence if fenced => {}
            Want::Fence => _ = self.sessions.insert(session, (now, Stake::Fenced)),
        }
        self.sessions.retain(|_, (until, stake)| *stake != Stake::Buried || until.after(Stake::REMEMBERED) > now);
        let mine = self.owner.as_ref().filter(|owner| owner.session == session);
        let token = mine.map(|owner| owner.token.clone());
        Ok(self.seen(now).reply(token))
    }

    /// What there is to see at `now`.
    pub(crate) fn seen(&self, now: Millis) -> Ownership {
        let owner = self.owner.as_ref().filter(|owner| owner.until > now).map(|owner| (owner.session, owner.until));
        let sessions =
            self.sessions.iter().map(|(session, (until, stake))| Lease { session: *session, until: *until, stake: *stake });
        Ownership { now, owner, sessions: sessions.collect() }
    }

    /// All attempts of a lapsed session are settled. One that has come back since it was reported is not lapsed any more.
    fn forget(&mut self, now: Millis, session: SessionId) {
        match self.sessions.get_mut(&session) {
            Some((_, stake @ Stake::Fenced)) => *stake = Stake::Buried,
            Some((until, stake)) if *until <= now && *stake != Stake::Buried => _ = self.sessions.remove(&session),
            _ => {}
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
}
