//! Tasks that are delivered together.

use lovage_tests::{Call, Reply};
use serde_json::{Value, json};

use crate::contract::site::{PATIENCE, Site, Store, quick_retry, slow_retry};

on_both_stores!(
    tasks_are_delivered_together,
    a_lone_task_goes_after_its_wait,
    items_say_their_outcomes,
    what_is_left_out_has_failed,
    an_answer_that_is_no_array_is_judged_as_one,
    a_canceled_item_leaves_the_others,
);

async fn worker(site: &Site, max: u32) -> String {
    let settings = json!({"url": site.worker.url(), "tasks": ["t"], "batch": {"max": max}});
    let answer = site.register_worker_with("w", &settings).await;
    assert_eq!(answer["batch"], json!({"max": max}));
    answer["signing"].as_str().unwrap().to_owned()
}

/// So many tasks that wait as long for each other as a test may take.
async fn submit(site: &Site, count: usize, retry: &Value) -> Vec<String> {
    let task = |n| json!({"task": "t", "args": [n], "batch": {"key": "k", "max_wait": "1m"}, "retry": retry});
    let tasks: Vec<Value> = (0..count).map(task).collect();
    site.submit_batch(&tasks).await.ids()
}

fn items(call: &Call) -> Vec<Value> {
    call.json().as_array().unwrap().clone()
}

fn echo(call: &Call) -> Reply {
    let item = |item: &Value| json!({"id": item["id"], "outcome": "success", "result": item["args"][0]});
    Reply::json(&items(call).iter().map(item).collect())
}

async fn tasks_are_delivered_together(store: Store) {
    let site = store.dev().await;
    site.worker.on_call("t", echo);
    let secret = worker(&site, 5).await;
    let ids = submit(&site, 10, &quick_retry(1)).await;
    for (n, id) in ids.iter().enumerate() {
        let record = site.wait_final(id).await;
        assert_eq!((&record["state"], &record["result"], &record["attempt"]), (&json!("succeeded"), &json!(n), &json!(1)));
        assert_eq!(record["worker"], "w");
    }
    let calls = site.worker.received();
    assert_eq!(calls.len(), 2);
    for call in &calls {
        assert!(call.is_signed_with(&secret) && !ids.contains(&call.id) && !call.id.is_empty());
        assert_eq!((call.header("lovage-batch"), call.header("lovage-queue"), call.attempt), ("5", "default", 0));
        assert!(!call.header("lovage-deadline").is_empty());
        for item in items(call) {
            let url = item["attempt_url"].as_str().unwrap();
            assert!(url.starts_with(&format!("{}/v1/attempts/", site.url())), "{url}");
            assert_eq!((&item["task"], &item["attempt"], &item["kwargs"]), (&json!("t"), &json!(1), &json!({})));
        }
    }
}

async fn a_lone_task_goes_after_its_wait(store: Store) {
    let site = store.dev().await;
    site.worker.on_call("t", echo);
    worker(&site, 5).await;
    let id = site.submit(&json!({"task": "t", "args": [7], "batch": {"key": "k", "max_wait": "200ms"}})).await;
    assert_eq!(site.wait_final(&id).await["result"], 7);
    assert_eq!(site.worker.received()[0].header("lovage-batch"), "1");
    // A payload of its own comes as a field.
    site.worker.on_call("t", |call: &Call| {
        let payload = &call.json()[0]["payload"];
        Reply::json(&json!([{"id": call.json()[0]["id"], "outcome": "success", "result": payload}]))
    });
    let id = site.submit(&json!({"task": "t", "payload": {"a": [1]}, "batch": {"key": "k", "max_wait": "10ms"}})).await;
    assert_eq!(site.wait_final(&id).await["result"], json!({"a": [1]}));
}

