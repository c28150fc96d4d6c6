//! `POST /v1/tasks:batch` with a JSON array: each item on its own, or all or none.

use std::time::Duration;

use lovage_tests::Reply;
use serde_json::{Value, json};

use super::site::Store;

on_both_stores!(
    every_item_has_its_answer_in_order,
    an_array_of_a_thousand_is_done,
    known_ids_are_told_apart,
    all_or_none,
    an_atomic_batch_can_be_repeated,
    an_array_has_its_limits,
    an_array_that_is_none_is_refused_whole,
);

async fn every_item_has_its_answer_in_order(store: Store) {
    let site = store.dev().await;
    let items = [
        json!({"task": "nobody", "id": "one"}),
        json!({"task": "nobody", "priority": 11, "delay": "x"}),
        json!({"tsk": "nobody"}),
        json!(3),
        json!({"task": "nobody"}),
        json!({"task": "nobody", "id": "one"}),
        json!({"task": "nobody", "id": "one", "args": [1]}),
        json!({"url": "ftp://a.example/"}),
    ];
    let answer = site.submit_batch(&items).await;
    assert_eq!(answer.status, 200);
    let told: Vec<(u64, &str)> = answer.json["items"].as_array().unwrap().iter().map(told).collect();
    let expected = [
        (202, "one"),
        (422, "invalid_field"),
        (422, "unknown_field"),
        (422, "invalid_field"),
        (202, ""),
        (200, "one"),
        (409, "id_exists"),
        (422, "invalid_field"),
    ];
    for (n, (got, expected)) in told.iter().zip(expected).enumerate() {
        assert_eq!(got.0, expected.0, "item {n} of {}", answer.json);
        assert!(expected.1.is_empty() || got.1 == expected.1, "item {n} of {}", answer.json);
    }
    // A problem of an item is a problem like any other, and its pointers are those of the item.
    let problem = &answer.json["items"][1]["problem"];
    assert_eq!(problem["errors"][0]["pointer"], "/priority");
    assert_eq!(problem["errors"][1]["pointer"], "/delay");
    assert_eq!((&problem["status"], &problem["request_id"]), (&json!(422), &json!(answer.header("x-request-id"))));
    assert_eq!(site.list("/v1/tasks").await.len(), 2, "only the good ones are stored");
}

fn told(item: &Value) -> (u64, &str) {
    let id = item["id"].as_str().or(item["problem"]["code"].as_str());
    (item["status"].as_u64().unwrap(), id.unwrap())
}

async fn an_array_of_a_thousand_is_done(store: Store) {
    let site = store.dev().await;
    site.worker.on("many", Reply::json(&json!("ok")));
    site.serves(&["many"]).await;
    let items: Vec<Value> = (0..1_000).map(|n| json!({"task": "many", "args": [n]})).collect();
    let answer = site.submit_batch(&items).await;
    let ids = answer.ids();
    assert_eq!((answer.status, ids.len()), (200, 1_000));
    for (id, record) in site.wait_all_final(&ids, Duration::from_secs(60)).await {
        assert_eq!(record["result"], "ok", "{id}");
    }
    // The answers are in the order of the items: the id and the argument of a call belong together.
    assert_eq!(site.worker.count(), 1_000);
    for call in site.worker.received() {
        let n = call.json()["args"][0].as_u64().unwrap() as usize;
        assert_eq!(call.id, ids[n]);
    }
}

async fn known_ids_are_told_apart(store: Store) {
    let site = store.dev().await;
    let items: Vec<Value> = (0..50).map(|n| json!({"task": "nobody", "id": format!("b-{n}")})).collect();
    assert!(site.submit_batch(&items).await.items().iter().all(|item| item["status"] == 202));
    let again = site.submit_batch(&items).await;
    assert!(again.items().iter().all(|item| item["status"] == 200), "{}", again.json);
    assert_eq!(again.ids(), (0..50).map(|n| format!("b-{n}")).collect::<Vec<_>>());
    assert_eq!(site.list("/v1/tasks?limit=1000").await.len(), 50);
}

async fn all_or_none(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    site.serves(&["work"]).await;
    let path = "/v1/tasks:batch?atomic=true";
    let good = json!({"task": "work"});
    let refused = site.post(path, &json!([good, good, {"task": "work", "priority": 10}, {"tsk": 1}])).await;
    assert_eq!((refused.status, refused.code(), refused.pointers()), (422, "invalid_field", vec!["/2/priority"]));
    let refused = site.post(path, &json!([good, 7])).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/1"]));
    let refused = site.post(path, &json!([{"task": "work", "labels": {"a/b": "c"}}])).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/0/labels/a~1b"]));
    assert!(site.list("/v1/tasks").await.is_empty(), "nothing of a refused batch is stored");

    let stored = site.post(path, &json!([good, good, {"task": "work", "queue": "other"}])).await;
    assert_eq!((stored.status, stored.ids().len()), (200, 3));
    for id in stored.ids() {
        assert_eq!(site.wait_final(&id).await["state"], "succeeded");
    }
    assert_eq!(site.worker.count(), 3);
}

async fn an_atomic_batch_can_be_repeated(store: Store) {
    let site = store.dev().await;
    let path = "/v1/tasks:batch?atomic=true";
    let batch = json!([{"task": "nobody", "id": "solo"}]);
    assert_eq!(site.post(path, &batch).await.items()[0]["status"], 202);
    assert_eq!(site.post(path, &batch).await.items()[0]["status"], 200);
    let clash = site.post(path, &json!([{"task": "nobody", "id": "solo", "args": [1]}])).await;
    assert_eq!((clash.status, clash.code()), (409, "id_exists"));
    assert_eq!(clash.pointers(), vec!["/0"], "{}", clash.json);
}

async fn an_array_has_its_limits(store: Store) {
    let site = store.dev().await;
    let items = vec![json!({"task": "nobody"}); 1_001];
    let refused = site.submit_batch(&items).await;
    assert_eq!((refused.status, refused.code()), (413, "payload_too_large"));
    assert!(refused.json["detail"].as_str().unwrap().contains("ndjson"), "{}", refused.json);
    // A large item is refused on its own, a large array as a whole.
    let large = json!({"task": "nobody", "payload": "x".repeat(1 << 20)});
    let answer = site.submit_batch(&[json!({"task": "nobody"}), large.clone()]).await;
    let statuses: Vec<_> = answer.items().iter().map(|item| item["status"].clone()).collect();
    assert_eq!((answer.status, statuses), (200, vec![json!(202), json!(413)]));
    let refused = site.submit_batch(&vec![large; 9]).await;
    assert_eq!((refused.status, refused.code()), (413, "payload_too_large"));
    assert_eq!(site.list("/v1/tasks").await.len(), 1);
}

async fn an_array_that_is_none_is_refused_whole(store: Store) {
    let site = store.dev().await;
    for (body, status, code) in [
        ("", 400, "malformed"),
        ("[", 400, "malformed"),
        (r#"[{"task": "a"},]"#, 400, "malformed"),
        ("{}", 422, "invalid_field"),
        ("null", 422, "invalid_field"),
    ] {
        let request = site.request(reqwest::Method::POST, "/v1/tasks:batch").header("content-type", "application/json");
        let refused = site.send(request.body(body)).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{body}");
    }
    let empty = site.submit_batch(&[]).await;
    assert_eq!((empty.status, &empty.json), (200, &json!({"items": []})));
    let refused = site.post("/v1/tasks:batch?atomic=maybe", &json!([])).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/atomic"]));
}
