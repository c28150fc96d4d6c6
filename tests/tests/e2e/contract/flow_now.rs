//! Tasks that somebody tells to run: no limit keeps them, but they count, and pauses and orders hold.

use lovage_tests::{Reply, eventually};
use serde_json::json;

use super::flow::until_limit;
use super::site::{PATIENCE, Site, Store, quick_retry};

on_both_stores!(
    a_task_runs_now_whatever_its_limits_say,
    the_next_attempt_has_its_limits_again,
    of_an_order_the_first_one_alone_runs_now,
    a_paused_limit_holds_what_should_run_now,
);

async fn run(site: &Site, id: &str) {
    let answer = site.post(&format!("/v1/tasks/{id}/run"), &json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

async fn a_task_runs_now_whatever_its_limits_say(store: Store) {
    let site = store.dev().await;
    site.serves(&["slow"]).await;
    let gate = site.worker.hold("slow", Reply::json(&json!(1)));
    site.put("/v1/task-types/slow", &json!({"concurrency": 1})).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(site.submit(&json!({"task": "slow", "limits": [{"key": "k", "concurrency": 1, "rate": "1/h"}]})).await);
    }
    until_limit(&site, "k", "three waiting", |limit| limit["in_use"] == 1 && limit["waiting"] == 3).await;
    run(&site, &ids[3]).await;
    site.until_state(&ids[3], "running").await;
    for key in ["k", "task%3Aslow"] {
        until_limit(&site, key, "two in use", |limit| limit["in_use"] == 2).await;
    }
    // What runs is pushed a moment later.
    eventually("two calls", PATIENCE, async || (site.worker.open() == 2).then_some(())).await;
    for id in &ids[1..3] {
        assert_eq!(site.task(id).await["state"], "queued");
        run(&site, id).await;
    }
    gate.open();
    site.wait_all_final(&ids, PATIENCE).await;
    until_limit(&site, "task%3Aslow", "none in use", |limit| limit["in_use"] == 0).await;
}

async fn the_next_attempt_has_its_limits_again(store: Store) {
    let site = store.dev().await;
    site.serves(&["step"]).await;
    site.worker.on("step", [Reply::status(500), Reply::json(&json!(1))]);
    site.put("/v1/limits/k", &json!({"concurrency": 0})).await;
    site.in_force().await;
    let id = site.submit(&json!({"task": "step", "delay": "1h", "limits": [{"key": "k"}], "retry": quick_retry(3)})).await;
    run(&site, &id).await;
    site.until(&id, "tried once", |record| record["attempt"] == 1 && record["state"] == "queued").await;
    until_limit(&site, "k", "one waiting", |limit| limit["waiting"] == 1 && limit["in_use"] == 0).await;
    assert_eq!(site.worker.received().len(), 1);
    site.patch("/v1/limits/k", &json!({"concurrency": 1})).await;
    assert_eq!(site.wait_final(&id).await["attempt"], 2);
}

async fn of_an_order_the_first_one_alone_runs_now(store: Store) {
    let site = store.dev().await;
    site.serves(&["step"]).await;
    site.worker.on("step", Reply::json(&json!(1)));
    site.put("/v1/limits/k", &json!({"concurrency": 0})).await;
    site.in_force().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(site.submit(&json!({"task": "step", "order_key": "o", "limits": [{"key": "k"}]})).await);
    }
    run(&site, &ids[1]).await;
    eventually("the limit to be said", PATIENCE, async || {
        let said = site.get(&format!("/v1/tasks/{}/explain", ids[0])).await.json;
        (said["reason"] == "concurrency").then_some(())
    })
    .await;
    assert!(site.worker.received().is_empty());
    run(&site, &ids[0]).await;
    site.wait_all_final(&ids[..2], PATIENCE).await;
    assert_eq!(site.task(&ids[2]).await["state"], "queued");
    let order: Vec<String> = site.worker.received().into_iter().map(|call| call.id).collect();
    assert_eq!(order, ids[..2]);
}

async fn a_paused_limit_holds_what_should_run_now(store: Store) {
    let site = store.dev().await;
    site.serves(&["step"]).await;
    site.worker.on("step", Reply::json(&json!(1)));
    site.put("/v1/limits/k", &json!({"concurrency": 0})).await;
    site.in_force().await;
    let ids = [0, 1].map(|_| json!({"task": "step", "limits": [{"key": "k"}]}));
    let ids = [site.submit(&ids[0]).await, site.submit(&ids[1]).await];
    assert_eq!(site.post("/v1/limits/k/pause", &json!({})).await.status, 200);
    let said = eventually("the pause to be said", PATIENCE, async || {
        let said = site.get(&format!("/v1/tasks/{}/explain", ids[0])).await.json;
        Some(said).filter(|said| said["causes"].as_array().is_some_and(|causes| causes.len() == 2))
    })
    .await;
    assert_eq!(said["reason"], "paused", "{said}");
    assert_eq!(site.post("/v1/limits/k/resume", &json!({})).await.status, 200);
    run(&site, &ids[1]).await;
    site.wait_final(&ids[1]).await;
    assert_eq!(site.task(&ids[0]).await["state"], "queued");
}
