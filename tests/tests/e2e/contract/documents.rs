//! `/v1/workers/{name}` as a named document: upsert, `ETag`, preconditions, secrets that are only written.

use lovage_tests::Answer;
use reqwest::Method;
use serde_json::{Value, json};

use super::site::{Site, Store};

on_both_stores!(
    put_creates_and_replaces,
    patch_changes_what_it_names,
    preconditions_guard_every_change,
    secrets_are_never_shown_again,
    workers_are_listed,
    a_deleted_worker_is_gone,
);

const URL: &str = "http://127.0.0.1:1/run";

async fn guarded(site: &Site, method: Method, header: (&str, &str), body: &Value) -> Answer {
    site.send(site.request(method, "/v1/workers/w").header(header.0, header.1).json(body)).await
}

async fn put_creates_and_replaces(store: Store) {
    let site = store.dev().await;
    let created = site.put("/v1/workers/w", &json!({"url": URL, "tasks": ["images.*"], "concurrency": 7})).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.header("etag"), format!("\"{}\"", created.json["version"]));
    let mut shown = site.get("/v1/workers/w").await;
    assert_eq!((shown.status, shown.header("etag")), (200, created.header("etag")));
    // What is seen of it and its instances is no part of the document.
    for seen in ["instances", "live"] {
        shown.json.as_object_mut().unwrap().remove(seen);
    }
    let expected = json!({
        "name": "w", "urls": [URL], "tasks": ["images.*"], "queues": [], "balance": "least_loaded", "concurrency": 7,
        "rate": null, "burst": null, "cancel_grace": "10s", "async": false, "pull": false, "control_url": null,
        "breaker": {"failures": 5, "open_for": "10s"}, "health": null, "recycle": null, "batch": null, "headers": {},
        "status_map": "lovage", "paused_until": null, "paused_because": null, "state": "active",
        "version": created.json["version"],
    });
    assert_eq!(shown.json, expected);
    // A replacement has the defaults for what it does not name.
    let settings = json!({"urls": [URL, "http://127.0.0.1:2"], "tasks": ["a", "b"], "queues": ["q"], "cancel_grace": "1m",
        "status_map": {"preset": "qstash", "permanent": [422]}});
    let replaced = site.put("/v1/workers/w", &settings).await;
    assert_eq!((replaced.status, &replaced.json["concurrency"]), (200, &json!(100)));
    assert_ne!(replaced.header("etag"), created.header("etag"));
    let shown = site.get("/v1/workers/w").await.json;
    for field in ["urls", "tasks", "queues", "cancel_grace", "status_map"] {
        assert_eq!(shown[field], settings[field], "{field}");
    }
}

async fn patch_changes_what_it_names(store: Store) {
    let site = store.dev().await;
    let missing = site.patch("/v1/workers/w", &json!({"concurrency": 1})).await;
    assert_eq!((missing.status, missing.code()), (404, "worker_unknown"));
    site.put("/v1/workers/w", &json!({"url": URL, "tasks": ["a"], "concurrency": 7})).await;
    let changed = site.patch("/v1/workers/w", &json!({"tasks": ["b"], "queues": ["q"]})).await;
    assert_eq!(changed.status, 200);
    let told = [&changed.json["tasks"], &changed.json["queues"], &changed.json["concurrency"], &changed.json["urls"]];
    assert_eq!(told, [&json!(["b"]), &json!(["q"]), &json!(7), &json!([URL])]);
    let reset = site.patch("/v1/workers/w", &json!({"concurrency": null, "queues": null})).await;
    assert_eq!((&reset.json["concurrency"], &reset.json["queues"]), (&json!(100), &json!([])));
    let refused = site.patch("/v1/workers/w", &json!({"tasks": []})).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/tasks"]));
    assert_eq!(site.get("/v1/workers/w").await.json["tasks"], json!(["b"]));
}

