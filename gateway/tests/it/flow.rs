//! Order keys, fair keys and limits over the memory store.

use std::collections::HashSet;

use axum::http::Method;
use lovage_core::problem::Code;
use lovage_core::{LaneDef, Ns, Partition, Slot, SlotKind, TaskId, TaskKey};
use lovage_store::{Cursor, Index, Store};
use serde_json::{Value, json};

use crate::harness::{Harness, options};

const PARTITIONS: u16 = 16;

fn harness() -> Harness {
    Harness::with(options(), |memory| {
        memory.partitions = PARTITIONS;
        memory.max_batch = 10;
    })
}

fn home(kind: SlotKind, key: &str) -> Partition {
    Slot::of(Ns::DEFAULT, kind, key.as_bytes()).partition(PARTITIONS)
}

/// The ids that wait in an order, as they are stored.
async fn order(h: &Harness, key: &str) -> Vec<String> {
    let lane = LaneDef { order_key: Some(key.into()), ..LaneDef::of(Ns::DEFAULT, "default", lovage_core::Route::Mixed) }.id();
    let index = Index::Lane { lane, after: None };
    let page = h.store.scan(home(SlotKind::Order, key), &index, Cursor::default(), 1_000).await.unwrap();
    page.items.into_iter().map(|(key, _)| key.id.to_string()).collect()
}

