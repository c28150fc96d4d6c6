//! The feed: every change once, in order, to everybody who reads it.

use std::time::Duration;

use lovage_core::{Ns, SessionId, State};

use super::Fixture;
use super::audit::{Known, audit};
use super::kit::{Kit, LONG, PATIENCE, SESSION, Task, ended, eventually, lane, running};
use crate::{Claimed, Committed, Effect, FeedBatch, FeedPos, FeedRow, Insert, Mode, Sync};

fn row(task: &Task) -> FeedRow {
    FeedRow { key: task.key.clone(), head: Some(task.head.clone()) }
}

/// Insert, claim, commit and delete write one entry each, with the rows in the order of the items.
pub async fn one_entry_for_each_call(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let start = kit.store.tail(kit.p).await.unwrap();
    let token = kit.token().await;
    let tasks = kit.put_all((0..3).map(|_| kit.task()).collect()).await;
    let mut expected = vec![tasks.iter().map(row).collect::<Vec<_>>()];

    let claims: Vec<_> = tasks[..2].iter().rev().map(|task| task.claim(SESSION)).collect();
    expected.push(claims.iter().map(|claim| FeedRow { key: claim.key.clone(), head: Some(claim.head.clone()) }).collect());
    kit.store.claim(kit.p, &token, SESSION, claims).await.unwrap();

    let first = Task { head: running(&tasks[0].head, SESSION), ..tasks[0].clone() };
    let child = kit.task();
    let mut commit = first.commit(Some(ended(&first.head, State::Succeeded, kit.now(), LONG)));
    commit.effects = vec![Effect::Spawn(Box::new(child.clone()))];
    let done = commit.head.clone();
    assert_eq!(kit.commit(vec![commit, tasks[2].commit(None)]).await, vec![Committed::Ok; 2]);
    let spawned = kit.head(&child.key).await;
    expected.push(vec![
        FeedRow { key: first.key.clone(), head: done },
        FeedRow { key: child.key, head: spawned },
        FeedRow { key: tasks[2].key.clone(), head: None },
    ]);

    let entries = kit.entries(start, 3).await;
    let rows: Vec<_> = entries.iter().map(|entry| entry.rows.clone()).collect();
    assert_eq!(rows, expected);
    assert!(start < entries[0].pos && entries.windows(2).all(|pair| pair[0].pos < pair[1].pos));
}

/// A call that changed nothing says nothing; a call that changed some says those.
pub async fn refused_calls_write_nothing(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let task = kit.put(kit.client_task(0)).await;
    let newer = kit.committed(&task, task.change(|_| {})).await;
    let start = kit.store.tail(kit.p).await.unwrap();
    kit.insert(vec![kit.client_task(0)]).await;
    kit.store.insert(kit.p, vec![kit.task(), kit.client_task(0)], Mode::Atomic).await.unwrap();
    assert_eq!(kit.store.claim(kit.p, &token, SESSION, vec![task.claim(SESSION)]).await.unwrap(), [Claimed::Stale]);
    kit.commit(vec![task.change(|_| {})]).await;
    let items = vec![newer.change(|_| {}), task.change(|_| {})];
    kit.store.commit(kit.p, SESSION, items, Mode::Atomic, Sync::Durable).await.unwrap();
    let fenced = kit.store.claim(kit.p, &crate::OwnToken("no".into()), SESSION, vec![newer.claim(SESSION)]).await;
    assert!(matches!(fenced, Err(crate::Error::Fenced)), "{fenced:?}");
    let last = kit.task();
    let answers = kit.insert(vec![kit.client_task(0), last.clone()]).await;
    assert!(matches!(answers[..], [crate::Inserted::Exists(_), crate::Inserted::Ok { .. }]), "{answers:?}");
    let entries = kit.entries(start, 1).await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    let changed: Vec<_> = entries[0].rows.iter().map(|row| row.key.clone()).collect();
    assert_eq!(changed, [last.key]);
}

/// The session that made a change is named, so that it can skip its own.
pub async fn sources_are_named(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let start = kit.store.tail(kit.p).await.unwrap();
    let token = kit.token().await;
    let task = kit.put(kit.task()).await;
    let task = kit.claimed(&token, &task).await;
    for (source, sync) in [(SessionId(0), Sync::Durable), (SessionId(u64::MAX), Sync::Ordered)] {
        let item = if source.0 == 0 {
            task.change(|_| {})
        } else {
            Task { head: kit.head(&task.key).await.unwrap(), ..task.clone() }.change(|_| {})
        };
        let answers = kit.store.commit(kit.p, source, vec![item], Mode::Each, sync).await.unwrap();
        assert_eq!(answers, [Committed::Ok]);
    }
    let sources: Vec<_> = kit.entries(start, 4).await.iter().map(|entry| entry.source).collect();
    assert_eq!(sources, [SessionId(0), SESSION, SessionId(0), SessionId(u64::MAX)]);
}

