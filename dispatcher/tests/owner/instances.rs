//! Which instances of a worker are called, and together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lovage_core::board::Board;
use lovage_core::errand::{Errand, ErrandKind};
use lovage_core::instance::{Balance, Health, Recycle, Recycling};
use lovage_core::retry::RetryPolicy;
use lovage_core::worker::{InstanceConfig, WorkerConfig};
use lovage_core::{AttemptEntry, Millis, Ns, ResultValue, Spec, State, TaskKey};
use lovage_dispatcher::egress::FaultKind;
use lovage_store::DocKind;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::world::{EPOCH, Reply, Seen, World, call, memory};

pub const URLS: [&str; 3] = ["http://127.0.0.1:1001/", "http://127.0.0.1:1002/", "http://127.0.0.1:1003/"];

pub fn worker(balance: Balance, concurrency: u32) -> WorkerConfig {
    WorkerConfig {
        urls: URLS.map(str::to_owned).into(),
        tasks: vec!["*".into()],
        concurrency: Some(concurrency),
        balance,
        ..WorkerConfig::default()
    }
}

/// Pushes by the port they went to.
pub fn by_port(world: &World) -> BTreeMap<String, usize> {
    let mut ports = BTreeMap::new();
    for seen in world.transport.seen.lock().iter() {
        *ports.entry(port(seen).to_owned()).or_default() += 1;
    }
    ports
}

pub fn port(seen: &Seen) -> &str {
    seen.origin.rsplit(':').next().unwrap()
}

