//! Owners and sessions.

use std::collections::BTreeSet;
use std::time::Duration;

use lovage_core::{Partition, SessionId};

use super::Fixture;
use super::kit::{Kit, LONG, OTHER, SESSION, eventually};
use crate::{Error, Lease, OwnReply, OwnRequest, Stake, Want};

const SHORT: Duration = Duration::from_millis(100);
const THIRD: SessionId = SessionId(u64::MAX);

async fn drop_sessions(kit: &Kit<'_>, session: SessionId, drop: Vec<SessionId>) -> OwnReply {
    kit.store.own(kit.p, OwnRequest { session, want: Want::Own, lease: LONG, drop }).await.unwrap()
}

/// Asks for the partition until a reply is as wanted, while time passes.
async fn until(kit: &Kit<'_>, what: &str, session: SessionId, wanted: impl Fn(&OwnReply) -> bool) {
    eventually(what, async || {
        kit.pass_if_free(SHORT);
        wanted(&kit.own(session, Want::Own, LONG).await)
    })
    .await;
}

/// The first takes it and keeps it with the same token, a second is refused.
pub async fn taken_kept_and_refused(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let before = kit.now();
    let reply = kit.own(SESSION, Want::Own, LONG).await;
    // A store that asks a server may guess the time between two answers.
    let guess = Duration::from_secs(1);
    assert!(reply.now.after(guess) >= before && reply.now <= kit.now().after(guess), "{reply:?}");
    assert_eq!(reply.lapsed, []);
    let token = reply.token.unwrap();
    for _ in 0..3 {
        assert_eq!(kit.own(OTHER, Want::Own, LONG).await.token, None);
        assert_eq!(kit.own(SESSION, Want::Own, LONG).await.token, Some(token.clone()));
    }
    assert_eq!(kit.own(OTHER, Want::Release, LONG).await.token, None);
    assert_eq!(kit.own(OTHER, Want::Leave, LONG).await.token, None);
    assert_eq!(kit.own(SESSION, Want::Own, LONG).await.token, Some(token));
}

/// A released partition is free at once, while the session lives on.
pub async fn released_and_taken_over(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let first = kit.token().await;
    assert_eq!(kit.own(SESSION, Want::Release, LONG).await.token, None);
    let reply = kit.own(OTHER, Want::Own, LONG).await;
    assert!(reply.token.is_some_and(|token| token != first));
    assert_eq!(reply.lapsed, []);
    assert_eq!(kit.own(SESSION, Want::Own, LONG).await.token, None);
}

/// An owner that stops renewing loses the partition to the next who asks.
pub async fn taken_after_a_lapse(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let first = kit.own(SESSION, Want::Own, SHORT).await.token.unwrap();
    kit.pass(SHORT).await;
    until(&kit, "the partition is taken after the lapse", OTHER, |reply| reply.token.is_some()).await;
    let second = kit.own(OTHER, Want::Own, LONG).await.token.unwrap();
    assert_ne!(first, second);
    assert_eq!(kit.own(SESSION, Want::Own, LONG).await.token, None);
}

/// Whose lease has run out is listed in every reply until it is dropped.
pub async fn a_lapsed_session_is_listed_until_dropped(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    kit.own(SESSION, Want::Own, SHORT).await;
    kit.own(THIRD, Want::Release, SHORT).await;
    kit.pass(SHORT).await;
    let both = [SESSION, THIRD];
    until(&kit, "both sessions are reported as lapsed", OTHER, |reply| {
        both.iter().all(|session| reply.lapsed.contains(session)) && reply.token.is_some()
    })
    .await;
    for _ in 0..2 {
        let mut lapsed = kit.own(OTHER, Want::Own, LONG).await.lapsed;
        lapsed.sort();
        assert_eq!(lapsed, both);
    }
    assert_eq!(drop_sessions(&kit, OTHER, vec![SESSION]).await.lapsed, [THIRD]);
    assert_eq!(drop_sessions(&kit, OTHER, vec![SESSION, THIRD]).await.lapsed, []);
    assert_eq!(kit.own(OTHER, Want::Own, LONG).await.lapsed, []);
}

/// A session that came back is neither listed nor dropped by mistake.
pub async fn a_live_session_is_not_dropped(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    kit.own(OTHER, Want::Own, LONG).await;
    kit.own(SESSION, Want::Release, SHORT).await;
    kit.pass(SHORT).await;
    until(&kit, "the session is reported as lapsed", OTHER, |reply| reply.lapsed == [SESSION]).await;
    // Long enough for one more call on a busy machine.
    let lease = Duration::from_secs(2);
    assert_eq!(kit.own(SESSION, Want::Release, lease).await.lapsed, []);
    assert_eq!(drop_sessions(&kit, OTHER, vec![SESSION]).await.lapsed, []);
    kit.pass(lease).await;
    until(&kit, "the session is reported again", OTHER, |reply| reply.lapsed == [SESSION]).await;
}

/// A session that leaves frees the partition and is never reported as lapsed.
pub async fn leaving_is_not_lapsing(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    kit.own(SESSION, Want::Own, SHORT).await;
    assert_eq!(kit.own(SESSION, Want::Leave, SHORT).await.token, None);
    assert!(kit.own(OTHER, Want::Own, LONG).await.token.is_some());
    kit.pass(SHORT * 2).await;
    assert_eq!(kit.own(OTHER, Want::Own, LONG).await.lapsed, []);
}

/// No token is ever given twice, so that one from before a hand-over cannot come back into force.
pub async fn every_take_has_a_new_token(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut seen = BTreeSet::new();
    for n in 0..10 {
        let session = if n % 3 == 0 { OTHER } else { SESSION };
        let token = kit.own(session, Want::Own, LONG).await.token.unwrap();
        assert!(seen.insert(token.0.clone()), "{token:?} was given before");
        kit.own(session, if n % 2 == 0 { Want::Release } else { Want::Leave }, LONG).await;
    }
}