async fn items_say_their_outcomes(store: Store) {
    let site = store.dev().await;
    let outcomes = [
        (json!({"outcome": "success"}), "succeeded", json!(null)),
        (json!({"outcome": "fail", "error": {"type": "E"}}), "failed", json!("permanent")),
        (json!({"outcome": "retry", "after": "1h"}), "retrying", json!("backoff")),
        (json!({"outcome": "snooze", "after": "1h"}), "retrying", json!("snoozed")),
        (json!({"outcome": "cancel"}), "canceled", json!("requested")),
        (json!({"outcome": "what"}), "retrying", json!("backoff")),
    ];
    let documents: Vec<Value> = outcomes.iter().map(|(document, ..)| document.clone()).collect();
    site.worker.on_call("t", move |call: &Call| {
        let item = |item: &Value| {
            let mut document = documents[item["args"][0].as_u64().unwrap() as usize].clone();
            document["id"] = item["id"].clone();
            document
        };
        Reply::json(&items(call).iter().rev().map(item).collect())
    });
    worker(&site, outcomes.len() as u32).await;
    let ids = submit(&site, outcomes.len(), &slow_retry()).await;
    for (id, (document, state, reason)) in ids.iter().zip(&outcomes) {
        let record = site.judged(id).await;
        assert_eq!((&record["state"], &record["reason"]), (&json!(state), reason), "{document}");
    }
}

async fn what_is_left_out_has_failed(store: Store) {
    let site = store.dev().await;
    site.worker.on_call("t", |call: &Call| {
        let first = items(call)[0]["id"].clone();
        Reply::json(&json!([{"id": "nobody", "outcome": "success"}, {"id": first, "outcome": "success", "result": 1}]))
    });
    worker(&site, 2).await;
    let ids = submit(&site, 2, &slow_retry()).await;
    assert_eq!(site.wait_final(&ids[0]).await["state"], "succeeded");
    let record = site.judged(&ids[1]).await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("retrying"), &json!("backoff")));
    assert_eq!(site.attempts(&ids[1]).await[0]["error"]["type"], "BatchItemMissing");
}

async fn an_answer_that_is_no_array_is_judged_as_one(store: Store) {
    let site = store.dev().await;
    worker(&site, 2).await;
    let rows = [
        (Reply::json(&json!({"ok": true})), "retrying", "backoff", "BadOutcome"),
        (Reply::status(500), "retrying", "backoff", "HttpStatus"),
        (Reply::status(400), "failed", "permanent", "HttpStatus"),
        (Reply::reset(), "retrying", "backoff", "ConnectionReset"),
        (Reply::status(429).header("retry-after", "0"), "retrying", "throttled", "HttpStatus"),
    ];
    for (reply, state, reason, kind) in rows {
        // Whatever is called again is called off, so that it does not meet the next ones.
        site.worker.on("t", reply);
        let ids = submit(&site, 2, &slow_retry()).await;
        for id in &ids {
            let seen =
                site.until(id, "judged", |record| record["attempt"].as_u64() > Some(0) && record["state"] != "running").await;
            let first = &site.attempts(id).await[0];
            assert_eq!(first["error"]["type"], kind, "{first}");
            if reason != "throttled" {
                assert_eq!((&seen["state"], &seen["reason"]), (&json!(state), &json!(reason)), "{kind}");
            }
            site.post(&format!("/v1/tasks/{id}/cancel"), &json!({"mode": "hard"})).await;
        }
    }
}

async fn a_canceled_item_leaves_the_others(store: Store) {
    let site = store.dev().await;
    let gate = lovage_tests::Gate::new();
    let held = gate.clone();
    site.worker.on_call("t", move |call: &Call| echo(call).behind(&held));
    worker(&site, 3).await;
    let ids = submit(&site, 3, &quick_retry(1)).await;
    site.worker.wait_until("the batch", PATIENCE, |calls| calls.len() == 1).await;
    site.post(&format!("/v1/tasks/{}/cancel", ids[1]), &json!({"mode": "hard"})).await;
    assert_eq!(site.wait_final(&ids[1]).await["state"], "canceled");
    site.post(&format!("/v1/tasks/{}/cancel", ids[2]), &json!({"mode": "soft"})).await;
    gate.open();
    assert_eq!(site.wait_final(&ids[0]).await["result"], 0);
    // A success that arrives before the cancel has closed anything is a success.
    assert_eq!(site.wait_final(&ids[2]).await["state"], "succeeded");
    assert_eq!(site.task(&ids[1]).await["state"], "canceled");
    assert_eq!(site.worker.received().len(), 1);
}
