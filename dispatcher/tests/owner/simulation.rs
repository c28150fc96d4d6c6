//! Random worlds: workers that fail in every way, a store that fails, dispatchers that die. From one seed.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::retry::RetryPolicy;
use lovage_core::{Spec, State};
use lovage_dispatcher::egress::FaultKind;
use lovage_store::Store;
use lovage_store::wrap::Faulty;

use crate::world::{Reply, Seen, World, call, memory};

fn reply(seed: u64, seen: &Seen) -> Reply {
    let mut rng = fastrand::Rng::with_seed(seed ^ (seen.session_order << 8));
    match rng.u8(0..20) {
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

/// Every task ends, attempts rise by one, and no two pushes of a task are open at once.
async fn run(seed: u64) {
    let store = memory(3);
    let world = World::over(Arc::clone(&store), move |seen| reply(seed, seen));
    let faulty = Arc::new(Faulty::new(store));
    let mut rng = fastrand::Rng::with_seed(seed);
    faulty.random(seed, 60, Duration::from_millis(300));
    world.worker("w", "*", 4).await;
    let mut nodes = vec![world.start_over(Arc::clone(&faulty) as Arc<dyn Store>)];
    let mut keys = Vec::new();
    for i in 0..60u32 {
        let retry = Some(RetryPolicy { max_attempts: rng.u16(1..6), ..RetryPolicy::default() });
        let spec = Spec { retry, time_limit: Some("5s".parse().unwrap()), ..call(&format!("t{}", i % 5)) };
        let due = rng.bool().then(|| world.store.clock().now().after(Duration::from_millis(rng.u64(0..5_000))));
        keys.push((world.submit_with(spec.clone(), rng.u8(0..10), due, None).await, spec));
        if rng.u8(0..10) == 0 {
            tokio::time::sleep(Duration::from_millis(rng.u64(0..2_000))).await;
        }
        match rng.u8(0..30) {
            0 => nodes.push(world.start_over(Arc::clone(&faulty) as Arc<dyn Store>)),
            1 if nodes.len() > 1 => nodes.swap_remove(rng.usize(..nodes.len())).kill(),
            2 => {
                nodes.swap_remove(rng.usize(..nodes.len())).kill();
                nodes.push(world.start_over(Arc::clone(&faulty) as Arc<dyn Store>));
            }
            _ => {}
        }
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    faulty.heal();
    for (key, spec) in &keys {
        let head = world.until_final(key).await;
        assert!(head.budget <= spec.max_attempts(), "seed {seed}: {head:?}");
        assert!(matches!(head.state, State::Succeeded | State::Failed), "seed {seed}: {head:?}");
    }
    for (id, pushes) in world.pushes() {
        for pair in pushes.windows(2) {
            assert!(pair[1].attempt > pair[0].attempt, "seed {seed}: {id} repeats an attempt number");
            assert!(pair[0].end.is_some_and(|end| end <= pair[1].start), "seed {seed}: {id} has two open attempts");
        }
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
