//! `POST /v1/tasks/{id}/cancel`, soft and hard.

use std::time::{Duration, Instant};

use lovage_tests::{Answered, Gate, Reply};
use serde_json::json;

use super::site::{Site, Store, slow_retry};

on_both_stores!(
    a_waiting_task_never_starts,
    a_running_task_may_still_succeed,
    a_running_task_that_fails_is_canceled,
    after_its_grace_a_running_task_is_cut,
    hard_means_now,
    soft_can_become_hard,
    a_final_task_stays_what_it_is,
    the_body_is_optional_and_checked,
);

async fn cancel(site: &Site, id: &str, mode: &str) -> lovage_tests::Answer {
    site.post(&format!("/v1/tasks/{id}/cancel"), &json!({"mode": mode})).await
}

async fn a_waiting_task_never_starts(store: Store) {
    let site = store.dev().await;
    site.worker.on("again", Reply::status(500)).on("work", Reply::status(204));
    site.register_worker("a", &site.worker.url(), &["again"]).await;
    let queued = site.submit_plain("work").await;
    let scheduled = site.submit(&json!({"task": "work", "delay": "100ms"})).await;
    let retrying = site.submit(&json!({"task": "again", "retry": slow_retry()})).await;
    site.until_state(&retrying, "retrying").await;
    for id in [&queued, &scheduled, &retrying] {
        let canceled = cancel(&site, id, "soft").await;
        let told = (canceled.status, &canceled.json["state"], &canceled.json["reason"]);
        assert_eq!(told, (200, &json!("canceled"), &json!("requested")));
        assert!(canceled.json["finished_at"].is_string(), "{}", canceled.json);
    }
    site.register_worker("b", &site.worker.url(), &["work"]).await;
    let after = site.submit(&json!({"task": "work", "delay": "200ms"})).await;
    site.wait_final(&after).await;
    let calls = site.worker.received();
    assert_eq!(calls.iter().map(|call| &call.id).collect::<Vec<_>>(), [&retrying, &after]);
}

/// A site whose worker holds the call of the task `held`, which runs.
async fn held(store: Store, reply: Reply, grace: &str) -> (Site, Gate) {
    let site = store.dev().await;
    let gate = site.worker.hold("work", reply);
    let settings = json!({"url": site.worker.url(), "tasks": ["work"], "cancel_grace": grace});
    site.register_worker_with("w", &settings).await;
    site.submit(&json!({"task": "work", "id": "held"})).await;
    site.worker.wait_for(1).await;
    (site, gate)
}

async fn a_running_task_may_still_succeed(store: Store) {
    let (site, gate) = held(store, Reply::json(&json!("in time")), "20s").await;
    let asked = cancel(&site, "held", "soft").await;
    let told = (asked.status, &asked.json["state"], &asked.json["reason"], &asked.json["cancel_requested"]);
    assert_eq!(told, (202, &json!("running"), &json!("canceling"), &json!(true)));
    // Asking again is no mistake.
    assert_eq!(cancel(&site, "held", "soft").await.status, 202);
    gate.open();
    let record = site.wait_final("held").await;
    assert_eq!((&record["state"], &record["result"]), (&json!("succeeded"), &json!("in time")));
}

async fn a_running_task_that_fails_is_canceled(store: Store) {
    let (site, gate) = held(store, Reply::status(500), "20s").await;
    cancel(&site, "held", "soft").await;
    gate.open();
    let record = site.wait_final("held").await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("canceled"), &json!("requested")));
    assert_eq!(site.worker.count(), 1);
}

async fn after_its_grace_a_running_task_is_cut(store: Store) {
    let (site, _gate) = held(store, Reply::status(204), "200ms").await;
    let start = Instant::now();
    assert_eq!(cancel(&site, "held", "soft").await.status, 202);
    let record = site.wait_final("held").await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("canceled"), &json!("requested")));
    let waited = start.elapsed();
    assert!((Duration::from_millis(170)..Duration::from_secs(5)).contains(&waited), "{waited:?}");
    let calls = site.worker.wait_answered(1).await;
    assert_eq!(calls[0].answered, Answered::ClientLeft);
    assert_eq!(site.attempts("held").await[0]["outcome"], "canceled");
}

async fn hard_means_now(store: Store) {
    let (site, _gate) = held(store, Reply::status(204), "1h").await;
    let start = Instant::now();
    assert_eq!(cancel(&site, "held", "hard").await.status, 202);
    assert_eq!(site.wait_final("held").await["state"], "canceled");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(site.worker.wait_answered(1).await[0].answered, Answered::ClientLeft);
    // The slot is free again.
    site.worker.on("work", Reply::status(204));
    let next = site.submit_plain("work").await;
    assert_eq!(site.wait_final(&next).await["state"], "succeeded");
}

async fn soft_can_become_hard(store: Store) {
    let (site, _gate) = held(store, Reply::status(204), "1h").await;
    assert_eq!(cancel(&site, "held", "soft").await.status, 202);
    assert_eq!(cancel(&site, "held", "hard").await.status, 202);
    assert_eq!(site.wait_final("held").await["state"], "canceled");
}

async fn a_final_task_stays_what_it_is(store: Store) {
    let (site, gate) = held(store, Reply::json(&json!(1)), "1h").await;
    gate.open();
    site.wait_final("held").await;
    for mode in ["soft", "hard"] {
        let refused = cancel(&site, "held", mode).await;
        assert_eq!((refused.status, refused.code(), &refused.json["state"]), (409, "wrong_state", &json!("succeeded")));
    }
    assert_eq!(site.task("held").await["result"], 1);
}

async fn the_body_is_optional_and_checked(store: Store) {
    let site = store.dev().await;
    let id = site.submit_plain("nobody").await;
    let path = format!("/v1/tasks/{id}/cancel");
    for (body, code, pointer) in [
        (json!({"mode": "gently"}), "invalid_field", "/mode"),
        (json!({"mode": 1}), "invalid_field", "/mode"),
        (json!({"cascade": "yes"}), "invalid_field", "/cascade"),
        (json!({"mod": "soft"}), "unknown_field", "/mod"),
        (json!([]), "invalid_field", ""),
    ] {
        let refused = site.post(&path, &body).await;
        assert_eq!((refused.status, refused.code(), refused.pointers()), (422, code, vec![pointer]), "{body}");
    }
    assert_eq!(site.task(&id).await["state"], "queued");
    assert_eq!(site.send(site.request(reqwest::Method::POST, &path)).await.status, 200);
}
