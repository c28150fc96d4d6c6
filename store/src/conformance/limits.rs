//! Sizes, edges, and what must be kept apart.

use bytes::Bytes;
use lovage_core::{Ns, Partition, Slot, State, TaskId, TaskKey};

use super::Fixture;
use super::audit::{Known, audit};
use super::kit::{Kit, LONG, SESSION, Task, ended, key_put, lane};
use crate::{
    Claimed, Committed, DocGuard, DocKind, DocPut, Error, FeedBatch, Index, Insert, Inserted, KeyKind, ListQuery, Mode,
    OwnRequest, OwnToken, Sync, Want, all_lanes,
};

/// Bodies, results and attempts of a megabyte come back byte for byte.
pub async fn large_bodies_are_untouched(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let mut random = fastrand::Rng::with_seed(1);
    let mut large = |n: usize| Bytes::from((0..n).map(|_| random.u8(..)).collect::<Vec<_>>());
    for size in [0, 1, 1 << 20] {
        let body = large(size);
        let task = kit.put(Insert { body: body.clone(), ..kit.task() }).await;
        let answers = kit.store.claim(kit.p, &token, SESSION, vec![task.claim(SESSION)]).await.unwrap();
        assert!(answers == [Claimed::Ok(body.clone())]);
        let task = Task { head: task.claim(SESSION).head, ..task };
        let (result, attempt) = (large(size), large(size));
        let mut commit = task.commit(Some(ended(&task.head, State::Succeeded, kit.now(), LONG)));
        commit.result = Some(Some(result.clone()));
        commit.attempt = Some(attempt.clone());
        kit.committed(&task, commit).await;
        let stored = kit.whole(&task.key).await.unwrap();
        assert!(stored.body == Some(body.clone()) && stored.result == Some(result) && stored.attempts == [attempt]);
        assert!(kit.store.bodies(kit.p, &[task.key]).await.unwrap() == [Some(body)]);
    }
}

/// A batch of nothing is carried out at once.
pub async fn empty_batches(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let start = kit.store.tail(kit.p).await.unwrap();
    for mode in [Mode::Each, Mode::Atomic] {
        assert_eq!(kit.store.insert(kit.p, Vec::new(), mode).await.unwrap(), []);
        for sync in [Sync::Durable, Sync::Ordered] {
            assert_eq!(kit.store.commit(kit.p, SESSION, Vec::new(), mode, sync).await.unwrap(), []);
        }
    }
    assert_eq!(kit.store.claim(kit.p, &token, SESSION, Vec::new()).await.unwrap(), []);
    assert_eq!(kit.store.heads(kit.p, &[]).await.unwrap(), []);
    assert_eq!(kit.store.bodies(kit.p, &[]).await.unwrap(), Vec::<Option<Bytes>>::new());
    assert_eq!(kit.store.put_docs(Vec::new()).await.unwrap(), []);
    let task = kit.put(kit.task()).await;
    assert_eq!(kit.entries(start, 1).await[0].rows[0].key, task.key);
}

/// As many items as allowed, through every verb that takes a batch.
pub async fn a_full_batch(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let known = Known::new([lane(Ns::DEFAULT, "default", "demo")], kit.store.tail(kit.p).await.unwrap());
    let token = kit.token().await;
    let n = kit.store.caps().max_batch;
    assert!(n >= 1);
    let tasks = kit.put_all((0..n).map(|_| kit.task()).collect()).await;
    let claims = tasks.iter().map(|task| task.claim(SESSION)).collect();
    let answers = kit.store.claim(kit.p, &token, SESSION, claims).await.unwrap();
    assert!(answers.len() == n && answers.iter().all(|answer| matches!(answer, Claimed::Ok(_))));
    let now = kit.now();
    let end = |task: &Task| {
        let head = task.claim(SESSION).head;
        let task = Task { head, ..task.clone() };
        let mut commit = task.commit(Some(ended(&task.head, State::Succeeded, now, LONG)));
        commit.result = Some(Some(Bytes::from_static(b"result")));
        commit
    };
    let commits: Vec<_> = tasks.iter().map(end).collect();
    assert_eq!(kit.commit(commits).await, vec![Committed::Ok; n]);
    let keys: Vec<_> = tasks.iter().map(|task| task.key.clone()).collect();
    assert!(kit.store.heads(kit.p, &keys).await.unwrap().iter().flatten().filter(|h| h.state == State::Succeeded).count() == n);
    assert_eq!(audit(&*kit.store, kit.p, &known).await.unwrap().len(), n);
}

