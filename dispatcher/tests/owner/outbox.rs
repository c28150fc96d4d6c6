//! Messages between partitions: delivered in order until answered, whoever dies or stays away; what is repeated does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lovage_core::{
    Body, Head, IdRun, LaneDef, Millis, NewTask, Ns, Partition, Reason, SessionId, Slot, Spec, State, TaskId, TaskKey,
};
use lovage_store::directory::{self, Residence};
use lovage_store::wrap::{Fault, Faulty, Verb};
use lovage_store::{Commit, Committed, Effect, FeedPos, Insert, Inserted, KeyKind, KeyPut, Message, Mode, OnExists, Store, Sync};
use tokio::time::{Instant, sleep};

use crate::world::{Reply, World, call, memory, memory_with};

const PARTITIONS: u16 = 4;

/// Partitions that send to each other, and workers that answer `seen`.
struct Post {
    world: World,
    faults: Arc<Faulty>,
    made: AtomicU64,
}

impl Post {
    fn new() -> Self {
        Self::over(memory(PARTITIONS))
    }

    fn over(store: Arc<dyn Store>) -> Self {
        let world = World::over(store, |_| Reply::Status(200, "1"));
        let faults = Arc::new(Faulty::new(Arc::clone(&world.store)));
        Self { world, faults, made: AtomicU64::new(1) }
    }

    fn store(&self) -> &dyn Store {
        &*self.world.store
    }

