//! Tasks that are delivered together.

use std::time::Duration;

use lovage_core::units::Dur;
use lovage_core::{AttemptEntry, Batching, Reason, Spec, State, TaskKey};
use lovage_dispatcher::Options;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::world::{Reply, Seen, World, call};

const MAX_WAIT: Duration = Duration::from_millis(50);

fn batched(max: u16) -> Spec {
    let batch = Batching { key: "k".into(), max, max_wait: Dur::from_millis(50) };
    Spec { batch: Some(batch), ..call("t") }
}

fn answer(items: Vec<Value>) -> Reply {
    Reply::Document("application/json", Value::from(items).to_string())
}

fn all_succeed(seen: &Seen) -> Reply {
    if seen.batch() == 0 {
        return Reply::Status(200, "1");
    }
    answer(seen.items().iter().map(|item| json!({"id": item["id"], "outcome": "success", "result": 1})).collect())
}

async fn submit(world: &World, spec: &Spec, count: usize) -> Vec<TaskKey> {
    let mut keys = Vec::new();
    for _ in 0..count {
        keys.push(world.submit(spec.clone()).await);
    }
    keys
}

fn sizes(world: &World) -> Vec<usize> {
    world.transport.seen.lock().iter().map(Seen::batch).collect()
}

async fn last_entry(world: &World, key: &TaskKey) -> AttemptEntry {
    AttemptEntry::decode(world.stored(key).await.attempts.last().unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn full_batches_go_at_once_and_the_rest_after_the_wait() {
    let world = World::new(all_succeed);
    world.batch_worker("w", "*", 10, 3).await;
    let node = world.start();
    let first = world.submit(call("warm-up")).await;
    world.until_final(&first).await;
    let start = Instant::now();
    let keys = submit(&world, &batched(10), 7).await;
    for key in &keys {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    let seen = world.transport.seen.lock()[1..].to_vec();
    assert_eq!(seen.iter().map(Seen::batch).collect::<Vec<_>>(), [3, 3, 1]);
    assert!(seen[1].start - start < MAX_WAIT / 2, "{:?}", seen[1].start - start);
    let waited = seen[2].start - start;
    assert!(waited >= MAX_WAIT && waited < MAX_WAIT * 2, "{waited:?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_for_company_delays_nobody_else() {
    let world = World::new(all_succeed);
    world.batch_worker("w", "*", 1, 100).await;
    let node = world.start();
    world.until_final(&world.submit(call("warm-up")).await).await;
    let (start, lone) = (Instant::now(), world.submit(batched(100)).await);
    world.until_final(&world.submit(call("other")).await).await;
    assert!(start.elapsed() < MAX_WAIT / 2, "{:?}", start.elapsed());
    assert_eq!(world.head(&lone).await.state, State::Queued);
    world.until_final(&lone).await;
    assert_eq!(sizes(&world), [0, 0, 1]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_task_has_its_own_end() {
    let world = World::new(|seen| {
        let ids: Vec<Value> = seen.items().iter().map(|item| item["id"].clone()).collect();
        if ids.len() < 4 {
            return all_succeed(seen);
        }
        answer(vec![
            json!({"id": ids[3], "outcome": "snooze", "after": "1s"}),
            json!({"id": ids[0], "outcome": "success", "result": {"n": 1.50}}),
            json!({"id": "nobody", "outcome": "success"}),
            json!({"id": ids[1], "outcome": "fail", "error": {"type": "E", "message": "m"}}),
        ])
    });
    world.batch_worker("w", "*", 1, 4).await;
    let node = world.start();
    let keys = submit(&world, &batched(4), 4).await;
    let mut ends = Vec::new();
    for key in &keys {
        let head = world.until_final(key).await;
        ends.push((head.state, head.attempt, head.budget));
    }
    // What was left out is charged, what slept is not.
    let done = State::Succeeded;
    assert_eq!(ends, [(done, 1, 0), (State::Failed, 1, 0), (done, 2, 1), (done, 2, 0)]);
    let missing = AttemptEntry::decode(&world.stored(&keys[2]).await.attempts[0]).unwrap();
    assert_eq!((missing.error.unwrap().kind.as_str(), missing.status), ("BatchItemMissing", Some(200)));
    let failed = last_entry(&world, &keys[1]).await;
    assert_eq!(failed.error.unwrap().kind, "E");
    assert!(failed.excerpt.unwrap().contains("\"fail\""));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_speaks_of_the_whole_holds_for_all() {
    let world = World::new(|seen| match seen.session_order {
        0 => Reply::Status(500, ""),
        1 => Reply::Header(429, "retry-after", "2"),
        2 => Reply::Status(200, "{}"),
        _ => Reply::Header(202, "lovage-lease", "5m"),
    });
    world.batch_worker("w", "*", 5, 3).await;
    let node = world.start();
    // All at the same time again, so that they meet.
    let (backoff, jitter) = (lovage_core::retry::Backoff::Fixed, lovage_core::retry::Jitter::None);
    let retry = Some(lovage_core::retry::RetryPolicy { backoff, jitter, ..Default::default() });
    let keys = submit(&world, &Spec { retry, ..batched(3) }, 3).await;
    for key in &keys {
        let head = world.until(key, "accepted", |head| head.reason == Reason::Accepted).await;
        assert_eq!((head.attempt, head.budget), (4, 2));
    }
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_takes_one_slot_and_the_longest_limit() {
    let world = World::new(|_| Reply::Slow(Duration::from_secs(3_600)));
    world.batch_worker("w", "*", 1, 2).await;
    let node = world.start();
    let retry = Some(lovage_core::retry::RetryPolicy { max_attempts: 1, ..Default::default() });
    let spec = |limit: &str| Spec { retry: retry.clone(), time_limit: Some(limit.parse().unwrap()), ..batched(2) };
    let start = Instant::now();
    let mut keys = Vec::new();
    for limit in ["5s", "20s", "7s", "8s"] {
        keys.push(world.submit(spec(limit)).await);
    }
    for key in &keys {
        let head = world.until_final(key).await;
        assert_eq!((head.state, head.reason), (State::Failed, Reason::Timeout));
    }
    let seen = world.transport.seen.lock().clone();
    assert_eq!(seen.iter().map(Seen::batch).collect::<Vec<_>>(), [2, 2]);
    assert!(seen[1].start >= seen[0].end.unwrap(), "one slot");
    let took = seen[0].end.unwrap() - start;
    assert!(took >= Duration::from_secs(20) && took < Duration::from_secs(21), "{took:?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_canceled_leaves_the_connection_to_the_others() {
    let world = World::new(|seen| if seen.batch() == 3 { Reply::Slow(Duration::from_secs(30)) } else { all_succeed(seen) });
    world.batch_worker("w", "*", 1, 3).await;
    let node = world.start();
    let retry = Some(lovage_core::retry::RetryPolicy { max_attempts: 1, ..Default::default() });
    let keys = submit(&world, &Spec { retry, ..batched(3) }, 3).await;
    world.until_state(&keys[2], State::Running).await;
    world.cancel(&keys[1], true).await;
    assert_eq!(world.until_final(&keys[1]).await.state, State::Canceled);
    assert_eq!(world.transport.seen.lock()[0].end, None);
    let start = Instant::now();
    // The scripted worker answers no array.
    assert_eq!(world.until_final(&keys[0]).await.state, State::Failed);
    assert!(start.elapsed() > Duration::from_secs(25));
    assert_eq!(last_entry(&world, &keys[2]).await.error.unwrap().kind, "BadOutcome");
    for key in &submit(&world, &batched(3), 3).await {
        world.until_state(key, State::Running).await;
        world.cancel(key, true).await;
        assert_eq!(world.until_final(key).await.state, State::Canceled);
    }
    // With the last of them the connection goes, and with it the slot.
    world.until_final(&world.submit(batched(3)).await).await;
    assert!(world.transport.seen.lock()[1].end.unwrap() - start < Duration::from_secs(35));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_takes_no_batches_gets_them_one_by_one() {
    let world = World::new(|_| Reply::Status(200, "1"));
    world.worker("w", "*", 10).await;
    let node = world.start();
    for key in &submit(&world, &batched(3), 3).await {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    assert_eq!(sizes(&world), [0, 0, 0]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_goes_with_the_next_request_of_the_slot() {
    let world = World::new(all_succeed);
    world.batch_worker("w", "*", 1, 10).await;
    let options = Options { max_batch: 280, ..Options::default() };
    let node = world.start_with(std::sync::Arc::clone(&world.store), options);
    for key in &submit(&world, &batched(10), 10).await {
        let head = world.until_final(key).await;
        assert_eq!((head.state, head.attempt), (State::Succeeded, 1));
    }
    let seen = world.transport.seen.lock().clone();
    assert!(seen.len() > 1 && seen.iter().all(|seen| seen.body.len() <= 280), "{:?}", sizes(&world));
    assert_eq!(seen.iter().map(Seen::batch).sum::<usize>(), 10);
    assert!(seen.windows(2).all(|pair| pair[1].start >= pair[0].end.unwrap()));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_parent_of_a_batch_is_called_again_in_one() {
    let world = World::new(|seen| {
        if seen.batch() == 0 {
            return Reply::Status(200, "7");
        }
        let item = |item: &Value| {
            if item["children"].is_null() {
                json!({"id": item["id"], "outcome": "spawn", "tasks": [{"task": "child"}]})
            } else {
                json!({"id": item["id"], "outcome": "success", "result": item["children"][0]["result"]})
            }
        };
        answer(seen.items().iter().map(item).collect())
    });
    world.batch_worker("w", "*", 5, 2).await;
    let node = world.start();
    for key in &submit(&world, &batched(2), 2).await {
        let head = world.until_final(key).await;
        assert_eq!((head.state, head.attempt), (State::Succeeded, 2));
        let result = lovage_core::ResultValue::decode(&world.stored(key).await.result.unwrap()).unwrap();
        assert!(matches!(result, lovage_core::ResultValue::Value { bytes, .. } if bytes == "7"));
    }
    node.stop().await;
}
