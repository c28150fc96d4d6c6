//! `POST /v1/tasks/{id}/replay` and `POST /v1/tasks?dry_run=true`.

use lovage_tests::Reply;
use reqwest::Method;
use serde_json::{Value, json};

use super::states::{STATES, in_state, site};
use crate::contract::site::{Site, Store};

on_both_stores!(
    a_replay_is_the_same_again_under_a_new_id,
    edits_change_a_replay,
    raw_payloads_are_replayed_byte_for_byte,
    a_replay_can_be_repeated_safely,
    a_dry_run_shows_what_would_happen_and_stores_nothing,
);

async fn replay(site: &Site, id: &str, edits: &Value) -> lovage_tests::Answer {
    site.post(&format!("/v1/tasks/{id}/replay?wait=20s"), &json!({"edits": edits})).await
}

async fn a_replay_is_the_same_again_under_a_new_id(store: Store) {
    let site = site(store, "1h").await;
    for state in STATES {
        let id = in_state(&site, state).await;
        let old = site.task(&id).await;
        let answer = site.send(site.request(Method::POST, &format!("/v1/tasks/{id}/replay"))).await;
        let new = answer.id();
        assert_eq!((answer.status, answer.header("location")), (202, &*format!("/v1/tasks/{new}")), "{state}");
        assert_ne!(new, id);
        let record = site.task(&new).await;
        for field in ["task", "queue", "priority", "labels", "retry", "time_limit", "args", "kwargs"] {
            assert_eq!(record[field], old[field], "{field} of {state}");
        }
        assert_eq!(site.task(&id).await["state"], old["state"], "the old one is left alone");
    }
}

async fn edits_change_a_replay(store: Store) {
    let site = store.dev().await;
    site.worker.on_call("t.*", |call| Reply::json(&call.json()));
    site.serves(&["t.*"]).await;
    let signature = json!({"task": "t.a", "args": [1.5], "kwargs": {"k": 1}, "priority": 8, "name": "first", "labels": {"l": "1"},
        "link": {"task": "t.link", "args": [2]}});
    let id = site.submit(&signature).await;
    site.wait_final(&id).await;
    let edits = json!({"task": "t.b", "args": [7], "priority": null, "name": "second", "id": "mine", "link": null});
    let record = replay(&site, &id, &edits).await.json;
    let told = (&record["id"], &record["task"], &record["name"], &record["priority"], &record["labels"]);
    assert_eq!(told, (&json!("mine"), &json!("t.b"), &json!("second"), &json!(4), &json!({"l": "1"})));
    assert_eq!((&record["result"]["args"], &record["result"]["kwargs"]), (&json!([7]), &json!({"k": 1})));
    for (edits, pointer) in [
        (json!({"queue": "no good"}), "/edits/queue"),
        (json!({"colour": 1}), "/edits/colour"),
        (json!({"task": null}), "/edits"),
        (json!([]), "/edits"),
    ] {
        let refused = replay(&site, &id, &edits).await;
        assert_eq!((refused.status, refused.pointers()), (422, vec![pointer]), "{edits}");
    }
    let refused = site.post(&format!("/v1/tasks/{id}/replay"), &json!({"edit": {}})).await;
    assert_eq!((refused.code(), refused.pointers()), ("unknown_field", vec!["/edit"]));
    assert_eq!(replay(&site, "unknown", &json!({})).await.code(), "task_unknown");
}

async fn raw_payloads_are_replayed_byte_for_byte(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::status(204));
    site.serves(&["t"]).await;
    let bytes = vec![0_u8, 159, 146];
    let request = site.request(Method::POST, "/v1/tasks").header("lovage-task", "t").header("content-type", "image/png");
    let first = site.send(request.body(bytes.clone())).await.id();
    let json = site
        .send(
            site.request(Method::POST, "/v1/tasks")
                .header("content-type", "application/json")
                .body(r#"{"task":"t","payload": {"b" :1.00}}"#),
        )
        .await
        .id();
    for (id, content_type, expected) in [(first, "image/png", &bytes[..]), (json, "application/json", &br#"{"b" :1.00}"#[..])] {
        let new = replay(&site, &id, &json!({"queue": "other"})).await.id();
        let calls = site.worker.received_for(&new);
        assert_eq!((&calls[0].body[..], calls[0].header("content-type")), (expected, content_type));
    }
}

async fn a_replay_can_be_repeated_safely(store: Store) {
    let site = store.dev().await;
    let id = site.submit_plain("nobody").await;
    let send = async |edits: Value| {
        let request = site.request(Method::POST, &format!("/v1/tasks/{id}/replay")).header("idempotency-key", "k");
        site.send(request.json(&json!({"edits": edits}))).await
    };
    let first = send(json!({})).await;
    let again = send(json!({})).await;
    assert_eq!((first.status, again.status, first.id()), (202, 200, again.id()));
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(send(json!({"priority": 1})).await.code(), "idempotency_mismatch");
    // The same with an id of one's own.
    for (priority, status) in [(1, 202), (1, 200), (2, 409)] {
        let body = json!({"edits": {"id": "own", "priority": priority}});
        assert_eq!(site.post(&format!("/v1/tasks/{id}/replay"), &body).await.status, status);
    }
}

async fn a_dry_run_shows_what_would_happen_and_stores_nothing(store: Store) {
    let site = store.dev().await;
    site.serves(&["t.*"]).await;
    let path = "/v1/tasks?dry_run=true";
    let retry = json!({"max_attempts": 3, "min": "2s", "jitter": "equal"});
    let signature = json!({"task": "t.a", "id": "dry", "retry": retry, "delay": "1h", "priority": 9, "labels": {"a": "b"}});
    let answer = site.post(path, &signature).await;
    let told = &answer.json;
    assert_eq!((answer.status, &told["dry_run"], &told["state"]), (200, &json!(true), &json!("scheduled")));
    assert_eq!((&told["worker"], &told["queue"], &told["priority"]), (&json!("w"), &json!("default"), &json!(9)));
    assert_eq!((&told["time_limit"], &told["retention_failed"]), (&json!("1m"), &json!("14d")));
    let range = |min: &str, max: &str| json!({"min": min, "max": max});
    let timetable = json!([
        {"attempt": 2, "delay": range("1s", "2s"), "after": range("1s", "2s")},
        {"attempt": 3, "delay": range("2s", "4s"), "after": range("3s", "6s")},
    ]);
    assert_eq!(told["timetable"], timetable);
    for (signature, worker) in [(json!({"task": "other"}), Value::Null), (json!({"url": site.worker.url()}), Value::Null)] {
        assert_eq!(site.post(path, &signature).await.json["worker"], worker, "{signature}");
    }
    let refused = site.post(path, &json!({"task": "t", "priority": 11})).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/priority"]));
    assert_eq!(site.get("/v1/tasks/dry").await.status, 404);
    assert!(site.list("/v1/tasks").await.is_empty());
    assert_eq!(site.post("/v1/tasks?dry_run=false", &signature).await.status, 202);
    assert_eq!(site.post("/v1/tasks?dry_run=maybe", &signature).await.pointers(), ["/dry_run"]);
}