/// One item more than allowed is refused whole.
pub async fn a_longer_batch_is_refused(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let n = kit.store.caps().max_batch + 1;
    let items: Vec<_> = (0..n).map(|_| kit.task()).collect();
    let answer = kit.store.insert(kit.p, items, Mode::Each).await;
    assert!(matches!(answer, Err(Error::Invalid(_))));
    assert_eq!(kit.store.counts(kit.p).await.unwrap(), []);
    let task = kit.put(kit.task()).await;
    let answer = kit.store.claim(kit.p, &token, SESSION, vec![task.claim(SESSION); n]).await;
    assert!(matches!(answer, Err(Error::Invalid(_))));
    let answer = kit.store.commit(kit.p, SESSION, vec![task.change(|_| {}); n], Mode::Each, Sync::Durable).await;
    assert!(matches!(answer, Err(Error::Invalid(_))));
    assert_eq!(kit.head(&task.key).await, Some(task.head));
}

/// A partition that does not exist is a caller's bug.
pub async fn unknown_partitions_are_refused(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let p = Partition(kit.store.caps().partitions);
    let request = OwnRequest { session: SESSION, want: Want::Own, lease: LONG, drop: Vec::new() };
    assert!(matches!(kit.store.insert(p, vec![kit.task()], Mode::Each).await, Err(Error::Invalid(_))));
    assert!(matches!(kit.store.claim(p, &OwnToken("x".into()), SESSION, Vec::new()).await, Err(Error::Invalid(_))));
    assert!(matches!(kit.store.commit(p, SESSION, Vec::new(), Mode::Each, Sync::Durable).await, Err(Error::Invalid(_))));
    assert!(matches!(kit.store.own(p, request).await, Err(Error::Invalid(_))));
}

/// The same id, queue and key in two namespaces never meet.
pub async fn namespaces_are_apart(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let token = kit.token().await;
    let namespaces = [Ns(0), Ns(1), Ns(0x0100_0000)];
    // A generated id lives in the same partition in all namespaces; the slot of a client's depends on the namespace.
    let id = kit.task().key.id;
    let known = Known::new(namespaces.map(|ns| lane(ns, "default", "demo")), kit.store.tail(kit.p).await.unwrap());
    let mut tasks = Vec::new();
    for ns in namespaces {
        let unique = key_put(&kit, KeyKind::Idempotency, "k", Some(LONG));
        let item = kit.task_in(lane(ns, "default", "demo"));
        let body = Bytes::from(format!("body of {}", ns.0));
        let root = Some(TaskKey::new(ns, TaskId::Client("root".into())));
        let item =
            Insert { key: TaskKey::new(ns, id.clone()), exists: crate::OnExists::Return, keys: vec![unique], body, root, ..item };
        assert_eq!(kit.head(&item.key).await, None);
        tasks.push(kit.put(item).await);
    }
    let mut states = [State::Succeeded, State::Running, State::Queued].into_iter();
    for (n, task) in tasks.iter().enumerate() {
        let ns = task.key.ns;
        let expected = Bytes::from(format!("body of {}", ns.0));
        assert_eq!(kit.whole(&task.key).await.unwrap().body, Some(expected));
        assert_eq!(kit.scan_keys(&Index::Lane { lane: task.head.lane, after: None }, 5).await, std::slice::from_ref(&task.key));
        let root = TaskKey::new(ns, TaskId::Client("root".into()));
        assert_eq!(kit.scan_keys(&Index::Members { root }, 5).await, std::slice::from_ref(&task.key));
        let listed = kit.list(&ListQuery { ns, ..ListQuery::default() }, 5).await;
        assert_eq!(listed, [(task.key.clone(), task.head.clone())]);
        let state = states.next().unwrap();
        let task = match n {
            0 => {
                let mut commit = task.commit(Some(ended(&task.head, state, kit.now(), LONG)));
                commit.result = Some(Some(Bytes::from_static(b"result")));
                kit.committed(task, commit).await
            }
            1 => kit.claimed(&token, task).await,
            _ => task.clone(),
        };
        assert_eq!(kit.count(ns, "default", state).await, 1);
        let stored = kit.whole(&task.key).await.unwrap();
        assert_eq!((stored.head, stored.result.is_some()), (task.head, n == 0));
    }
    assert_eq!(audit(&*kit.store, kit.p, &known).await.unwrap().len(), 3);
    assert_eq!(kit.list(&ListQuery { ns: Ns(2), ..ListQuery::default() }, 5).await, []);
}

/// What happens in one partition is not seen in another.
pub async fn partitions_are_apart(fixture: &dyn Fixture) {
    let mut kit = Kit::new(fixture).await;
    let partitions = kit.store.caps().partitions;
    let mut starts = Vec::new();
    for p in (0..partitions).map(Partition) {
        starts.push(kit.store.tail(p).await.unwrap());
    }
    let mut keys = Vec::new();
    for p in (0..partitions).map(Partition) {
        kit.p = p;
        let slot = u128::from(Slot::in_partition(p, partitions, 3).number());
        let key = TaskKey::new(Ns::DEFAULT, TaskId::Generated((0x8 << 76) | (0b10 << 62) | (u128::from(p.0) << 12) | slot));
        let mut item = Insert { key, ..kit.task() };
        item.head.expires = kit.now().after(LONG);
        keys.push(kit.put(item).await.key);
    }
    for (p, key) in keys.iter().enumerate() {
        kit.p = Partition(p as u16);
        let known = Known::new([lane(Ns::DEFAULT, "default", "demo")], starts[p]);
        let heads = audit(&*kit.store, kit.p, &known).await.unwrap();
        assert_eq!(heads.into_keys().collect::<Vec<_>>(), std::slice::from_ref(key));
        for other in keys.iter().filter(|other| *other != key) {
            assert_eq!(kit.head(other).await, None);
        }
    }
}

