//! Time limits, cancels, and workers that are left alone.

use std::time::Duration;

use lovage_tests::{Reply, Worker};
use serde_json::json;

use crate::contract::site::{Store, quick_retry};

on_both_stores!(a_worker_is_told_of_limits_and_cancels, an_endpoint_that_fails_is_left_alone);

async fn a_worker_is_told_of_limits_and_cancels(store: Store) {
    let site = store.dev().await;
    site.worker.on("*", Reply::never()).on("/control", Reply::status(204));
    let settings = json!({"url": site.worker.url(), "tasks": ["t"], "control_url": site.worker.url_of("/control")});
    let secret = site.register_worker_with("w", &settings).await["signing"].as_str().unwrap().to_owned();
    let signature = json!({"task": "t", "soft_time_limit": "300ms", "time_limit": "900ms", "retry": quick_retry(1)});
    let timed = site.submit(&signature).await;
    assert_eq!(site.wait_final(&timed).await["reason"], "timeout");
    let called_off = site.submit_plain("t").await;
    site.until_state(&called_off, "running").await;
    site.post(&format!("/v1/tasks/{called_off}/cancel"), &json!({"mode": "hard"})).await;
    assert_eq!(site.wait_final(&called_off).await["state"], "canceled");
    let orders = |calls: &[lovage_tests::Call]| calls.iter().filter(|call| call.path == "/control").count();
    let calls = site.worker.wait_until("three posts", Duration::from_secs(20), |calls| orders(calls) == 3).await;
    let posts: Vec<_> = calls.iter().filter(|call| call.path == "/control").collect();
    assert!(posts.iter().all(|post| post.is_signed_with(&secret)));
    let told: Vec<_> = posts.iter().map(|post| (post.json()["type"].clone(), post.json()["id"].clone())).collect();
    assert_eq!(
        told,
        [
            (json!("task.soft_timeout"), json!(timed)),
            (json!("task.hard_timeout"), json!(timed)),
            (json!("task.cancel"), json!(called_off)),
        ]
    );
}

async fn an_endpoint_that_fails_is_left_alone(store: Store) {
    let site = store.dev().await;
    let mut late = Worker::start();
    late.on("t", Reply::json(&json!(1)));
    late.stop();
    let settings = json!({"url": late.url(), "tasks": ["t"], "breaker": {"failures": 2, "open_for": "3s"}});
    assert_eq!(site.register_worker_with("w", &settings).await["breaker"], json!({"failures": 2, "open_for": "3s"}));
    let id = site.submit(&json!({"task": "t", "retry": quick_retry(1)})).await;
    // Two faults, and then it waits although its next attempt is due.
    site.until(&id, "left alone", |record| record["state"] == "queued" && record["attempt"] == 2).await;
    late.resume();
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(3)));
}
