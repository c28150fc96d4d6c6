//! Queues that are paused, drained, purged, or as long as they may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lovage_tests::{Lovage, Reply, eventually};
use serde_json::{Value, json};

use super::site::{PATIENCE, Site, Store};
use super::time::{now, rfc3339};

on_both_stores!(
    a_pause_survives_a_restart_and_ends_when_it_is_resumed,
    a_pause_ends_by_itself,
    a_drain_delivers_the_rest,
    a_purge_counts_what_it_cancels_while_tasks_come,
    no_queue_is_longer_than_it_may_be,
    the_oldest_are_dropped,
    the_worker_of_a_queue_gets_its_tasks,
);

fn in_queue(task: &str) -> Value {
    json!({"task": task, "queue": "q"})
}

async fn set_up(site: &Site, settings: &Value) {
    let reply = site.put("/v1/queues/q", settings).await;
    assert!([200, 201].contains(&reply.status), "{}", reply.json);
}

async fn waiting(site: &Site) -> u64 {
    let depth = site.get("/v1/queues/q/stats").await.json["depth"].clone();
    ["blocked", "scheduled", "queued", "retrying"].iter().map(|state| depth[*state].as_u64().unwrap()).sum()
}

async fn a_pause_survives_a_restart_and_ends_when_it_is_resumed(store: Store) {
    let mut site = store.dev().await;
    site.worker.on("t", Reply::status(204));
    site.serves(&["t"]).await;
    set_up(&site, &json!({})).await;
    assert_eq!(site.post("/v1/queues/q/pause", &json!({})).await.status, 200);
    site.in_force().await;
    let waits = site.submit(&in_queue("t")).await;
    site.restart_as(Lovage::dev()).await;
    let paused = json!({"intake": false, "dispatch": true, "until": null});
    assert_eq!(site.get("/v1/queues/q").await.json["paused"], paused);
    // Others of the same worker go on.
    let other = site.submit_plain("t").await;
    site.until_state(&other, "succeeded").await;
    assert_eq!(site.task(&waits).await["state"], "queued");
    let explained = site.get(&format!("/v1/tasks/{waits}/explain")).await.json;
    assert_eq!(explained["reason"], "paused", "{explained}");
    site.post("/v1/queues/q/resume", &json!({})).await;
    site.until_state(&waits, "succeeded").await;
}

async fn a_pause_ends_by_itself(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::status(204));
    site.serves(&["t"]).await;
    set_up(&site, &json!({})).await;
    assert_eq!(site.post("/v1/queues/q/pause", &json!({})).await.status, 200);
    site.in_force().await;
    let waits = site.submit(&in_queue("t")).await;
    let end = rfc3339(now() + Duration::from_secs(2));
    let pause = json!({"intake": true, "until": end});
    assert_eq!(site.post("/v1/queues/q/pause", &pause).await.status, 200);
    assert_eq!(site.post("/v1/tasks", &in_queue("t")).await.code(), "queue_paused");
    let record = site.until_state(&waits, "succeeded").await;
    assert!(record["started_at"].as_str().unwrap() >= end.as_str(), "{record} {end}");
    assert_eq!(site.get("/v1/queues/q").await.json["paused"], json!(null));
    site.submit(&in_queue("t")).await;
}

async fn a_drain_delivers_the_rest(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::status(204));
    site.serves(&["t"]).await;
    set_up(&site, &json!({})).await;
    site.post("/v1/queues/q/pause", &json!({})).await;
    site.in_force().await;
    let ids = site.submit_batch(&vec![in_queue("t"); 30]).await.ids();
    assert_eq!(waiting(&site).await, 30);
    site.post("/v1/queues/q/drain", &json!({})).await;
    assert_eq!(site.post("/v1/tasks", &in_queue("t")).await.code(), "queue_paused");
    for id in &ids {
        site.until_state(id, "succeeded").await;
    }
    assert_eq!(site.post("/v1/tasks", &in_queue("t")).await.code(), "queue_paused");
}