async fn result(world: &World, key: &TaskKey) -> Value {
    let Some(ResultValue::Value { bytes, .. }) = world.stored(key).await.result.and_then(|it| ResultValue::decode(&it)) else {
        panic!("no result")
    };
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test(start_paused = true)]
async fn round_robin_is_even_within_one() {
    let world =
        World::new(|seen| if port(seen) == "1001" { Reply::Slow(Duration::from_secs(1)) } else { Reply::Status(204, "") });
    world.put(DocKind::Worker, "w", &worker(Balance::RoundRobin, 100)).await;
    let node = world.start();
    let mut keys = Vec::new();
    for _ in 0..=(3 * 17) {
        keys.push(world.submit(call("t")).await);
    }
    for key in &keys {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    let mut counts: Vec<usize> = by_port(&world).into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [17, 17, 18]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_without_a_slot_is_passed_over() {
    let world =
        World::new(|seen| if port(seen) == "1001" { Reply::Slow(Duration::from_secs(10)) } else { Reply::Status(204, "") });
    world.put(DocKind::Worker, "w", &worker(Balance::RoundRobin, 1)).await;
    let node = world.start();
    for _ in 0..9 {
        let key = world.submit(call("t")).await;
        world.until(&key, "started", |head| head.attempt > 0).await;
    }
    assert_eq!(by_port(&world), BTreeMap::from([("1001".into(), 1), ("1002".into(), 4), ("1003".into(), 4)]));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_reaches_all_once_and_lists_what_they_say() {
    let world = World::new(|seen| match port(seen) {
        "1001" => Reply::Document("application/json", "{\"n\":1}".into()),
        "1002" => Reply::Slow(Duration::from_secs(3)),
        _ => Reply::Status(204, ""),
    });
    world.put(DocKind::Worker, "w", &worker(Balance::Broadcast, 1)).await;
    let node = world.start();
    let keys = [world.submit(call("t")).await, world.submit(call("t")).await];
    let start = Instant::now();
    for key in &keys {
        let head = world.until_final(key).await;
        assert_eq!((head.state, head.attempt), (State::Succeeded, 1));
    }
    // The second waited until all had a slot again.
    assert!(start.elapsed() >= Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(by_port(&world).into_values().collect::<Vec<_>>(), [2, 2, 2]);
    let wanted = json!([
        {"instance": URLS[0], "status": 200, "result": {"n": 1}},
        {"instance": URLS[1], "status": 200, "result": "slow"},
        {"instance": URLS[2], "status": 204, "result": null},
    ]);
    assert_eq!(result(&world, &keys[0]).await, wanted);
    let pushes = world.pushes();
    let seen = &pushes[&keys[0].id.to_string()];
    assert!(seen.iter().all(|push| push.attempt == 1 && push.start == seen[0].start));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_worst_of_a_broadcast_decides_and_all_are_called_again() {
    let world = World::new(|seen| match (port(seen), seen.attempt) {
        ("1002", 1) => Reply::Status(500, "broken"),
        ("1003", 2) => Reply::Status(422, "no"),
        _ => Reply::Status(200, "1"),
    });
    world.put(DocKind::Worker, "w", &worker(Balance::Broadcast, 5)).await;
    let node = world.start();
    let key = world.submit(Spec { retry: Some(RetryPolicy::default()), ..call("t") }).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.budget), (State::Failed, 2, 1));
    assert_eq!(by_port(&world).into_values().collect::<Vec<_>>(), [2, 2, 2]);
    let entries: Vec<AttemptEntry> =
        world.stored(&key).await.attempts.iter().map(|entry| AttemptEntry::decode(entry).unwrap()).collect();
    let told: Vec<_> = entries.iter().map(|entry| (entry.instance.clone().unwrap(), entry.status.unwrap())).collect();
    assert_eq!(told, [(URLS[1].to_owned(), 500), (URLS[2].to_owned(), 422)]);
    assert_eq!(entries[0].excerpt.as_deref(), Some("broken"));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn cancel_and_time_limit_close_all_of_a_broadcast() {
    let world = World::new(|_| Reply::Slow(Duration::from_secs(1_000)));
    world.put(DocKind::Worker, "w", &worker(Balance::Broadcast, 5)).await;
    let node = world.start();
    let (canceled, limited) =
        (world.submit(call("t")).await, Spec { time_limit: Some(lovage_core::units::Dur::from_secs(20)), ..call("t") });
    let retry = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    let limited = world.submit(Spec { retry: Some(retry), ..limited }).await;
    world.until_state(&canceled, State::Running).await;
    world.cancel(&canceled, true).await;
    assert_eq!(world.until_final(&canceled).await.state, State::Canceled);
    assert_eq!(world.until_final(&limited).await.state, State::Failed);
    let seen = world.transport.seen.lock().clone();
    assert_eq!((seen.len(), seen.iter().filter(|seen| seen.end.is_some()).count()), (6, 6));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_comes_with_its_registration_and_goes_with_its_lease() {
    let world = World::new(|_| Reply::Status(204, ""));
    let config = WorkerConfig { urls: Vec::new(), ..worker(Balance::LeastLoaded, 5) };
    world.put(DocKind::Worker, "w", &config).await;
    let node = world.start();
    let register = async |ttl| {
        let until = world.store.clock().now().after(Duration::from_secs(ttl));
        let instance = InstanceConfig { url: URLS[0].into(), until, since: EPOCH, capacity: None, version: None };
        world.put(DocKind::Instance, "w/i", &instance).await;
    };
    register(10).await;
    let first = world.submit(call("t")).await;
    world.until_final(&first).await;
    // Renewed again and again, it stays.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        register(10).await;
    }
    world.until_final(&world.submit(call("t")).await).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    let late = world.submit(call("t")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((world.head(&late).await.state, by_port(&world)["1001"]), (State::Queued, 2));
    // It comes back as the same, and whoever waits hears of it.
    let back = Instant::now();
    register(10).await;
    world.until_final(&late).await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
    assert!(world.store.clock().now() > Millis(0));
    node.stop().await;
}

fn probed(urls: &[&str]) -> WorkerConfig {
    let health = Health { path: "/healthz".into(), interval: lovage_core::units::Dur::from_secs(2) };
    WorkerConfig { urls: urls.iter().map(ToString::to_string).collect(), health: Some(health), ..worker(Balance::RoundRobin, 5) }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_answer_its_probes_is_left_out_until_it_does() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let world = World::new(move |seen| match (seen.path.as_str(), port(seen)) {
        ("/healthz", "1002") if is_down.load(Ordering::Relaxed) => Reply::Status(503, "no"),
        _ => Reply::Status(204, ""),
    });
    world.put(DocKind::Worker, "w", &probed(&URLS[..2])).await;
    let node = world.start();
    let calls = async |count: usize| {
        let before = world.transport.seen.lock().len();
        for _ in 0..count {
            world.until_final(&world.submit(call("t")).await).await;
        }
        let seen = world.transport.seen.lock()[before..].to_vec();
        let tasks = seen.iter().filter(|seen| seen.path == "/");
        ["1001", "1002"].map(|wanted| tasks.clone().filter(|seen| port(seen) == wanted).count())
    };
    assert_eq!(calls(6).await, [3, 3]);
    down.store(true, Ordering::Relaxed);
    // Two bad answers are none too many, three are.
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(calls(6).await, [6, 0]);
    down.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(calls(6).await, [3, 3]);
    let probes = world.transport.seen.lock().iter().filter(|seen| seen.path == "/healthz").count();
    assert!((10..20).contains(&probes), "{probes}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_wait_for_the_only_instance_to_be_well() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let world = World::new(move |seen| match seen.path.as_str() {
        "/healthz" if is_down.load(Ordering::Relaxed) => Reply::Fault(FaultKind::Refused),
        _ => Reply::Status(204, ""),
    });
    world.put(DocKind::Worker, "w", &probed(&URLS[..1])).await;
    let node = world.start();
    tokio::time::sleep(Duration::from_secs(9)).await;
    let key = world.submit(call("t")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let head = world.head(&key).await;
    assert_eq!((head.state, head.attempt), (State::Queued, 0));
    down.store(false, Ordering::Relaxed);
    let back = Instant::now();
    world.until_final(&key).await;
    assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
    // Nobody asks any more when nobody wants to know.
    world.put(DocKind::Worker, "w", &WorkerConfig { health: None, ..probed(&URLS[..1]) }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = world.transport.seen.lock().len();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.transport.seen.lock().len(), before);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_nobody_answers_at_is_passed_over_and_tried_now_and_then() {
    for balance in [Balance::LeastLoaded, Balance::RoundRobin] {
        let down = Arc::new(AtomicBool::new(true));
        let is_down = Arc::clone(&down);
        let world = World::new(move |seen| match port(seen) {
            "1003" if is_down.load(Ordering::Relaxed) => Reply::Fault(FaultKind::Refused),
            _ => Reply::Slow(Duration::from_millis(50)),
        });
        world.put(DocKind::Worker, "w", &worker(balance, 10)).await;
        let node = world.start();
        let run = async |count: usize| {
            let (start, mut keys) = (Instant::now(), Vec::new());
            for _ in 0..count {
                keys.push(world.submit(call("t")).await);
            }
            for key in &keys {
                assert_eq!(world.until_final(key).await.state, State::Succeeded);
            }
            start.elapsed()
        };
        let took = run(500).await;
        assert!(took < Duration::from_secs(4), "{balance:?}: {took:?}");
        let calls = by_port(&world);
        assert!(calls["1003"] <= 20 && calls["1001"] >= 200 && calls["1002"] >= 200, "{balance:?}: {calls:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let board = Board::decode(&world.store.boards().await.unwrap()[0].1).unwrap();
        let seen = board.worker(Ns::DEFAULT, "w", false).unwrap();
        let passed_over = |url: &str| seen.instances.iter().find(|it| it.url == url).unwrap().unreachable.0 != 0;
        assert_eq!((URLS.map(passed_over), seen.standing().instances), ([false, false, true], 2));
        // Tried with one at a time, less and less often.
        for _ in 0..60 {
            run(10).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let tried = by_port(&world)["1003"] - calls["1003"];
        assert!((2..=4).contains(&tried), "{balance:?}: {tried}");
        down.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(80)).await;
        run(10).await;
        let before = by_port(&world)["1003"];
        run(300).await;
        assert!(by_port(&world)["1003"] >= before + 90, "{balance:?}: it is one like the others again");
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_which_no_instance_is_there_is_left_alone_and_comes_back_with_any() {
    let start = Instant::now();
    let world = World::new(move |seen| match port(seen) {
        "1002" if start.elapsed() > Duration::from_secs(60) => Reply::Status(204, ""),
        _ => Reply::Fault(FaultKind::Refused),
    });
    world.put(DocKind::Worker, "w", &worker(Balance::LeastLoaded, 10)).await;
    let node = world.start();
    let mut keys = Vec::new();
    for _ in 0..100 {
        keys.push(world.submit(call("t")).await);
    }
    tokio::time::sleep(Duration::from_secs(50)).await;
    let calls: usize = by_port(&world).into_values().sum();
    assert!(calls <= 40, "{calls}");
    for key in &keys {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    // Trials go around: two of them at most miss the one that is back.
    assert!(start.elapsed() < Duration::from_secs(300), "{:?}", start.elapsed());
    node.stop().await;
}

fn recycled(max_tasks: u64) -> WorkerConfig {
    WorkerConfig {
        recycle: Some(Recycle { max_tasks: Some(max_tasks), ..Recycle::default() }),
        control_url: Some("http://127.0.0.1:2000/control".into()),
        ..worker(Balance::RoundRobin, 5)
    }
}

/// The instances that were asked to start anew, in order.
fn asked(world: &World) -> Vec<String> {
    let seen = world.transport.seen.lock();
    let control = seen.iter().filter(|seen| seen.path == "/control");
    control.map(|seen| serde_json::from_slice::<Value>(&seen.body).unwrap()["instance"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_has_had_its_tasks_is_drained_and_asked_to_start_anew() {
    let world = World::new(|seen| match seen.path.as_str() {
        "/control" => Reply::Slow(Duration::from_secs(2)),
        _ => Reply::Slow(Duration::from_secs(1)),
    });
    world.put(DocKind::Worker, "w", &recycled(10)).await;
    let node = world.start();
    let mut keys = Vec::new();
    for _ in 0..60 {
        keys.push(world.submit(call("t")).await);
    }
    for key in &keys {
        let head = world.until_final(key).await;
        assert_eq!((head.state, head.attempt), (State::Succeeded, 1));
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let seen = world.transport.seen.lock().clone();
    let control: Vec<&Seen> = seen.iter().filter(|seen| seen.path == "/control").collect();
    assert!(control.len() >= 3, "{:?}", asked(&world));
    let bodies: Vec<Value> = control.iter().map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect();
    for (post, body) in control.iter().zip(&bodies) {
        assert_eq!((&body["type"], &body["reason"]), (&json!("instance.recycle"), &json!("max_tasks")));
        assert!(body["counters"]["tasks"].as_u64().unwrap() >= 10, "{body}");
        // Nothing was open there, and nothing came until it was done.
        let at = |seen: &&Seen| format!("{}/", seen.origin) == body["url"].as_str().unwrap();
        let overlaps = |seen: &&Seen| seen.start < post.end.unwrap() && post.start < seen.end.unwrap();
        assert_eq!(seen.iter().filter(at).find(overlaps).map(|seen| &seen.id), None, "{body}");
    }
    // One at a time.
    let alone = control.windows(2).all(|pair| pair[0].end.unwrap() <= pair[1].start);
    assert!(alone);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_does_not_start_anew_is_used_again_after_a_while() {
    let world = World::new(|seen| match seen.path.as_str() {
        "/control" => Reply::Status(500, ""),
        _ => Reply::Status(204, ""),
    });
    let config = WorkerConfig { urls: vec![URLS[0].into()], ..recycled(2) };
    world.put(DocKind::Worker, "w", &config).await;
    let node = world.start();
    for _ in 0..2 {
        world.until_final(&world.submit(call("t")).await).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    let key = world.submit(call("t")).await;
    world.until_final(&key).await;
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(590) && waited < Duration::from_secs(610), "{waited:?}");
    let tries = asked(&world).len();
    assert!((15..35).contains(&tries), "with a growing pause: {tries}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn memory_and_errors_count_too_and_a_new_registration_is_a_new_start() {
    let world = World::new(|seen| match seen.path.as_str() {
        "/control" => Reply::Status(503, ""),
        _ => Reply::Headers(vec![("lovage-memory-rss", "900MiB".into())]),
    });
    let bounds = Recycle { max_memory: Some("800MiB".parse().unwrap()), ..Recycle::default() };
    let config = WorkerConfig { urls: Vec::new(), recycle: Some(bounds), ..recycled(1) };
    world.put(DocKind::Worker, "w", &config).await;
    let register = async || {
        let now = world.store.clock().now();
        let until = now.after(Duration::from_secs(10_000));
        let instance = InstanceConfig { url: URLS[0].into(), until, since: now, capacity: None, version: None };
        world.put(DocKind::Instance, "w/i", &instance).await;
    };
    register().await;
    let node = world.start();
    world.until_final(&world.submit(call("t")).await).await;
    let start = Instant::now();
    while asked(&world).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let key = world.submit(call("t")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.head(&key).await.state, State::Queued, "it is drained");
    register().await;
    let back = Instant::now();
    world.until_final(&key).await;
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    assert_eq!(asked(&world)[0], "i");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn errands_are_run_by_a_dispatcher() {
    let world = World::new(|seen| match (seen.path.as_str(), port(seen)) {
        ("/healthz", "1001") => Reply::Status(200, "secret"),
        ("/", "1001") => Reply::Status(418, "secret"),
        _ => Reply::Fault(FaultKind::Refused),
    });
    let config = WorkerConfig { tasks: vec!["none".into()], ..probed(&URLS[..2]) };
    world.put(DocKind::Worker, "w", &config).await;
    let (one, two) = (world.start(), world.start());
    let run = async |name: &str, kind, instance: Option<&str>| {
        let until = world.store.clock().now().after(Duration::from_secs(10));
        let instance = instance.map(str::to_owned);
        let errand = Errand { kind, worker: "w".into(), instance, until, session: None, answers: None };
        world.put(DocKind::Errand, name, &errand).await;
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let stored = world.store.doc(DocKind::Errand, Ns::DEFAULT, name).await.unwrap().unwrap();
            let errand: Errand = serde_json::from_slice(&stored.bytes.unwrap()).unwrap();
            if let Some(answers) = errand.answers {
                return answers.into_iter().map(|it| (it.instance, it.status, it.error)).collect::<Vec<_>>();
            }
            assert!(world.store.clock().now() < errand.until, "nobody runs it");
        }
    };
    let refused = || Some("ConnectionRefused".to_owned());
    let pinged = run("a", ErrandKind::Ping, None).await;
    assert_eq!(pinged, [(URLS[0].to_owned(), Some(200), None), (URLS[1].to_owned(), None, refused())]);
    let tested = run("b", ErrandKind::Test, Some(URLS[0])).await;
    assert_eq!(tested, [(URLS[0].to_owned(), Some(418), None)]);
    let seen = world.transport.seen.lock().clone();
    let tests: Vec<&Seen> = seen.iter().filter(|seen| seen.id == "b").collect();
    assert_eq!((tests.len(), tests[0].headers["lovage-task"].to_str().unwrap()), (1, "lovage.test"));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_dispatchers_start_one_instance_after_the_other_anew() {
    let world = World::over(memory(4), |seen| match seen.path.as_str() {
        "/control" => Reply::Slow(Duration::from_secs(3)),
        _ => Reply::Slow(Duration::from_millis(700)),
    });
    let bounds = WorkerConfig { concurrency: Some(2), ..recycled(20) };
    world.put(DocKind::Worker, "w", &bounds).await;
    let nodes = [world.start(), world.start()];
    world.until_owned(&[&nodes[0], &nodes[1]], &[2, 2]).await;
    let mut keys = Vec::new();
    for _ in 0..300 {
        keys.push(world.submit(call("t")).await);
    }
    for key in &keys {
        let head = world.until_final(key).await;
        assert_eq!((head.state, head.attempt), (State::Succeeded, 1), "none is lost and none is repeated");
    }
    let seen = world.transport.seen.lock().clone();
    let control: Vec<&Seen> = seen.iter().filter(|seen| seen.path == "/control").collect();
    assert!(control.len() >= 3, "{:?}", asked(&world));
    for pair in control.windows(2) {
        assert!(pair[0].end.unwrap() <= pair[1].start, "two at a time");
    }
    for post in &control {
        let body: Value = serde_json::from_slice(&post.body).unwrap();
        // What both have counted is told, and neither had anything open there.
        assert!(body["counters"]["tasks"].as_u64().unwrap() >= 20, "{body}");
        let at = |seen: &&Seen| seen.path == "/" && format!("{}/", seen.origin) == body["url"].as_str().unwrap();
        let overlaps = |seen: &&Seen| seen.start < post.end.unwrap() && post.start < seen.end.unwrap();
        assert_eq!(seen.iter().filter(at).find(overlaps).map(|seen| &seen.id), None, "{body}");
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_dispatcher_began_another_one_ends() {
    let world = World::over(memory(1), |seen| match seen.path.as_str() {
        "/control" => Reply::Status(204, ""),
        // The first task keeps the instance from being idle while its dispatcher lives.
        _ if seen.attempt == 1 && seen.session_order == 1 => Reply::Slow(Duration::from_secs(20)),
        _ => Reply::Status(204, ""),
    });
    let config = WorkerConfig { urls: vec![URLS[0].into()], ..recycled(1) };
    world.put(DocKind::Worker, "w", &config).await;
    let first = world.start();
    world.until_owned(&[&first], &[1]).await;
    let (quick, slow) = (world.submit(call("t")).await, world.submit(call("t")).await);
    world.until_final(&quick).await;
    world.until_state(&slow, State::Running).await;
    let stored = async || {
        let document = world.store.doc(DocKind::Recycling, Ns::DEFAULT, "w").await.unwrap();
        document.map(|it| serde_json::from_slice::<Recycling>(&it.bytes.unwrap()).unwrap()).unwrap_or_default()
    };
    while stored().await.turn.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = world.start();
    first.kill();
    assert_eq!(world.until_final(&slow).await.state, State::Succeeded);
    let state = stored().await;
    assert!(state.marks[URLS[0]].born > EPOCH, "{state:?}");
    second.stop().await;
}
