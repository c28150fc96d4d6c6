//! When a task starts: `delay`, `eta`, `expires_in`, `expires_at`, and in which order by `priority`.

use std::time::Duration;

use lovage_tests::{Reply, clock::now_ns};
use serde_json::{Value, json};

use super::site::Store;
use super::time::{ago, from_now};

on_both_stores!(
    a_delayed_task_is_not_early,
    durations_are_written_in_many_ways,
    an_eta_is_kept,
    an_eta_in_the_past_is_now,
    what_has_expired_is_never_started,
    an_expired_task_in_a_queue_is_passed_over,
    expiry_counts_for_delayed_tasks_too,
    the_most_urgent_task_goes_first,
    equal_priorities_go_in_order_of_acceptance,
);

async fn a_delayed_task_is_not_early(store: Store) {
    let site = store.dev().await;
    site.worker.on("later", Reply::status(204));
    site.serves(&["later"]).await;
    for delay in [60_u64, 250, 400] {
        let start = now_ns();
        let accepted = site.post_task(&json!({"task": "later", "delay": format!("{delay}ms")})).await;
        assert_eq!(accepted.json["state"], "scheduled");
        let record = site.wait_final(&accepted.id()).await;
        assert_eq!(record["state"], "succeeded");
        let waited = Duration::from_nanos(site.worker.received_for(&accepted.id())[0].started_ns - start);
        let delay = Duration::from_millis(delay);
        assert!(waited + site.skew >= delay, "after {waited:?} instead of {delay:?}");
        assert!(waited < delay + Duration::from_secs(3), "only after {waited:?} instead of {delay:?}");
    }
}

async fn durations_are_written_in_many_ways(store: Store) {
    let site = store.dev().await;
    let written = [json!("90m"), json!("1h30m"), json!("5400s"), json!(5400), json!(5400.0), json!("5400"), json!("1.5h")];
    for delay in written {
        let before = from_now(Duration::from_secs(5_400 - 2));
        let id = site.submit(&json!({"task": "nobody", "delay": delay})).await;
        let after = from_now(Duration::from_secs(5_400 + 2));
        let record = site.task(&id).await;
        let due = record["due_at"].as_str().unwrap();
        assert!(before.as_str() <= due && due <= after.as_str(), "{delay}: {due}");
    }
}

async fn an_eta_is_kept(store: Store) {
    let site = store.dev().await;
    site.worker.on("later", Reply::status(204));
    site.serves(&["later"]).await;
    let (distance, start) = (Duration::from_millis(300), now_ns());
    let eta = from_now(distance);
    let id = site.submit(&json!({"task": "later", "eta": eta})).await;
    assert_eq!(site.task(&id).await["due_at"], eta.as_str());
    site.wait_final(&id).await;
    let call = &site.worker.received_for(&id)[0];
    let waited = Duration::from_nanos(call.started_ns - start);
    assert!(waited + site.skew >= distance, "after {waited:?}");
    assert_eq!(call.header("lovage-eta"), eta);
    // Another zone is the same instant.
    let id = site.submit(&json!({"task": "later", "eta": "2099-01-01T02:00:00+02:00"})).await;
    assert_eq!(site.task(&id).await["due_at"], "2099-01-01T00:00:00.000Z");
}

async fn an_eta_in_the_past_is_now(store: Store) {
    let site = store.dev().await;
    site.worker.on("now", Reply::status(204));
    site.serves(&["now"]).await;
    let past = ago(Duration::from_secs(3_600));
    for eta in ["1970-01-01T00:00:00Z", past.as_str()] {
        let id = site.submit(&json!({"task": "now", "eta": eta})).await;
        assert_eq!(site.wait_final(&id).await["state"], "succeeded");
    }
    let id = site.submit(&json!({"task": "now", "delay": 0})).await;
    assert_eq!(site.wait_final(&id).await["state"], "succeeded");
}

