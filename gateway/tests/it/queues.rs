//! Queues over the memory store.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use lovage_core::board::{Board, QueueBoard};
use lovage_core::problem::Code;
use lovage_core::{Event, Ns, Outcome, SessionId};
use lovage_store::Store;
use serde_json::{Value, json};

use crate::harness::{Harness, Reply, options, until};

async fn put(h: &Harness, queue: &str, body: &str) -> Reply {
    h.call(Method::PUT, &format!("/v1/queues/{queue}"), &[("content-type", "application/json")], body.to_owned()).await
}

async fn depth(h: &Harness, queue: &str) -> u64 {
    let depth = h.get(&format!("/v1/queues/{queue}/stats")).await.json()["depth"].clone();
    ["blocked", "scheduled", "queued", "retrying"].iter().map(|state| depth[*state].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn what_comes_and_goes_is_the_sum_of_all_boards() {
    let h = Harness::new();
    put(&h, "q", "{}").await;
    let rates = async || {
        let stats = h.get("/v1/queues/q/stats").await.json();
        (stats["in_rate"].clone(), stats["out_rate"].clone())
    };
    let of = |ns, accepted, finished| QueueBoard { ns, name: "q".into(), started: 7, accepted, finished };
    let publish = async |session, queues: &[QueueBoard], cut| {
        let board = Board { node: session, queues: queues.to_vec(), cut, ..Board::default() };
        h.store.publish(SessionId(session), Some(board.encode(10_000).into())).await.unwrap();
    };
    publish(1, &[of(Ns::DEFAULT, 90, 0), of(Ns(5), 1_000, 1_000)], true).await;
    publish(2, &[of(Ns::DEFAULT, 60, 35)], false).await;
    assert_eq!(rates().await, (json!(2.5), json!(0.58)));
    // Boards are remembered for a moment. Of a quiet queue it is known unless something was left out.
    publish(2, &[], false).await;
    publish(1, &[], false).await;
    until("a quiet queue", async || rates().await == (json!(0.0), json!(0.0))).await;
    publish(1, &[], true).await;
    until("an unknown rate", async || rates().await == (Value::Null, Value::Null)).await;
}

async fn field(h: &Harness, id: &str, name: &str) -> Value {
    h.get(&format!("/v1/tasks/{id}")).await.json()[name].clone()
}

#[tokio::test]
async fn a_queue_is_a_document() {
    let h = Harness::new();
    let made = put(&h, "mail", r#"{"rate":"10/s","burst":2,"max_length":5,"order":"fair"}"#).await;
    assert_eq!((made.status.as_u16(), made.header("etag")), (201, "\"1\""));
    let shown = json!({"name": "mail", "created_at": "2027-01-15T08:00:00.000Z", "rate": "10/s", "burst": 2, "max_length": 5,
        "order": "fair", "paused": null, "version": 1});
    assert_eq!(made.json(), shown);
    assert_eq!(h.get("/v1/queues/mail").await.json(), shown);
    let patch = async |body: &'static str| {
        h.call(Method::PATCH, "/v1/queues/mail", &[("content-type", "application/json"), ("if-match", "\"1\"")], body).await
    };
    let changed = patch(r#"{"rate":null,"burst":null}"#).await;
    assert_eq!((changed.json()["rate"].clone(), changed.json()["max_length"].clone()), (Value::Null, json!(5)));
    patch("{}").await.is_problem(Code::VersionMismatch);
    assert_eq!(put(&h, "mail", "{}").await.json()["max_length"], Value::Null);
    put(&h, "mail", r#"{"rate":"0/s"}"#).await.is_problem(Code::InvalidField);
    for name in ["no%20good", "%2E", "%2E%2E"] {
        put(&h, name, "{}").await.is_problem(Code::InvalidField);
    }
    h.post("/v1/tasks", r#"{"task":"t","queue":".."}"#).await.is_problem(Code::InvalidField);
    assert_eq!(put(&h, "default", r#"{"max_age":"1h"}"#).await.status, 201);
    let names: Vec<Value> =
        h.get("/v1/queues").await.json()["items"].as_array().unwrap().iter().map(|queue| queue["name"].clone()).collect();
    assert_eq!(names, ["default", "mail"]);
    h.submit(r#"{"task":"t","queue":"mail"}"#).await;
    h.call(Method::DELETE, "/v1/queues/mail", &[], "").await.is_problem(Code::WrongState);
    assert_eq!(h.post("/v1/queues/mail/purge", "").await.json(), json!({"count": 1}));
    assert_eq!(h.call(Method::DELETE, "/v1/queues/mail", &[], "").await.status, 204);
    assert_eq!(h.call(Method::DELETE, "/v1/queues/default", &[], "").await.status, 204);
    assert_eq!(h.get("/v1/queues/default").await.json()["max_age"], Value::Null);
    for (method, path) in [
        (Method::PATCH, ""),
        (Method::DELETE, ""),
        (Method::POST, "/pause"),
        (Method::POST, "/resume"),
        (Method::POST, "/drain"),
        (Method::POST, "/purge"),
    ] {
        let reply = h.call(method, &format!("/v1/queues/mail{path}"), &[("content-type", "application/json")], "{}").await;
        reply.is_problem(Code::QueueUnknown);
    }
}

#[tokio::test]
async fn a_queue_with_tasks_that_nobody_submitted_there_is_shown() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"t","link":{"task":"u","queue":"linked"}}"#).await;
    h.get("/v1/queues/linked").await.is_problem(Code::QueueUnknown);
    h.finish(&id, Outcome::Success { content_type: None, body: None }).await;
    let shown = json!({"name": "linked", "created_at": null, "paused": null, "version": null});
    assert_eq!(h.get("/v1/queues/linked").await.json(), shown);
    assert_eq!(depth(&h, "linked").await, 1);
    assert_eq!(h.get("/v1/limits/queue:linked").await.json()["waiting"], 1);
    assert!(h.get("/v1/queues").await.json()["items"].as_array().unwrap().contains(&shown));
    h.call(Method::DELETE, "/v1/queues/linked", &[], "").await.is_problem(Code::WrongState);
    let paused = h.post("/v1/queues/linked/pause", "").await.json();
    assert_eq!((&paused["paused"]["dispatch"], &paused["version"]), (&json!(true), &json!(1)));
    assert_eq!(h.post("/v1/queues/linked/purge", "").await.json(), json!({"count": 1}));
    assert_eq!(h.call(Method::DELETE, "/v1/queues/linked", &[], "").await.status, 204);
    h.get("/v1/queues/linked").await.is_problem(Code::QueueUnknown);
}

#[tokio::test]
async fn closed_intake_refuses_what_was_not_stored_before() {
    let h = Harness::new();
    let own = r#"{"task":"t","queue":"q","id":"mine"}"#;
    h.submit(own).await;
    let keyed = [("idempotency-key", "k")];
    assert_eq!(h.post_with("/v1/tasks", &keyed, r#"{"task":"t","queue":"q"}"#).await.status, 202);
    let paused = h.post("/v1/queues/q/pause", r#"{"intake":true,"until":"2027-01-15T08:01:00Z"}"#).await.json()["paused"].clone();
    assert_eq!(paused, json!({"intake": true, "dispatch": true, "until": "2027-01-15T08:01:00.000Z"}));
    assert_eq!(put(&h, "q", "{}").await.json()["paused"], paused, "a PUT does not resume");
    let task = r#"{"task":"t","queue":"q"}"#;
    let refused = h.post("/v1/tasks", task).await;
    refused.is_problem(Code::QueuePaused);
    assert_eq!(refused.header("retry-after"), "60");
    let raw = h.call(Method::POST, "/v1/tasks", &[("lovage-task", "t"), ("lovage-queue", "q")], "x").await;
    raw.is_problem(Code::QueuePaused);
    let items = h.post("/v1/tasks:batch", format!(r#"[{task},{{"task":"t"}},{own}]"#)).await.json()["items"].clone();
    let statuses: Vec<Value> = items.as_array().unwrap().iter().map(|item| item["status"].clone()).collect();
    assert_eq!((statuses, &items[0]["problem"]["code"]), (vec![json!(503), json!(202), json!(200)], &json!("queue_paused")));
    h.post("/v1/tasks:batch?atomic=true", format!("[{task}]")).await.is_problem(Code::QueuePaused);
    let lines = [("content-type", "application/x-ndjson")];
    let lines = h.call(Method::POST, "/v1/tasks:batch", &lines, format!("{task}\n")).await;
    assert!(String::from_utf8_lossy(&lines.bytes).contains("queue_paused"));
    h.post("/v1/tasks/mine/replay", "").await.is_problem(Code::QueuePaused);
    assert_eq!(h.post("/v1/tasks", own).await.status, 200, "it is stored");
    assert_eq!(h.post_with("/v1/tasks", &keyed, task).await.header("idempotency-replayed"), "true");
    h.clock.advance(Duration::from_secs(60));
    assert_eq!(h.get("/v1/queues/q").await.json()["paused"], Value::Null, "it is over by itself");
    h.submit(task).await;
    h.post("/v1/queues/q/drain", "").await;
    h.post("/v1/tasks", task).await.is_problem(Code::QueuePaused);
    h.post("/v1/queues/q/resume", "").await;
    h.submit(task).await;
}

#[tokio::test]
async fn task_types_are_paused_like_queues() {
    let h = Harness::new();
    let types = |verb: &str| format!("/v1/task-types/a.%2A{verb}");
    h.post(&types("/pause"), "{}").await.is_problem(Code::TaskTypeUnknown);
    h.call(Method::PUT, &types(""), &[("content-type", "application/json")], r#"{"queue":"q"}"#).await;
    let paused = h.post(&types("/pause"), r#"{"intake":true}"#).await.json();
    assert_eq!(paused["paused"], json!({"intake": true, "dispatch": true, "until": null}));
    h.post("/v1/tasks", r#"{"task":"a.b"}"#).await.is_problem(Code::QueuePaused);
    h.submit(r#"{"task":"b"}"#).await;
    let put = h.call(Method::PUT, &types(""), &[("content-type", "application/json")], "{}").await.json();
    assert_eq!((put["paused"].clone(), put["queue"].clone()), (paused["paused"].clone(), Value::Null));
    assert_eq!(h.post(&types("/resume"), "").await.json(), json!({"pattern": "a.*", "version": 4}));
    h.submit(r#"{"task":"a.b"}"#).await;
}

#[tokio::test]
async fn a_pulling_worker_gets_nothing_of_a_paused_queue() {
    let h = Harness::new();
    let worker = r#"{"pull":true,"tasks":["*"]}"#;
    h.call(Method::PUT, "/v1/workers/w", &[("content-type", "application/json")], worker).await;
    let id = h.submit(r#"{"task":"t","queue":"q"}"#).await;
    h.post("/v1/queues/q/pause", r#"{"until":"2027-01-15T09:00:00Z"}"#).await;
    let lease = async || h.post("/v1/leases", r#"{"worker":"w","max":1}"#).await.json()["items"].as_array().unwrap().len();
    assert_eq!(lease().await, 0);
    let explained = h.get(&format!("/v1/tasks/{id}/explain")).await.json();
    assert_eq!((&explained["reason"], &explained["causes"][0]["until"]), (&json!("paused"), &json!("2027-01-15T09:00:00.000Z")));
    h.clock.advance(Duration::from_secs(3600));
    until("the pause is over and the worker known", async || lease().await == 1).await;
}

#[tokio::test]
async fn no_more_are_taken_than_a_queue_may_have() {
    let h = Arc::new(Harness::new());
    put(&h, "q", r#"{"max_length":50}"#).await;
    let submit = |n: usize| {
        let h = h.clone();
        async move {
            let mut taken = 0;
            for i in 0..20 {
                if (n + i).is_multiple_of(3) {
                    let body = r#"[{"task":"t","queue":"q"},{"task":"t","queue":"q","delay":"1h"}]"#;
                    let items = h.post("/v1/tasks:batch", body).await.json()["items"].clone();
                    taken += items.as_array().unwrap().iter().filter(|item| item["status"] == 202).count();
                } else {
                    taken += usize::from(h.post("/v1/tasks", r#"{"task":"t","queue":"q"}"#).await.status == 202);
                }
                assert!(depth(&h, "q").await <= 50);
            }
            taken
        }
    };
    let all = futures_util::future::join_all((0..16).map(submit)).await;
    assert_eq!((all.iter().sum::<usize>(), depth(&h, "q").await), (50, 50));
    let refused = h.post("/v1/tasks", r#"{"task":"t","queue":"q"}"#).await;
    refused.is_problem(Code::QueueFull);
    h.post("/v1/tasks:batch?atomic=true", r#"[{"task":"t"},{"task":"t","queue":"q"}]"#).await.is_problem(Code::QueueFull);
    h.submit(r#"{"task":"t"}"#).await;
    assert_eq!(h.post("/v1/queues/q/purge", "").await.json()["count"], 50);
    h.submit(r#"{"task":"t","queue":"q"}"#).await;
}

#[tokio::test]
async fn repetitions_need_no_room() {
    let h = Harness::new();
    put(&h, "q", r#"{"max_length":1}"#).await;
    let own = r#"{"task":"t","queue":"q","id":"mine"}"#;
    h.submit(own).await;
    assert_eq!(h.post("/v1/tasks", own).await.status, 200);
    let items = h.post("/v1/tasks:batch", format!("[{own}]")).await.json()["items"].clone();
    assert_eq!(items[0]["status"], 200);
    assert_eq!(h.post("/v1/tasks:batch?atomic=true", format!("[{own}]")).await.json()["items"][0]["status"], 200);
}

#[tokio::test]
async fn the_oldest_make_room() {
    let h = Harness::new();
    put(&h, "q", r#"{"max_length":3,"on_full":"drop_oldest"}"#).await;
    let mut ids = vec![h.submit(r#"{"task":"t","queue":"q","delay":"1h"}"#).await];
    for priority in [0, 9, 4, 4] {
        h.clock.advance(Duration::from_millis(1));
        ids.push(h.submit(&format!(r#"{{"task":"t","queue":"q","priority":{priority}}}"#)).await);
    }
    // Those that may start go first, whatever their priority.
    let states =
        [("scheduled", Value::Null), ("canceled", json!("dropped")), ("canceled", json!("dropped")), ("queued", Value::Null)];
    for (id, (state, reason)) in ids.iter().zip(states) {
        assert_eq!((field(&h, id, "state").await, field(&h, id, "reason").await), (json!(state), reason));
    }
    let three = r#"[{"task":"t","queue":"q"},{"task":"t","queue":"q"},{"task":"t","queue":"q"},{"task":"t","queue":"q"}]"#;
    let items = h.post("/v1/tasks:batch", three).await.json()["items"].clone();
    let statuses: Vec<Value> = items.as_array().unwrap().iter().map(|item| item["status"].clone()).collect();
    assert_eq!(statuses, [202, 202, 202, 429], "it takes no more than fit");
    assert_eq!(field(&h, &ids[0], "reason").await, "dropped", "then those that wait for a time");
    assert_eq!(depth(&h, "q").await, 3);
}

#[tokio::test]
async fn a_purge_cancels_what_waits_and_frees_its_keys() {
    let h = Harness::with(options(), |memory| memory.partitions = 4);
    let mut ids = Vec::new();
    for n in 0..40 {
        let more = if n % 2 == 0 { r#","delay":"1h""# } else { "" };
        ids.push(h.submit(&format!(r#"{{"task":"t","queue":"q"{more}}}"#)).await);
    }
    let unique = r#"{"task":"t","queue":"q","unique":{"key":"u","on_conflict":"reject"}}"#;
    h.submit(unique).await;
    let other = h.submit(r#"{"task":"t","queue":"other"}"#).await;
    let running = h.submit(r#"{"task":"t","queue":"q"}"#).await;
    h.happen(&running, Event::Claim { session: lovage_core::SessionId(1), worker: 1 }).await;
    assert_eq!(h.post("/v1/queues/q/purge", "").await.json(), json!({"count": 41}));
    for id in &ids {
        assert_eq!(field(&h, id, "reason").await, "purged");
    }
    assert_eq!((field(&h, &other, "state").await, field(&h, &running, "state").await), (json!("queued"), json!("running")));
    h.submit(unique).await;
}

#[tokio::test]
async fn what_a_queue_says_is_in_force_for_its_tasks() {
    let h = Harness::new();
    put(&h, "q", r#"{"retry":{"max_attempts":3},"max_age":"10s","order":"fifo"}"#).await;
    let id = h.submit(r#"{"task":"t","queue":"q"}"#).await;
    assert_eq!(field(&h, &id, "attempts_left").await, 3);
    assert_eq!(field(&h, &id, "expires_at").await, "2027-01-15T08:00:10.000Z");
    let id = h.submit(r#"{"task":"t"}"#).await;
    let path = format!("/v1/tasks/{id}");
    let moved = h.call(Method::PATCH, &path, &[("content-type", "application/json")], r#"{"queue":"q"}"#).await;
    assert_eq!(moved.is_problem(Code::InvalidField)["errors"][0]["pointer"], "/queue");
}
