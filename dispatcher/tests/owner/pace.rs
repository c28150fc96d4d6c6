//! Workers that ask for less, that come back from an outage, and that somebody pauses.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::board::Board;
use lovage_core::retry::{Jitter, RetryPolicy};
use lovage_core::worker::{WorkerConfig, WorkerPause};
use lovage_core::{Millis, Ns, Spec};
use lovage_dispatcher::egress::FaultKind;
use lovage_store::DocKind;
use lovage_store::wrap::Traced;
use tokio::time::{Instant, sleep};

use crate::world::{Reply, World, call, memory};

const SECOND: Duration = Duration::from_secs(1);

/// A task that is tried again soon and as often as it takes.
fn patient(task: &str) -> Spec {
    let retry = RetryPolicy { max_attempts: 1_000, jitter: Jitter::None, min: "1s".parse().unwrap(), ..RetryPolicy::default() };
    Spec { retry: Some(retry), ..call(task) }
}

/// How many pushes of this task a worker saw in each second from `from` on.
fn seconds(world: &World, task: &str, from: Instant, count: usize) -> Vec<usize> {
    let mut rows = vec![0; count];
    for seen in world.transport.seen.lock().iter().filter(|seen| seen.headers["lovage-task"] == task) {
        let second = seen.start.saturating_duration_since(from).as_secs() as usize;
        if seen.start >= from && second < count {
            rows[second] += 1;
        }
    }
    rows
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_asks_for_less_is_slowed_alone_and_gets_everything_again() {
    let start = Instant::now();
    let sheds = move |seen: &crate::world::Seen| {
        let since = (seen.start - start).as_secs();
        seen.headers["lovage-task"] == "slow" && (5..10).contains(&since) && !seen.session_order.is_multiple_of(3)
    };
    let store = Arc::new(Traced::new(memory(1)));
    let script = move |seen: &_| if sheds(seen) { Reply::Status(429, "") } else { Reply::Slow(Duration::from_millis(20)) };
    let world = World::over(store, script);
    world.worker("slow", "slow", 20).await;
    world.worker("fine", "fine", 20).await;
    let node = world.start();
    // A hundred a second of each for a minute.
    let mut most_slowed = f64::MAX;
    for tick in 0..600u64 {
        for _ in 0..10 {
            world.submit(patient("slow")).await;
            world.submit(patient("fine")).await;
        }
        sleep(Duration::from_millis(100)).await;
        if tick > 20 && tick % 10 == 5 {
            let boards = world.store.boards().await.unwrap();
            let board = Board::decode(&boards[0].1).unwrap();
            let slow = board.worker(Ns::DEFAULT, "slow", false).unwrap().clone();
            let fine = board.worker(Ns::DEFAULT, "fine", false).unwrap().clone();
            most_slowed = slow.effective_rate.unwrap_or(f64::MAX).min(most_slowed);
            assert_eq!((fine.effective_rate, fine.paused_until), (None, None));
            assert!(slow.instances[0].open <= 20);
            let queue = board.queue(Ns::DEFAULT, "default").unwrap();
            // All that came, but for the last second and a half.
            assert!((20 * tick.saturating_sub(15)..=20 * (tick + 1)).contains(&queue.accepted), "{queue:?}");
            assert!(queue.started > 0 && queue.finished > 0, "{queue:?}");
        }
    }
    world.until_quiet().await;
    let (slow, fine) = (seconds(&world, "slow", start, 80), seconds(&world, "fine", start, 60));
    println!("slow, a second: {slow:?}\nlowest effective rate: {most_slowed:.1}");
    assert!(fine[1..].iter().all(|n| (90..=110).contains(n)), "the other one is not slowed: {fine:?}");
    assert!((1.0..60.0).contains(&most_slowed), "{most_slowed}");
    assert!(slow[6..10].iter().sum::<usize>() < 250, "{slow:?}");
    // Gradually, and all of it in the end: what has waited goes too.
    assert!(slow[10..].windows(2).all(|pair| pair[1] <= pair[0] * 3 + 30), "{slow:?}");
    assert!(slow[45..60].iter().all(|n| *n >= 90), "{slow:?}");
    node.stop().await;
    assert!(world.store.boards().await.unwrap().is_empty(), "a clean stop takes the board away");
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_a_worker_gets_few_at_first() {
    let start = Instant::now();
    let world =
        World::new(
            move |seen| {
                if seen.start < start + 10 * SECOND { Reply::Fault(FaultKind::Refused) } else { Reply::Slow(SECOND / 2) }
            },
        );
    world.worker("w", "t", 100).await;
    let node = world.start();
    for _ in 0..1_000 {
        world.submit(patient("t")).await;
    }
    world.until_quiet().await;
    let first = world.transport.seen.lock().iter().filter(|seen| seen.start >= start + 10 * SECOND).map(|seen| seen.start).min();
    let rows = seconds(&world, "t", first.unwrap(), 15);
    println!("after the outage, a second: {rows:?}");
    assert!(rows[0] <= 4 && rows[1] <= 8 && rows[4] < 40, "{rows:?}");
    assert!(rows[12] >= 150, "all again: {rows:?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_says_is_left_is_kept_to() {
    let world = World::over(memory(4), |seen| {
        let left = 100u64.saturating_sub(seen.session_order % 100 + 1);
        Reply::Header(200, "ratelimit", if left > 5 { "\"d\";r=50;t=10" } else { "\"d\";r=0;t=10" })
    });
    world.worker("w", "t", 1).await;
    let node = world.start();
    let start = Instant::now();
    for _ in 0..200 {
        world.submit(call("t")).await;
    }
    world.until_quiet().await;
    let rows = seconds(&world, "t", start, 120);
    println!("with an allowance, a second: {rows:?}");
    // It is closed for ten seconds whenever nothing is left, and asked once in between.
    assert!(rows.iter().filter(|n| **n == 0).count() >= 50, "{rows:?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_worker_gets_nothing_new() {
    let world = World::new(|_| Reply::Slow(5 * SECOND));
    let worker = |paused| WorkerConfig {
        urls: vec!["http://127.0.0.1:9/".into()],
        tasks: vec!["t".into()],
        paused,
        ..WorkerConfig::default()
    };
    world.put(DocKind::Worker, "w", &worker(None)).await;
    let node = world.start();
    let open = world.submit(call("t")).await;
    world.until(&open, "running", |head| head.attempt == 1).await;
    world.put(DocKind::Worker, "w", &worker(Some(WorkerPause { until: None, drain: true }))).await;
    sleep(SECOND).await;
    let waits = world.submit(call("t")).await;
    // What is open ends as ever.
    assert_eq!(world.until_final(&open).await.attempt, 1);
    sleep(60 * SECOND).await;
    assert_eq!(world.head(&waits).await.attempt, 0);
    world.put(DocKind::Worker, "w", &worker(None)).await;
    assert_eq!(world.until_final(&waits).await.attempt, 1);
    // One with an end is over by itself.
    let until = Millis(world.store.clock().now().0 + 30_000);
    world.put(DocKind::Worker, "w", &worker(Some(WorkerPause { until: Some(until), drain: false }))).await;
    sleep(SECOND).await;
    let later = world.submit(call("t")).await;
    world.until_final(&later).await;
    let pushed = world.pushes()[&later.id.to_string()][0].start;
    let at = Millis(world.store.clock().now().0 - pushed.elapsed().as_millis() as u64);
    assert!(at >= until && at <= until.after(SECOND), "{at:?}, not {until:?}");
    node.stop().await;
}