    fn seen_store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.faults) as Arc<dyn Store>
    }

    /// A task that lives in `p`, not stored yet.
    fn task(&self, p: u16, spec: &Spec) -> Insert {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let now = self.store().clock().now();
        let slot = Slot::in_partition(Partition(p), PARTITIONS, n as u16);
        self.task_called(IdRun::new(now, slot, n << 30).nth(0), spec)
    }

    fn task_called(&self, id: TaskId, spec: &Spec) -> Insert {
        let (now, lane): (_, LaneDef) = (self.store().clock().now(), spec.lane(Ns::DEFAULT, 4));
        let head = NewTask::first_head(&lane, 4, None, None, now);
        let body = Body::encode(&spec.encode(), "", b"{\"args\":[],\"kwargs\":{}}");
        Insert::new(NewTask { key: TaskKey::new(Ns::DEFAULT, id), head, body, lane, root: None }, OnExists::Return)
    }

    async fn put(&self, p: u16, item: Insert) -> (TaskKey, Head) {
        let (key, head) = (item.key.clone(), item.head.clone());
        match &self.store().insert(Partition(p), vec![item], Mode::Each).await.unwrap()[..] {
            [Inserted::Ok { seq }] => (key, Head { seq: *seq, ..head }),
            other => panic!("{other:?}"),
        }
    }

    async fn commit(&self, p: u16, key: &TaskKey, was: Head, edit: impl FnOnce(&mut Head), effects: Vec<Effect>) -> Head {
        let mut head = Head { version: was.version + 1, ..was.clone() };
        edit(&mut head);
        let commit = Commit {
            key: key.clone(),
            was,
            head: Some(head.clone()),
            queue: "default".into(),
            lane: None,
            body: None,
            result: None,
            attempt: None,
            effects,
        };
        let done = self.store().commit(Partition(p), SessionId(0), vec![commit], Mode::Each, Sync::Durable).await.unwrap();
        assert_eq!(done, [Committed::Ok]);
        head
    }

    /// Sends these from `p` with a change of a task that nobody works on.
    async fn send(&self, p: u16, messages: impl IntoIterator<Item = (Slot, Message)>) {
        let (key, head) = self.put(p, self.task(p, &call("nobody"))).await;
        let effects = messages.into_iter().map(|(to, message)| Effect::Send { to, message }).collect();
        self.commit(p, &key, head, |_| {}, effects).await;
    }

    /// A task that waits for so many.
    async fn barrier(&self, p: u16, members: u32) -> (TaskKey, Head) {
        let (key, head) = self.put(p, self.task(p, &call("resumed"))).await;
        let wait = |head: &mut Head| (head.state, head.reason, head.attempt) = (State::Blocked, Reason::Children, 1);
        let head = self.commit(p, &key, head, wait, vec![Effect::Barrier { members }]).await;
        (key, head)
    }

    async fn waiting(&self, p: u16) -> u64 {
        self.store().outbox(Partition(p), FeedPos::default(), 1).await.unwrap().waiting
    }

    /// Waits (in paused time) until all outboxes are empty.
    async fn until_delivered(&self) {
        let limit = Instant::now() + Duration::from_secs(600);
        for p in 0..PARTITIONS {
            while self.waiting(p).await > 0 {
                assert!(Instant::now() < limit, "{:?}", self.store().outbox(Partition(p), FeedPos::default(), 3).await);
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    fn pushes(&self, key: &TaskKey) -> usize {
        self.world.pushes().get(&key.id.to_string()).map_or(0, Vec::len)
    }
}

fn arrive(barrier: &TaskKey, index: u32, attempt: u32) -> (Slot, Message) {
    (barrier.slot(), Message::Arrive { barrier: barrier.clone(), index, attempt, generation: 0 })
}

fn cancel(key: &TaskKey) -> (Slot, Message) {
    (key.slot(), Message::Cancel { key: key.clone(), generation: 0 })
}

fn insert(item: &Insert) -> (Slot, Message) {
    (item.key.slot(), Message::Insert(Box::new(item.clone())))
}

/// A directory entry for a task in this slot, created now.
async fn entry(post: &Post, name: &str, slot: Slot, mark: u64) -> (TaskKey, Millis) {
    let now = post.store().clock().now();
    let key = TaskKey::new(Ns::DEFAULT, TaskId::parse(name).unwrap());
    assert_eq!(directory::enter(post.store(), Residence::new(slot, now, mark).entry(&key), None).await.unwrap(), None);
    (key, now)
}

fn free(task: &TaskKey, slot: Slot, created: Millis) -> (Slot, Message) {
    (task.slot(), Message::Free { task: task.clone(), slot, created })
}

/// Each kind, many times over and in any order, from everywhere: what comes of it is the same.
#[tokio::test(start_paused = true)]
async fn repeated_in_any_order_they_do_the_same() {
    for seed in 0..40 {
        let post = Post::new();
        let mut rng = fastrand::Rng::with_seed(seed);
        post.world.worker("w", "work", 10).await;
        let new: Vec<Insert> = (0..3).map(|p| post.task(p, &call("work"))).collect();
        let (called_off, _) = post.put(1, post.task(1, &call("nobody"))).await;
        let (goes_on, _) = post.put(2, post.task(2, &call("nobody"))).await;
        let (barrier, blocked) = post.barrier(3, 3).await;
        let (unmoved, still) = post.barrier(0, 2).await;
        let slot = Slot::new(77);
        let (gone, created) = entry(&post, "order-1", slot, 1).await;
        // Its task was deleted before, and the id taken again.
        sleep(Duration::from_secs(60)).await;
        let (later, _) = entry(&post, "order-2", slot, 2).await;
        let mut messages: Vec<(Slot, Message)> = new.iter().map(insert).collect();
        messages.extend((0..3).map(|index| arrive(&barrier, index, 1)));
        // Of another wait, out of range, at nothing.
        messages.extend([arrive(&unmoved, 0, 1), arrive(&unmoved, 1, 0), arrive(&unmoved, 2, 1), arrive(&goes_on, 0, 1)]);
        messages.extend([cancel(&called_off), cancel(&new[0].key), free(&gone, slot, created), free(&later, slot, created)]);
        messages.push((goes_on.slot(), Message::Cancel { key: goes_on.clone(), generation: 1 }));
        messages.push(cancel(&TaskKey::new(Ns(5), called_off.id.clone())));
        let again: Vec<_> = messages.iter().flat_map(|message| vec![message.clone(); rng.usize(0..3)]).collect();
        messages.extend(again);
        rng.shuffle(&mut messages);
        let node = post.world.start_over(post.seen_store());
        post.faults.random(seed, 100, Duration::from_millis(50));
        while !messages.is_empty() {
            let rest = messages.split_off(messages.len().min(rng.usize(1..6)));
            post.send(rng.u16(0..PARTITIONS), std::mem::replace(&mut messages, rest)).await;
        }
        post.until_delivered().await;
        post.faults.heal();
        for task in &new[1..] {
            assert_eq!(post.world.until_final(&task.key).await.state, State::Succeeded, "seed {seed}");
            assert_eq!(post.pushes(&task.key), 1, "seed {seed}");
        }
        // A cancel that overtakes its task finds none.
        assert!(post.world.until_final(&new[0].key).await.state.is_final());
        assert_eq!(post.world.head(&called_off).await.state, State::Canceled);
        assert_eq!(post.world.head(&called_off).await.reason, Reason::Upstream);
        assert_eq!(post.world.head(&goes_on).await.state, State::Queued);
        post.world.until(&barrier, "woken", |head| head.state != State::Blocked && head.version > blocked.version).await;
        assert_eq!(post.world.head(&unmoved).await.state, still.state);
        assert_eq!(directory::find(post.store(), &gone).await.unwrap(), None);
        assert!(directory::find(post.store(), &later).await.unwrap().is_some());
        node.stop().await;
    }
}

/// A partition that cannot be reached keeps its messages, in order, and nobody else's.
#[tokio::test(start_paused = true)]
async fn a_partition_that_is_away_keeps_nobody_waiting_but_itself() {
    let post = Post::new();
    let node = post.world.start_over(post.seen_store());
    post.faults.set_partition_away(Partition(2), true);
    let tasks: Vec<Insert> = (0..600).map(|n| post.task(1 + n % 3, &call("nobody"))).collect();
    for some in tasks.chunks(40) {
        post.send(0, some.iter().map(insert)).await;
    }
    let start = Instant::now();
    let there = async |task: &Insert| {
        let p = post.world.partition(&task.key);
        post.store().heads(p, std::slice::from_ref(&task.key)).await.unwrap().remove(0)
    };
    while post.waiting(0).await > 200 {
        assert!(start.elapsed() < Duration::from_secs(2), "{} wait", post.waiting(0).await);
        sleep(Duration::from_millis(10)).await;
    }
    for task in &tasks {
        assert_eq!(there(task).await.is_none(), post.world.partition(&task.key) == Partition(2));
    }
    // Whatever is sent meanwhile is delivered although it stands behind them.
    sleep(Duration::from_secs(60)).await;
    let late = post.task(3, &call("nobody"));
    let sent = Instant::now();
    post.send(0, [insert(&late)]).await;
    while there(&late).await.is_none() {
        assert!(sent.elapsed() < Duration::from_secs(1));
        sleep(Duration::from_millis(10)).await;
    }
    let oldest = post.store().outbox(Partition(0), FeedPos::default(), 1).await.unwrap();
    assert_eq!(oldest.waiting, 200);
    assert!(post.store().clock().now().since(oldest.messages[0].at) >= Duration::from_secs(60));

    post.faults.set_partition_away(Partition(2), false);
    let healed = Instant::now();
    post.until_delivered().await;
    assert!(healed.elapsed() < Duration::from_secs(5), "{:?}", healed.elapsed());
    let mut order = Vec::new();
    for task in tasks.iter().filter(|task| post.world.partition(&task.key) == Partition(2)) {
        order.push(there(task).await.unwrap().seq);
    }
    assert!(order.len() == 200 && order.is_sorted(), "{order:?}");
    node.stop().await;
}

/// Whoever dies between the delivery and its acknowledgement repeats it; the next owner finds what is left.
#[tokio::test(start_paused = true)]
async fn a_crash_before_the_acknowledgement_only_repeats() {
    let post = Post::new();
    post.world.worker("w", "work", 10).await;
    let tasks: Vec<Insert> = (0..30).map(|n| post.task(n % PARTITIONS, &call("work"))).collect();
    let (barrier, blocked) = post.barrier(1, 2).await;
    // Nobody is there yet.
    post.send(0, tasks.iter().map(insert).chain([arrive(&barrier, 0, 1)])).await;
    post.faults.script(Verb::Delivered, vec![Some(Fault::Lost); 1_000]);
    let first = post.world.start_over(post.seen_store());
    for task in &tasks {
        while post.pushes(&task.key) == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(post.waiting(0).await, 31);
    first.kill();
    post.faults.heal();
    let second = post.world.start_over(post.seen_store());
    post.until_delivered().await;
    let still = post.world.head(&barrier).await;
    assert_eq!((still.state, still.deadline), (State::Blocked, blocked.deadline), "the same member does not count twice");
    post.send(2, [arrive(&barrier, 1, 1)]).await;
    post.until_delivered().await;
    post.world.until(&barrier, "woken", |head| head.state != State::Blocked).await;
    for task in &tasks {
        assert_eq!((post.world.until_final(&task.key).await.state, post.pushes(&task.key)), (State::Succeeded, 1));
    }
    second.stop().await;
}

/// What can never be delivered does not keep what stands behind it, nor what goes with it in one call.
#[tokio::test(start_paused = true)]
async fn the_undeliverable_is_dropped() {
    let post = Post::new();
    let put = KeyPut { kind: KeyKind::Idempotency, key: "k".into(), value: "".into(), until: None, steal: None };
    let (holder, _) = post.put(1, Insert { keys: vec![put.clone()], ..post.task(1, &call("nobody")) }).await;
    let (called_off, _) = post.put(1, post.task(1, &call("nobody"))).await;
    let (broken, _) = post.put(1, post.task(1, &call("nobody"))).await;
    let damaged = post.task(1, &call("nobody"));
    let refused = Insert { keys: vec![put], ..post.task(1, &call("nobody")) };
    let late = Insert { not_after: Some(Millis(1)), ..post.task(1, &call("nobody")) };
    let good: Vec<Insert> = (0..5).map(|_| post.task(1, &call("nobody"))).collect();
    post.faults.damage(&damaged.key);
    post.faults.damage(&broken);
    let inserts = [&good[0], &damaged, &good[1], &refused, &late, &good[2], &good[3]];
    let cancels = [cancel(&broken), cancel(&called_off)];
    post.send(0, inserts.into_iter().map(insert).chain(cancels).chain([insert(&good[4])])).await;
    let node = post.world.start_over(post.seen_store());
    post.until_delivered().await;
    for task in &good {
        assert_eq!(post.world.head(&task.key).await.state, State::Queued);
    }
    let gone = [damaged.key, refused.key, late.key];
    assert_eq!(post.store().heads(Partition(1), &gone).await.unwrap(), [None, None, None]);
    assert_eq!(post.world.head(&called_off).await.state, State::Canceled);
    assert_eq!(post.world.head(&broken).await.state, State::Queued);
    assert_eq!(post.world.head(&holder).await.state, State::Queued);
    node.stop().await;
}

/// An owner that fell behind the feed looks for what it may have missed.
#[tokio::test(start_paused = true)]
async fn an_owner_that_fell_behind_looks_again() {
    let post = Post::over(memory_with(PARTITIONS, Some(1)));
    let node = post.world.start_over(post.seen_store());
    sleep(Duration::from_secs(1)).await;
    // The answer with the news is lost, and housekeeping forgets them.
    post.faults.script(Verb::Feed, vec![Some(Fault::Before); 30]);
    sleep(Duration::from_secs(12)).await;
    let task = post.task(3, &call("nobody"));
    post.send(0, [insert(&task)]).await;
    for _ in 0..5 {
        post.put(0, post.task(0, &call("nobody"))).await;
    }
    post.until_delivered().await;
    assert_eq!(post.world.head(&task.key).await.state, State::Queued);
    node.stop().await;
}

/// A task that lived away from the home of its id takes its directory entry with it, whatever is away meanwhile.
#[tokio::test(start_paused = true)]
async fn the_entry_of_a_deleted_task_is_struck_out() {
    let post = Post::new();
    post.world.worker("w", "work", 10).await;
    let key = (0..).map(|n| TaskKey::new(Ns::DEFAULT, TaskId::Client(format!("order-{n}").into())));
    let home = |key: &TaskKey| key.slot().partition(PARTITIONS);
    let key = key.into_iter().find(|key| home(key) == Partition(2)).unwrap();
    let slot = Slot::in_partition(Partition(1), PARTITIONS, 5);
    let retention = Some(lovage_core::units::Dur::from_secs(30));
    let unique = lovage_core::Unique {
        key: "u".into(),
        scope: lovage_core::UniqueScope::Active,
        ttl: None,
        on_conflict: lovage_core::OnConflict::Return,
    };
    let spec = Spec { away: Some(slot.number()), retention, result_ttl: retention, unique: Some(unique), ..call("work") };
    let entered = Residence::new(slot, post.store().clock().now(), 9).entry(&key);
    assert_eq!(directory::enter(post.store(), entered, None).await.unwrap(), None);
    let item = Insert {
        keys: KeyPut::unique(&spec, post.store().clock().now()).into_iter().collect(),
        ..post.task_called(key.id.clone(), &spec)
    };
    post.put(1, item).await;
    let node = post.world.start_over(post.seen_store());
    let there = async || post.store().heads(Partition(1), std::slice::from_ref(&key)).await.unwrap().remove(0);
    while there().await.unwrap().state != State::Succeeded {
        sleep(Duration::from_millis(100)).await;
    }
    post.faults.set_partition_away(Partition(2), true);
    while there().await.is_some() {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(20)).await;
    assert!(directory::find(post.store(), &key).await.unwrap().is_some());
    // The one who swept it is gone when its home is back.
    node.kill();
    post.faults.set_partition_away(Partition(2), false);
    let node = post.world.start_over(post.seen_store());
    let healed = Instant::now();
    while directory::find(post.store(), &key).await.unwrap().is_some() {
        assert!(healed.elapsed() < Duration::from_secs(60));
        sleep(Duration::from_millis(100)).await;
    }
    post.until_delivered().await;
    node.stop().await;
}
