//! `/v1/workers/{name}/instances/{id}`: workers that register themselves and must renew it.

use std::time::{Duration, Instant};

use lovage_tests::{Reply, Worker, eventually};
use serde_json::json;

use super::site::{PATIENCE, Store};

on_both_stores!(
    an_instance_gets_tasks,
    an_instance_that_is_not_renewed_is_forgotten,
    a_renewed_instance_stays,
    an_instance_has_its_own_capacity,
    instances_are_listed_and_removed,
    instances_are_checked,
);

async fn an_instance_gets_tasks(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::json(&json!("from the instance")));
    // A worker without an address: only its instances are called.
    assert_eq!(site.put("/v1/workers/w", &json!({"tasks": ["work"]})).await.status, 201);
    let id = site.submit_plain("work").await;
    let waited = site.get(&format!("/v1/tasks/{id}?wait=200ms")).await;
    assert_eq!(waited.json["state"], "queued");
    let registered = site.put("/v1/workers/w/instances/i-1", &json!({"url": site.worker.url(), "version": "1.2"})).await;
    assert_eq!(registered.status, 201);
    let told = [&registered.json["id"], &registered.json["worker"], &registered.json["url"], &registered.json["version"]];
    assert_eq!(told, [&json!("i-1"), &json!("w"), &json!(site.worker.url()), &json!("1.2")]);
    assert_eq!(site.wait_final(&id).await["result"], "from the instance");
    assert_eq!(site.attempts(&id).await[0]["worker"], "w");
}

async fn an_instance_that_is_not_renewed_is_forgotten(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    site.put("/v1/workers/w", &json!({"tasks": ["work"]})).await;
    let start = Instant::now();
    site.put("/v1/workers/w/instances/i-1", &json!({"url": site.worker.url(), "ttl": "1s"})).await;
    let first = site.submit_plain("work").await;
    assert_eq!(site.wait_final(&first).await["state"], "succeeded");
    eventually("the instance to be gone", PATIENCE, async || {
        (site.get("/v1/workers/w/instances/i-1").await.status == 404).then_some(())
    })
    .await;
    assert!(start.elapsed() >= Duration::from_millis(970), "{:?}", start.elapsed());
    assert!(site.list("/v1/workers/w/instances").await.is_empty());
    let second = site.submit_plain("work").await;
    let waited = site.get(&format!("/v1/tasks/{second}?wait=300ms")).await;
    assert_eq!((&waited.json["state"], site.worker.count()), (&json!("queued"), 1));
    // It comes back and finds its work.
    let again = site.put("/v1/workers/w/instances/i-1", &json!({"url": site.worker.url()})).await;
    assert!(matches!(again.status, 200 | 201), "{again:?}");
    assert_eq!(site.wait_final(&second).await["state"], "succeeded");
}

async fn a_renewed_instance_stays(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    site.put("/v1/workers/w", &json!({"tasks": ["work"]})).await;
    let body = json!({"url": site.worker.url(), "ttl": "1s"});
    assert_eq!(site.put("/v1/workers/w/instances/i-1", &body).await.status, 201);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1_600) {
        let renewed = site.put("/v1/workers/w/instances/i-1", &body).await;
        assert_eq!(renewed.status, 200);
        let id = site.submit_plain("work").await;
        assert_eq!(site.wait_final_for(&id, Duration::from_secs(5)).await["state"], "succeeded");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn an_instance_has_its_own_capacity(store: Store) {
    let site = store.dev().await;
    let (small, large) = (Worker::start(), Worker::start());
    let gates = [small.hold("work", Reply::status(204)), large.hold("work", Reply::status(204))];
    site.put("/v1/workers/w", &json!({"tasks": ["work"], "concurrency": 50})).await;
    site.put("/v1/workers/w/instances/small", &json!({"url": small.url(), "capacity": 1})).await;
    site.put("/v1/workers/w/instances/large", &json!({"url": large.url(), "capacity": 4})).await;
    let ids = site.submit_batch(&vec![json!({"task": "work"}); 20]).await.ids();
    small.wait_for(1).await;
    large.wait_for(4).await;
    // Long enough for a sixth call, were there one.
    let waited = site.get(&format!("/v1/tasks/{}?wait=200ms", ids[19])).await;
    assert_eq!((waited.status, small.count(), large.count()), (200, 1, 4));
    gates.iter().for_each(lovage_tests::Gate::open);
    site.wait_all_final(&ids, Duration::from_secs(30)).await;
}

async fn instances_are_listed_and_removed(store: Store) {
    let site = store.dev().await;
    site.put("/v1/workers/w", &json!({"tasks": ["work"]})).await;
    site.put("/v1/workers/w2", &json!({"tasks": ["other"]})).await;
    for id in ["a", "b", "c"] {
        let body = json!({"url": "http://127.0.0.1:1", "ttl": "5m", "capacity": 2, "version": id});
        let put = site.put(&format!("/v1/workers/w/instances/{id}"), &body).await;
        assert_eq!((put.status, put.header("etag").is_empty()), (201, false));
    }
    site.put("/v1/workers/w2/instances/z", &json!({"url": "http://127.0.0.1:1"})).await;
    for limit in [1, 50] {
        let items = site.list(&format!("/v1/workers/w/instances?limit={limit}")).await;
        assert_eq!(items.iter().map(|item| item["id"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(items.iter().all(|item| item["capacity"] == 2 && item["expires_at"].is_string()), "{items:?}");
    }
    assert_eq!(site.delete("/v1/workers/w/instances/b").await.status, 204);
    assert_eq!(site.delete("/v1/workers/w/instances/b").await.status, 404);
    assert_eq!(site.list("/v1/workers/w/instances").await.len(), 2);
}

async fn instances_are_checked(store: Store) {
    let site = store.dev().await;
    let url = "http://127.0.0.1:1";
    let orphan = site.put("/v1/workers/none/instances/a", &json!({"url": url})).await;
    assert_eq!((orphan.status, orphan.code()), (404, "worker_unknown"));
    site.put("/v1/workers/w", &json!({"tasks": ["work"]})).await;
    for (body, code, pointer) in [
        (json!({}), "invalid_field", "/url"),
        (json!({"url": "nonsense"}), "invalid_field", "/url"),
        (json!({"url": "http://169.254.169.254/"}), "destination_forbidden", "/url"),
        (json!({"url": url, "ttl": "0s"}), "invalid_field", "/ttl"),
        (json!({"url": url, "ttl": "25h"}), "invalid_field", "/ttl"),
        (json!({"url": url, "capacity": 0}), "invalid_field", "/capacity"),
        (json!({"url": url, "version": 3}), "invalid_field", "/version"),
        (json!({"url": url, "tll": "1m"}), "unknown_field", "/tll"),
    ] {
        let refused = site.put("/v1/workers/w/instances/a", &body).await;
        let status = if code == "destination_forbidden" { 403 } else { 422 };
        assert_eq!((refused.status, refused.code(), refused.pointers()), (status, code, vec![pointer]), "{body}");
    }
    let refused = site.put("/v1/workers/w/instances/a%20b", &json!({"url": url})).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/id"]));
}
