//! Two who want the same task at the same time: one gets it.

use std::sync::Arc;

use lovage_core::State;

use super::Fixture;
use super::kit::{Kit, LONG, OTHER, SESSION, ended};
use crate::{Claimed, Committed, Mode, Sync};

const ROUNDS: usize = 1_000;

/// A cancel and a claim of the same task: exactly one succeeds, and the head is the winner's.
pub async fn cancel_or_claim_never_both(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = Arc::new(kit.token().await);
    let mut claimed = 0;
    let batch = kit.store.caps().max_batch.min(100);
    for _ in 0..ROUNDS.div_ceil(batch) {
        let tasks = kit.put_all((0..batch).map(|_| kit.task()).collect()).await;
        let mut races = Vec::new();
        for (n, task) in tasks.into_iter().enumerate() {
            let claim = {
                let (store, p, token, item) = (kit.store.clone(), kit.p, token.clone(), task.claim(SESSION));
                async move { store.claim(p, &token, SESSION, vec![item]).await.unwrap() }
            };
            let canceled = ended(&task.head, State::Canceled, kit.now(), LONG);
            let cancel = {
                let (store, p, item) = (kit.store.clone(), kit.p, task.commit(Some(canceled.clone())));
                async move { store.commit(p, OTHER, vec![item], Mode::Each, Sync::Durable).await.unwrap() }
            };
            // Who comes first takes turns, so that the scheduler cannot decide all the races.
            let (claim, cancel) = if n % 2 == 0 {
                (tokio::spawn(claim), tokio::spawn(cancel))
            } else {
                let cancel = tokio::spawn(cancel);
                (tokio::spawn(claim), cancel)
            };
            races.push((task, canceled, claim, cancel));
        }
        for (task, canceled, claim, cancel) in races {
            let running = task.claim(SESSION).head;
            match (&claim.await.unwrap()[..], &cancel.await.unwrap()[..]) {
                ([Claimed::Ok(_)], [Committed::Stale(Some(head))]) => {
                    assert_eq!(*head, running);
                    assert_eq!(kit.head(&task.key).await, Some(running));
                    claimed += 1;
                }
                ([Claimed::Stale], [Committed::Ok]) => assert_eq!(kit.head(&task.key).await, Some(canceled)),
                both => panic!("claim and cancel were answered {both:?}"),
            }
        }
    }
    let counts = kit.store.counts(kit.p).await.unwrap();
    let rounds = (ROUNDS.div_ceil(batch) * batch) as u64;
    let states = &counts[0].states;
    assert_eq!((states[State::Running as usize], states[State::Canceled as usize]), (claimed, rounds - claimed));
}

/// Of many changes of the same version one succeeds, and the others are shown it.
pub async fn one_winner_among_many(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut task = kit.put(kit.task()).await;
    for _ in 0..20 {
        let rivals = (0..8u8).map(|n| {
            let (store, p, item) = (kit.store.clone(), kit.p, task.change(|head| head.priority = n));
            tokio::spawn(async move { store.commit(p, SESSION, vec![item], Mode::Each, Sync::Durable).await.unwrap().remove(0) })
        });
        let mut winners = Vec::new();
        let mut shown = Vec::new();
        for (n, rival) in rivals.collect::<Vec<_>>().into_iter().enumerate() {
            match rival.await.unwrap() {
                Committed::Ok => winners.push(n as u8),
                Committed::Stale(head) => shown.extend(head),
                Committed::Aborted | Committed::Conflict { .. } => panic!("aborted without an atomic batch"),
            }
        }
        task.head = kit.head(&task.key).await.unwrap();
        assert_eq!(winners, [task.head.priority]);
        assert_eq!(shown, vec![task.head.clone(); 7]);
    }
}
