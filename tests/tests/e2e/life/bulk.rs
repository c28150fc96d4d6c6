//! Verbs for many tasks.

use lovage_tests::Reply;
use serde_json::{Value, json};

use crate::contract::site::{Site, Store};

on_both_stores!(many_tasks_are_canceled_in_calls_of_bounded_work, bulk_verbs_change_what_their_filter_lists);

async fn submit_many(site: &Site, prefix: &str, rest: &Value, count: usize) {
    let signature = |n| {
        let mut signature = rest.clone();
        signature["id"] = json!(format!("{prefix}-{n}"));
        signature
    };
    let all: Vec<Value> = (0..count).map(signature).collect();
    for some in all.chunks(1_000) {
        assert_eq!(site.submit_batch(some).await.ids().len(), some.len());
    }
}

/// Calls a verb until it is done: the sums of matched, changed and failed, and the number of calls.
async fn until_done(site: &Site, path: &str, body: &Value) -> ((u64, u64, u64), usize) {
    let mut body = body.clone();
    let mut sums = (0, 0, 0);
    for calls in 1.. {
        let answer = site.post(path, &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let count = |name: &str| answer.json[name].as_u64().unwrap();
        assert!(count("matched") <= 1_000, "{answer:?}");
        sums = (sums.0 + count("matched"), sums.1 + count("changed"), sums.2 + count("failed"));
        match &answer.json["next_cursor"] {
            Value::Null => return (sums, calls),
            cursor => body["cursor"] = cursor.clone(),
        }
    }
    unreachable!("calls are counted without an end")
}

async fn many_tasks_are_canceled_in_calls_of_bounded_work(store: Store) {
    let site = store.dev().await;
    submit_many(&site, "t", &json!({"task": "nobody", "queue": "many"}), 10_000).await;
    submit_many(&site, "other", &json!({"task": "nobody"}), 10).await;
    let counting = json!({"filter": {"queue": "many"}, "dry_run": true});
    assert_eq!(until_done(&site, "/v1/tasks:cancel", &counting).await.0, (10_000, 0, 0));
    let (sums, calls) = until_done(&site, "/v1/tasks:cancel", &json!({"filter": {"queue": "many"}})).await;
    assert_eq!(sums, (10_000, 10_000, 0));
    assert!(calls >= 10, "{calls}");
    let depth = site.get("/v1/queues/many/stats").await.json["depth"].clone();
    assert_eq!((&depth["queued"], &depth["canceled"]), (&json!(0), &json!(10_000)));
    assert_eq!(site.get("/v1/queues/default/stats").await.json["depth"]["queued"], 10);
    let (sums, _) = until_done(&site, "/v1/tasks:delete", &json!({"filter": {"queue": "many"}})).await;
    assert_eq!(sums, (10_000, 10_000, 0));
}

async fn bulk_verbs_change_what_their_filter_lists(store: Store) {
    let site = store.dev().await;
    site.worker.on("good", Reply::json(&json!(1)));
    submit_many(&site, "later", &json!({"task": "good", "delay": "1h", "labels": {"team": "a"}}), 30).await;
    submit_many(&site, "spared", &json!({"task": "good", "delay": "1h", "labels": {"team": "b"}}), 3).await;
    // What was put off is wanted now: the changed tasks run, the others stay.
    let patch = json!({"filter": {"label": ["team:a"], "state": ["scheduled"]}, "patch": {"delay": null, "priority": 9}});
    assert_eq!(until_done(&site, "/v1/tasks:patch", &patch).await.0, (30, 30, 0));
    site.serves(&["good"]).await;
    let ids: Vec<String> = (0..30).map(|n| format!("later-{n}")).collect();
    let records = site.wait_all_final(&ids, std::time::Duration::from_secs(30)).await;
    assert!(records.values().all(|record| record["state"] == "succeeded" && record["priority"] == 9));
    assert_eq!(site.list("/v1/tasks?state=scheduled").await.len(), 3);
    let tally = site.post("/v1/tasks:cancel", &json!({"ids": ["spared-0", "later-0", "unknown"]})).await.json;
    assert_eq!((&tally["matched"], &tally["changed"], &tally["failed"]), (&json!(2), &json!(1), &json!(2)), "{tally}");
}
