//! Random worlds: workers that fail in every way, a store that fails or stays away, dispatchers that share the work, drain, die or
//! leave, feeds that are cut short, cancels, expiries, callbacks, changed workers. From one seed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use lovage_core::callback::CALLBACK_QUEUE;
use lovage_core::retry::RetryPolicy;
use lovage_core::units::Dur;
use lovage_core::{Batching, Callback, Event, Head, Outcome, Spec, State, TaskKey};
use lovage_dispatcher::Options;
use lovage_dispatcher::egress::FaultKind;
use lovage_store::Store;
use lovage_store::wrap::Faulty;
use serde_json::{Value, json};

use crate::world::{Node, Reply, Seen, World, call, memory_with};

fn reply(seed: u64, seen: &Seen) -> Reply {
    let mut rng = fastrand::Rng::with_seed(seed ^ (seen.session_order << 8));
    let resumed = seen.headers.contains_key("lovage-resume");
    let is_child = seen.headers.contains_key("lovage-parent");
    if seen.batch() > 0 {
        return together(&mut rng, seen);
    }
    match rng.u8(0..24) {
        20 => Reply::Header(202, "lovage-lease", "3"),
        21 if !resumed && !is_child => spawn(&mut rng, "wait"),
        22 if !is_child => spawn(&mut rng, "detach"),
        23 => stream(&mut rng),
        0 => Reply::Status(500, ""),
        1 => Reply::Fault(FaultKind::Reset),
        2 => Reply::Fault(FaultKind::Refused),
        3 => Reply::Header(429, "retry-after", "1"),
        4 => Reply::Status(400, "no"),
        5 => Reply::Slow(Duration::from_secs(rng.u64(1..8))),
        6 => Reply::Status(404, ""),
        7 => Reply::Header(200, "lovage-outcome", "snooze"),
        _ => Reply::Slow(Duration::from_millis(rng.u64(0..50))),
    }
}

/// What becomes of tasks that are delivered together: mostly something of their own.
fn together(rng: &mut Rng, seen: &Seen) -> Reply {
    match rng.u8(0..18) {
        0 => return Reply::Status(500, ""),
        1 => return Reply::Fault(FaultKind::Reset),
        2 => return Reply::Fault(FaultKind::Refused),
        3 => return Reply::Header(429, "retry-after", "1"),
        4 => return Reply::Status(400, "no"),
        5 => return Reply::Slow(Duration::from_secs(rng.u64(1..8))),
        6 => return Reply::Header(202, "lovage-lease", "3"),
        7 => return Reply::Status(200, "nonsense"),
        _ => {}
    }
    let item = |item: Value| {
        let id = &item["id"];
        match rng.u8(0..14) {
            0 => None,
            1 => Some(json!({"id": id, "outcome": "retry", "after": "1s"})),
            2 => Some(json!({"id": id, "outcome": "fail", "error": {"type": "E"}})),
            3 => Some(json!({"id": id, "outcome": "snooze", "after": "2s"})),
            4 if item["children"].is_null() => Some(json!({"id": id, "outcome": "spawn", "tasks": [{"task": "t1"}]})),
            5 => Some(json!({"id": "nobody", "outcome": "success"})),
            6 => Some(json!({"id": id, "outcome": "what"})),
            _ => Some(json!({"id": id, "outcome": "success", "result": 1})),
        }
    };
    let items: Vec<Value> = seen.items().into_iter().filter_map(item).collect();
    Reply::Document("application/json", Value::from(items).to_string())
}

