//! `GET /v1/tasks/{id}/attempts`, and `DELETE /v1/tasks/{id}`.

use lovage_tests::Reply;
use serde_json::json;

use super::site::{Store, quick_retry};

on_both_stores!(
    every_attempt_is_told,
    the_open_attempt_is_last,
    a_plain_success_is_one_attempt,
    an_excerpt_is_cut,
    faults_have_names_and_no_status,
    final_tasks_can_be_deleted,
);

async fn every_attempt_is_told(store: Store) {
    let site = store.dev().await;
    let error = Reply::json(&json!({"type": "ValueError", "message": "not yet", "stack": "at line 3"})).with_status(500);
    site.worker.on("work", [error, Reply::reset(), Reply::json(&json!("ok"))]);
    site.serves(&["work"]).await;
    let id = site.submit(&json!({"task": "work", "retry": quick_retry(5)})).await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["attempt"], &record["result"], &record["error"]), (&json!(3), &json!("ok"), &json!(null)));
    let attempts = site.attempts(&id).await;
    let told: Vec<_> = attempts.iter().map(|a| (a["attempt"].clone(), a["outcome"].clone(), a["status"].clone())).collect();
    let expected = [
        (json!(1), json!("backoff"), json!(500)),
        (json!(2), json!("backoff"), json!(null)),
        (json!(3), json!("succeeded"), json!(200)),
    ];
    assert_eq!(told, expected, "{attempts:?}");
    let first = &attempts[0];
    assert_eq!(first["error"], json!({"type": "ValueError", "message": "not yet", "stack": "at line 3", "status": 500}));
    assert!(first["excerpt"].as_str().unwrap().contains("not yet"), "{first}");
    assert_eq!(attempts[1]["error"]["type"], "ConnectionReset");
    for attempt in &attempts {
        assert_eq!(attempt["worker"], "w");
        assert_eq!(attempt["instance"], site.worker.url(), "{attempt}");
        assert!(attempt["started_at"].as_str() <= attempt["ended_at"].as_str(), "{attempt}");
        assert!(attempt["duration_ms"].as_u64().unwrap() < 10_000, "{attempt}");
    }
    assert!(attempts.is_sorted_by_key(|attempt| attempt["started_at"].as_str().unwrap()));
}

async fn the_open_attempt_is_last(store: Store) {
    let site = store.dev().await;
    let gate = lovage_tests::Gate::new();
    site.worker.on("work", [Reply::status(500), Reply::status(204).behind(&gate)]);
    site.serves(&["work"]).await;
    let id = site.submit(&json!({"task": "work", "retry": quick_retry(5)})).await;
    site.worker.wait_for(2).await;
    let attempts = site.attempts(&id).await;
    assert_eq!((attempts.len(), &attempts[1]["outcome"], &attempts[1]["attempt"]), (2, &json!("running"), &json!(2)));
    assert_eq!((&attempts[1]["ended_at"], &attempts[1]["worker"]), (&json!(null), &json!("w")));
    gate.open();
    site.wait_final(&id).await;
    assert_eq!(site.attempts(&id).await.len(), 2);
}

async fn a_plain_success_is_one_attempt(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::json(&json!(1)));
    site.serves(&["work"]).await;
    let id = site.submit_plain("work").await;
    assert!(site.attempts(&id).await.len() <= 1);
    site.wait_final(&id).await;
    let [attempt] = &site.attempts(&id).await[..] else { panic!("one attempt") };
    let told = [&attempt["attempt"], &attempt["outcome"], &attempt["worker"]];
    assert_eq!(told, [&json!(1), &json!("succeeded"), &json!("w")]);
    let waiting = site.submit_plain("nobody").await;
    assert!(site.attempts(&waiting).await.is_empty());
}

async fn an_excerpt_is_cut(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::bytes("text/plain", "ü".repeat(5_000)).with_status(400));
    site.serves(&["work"]).await;
    let id = site.submit_plain("work").await;
    site.wait_final(&id).await;
    let excerpt = site.attempts(&id).await[0]["excerpt"].as_str().unwrap().to_owned();
    assert!((2_000..=2_052).contains(&excerpt.len()) && excerpt.starts_with("üüü"), "{} bytes", excerpt.len());
}

async fn faults_have_names_and_no_status(store: Store) {
    let site = store.dev().await;
    let closed = lovage_tests::Port::reserve();
    site.register_worker("down", &format!("http://127.0.0.1:{}", closed.number()), &["down"]).await;
    let id = site.submit(&json!({"task": "down", "retry": super::site::slow_retry()})).await;
    site.judged(&id).await;
    let attempt = &site.attempts(&id).await[0];
    assert_eq!((&attempt["status"], &attempt["excerpt"]), (&json!(null), &json!(null)));
    assert_eq!((&attempt["error"]["type"], &attempt["outcome"]), (&json!("ConnectionRefused"), &json!("endpoint")));
}

async fn final_tasks_can_be_deleted(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::json(&json!(1)));
    site.serves(&["work"]).await;
    let waiting = site.submit_plain("nobody").await;
    let refused = site.delete(&format!("/v1/tasks/{waiting}")).await;
    assert_eq!((refused.status, refused.code(), &refused.json["state"]), (409, "wrong_state", &json!("queued")));
    let signature = json!({"task": "work", "id": "done"});
    site.submit(&signature).await;
    site.wait_final("done").await;
    assert_eq!(site.delete("/v1/tasks/done").await.status, 204);
    for path in ["", "/result", "/payload", "/attempts"] {
        assert_eq!(site.get(&format!("/v1/tasks/done{path}")).await.code(), "task_unknown");
    }
    assert_eq!(site.delete("/v1/tasks/done").await.status, 404);
    assert!(site.list("/v1/tasks?task=work").await.is_empty());
    // The id is free.
    assert_eq!(site.post_task(&signature).await.status, 202);
    assert_eq!(site.wait_final("done").await["attempt"], 1);
}
