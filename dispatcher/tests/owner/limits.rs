//! Limits as owners keep them: over several dispatchers, for attempts of every kind, and whatever changes meanwhile.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::{Event, Head, Outcome, Partition, SessionId, Spec, State, TaskLimit};
use lovage_store::wrap::{Fault, Faulty, Verb};
use lovage_store::{DocKind, Hold, Holder, LimitRequest};
use tokio::time::{Instant, sleep};

use crate::world::{Node, Reply, Seen, World, call, memory};

const PARTITIONS: u16 = 8;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn limit(key: &str, rate: Option<&str>, concurrency: Option<u32>) -> TaskLimit {
    let rate = rate.map(|rate| rate.parse().unwrap());
    TaskLimit { key: key.into(), rate, burst: None, concurrency, cost: 1 }
}

fn held(limits: &[TaskLimit]) -> Spec {
    Spec { limits: limits.to_vec(), ..call("t") }
}

async fn world(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> World {
    let world = World::over(memory(PARTITIONS), reply);
    world.worker("w", "*", 10_000).await;
    world
}

/// Waits until each of them has a share of the partitions.
async fn all_own(world: &World, nodes: &[Node]) {
    let nodes: Vec<&Node> = nodes.iter().collect();
    let start = Instant::now();
    loop {
        let owned = world.owned(&nodes).await;
        if owned.iter().sum::<usize>() == usize::from(PARTITIONS) && owned.iter().max() <= Some(&(owned[0].min(owned[1]) + 1)) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{owned:?}");
        sleep(ms(5)).await;
    }
}

fn starts(world: &World) -> Vec<Instant> {
    let mut starts: Vec<Instant> = world.transport.seen.lock().iter().map(|seen| seen.start).collect();
    starts.sort_unstable();
    starts
}

/// The most pushes that were open at one moment.
fn most_open(world: &World) -> i32 {
    most_open_at_starts_after(world, None)
}

/// … when one of them started after this.
fn most_open_at_starts_after(world: &World, from: Option<Instant>) -> i32 {
    let seen = world.transport.seen.lock();
    let mut edges: Vec<(Instant, i32)> = seen.iter().map(|seen| (seen.start, 1)).collect();
    edges.extend(seen.iter().filter_map(|seen| Some((seen.end?, -1))));
    edges.sort_unstable();
    let mut open = 0;
    let each = edges.into_iter().map(|(at, edge)| {
        open += edge;
        if edge > 0 && Some(at) > from { open } else { 0 }
    });
    each.max().unwrap_or_default()
}

async fn in_use(world: &World, key: &str) -> u32 {
    let look = LimitRequest::look(lovage_core::Ns::DEFAULT, key, lovage_core::LimitRule::default());
    world.store.limit(vec![look]).await.unwrap().remove(0).unwrap().in_use
}

#[tokio::test(start_paused = true)]
async fn a_rate_holds_over_three_nodes_also_when_one_is_killed() {
    let world = world(|_| Reply::Slow(ms(3))).await;
    let nodes = [world.start(), world.start(), world.start()];
    all_own(&world, &nodes).await;
    for _ in 0..3_000 {
        world.submit(held(&[limit("k", Some("100/s"), None)])).await;
    }
    sleep(Duration::from_secs(7)).await;
    let [one, two, three] = nodes;
    two.kill();
    sleep(Duration::from_secs(15)).await;
    let starts = starts(&world);
    let begin = starts[100];
    let count = starts.iter().filter(|at| **at >= begin && **at < begin + Duration::from_secs(20)).count();
    assert!((1_900..=2_100).contains(&count), "{count} in 20 s");
    let second = |first: &Instant| starts.iter().filter(|at| *at >= first && **at < *first + Duration::from_secs(1)).count();
    let most = starts.iter().map(second).max().unwrap();
    assert!(most <= 106, "{most} in a second");
    one.stop().await;
    three.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_over_three_nodes_loses_no_time() {
    let world = world(|_| Reply::Slow(ms(5))).await;
    let nodes = [world.start(), world.start(), world.start()];
    all_own(&world, &nodes).await;
    for _ in 0..1_500 {
        world.submit(held(&[limit("k", None, Some(1))])).await;
    }
    let before = starts(&world).len();
    sleep(Duration::from_secs(5)).await;
    let count = starts(&world).len() - before;
    assert!(count >= 500, "{count} in 5 s");
    assert_eq!(most_open(&world), 1);
    for node in nodes {
        node.stop().await;
    }
    assert_eq!(in_use(&world, "k").await, 0);
}

/// Of one key some lanes wait for a slot while others have one and wait for a start: each gets what it waits for.
#[tokio::test(start_paused = true)]
async fn a_key_with_a_rate_and_a_concurrency_gives_all_of_its_rate() {
    for nodes in 1..=2 {
        let world = world(|_| Reply::Slow(ms(5))).await;
        let nodes: Vec<Node> = (0..nodes).map(|_| world.start()).collect();
        for n in 0..400 {
            // Lanes with other keys besides.
            let other = limit(&format!("other {}", n % 5), None, Some(1));
            let limits = [limit("k", Some("20/s"), Some(1)), other];
            let spec = Spec { fair_key: Some(format!("{}", n % 3)), ..held(&limits[..=n % 2]) };
            world.submit(spec).await;
        }
        sleep(Duration::from_secs(10)).await;
        let count = starts(&world).len();
        assert!((180..=202).contains(&count), "{count} in 10 s with {} nodes", nodes.len());
        assert_eq!(most_open(&world), 1);
        for node in nodes {
            node.kill();
        }
    }
}

/// Others take each slot as it comes, and whoever needs a start of a slow rate as well gets both nevertheless.
#[tokio::test(start_paused = true)]
async fn a_slot_that_is_always_taken_and_a_slow_start_come_together() {
    for nodes in 1..=2 {
        let world = world(|_| Reply::Slow(ms(40))).await;
        let nodes: Vec<Node> = (0..nodes).map(|_| world.start()).collect();
        let [often, seldom] = [limit("often", None, Some(2)), limit("seldom", Some("1/s"), None)];
        for n in 0..1_500 {
            world.submit(Spec { fair_key: Some(format!("{}", n % 5)), ..held(std::slice::from_ref(&often)) }).await;
        }
        let mut both = Vec::new();
        for n in 0..10 {
            both.push(
                world.submit(Spec { fair_key: Some(format!("both {}", n % 3)), ..held(&[often.clone(), seldom.clone()]) }).await,
            );
        }
        sleep(Duration::from_secs(20)).await;
        let mut ended = 0;
        for key in &both {
            ended += usize::from(world.head(key).await.state == State::Succeeded);
        }
        assert_eq!(ended, 10, "with {} nodes", nodes.len());
        // Two at a time, of 40 ms: what was kept in vain cost little.
        let count = starts(&world).len();
        assert!(count >= 850, "{count} in 20 s with {} nodes", nodes.len());
        for node in nodes {
            node.kill();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn three_limits_are_kept_and_a_rule_may_change_or_go_while_tasks_run() {
    let world = world(|_| Reply::Slow(ms(200))).await;
    world.put(DocKind::Queue, "default", &serde_json::json!({"concurrency": 4})).await;
    world.put(DocKind::TaskType, "t*", &serde_json::json!({"rate": "50/s"})).await;
    let nodes = [world.start(), world.start()];
    all_own(&world, &nodes).await;
    let mut keys = Vec::new();
    for _ in 0..400 {
        keys.push(world.submit(held(&[limit("k", None, Some(3))])).await);
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(most_open(&world), 3);
    world.put(DocKind::Limit, "k", &serde_json::json!({"concurrency": 9})).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(most_open(&world), 4);
    world.put(DocKind::Queue, "default", &serde_json::json!({})).await;
    let changed = Instant::now();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(most_open(&world), 9);
    let fast = starts(&world).iter().filter(|at| **at > changed + ms(500)).count();
    assert!((180..=230).contains(&fast), "nine at a time or 50 a second: {fast}");
    for key in &keys {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn accepted_attempts_count_until_they_end_also_for_the_next_owner() {
    let world = world(|_| Reply::Header(202, "lovage-lease", "1h")).await;
    let node = world.start();
    world.until_owned(&[&node], &[8]).await;
    let mut keys = Vec::new();
    for _ in 0..6 {
        keys.push(world.submit(held(&[limit("k", None, Some(2))])).await);
    }
    sleep(Duration::from_secs(3)).await;
    let accepted = async |world: &World| {
        let mut accepted = Vec::new();
        for key in &keys {
            let head: Head = world.head(key).await;
            if head.is_accepted() {
                accepted.push(key.clone());
            }
        }
        accepted
    };
    let first = accepted(&world).await;
    assert_eq!((first.len(), in_use(&world, "k").await), (2, 2));
    // The partitions change hands; what runs is still counted.
    let heir = world.start();
    node.stop().await;
    world.until_owned(&[&heir], &[8]).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(accepted(&world).await, first);
    assert_eq!(in_use(&world, "k").await, 2);
    // One ends: the next starts at once.
    let ended = Instant::now();
    world.cancel(&first[0], true).await;
    let next = loop {
        let now = accepted(&world).await;
        if now.len() == 2 && !now.contains(&first[0]) {
            break now;
        }
        assert!(ended.elapsed() < Duration::from_secs(5));
        sleep(ms(10)).await;
    };
    assert!(ended.elapsed() < ms(500), "{:?}", ended.elapsed());
    assert_eq!((next.len(), in_use(&world, "k").await), (2, 2));
    heir.stop().await;
}

/// Fewer may run by the new rule than do: what ends makes no room until it is kept.
#[tokio::test(start_paused = true)]
async fn a_concurrency_that_is_lowered_is_kept_as_soon_as_enough_have_ended() {
    let world = world(|seen| Reply::Slow(ms(500 + seen.session_order * 37 % 100))).await;
    world.put(DocKind::Limit, "k", &serde_json::json!({"concurrency": 8})).await;
    let node = world.start();
    world.until_owned(&[&node], &[8]).await;
    for _ in 0..100 {
        world.submit(held(&[limit("k", None, None)])).await;
    }
    sleep(Duration::from_secs(2)).await;
    world.put(DocKind::Limit, "k", &serde_json::json!({"concurrency": 2})).await;
    sleep(Duration::from_secs(1)).await;
    let known = Instant::now();
    sleep(Duration::from_secs(4)).await;
    assert_eq!(most_open_at_starts_after(&world, Some(known)), 2);
    node.stop().await;
}

/// What was accepted may end while nobody owns its partition: whoever takes that counts it no more.
#[tokio::test(start_paused = true)]
async fn what_ended_between_two_owners_is_not_counted() {
    let world = world(|_| Reply::Header(202, "lovage-lease", "1h")).await;
    let node = world.start();
    world.until_owned(&[&node], &[8]).await;
    let first = world.submit(held(&[limit("k", None, Some(1))])).await;
    let accepted = world.until(&first, "accepted", Head::is_accepted).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(in_use(&world, "k").await, 1);
    node.kill();
    let outcome = || Outcome::Success { content_type: None, body: None };
    world.happen(&first, |_| Event::Answered { attempt: accepted.open_attempt(), outcome: outcome() }).await;
    assert_eq!(world.head(&first).await.state, State::Succeeded);
    let heir = world.start();
    let second = world.submit(held(&[limit("k", None, Some(1))])).await;
    let took = Instant::now();
    world.until(&second, "accepted", Head::is_accepted).await;
    assert!(took.elapsed() < Duration::from_secs(40), "{:?}", took.elapsed());
    heir.stop().await;
}

/// What was pushed from one dispatcher and is accepted when another owns its partition is counted by one of them at every moment.
#[tokio::test(start_paused = true)]
async fn what_is_accepted_after_a_hand_over_is_counted_without_a_gap() {
    let world = world(|_| Reply::HeaderAfter(Duration::from_secs(20), 202, "lovage-lease", "1h")).await;
    let node = world.start();
    world.until_owned(&[&node], &[8]).await;
    let first = world.submit(held(&[limit("k", None, Some(1))])).await;
    world.until_state(&first, State::Running).await;
    let slow = Arc::new(Faulty::new(Arc::clone(&world.store)));
    slow.script(Verb::Bodies, vec![Some(Fault::Delay(ms(200))); 1_000]);
    let heir = world.start_over(slow);
    world.drain(&node, true).await;
    world.until_owned(&[&heir], &[8]).await;
    let second = world.submit(held(&[limit("k", None, Some(1))])).await;
    world.until(&first, "accepted", Head::is_accepted).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!((world.head(&second).await.state, in_use(&world, "k").await), (State::Queued, 1));
    node.stop().await;
    heir.stop().await;
}

/// A store that belongs to one process forgets with it what runs; what was accepted goes on.
#[tokio::test(start_paused = true)]
async fn what_is_accepted_is_counted_before_anything_starts() {
    let world = World::over(memory(1), |_| Reply::Header(202, "lovage-lease", "1h"));
    world.worker("w", "*", 10).await;
    world.put(DocKind::Limit, "k", &serde_json::json!({"concurrency": 1})).await;
    let node = world.start();
    let first = world.submit(held(&[limit("k", None, None)])).await;
    world.until(&first, "accepted", Head::is_accepted).await;
    sleep(Duration::from_secs(3)).await;
    node.kill();
    let nothing = |holder| Hold { holder, count: 0, lease: Duration::ZERO };
    let holds = vec![nothing(Holder::Session(SessionId(1))), nothing(Holder::Partition(Partition(0)))];
    let look = LimitRequest::look(lovage_core::Ns::DEFAULT, "k", lovage_core::LimitRule::default());
    world.store.limit(vec![LimitRequest { holds, ..look }]).await.unwrap();
    assert_eq!(in_use(&world, "k").await, 0);
    let slow = Arc::new(Faulty::new(Arc::clone(&world.store)));
    slow.script(Verb::Bodies, vec![Some(Fault::Delay(ms(500))); 100]);
    let second = world.submit(held(&[limit("k", None, None)])).await;
    let free = world.submit(call("t")).await;
    let heir = world.start_over(slow);
    // What nothing is said of does not wait for it.
    world.until(&free, "accepted", Head::is_accepted).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!((world.head(&second).await.state, in_use(&world, "k").await), (State::Queued, 1));
    world.cancel(&first, true).await;
    world.until(&second, "accepted", Head::is_accepted).await;
    heir.stop().await;
}
