//! Stores that stay away, answers that come late or never, feeds that are cut short: nothing is lost and nothing is open twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lovage_core::units::Dur;
use lovage_core::{Spec, State, TaskKey};
use lovage_dispatcher::{Options, Uptime};
use lovage_store::wrap::{Fault, Faulty, Verb};
use lovage_store::{Parts, Store};
use tokio::time::{Instant, sleep};

use crate::world::{Node, Reply, World, call, memory, memory_with};

fn slow(seconds: u64) -> Reply {
    Reply::Slow(Duration::from_secs(seconds))
}

fn faulty(world: &World) -> (Arc<Faulty>, Arc<dyn Store>) {
    let faulty = Arc::new(Faulty::new(Arc::clone(&world.store)));
    (Arc::clone(&faulty), faulty)
}

#[tokio::test(start_paused = true)]
async fn attempts_closed_in_an_outage_are_made_again() {
    let world = World::new(|seen| if seen.attempt == 1 { slow(50) } else { slow(1) });
    world.worker("w", "*", 5).await;
    let (faults, store) = faulty(&world);
    let node = world.start_over(store);
    let key = world.submit(call("t")).await;
    world.until_state(&key, State::Running).await;
    faults.set_away(true);
    sleep(Duration::from_secs(20)).await;
    assert!(world.pushes()[&key.id.to_string()][0].end.is_some(), "closed before somebody else may start it");
    faults.heal();
    let healed = Instant::now();
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.lost), (State::Succeeded, 2, 1));
    assert!(healed.elapsed() < Duration::from_secs(10), "{:?}", healed.elapsed());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_closed_the_moment_the_lease_may_be_over() {
    let world = World::new(|_| slow(55));
    world.worker("w", "*", 5).await;
    let (faults, store) = faulty(&world);
    let (renew_every, close_after) = (Duration::from_secs(5), Duration::from_millis(12_500));
    let options = Options { renew_every, close_after, ..Options::default() };
    let start = Instant::now();
    let node = world.start_with(store, options);
    let key = world.submit(call("t")).await;
    world.until_state(&key, State::Running).await;
    sleep(start + Duration::from_secs(6) - Instant::now()).await;
    // A store that does not answer at all gives the loop nothing to wake up for.
    faults.script(Verb::Own, [Some(Fault::Delay(Duration::from_secs(60)))]);
    sleep(Duration::from_secs(30)).await;
    // The last renewal that succeeded began after 5 s.
    let closed = world.pushes()[&key.id.to_string()][0].end.unwrap() - start;
    assert!((Duration::from_millis(17_500)..Duration::from_millis(17_550)).contains(&closed), "{closed:?}");
    faults.heal();
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_suspended_closes_what_it_had_open() {
    let world = World::new(|seen| slow(if seen.attempt == 1 { 55 } else { 1 }));
    world.worker("w", "*", 5).await;
    let (start, asleep) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let slept = Arc::clone(&asleep);
    let uptime: Uptime = Arc::new(move || start.elapsed() + Duration::from_secs(slept.load(Ordering::Relaxed)));
    let node = world.start_on(Arc::clone(&world.store), Options::default(), Some(uptime));
    let key = world.submit(call("t")).await;
    world.until_state(&key, State::Running).await;
    sleep(Duration::from_secs(5)).await;
    // No timer of the process sees it.
    asleep.store(60, Ordering::Relaxed);
    let head = world.until_final(&key).await;
    let pushes = &world.pushes()[&key.id.to_string()];
    let closed = pushes[0].end.unwrap() - start;
    assert!(closed < Duration::from_millis(7_500), "{closed:?}");
    assert_eq!((head.state, head.attempt, head.lost), (State::Succeeded, 2, 1));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_that_could_not_be_stored_in_an_outage_is_stored_afterwards() {
    let world = World::new(|_| slow(5));
    world.worker("w", "*", 5).await;
    let (faults, store) = faulty(&world);
    let node = world.start_over(store);
    let key = world.submit(call("t")).await;
    world.until_state(&key, State::Running).await;
    faults.set_away(true);
    sleep(Duration::from_secs(20)).await;
    faults.heal();
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt), (State::Succeeded, 1));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_answers_after_the_lease_starts_nothing() {
    let world = World::new(|_| slow(40));
    world.worker("w", "*", 5).await;
    let (faults, store) = faulty(&world);
    let late = world.start_over(store);
    sleep(Duration::from_secs(1)).await;
    faults.script(Verb::Claim, [Some(Fault::Late(Duration::from_secs(20)))]);
    faults.script(Verb::Own, [Some(Fault::Before); 9]);
    let key = world.submit(call("t")).await;
    let other = world.start();
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.lost), (State::Succeeded, 2, 1));
    let pushes = &world.pushes()[&key.id.to_string()];
    assert_eq!(pushes.iter().map(|push| push.attempt).collect::<Vec<_>>(), [2]);
    late.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_never_reached_the_store_is_made_again() {
    let world = World::new(|_| Reply::Status(200, ""));
    world.worker("w", "*", 5).await;
    let (faults, store) = faulty(&world);
    let node = world.start_over(store);
    sleep(Duration::from_secs(1)).await;
    faults.script(Verb::Claim, [Some(Fault::Lost)]);
    let key = world.submit(call("t")).await;
    let start = Instant::now();
    assert_eq!(world.until_final(&key).await.state, State::Succeeded);
    assert!(start.elapsed() < Duration::from_secs(5));
    node.stop().await;
}