/// A waiting reader is woken by the first change.
pub async fn a_write_wakes_a_reader(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut at = kit.store.tail(kit.p).await.unwrap();
    for _ in 0..5 {
        let (store, p) = (kit.store.clone(), kit.p);
        // Far longer than the test may take: only a wake-up ends it.
        let reader = tokio::spawn(async move { store.feed(p, at, PATIENCE * 10).await.unwrap() });
        tokio::task::yield_now().await;
        let task = kit.put(kit.task()).await;
        let batch = tokio::time::timeout(PATIENCE, reader).await.expect("the reader is woken").unwrap();
        let FeedBatch::Entries { entries, next } = batch else { panic!("{batch:?}") };
        assert_eq!(entries[0].rows, [row(&task)]);
        at = next;
    }
}

/// Without news a reader gets an empty answer after its time, and goes on from the same place.
pub async fn an_idle_reader_times_out(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    kit.put(kit.task()).await;
    let mut at = kit.store.tail(kit.p).await.unwrap();
    for wait in [Duration::ZERO, Duration::from_millis(30)] {
        let answer = tokio::time::timeout(PATIENCE, kit.store.feed(kit.p, at, wait)).await.expect("it ends").unwrap();
        let FeedBatch::Entries { entries, next } = answer else { panic!("{answer:?}") };
        assert!(entries.iter().all(|entry| entry.rows.is_empty()), "{entries:?}");
        at = next;
    }
    let task = kit.put(kit.task()).await;
    assert_eq!(kit.entries(at, 1).await[0].rows, [row(&task)]);
}

/// The tail leaves out what was written before and nothing that is written later; places survive as text.
pub async fn the_tail_is_where_news_begin(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    for _ in 0..5 {
        let tail = kit.store.tail(kit.p).await.unwrap();
        let tail: FeedPos = tail.to_string().parse().unwrap();
        let task = kit.put(kit.task()).await;
        let entries = kit.entries(tail, 1).await;
        assert_eq!((entries.len(), &entries[0].rows[..]), (1, &[row(&task)][..]));
        let after = kit.put(kit.task()).await;
        assert_eq!(kit.entries(entries[0].pos, 1).await[0].rows, [row(&after)]);
    }
}

/// A reader whose place is gone is told so, with a place from which nothing new is missed.
pub async fn a_lost_place_is_behind(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let start = kit.store.tail(kit.p).await.unwrap();
    kit.put_all((0..3).map(|_| kit.task()).collect()).await;
    let middle = kit.entries(start, 1).await[0].pos;
    kit.put(kit.task()).await;
    kit.put(kit.task()).await;
    fixture.forget_feed(&kit.store, kit.p).await;
    for lost in [start, middle] {
        let answer = kit.store.feed(kit.p, lost, Duration::ZERO).await.unwrap();
        let FeedBatch::Behind { tail } = answer else { panic!("{lost} was answered {answer:?}") };
        let task = kit.put(kit.task()).await;
        assert_eq!(kit.entries(tail, 1).await[0].rows, [row(&task)]);
    }
}

/// Replaying the feed from its start gives the state, and with it every placement and count.
pub async fn replay_rebuilds_everything(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lanes = [lane(Ns::DEFAULT, "default", "a"), lane(Ns::DEFAULT, "mail", "b"), lane(Ns(3), "default", "a")];
    let known = Known::new(lanes.clone(), kit.store.tail(kit.p).await.unwrap());
    let token = kit.token().await;
    let mut tasks = Vec::new();
    for (n, state) in State::ALL.iter().cycle().take(45).enumerate() {
        let mut item = kit.task_in(lanes[n % 3].clone());
        item.head.state = *state;
        item.head.priority = (n % 10) as u8;
        item.head.due = kit.now().after(Duration::from_secs(n as u64 % 7));
        tasks.push(kit.put(item).await);
    }
    audit(&*kit.store, kit.p, &known).await.unwrap();
    for (n, task) in tasks.iter().enumerate() {
        let state = State::ALL[(n * 5 + 2) % 9];
        match n % 4 {
            0 if task.head.state == State::Queued => drop(kit.claimed(&token, task).await),
            0 => drop(kit.committed(task, task.commit(None)).await),
            1 => {
                let mut commit = task.change(|head| head.state = state);
                commit.effects =
                    vec![Effect::Spawn(Box::new(Insert { root: Some(task.key.clone()), ..kit.task_in(lanes[n % 3].clone()) }))];
                kit.committed(task, commit).await;
            }
            _ => drop(kit.committed(task, task.change(|head| head.state = state)).await),
        }
    }
    let heads = audit(&*kit.store, kit.p, &known).await.unwrap();
    assert!(heads.len() > 40, "{}", heads.len());
}

/// An ordered change is shown soon, also if no durable write follows.
pub async fn ordered_changes_arrive(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = kit.put(kit.task()).await;
    let tail = kit.store.tail(kit.p).await.unwrap();
    let item = task.change(|head| head.priority = 9);
    let head = item.head.clone();
    kit.store.commit(kit.p, SESSION, vec![item], Mode::Each, Sync::Ordered).await.unwrap();
    assert_eq!(kit.entries(tail, 1).await[0].rows, [FeedRow { key: task.key.clone(), head: head.clone() }]);
    eventually("the head is shown", async || kit.head(&task.key).await == head).await;
}