/// After the end of the process and a new start everything is as it was, and nothing is used twice.
pub async fn survives_a_restart(fixture: &dyn Fixture) {
    let kit = Kit::new(fixture).await;
    let lanes = [lane(Ns::DEFAULT, "default", "demo")];
    let first_token = kit.token().await;
    let unique = key_put(&kit, KeyKind::Idempotency, "k", Some(LONG));
    let mut items: Vec<_> = (0..20).map(|n| if n % 2 == 0 { kit.task() } else { kit.client_task(n) }).collect();
    items[0].keys = vec![unique.clone()];
    for (item, state) in items.iter_mut().zip(State::ALL.iter().cycle()) {
        item.head.state = *state;
    }
    items[19].head.state = State::Queued;
    let tasks = kit.put_all(items).await;
    let mut commit = tasks[1].change(|head| head.state = State::Succeeded);
    commit.result = Some(Some(Bytes::from_static(b"result")));
    commit.attempt = Some(Bytes::from_static(b"attempt"));
    kit.committed(&tasks[1], commit).await;
    kit.claimed(&first_token, &tasks[19]).await;
    let ordered = tasks[2].change(|head| head.priority = 9);
    kit.store.commit(kit.p, SESSION, vec![ordered], Mode::Each, Sync::Ordered).await.unwrap();
    let doc = |guard, bytes: Option<&'static str>| DocPut {
        kind: DocKind::Queue,
        ns: Ns(0),
        name: "a".into(),
        guard,
        bytes: bytes.map(Bytes::from),
    };
    kit.store.put_docs(vec![doc(DocGuard::Any, Some("one")), doc(DocGuard::Any, None)]).await.unwrap();
    let kept = DocPut { name: "kept".into(), ..doc(DocGuard::Any, Some("two")) };
    kit.store.put_docs(vec![kept]).await.unwrap();
    let last = kit.put(kit.task()).await;
    let mut before = Vec::new();
    for task in &tasks {
        before.push(kit.whole(&task.key).await);
    }
    let counts = kit.store.counts(kit.p).await.unwrap();
    let place = kit.store.tail(kit.p).await.unwrap();

    let Kit { store, .. } = kit;
    let kit = Kit::over(fixture, fixture.reopen(store).await);
    for (task, before) in tasks.iter().zip(before) {
        assert_eq!(kit.whole(&task.key).await, before);
    }
    assert_eq!(kit.store.counts(kit.p).await.unwrap(), counts);
    let entry = kit.store.lookup(kit.p, Ns::DEFAULT, KeyKind::Idempotency, b"k").await.unwrap().unwrap();
    assert_eq!((entry.task, entry.value, entry.until), (tasks[0].key.clone(), unique.value, unique.until));
    let kept = kit.store.doc(DocKind::Queue, Ns(0), "kept").await.unwrap().unwrap();
    assert_eq!(kept.bytes.unwrap(), "two");
    let again = kit.store.put_docs(vec![doc(DocGuard::Absent, Some("three"))]).await.unwrap();
    assert!(matches!(again[..], [crate::DocOutcome::Ok { version, created: true }] if version > 2), "{again:?}");
    match kit.store.feed(kit.p, place, std::time::Duration::ZERO).await.unwrap() {
        FeedBatch::Entries { entries, .. } => assert!(entries.iter().all(|entry| entry.rows.is_empty()), "{entries:?}"),
        FeedBatch::Behind { .. } => {}
    }
    let tail = kit.store.tail(kit.p).await.unwrap();
    let answers = kit.insert(vec![kit.client_task(1), kit.client_task(90)]).await;
    let [Inserted::Exists(_), Inserted::Ok { seq }] = answers[..] else { panic!("{answers:?}") };
    assert!(seq > last.head.seq);
    assert_eq!(kit.entries(tail, 1).await[0].rows[0].key, kit.client_task(90).key);
    let defined = all_lanes(&*kit.store, kit.p).await.unwrap();
    assert!(defined.contains(&(lanes[0].id(), (*lanes[0]).clone())), "{defined:?}");
}

/// A store that works says so.
pub async fn answers_a_ping(fixture: &dyn Fixture) {
    Kit::new(fixture).await.store.ping().await.unwrap();
}
