//! Several dispatchers over one store: shares, hand-overs, crashes, drains, fences.

use std::time::Duration;

use lovage_core::{Partition, State, TaskKey};
use lovage_store::{OwnRequest, Want};
use tokio::time::{Instant, sleep};

use crate::world::{Node, Reply, World, call, memory};

const PARTITIONS: u16 = 16;

async fn world(seconds: u64) -> World {
    let world = World::over(memory(PARTITIONS), move |_| Reply::Slow(Duration::from_secs(seconds)));
    world.worker("w", "*", 1_000).await;
    world
}

/// Two that share the partitions.
async fn pair(world: &World) -> (Node, Node) {
    let (one, other) = (world.start(), world.start());
    world.until_owned(&[&one, &other], &[8, 8]).await;
    (one, other)
}

/// Submits a task every 20 ms for this long, to all partitions in turn; answers them with the times of submission.
async fn load(world: &World, time: Duration) -> Vec<(TaskKey, Instant)> {
    let start = Instant::now();
    let mut tasks = Vec::new();
    while start.elapsed() < time {
        tasks.push((world.submit(call("t")).await, Instant::now()));
        sleep(Duration::from_millis(20)).await;
    }
    tasks
}

/// Every task was pushed once; answers the longest time from submission to the push.
async fn longest_stall(world: &World, tasks: &[(TaskKey, Instant)]) -> Duration {
    let mut longest = Duration::ZERO;
    for (key, _) in tasks {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    let pushes = world.pushes();
    for (key, submitted) in tasks {
        let pushes = &pushes[&key.id.to_string()];
        assert_eq!(pushes.len(), 1, "{} was pushed twice", key.id);
        longest = longest.max(pushes[0].start - *submitted);
    }
    longest
}

#[tokio::test(start_paused = true)]
async fn one_alone_owns_all_at_once() {
    let world = world(0).await;
    let node = world.start();
    assert!(world.until_owned(&[&node], &[16]).await < Duration::from_millis(50));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_joins_gets_its_share_when_the_patience_is_over() {
    let world = world(1).await;
    let one = world.start();
    world.until_owned(&[&one], &[16]).await;
    let other = world.start();
    sleep(Duration::from_secs(9)).await;
    assert_eq!(world.owned(&[&one, &other]).await, [16, 0]);
    let tasks = load(&world, Duration::from_secs(12)).await;
    assert_eq!(world.owned(&[&one, &other]).await, [8, 8]);
    let stall = longest_stall(&world, &tasks).await;
    assert!(stall < Duration::from_millis(100), "{stall:?}");
    let third = world.start();
    let time = world.until_owned(&[&one, &other, &third], &[5, 6, 5]).await;
    assert!(time < Duration::from_secs(20), "{time:?}");
    for node in [one, other, third] {
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_moves_without_need() {
    let world = world(0).await;
    let (one, other) = pair(&world).await;
    let owners = async || {
        let mut owners = Vec::new();
        for p in 0..PARTITIONS {
            owners.push(world.store.ownership(Partition(p)).await.unwrap().owner.map(|(session, _)| session));
        }
        owners
    };
    let before = owners().await;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(owners().await, before);
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rolling_restart_stalls_nothing_and_repeats_nothing() {
    let world = world(5).await;
    let (one, other) = pair(&world).await;
    let restarts = async {
        sleep(Duration::from_secs(1)).await;
        let first = world.start();
        one.stop().await;
        sleep(Duration::from_secs(3)).await;
        let second = world.start();
        other.stop().await;
        sleep(Duration::from_secs(20)).await;
        world.until_owned(&[&first, &second], &[8, 8]).await;
        (first, second)
    };
    let ((first, second), tasks) = tokio::join!(restarts, load(&world, Duration::from_secs(40)));
    let stall = longest_stall(&world, &tasks).await;
    assert!(stall < Duration::from_millis(100), "{stall:?}");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_heirs_take_over_when_the_lease_ends() {
    let world = World::over(memory(PARTITIONS), |seen| Reply::Slow(Duration::from_secs(if seen.attempt == 1 { 40 } else { 1 })));
    world.worker("w", "*", 1_000).await;
    let (one, other) = pair(&world).await;
    let mut keys = Vec::new();
    for _ in 0..PARTITIONS {
        keys.push(world.submit(call("t")).await);
    }
    for key in &keys {
        world.until_state(key, State::Running).await;
    }
    let killed = Instant::now();
    let session = one.session;
    one.kill();
    let time = world.until_owned(&[&other], &[16]).await;
    assert!(time > Duration::from_secs(12) && time < Duration::from_millis(15_100), "{time:?}");
    for key in &keys {
        let head = world.until_final(key).await;
        assert_eq!(head.attempt, if head.lost > 0 { 2 } else { 1 });
    }
    for pushes in world.pushes().values().filter(|pushes| pushes.len() > 1) {
        assert!(pushes[1].start - killed < Duration::from_millis(15_200), "{:?}", pushes[1].start - killed);
    }
    for p in 0..PARTITIONS {
        let seen = world.store.ownership(Partition(p)).await.unwrap();
        assert!(seen.sessions.iter().all(|lease| lease.session != session), "forgotten when all is settled");
    }
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_push_outlives_the_hand_over_of_its_partition() {
    let world = world(30).await;
    let one = world.start();
    world.until_owned(&[&one], &[16]).await;
    let mut keys = Vec::new();
    for _ in 0..64 {
        keys.push(world.submit(call("t")).await);
    }
    let other = world.start();
    world.until_owned(&[&one, &other], &[8, 8]).await;
    // Some are with the former owner of their partition; it still hears of cancels.
    let canceled = &keys[..32];
    for key in canceled {
        assert_eq!(world.head(key).await.session, one.session);
        world.cancel(key, true).await;
    }
    sleep(Duration::from_millis(50)).await;
    for key in canceled {
        assert_eq!(world.head(key).await.state, State::Canceled);
        assert!(world.pushes()[&key.id.to_string()][0].end.is_some(), "its connection is closed");
    }
    for key in &keys[32..] {
        let head = world.until_final(key).await;
        assert_eq!((head.state, head.attempt), (State::Succeeded, 1));
    }
    assert!(world.pushes().values().all(|pushes| pushes.len() == 1));
    one.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_drains_gives_all_up_and_takes_none_until_it_works_again() {
    let world = world(20).await;
    let (one, other) = pair(&world).await;
    let mut keys = Vec::new();
    for _ in 0..32 {
        keys.push(world.submit(call("t")).await);
    }
    sleep(Duration::from_millis(100)).await;
    world.drain(&one, true).await;
    let time = world.until_owned(&[&one, &other], &[0, 16]).await;
    assert!(time < Duration::from_millis(100), "{time:?}");
    for key in &keys {
        let head = world.until_final(key).await;
        assert_eq!((head.state, head.attempt), (State::Succeeded, 1));
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.owned(&[&one, &other]).await, [0, 16]);
    let alive = world.store.ownership(Partition(3)).await.unwrap();
    assert!(alive.sessions.iter().any(|lease| lease.session == one.session && lease.until > alive.now), "it lives on");
    world.drain(&one, false).await;
    world.until_owned(&[&one, &other], &[8, 8]).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_drains_alone_leaves_its_tasks_waiting() {
    let world = world(1).await;
    let one = world.start();
    world.until_owned(&[&one], &[16]).await;
    world.drain(&one, true).await;
    world.until_owned(&[&one], &[0]).await;
    let key = world.submit(call("t")).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.head(&key).await.state, State::Queued);
    world.drain(&one, false).await;
    assert!(world.until_owned(&[&one], &[16]).await < Duration::from_millis(50));
    world.until_final(&key).await;
    one.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fenced_node_ends_and_its_attempts_are_made_again_at_once() {
    let world = World::over(memory(PARTITIONS), |seen| Reply::Slow(Duration::from_secs(if seen.attempt == 1 { 50 } else { 1 })));
    world.worker("w", "*", 1_000).await;
    let one = world.start();
    world.until_owned(&[&one], &[16]).await;
    let key = world.submit(call("t")).await;
    world.until_state(&key, State::Running).await;
    let other = world.start();
    sleep(Duration::from_secs(1)).await;
    let fenced = Instant::now();
    for p in 0..PARTITIONS {
        let fence = OwnRequest { session: one.session, want: Want::Fence, lease: Duration::ZERO, drop: Vec::new() };
        world.store.own(Partition(p), fence).await.unwrap();
    }
    one.ended().await;
    assert!(fenced.elapsed() < Duration::from_millis(2_100), "{:?}", fenced.elapsed());
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.lost), (State::Succeeded, 2, 1));
    assert!(fenced.elapsed() < Duration::from_secs(5), "{:?}", fenced.elapsed());
    world.until_owned(&[&other], &[16]).await;
    other.stop().await;
}
