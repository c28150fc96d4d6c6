//! Commits: guarded, in order, with all their parts or not at all.

use bytes::Bytes;
use lovage_core::attempt::KEPT_ENTRIES;
use lovage_core::{Ns, State};

use super::Fixture;
use super::kit::{Kit, LONG, SESSION, Task, ended, lane, next};
use crate::{Claim, Claimed, Commit, Committed, Effect, Index, Insert, KeyKind, Mode, OnExists, Stored, Sync};

fn succeed(kit: &Kit<'_>, task: &Task) -> Commit {
    task.commit(Some(ended(&task.head, State::Succeeded, kit.now(), LONG)))
}

/// The head becomes the given one, whatever changed in it.
pub async fn changes_the_head(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut task = kit.put(kit.task()).await;
    for state in State::ALL {
        let edit = task.change(|head| {
            head.state = *state;
            head.attempt += 3;
            head.budget += 1;
            head.lost += 1;
            head.generation += 1;
            head.worker = u32::MAX - u32::from(head.generation);
            head.deadline = kit.now().after(LONG);
            head.started = kit.now();
            head.first_started = kit.now();
        });
        task = kit.committed(&task, edit).await;
        assert_eq!(kit.head(&task.key).await, Some(task.head.clone()));
    }
}

/// A change of an old version is refused with the head that is stored, or with nothing if the task is gone.
pub async fn stale_answers_the_head(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = kit.put(kit.task()).await;
    let newer = kit.committed(&task, task.change(|head| head.priority = 1)).await;
    let mut old = succeed(&kit, &task);
    old.result = Some(Some(Bytes::from_static(b"never")));
    old.attempt = Some(Bytes::from_static(b"never"));
    old.body = Some(Bytes::from_static(b"never"));
    let delete = task.commit(None);
    let never_there = Task { key: kit.task().key, ..task.clone() };
    let answers = kit.commit(vec![old, delete, succeed(&kit, &never_there)]).await;
    let there = Committed::Stale(Some(newer.head.clone()));
    assert_eq!(answers, [there.clone(), there, Committed::Stale(None)]);
    let stored = kit.whole(&task.key).await.unwrap();
    assert_eq!((stored.head, stored.result, stored.attempts.len()), (newer.head, None, 0));
    assert_ne!(stored.body.unwrap(), "never");
}

/// Deleting takes the record out of every place.
pub async fn delete_removes_every_part(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let root = kit.put(kit.task()).await;
    let task = kit.put(Insert { root: Some(root.key.clone()), ..kit.task() }).await;
    let mut commit = succeed(&kit, &task);
    commit.result = Some(Some(Bytes::from_static(b"result")));
    commit.attempt = Some(Bytes::from_static(b"attempt"));
    let task = kit.committed(&task, commit).await;
    assert_eq!(kit.scan_keys(&Index::Members { root: root.key.clone() }, 10).await, std::slice::from_ref(&task.key));
    kit.committed(&task, task.commit(None)).await;
    assert_eq!(kit.whole(&task.key).await, None);
    assert_eq!(kit.store.bodies(kit.p, std::slice::from_ref(&task.key)).await.unwrap(), [None]);
    assert_eq!(kit.scan_keys(&Index::Members { root: root.key.clone() }, 10).await, []);
    assert_eq!(kit.scan_keys(&Index::Done { until: kit.now().after(LONG + LONG) }, 10).await, []);
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Succeeded).await, 0);
    let listed: Vec<_> = kit.list(&crate::ListQuery::default(), 10).await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(listed, [root.key]);
}

/// A client's id is free after the deletion, and nothing of the old task comes back with it.
pub async fn a_deleted_id_starts_anew(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let root = kit.put(kit.task()).await;
    let first = kit.put(Insert { root: Some(root.key.clone()), ..kit.client_task(0) }).await;
    let mut commit = succeed(&kit, &first);
    commit.result = Some(Some(Bytes::from_static(b"result")));
    commit.attempt = Some(Bytes::from_static(b"attempt"));
    let first = kit.committed(&first, commit).await;
    kit.committed(&first, first.commit(None)).await;
    let again = Insert { body: Bytes::from_static(b"new"), ..kit.client_task(0) };
    let second = kit.put(again).await;
    assert!(second.head.seq > first.head.seq);
    let expected = Stored { head: second.head, body: Some(Bytes::from_static(b"new")), result: None, attempts: Vec::new() };
    assert_eq!(kit.whole(&second.key).await, Some(expected));
    assert_eq!(kit.scan_keys(&Index::Members { root: root.key }, 10).await, []);
}

