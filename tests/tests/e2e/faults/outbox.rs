//! What a change causes in another partition happens, whatever fails in between: directory entries go with their tasks.

use lovage_tests::{Lovage, Redis, Reply, Worker, eventually};
use reqwest::Method;
use serde_json::json;

use super::{PATIENCE, insist};

const TASKS: usize = 60;

/// The keys of this pattern, one to a line.
fn keys(redis: &Redis, pattern: &str) -> Vec<String> {
    let found = redis.command(&["KEYS", pattern]).unwrap_or_default();
    found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_entries_go_with_their_tasks() {
    let mut redis = Redis::start();
    let worker = Worker::start();
    worker.on("work", Reply::status(204));
    let mut lovage = Lovage::dev().redis(&redis).start().await;
    let client = lovage.client();
    for n in 0..TASKS {
        let unique = json!({"key": format!("key-{n}")});
        let task = json!({"task": "work", "id": format!("order-{n}"), "unique": unique, "retention": "3s", "result_ttl": "3s"});
        assert_eq!(insist(client, || client.request(Method::POST, "/v1/tasks").json(&task)).await.status, 202);
    }
    // One in sixteen lives at home by chance.
    let entries = keys(&redis, "lv*k:0:d:*").len();
    assert!(entries > TASKS / 2, "{entries} entries");
    client.register_worker("w", &worker.url(), &["work"]).await;
    worker.wait_answered(TASKS).await;
    // Records are deleted three seconds later. Kills of the store and of the server come between them and their messages.
    for _ in 0..3 {
        let before = keys(&redis, "lv*}b:*").len();
        eventually("records to be deleted", PATIENCE, async || {
            let now = keys(&redis, "lv*}b:*").len();
            (now == 0 || now < before).then_some(())
        })
        .await;
        redis.kill9();
        redis.restart();
    }
    lovage.kill9();
    lovage.restart().await;
    eventually("the entries to be gone", PATIENCE, async || keys(&redis, "lv*k:0:d:*").is_empty().then_some(())).await;
    eventually("the outboxes to be empty", PATIENCE, async || {
        let is_empty = |outbox: &String| redis.command(&["XLEN", outbox]).is_ok_and(|length| length.trim() == "0");
        keys(&redis, "lv*}out").iter().all(is_empty).then_some(())
    })
    .await;
    assert!(!keys(&redis, "lv*}out").is_empty(), "entries of deleted tasks go by messages");
}
