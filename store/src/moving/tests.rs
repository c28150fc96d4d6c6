#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Moves between all kinds of stores, whole and cut short.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use lovage_core::{
    Body, Flags, Head, IdRun, LaneDef, Millis, Ns, OnConflict, Partition, Route, SessionId, Slot, Spec, State, TaskId, TaskKey,
    Unique, UniqueScope,
};
use lovage_testkit::redis::RedisOptions as ServerOptions;
use lovage_testkit::{Fsync, Redis};

use super::*;
use crate::conformance::kit::first_head;
use crate::memory::tests::Memory;
use crate::wrap::{Fault, Faulty, Verb};
use crate::{
    Claim, Claimed, Commit, Cursor, DocGuard, DocKind, DocPut, EmbeddedOptions, EmbeddedStore, Index, Insert, Inserted, KeyEntry,
    KeyKind, KeyPut, ListQuery, MemoryClock, MemoryOptions, MemoryStore, Mode, OnExists, OwnRequest, Parts, RedisOptions,
    RedisStore, Residence, Stored, Sync, Want, directory,
};

/// Everything in a store that a user can tell apart; orders of acceptance are the store's own.
#[derive(Debug, Default, PartialEq)]
struct Contents {
    records: BTreeMap<TaskKey, (Stored, Belongings)>,
    keys: BTreeMap<(KeyKind, Ns, Bytes), KeyEntry>,
    counts: BTreeMap<(Ns, String), [u64; 9]>,
    documents: BTreeMap<(DocKind, Ns, String), Bytes>,
}