/// The feed shows a task as waiting after its attempt was pushed, and the claim that this leads to is lost.
async fn shown_again_after_its_push(world: &World) -> (Node, TaskKey) {
    world.worker("w", "*", 5).await;
    let (faults, store) = faulty(world);
    // It comes between the look at the feed's end and the look at the lanes: both tell of it, the feed later.
    faults.script(Verb::Lanes, [Some(Fault::Delay(Duration::from_millis(100)))]);
    faults.script(Verb::Feed, [Some(Fault::Late(Duration::from_millis(200)))]);
    faults.script(Verb::Claim, [None, Some(Fault::Lost)]);
    let node = world.start_over(store);
    sleep(Duration::from_millis(50)).await;
    let key = world.submit(call("t")).await;
    sleep(Duration::from_secs(1)).await;
    (node, key)
}

#[tokio::test(start_paused = true)]
async fn an_accepted_attempt_is_not_taken_for_a_lost_claim() {
    let world = World::new(|_| Reply::Header(202, "lovage-lease", "60"));
    let (node, key) = shown_again_after_its_push(&world).await;
    assert!(world.head(&key).await.is_accepted());
    assert_eq!(world.pushes()[&key.id.to_string()].len(), 1);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_open_attempt_is_not_taken_for_a_lost_claim() {
    let world = World::new(|_| slow(10));
    let (node, key) = shown_again_after_its_push(&world).await;
    assert_eq!(world.until_final(&key).await.state, State::Succeeded);
    assert_eq!(world.pushes()[&key.id.to_string()].len(), 1);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_free_slot_is_not_kept_for_a_lane_that_has_nothing() {
    let world = World::new(|seen| if seen.session_order == 0 { slow(10) } else { slow(1) });
    world.worker("w", "*", 1).await;
    let node = world.start();
    let first = world.submit(call("a")).await;
    world.until_state(&first, State::Running).await;
    let mut gone = Vec::new();
    for name in ["b", "c", "d"] {
        gone.push(world.submit(call(name)).await);
    }
    let waits = world.submit(call("e")).await;
    sleep(Duration::from_secs(1)).await;
    for key in &gone {
        world.cancel(key, false).await;
    }
    let start = Instant::now();
    world.until_final(&waits).await;
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_seen_by_an_owner_that_fell_behind() {
    let world = World::over(memory_with(1, Some(0)), |_| slow(50));
    world.worker("w", "*", 5).await;
    let (faults, store) = faulty(&world);
    let node = world.start_over(store);
    let key = world.submit(call("t")).await;
    world.until_state(&key, State::Running).await;
    faults.script(Verb::Feed, [Some(Fault::Delay(Duration::from_secs(10)))]);
    let other = world.submit(call("t")).await;
    world.until_state(&other, State::Running).await;
    let start = Instant::now();
    world.cancel(&key, true).await;
    assert_eq!(world.until_final(&key).await.state, State::Canceled);
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_comes_right_after_a_claim_starts_at_once() {
    let world = World::new(|_| slow(50));
    world.worker("w", "*", 100).await;
    let node = world.start();
    for _ in 0..20 {
        let key = world.submit(call("t")).await;
        world.until_state(&key, State::Running).await;
    }
    // Off the owner's own ticks.
    sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    let first = world.submit(call("t")).await;
    while world.head(&first).await.state != State::Running {
        tokio::task::yield_now().await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    let second = world.submit(call("t")).await;
    world.until_state(&second, State::Running).await;
    assert!(start.elapsed() < Duration::from_millis(20), "{:?}", start.elapsed());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn attempts_that_a_stop_could_not_give_back_are_found_by_the_next_owner() {
    let world = World::over(memory(1), |seen| if seen.attempt == 1 { slow(55) } else { slow(1) });
    world.worker("w", "*", 5).await;
    let (faults, store) = faulty(&world);
    let node = world.start_over(store);
    let key = world.submit(call("t")).await;
    world.until_state(&key, State::Running).await;
    faults.script(Verb::Commit, std::iter::repeat_n(Some(Fault::Before), 1_000_000));
    node.stop().await;
    let node = world.start();
    let start = Instant::now();
    assert_eq!(world.until_final(&key).await.attempt, 2);
    assert!(start.elapsed() < Duration::from_secs(30));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_only_the_store_knows_is_found_when_its_session_leaves() {
    let world = World::new(|_| slow(1));
    world.worker("w", "*", 5).await;
    let (faults, store) = faulty(&world);
    let node = world.start_over(store);
    sleep(Duration::from_secs(1)).await;
    // The claim is carried out, and nobody hears of it until the lease is over.
    faults.script(Verb::Claim, [Some(Fault::After)]);
    let key = world.submit(call("t")).await;
    sleep(Duration::from_millis(10)).await;
    faults.set_away(true);
    sleep(Duration::from_secs(15)).await;
    faults.heal();
    faults.script(Verb::Commit, [Some(Fault::Before)]);
    node.stop().await;
    let start = Instant::now();
    let node = world.start();
    world.until_final(&key).await;
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_the_store_cannot_handle_does_not_keep_the_others() {
    let world = World::new(|_| slow(3));
    world.worker("w", "*", 20).await;
    let (faults, store) = faulty(&world);
    let mut keys = Vec::new();
    let due = Some(world.store.clock().now().after(Duration::from_secs(60)));
    for n in 0..20 {
        keys.push(world.submit_with(call("t"), 4, due.filter(|_| n >= 10), None).await);
    }
    let node = world.start_over(store);
    let (ends, waits) = (keys.remove(7), keys.remove(12));
    world.until_state(&ends, State::Running).await;
    faults.damage(&ends);
    faults.damage(&waits);
    let start = Instant::now();
    for key in &keys {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    assert!(start.elapsed() < Duration::from_secs(65), "{:?}", start.elapsed());
    assert_eq!((world.head(&ends).await.state, world.head(&waits).await.state), (State::Running, State::Scheduled));
    // It holds up neither the stop nor the next life, and is found once it can be read again.
    let start = Instant::now();
    node.stop().await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let node = world.start();
    for key in [ends, waits] {
        assert_eq!(world.until_final(&key).await.state, State::Succeeded);
    }
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_page_is_not_the_end_of_an_index() {
    let world = World::new(|_| Reply::Status(200, ""));
    world.worker("w", "*", 5).await;
    let due = Some(world.store.clock().now().after(Duration::from_secs(30)));
    let short = Spec { retention: Some(Dur::from_secs(60)), result_ttl: Some(Dur::from_secs(60)), ..call("t") };
    let waits = world.submit_with(short.clone(), 4, None, None).await;
    let later = world.submit_with(short, 4, due, None).await;
    let (faults, store) = faulty(&world);
    faults.set_thin();
    let start = Instant::now();
    let node = world.start_over(store);
    world.until_final(&waits).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    world.until_final(&later).await;
    assert!(start.elapsed() < Duration::from_secs(31), "{:?}", start.elapsed());
    sleep(Duration::from_secs(120)).await;
    for key in [waits, later] {
        let stored = world.store.get(world.partition(&key), &key, Parts::default()).await.unwrap();
        assert!(stored.is_none(), "it is deleted when its time is over");
    }
    node.stop().await;
}
