//! Raw submits: the body is the payload, whatever it is, and the signature comes in `Lovage-*` headers.

use lovage_tests::{Answer, Reply};
use serde_json::json;

use super::site::{Site, Store};

on_both_stores!(
    any_bytes_are_a_payload,
    json_is_a_payload_too,
    scalar_fields_come_as_headers,
    a_raw_body_may_be_empty,
    the_same_id_is_the_same_request,
    headers_are_checked_like_fields,
);

async fn raw(site: &Site, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
    let mut request = site.request(reqwest::Method::POST, "/v1/tasks");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    site.send(request.body(body)).await
}

async fn any_bytes_are_a_payload(store: Store) {
    let site = store.dev().await;
    site.worker.on("store", Reply::status(204));
    site.serves(&["store"]).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for content_type in ["image/png", "text/plain; charset=latin1", "application/x-www-form-urlencoded"] {
        let id = raw(&site, &[("lovage-task", "store"), ("content-type", content_type)], bytes.clone()).await.id();
        assert_eq!(site.wait_final(&id).await["state"], "succeeded");
        let call = &site.worker.received_for(&id)[0];
        assert_eq!((call.body == bytes, call.header("content-type")), (true, content_type));
        let kept = site.get(&format!("/v1/tasks/{id}/payload")).await;
        assert_eq!((kept.body == bytes, kept.header("content-type")), (true, content_type));
        assert!(kept.header("x-content-type-options") == "nosniff", "{:?}", kept.headers);
    }
    // Nothing said is nothing known.
    let id = raw(&site, &[("lovage-task", "store")], bytes).await.id();
    site.wait_final(&id).await;
    assert_eq!(site.worker.received_for(&id)[0].header("content-type"), "application/octet-stream");
}

async fn json_is_a_payload_too(store: Store) {
    let site = store.dev().await;
    site.worker.on("/in", Reply::status(204));
    let url = site.worker.url_of("/in");
    // Were it read as a signature it would be refused; it is not even JSON.
    for body in [r#"{"task": 3, "colour": "red"}"#, "{", ""] {
        let id = raw(&site, &[("lovage-url", &url), ("content-type", "application/json")], body).await.id();
        assert_eq!(site.wait_final(&id).await["state"], "succeeded");
        assert_eq!(site.worker.received_for(&id)[0].body, body);
    }
}

async fn scalar_fields_come_as_headers(store: Store) {
    let site = store.dev().await;
    let headers = [
        ("lovage-task", "nobody"),
        ("lovage-id", "raw-1"),
        ("lovage-name", "a name"),
        ("lovage-queue", "files"),
        ("lovage-priority", "7"),
        ("lovage-delay", "1h"),
        ("lovage-expires-in", "7200"),
        ("lovage-time-limit", "5m"),
        ("lovage-ignore-result", "true"),
        ("lovage-result-ttl", "1h"),
        ("lovage-retention", "2d"),
        ("lovage-label-team", "a"),
        ("lovage-label-x.y", "b"),
        ("content-type", "text/csv"),
    ];
    let accepted = raw(&site, &headers, "a;b").await;
    assert_eq!((accepted.status, &accepted.json["state"]), (202, &json!("scheduled")), "{accepted:?}");
    let record = site.task("raw-1").await;
    let shown = [&record["task"], &record["name"], &record["queue"], &record["priority"], &record["time_limit"]];
    assert_eq!(shown, [&json!("nobody"), &json!("a name"), &json!("files"), &json!(7), &json!("5m")]);
    assert_eq!(record["labels"], json!({"team": "a", "x.y": "b"}));
    assert!(record["due_at"].as_str() < record["expires_at"].as_str(), "{record}");
    let again = raw(&site, &headers, "a;b").await;
    assert_eq!((again.status, &*again.id()), (200, "raw-1"));
}

async fn a_raw_body_may_be_empty(store: Store) {
    let site = store.dev().await;
    site.worker.on("ping", Reply::status(204));
    site.serves(&["ping"]).await;
    let id = raw(&site, &[("lovage-task", "ping")], "").await.id();
    assert_eq!(site.wait_final(&id).await["state"], "succeeded");
    assert!(site.worker.received_for(&id)[0].body.is_empty());
}

async fn the_same_id_is_the_same_request(store: Store) {
    let site = store.dev().await;
    let id = ("lovage-id", "raw-2");
    let first = [("lovage-task", "nobody"), id, ("content-type", "text/plain")];
    assert_eq!(raw(&site, &first, "body").await.status, 202);
    assert_eq!(raw(&site, &first, "body").await.status, 200);
    let others: [(&[(&str, &str)], &str); 3] = [
        (&first, "another body"),
        (&[("lovage-task", "nobody"), id, ("content-type", "text/csv")], "body"),
        (&[("lovage-task", "nobody"), id, ("content-type", "text/plain"), ("lovage-priority", "5")], "body"),
    ];
    for (headers, body) in others {
        let other = raw(&site, headers, body).await;
        assert_eq!((other.status, other.code()), (409, "id_exists"), "{headers:?}");
    }
}

async fn headers_are_checked_like_fields(store: Store) {
    let site = store.dev().await;
    let table: &[(&[(&str, &str)], &str, &str)] = &[
        (&[("lovage-task", "a"), ("lovage-colour", "red")], "unknown_field", "/lovage-colour"),
        (&[("lovage-task", "a"), ("lovage-priority", "11")], "invalid_field", "/priority"),
        (&[("lovage-task", "a"), ("lovage-delay", "soon")], "invalid_field", "/delay"),
        (&[("lovage-task", "a"), ("lovage-eta", "soon")], "invalid_field", "/eta"),
        (&[("lovage-task", "a"), ("lovage-id", "a b")], "invalid_field", "/id"),
        (&[("lovage-task", "a"), ("lovage-expires-in", "0")], "invalid_field", "/expires_in"),
        (&[("lovage-task", "a"), ("lovage-ignore-result", "maybe")], "invalid_field", "/ignore_result"),
        (&[("lovage-task", "a b")], "invalid_field", "/task"),
        (&[("lovage-task", "")], "invalid_field", "/task"),
        (&[("lovage-url", "nope")], "invalid_field", "/url"),
        (&[("lovage-task", "a"), ("lovage-task", "b")], "invalid_field", "/task"),
    ];
    for (headers, code, pointer) in table {
        let refused = raw(&site, headers, "x").await;
        assert_eq!((refused.status, refused.code(), refused.pointers()), (422, *code, vec![*pointer]), "{headers:?}");
    }
    assert!(site.list("/v1/tasks").await.is_empty());
}