/// A task that was made anew under its id is not taken for the one that was there, though its version is the same; nor is
/// any other task.
pub async fn another_task_is_not_changed(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let first = kit.put(kit.client_task(0)).await;
    kit.committed(&first, first.commit(None)).await;
    let anew = kit.task_in(lane(Ns::DEFAULT, "mail", "demo"));
    let second = kit.put(Insert { key: first.key.clone(), exists: OnExists::Return, ..anew }).await;
    let other = kit.put(kit.task()).await;
    assert_eq!((first.head.version, second.head.version), (other.head.version, other.head.version));
    let token = kit.token().await;
    for was in [&first.head, &other.head] {
        let mut change = second.change(|head| head.priority = 9);
        change.was = was.clone();
        assert_eq!(kit.commit(vec![change]).await, [Committed::Stale(Some(second.head.clone()))]);
        let claim = Claim { was: was.clone(), ..second.claim(SESSION) };
        assert_eq!(kit.store.claim(kit.p, &token, SESSION, vec![claim]).await.unwrap(), [Claimed::Stale]);
    }
    assert_eq!(kit.head(&second.key).await, Some(second.head));
}

/// A result is stored, replaced, left alone, and removed.
pub async fn results_are_set_and_removed(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut task = kit.put(kit.task()).await;
    let mut expected = None;
    for change in [Some(Some("one")), None, Some(Some("two")), Some(Some("")), None, Some(None), None, Some(None)] {
        let mut commit = task.change(|_| {});
        commit.result = change.map(|bytes| bytes.map(|text| Bytes::from_static(text.as_bytes())));
        expected = change.unwrap_or(expected);
        task = kit.committed(&task, commit).await;
        let stored = kit.whole(&task.key).await.unwrap();
        assert_eq!(stored.result, expected.map(|text| Bytes::from_static(text.as_bytes())));
        let unasked = kit.store.get(kit.p, &task.key, crate::Parts::default()).await.unwrap().unwrap();
        assert_eq!((unasked.body, unasked.result, unasked.attempts), (None, None, Vec::new()));
    }
}

/// Attempt entries are kept in order.
pub async fn attempts_are_appended(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut task = kit.put(kit.task()).await;
    let mut expected = Vec::new();
    for n in 0..12u8 {
        let entry = Bytes::from(vec![n, 0, 255]);
        let mut commit = task.change(|head| head.attempt += 1);
        commit.attempt = (n % 3 != 2).then(|| entry.clone());
        expected.extend(commit.attempt.clone());
        task = kit.committed(&task, commit).await;
    }
    assert_eq!(kit.whole(&task.key).await.unwrap().attempts, expected);
}

/// Of very many entries the latest stay, also when other effects go with the change.
pub async fn the_latest_attempts_are_kept(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut task = kit.put(kit.task()).await;
    let entry = |n: usize| Bytes::from(n.to_string());
    let mut made = 0;
    let mut add = |task: &mut Task, effects: &[Effect]| {
        let mut commit = task.change(|head| head.attempt += 1);
        commit.attempt = Some(entry(made));
        commit.effects = effects.to_vec();
        made += 1;
        task.head = commit.head.clone().unwrap();
        commit
    };
    for _ in 0..(KEPT_ENTRIES + 100) / 100 {
        let items = (0..100).map(|_| add(&mut task, &[])).collect();
        assert_eq!(kit.commit(items).await, vec![Committed::Ok; 100]);
    }
    let free = Effect::FreeKey { kind: KeyKind::Unique, key: Bytes::from_static(b"none") };
    let last = add(&mut task, &[free]);
    assert_eq!(kit.commit(vec![last]).await, [Committed::Ok]);
    let kept: Vec<Bytes> = (made - KEPT_ENTRIES..made).map(entry).collect();
    assert_eq!(kit.whole(&task.key).await.unwrap().attempts, kept);
}

/// A new body replaces the old one; no body leaves it.
pub async fn the_body_is_replaced(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let task = kit.put(kit.task()).await;
    let mut commit = task.change(|_| {});
    commit.body = Some(Bytes::from_static(b"edited"));
    let task = kit.committed(&task, commit).await;
    let task = kit.committed(&task, task.change(|_| {})).await;
    assert_eq!(kit.whole(&task.key).await.unwrap().body.unwrap(), "edited");
    let answers = kit.store.claim(kit.p, &token, SESSION, vec![task.claim(SESSION)]).await.unwrap();
    assert_eq!(answers, [crate::Claimed::Ok(Bytes::from_static(b"edited"))]);
}

