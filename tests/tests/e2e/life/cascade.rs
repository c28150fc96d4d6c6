//! A cancel that goes on to what a task has started.

use std::time::Duration;

use lovage_tests::{Call, Reply};
use serde_json::{Value, json};

use super::states::spawn;
use crate::contract::site::{Site, Store};

on_both_stores!(
    a_cancel_goes_on_to_children,
    a_cancel_without_cascade_leaves_children_alone,
    a_part_of_a_tree_is_canceled_alone,
    a_cancel_that_broke_off_can_be_repeated,
);

/// `top` waits for `mid` and `side`, `mid` for `leaf` and `later`; `side` and `leaf` never end.
struct Tree {
    site: Site,
    top: String,
    mid: String,
    side: String,
    leaf: String,
    later: String,
}

async fn children(site: &Site, id: &str) -> Vec<String> {
    let record = site.until_state(id, "blocked").await;
    let attempts = site.attempts(record["id"].as_str().unwrap()).await;
    let ids = attempts.last().unwrap()["children"].as_array().unwrap();
    ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

async fn tree(store: Store) -> Tree {
    let site = store.dev().await;
    site.worker
        .on(
            "t.top",
            spawn(&json!([{"task": "t.mid"}, {"task": "t.side", "callbacks": {"on_terminal": site.worker.url_of("/told")}}])),
        )
        .on("t.mid", spawn(&json!([{"task": "t.leaf"}, {"task": "t.later", "delay": "1h"}])))
        .on("t.side", Reply::never())
        .on("t.leaf", Reply::never())
        .on("/told", Reply::status(204));
    let settings = json!({"url": site.worker.url(), "tasks": ["t.*"], "cancel_grace": "200ms"});
    site.register_worker_with("w", &settings).await;
    let top = site.submit_plain("t.top").await;
    let [mid, side] = children(&site, &top).await.try_into().unwrap();
    let [leaf, later] = children(&site, &mid).await.try_into().unwrap();
    site.until_state(&leaf, "running").await;
    site.until_state(&side, "running").await;
    Tree { site, top, mid, side, leaf, later }
}

fn told(record: &Value) -> (&str, &str) {
    (record["state"].as_str().unwrap(), record["reason"].as_str().unwrap_or_default())
}

async fn a_cancel_goes_on_to_children(store: Store) {
    let Tree { site, top, mid, side, leaf, later } = tree(store).await;
    let answer = site.post(&format!("/v1/tasks/{top}/cancel"), &json!({})).await;
    assert_eq!((answer.status, told(&answer.json)), (200, ("canceled", "requested")));
    for id in [&mid, &side, &leaf, &later] {
        assert_eq!(told(&site.wait_final(id).await), ("canceled", "upstream"));
    }
    // The callback of a child is a part of the tree, and is delivered.
    let call = |call: &Call| call.path == "/told" && call.json()["id"] == json!(side);
    site.worker.wait_until("the callback", Duration::from_secs(20), |calls| calls.iter().any(call)).await;
    let again = site.post(&format!("/v1/tasks/{top}/cancel"), &json!({})).await;
    assert_eq!((again.status, again.code()), (409, "wrong_state"));
}

async fn a_cancel_without_cascade_leaves_children_alone(store: Store) {
    let Tree { site, top, mid, side, leaf, later } = tree(store).await;
    let answer = site.post(&format!("/v1/tasks/{top}/cancel"), &json!({"cascade": false})).await;
    assert_eq!((answer.status, told(&answer.json)), (200, ("canceled", "requested")));
    for (id, state) in [(&mid, "blocked"), (&side, "running"), (&leaf, "running"), (&later, "scheduled")] {
        let record = site.task(id).await;
        assert_eq!((told(&record).0, record["cancel_requested"].is_null()), (state, true), "{record}");
    }
}

async fn a_part_of_a_tree_is_canceled_alone(store: Store) {
    let Tree { site, top, mid, side, leaf, later } = tree(store).await;
    let answer = site.post(&format!("/v1/tasks/{mid}/cancel"), &json!({"mode": "hard"})).await;
    assert_eq!((answer.status, told(&answer.json)), (200, ("canceled", "requested")));
    for id in [&leaf, &later] {
        assert_eq!(told(&site.wait_final(id).await), ("canceled", "upstream"));
    }
    let side = site.task(&side).await;
    assert_eq!((told(&side).0, &side["cancel_requested"]), ("running", &Value::Null));
    assert_eq!(told(&site.task(&top).await), ("blocked", "children"));
}

async fn a_cancel_that_broke_off_can_be_repeated(store: Store) {
    let Tree { site, top, mid, leaf, .. } = tree(store).await;
    // As it is left by a server that died between the task and its children.
    site.post(&format!("/v1/tasks/{top}/cancel"), &json!({"cascade": false})).await;
    let again = site.post(&format!("/v1/tasks/{top}/cancel"), &json!({"mode": "hard"})).await;
    assert_eq!((again.status, told(&again.json)), (200, ("canceled", "requested")));
    for id in [&mid, &leaf] {
        assert_eq!(told(&site.wait_final(id).await), ("canceled", "upstream"));
    }
}