fn spawn(rng: &mut Rng, then: &str) -> Reply {
    let count = rng.usize(1..4);
    let mut order_key = || rng.bool().then(|| rng.u8(0..9).to_string());
    let tasks: Vec<String> = (0..count).map(|_| json!({"task": "t1", "order_key": order_key()}).to_string()).collect();
    let tasks = tasks.join(",");
    let document = format!(r#"{{"outcome":"spawn","then":"{then}","tasks":[{tasks}]}}"#);
    Reply::Document("application/vnd.lovage.outcome+json", document)
}

/// Lines of every kind, now and then without an end.
fn stream(rng: &mut Rng) -> Reply {
    let line = |n: u64| {
        [format!("{{\"progress\":{n}}}\n"), "{\"log\":\"x\"}\n".into(), "{\"heartbeat\":true}\n".into()][n as usize % 3].clone()
    };
    let mut pieces: Vec<(Duration, String)> =
        (0..rng.u64(0..6)).map(|n| (Duration::from_millis(rng.u64(0..2_000)), line(n))).collect();
    if rng.u8(0..3) > 0 {
        pieces.push((Duration::ZERO, "{\"result\":1}\n".into()));
    }
    Reply::Stream(pieces, None)
}

/// A task of the simulation and what may become of it.
struct Told {
    key: TaskKey,
    spec: Spec,
    expires: bool,
    canceled: bool,
}

fn report(kind: u8, head: &Head) -> Event {
    let attempt = head.open_attempt();
    match kind {
        0 => Event::Heartbeat { attempt, lease: None },
        1 => Event::Progress { attempt, value: "1".into() },
        _ => Event::Answered { attempt, outcome: Outcome::Success { content_type: None, body: None } },
    }
}

/// One thing that happens beside the tasks.
async fn event(rng: &mut Rng, world: &World, faulty: &Arc<Faulty>, nodes: &mut Vec<Node>, told: &mut [Told]) {
    // The shorter the patience, the more hand-overs.
    let rebalance_after = Duration::from_millis(rng.u64(0..4) * 500);
    let options = Options { rebalance_after, ..Options::default() };
    let start = || world.start_with(Arc::clone(faulty) as Arc<dyn Store>, options);
    match rng.u8(0..44) {
        0 | 40 if nodes.len() < 4 => nodes.push(start()),
        41..=43 => {
            let any = rng.usize(..nodes.len());
            world.drain(&nodes[any], rng.bool()).await;
        }
        1 if nodes.len() > 1 => nodes.swap_remove(rng.usize(..nodes.len())).kill(),
        2 => {
            nodes.swap_remove(rng.usize(..nodes.len())).kill();
            nodes.push(start());
        }
        3 => {
            let leaving = nodes.swap_remove(rng.usize(..nodes.len()));
            tokio::spawn(leaving.stop());
            nodes.push(start());
        }
        4 if rng.bool() => world.worker("w", "*", rng.u32(1..6)).await,
        4 => world.batch_worker("w", "*", rng.u32(1..4), rng.u16(1..8)).await,
        5 => {
            faulty.set_away(true);
            tokio::time::sleep(Duration::from_millis(rng.u64(0..25_000))).await;
            faulty.set_away(false);
        }
        10..=19 => {
            // Of accepted ones some are heard of again, of pushed ones some report before they answer.
            let event = rng.u8(0..3);
            let any = rng.usize(..told.len());
            world.happen(&told[any].key, |head| report(event, head)).await;
        }
        6..=9 => {
            let any = rng.usize(..told.len());
            let task = &mut told[any];
            task.canceled = true;
            world.cancel(&task.key, rng.bool()).await;
        }
        _ => {}
    }
}

/// Every task ends as it may, is told of once, attempts rise, and no two pushes of a task are open at once.
async fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let keep = if rng.bool() { Some(rng.usize(0..4)) } else { None };
    let store = memory_with(3, keep);
    let world = World::over(Arc::clone(&store), move |seen| reply(seed, seen));
    let faulty = Arc::new(Faulty::new(store));
    faulty.random(seed, 60, Duration::from_millis(if rng.u8(0..5) == 0 { 15_000 } else { 300 }));
    world.batch_worker("w", "*", 4, 5).await;
    let start = |_| world.start_over(Arc::clone(&faulty) as Arc<dyn Store>);
    let mut nodes: Vec<Node> = (0..rng.usize(1..4)).map(start).collect();
    let mut told = Vec::new();
    for i in 0..60u32 {
        let retry = Some(RetryPolicy { max_attempts: rng.u16(1..6), ..RetryPolicy::default() });
        let mut spec = Spec { retry, time_limit: Some("5s".parse().unwrap()), ..call(&format!("t{}", i % 5)) };
        if i % 5 == 0 {
            let max_wait = Dur::from_millis(rng.u64(0..2) * 100);
            spec.batch = Some(Batching { key: "k".into(), max: 6, max_wait });
        }
        if rng.u8(0..4) == 0 {
            let url = "http://127.0.0.1:9/told".to_owned();
            spec.callbacks.on_terminal = Some(Callback { url, headers: vec![], retry: None, time_limit: None });
        }
        let now = world.store.clock().now();
        let due = rng.bool().then(|| now.after(Duration::from_millis(rng.u64(0..5_000))));
        let expires = (rng.u8(0..6) == 0).then(|| now.after(Duration::from_millis(rng.u64(1..8_000))));
        let key = world.submit_with(spec.clone(), rng.u8(0..10), due, expires).await;
        told.push(Told { key, spec, expires: expires.is_some(), canceled: false });
        if rng.u8(0..10) == 0 {
            tokio::time::sleep(Duration::from_millis(rng.u64(0..2_000))).await;
        }
        event(&mut rng, &world, &faulty, &mut nodes, &mut told).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    faulty.heal();
    for node in &nodes {
        world.drain(node, false).await;
    }
    for Told { key, spec, expires, canceled } in &told {
        let head = world.until_final(key).await;
        assert!(head.budget <= spec.max_attempts(), "seed {seed}: {head:?}");
        let may = match head.state {
            State::Succeeded | State::Failed => true,
            State::Expired => *expires,
            State::Canceled => *canceled,
            _ => false,
        };
        assert!(may, "seed {seed}: {head:?}");
    }
    world.until_quiet().await;
    for (id, pushes) in world.pushes() {
        for pair in pushes.windows(2) {
            assert!(pair[1].attempt > pair[0].attempt, "seed {seed}: {id} repeats an attempt number");
            assert!(pair[0].end.is_some_and(|end| end <= pair[1].start), "seed {seed}: {id} has two open attempts");
        }
    }
    let mut callbacks: HashMap<String, HashSet<String>> = HashMap::new();
    for (id, pushes) in world.pushes().into_iter().filter(|(_, pushes)| pushes[0].headers["lovage-queue"] == CALLBACK_QUEUE) {
        let of = pushes[0].headers["lovage-parent"].to_str().unwrap().to_owned();
        callbacks.entry(of).or_default().insert(id);
    }
    for Told { key, spec, .. } in &told {
        let expected = usize::from(!spec.callbacks.is_empty());
        let made = callbacks.get(&key.id.to_string()).map_or(0, HashSet::len);
        assert!(made == expected, "seed {seed}: {made} callbacks of {}", key.id);
    }
    for node in nodes {
        node.stop().await;
    }
}

#[test]
fn every_task_ends_whatever_happens() {
    let seeds: u64 = std::env::var("LOVAGE_SIMULATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let first: u64 = std::env::var("LOVAGE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        println!("seed {seed}");
        runtime.block_on(async {
            let limit = Duration::from_secs(3 * 24 * 3600);
            tokio::time::timeout(limit, run(seed)).await.unwrap_or_else(|_| panic!("seed {seed} does not end"));
        });
    }
}