/// A task that is not final may have a result, which is replaced, removed and deleted like any other.
pub async fn results_of_unfinished_tasks(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let states = [State::Running, State::Retrying, State::Blocked, State::Queued, State::Scheduled];
    for general in [false, true] {
        let mut task = kit.put(kit.client_task(0)).await;
        for (n, state) in states.into_iter().cycle().enumerate().take(12) {
            let result = if n % 4 == 3 { None } else { Some(Bytes::from(format!("result {n}"))) };
            let mut commit = task.change(|head| head.state = state);
            commit.result = Some(result.clone());
            commit.body = (n == 5).then(|| Bytes::from_static(b"edited"));
            commit.attempt = Some(Bytes::from_static(b"attempt"));
            let nowhere = Effect::Arrive { barrier: kit.task().key, index: 0 };
            commit.effects = if general { vec![nowhere] } else { Vec::new() };
            task = kit.committed(&task, commit).await;
            // A change that says nothing about the result leaves it.
            task = kit.committed(&task, task.change(|_| {})).await;
            let stored = kit.whole(&task.key).await.unwrap();
            assert_eq!((stored.head, stored.result, stored.attempts.len()), (task.head.clone(), result, n + 1));
            assert_eq!(stored.body.unwrap() == "edited", n >= 5);
        }
        kit.committed(&task, task.commit(None)).await;
        let again = kit.put(kit.client_task(0)).await;
        assert_eq!(kit.whole(&again.key).await.unwrap().result, None);
        kit.committed(&again, again.commit(None)).await;
    }
}

/// A spawned task is there together with the change, as if it had been inserted.
pub async fn spawns_in_the_same_step(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = kit.put(kit.task()).await;
    let children = [Insert { root: Some(task.key.clone()), ..kit.task() }, kit.task()];
    let mut commit = succeed(&kit, &task);
    commit.effects = children.iter().map(|child| Effect::Spawn(Box::new(child.clone()))).collect();
    kit.committed(&task, commit).await;
    let mut last = task.head.seq;
    for child in &children {
        let stored = kit.whole(&child.key).await.unwrap();
        assert!(stored.head.seq > last);
        last = stored.head.seq;
        assert_eq!(stored.head, lovage_core::Head { seq: last, ..child.head.clone() });
        assert_eq!(stored.body, Some(child.body.clone()));
    }
    let later = kit.put(kit.task()).await;
    assert!(later.head.seq > last);
    assert_eq!(kit.scan_keys(&Index::Members { root: task.key.clone() }, 10).await, [children[0].key.clone()]);
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, 3);
    let waiting = Index::Lane { lane: later.head.lane, after: None };
    assert_eq!(kit.scan_keys(&waiting, 10).await, [children[0].key.clone(), children[1].key.clone(), later.key]);
}

/// A batch may spawn more tasks than it has items.
pub async fn spawns_many(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let tasks = kit.put_all((0..kit.store.caps().max_batch.min(150)).map(|_| kit.task()).collect()).await;
    let mut children = Vec::new();
    let items = tasks.iter().map(|task| {
        let spawned: Vec<_> = (0..3).map(|_| kit.task()).collect();
        children.extend(spawned.iter().map(|child| child.key.clone()));
        let effects = spawned.into_iter().map(|child| Effect::Spawn(Box::new(child))).collect();
        Commit { effects, ..succeed(&kit, task) }
    });
    let items = items.collect::<Vec<_>>();
    assert_eq!(kit.commit(items).await, vec![Committed::Ok; tasks.len()]);
    let waiting = Index::Lane { lane: tasks[0].head.lane, after: None };
    assert_eq!(kit.scan_keys(&waiting, 100).await, children);
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, children.len() as u64);
}

/// A refused change spawns nothing.
pub async fn a_stale_change_spawns_nothing(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = kit.put(kit.task()).await;
    kit.committed(&task, task.change(|_| {})).await;
    let child = kit.task();
    let mut commit = succeed(&kit, &task);
    commit.effects = vec![Effect::Spawn(Box::new(child.clone()))];
    assert!(matches!(kit.commit(vec![commit]).await[..], [Committed::Stale(Some(_))]));
    assert_eq!(kit.head(&child.key).await, None);
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, 1);
}

