//! What explanations say of limits, orders, pauses and turns.

use std::time::Duration;

use axum::http::Method;
use lovage_core::board::{Board, InstanceBoard, QueueBoard, WorkerBoard};
use lovage_core::{Event, LimitRule, Millis, Ns, Outcome, Partition, SessionId, TaskError};
use lovage_store::{OwnRequest, Store, Want};
use serde_json::{Value, json};

use crate::harness::{Harness, options, until};
use crate::limits::used;

const JSON: (&str, &str) = ("content-type", "application/json");
const START: u64 = 1_800_000_000_000;

fn at(seconds: u64) -> Value {
    json!(Millis(START + seconds * 1_000).rfc3339())
}

/// A server with a worker for every task.
async fn harness() -> Harness {
    harness_of(4).await
}

async fn harness_of(partitions: u16) -> Harness {
    let h = Harness::with(options(), |memory| memory.partitions = partitions);
    h.call(Method::PUT, "/v1/workers/w", &[JSON], r#"{"url":"http://a.example","tasks":["*"]}"#).await;
    for p in (0..partitions).map(Partition) {
        let lease = Duration::from_secs(3_600);
        h.store.own(p, OwnRequest { session: SessionId(1), want: Want::Own, lease, drop: Vec::new() }).await.unwrap();
    }
    h
}

async fn explained(h: &Harness, id: &str) -> Value {
    h.get(&format!("/v1/tasks/{id}/explain")).await.json()
}

fn codes(said: &Value) -> Vec<&str> {
    said["causes"].as_array().unwrap().iter().map(|cause| cause["code"].as_str().unwrap()).collect()
}

fn text(said: &Value) -> &str {
    said["text"].as_str().unwrap()
}

#[tokio::test]
async fn every_limit_that_does_not_agree_is_named() {
    let h = harness().await;
    let limits = json!([{"key": "calls", "rate": "6/m"}, {"key": "free", "rate": "10/s"}, {"key": "slots", "concurrency": 2}]);
    let id = h.submit(&json!({"task": "a", "limits": limits}).to_string()).await;
    let said = explained(&h, &id).await;
    assert_eq!((codes(&said), &said["reason"], &said["estimated_start"]), (vec![], &json!("ready"), &at(0)));
    let rate = |rate: &str| LimitRule { rate: Some(rate.parse().unwrap()), ..LimitRule::default() };
    used(&h, "calls", rate("6/m"), 0, 1).await;
    used(&h, "slots", LimitRule { concurrency: Some(2), ..LimitRule::default() }, 2, 1).await;
    h.call(Method::PUT, "/v1/task-types/a", &[JSON], r#"{"concurrency":0}"#).await;
    h.call(Method::POST, "/v1/limits/free/pause", &[JSON], json!({"until": at(30)}).to_string()).await;
    let said = explained(&h, &id).await;
    let of = |n: usize| said["causes"][n].clone();
    assert_eq!(codes(&said), ["concurrency", "rate", "paused", "concurrency"]);
    assert_eq!((&of(0)["key"], &of(0)["limit"]), (&json!("task:a"), &json!(0)));
    assert_eq!((&of(1)["key"], &of(1)["until"]), (&json!("calls"), &at(10)));
    assert_eq!((&of(2)["key"], &of(2)["until"]), (&json!("free"), &at(30)));
    assert_eq!(
        (&of(3)["key"], &of(3)["in_use"], &of(3)["limit"], &of(3)["until"]),
        (&json!("slots"), &json!(2), &json!(2), &Value::Null)
    );
    assert_eq!((&said["reason"], &said["next_at"]), (&json!("concurrency"), &Value::Null));
    assert!(text(&said).contains("Limit `slots` lets 2 tasks run at once, and 2 do."), "{said}");
    assert!(text(&said).contains("Limit `task:a` lets no task start: its concurrency is 0."), "{said}");
    // What a stored limit says goes before.
    for key in ["slots", "calls"] {
        h.call(Method::PUT, &format!("/v1/limits/{key}"), &[JSON], r#"{"rate":"1000/s","burst":1000,"concurrency":9}"#).await;
    }
    h.call(Method::DELETE, "/v1/task-types/a", &[JSON], "").await;
    h.clock.advance(Duration::from_secs(10));
    assert_eq!(codes(&explained(&h, &id).await), ["paused"]);
}

#[tokio::test]
async fn a_start_is_estimated_from_the_place_and_the_rate() {
    let h = harness().await;
    let mut ids = Vec::new();
    for priority in [4, 4, 9, 4] {
        let task = json!({"task": "a", "limits": [{"key": "k", "rate": "6/m"}], "priority": priority});
        ids.push(h.submit(&task.to_string()).await);
    }
    let said = explained(&h, &ids[2]).await;
    assert_eq!((&said["lane"]["higher"], codes(&said)), (&json!(0), vec![]));
    let said = explained(&h, &ids[3]).await;
    assert_eq!(said["lane"]["higher"], 1);
    assert!(text(&said).contains("1 task of its queue has a higher priority."), "{said}");
    let before = said["lane"]["ahead"].as_u64().unwrap() + 1;
    let estimate = said["estimated_start"].as_str().unwrap();
    // The first start is due at once, each further one 10 s later.
    assert!(estimate >= at(before * 10).as_str().unwrap() && estimate <= at(35).as_str().unwrap(), "{said}");
    assert!(text(&said).contains("the rate of `k`, 6/m"), "{said}");
}

#[tokio::test]
async fn the_rate_that_holds_a_task_tells_when_it_starts_whatever_its_queue_did_lately() {
    let h = harness_of(1).await;
    let calls = |queue: &str, priority| {
        json!({"task": "a", "queue": queue, "limits": [{"key": "k", "rate": "6/m"}], "priority": priority}).to_string()
    };
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(h.submit(&calls("q", 4)).await);
    }
    // Those that do not pass the limit are not in the way, whatever their priority.
    for _ in 0..5 {
        h.submit(r#"{"task":"a","queue":"q","priority":9}"#).await;
    }
    h.submit(&calls("q", 0)).await;
    let queue = QueueBoard { ns: Ns::DEFAULT, name: "q".into(), started: 1, ..QueueBoard::default() };
    let board = Board { queues: vec![queue], ..Board::default() };
    h.store.publish(SessionId(1), Some(board.encode(10_000).into())).await.unwrap();
    let estimate = async |id: &str| explained(&h, id).await["estimated_start"].clone();
    assert_eq!(estimate(&ids[2]).await, at(20));
    // Those of other queues are: all with a higher priority, of the others as many as of its own.
    for _ in 0..9 {
        h.submit(&calls("other", 4)).await;
    }
    assert_eq!(estimate(&ids[2]).await, at(40));
    for _ in 0..2 {
        h.submit(&calls("urgent", 5)).await;
    }
    let said = explained(&h, &ids[2]).await;
    assert_eq!((&said["estimated_start"], &said["lane"]["higher"]), (&at(60), &json!(5)));
    assert!(text(&said).contains("the rate of `k`, 6/m"), "{said}");
    // How many tasks run at once in a queue shows in what it started: so few are no better known than the rate.
    h.call(Method::PUT, "/v1/queues/q", &[JSON], r#"{"concurrency":1}"#).await;
    used(&h, "queue:q", LimitRule { concurrency: Some(1), ..LimitRule::default() }, 1, 1).await;
    let said = explained(&h, &ids[2]).await;
    assert_eq!((codes(&said), &said["estimated_start"]), (vec!["concurrency"], &at(60)));
    assert!(text(&said).contains("Limit `queue:q` lets 1 task run at once, and 1 does."), "{said}");
    // When another limit lets one go on is known to nobody, whatever the queue does.
    h.call(Method::PUT, "/v1/task-types/a", &[JSON], r#"{"concurrency":0}"#).await;
    assert_eq!(estimate(&ids[2]).await, Value::Null);
}

#[tokio::test]
async fn a_limit_of_concurrency_is_not_judged_by_what_its_queue_starts() {
    let h = harness_of(1).await;
    let task = |key: &str| json!({"task": "a", "limits": [{"key": key, "concurrency": 1}]}).to_string();
    let id = h.submit(&task("busy")).await;
    let queue = QueueBoard { ns: Ns::DEFAULT, name: "default".into(), started: 100, ..QueueBoard::default() };
    let board = Board { queues: vec![queue], ..Board::default() };
    h.store.publish(SessionId(1), Some(board.encode(10_000).into())).await.unwrap();
    for rule in [0, 1].map(|most| LimitRule { concurrency: Some(most), ..LimitRule::default() }) {
        used(&h, "busy", rule, 1, 1).await;
        let said = explained(&h, &id).await;
        assert_eq!((codes(&said), &said["estimated_start"]), (vec!["concurrency"], &Value::Null), "{said}");
        assert!(!text(&said).contains("may start at"), "{said}");
    }
}

#[tokio::test]
async fn slots_are_those_of_the_dispatcher_that_would_start_it() {
    let h = harness_of(1).await;
    let ids = [h.submit(r#"{"task":"a"}"#).await, h.submit(r#"{"task":"a"}"#).await];
    let publish = async |session, open| {
        let instance = InstanceBoard { url: "http://a.example".into(), open, slots: 1, ..InstanceBoard::default() };
        let worker = WorkerBoard { name: "w".into(), instances: vec![instance], ..WorkerBoard::default() };
        let board = Board { node: session, workers: vec![worker], ..Board::default() };
        h.store.publish(SessionId(session), Some(board.encode(10_000).into())).await.unwrap();
    };
    publish(2, 0).await;
    publish(1, 1).await;
    // Boards are remembered for a moment.
    until("the boards to be read", async || codes(&explained(&h, &ids[1]).await) == ["concurrency"]).await;
    let said = explained(&h, &ids[1]).await;
    assert_eq!((&said["reason"], &said["worker"]["slots"]), (&json!("concurrency"), &json!(1)));
    assert!(text(&said).contains("The one slot of `w` is taken."), "{said}");
    // Slots that others have taken are not in its way; who stands before it is.
    publish(2, 1).await;
    publish(1, 0).await;
    until("the boards to be read again", async || codes(&explained(&h, &ids[1]).await).is_empty()).await;
    let said = explained(&h, &ids[1]).await;
    assert!(text(&said).contains("it starts when it is its turn. One task of its lane is before it."), "{said}");
    assert!(text(&explained(&h, &ids[0]).await).contains("It may start now."));
}

#[tokio::test]
async fn what_is_paused_is_named() {
    let h = harness().await;
    let id = h.submit(r#"{"task":"a","queue":"q"}"#).await;
    h.call(Method::PUT, "/v1/task-types/a*", &[JSON], "{}").await;
    h.post("/v1/task-types/a*/pause", json!({"until": at(30)}).to_string()).await;
    let said = explained(&h, &id).await;
    assert_eq!((codes(&said), &said["next_at"]), (vec!["paused"], &at(30)));
    let until = format!("until {}.", at(30).as_str().unwrap());
    assert!(text(&said).starts_with(&format!("Task type `a*` is paused {until} Worker `w` serves it.")), "{said}");
    h.post("/v1/queues/q/pause", "").await;
    let said = explained(&h, &id).await;
    assert_eq!((codes(&said), &said["next_at"]), (vec!["paused", "paused"], &Value::Null));
    assert!(text(&said).starts_with("Queue `q` is paused until it is resumed. Task type `a*` is paused"), "{said}");
    // Intake alone keeps nothing that waits.
    h.post("/v1/queues/q/drain", "").await;
    h.post("/v1/task-types/a*/resume", "").await;
    assert_eq!(codes(&explained(&h, &id).await), Vec::<&str>::new());
}

#[tokio::test]
async fn a_start_is_estimated_from_what_the_queue_started_lately() {
    let h = harness().await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(h.submit(&json!({"task": "a", "queue": "q", "order_key": "o", "args": [n]}).to_string()).await);
    }
    // Behind others in an order nobody knows when they end.
    let said = explained(&h, &ids[3]).await;
    assert_eq!((codes(&said), &said["estimated_start"]), (vec!["order"], &Value::Null));
    let low = h.submit(r#"{"task":"a","queue":"q","priority":0}"#).await;
    let _high = h.submit(r#"{"task":"a","queue":"q","priority":9}"#).await;
    assert_eq!(explained(&h, &low).await["estimated_start"], Value::Null, "nothing tells");
    let queue = QueueBoard { ns: Ns::DEFAULT, name: "q".into(), started: 4, ..QueueBoard::default() };
    let board = Board { queues: vec![queue], ..Board::default() };
    h.store.publish(SessionId(1), Some(board.encode(10_000).into())).await.unwrap();
    let said = explained(&h, &low).await;
    assert_eq!((&said["lane"]["higher"], &said["estimated_start"]), (&json!(1), &at(5)));
    assert!(text(&said).contains("4 starts of its queue in the last 10 s"), "{said}");
}

#[tokio::test]
async fn in_an_order_the_task_that_blocks_is_named() {
    let h = harness().await;
    let task = |queue: &str| {
        json!({"task": "a", "order_key": "o", "queue": queue, "retry": {"backoff": "fixed", "min": "30s", "jitter": "none"}})
            .to_string()
    };
    let first = h.submit(&task("q")).await;
    let second = h.submit(&task("other")).await;
    assert_eq!(codes(&explained(&h, &first).await), Vec::<&str>::new());
    let said = explained(&h, &second).await;
    assert_eq!((codes(&said), &said["reason"]), (vec!["order"], &json!("order")));
    assert!(text(&said).contains(&format!("Task {first} with the order key `o` is before it: it is queued.")), "{said}");
    h.finish(&first, Outcome::Retry { after: None, error: TaskError::new("Flaky", "again") }).await;
    let said = explained(&h, &second).await;
    assert!(text(&said).contains(&format!("it is retrying, due at {}", at(30).as_str().unwrap())), "{said}");
    h.happen(&first, Event::Hold).await;
    assert!(text(&explained(&h, &second).await).contains("it is retrying and held"));
    h.post(&format!("/v1/tasks/{first}/cancel"), "").await;
    assert_eq!(codes(&explained(&h, &second).await), Vec::<&str>::new());
}

#[tokio::test]
async fn a_type_may_name_the_worker() {
    let h = harness().await;
    let id = h.submit(r#"{"task":"a"}"#).await;
    assert_eq!(explained(&h, &id).await["worker"]["name"], "w");
    h.call(Method::PUT, "/v1/workers/special", &[JSON], r#"{"url":"http://b.example","tasks":["other"]}"#).await;
    h.call(Method::PUT, "/v1/task-types/a", &[JSON], r#"{"worker":"special"}"#).await;
    assert_eq!(explained(&h, &id).await["worker"]["name"], "special");
    assert_eq!(h.post("/v1/tasks?dry_run=true", r#"{"task":"a"}"#).await.json()["worker"], "special");
    h.call(Method::PUT, "/v1/task-types/a", &[JSON], r#"{"worker":"gone"}"#).await;
    assert_eq!(codes(&explained(&h, &id).await), ["no_worker"]);
}