async fn what_has_expired_is_never_started(store: Store) {
    let site = store.dev().await;
    site.worker.on("late", Reply::status(204));
    // Nobody serves it until its time is over.
    let waiting = site.submit(&json!({"task": "late", "expires_in": "100ms"})).await;
    let stale = site.submit(&json!({"task": "late", "expires_at": ago(Duration::from_secs(60))})).await;
    let fresh = site.submit(&json!({"task": "late", "expires_at": from_now(Duration::from_secs(600))})).await;
    for id in [&waiting, &stale] {
        let record = site.wait_final(id).await;
        assert_eq!((&record["state"], &record["attempt"]), (&json!("expired"), &json!(0)));
        let result = site.get(&format!("/v1/tasks/{id}/result")).await;
        assert_eq!((result.status, result.code()), (424, "task_expired"));
    }
    site.serves(&["late"]).await;
    assert_eq!(site.wait_final(&fresh).await["state"], "succeeded");
    assert_eq!(site.worker.count(), 1, "only the fresh one was started");
}

async fn an_expired_task_in_a_queue_is_passed_over(store: Store) {
    let site = store.dev().await;
    let gate = site.worker.hold("work", Reply::status(204));
    site.register_worker_with("w", &json!({"url": site.worker.url(), "tasks": ["work"], "concurrency": 1})).await;
    let first = site.submit_plain("work").await;
    site.worker.wait_for(1).await;
    let short = site.submit(&json!({"task": "work", "expires_in": "80ms"})).await;
    let long = site.submit_plain("work").await;
    assert_eq!(site.wait_final(&short).await["state"], "expired");
    gate.open();
    for id in [&first, &long] {
        assert_eq!(site.wait_final(id).await["state"], "succeeded");
    }
    assert!(site.worker.received_for(&short).is_empty());
}

async fn expiry_counts_for_delayed_tasks_too(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(500));
    site.serves(&["work"]).await;
    let delayed = site.submit(&json!({"task": "work", "eta": "2099-01-01T00:00:00Z", "expires_in": "100ms"})).await;
    let retrying = site
        .submit(&json!({"task": "work", "expires_in": "300ms", "retry": {"backoff": "fixed", "min": "1h", "jitter": "none"}}))
        .await;
    assert_eq!(site.wait_final(&delayed).await["state"], "expired");
    assert_eq!(site.wait_final(&retrying).await["state"], "expired");
    assert_eq!(site.worker.received_for(&retrying).len(), 1);
    assert!(site.worker.received_for(&delayed).is_empty());
}

/// The order in which the worker got these tasks when it took one at a time, after all of them had been accepted.
async fn order_of(store: Store, signatures: Vec<Value>) -> Vec<String> {
    let site = store.dev().await;
    let gate = site.worker.hold("work", Reply::status(204));
    site.register_worker_with("w", &json!({"url": site.worker.url(), "tasks": ["work"], "concurrency": 1})).await;
    site.submit(&json!({"task": "work", "id": "holder"})).await;
    site.worker.wait_for(1).await;
    for signature in &signatures {
        site.submit(signature).await;
    }
    gate.open();
    let calls = site.worker.wait_for(1 + signatures.len()).await;
    assert!(site.worker.overlaps().is_empty());
    calls[1..].iter().map(|call| call.header("lovage-label-n").to_owned()).collect()
}

async fn the_most_urgent_task_goes_first(store: Store) {
    let one_of = |priority: u8| json!({"task": "work", "priority": priority, "labels": {"n": priority.to_string()}});
    let mut signatures: Vec<Value> = [3, 0, 9, 5, 1, 8, 2, 7, 6].map(one_of).to_vec();
    // The default is between 3 and 5.
    signatures.insert(3, json!({"task": "work", "labels": {"n": "4"}}));
    let order = order_of(store, signatures).await;
    match store {
        Store::Embedded => assert_eq!(order, ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"]),
        // Each partition orders its own tasks; over all of them the order is only roughly that of the priorities.
        Store::Redis => assert_eq!(order.len(), 10),
    }
}

async fn equal_priorities_go_in_order_of_acceptance(store: Store) {
    let signatures: Vec<Value> = (0..10).map(|n| json!({"task": "work", "labels": {"n": n.to_string()}})).collect();
    let order = order_of(store, signatures).await;
    match store {
        Store::Embedded => assert!(order.is_sorted(), "{order:?}"),
        Store::Redis => assert_eq!(order.len(), 10),
    }
}