/// In an atomic batch one refusal keeps everything as it was.
pub async fn all_or_nothing(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let tasks = kit.put_all((0..4).map(|_| kit.task()).collect()).await;
    let newer = kit.committed(&tasks[2], tasks[2].change(|_| {})).await;
    let child = kit.task();
    let items = |third: &Task| {
        let mut first = succeed(&kit, &tasks[0]);
        first.result = Some(Some(Bytes::from_static(b"result")));
        first.attempt = Some(Bytes::from_static(b"attempt"));
        first.body = Some(Bytes::from_static(b"body"));
        first.effects = vec![Effect::Spawn(Box::new(child.clone()))];
        vec![first, tasks[1].commit(None), succeed(&kit, third), tasks[3].change(|head| head.priority = 0)]
    };
    let before = kit.whole(&tasks[0].key).await;
    let commit = async |items| kit.store.commit(kit.p, SESSION, items, Mode::Atomic, Sync::Durable).await.unwrap();
    let refused = [Committed::Aborted, Committed::Aborted, Committed::Stale(Some(newer.head.clone())), Committed::Aborted];
    assert_eq!(commit(items(&tasks[2])).await, refused);
    assert_eq!(kit.whole(&tasks[0].key).await, before);
    assert_eq!(kit.head(&tasks[1].key).await, Some(tasks[1].head.clone()));
    assert_eq!(kit.head(&tasks[3].key).await, Some(tasks[3].head.clone()));
    assert_eq!(kit.head(&child.key).await, None);
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, 4);
    assert_eq!(commit(items(&newer)).await, vec![Committed::Ok; 4]);
    assert_eq!(kit.whole(&tasks[0].key).await.unwrap().result.unwrap(), "result");
    assert_eq!(kit.head(&tasks[1].key).await, None);
    assert!(kit.head(&child.key).await.is_some());
}

/// A later item of a batch is guarded by what the earlier ones left.
pub async fn items_apply_in_order(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let task = kit.put(kit.task()).await;
    let first = task.change(|head| head.state = State::Scheduled);
    let after = Task { head: first.head.clone().unwrap(), ..task.clone() };
    let second = after.change(|head| head.state = State::Queued);
    let head = second.head.clone().unwrap();
    let answers = kit.commit(vec![first, task.change(|head| head.priority = 0), second]).await;
    assert_eq!(answers, [Committed::Ok, Committed::Stale(Some(after.head)), Committed::Ok]);
    assert_eq!(kit.head(&task.key).await, Some(head));
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Queued).await, 1);
    assert_eq!(kit.count(Ns::DEFAULT, "default", State::Scheduled).await, 0);
}

/// Writers see an ordered change at once, readers when it is durable, and a later durable write implies it.
pub async fn ordered_changes_guard_at_once(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let mut task = kit.put(kit.task()).await;
    for _ in 0..20 {
        let item = task.change(|head| head.attempt += 1);
        let head = item.head.clone().unwrap();
        let stale = task.change(|head| head.priority = 0);
        let ordered = kit.store.commit(kit.p, SESSION, vec![item], Mode::Each, Sync::Ordered).await.unwrap();
        assert_eq!(ordered, [Committed::Ok]);
        assert_eq!(kit.commit(vec![stale]).await, [Committed::Stale(Some(head.clone()))]);
        task.head = head;
    }
    let item = task.change(|head| head.attempt += 1);
    task.head = item.head.clone().unwrap();
    kit.store.commit(kit.p, SESSION, vec![item], Mode::Each, Sync::Ordered).await.unwrap();
    kit.put(kit.task()).await;
    assert_eq!(kit.head(&task.key).await, Some(task.head));
}

/// Counts follow every change of state and nothing else.
pub async fn counts_move(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    assert_eq!(kit.store.counts(kit.p).await.unwrap(), []);
    let mut task = kit.put(kit.task()).await;
    for state in State::ALL.iter().chain([&State::Expired, &State::Blocked]) {
        task = kit.committed(&task, task.commit(Some(next(&task.head, |head| head.state = *state)))).await;
        let counts = kit.store.counts(kit.p).await.unwrap();
        let mut states = [0; 9];
        states[*state as usize] = 1;
        assert_eq!(counts, [crate::QueueCounts { ns: Ns::DEFAULT, queue: "default".into(), states }]);
    }
    kit.committed(&task, task.commit(None)).await;
    assert_eq!(kit.store.counts(kit.p).await.unwrap(), []);
}
