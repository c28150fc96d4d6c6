//! Claims: one atomic step from waiting to running, for the owner alone.

use bytes::Bytes;
use lovage_core::{Ns, State};

use super::Fixture;
use super::kit::{Kit, LONG, OTHER, SESSION, Task, next};
use crate::{Claimed, Committed, Error, OwnToken, Want};

/// Bodies come back in the order of the items, and the heads are the new ones.
pub async fn hands_out_bodies_in_order(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let items: Vec<_> = (0..7).map(|_| kit.task()).collect();
    let bodies: Vec<_> = items.iter().rev().map(|item| Claimed::Ok(item.body.clone())).collect();
    let tasks = kit.put_all(items).await;
    let claims: Vec<_> = tasks.iter().rev().map(|task| task.claim(SESSION)).collect();
    let answers = kit.store.claim(kit.p, &token, SESSION, claims.clone()).await.unwrap();
    assert_eq!(answers, bodies);
    for claim in claims {
        assert_eq!(kit.head(&claim.key).await, Some(claim.head));
    }
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Running).await, 7);
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, 0);
}

/// A task that was changed or deleted meanwhile is not handed out; the others are.
pub async fn a_stale_version_is_refused(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let tasks = kit.put_all((0..4).map(|_| kit.task()).collect()).await;
    let edited = kit.committed(&tasks[1], tasks[1].change(|head| head.priority = 9)).await;
    kit.committed(&tasks[2], tasks[2].commit(None)).await;
    let claims = tasks.iter().map(|task| task.claim(SESSION)).collect();
    let answers = kit.store.claim(kit.p, &token, SESSION, claims).await.unwrap();
    assert!(matches!(answers[..], [Claimed::Ok(_), Claimed::Stale, Claimed::Stale, Claimed::Ok(_)]), "{answers:?}");
    assert_eq!(kit.head(&edited.key).await, Some(edited.head));
    assert_eq!(kit.head(&tasks[2].key).await, None);
}

/// Without the current token nothing is claimed.
pub async fn only_the_owner_claims(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = kit.put(kit.task()).await;
    let nobody = OwnToken("1:1:nobody".into());
    let refused = async |token: &OwnToken| {
        let answer = kit.store.claim(kit.p, token, SESSION, vec![task.claim(SESSION)]).await;
        assert!(matches!(answer, Err(Error::Fenced)), "{answer:?}");
        assert_eq!(kit.head(&task.key).await, Some(task.head.clone()));
    };
    refused(&nobody).await;
    let first = kit.token().await;
    refused(&nobody).await;
    kit.own(SESSION, Want::Release, LONG).await;
    refused(&first).await;
    let second = kit.own(OTHER, Want::Own, LONG).await.token.unwrap();
    refused(&first).await;
    kit.own(OTHER, Want::Leave, LONG).await;
    refused(&second).await;
    let third = kit.token().await;
    refused(&first).await;
    kit.claimed(&third, &task).await;
}

/// The second claim of a task in a batch sees that the first moved it.
pub async fn no_task_twice_in_a_batch(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let task = kit.put(kit.task()).await;
    let answers = kit.store.claim(kit.p, &token, SESSION, vec![task.claim(SESSION), task.claim(SESSION)]).await.unwrap();
    assert!(matches!(answers[..], [Claimed::Ok(_), Claimed::Stale]), "{answers:?}");
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Running).await, 1);
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, 0);
}

/// A claim leaves what earlier attempts left.
pub async fn keeps_result_and_attempts(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let task = kit.put(kit.task()).await;
    let mut commit = task.commit(Some(next(&task.head, |_| {})));
    commit.result = Some(Some(Bytes::from_static(b"partial")));
    commit.attempt = Some(Bytes::from_static(b"first"));
    let head = commit.head.clone().unwrap();
    assert_eq!(kit.commit(vec![commit]).await, [Committed::Ok]);
    kit.claimed(&token, &Task { head, ..task.clone() }).await;
    let stored = kit.whole(&task.key).await.unwrap();
    assert_eq!((stored.result.unwrap(), stored.attempts), (Bytes::from_static(b"partial"), vec![Bytes::from_static(b"first")]));
}
