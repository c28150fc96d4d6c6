//! `PATCH /v1/tasks/{id}`

use lovage_tests::{Answer, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::contract::site::{Site, Store};

on_both_stores!(
    a_waiting_task_is_changed,
    a_change_may_name_the_version,
    a_task_moves_to_another_queue,
    what_is_refused_changes_nothing
);

async fn patch_if(site: &Site, id: &str, tag: &str, changes: &Value) -> Answer {
    let request = site.request(Method::PATCH, &format!("/v1/tasks/{id}")).header("if-match", tag);
    site.send(request.json(changes)).await
}

async fn a_waiting_task_is_changed(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::json(&json!(1)));
    site.serves(&["t"]).await;
    let signature = json!({"task": "t", "delay": "1h", "args": [1.5], "labels": {"old": "1"}, "expires_in": "2h"});
    let id = site.submit(&signature).await;
    let path = format!("/v1/tasks/{id}");
    let changes = json!({"delay": "3h", "priority": 9, "labels": {"a": "b"}, "retry": {"max_attempts": 2}, "expires_in": null});
    let changed = site.patch(&path, &changes).await;
    assert_eq!(changed.status, 200, "{}", changed.json);
    let record = changed.json;
    let told = (&record["state"], &record["priority"], &record["labels"], &record["retry"], &record["expires_at"]);
    assert_eq!(told, (&json!("scheduled"), &json!(9), &json!({"a": "b"}), &json!({"max_attempts": 2}), &Value::Null));
    assert_eq!((&record["attempts_left"], &record["args"], &record["version"]), (&json!(2), &json!([1.5]), &json!(2)));
    assert_ne!(site.task(&id).await["due_at"], Value::Null);
    // What is not given stays, and null is the default.
    let record = site.patch(&path, &json!({"priority": null, "eta": null})).await.json;
    assert_eq!((&record["priority"], &record["labels"]), (&json!(4), &json!({"a": "b"})));
    assert_eq!(site.wait_final(&id).await["state"], "succeeded");
    assert_eq!(site.worker.received()[0].header("lovage-label-a"), "b");
    // A later time holds back what would start, an expiry ends it.
    let id = site.submit_plain("nobody").await;
    let path = format!("/v1/tasks/{id}");
    assert_eq!(site.patch(&path, &json!({"delay": "1h"})).await.json["state"], "scheduled");
    assert_eq!(site.patch(&path, &json!({"expires_in": "50ms"})).await.status, 200);
    assert_eq!(site.wait_final(&id).await["state"], "expired");
}

async fn a_change_may_name_the_version(store: Store) {
    let site = store.dev().await;
    let id = site.submit_plain("nobody").await;
    let tag = site.get(&format!("/v1/tasks/{id}")).await.header("etag").to_owned();
    assert_eq!(tag, "\"1\"");
    let changed = patch_if(&site, &id, &tag, &json!({"priority": 1})).await;
    assert_eq!((changed.status, changed.header("etag")), (200, "\"2\""));
    for stale in [tag.as_str(), "\"3\"", "\"what\""] {
        let refused = patch_if(&site, &id, stale, &json!({"priority": 2})).await;
        assert_eq!((refused.status, refused.code()), (412, "version_mismatch"), "{stale}");
    }
    assert_eq!(patch_if(&site, &id, "*", &json!({"priority": 3})).await.json["priority"], 3);
    assert_eq!(patch_if(&site, "unknown", "*", &json!({})).await.code(), "task_unknown");
}

async fn a_task_moves_to_another_queue(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::json(&json!(1)));
    let settings = json!({"url": site.worker.url(), "tasks": ["t"], "queues": ["mail"]});
    site.register_worker_with("w", &settings).await;
    let depth = async |queue: &str| site.get(&format!("/v1/queues/{queue}/stats")).await.json["depth"]["queued"].clone();
    let ids = [site.submit_plain("t").await, site.submit_plain("t").await];
    for state in [&ids[0], &ids[1]] {
        site.until_state(state, "queued").await;
    }
    let moved = site.patch(&format!("/v1/tasks/{}", ids[0]), &json!({"queue": "mail"})).await;
    assert_eq!((moved.status, &moved.json["queue"]), (200, &json!("mail")));
    assert_eq!(site.wait_final(&ids[0]).await["state"], "succeeded");
    assert_eq!(site.worker.received()[0].header("lovage-queue"), "mail");
    assert_eq!((depth("default").await, site.task(&ids[1]).await["state"].clone()), (json!(1), json!("queued")));
    // Into a queue that nobody serves, counted there.
    assert_eq!(site.patch(&format!("/v1/tasks/{}", ids[1]), &json!({"queue": "fresh"})).await.json["queue"], "fresh");
    assert_eq!((depth("fresh").await, depth("default").await), (json!(1), json!(0)));
}

async fn what_is_refused_changes_nothing(store: Store) {
    let site = store.dev().await;
    let id = site.submit_plain("nobody").await;
    let path = format!("/v1/tasks/{id}");
    for (changes, code, pointer) in [
        (json!({"priority": 10}), "invalid_field", "/priority"),
        (json!({"task": "other"}), "unknown_field", "/task"),
        (json!({"args": []}), "unknown_field", "/args"),
        (json!({"queue": "no good"}), "invalid_field", "/queue"),
        (json!({"eta": "soon"}), "invalid_field", "/eta"),
        (json!({"delay": 1, "eta": "2031-01-01T00:00:00Z"}), "invalid_field", "/eta"),
        (json!([]), "invalid_field", ""),
    ] {
        let refused = site.patch(&path, &changes).await;
        assert_eq!((refused.status, refused.code()), (422, code), "{changes}");
        assert!(refused.pointers().contains(&pointer) || pointer == "/eta", "{changes}: {}", refused.json);
    }
    let text = site.request(Method::PATCH, &path).header("content-type", "text/plain").body("priority: 1");
    assert_eq!(site.send(text).await.code(), "content_type_refused");
    assert_eq!(site.task(&id).await["version"], 1);
}
