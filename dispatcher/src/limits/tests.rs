//! Several processes over one store in paused time, with owners that do nothing but start tasks.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use lovage_core::TaskLimit;
use lovage_core::units::Rate;
use lovage_store::{DocGuard, DocKind, DocPut, MemoryClock, MemoryOptions, MemoryStore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::egress::AddressPolicy;

const EPOCH: Millis = Millis(1_800_000_000_000);

/// When tasks of each key started, and how many run.
#[derive(Default)]
struct Log {
    starts: BTreeMap<String, Vec<Instant>>,
    running: BTreeMap<String, u32>,
    most: BTreeMap<String, u32>,
}

struct World {
    store: Arc<MemoryStore>,
    log: Arc<Mutex<Log>>,
}

struct Node {
    limits: Arc<Limits>,
    registry: Arc<Registry>,
    stop: CancellationToken,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// Tasks that wait in one lane.
struct Backlog {
    lane: LaneDef,
    tasks: u32,
    takes: Duration,
}

fn limit(key: &str, rate: Option<&str>, burst: Option<u32>, concurrency: Option<u32>) -> TaskLimit {
    let rate = rate.map(|rate| rate.parse::<Rate>().unwrap());
    TaskLimit { key: key.into(), rate, burst, concurrency, cost: 1 }
}

fn lane(limits: &[TaskLimit]) -> LaneDef {
    LaneDef { limits: limits.to_vec(), ..LaneDef::of(Ns(0), "q", Route::Origin("http://127.0.0.1:9".into())) }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    fn new() -> Self {
        let start = Instant::now();
        let clock = MemoryClock::following(move || EPOCH.after(start.elapsed()));
        let store = Arc::new(MemoryStore::new(MemoryOptions { partitions: 4, feed_keep: None, ..MemoryOptions::new(clock) }));
        Self { store, log: Arc::default() }
    }

    async fn put(&self, kind: DocKind, name: &str, text: Option<&str>, nodes: &[&Node]) {
        let bytes = text.map(|text| text.to_owned().into());
        let put = DocPut { kind, ns: Ns(0), name: name.into(), guard: DocGuard::Any, bytes };
        self.store.put_docs(vec![put]).await.unwrap();
        for node in nodes {
            node.registry.load(&*self.store).await.unwrap();
        }
    }

    async fn node(&self, session: u64) -> Node {
        let registry = Registry::new(AddressPolicy::development());
        registry.load(&*self.store).await.unwrap();
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        let limits = Limits::new(store, Arc::clone(&registry), SessionId(session), Duration::from_secs(15), 100_000);
        let stop = CancellationToken::new();
        let tasks = vec![AbortOnDropHandle::new(tokio::spawn(Arc::clone(&limits).run(stop.clone())))];
        Node { limits, registry, stop, tasks }
    }

    /// An owner on this node that starts these.
    fn owner(&self, node: &mut Node, partition: u16, work: Vec<Backlog>) {
        let (limits, log) = (Arc::clone(&node.limits), Arc::clone(&self.log));
        let opened = limits.door(Partition(partition));
        limits.tell_accepted(Partition(partition));
        node.tasks.push(AbortOnDropHandle::new(tokio::spawn(own(limits, log, Partition(partition), opened, work))));
    }

    fn starts(&self, key: &str) -> Vec<Instant> {
        self.log.lock().starts.get(key).cloned().unwrap_or_default()
    }

    fn most(&self, key: &str) -> u32 {
        self.log.lock().most.get(key).copied().unwrap_or_default()
    }

    async fn until_started(&self, key: &str, count: usize) {
        let start = Instant::now();
        while self.starts(key).len() < count {
            assert!(start.elapsed() < Duration::from_secs(600), "only {} of {count} started", self.starts(key).len());
            tokio::time::sleep(ms(10)).await;
        }
    }

    async fn in_use(&self, key: &str) -> u32 {
        let look = lovage_store::LimitRequest::look(Ns(0), key, LimitRule::default());
        self.store.limit(vec![look]).await.unwrap().remove(0).unwrap().in_use
    }
}

async fn own(
    limits: Arc<Limits>,
    log: Arc<Mutex<Log>>,
    partition: Partition,
    mut opened: mpsc::UnboundedReceiver<Opened>,
    mut work: Vec<Backlog>,
) {
    let worker = limits.registry.origin(Ns(0), "http://127.0.0.1:9", EPOCH);
    let mut waiting: BTreeMap<u64, VecDeque<usize>> = BTreeMap::new();
    let mut open: VecDeque<usize> = (0..work.len()).collect();
    let mut running = tokio::task::JoinSet::new();
    loop {
        while let Some(n) = open.pop_front() {
            let Backlog { lane, tasks, takes } = &mut work[n];
            if *tasks == 0 {
                continue;
            }
            let gates = limits.gates(lane, Some(&worker));
            let permit = match limits.try_start(&gates, From { partition, lane: LaneId(n as u64) }, EPOCH, *tasks as usize) {
                Verdict::Go(permit) => permit,
                Verdict::Wait(Wait { number, .. }) => {
                    waiting.entry(number).or_default().push_back(n);
                    continue;
                }
                Verdict::Until(until) => panic!("paused until {until:?}"),
            };
            *tasks -= 1;
            open.push_back(n);
            let names: Vec<String> = lane.limits.iter().map(|limit| limit.key.clone()).chain(["queue:q".into()]).collect();
            {
                let mut log = log.lock();
                for name in &names {
                    log.starts.entry(name.clone()).or_default().push(Instant::now());
                    let running = log.running.entry(name.clone()).or_default();
                    *running += 1;
                    let running = *running;
                    let most = log.most.entry(name.clone()).or_default();
                    *most = running.max(*most);
                }
            }
            let (takes, log) = (*takes, Arc::clone(&log));
            running.spawn(async move {
                tokio::time::sleep(takes).await;
                for name in names {
                    *log.lock().running.get_mut(&name).unwrap() -= 1;
                }
                drop(permit);
            });
        }
        while running.try_join_next().is_some() {}
        let Some(told) = opened.recv().await else { return };
        let line = waiting.entry(told.number).or_default();
        let mut left = told.lanes;
        while left > 0
            && let Some(n) = line.pop_front()
        {
            if work[n].tasks > 0 {
                open.push_back(n);
                left -= 1;
            }
        }
        if left > 0 {
            limits.pass_on(partition, Opened { lanes: left, ..told });
        }
    }
}

/// No window holds more starts than the rate allows, if each of them may be so late; a millisecond is the timer's.
fn assert_rate(starts: &[Instant], rate: &str, burst: u32, late: Duration) {
    let rate: Rate = rate.parse().unwrap();
    for (first, from) in starts.iter().enumerate() {
        for (n, to) in starts[first..].iter().enumerate() {
            let window = (*to - *from + late + ms(1)).as_micros();
            let allowed = window * u128::from(rate.count()) / (u128::from(rate.per().secs()) * 1_000_000);
            assert!(n as u128 <= allowed + u128::from(burst), "{} starts in {window} µs", n + 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_holds_over_all_processes_also_when_one_dies() {
    let world = World::new();
    let held = lane(&[limit("k", Some("100/s"), None, None)]);
    let mut nodes = Vec::new();
    for session in 1..=3 {
        let mut node = world.node(session).await;
        world.owner(&mut node, 0, vec![Backlog { lane: held.clone(), tasks: 5_000, takes: ms(3) }]);
        nodes.push(node);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(nodes.pop());
    tokio::time::sleep(Duration::from_secs(15)).await;
    let starts = world.starts("k");
    assert!((1_900..=2_010).contains(&starts.len()), "{}", starts.len());
    assert_rate(&starts, "100/s", 1, ms(0));
    for node in &nodes {
        assert!(node.limits.book.lock().keys.len() <= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_over_all_processes_and_no_moment_is_lost() {
    let world = World::new();
    let held = lane(&[limit("k", None, None, Some(1))]);
    let mut nodes = Vec::new();
    for session in 1..=3 {
        let mut node = world.node(session).await;
        world.owner(&mut node, 0, vec![Backlog { lane: held.clone(), tasks: 500, takes: ms(5) }]);
        nodes.push(node);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let count = world.starts("k").len();
    assert!(count >= 500, "{count} in 5 s");
    assert_eq!(world.most("k"), 1);
}

#[tokio::test(start_paused = true)]
async fn slots_of_a_process_that_dies_come_back_and_of_one_that_stops_at_once() {
    let world = World::new();
    let held = lane(&[limit("k", None, None, Some(2))]);
    let mut dies = world.node(1).await;
    let mut stops = world.node(2).await;
    let forever = Duration::from_secs(10_000);
    world.owner(&mut dies, 0, vec![Backlog { lane: held.clone(), tasks: 1, takes: forever }]);
    world.owner(&mut stops, 0, vec![Backlog { lane: held.clone(), tasks: 1, takes: forever }]);
    world.until_started("k", 2).await;
    let mut heir = world.node(3).await;
    world.owner(&mut heir, 0, vec![Backlog { lane: held.clone(), tasks: 2, takes: forever }]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((world.starts("k").len(), world.in_use("k").await), (2, 2), "what is held is renewed");
    // Its attempts end first, as in a stop.
    let end = Instant::now();
    stops.tasks.pop();
    tokio::time::sleep(ms(1)).await;
    stops.stop.cancel();
    world.until_started("k", 3).await;
    assert!(end.elapsed() < ms(200), "{:?}", end.elapsed());
    drop(dies);
    world.until_started("k", 4).await;
    let time = end.elapsed();
    assert!(time > Duration::from_secs(12) && time < Duration::from_secs(17), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_changes_or_goes_is_in_force_at_once() {
    let world = World::new();
    let held = lane(&[limit("k", None, None, None)]);
    let mut node = world.node(1).await;
    world.put(DocKind::Limit, "k", Some(r#"{"concurrency":2}"#), &[&node]).await;
    world.owner(&mut node, 0, vec![Backlog { lane: held, tasks: 1_000, takes: Duration::from_secs(1) }]);
    tokio::time::sleep(ms(10_500)).await;
    let before = world.starts("k").len();
    assert!((20..=22).contains(&before), "{before}");
    assert_eq!(world.most("k"), 2);
    world.put(DocKind::Limit, "k", Some(r#"{"concurrency":0}"#), &[&node]).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.starts("k").len(), before);
    world.put(DocKind::Limit, "k", Some(r#"{"concurrency":5,"rate":"10/s"}"#), &[&node]).await;
    tokio::time::sleep(ms(10_000)).await;
    let then = world.starts("k").len() - before;
    assert!((45..=55).contains(&then), "{then}");
    assert_eq!(world.most("k"), 5);
    // Deleted while its tasks run.
    world.put(DocKind::Limit, "k", None, &[&node]).await;
    tokio::time::sleep(ms(50)).await;
    assert_eq!(world.starts("k").len(), 1_000);
    world.put(DocKind::Limit, "k", Some(r#"{"concurrency":3}"#), &[&node]).await;
    tokio::time::sleep(ms(50)).await;
    assert!(world.in_use("k").await > 900, "what ran before is counted");
}

#[tokio::test(start_paused = true)]
async fn the_rule_of_the_latest_task_holds_everywhere() {
    let world = World::new();
    let mut nodes = [world.node(1).await, world.node(2).await];
    let old = lane(&[limit("k", None, None, Some(1))]);
    world.owner(&mut nodes[0], 0, vec![Backlog { lane: old, tasks: 100, takes: Duration::from_secs(1) }]);
    tokio::time::sleep(ms(3_100)).await;
    assert_eq!(world.starts("k").len(), 4);
    let newer = lane(&[limit("k", None, None, Some(4))]);
    let worker = nodes[1].limits.registry.origin(Ns(0), "http://127.0.0.1:9", EPOCH);
    let gates = nodes[1].limits.gates(&newer, Some(&worker));
    let _ = nodes[1].limits.try_start(&gates, From { partition: Partition(0), lane: LaneId(1) }, EPOCH.after(ms(3_000)), 1);
    tokio::time::sleep(ms(2_100)).await;
    assert!(world.most("k") >= 3, "{}", world.most("k"));
}

#[tokio::test(start_paused = true)]
async fn tasks_under_three_limits_keep_them_all_and_all_start() {
    let world = World::new();
    world.put(DocKind::Queue, "q", Some(r#"{"concurrency":6}"#), &[]).await;
    let keys =
        [limit("a", Some("50/s"), Some(3), None), limit("b", None, None, Some(2)), limit("c", Some("80/s"), None, Some(3))];
    let mut nodes = Vec::new();
    for session in 1..=3 {
        let mut node = world.node(session).await;
        for partition in 0..2 {
            let work = [vec![0], vec![1], vec![2], vec![0, 1], vec![1, 2], vec![0, 1, 2], vec![]];
            let lanes = work.into_iter().map(|of| lane(&of.into_iter().map(|n| keys[n].clone()).collect::<Vec<_>>()));
            let work = lanes.map(|lane| Backlog { lane, tasks: 20, takes: ms(7) }).collect();
            world.owner(&mut node, partition, work);
        }
        nodes.push(node);
    }
    world.until_started("queue:q", 3 * 2 * 7 * 20).await;
    // A start that is due may have to wait for a slot.
    assert_rate(&world.starts("a"), "50/s", 3, ms(25));
    assert_rate(&world.starts("c"), "80/s", 1, ms(25));
    assert!(world.most("b") == 2 && world.most("c") <= 3 && world.most("queue:q") <= 6);
}

#[tokio::test(start_paused = true)]
async fn without_rules_nothing_is_asked_and_keys_that_are_not_used_are_forgotten() {
    let world = World::new();
    let node = world.node(1).await;
    let worker = node.limits.registry.origin(Ns(0), "http://127.0.0.1:9", EPOCH);
    let plain = lane(&[]);
    // The documents are read first.
    tokio::time::sleep(ms(1)).await;
    for _ in 0..1_000 {
        let gates = node.limits.gates(&plain, Some(&worker));
        let Verdict::Go(permit) = node.limits.try_start(&gates, From { partition: Partition(0), lane: LaneId(1) }, EPOCH, 1)
        else {
            panic!("it has to wait")
        };
        assert!(!node.limits.book.lock().keys.values().any(|key| key.is_idle()));
        drop(permit);
    }
    {
        let book = node.limits.book.lock();
        assert!(book.visits.is_empty() && book.queue.is_empty() && book.keys.len() == 1);
    }
    // Each used once, by a task that ran under its rule.
    let mut lanes = Vec::new();
    for n in 0..50_000 {
        lanes.push(Backlog { lane: lane(&[limit(&format!("k{n}"), Some("10/s"), None, Some(1))]), tasks: 1, takes: ms(5) });
    }
    let mut node = node;
    world.owner(&mut node, 0, lanes);
    world.until_started("queue:q", 50_000).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let book = node.limits.book.lock();
    assert!(book.keys.is_empty() && book.names.is_empty() && book.visits.is_empty(), "{} are left", book.keys.len());
    assert!(book.keys.capacity() < 1_000);
}

#[tokio::test(start_paused = true)]
async fn there_are_never_more_keys_than_allowed_and_all_tasks_start() {
    let world = World::new();
    let registry = Registry::new(AddressPolicy::development());
    registry.load(&*world.store).await.unwrap();
    let store = Arc::clone(&world.store) as Arc<dyn Store>;
    let limits = Limits::new(store, Arc::clone(&registry), SessionId(1), Duration::from_secs(15), 10);
    let stop = CancellationToken::new();
    let run = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&limits).run(stop.clone())));
    let mut node = Node { limits, registry, stop, tasks: vec![run] };
    let work = (0..100).map(|n| Backlog { lane: lane(&[limit(&format!("k{n}"), None, None, Some(1))]), tasks: 2, takes: ms(5) });
    world.owner(&mut node, 0, work.collect());
    let start = Instant::now();
    while world.starts("queue:q").len() < 200 {
        assert!(node.limits.book.lock().keys.len() <= 10);
        assert!(start.elapsed() < Duration::from_secs(120), "only {} started", world.starts("queue:q").len());
        tokio::time::sleep(ms(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_told_of_every_answer_and_of_nothing_else() {
    let world = World::new();
    let node = world.node(1).await;
    node.limits.take_rules();
    let mut opened = node.limits.door(Partition(0));
    node.limits.tell_accepted(Partition(0));
    let gates = node.limits.gates(&lane(&[limit("k", None, None, Some(1))]), None);
    let start = || node.limits.try_start(&gates, From { partition: Partition(0), lane: LaneId(1) }, EPOCH, 1);
    let Verdict::Wait(first) = start() else { panic!("the store has not been asked") };
    assert!(first.asks);
    assert_eq!(opened.recv().await, Some(Opened { number: first.number, lanes: 1 }));
    let Verdict::Go(permit) = start() else { panic!("it was told that it may start") };
    let Verdict::Wait(second) = start() else { panic!("one at a time") };
    assert!(second.asks);
    assert_eq!(opened.recv().await, Some(Opened { number: first.number, lanes: 0 }));
    // The answer is known: nothing is asked before somebody gives something back.
    let Verdict::Wait(third) = start() else { panic!("one at a time") };
    assert!(!third.asks);
    drop(permit);
    let told = opened.recv().await.unwrap();
    assert_eq!((told.number, told.lanes > 0), (first.number, true));
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_is_counted_however_many_keys_are_in_use() {
    let world = World::new();
    let registry = Registry::new(AddressPolicy::development());
    registry.load(&*world.store).await.unwrap();
    let store = Arc::clone(&world.store) as Arc<dyn Store>;
    let limits = Limits::new(store, registry, SessionId(1), Duration::from_secs(15), 2);
    let run = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&limits).run(CancellationToken::new())));
    limits.take_rules();
    let at_once = |key: &str| lane(&[limit(key, None, None, Some(1))]);
    let first = limits.gates(&at_once("a"), None);
    assert!(first.parts.is_some() && limits.gates(&at_once("b"), None).parts.is_none());
    let gates = limits.gates_of_accepted(&at_once("b"));
    let count = limits.accept(Err((gates, EPOCH)), Partition(1), EPOCH.after(ms(60_000)), None, false);
    tokio::time::sleep(ms(50)).await;
    assert_eq!(world.in_use("b").await, 1);
    drop(count);
    tokio::time::sleep(ms(50)).await;
    assert_eq!(world.in_use("b").await, 0);
    drop(run);
}
