//! `?wait=` is woken by the feed.

use std::time::{Duration, Instant};

use lovage_core::problem::Code;
use serde_json::json;

use crate::harness::{Harness, options, settle, until};

#[tokio::test]
async fn waits_end_with_the_task() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a"}"#).await;
    let path = format!("/v1/tasks/{id}?wait=20s");
    let started = Instant::now();
    let (reply, ()) = tokio::join!(h.get(&path), async {
        settle().await;
        h.succeed(&id, r#"{"sum":3}"#).await;
    });
    assert_eq!(reply.json()["state"], "succeeded");
    assert_eq!(reply.json()["result"], json!({"sum": 3}));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(h.get(&path).await.json()["state"], "succeeded", "a final task is answered at once");
}

#[tokio::test]
async fn creating_waits_too() {
    let h = Harness::new();
    let (reply, ()) = tokio::join!(h.post("/v1/tasks?wait=20s", r#"{"task":"a","id":"t1"}"#), async {
        until("stored", async || h.get("/v1/tasks/t1").await.status == 200).await;
        h.succeed("t1", "3").await;
    });
    assert_eq!((reply.status.as_u16(), &reply.json()["result"]), (200, &json!(3)));
    let reply = h.post("/v1/tasks?wait=30ms", r#"{"task":"a"}"#).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["state"]), (202, &json!("queued")));
}

#[tokio::test]
async fn a_forgotten_feed_does_not_lose_a_waiter() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a"}"#).await;
    let path = format!("/v1/tasks/{id}?wait=20s");
    let (reply, ()) = tokio::join!(h.get(&path), async {
        settle().await;
        h.succeed(&id, "1").await;
        h.store.forget_feed();
    });
    assert_eq!(reply.json()["state"], "succeeded");
}

#[tokio::test]
async fn waiters_are_counted() {
    let mut options = options();
    options.limits.waiters = 1;
    let h = Harness::with(options, |_| ());
    let id = h.submit(r#"{"task":"a"}"#).await;
    let path = format!("/v1/tasks/{id}?wait=20s");
    let (reply, ()) = tokio::join!(h.get(&path), async {
        until("one too many", async || h.get(&format!("/v1/tasks/{id}?wait=1ms")).await.status == 503).await;
        h.get(&format!("/v1/tasks/{id}?wait=1s")).await.is_problem(Code::Overloaded);
        h.succeed(&id, "1").await;
    });
    assert_eq!(reply.json()["state"], "succeeded");
    assert_eq!(h.get(&path).await.status, 200, "the place is free again");
}

#[tokio::test]
async fn many_waiters_of_many_tasks_are_all_woken() {
    let h = Harness::new();
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(h.submit(r#"{"task":"a"}"#).await);
    }
    let paths: Vec<String> = ids.iter().map(|id| format!("/v1/tasks/{id}?wait=20s")).collect();
    let waits = futures_util::future::join_all(paths.iter().map(|path| h.get(path)));
    let (replies, ()) = tokio::join!(waits, async {
        for id in &ids {
            h.succeed(id, "1").await;
        }
    });
    assert!(replies.iter().all(|reply| reply.json()["state"] == "succeeded"));
}