async fn contents(store: &dyn Store, inside: &dyn Inside) -> Contents {
    let mut all = Contents::default();
    let now = store.clock().now();
    for p in (0..store.caps().partitions).map(Partition) {
        let counts = store.counts(p).await.unwrap();
        let namespaces: BTreeSet<Ns> = counts.iter().map(|counts| counts.ns).collect();
        for counts in counts {
            let sum = all.counts.entry((counts.ns, counts.queue)).or_default();
            sum.iter_mut().zip(counts.states).for_each(|(sum, count)| *sum += count);
        }
        for ns in namespaces {
            let mut from = Cursor::default();
            loop {
                let page = store.list(p, &ListQuery { ns, ..ListQuery::default() }, from, 100).await.unwrap();
                for (key, _) in page.items {
                    let parts = Parts { body: true, result: true, attempts: true };
                    let mut stored = store.get(p, &key, parts).await.unwrap().unwrap();
                    stored.head.seq = 0;
                    let mut belongings = inside.belongings(p, std::slice::from_ref(&key)).await.unwrap().remove(0).unwrap();
                    belongings.keys.retain(|(_, _, entry)| !entry.is_over(now));
                    belongings.keys.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
                    all.records.insert(key, (stored, belongings));
                }
                match page.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        let mut from = Cursor::default();
        loop {
            let page = inside.loose_keys(p, from, 3).await.unwrap();
            let live = page.items.into_iter().filter(|(_, _, entry)| !entry.is_over(now));
            all.keys.extend(live.map(|(kind, key, entry)| ((kind, entry.task.ns, key), entry)));
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
    }
    for kind in DocKind::ALL {
        let documents = store.docs(kind, None, None, 1_000).await.unwrap().items;
        all.documents.extend(documents.into_iter().map(|it| ((kind, it.ns, it.name), it.bytes.unwrap())));
    }
    all
}

fn memory(partitions: u16, now: Millis) -> MemoryStore {
    MemoryStore::new(MemoryOptions { partitions, ..MemoryOptions::new(MemoryClock::manual(now)) })
}

async fn run(from: &dyn Store, inside: &dyn Inside, to: &dyn Store) -> Result<Report> {
    Move { from, inside, to, nonce: 1, told: &|_| {} }.run().await
}

/// Moves everything and checks that it is there as it was, and that nothing is left.
async fn all_moved<A: Store + Inside, B: Store + Inside>(from: &A, to: &B) {
    let before = contents(from, from).await;
    let report = run(from, from, to).await.unwrap();
    assert_eq!(report.found.iter().sum::<u64>(), before.records.len() as u64);
    assert_eq!((report.moved, report.there), (report.found, [0; 9]), "{report:?}");
    assert_eq!(contents(to, to).await, before);
    let left = contents(from, from).await;
    assert_eq!((left.records, left.keys, left.counts), Default::default());
    assert_eq!(left.documents, before.documents);
}

#[tokio::test]
async fn any_past_arrives_as_it_was() {
    for seed in 0..300 {
        let from = crate::model::past(Arc::new(Memory::new()), seed, 40).await;
        let to = memory([1, 2, 5, 16][seed as usize % 4], from.clock().now());
        all_moved(&from, &to).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_store_to_store_and_back() {
    let server = Redis::start_with(ServerOptions::default().fsync(Fsync::Never));
    for seed in 0..12 {
        let past = crate::model::past(Arc::new(Memory::new()), 1_000 + seed, 60).await;
        let folder = tempfile::tempdir().unwrap();
        // All clocks say the same: what is over here is over there. Redis has its own, behind which nothing of the past ends.
        let now = past.clock().now();
        let clock = Arc::new(move || now);
        let options = EmbeddedOptions { clock, min_free: 0, ..EmbeddedOptions::new(folder.path()) };
        let embedded = EmbeddedStore::open(options).unwrap();
        all_moved(&past, &*embedded).await;
        let back = memory(3, now);
        all_moved(&*embedded, &back).await;

        // Redis drops keys at their end by its own clock: those of the past are gone there.
        let open = async |prefix: String, partitions| {
            RedisStore::open(RedisOptions { prefix, partitions, ..RedisOptions::new(server.url()) }).await.unwrap()
        };
        let redis = open(format!("a[{seed}*"), 4).await;
        let real = memory(1, redis.clock().now());
        run(&back, &back, &real).await.unwrap();
        let before = contents(&real, &real).await;
        run(&real, &real, &*redis).await.unwrap();
        assert_same_tasks(&before, &contents(&*redis, &*redis).await);
        let other = open(format!("b{seed}"), 16).await;
        all_moved(&*redis, &*other).await;
    }
}

/// Keys may have ended by the clock of Redis.
fn assert_same_tasks(before: &Contents, after: &Contents) {
    let tasks = |contents: &Contents| -> BTreeMap<TaskKey, (Stored, LaneDef, Option<TaskKey>, Option<Barrier>)> {
        let task = |(stored, belongings): &(Stored, Belongings)| {
            (stored.clone(), belongings.lane.clone(), belongings.root.clone(), belongings.barrier.clone())
        };
        contents.records.iter().map(|(key, record)| (key.clone(), task(record))).collect()
    };
    assert_eq!(tasks(after), tasks(before));
    assert_eq!((&after.counts, &after.documents), (&before.counts, &before.documents));
}

const T0: Millis = Millis(1_767_225_600_000);

fn lane() -> Arc<LaneDef> {
    Arc::new(LaneDef::of(Ns(3), "mail", Route::Task("mail.send".into())))
}

fn task(n: u32, state: State) -> Insert {
    let head = Head { state, ..first_head(lane().id(), T0) };
    Insert {
        key: TaskKey::new(Ns(3), IdRun::new(T0, Slot::new(5), 9).nth(n)),
        head,
        body: Bytes::from(format!("body {n}")),
        lane: lane(),
        exists: OnExists::Generated,
        not_after: None,
        keys: Vec::new(),
        root: None,
    }
}

/// Starts and forgets everything that may start, as a server without retention does; answers who ran.
async fn work(store: &MemoryStore) -> Vec<TaskKey> {
    let mut ran = Vec::new();
    let request = OwnRequest { session: SessionId(1), want: Want::Own, lease: Duration::from_secs(9), drop: Vec::new() };
    let token = store.own(Partition(0), request).await.unwrap().token.unwrap();
    let lane = Index::Lane { lane: lane().id(), after: None };
    for (key, was) in store.scan(Partition(0), &lane, Cursor::default(), 1_000).await.unwrap().items {
        let version = was.version + 1;
        let head = Head { version, state: State::Running, session: SessionId(1), ..was.clone() };
        let claim = Claim { key: key.clone(), was, head: head.clone(), queue: "mail".into() };
        let claimed = store.claim(Partition(0), &token, SessionId(1), vec![claim]).await.unwrap();
        assert!(matches!(claimed[..], [Claimed::Ok(_)]));
        let delete = journal::change(key.clone(), head, None, "mail".into());
        assert_eq!(
            store.commit(Partition(0), SessionId(1), vec![delete], Mode::Each, Sync::Durable).await.unwrap(),
            [crate::Committed::Ok]
        );
        ran.push(key);
    }
    ran
}

/// A store of ten tasks, two of which have been tried before.
async fn ten() -> MemoryStore {
    let store = memory(1, T0);
    let mut items: Vec<_> = (0..10).map(|n| task(n, State::Queued)).collect();
    items[4].keys.push(KeyPut {
        kind: KeyKind::Unique,
        key: "only".into(),
        value: Bytes::from_static(&[0]),
        until: None,
        steal: None,
    });
    let answers = store.insert(Partition(0), items.clone(), Mode::Each).await.unwrap();
    for (item, answer) in items.iter().zip(answers).take(2) {
        let Inserted::Ok { seq } = answer else { panic!("{answer:?}") };
        let was = Head { seq, ..item.head.clone() };
        let head = Head { version: 2, attempt: 1, flags: Flags::HAS_ATTEMPTS, ..was.clone() };
        let commit = Commit {
            attempt: Some("tried".into()),
            result: Some(Some("error".into())),
            ..journal::change(item.key.clone(), was, Some(head), "mail".into())
        };
        assert_eq!(
            store.commit(Partition(0), SessionId(0), vec![commit], Mode::Each, Sync::Durable).await.unwrap(),
            [crate::Committed::Ok]
        );
    }
    store
}

#[tokio::test]
async fn whatever_fails_nothing_is_lost_and_nothing_runs_twice() {
    let writes = [Verb::Insert, Verb::Commit, Verb::PutDocs, Verb::Get, Verb::Heads];
    let mut cut = 0;
    for fault in [Fault::Before, Fault::After, Fault::Lost] {
        for (verb, at_source) in writes.into_iter().flat_map(|verb| [(verb, true), (verb, false)]) {
            for call in 0.. {
                let (from, to) = (Arc::new(ten().await), Arc::new(memory(1, T0)));
                let (source, target) = (Faulty::new(from.clone()), Faulty::new(to.clone()));
                let faulty = if at_source { &source } else { &target };
                faulty.script(verb, std::iter::repeat_n(None, call).chain([Some(fault)]));
                let first = run(&source, &*from, &target).await;
                let mut ran = work(&to).await;
                if first.is_ok() {
                    assert_eq!(ran.len(), 10);
                    break;
                }
                cut += 1;
                // The server of the destination goes on between the two runs and forgets what it has done.
                let report = run(&*from, &*from, &*to).await.unwrap();
                assert_eq!(report.refusals, [], "{fault:?} of {verb:?} {call}");
                ran.extend(work(&to).await);
                let once: BTreeSet<_> = ran.iter().cloned().collect();
                assert_eq!((ran.len(), once.len()), (10, 10), "{fault:?} of {verb:?} {call}, source: {at_source}");
                assert_eq!(contents(&*from, &*from).await, Contents::default());
                assert_eq!(contents(&*to, &*to).await, Contents::default());
            }
        }
    }
    assert!(cut > 15, "{cut} runs were cut short");
}

#[tokio::test]
async fn order_of_a_lane_is_kept() {
    let (from, to) = (memory(1, T0), memory(1, T0));
    let mut items: Vec<_> = (0..700).map(|n| task(n, State::Queued)).collect();
    for (n, item) in items.iter_mut().enumerate() {
        item.head.priority = (n % 3) as u8;
    }
    from.insert(Partition(0), items, Mode::Each).await.unwrap();
    let index = Index::Lane { lane: lane().id(), after: None };
    let order = async |store: &MemoryStore| -> Vec<TaskKey> {
        let page = store.scan(Partition(0), &index, Cursor::default(), 1_000).await.unwrap();
        page.items.into_iter().map(|(key, _)| key).collect()
    };
    let before = order(&from).await;
    run(&from, &from, &to).await.unwrap();
    assert_eq!(order(&to).await, before);
}

#[tokio::test]
async fn a_conflict_stays_in_the_source_and_is_told() {
    let (from, to) = (ten().await, memory(1, T0));
    let other = Insert { head: first_head(lane().id(), Millis(T0.0 + 5)), ..task(2, State::Queued) };
    let holder = Insert {
        keys: vec![KeyPut { kind: KeyKind::Unique, key: "only".into(), value: Bytes::new(), until: None, steal: None }],
        ..task(77, State::Queued)
    };
    to.insert(Partition(0), vec![other, holder], Mode::Each).await.unwrap();
    let put = |bytes: &'static str| DocPut {
        kind: DocKind::Worker,
        ns: Ns(3),
        name: "w".into(),
        guard: DocGuard::Any,
        bytes: Some(bytes.into()),
    };
    from.put_docs(vec![put("old")]).await.unwrap();
    to.put_docs(vec![put("new")]).await.unwrap();
    let report = run(&from, &from, &to).await.unwrap();
    let refused: BTreeSet<_> = report.refusals.iter().map(|refused| refused.key.clone()).collect();
    assert_eq!(refused, [task(2, State::Queued).key, task(4, State::Queued).key].into());
    assert_eq!((report.moved[State::Queued as usize], report.refused[State::Queued as usize]), (8, 2));
    assert_eq!((report.documents, report.kept), (Tally { moved: 0, there: 1 }, vec!["Worker w".to_owned()]));
    assert_eq!(contents(&from, &from).await.records.keys().cloned().collect::<BTreeSet<_>>(), refused);
    assert_eq!(contents(&to, &to).await.documents.into_values().collect::<Vec<_>>(), ["new"]);
}

#[tokio::test]
async fn a_chosen_id_lives_where_its_key_does() {
    let (from, to) = (memory(1, T0), memory(16, T0));
    // An id and a key whose homes differ in the destination.
    let unique =
        Unique { key: "customer-1".into(), scope: UniqueScope::default(), ttl: None, on_conflict: OnConflict::default() };
    let spec = Spec { task: Some("mail.send".into()), unique: Some(unique), ..Spec::default() };
    let slot = spec.bound(Ns(3)).unwrap();
    let homes = (0..).map(|n| TaskKey::new(Ns(3), TaskId::parse(&format!("order-{n}")).unwrap()));
    let key = homes.into_iter().find(|key| key.slot().partition(16) != slot.partition(16)).unwrap();
    let item = Insert {
        key: key.clone(),
        body: Body::encode(&spec.encode(), "application/json", b"{}"),
        keys: KeyPut::unique(&spec, T0).into_iter().collect(),
        ..task(0, State::Queued)
    };
    from.insert(Partition(0), vec![item], Mode::Each).await.unwrap();
    let report = run(&from, &from, &to).await.unwrap();
    assert_eq!((report.done(), report.refusals), (1, Vec::new()));
    let entry = directory::find(&to, &key).await.unwrap().unwrap();
    assert_eq!(Residence::read(&entry).unwrap().slot, slot);
    let there = slot.partition(16);
    let body = to.bodies(there, std::slice::from_ref(&key)).await.unwrap().remove(0).unwrap();
    let moved = Spec::decode(&Body::decode(&body).unwrap().spec).unwrap();
    assert_eq!(moved.slot(&key), slot);
    assert!(to.lookup(there, Ns(3), KeyKind::Unique, b"customer-1").await.unwrap().is_some());

    // And back, where all live together.
    let back = memory(1, T0);
    run(&to, &to, &back).await.unwrap();
    let body = back.bodies(Partition(0), &[key]).await.unwrap().remove(0).unwrap();
    assert_eq!(Spec::decode(&Body::decode(&body).unwrap().spec).unwrap(), spec);
}

#[tokio::test]
async fn attempts_of_the_dead_are_lost_and_accepted_ones_live_on() {
    let store = memory(1, T0);
    let mut items: Vec<_> = (0..3).map(|n| task(n, State::Running)).collect();
    for (item, session) in items.iter_mut().zip([7, 7, 8]) {
        item.head.session = SessionId(session);
        item.head.attempt = 1;
    }
    items[1].head.deadline = T0.after(Duration::from_secs(60));
    let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
    store.insert(Partition(0), items, Mode::Each).await.unwrap();
    assert_eq!(settle_lost(&store, Partition(0), || 0).await.unwrap(), 2);
    let heads = store.heads(Partition(0), &keys).await.unwrap();
    let states: Vec<_> = heads.into_iter().map(|head| head.unwrap().state).collect();
    assert!(states[0] != State::Running && states[1] == State::Running && states[2] != State::Running, "{states:?}");
    assert_eq!(settle_lost(&store, Partition(0), || 0).await.unwrap(), 0);
}

/// Children may live in partitions that are moved before that of their parent: each time that anybody can look, who waits for others
/// is there before those that go on, and behind those that have ended.
#[tokio::test]
async fn a_parent_goes_before_its_children_of_all_partitions() {
    let from = memory(4, T0);
    let key = |p: u16, n: u64| TaskKey::new(Ns(3), IdRun::new(T0, Slot::in_partition(Partition(p), 4, n as u16), n << 20).nth(0));
    let (top, mid) = (key(3, 1), key(2, 2));
    let children: Vec<_> = (0..4).flat_map(|p| [(key(p, 10), State::Queued), (key(p, 20), State::Succeeded)]).collect();
    for (parent, below) in [(&top, vec![mid.clone()]), (&mid, children.iter().map(|(key, _)| key.clone()).collect())] {
        let p = parent.slot().partition(4);
        let flags = if *parent == mid { Flags::HAS_PARENT } else { Flags::default() };
        let waits = Insert { key: parent.clone(), ..task(0, State::Blocked) };
        let waits = Insert { head: Head { flags, ..waits.head.clone() }, ..waits };
        from.insert(p, vec![waits.clone()], Mode::Each).await.unwrap();
        let was = from.heads(p, std::slice::from_ref(parent)).await.unwrap().remove(0).unwrap();
        let entry = lovage_core::AttemptEntry {
            outcome: "spawned".into(),
            children: below.iter().map(|key| key.id.clone()).collect(),
            ..Default::default()
        };
        let head = Head { version: was.version + 1, ..was.clone() };
        let commit = Commit {
            attempt: Some(entry.encode().into()),
            effects: vec![crate::Effect::Barrier { members: below.len() as u32 }],
            ..journal::change(parent.clone(), was, Some(head), "mail".into())
        };
        from.commit(p, SessionId(0), vec![commit], Mode::Each, Sync::Durable).await.unwrap();
    }
    for (key, state) in &children {
        let child = Insert { key: key.clone(), ..task(0, *state) };
        from.insert(key.slot().partition(4), vec![child], Mode::Each).await.unwrap();
    }
    let to = memory(3, T0);
    let is_there = |key: &TaskKey| {
        let heads = to.heads(key.slot().partition(3), std::slice::from_ref(key)).now_or_never().unwrap().unwrap();
        heads[0].is_some()
    };
    let looks = std::sync::atomic::AtomicU32::new(0);
    let told = |_: &Report| {
        looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert!(is_there(&top) || !is_there(&mid));
        for (key, state) in &children {
            let ended = *state == State::Succeeded;
            assert!(if ended { is_there(key) || !is_there(&mid) } else { is_there(&mid) || !is_there(key) }, "{key:?}");
        }
    };
    let report = Move { from: &from, inside: &from, to: &to, nonce: 1, told: &told }.run().await.unwrap();
    assert_eq!((report.moved, report.moved.iter().sum::<u64>()), (report.found, 10));
    assert!(looks.into_inner() > 5);
}

/// Whoever moves a store to itself keeps it as it is, though all of it "is there already".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_not_moved_to_itself() {
    let past = crate::model::past(Arc::new(Memory::new()), 7, 60).await;
    let before = contents(&past, &past).await;
    assert!(!before.records.is_empty());
    assert!(matches!(run(&past, &past, &past).await, Err(Error::Invalid(_))));
    assert_eq!(contents(&past, &past).await, before);

    // By two names.
    let server = Redis::start_with(ServerOptions::default().fsync(Fsync::Never));
    let open = async |url: String| RedisStore::open(RedisOptions::new(url)).await.unwrap();
    let one = open(server.url()).await;
    let other = open(server.url().replace("127.0.0.1", "localhost")).await;
    let real = memory(1, one.clock().now());
    run(&past, &past, &real).await.unwrap();
    run(&real, &real, &*one).await.unwrap();
    let before = contents(&*one, &*one).await;
    assert!(!before.records.is_empty());
    assert!(matches!(run(&*one, &*one, &*other).await, Err(Error::Invalid(_))));
    assert_eq!(contents(&*one, &*one).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_for_a_store_makes_none() {
    let server = Redis::start_with(ServerOptions::default().fsync(Fsync::Never));
    let options = RedisOptions { prefix: "not".into(), ..RedisOptions::new(server.url()) };
    assert!(!RedisStore::exists(&options).await.unwrap());
    assert!(!RedisStore::exists(&options).await.unwrap(), "the look has made one");
    RedisStore::open(options.clone()).await.unwrap();
    assert!(RedisStore::exists(&options).await.unwrap());
}