fn ids(reply: &Value) -> Vec<String> {
    reply["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_str().unwrap_or_else(|| panic!("{item}")).to_owned())
        .collect()
}

#[tokio::test]
async fn all_tasks_of_an_order_key_live_together_in_their_order() {
    let h = harness();
    let mut expected = Vec::new();
    for n in 0..3 {
        expected.push(h.submit(&json!({"task": "a", "order_key": "k", "args": [n]}).to_string()).await);
    }
    // A client's id that belongs elsewhere, a key of its own, a queue of its own lane.
    expected.push(h.submit(r#"{"task":"a","order_key":"k","id":"mine-1"}"#).await);
    expected.push(h.submit(r#"{"task":"a","order_key":"k","unique":{"key":"u"}}"#).await);
    let raw = [("lovage-task", "a"), ("lovage-order-key", "k"), ("lovage-fair-key", "f"), ("content-type", "text/plain")];
    expected.push(h.call(Method::POST, "/v1/tasks", &raw, "x").await.json()["id"].as_str().unwrap().to_owned());
    let key = [("idempotency-key", "once")];
    let once = h.post_with("/v1/tasks", &key, r#"{"task":"a","order_key":"k"}"#).await.json()["id"].clone();
    let again = h.post_with("/v1/tasks", &key, r#"{"task":"a","order_key":"k"}"#).await;
    assert_eq!((again.status.as_u16(), &again.json()["id"]), (200, &once));
    expected.push(once.as_str().unwrap().to_owned());
    // Many at once: some alone, some with ids and keys of their own, more than one call of the store takes.
    let mut items: Vec<Value> = (0..35).map(|n| json!({"task": "a", "order_key": "k", "args": [n]})).collect();
    items.insert(0, json!({"task": "a", "order_key": "other"}));
    items.push(json!({"task": "a"}));
    let array = ids(&h.post("/v1/tasks:batch", json!(items).to_string()).await.json());
    expected.extend_from_slice(&array[1..36]);
    let mixed: Vec<Value> = (0..12)
        .map(|n| match n % 3 {
            0 => json!({"task": "a", "order_key": "k", "id": format!("mixed-{n}")}),
            1 => json!({"task": "a", "order_key": "k", "unique": {"key": n.to_string()}}),
            _ => json!({"task": "a", "order_key": "k"}),
        })
        .collect();
    expected.extend(ids(&h.post("/v1/tasks:batch", json!(mixed).to_string()).await.json()));
    let under_key = h.post_with("/v1/tasks:batch", &[("idempotency-key", "many")], json!(&items[1..20]).to_string()).await.json();
    expected.extend(ids(&under_key));
    let repeated = h.post_with("/v1/tasks:batch", &[("idempotency-key", "many")], json!(&items[1..20]).to_string()).await.json();
    assert_eq!(ids(&repeated), ids(&under_key));
    let lines: Vec<String> = (0..600).map(|n| json!({"task": "a", "order_key": "k", "args": [n]}).to_string()).collect();
    let ndjson = [("content-type", "application/x-ndjson")];
    let stream = h.call(Method::POST, "/v1/tasks:batch", &ndjson, lines.join("\n")).await;
    let text = String::from_utf8(stream.bytes.to_vec()).unwrap();
    expected.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned()));
    let atomic = h.post("/v1/tasks:batch?atomic=true", json!(&items[1..9]).to_string()).await.json();
    expected.extend(ids(&atomic));

    let stored = order(&h, "k").await;
    assert_eq!(stored.len(), 3 + 4 + 35 + 12 + 19 + 600 + 8);
    assert_eq!(stored, expected);
    for id in ["mine-1", "mixed-0", &array[3]] {
        let shown = h.get(&format!("/v1/tasks/{id}")).await.json();
        assert_eq!((&shown["order_key"], shown["id"].as_str()), (&json!("k"), Some(id)));
    }
}

#[tokio::test]
async fn a_unique_key_counts_within_its_order_key() {
    let h = harness();
    let task = |order: Option<&str>| {
        json!({"task": "a", "order_key": order, "unique": {"key": "u", "on_conflict": "reject"}}).to_string()
    };
    let first = h.submit(&task(Some("one"))).await;
    let refused = h.post("/v1/tasks", task(Some("one"))).await.is_problem(Code::UniqueConflict);
    assert_eq!(refused["existing_id"], first.as_str());
    h.submit(&task(Some("two"))).await;
    h.submit(&task(None)).await;
    h.post("/v1/tasks", task(None)).await.is_problem(Code::UniqueConflict);
    // Whoever ends gives its key up, under its whole name.
    h.post(&format!("/v1/tasks/{first}/cancel"), "").await;
    h.submit(&task(Some("one"))).await;
}

#[tokio::test]
async fn items_of_two_orders_cannot_be_stored_together() {
    let h = harness();
    let apart = (0..100).map(|n| format!("o{n}")).find(|key| home(SlotKind::Order, key) != home(SlotKind::Order, "k")).unwrap();
    let items = json!([{"task": "a", "order_key": "k"}, {"task": "a", "order_key": apart}]).to_string();
    let refused = h.post("/v1/tasks:batch?atomic=true", items).await.is_problem(Code::InvalidField);
    assert_eq!(refused["errors"][0]["pointer"], "/1/order_key");
    assert!(order(&h, "k").await.is_empty());
}

#[tokio::test]
async fn a_record_shows_what_was_asked_for_and_a_replay_asks_for_it_again() {
    let h = harness();
    let limits = json!([{"key": "b", "rate": "10/s", "burst": 5, "cost": 2}, {"key": "a", "concurrency": 1}]);
    let asked = json!({"task": "a", "limits": limits, "order_key": "o", "fair_key": "f", "link": {"task": "b", "fair_key": "g", "limits": [{"key": "c"}]}});
    let id = h.submit(&asked.to_string()).await;
    let shown = h.get(&format!("/v1/tasks/{id}")).await.json();
    let by_key = json!([{"key": "a", "concurrency": 1}, {"key": "b", "rate": "10/s", "burst": 5, "cost": 2}]);
    assert_eq!((&shown["limits"], &shown["order_key"], &shown["fair_key"]), (&by_key, &json!("o"), &json!("f")));
    assert_eq!((&shown["link"][0]["fair_key"], &shown["link"][0]["limits"]), (&json!("g"), &json!([{"key": "c"}])));
    // A change of the queue leaves them.
    let patched =
        h.call(Method::PATCH, &format!("/v1/tasks/{id}"), &[("content-type", "application/json")], r#"{"queue":"q"}"#).await;
    assert_eq!((&patched.json()["limits"], &patched.json()["order_key"]), (&by_key, &json!("o")));
    h.post(&format!("/v1/tasks/{id}/cancel"), "").await;
    let again = h.post(&format!("/v1/tasks/{id}/replay"), r#"{"edits":{"fair_key":null,"limits":[{"key":"d"}]}}"#).await.json();
    let shown = h.get(&format!("/v1/tasks/{}", again["id"].as_str().unwrap())).await.json();
    assert_eq!((&shown["limits"], &shown["order_key"], &shown["fair_key"]), (&json!([{"key": "d"}]), &json!("o"), &Value::Null));
    let refused = h.post(&format!("/v1/tasks/{id}/replay"), r#"{"edits":{"limits":[{"key":"queue:q"}]}}"#).await;
    assert_eq!(refused.is_problem(Code::InvalidField)["errors"][0]["pointer"], "/edits/limits/0/key");
}

#[tokio::test]
async fn tasks_that_differ_in_limits_or_turn_wait_apart() {
    let h = Harness::with(options(), |memory| memory.partitions = 1);
    let tasks = [
        json!({"task": "a"}),
        json!({"task": "a", "fair_key": "f"}),
        json!({"task": "a", "fair_key": "g"}),
        json!({"task": "a", "limits": [{"key": "k"}]}),
        json!({"task": "a", "limits": [{"key": "k", "rate": "1/s"}]}),
        json!({"task": "a", "limits": [{"key": "k"}, {"key": "l"}]}),
        json!({"task": "a", "limits": [{"key": "l"}, {"key": "k"}]}),
    ];
    let made = ids(&h.post("/v1/tasks:batch", json!(tasks).to_string()).await.json());
    let keys: Vec<TaskKey> = made.iter().map(|id| TaskKey::new(Ns::DEFAULT, TaskId::parse(id).unwrap())).collect();
    let heads = h.store.heads(Partition(0), &keys).await.unwrap();
    let lanes: HashSet<_> = heads.into_iter().map(|head| head.unwrap().lane).collect();
    assert_eq!(lanes.len(), tasks.len() - 1, "the order of limits says nothing");
}
