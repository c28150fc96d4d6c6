//! Which instances of a worker are called, and together.

use std::collections::BTreeMap;
use std::time::Duration;

use lovage_core::instance::Balance;
use lovage_core::retry::RetryPolicy;
use lovage_core::worker::{InstanceConfig, WorkerConfig};
use lovage_core::{AttemptEntry, Millis, ResultValue, Spec, State, TaskKey};
use lovage_store::DocKind;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::world::{EPOCH, Reply, Seen, World, call};

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
    for _ in 0..3 * 17 + 1 {
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