async fn a_purge_counts_what_it_cancels_while_tasks_come(store: Store) {
    let site = Arc::new(store.dev().await);
    set_up(&site, &json!({})).await;
    let first = site.submit_batch(&vec![in_queue("nobody"); 200]).await.ids();
    let (over, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(first.len())));
    let submitting = tokio::spawn({
        let (site, over, made) = (site.clone(), over.clone(), made.clone());
        async move {
            while !over.load(Ordering::SeqCst) {
                site.submit(&json!({"task": "nobody", "queue": "q", "delay": "1h"})).await;
                made.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    eventually("some more tasks", PATIENCE, async || (made.load(Ordering::SeqCst) > 220).then_some(())).await;
    let purged = site.post("/v1/queues/q/purge", &json!({})).await.json["count"].as_u64().unwrap();
    over.store(true, Ordering::SeqCst);
    submitting.await.unwrap();
    let depth = site.get("/v1/queues/q/stats").await.json["depth"].clone();
    let canceled = depth["canceled"].as_u64().unwrap();
    assert_eq!((canceled, purged >= 220), (purged, true), "{depth}");
    assert_eq!(waiting(&site).await + canceled, made.load(Ordering::SeqCst) as u64);
    for id in &first {
        let task = site.task(id).await;
        assert_eq!((&task["state"], &task["reason"]), (&json!("canceled"), &json!("purged")));
    }
}

async fn no_queue_is_longer_than_it_may_be(store: Store) {
    let site = Arc::new(store.dev().await);
    set_up(&site, &json!({"max_length": 100})).await;
    let submitters = (0..16).map(|n| {
        let site = site.clone();
        tokio::spawn(async move {
            let mut taken = 0;
            for i in 0..12 {
                if (n + i) % 4 == 0 {
                    let batch = json!([in_queue("nobody"), in_queue("nobody"), in_queue("nobody")]);
                    let items = site.post("/v1/tasks:batch", &batch).await.json["items"].clone();
                    taken += items.as_array().unwrap().iter().filter(|item| item["status"] == 202).count();
                } else {
                    let reply = site.post("/v1/tasks", &in_queue("nobody")).await;
                    assert!(reply.status == 202 || reply.code() == "queue_full", "{}", reply.json);
                    taken += usize::from(reply.status == 202);
                }
                assert!(waiting(&site).await <= 100);
            }
            taken
        })
    });
    let taken: Vec<usize> = futures_util::future::join_all(submitters).await.into_iter().map(Result::unwrap).collect();
    assert_eq!((taken.iter().sum::<usize>(), waiting(&site).await), (100, 100));
}

async fn the_oldest_are_dropped(store: Store) {
    let site = store.dev().await;
    set_up(&site, &json!({"max_length": 10, "on_full": "drop_oldest"})).await;
    let mut ids = Vec::new();
    for _ in 0..25 {
        ids.push(site.submit(&in_queue("nobody")).await);
        // Each has a time of its own.
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(waiting(&site).await <= 10);
    }
    for (n, id) in ids.iter().enumerate() {
        let task = site.task(id).await;
        let expected = if n < 15 { ("canceled", json!("dropped")) } else { ("queued", task["reason"].clone()) };
        assert_eq!((task["state"].as_str().unwrap(), task["reason"].clone()), expected, "task {n}");
    }
}

async fn the_worker_of_a_queue_gets_its_tasks(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::status(204));
    site.serves(&["nothing"]).await;
    let id = site.submit(&in_queue("t")).await;
    set_up(&site, &json!({"worker": "w", "retry": {"max_attempts": 3}})).await;
    assert_eq!(site.until_state(&id, "succeeded").await["worker"], "w");
    assert_eq!(site.task(&site.submit(&in_queue("t")).await).await["queue"], "q");
}