async fn preconditions_guard_every_change(store: Store) {
    let site = store.dev().await;
    let body = json!({"url": URL, "tasks": ["a"]});
    assert_eq!(guarded(&site, Method::PUT, ("if-match", "*"), &body).await.status, 412);
    assert_eq!(guarded(&site, Method::PUT, ("if-match", "\"1\""), &body).await.status, 412);
    let created = guarded(&site, Method::PUT, ("if-none-match", "*"), &body).await;
    assert_eq!(created.status, 201);
    let refused = guarded(&site, Method::PUT, ("if-none-match", "*"), &body).await;
    assert_eq!((refused.status, refused.code()), (412, "version_mismatch"));
    let first = created.header("etag").to_owned();
    let second = guarded(&site, Method::PUT, ("if-match", &first), &body).await;
    assert_eq!(second.status, 200);
    for stale in [&*first, "\"nonsense\"", "1"] {
        for method in [Method::PUT, Method::PATCH, Method::DELETE] {
            let refused = guarded(&site, method.clone(), ("if-match", stale), &body).await;
            assert_eq!((refused.status, refused.code()), (412, "version_mismatch"), "{method} {stale}");
        }
    }
    let third = guarded(&site, Method::PATCH, ("if-match", second.header("etag")), &json!({"concurrency": 3})).await;
    assert_eq!(third.status, 200);
    assert_eq!(guarded(&site, Method::DELETE, ("if-match", third.header("etag")), &json!(null)).await.status, 204);
}

async fn secrets_are_never_shown_again(store: Store) {
    let site = store.dev().await;
    let settings = json!({"url": URL, "tasks": ["a"], "headers": {"Authorization": "Bearer s3cret", "X-Other": "0ther"}});
    let created = site.put("/v1/workers/w", &settings).await;
    let secret = created.json["signing"].as_str().expect("the secret is shown once").to_owned();
    assert!(secret.starts_with("whsec_"), "{secret}");
    let rotated = site.post("/v1/workers/w/rotate-secret", &json!(null)).await.json["signing"].as_str().unwrap().to_owned();
    assert!(rotated.starts_with("whsec_") && rotated != secret);
    let own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let chosen = site.put("/v1/workers/own", &json!({"url": URL, "tasks": ["b"], "signing": own})).await;
    assert_eq!(chosen.status, 201);
    let replaced = site.put("/v1/workers/w", &settings).await;
    for answer in [replaced, site.get("/v1/workers/w").await, site.get("/v1/workers/own").await, site.get("/v1/workers").await] {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        for secret in [&*secret, &rotated, own, "s3cret", "0ther", "whsec_"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    // Names are shown, and keep their values when they are sent back as they were shown.
    let shown = site.get("/v1/workers/w").await.json["headers"].clone();
    assert_eq!(shown, json!({"Authorization": null, "X-Other": null}));
    assert_eq!(site.patch("/v1/workers/w", &json!({"headers": shown})).await.status, 200);
    let refused = site.patch("/v1/workers/w", &json!({"headers": {"X-New": null}})).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/headers/X-New"]));
}

async fn workers_are_listed(store: Store) {
    let site = store.dev().await;
    let names: Vec<String> = (0..7).map(|n| format!("w-{n}")).collect();
    for name in &names {
        site.register_worker(name, URL, &[name]).await;
    }
    for limit in [1, 3, 1_000] {
        let items = site.list(&format!("/v1/workers?limit={limit}")).await;
        let shown: Vec<_> = items.iter().filter_map(|item| item["name"].as_str()).filter(|name| *name != "demo").collect();
        assert_eq!(shown, names, "limit {limit}");
    }
    // Names with characters that mean something in a path are percent-encoded there.
    site.register_worker("a%3Ab", URL, &["colon"]).await;
    assert_eq!(site.get("/v1/workers/a:b").await.json["name"], "a:b");
    for name in ["a%20b", "a%2Fb", "%C3%BC", &"x".repeat(129)] {
        let refused = site.put(&format!("/v1/workers/{name}"), &json!({"url": URL, "tasks": ["t"]})).await;
        assert_eq!((refused.status, refused.pointers()), (422, vec!["/name"]), "{name}");
    }
}

async fn a_deleted_worker_is_gone(store: Store) {
    let site = store.dev().await;
    site.register_worker("w", URL, &["t"]).await;
    site.put("/v1/workers/w/instances/one", &json!({"url": URL})).await;
    assert_eq!(site.delete("/v1/workers/w").await.status, 204);
    for path in ["/v1/workers/w", "/v1/workers/w/instances", "/v1/workers/w/instances/one"] {
        let gone = site.get(path).await;
        assert_eq!((gone.status, gone.code()), (404, "worker_unknown"), "{path}");
    }
    assert_eq!(site.delete("/v1/workers/w").await.code(), "worker_unknown");
    assert_eq!(site.post("/v1/workers/w/rotate-secret", &json!(null)).await.code(), "worker_unknown");
    // A worker of the same name does not inherit anything.
    site.register_worker("w", URL, &["t"]).await;
    assert!(site.list("/v1/workers/w/instances").await.is_empty());
}