/// Each partition is owned for itself.
pub async fn partitions_have_their_own_owner(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let sessions = [SESSION, OTHER, THIRD];
    let own = async |p: u16, session| {
        let request = OwnRequest { session, want: Want::Own, lease: LONG, drop: Vec::new() };
        kit.store.own(Partition(p), request).await.unwrap().token
    };
    for p in 0..kit.store.caps().partitions {
        let session = sessions[usize::from(p) % 3];
        assert!(own(p, session).await.is_some());
    }
    for p in 0..kit.store.caps().partitions {
        assert!(own(p, sessions[usize::from(p) % 3]).await.is_some());
        assert_eq!(own(p, sessions[usize::from(p + 1) % 3]).await, None);
    }
}

/// Whoever stands for a partition is shown to all who ask, and takes nothing.
pub async fn candidates_are_listed(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let reply = kit.own(SESSION, Want::Stand, LONG).await;
    assert_eq!((reply.token, reply.candidates, reply.owner), (None, vec![SESSION], None));
    let reply = kit.own(OTHER, Want::Own, LONG).await;
    assert!(reply.token.is_some());
    assert_eq!(reply.candidates, [SESSION, OTHER]);
    assert_eq!(kit.own(THIRD, Want::Release, LONG).await.candidates, [SESSION, OTHER], "its attempts only");
    let reply = kit.own(SESSION, Want::Own, LONG).await;
    let (owner, left) = reply.owner.unwrap();
    assert_eq!((reply.token, owner), (None, OTHER));
    assert!(left <= LONG && left + Duration::from_secs(60) > LONG, "{left:?}");
    let reply = kit.own(OTHER, Want::Release, LONG).await;
    assert_eq!((reply.candidates, reply.owner), (vec![SESSION], None));
    assert_eq!(kit.own(SESSION, Want::Leave, LONG).await.candidates, []);
}

/// Who owns a partition may let go of it and stand on, and takes it again with a new token.
pub async fn let_go_and_taken_again(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let first = kit.token().await;
    let reply = kit.own(SESSION, Want::Stand, LONG).await;
    assert_eq!((reply.token, reply.candidates, reply.owner), (None, vec![SESSION], None));
    assert_ne!(kit.token().await, first);
}

/// A candidate whose lease has run out is none.
pub async fn a_lapsed_candidate_is_none(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    kit.own(SESSION, Want::Own, SHORT).await;
    kit.pass(SHORT).await;
    until(&kit, "only the live one stands", OTHER, |reply| reply.candidates == [OTHER] && reply.lapsed == [SESSION]).await;
}

/// Everybody sees who owns a partition and who lives in it.
pub async fn ownership_is_shown(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let nothing = kit.store.ownership(kit.p).await.unwrap();
    assert_eq!((nothing.owner, nothing.sessions), (None, vec![]));
    kit.own(SESSION, Want::Own, LONG).await;
    kit.own(OTHER, Want::Stand, LONG).await;
    kit.own(THIRD, Want::Release, LONG).await;
    let seen = kit.store.ownership(kit.p).await.unwrap();
    assert_eq!(seen.owner.map(|(session, _)| session), Some(SESSION));
    let stakes: Vec<(SessionId, Stake)> = seen.sessions.iter().map(|lease| (lease.session, lease.stake)).collect();
    assert_eq!(stakes, [(SESSION, Stake::Candidate), (OTHER, Stake::Candidate), (THIRD, Stake::Presence)]);
    let alive = |lease: &Lease| lease.until > seen.now && lease.until <= seen.now.after(LONG + Duration::from_secs(60));
    assert!(seen.sessions.iter().all(alive), "{seen:?}");
}

/// A fenced session has lost all at once, is reported until its attempts are settled, and never comes back.
pub async fn a_fenced_session_is_over(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    kit.own(OTHER, Want::Stand, LONG).await;
    let reply = kit.own(SESSION, Want::Fence, LONG).await;
    assert_eq!((reply.token, reply.owner, reply.candidates), (None, None, vec![OTHER]));
    let task = kit.put(kit.task()).await;
    let claimed = kit.store.claim(kit.p, &token, SESSION, vec![task.claim(SESSION)]).await;
    assert!(matches!(claimed, Err(Error::Fenced)), "{claimed:?}");
    let reply = kit.own(OTHER, Want::Own, LONG).await;
    assert!(reply.token.is_some());
    assert_eq!(reply.lapsed, [SESSION]);
    let refused = async || {
        for want in [Want::Own, Want::Stand, Want::Release, Want::Leave] {
            let request = OwnRequest { session: SESSION, want, lease: LONG, drop: Vec::new() };
            let answer = kit.store.own(kit.p, request).await;
            assert!(matches!(answer, Err(Error::Fenced)), "{answer:?}");
        }
    };
    refused().await;
    assert_eq!(drop_sessions(&kit, OTHER, vec![SESSION]).await.lapsed, []);
    refused().await;
    // Again, and of one that never was here.
    kit.own(SESSION, Want::Fence, LONG).await;
    kit.own(THIRD, Want::Fence, LONG).await;
    assert_eq!(kit.own(OTHER, Want::Own, LONG).await.lapsed, [THIRD]);
    let stakes: Vec<Stake> = kit.store.ownership(kit.p).await.unwrap().sessions.iter().map(|lease| lease.stake).collect();
    assert_eq!(stakes, [Stake::Buried, Stake::Candidate, Stake::Fenced]);
}
