//! `Idempotency-Key`: the same request again is answered with what the first one made.

use lovage_tests::{Answer, Reply};
use serde_json::{Value, json};

use super::site::{Site, Store};

on_both_stores!(
    the_same_key_and_body_is_the_same_task,
    another_body_is_refused,
    a_key_is_kept_over_a_restart,
    a_replay_can_wait,
    only_success_is_remembered,
    a_stored_id_is_answered_first,
    keys_and_ids_go_together,
    a_batch_is_replayed_whole,
    a_batch_with_ids_is_replayed_too,
    racing_requests_make_one_task,
    malformed_keys_are_refused,
);

async fn keyed(site: &Site, path: &str, key: &str, body: &Value) -> Answer {
    site.send(site.request(reqwest::Method::POST, path).header("idempotency-key", key).json(body)).await
}

async fn submit(site: &Site, key: &str, body: &Value) -> Answer {
    keyed(site, "/v1/tasks", key, body).await
}

async fn the_same_key_and_body_is_the_same_task(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::json(&json!(1)));
    let body = json!({"task": "work", "args": [1]});
    let first = submit(&site, "order-1", &body).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (202, ""));
    let again = submit(&site, "order-1", &body).await;
    assert_eq!((again.status, again.header("idempotency-replayed"), again.id()), (200, "true", first.id()));
    assert_eq!(again.json["state"], "queued");
    // The answer is the task as it is now.
    site.serves(&["work"]).await;
    site.wait_final(&first.id()).await;
    let again = submit(&site, "order-1", &body).await;
    assert_eq!((again.status, &again.json["state"], &again.json["result"]), (200, &json!("succeeded"), &json!(1)));
    assert_eq!(site.worker.count(), 1);
    assert_ne!(submit(&site, "order-2", &body).await.id(), first.id());
}

async fn another_body_is_refused(store: Store) {
    let site = store.dev().await;
    submit(&site, "k", &json!({"task": "nobody", "args": [1]})).await;
    let other = submit(&site, "k", &json!({"task": "nobody", "args": [2]})).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_mismatch"));
    // The same bytes for another route are another request.
    let other = keyed(&site, "/v1/tasks:batch", "k", &json!([{"task": "nobody", "args": [1]}])).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_mismatch"));
    assert_eq!(site.list("/v1/tasks").await.len(), 1);
}

async fn a_key_is_kept_over_a_restart(store: Store) {
    let mut site = store.dev().await;
    let body = json!({"task": "nobody"});
    let first = submit(&site, "k", &body).await;
    site.lovage.kill9();
    site.lovage.restart().await;
    let again = submit(&site, "k", &body).await;
    assert_eq!((again.status, again.header("idempotency-replayed"), again.id()), (200, "true", first.id()));
}

async fn a_replay_can_wait(store: Store) {
    let site = store.dev().await;
    let gate = site.worker.hold("work", Reply::json(&json!("done")));
    site.serves(&["work"]).await;
    let body = json!({"task": "work"});
    let first = submit(&site, "k", &body).await;
    let (again, ()) = tokio::join!(keyed(&site, "/v1/tasks?wait=20s", "k", &body), async {
        site.worker.wait_for(1).await;
        gate.open();
    });
    assert_eq!((again.status, again.id(), &again.json["result"]), (200, first.id(), &json!("done")));
}

async fn only_success_is_remembered(store: Store) {
    let site = store.dev().await;
    let refused = submit(&site, "k", &json!({"task": "nobody", "priority": 10})).await;
    assert_eq!(refused.status, 422);
    // The client mended its request; the key is as good as new.
    let mended = submit(&site, "k", &json!({"task": "nobody", "priority": 9})).await;
    assert_eq!((mended.status, mended.header("idempotency-replayed")), (202, ""));
}

async fn a_stored_id_is_answered_first(store: Store) {
    let site = store.dev().await;
    let body = json!({"task": "nobody", "id": "mine"});
    site.submit(&body).await;
    let again = submit(&site, "k", &body).await;
    assert_eq!((again.status, &*again.id()), (200, "mine"));
    let other = submit(&site, "k2", &json!({"task": "nobody", "id": "mine", "args": [1]})).await;
    assert_eq!((other.status, other.code()), (409, "id_exists"));
}

async fn keys_and_ids_go_together(store: Store) {
    let site = store.dev().await;
    let body = json!({"task": "nobody", "id": "mine"});
    assert_eq!(submit(&site, "k", &body).await.status, 202);
    let again = submit(&site, "k", &body).await;
    assert_eq!((again.status, &*again.id()), (200, "mine"));
    // In one partition the key is taken, whatever the ids of other requests. In several it is looked for where the id lives.
    if let Store::Embedded = store {
        for other in [json!({"task": "nobody", "id": "other"}), json!({"task": "nobody"})] {
            let other = submit(&site, "k", &other).await;
            assert_eq!((other.status, other.code()), (422, "idempotency_mismatch"));
        }
    }
    assert_eq!(site.list("/v1/tasks").await.len(), 1);
}

async fn a_batch_is_replayed_whole(store: Store) {
    let site = store.dev().await;
    for path in ["/v1/tasks:batch", "/v1/tasks:batch?atomic=true"] {
        let batch = json!([{"task": "nobody"}, {"task": "nobody", "args": [1]}, {"task": "nobody", "args": [2]}]);
        let first = keyed(&site, path, path, &batch).await;
        assert_eq!((first.status, first.ids().len(), first.header("idempotency-replayed")), (200, 3, ""));
        let again = keyed(&site, path, path, &batch).await;
        assert_eq!((again.status, again.ids(), again.header("idempotency-replayed")), (200, first.ids(), "true"));
        assert!(again.items().iter().all(|item| item["status"] == 200), "{}", again.json);
        let other = keyed(&site, path, path, &json!([{"task": "nobody"}])).await;
        assert_eq!((other.status, other.code()), (422, "idempotency_mismatch"));
    }
    assert_eq!(site.list("/v1/tasks").await.len(), 6);
}

async fn a_batch_with_ids_is_replayed_too(store: Store) {
    let site = store.dev().await;
    let batch = json!([{"task": "nobody", "id": "a"}, {"task": "nobody"}, {"bad": 1}, {"task": "nobody", "id": "b"}]);
    let first = keyed(&site, "/v1/tasks:batch", "k", &batch).await;
    let again = keyed(&site, "/v1/tasks:batch", "k", &batch).await;
    let statuses = |answer: &Answer| answer.items().iter().map(|item| item["status"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!((statuses(&first), statuses(&again)), (vec![202, 202, 422, 202], vec![200, 200, 422, 200]));
    assert_eq!(first.ids(), again.ids());
    assert_eq!(site.list("/v1/tasks").await.len(), 3);
}

async fn racing_requests_make_one_task(store: Store) {
    let site = store.dev().await;
    let body = json!({"task": "nobody"});
    let answers = futures_util::future::join_all((0..16).map(|_| submit(&site, "race", &body))).await;
    let first = answers[0].id();
    assert!(answers.iter().all(|answer| answer.id() == first), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 1);
    assert_eq!(site.list("/v1/tasks").await.len(), 1);
}

async fn malformed_keys_are_refused(store: Store) {
    let site = store.dev().await;
    for key in ["", &"k".repeat(256)] {
        let refused = submit(&site, key, &json!({"task": "nobody"})).await;
        assert_eq!((refused.status, refused.pointers()), (422, vec!["/idempotency_key"]));
    }
    assert_eq!(submit(&site, &"k".repeat(255), &json!({"task": "nobody"})).await.status, 202);
}
