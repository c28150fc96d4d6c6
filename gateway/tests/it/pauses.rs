//! Workers that somebody pauses, and what the boards of dispatchers say of them.

use axum::http::Method;
use lovage_core::board::{Board, InstanceBoard, WorkerBoard};
use lovage_core::problem::Code;
use lovage_core::standing::BreakerState;
use lovage_core::{Millis, SessionId};
use lovage_store::Store;
use serde_json::{Value, json};

use crate::harness::Harness;

const NOW: u64 = 1_800_000_000_000;

async fn register(h: &Harness, name: &str, body: &Value) -> Value {
    let path = format!("/v1/workers/{name}");
    h.call(Method::PUT, &path, &[("content-type", "application/json")], body.to_string()).await.json()
}

async fn ask(h: &Harness, verb: &str, body: &str) -> Value {
    h.post(&format!("/v1/workers/w/{verb}"), body.to_owned()).await.json()
}

async fn publish(h: &Harness, session: u64, open: u32, worker: WorkerBoard) {
    let instance = InstanceBoard { url: "http://w.example/".into(), open, slots: 100, ..InstanceBoard::default() };
    let worker = WorkerBoard { name: "w".into(), instances: vec![instance], ..worker };
    let board = Board { node: session, open: Some(open.into()), workers: vec![worker], ..Board::default() };
    h.store.publish(SessionId(session), Some(board.encode(10_000).into())).await.unwrap();
}

#[tokio::test]
async fn a_worker_is_paused_until_it_is_resumed() {
    let h = Harness::new();
    let config = json!({"url": "http://w.example/", "tasks": ["t"]});
    let made = register(&h, "w", &config).await;
    assert_eq!((&made["state"], &made["paused_because"], &made["live"]), (&json!("active"), &Value::Null, &Value::Null));
    let id = h.post("/v1/tasks", r#"{"task":"t"}"#).await.json()["id"].as_str().unwrap().to_owned();
    let explained = async || h.get(&format!("/v1/tasks/{id}/explain")).await.json();
    assert!(!explained().await["causes"].to_string().contains("paused"));

    let paused = ask(&h, "pause", "").await;
    assert_eq!(
        (&paused["state"], &paused["paused_because"], &paused["paused_until"]),
        (&json!("paused"), &json!("paused"), &Value::Null)
    );
    let said = explained().await;
    assert!(said["causes"].as_array().unwrap().iter().any(|cause| cause["code"] == "paused"), "{said}");
    // A new version of the worker is no reason to send it anything.
    assert_eq!(register(&h, "w", &config).await["state"], "paused");
    let until = Millis(NOW + 60_000).rfc3339();
    let paused = ask(&h, "pause", &json!({"until": until}).to_string()).await;
    assert_eq!((&paused["state"], &paused["paused_until"]), (&json!("paused"), &json!(until)));
    h.clock.advance(std::time::Duration::from_secs(60));
    let over = h.get("/v1/workers/w").await.json();
    assert_eq!((&over["state"], &over["paused_until"]), (&json!("active"), &Value::Null));

    assert_eq!(ask(&h, "drain", "").await["state"], "drained");
    assert_eq!(ask(&h, "resume", "").await["state"], "active");
    assert_eq!(ask(&h, "resume", "").await["state"], "active");

    for (body, pointer) in [
        (json!({"until": Millis(NOW).rfc3339()}), "/until"),
        (json!({"until": "soon"}), "/until"),
        (json!({"until": 5}), "/until"),
    ] {
        let problem = h.post("/v1/workers/w/pause", body.to_string()).await.is_problem(Code::InvalidField);
        assert_eq!(problem["errors"][0]["pointer"], pointer);
    }
    h.post("/v1/workers/w/pause", r#"{"for":"1m"}"#).await.is_problem(Code::UnknownField);
    for verb in ["pause", "resume", "drain"] {
        h.post(&format!("/v1/workers/nobody/{verb}"), String::new()).await.is_problem(Code::WorkerUnknown);
    }
}

#[tokio::test]
async fn a_paused_worker_that_pulls_gets_nothing() {
    let h = Harness::new();
    register(&h, "w", &json!({"pull": true, "tasks": ["t"]})).await;
    h.post("/v1/tasks", r#"{"task":"t"}"#).await;
    ask(&h, "pause", "").await;
    let lease = async |wait: &str| {
        let body = json!({"worker": "w", "wait": wait}).to_string();
        h.post("/v1/leases", body).await.json()["items"].as_array().unwrap().len()
    };
    assert_eq!((lease("0s").await, lease("50ms").await), (0, 0));
    // Whoever waits already is told.
    let waits = lease("30s");
    let resumes = async {
        tokio::task::yield_now().await;
        ask(&h, "resume", "").await
    };
    assert_eq!(tokio::join!(waits, resumes).0, 1);
}

#[tokio::test]
async fn what_dispatchers_of_other_processes_see_is_added_up() {
    let h = Harness::new();
    publish(&h, 7, 3, WorkerBoard { out_rate: 20.0, ..WorkerBoard::default() }).await;
    let until = Millis(NOW + 5_000);
    let slowed = WorkerBoard {
        breaker: BreakerState::Open,
        paused_until: Some(until),
        effective_rate: Some(2.5),
        out_rate: 1.0,
        ..WorkerBoard::default()
    };
    publish(&h, 8, 1, slowed).await;
    // A board of junk is no board.
    h.store.publish(SessionId(9), Some("junk".into())).await.unwrap();
    register(&h, "w", &json!({"url": "http://w.example/", "tasks": ["t"]})).await;
    let live = h.get("/v1/workers/w").await.json();
    let wanted = json!({
        "open": 4, "slots": 200, "breaker": "open", "effective_rate": 22.5, "out_rate": 21.0,
    });
    assert_eq!(live["live"], wanted);
    assert_eq!((&live["paused_because"], &live["paused_until"]), (&json!("breaker"), &json!(until.rfc3339())));
    assert_eq!(ask(&h, "drain", "").await["state"], "draining");
    let id = h.post("/v1/tasks", r#"{"task":"t"}"#).await.json()["id"].as_str().unwrap().to_owned();
    let said = h.get(&format!("/v1/tasks/{id}/explain")).await.json();
    assert_eq!((&said["worker"]["open"], &said["worker"]["breaker"]), (&json!(4), &json!("open")), "{said}");
}

#[tokio::test]
async fn an_instance_that_is_not_there_is_shown_and_its_slots_do_not_count() {
    let h = Harness::new();
    let until = Millis(NOW + 10_000);
    let instance =
        |url: &str, unreachable| InstanceBoard { url: url.into(), slots: 100, unreachable, ..InstanceBoard::default() };
    let instances = vec![instance("http://a.example/", Millis(0)), instance("http://b.example/", until)];
    let worker = WorkerBoard { name: "w".into(), instances, ..WorkerBoard::default() };
    let board = Board { node: 1, open: Some(0), workers: vec![worker], ..Board::default() };
    h.store.publish(SessionId(1), Some(board.encode(10_000).into())).await.unwrap();
    register(&h, "w", &json!({"urls": ["http://a.example/", "http://b.example/"], "tasks": ["t"]})).await;
    let shown = h.get("/v1/workers/w").await.json();
    let [a, b] = [&shown["instances"][0], &shown["instances"][1]];
    assert_eq!((&a["state"], &a["unreachable_until"]), (&json!("ready"), &Value::Null), "{shown}");
    assert_eq!((&b["state"], &b["unreachable_until"]), (&json!("unreachable"), &json!(until.rfc3339())), "{shown}");
    assert_eq!(shown["live"]["slots"], 100, "{shown}");
}
