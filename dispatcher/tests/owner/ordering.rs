//! Order keys and FIFO queues through the whole life of their tasks.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::retry::RetryPolicy;
use lovage_core::{Event, LaneOrder, Spec, State, TaskKey};
use lovage_dispatcher::Options;
use lovage_store::Store;
use lovage_store::wrap::Faulty;
use tokio::time::sleep;

use crate::world::{Reply, Seen, World, call, memory, memory_with};

fn ordered(queue: &str) -> Spec {
    Spec { order_key: Some("k".into()), queue: queue.into(), ..call("t") }
}

/// Ids in the order of their pushes.
fn order(world: &World) -> Vec<String> {
    let mut seen: Vec<Seen> = world.pushes().into_values().flatten().collect();
    seen.sort_by_key(|seen| seen.session_order);
    seen.into_iter().map(|seen| seen.id).collect()
}

fn ids(keys: &[&TaskKey]) -> Vec<String> {
    keys.iter().map(|key| key.id.to_string()).collect()
}

/// No two tasks of these are pushed at once, and none is pushed after one that was accepted later.
fn assert_in_order(world: &World, keys: &[TaskKey], told: &str) {
    let pushes = world.pushes();
    let mut last = None;
    for key in keys {
        for push in pushes.get(&key.id.to_string()).into_iter().flatten() {
            assert!(last.is_none_or(|end| end <= push.start), "{told}: {} starts too early", key.id);
            last = Some(push.end.unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_in_order_of_acceptance_over_queues_and_priorities() {
    let world = World::new(|_| Reply::Slow(Duration::from_millis(20)));
    world.worker("w", "*", 50).await;
    let node = world.start();
    let mut keys = Vec::new();
    for n in 0..30u8 {
        keys.push(world.submit_with(ordered(["a", "b", "c"][usize::from(n % 3)]), n % 10, None, None).await);
    }
    for key in &keys {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    assert_in_order(&world, &keys, "plain");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_waits_blocks_its_key_until_it_is_final() {
    let world = World::new(|seen| if seen.attempt == 1 { Reply::Status(500, "") } else { Reply::Status(200, "") });
    world.worker("w", "*", 50).await;
    let node = world.start();
    let later = world.store.clock().now().after(Duration::from_secs(5));
    let delayed = world.submit_with(ordered("q"), 4, Some(later), None).await;
    let second = world.submit(ordered("q")).await;
    let failing =
        world.submit(Spec { retry: Some(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() }), ..ordered("q") }).await;
    let canceled = world.submit(ordered("q")).await;
    let last = world.submit(ordered("q")).await;
    world.cancel(&canceled, false).await;
    for key in [&delayed, &second, &failing, &last] {
        world.until_final(key).await;
    }
    let expected = ids(&[&delayed, &delayed, &second, &second, &failing, &last, &last]);
    assert_eq!(order(&world), expected);
    assert_eq!(world.head(&failing).await.state, State::Failed);
    // A failed one that is tried again goes before those that wait.
    world.happen(&failing, |_| Event::Retry).await;
    assert_eq!(world.until_final(&failing).await.state, State::Succeeded);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn accepted_snoozed_held_and_waiting_for_children_a_head_goes_on_blocking() {
    let spawn = r#"{"outcome":"spawn","then":"wait","tasks":[{"task":"child"}]}"#;
    let world = World::new(move |seen| match (seen.headers["lovage-task"].to_str().unwrap(), seen.attempt) {
        ("child", _) => Reply::Slow(Duration::from_secs(3)),
        ("accept", 1) => Reply::Header(202, "lovage-lease", "5"),
        ("snooze", 1) => Reply::Header(200, "lovage-outcome", "snooze"),
        ("spawn", 1) => Reply::Document("application/vnd.lovage.outcome+json", spawn.into()),
        _ => Reply::Status(200, ""),
    });
    world.worker("w", "*", 50).await;
    let node = world.start();
    let mut keys = Vec::new();
    for task in ["accept", "snooze", "spawn", "held", "t"] {
        keys.push(world.submit(Spec { task: Some(task.into()), ..ordered("q") }).await);
    }
    world.happen(&keys[3], |_| Event::Hold).await;
    world.until_final(&keys[2]).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.head(&keys[4]).await.state, State::Queued);
    world.happen(&keys[3], |_| Event::Release).await;
    world.until_final(&keys[4]).await;
    assert_in_order(&world, &keys, "blocking");
    let starts: Vec<_> = keys.iter().map(|key| world.pushes()[&key.id.to_string()].len()).collect();
    assert_eq!(starts, [2, 2, 2, 1, 1]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fifo_queue_starts_in_order_whatever_the_priority_and_waits_behind_its_head() {
    let world = World::new(|_| Reply::Slow(Duration::from_secs(2)));
    world.worker("w", "t", 2).await;
    let fifo = |task: &str| Spec { order: LaneOrder::Fifo, queue: "line".into(), ..call(task) };
    let mut keys = Vec::new();
    for (task, priority) in [("t", 1), ("t", 9), ("t", 5), ("nobody", 9), ("t", 9)] {
        keys.push(world.submit_with(fifo(task), priority, None, None).await);
    }
    let node = world.start();
    for key in &keys[..3] {
        world.until_final(key).await;
    }
    assert_eq!(order(&world), ids(&[&keys[0], &keys[1], &keys[2]]));
    let pushes = world.pushes();
    let start = |key: &TaskKey| pushes[&key.id.to_string()][0].start;
    assert!(start(&keys[1]) - start(&keys[0]) < Duration::from_secs(1), "several run at once");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.head(&keys[4]).await.state, State::Queued, "the head has no worker");
    world.worker("v", "nobody", 1).await;
    world.until_final(&keys[4]).await;
    assert_eq!(order(&world)[3..], ids(&[&keys[3], &keys[4]]));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn lanes_without_number_take_turns_in_memory() {
    let world = World::new(|_| Reply::Status(200, ""));
    world.worker("w", "*", 50).await;
    let mut keys = Vec::new();
    for n in 0..60 {
        keys.push(world.submit(Spec { fair_key: Some(n.to_string()), ..call(if n % 2 == 0 { "t" } else { "t2" }) }).await);
        keys.push(world.submit(Spec { order_key: Some(n.to_string()), ..call("t") }).await);
    }
    let options = Options { lanes: 10, ..Options::default() };
    let node = world.start_with(Arc::clone(&world.store), options);
    for key in &keys {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    node.stop().await;
}

/// First in, first out for each key, under retries, crashes, take-overs, hand-overs and a store that fails.
async fn run(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let keep = if rng.bool() { Some(rng.usize(0..4)) } else { None };
    let world = World::over(if rng.bool() { memory(1) } else { memory_with(1, keep) }, move |seen| {
        let mut rng = fastrand::Rng::with_seed(seed ^ (seen.session_order << 8));
        match rng.u8(0..12) {
            0 => Reply::Status(500, ""),
            1 => Reply::Header(202, "lovage-lease", "3"),
            2 => Reply::Header(200, "lovage-outcome", "snooze"),
            3 => Reply::Header(429, "retry-after", "1"),
            4 => Reply::Status(400, "no"),
            5 => Reply::Slow(Duration::from_secs(rng.u64(1..8))),
            _ => Reply::Slow(Duration::from_millis(rng.u64(0..50))),
        }
    });
    let faulty = Arc::new(Faulty::new(Arc::clone(&world.store)));
    faulty.random(seed, 60, Duration::from_millis(300));
    world.worker("w", "*", 4).await;
    let window = rng.usize(2..20);
    let start = || {
        let options = Options { lane_window: window, ..Options::default() };
        world.start_with(Arc::clone(&faulty) as Arc<dyn Store>, options)
    };
    let mut nodes = vec![start(), start()];
    let mut keys: Vec<Vec<TaskKey>> = vec![Vec::new(); 3];
    for n in 0..60 {
        let retry = Some(RetryPolicy { max_attempts: rng.u16(1..6), ..RetryPolicy::default() });
        let key = rng.usize(..keys.len());
        let queue = ["a", "b"][rng.usize(0..2)].to_owned();
        let spec = Spec { retry, queue, order_key: Some(key.to_string()), time_limit: Some("5s".parse().unwrap()), ..call("t") };
        let due = rng.bool().then(|| world.store.clock().now().after(Duration::from_millis(rng.u64(0..5_000))));
        keys[key].push(world.submit_with(spec, rng.u8(0..10), due, None).await);
        match rng.u8(0..20) {
            0 => {
                nodes.swap_remove(rng.usize(..nodes.len())).kill();
                nodes.push(start());
            }
            1 => {
                let leaving = nodes.swap_remove(rng.usize(..nodes.len()));
                tokio::spawn(leaving.stop());
                nodes.push(start());
            }
            2 => {
                let any = &keys[key][rng.usize(..keys[key].len())];
                world.cancel(any, rng.bool()).await;
            }
            3 => {
                faulty.set_away(true);
                sleep(Duration::from_millis(rng.u64(0..25_000))).await;
                faulty.set_away(false);
            }
            _ if n % 7 == 0 => sleep(Duration::from_millis(rng.u64(0..3_000))).await,
            _ => {}
        }
    }
    sleep(Duration::from_secs(5)).await;
    faulty.heal();
    for key in keys.iter().flatten() {
        world.until_final(key).await;
    }
    for keys in &keys {
        assert_in_order(&world, keys, &format!("seed {seed}"));
    }
    for node in nodes {
        node.stop().await;
    }
}

#[test]
fn first_in_first_out_for_each_key_under_retries_and_crashes() {
    let seeds: u64 = std::env::var("LOVAGE_SIMULATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    for seed in 0..seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limit = Duration::from_secs(3 * 24 * 3600);
            tokio::time::timeout(limit, run(seed)).await.unwrap_or_else(|_| panic!("seed {seed} does not end"));
        });
    }
}
