//! `GET /v1/tasks`: filters, pages and cursors.

use std::collections::HashSet;
use std::time::Duration;

use lovage_tests::Reply;
use serde_json::{Value, json};

use super::site::{Site, Store, slow_retry};
use super::time::{ago, from_now};

on_both_stores!(
    every_filter_keeps_what_it_should,
    filters_are_joined_by_and,
    pages_hold_every_task_once,
    a_list_follows_while_tasks_arrive,
    cursors_belong_to_their_list,
    parameters_are_checked,
);

/// The ids in a list, sorted.
async fn ids(site: &Site, query: &str) -> Vec<String> {
    let items = site.list(&format!("/v1/tasks?{query}")).await;
    let mut ids: Vec<String> = items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

async fn site_with_tasks(store: Store) -> Site {
    let site = store.dev().await;
    site.worker.on("good", Reply::json(&json!("secret result")));
    site.worker.on("bad", Reply::json(&json!({"type": "ValueError", "message": "no"})).with_status(400));
    site.worker.on("again", Reply::status(500));
    site.serves(&["good", "bad", "again"]).await;
    let tasks = [
        json!({"id": "done", "task": "good", "labels": {"team": "a", "tier": "1"}}),
        json!({"id": "failed", "task": "bad", "labels": {"team": "b"}}),
        json!({"id": "gone", "task": "bad", "url": "http://127.0.0.1:1/", "retry": {"max_attempts": 1}, "delay": "1h"}),
        json!({"id": "later", "task": "nobody", "delay": "1h", "queue": "slow"}),
        json!({"id": "retrying", "task": "again", "retry": slow_retry()}),
        json!({"id": "waiting", "task": "nobody", "labels": {"team": "a", "url": "http://x:1"}, "queue": "slow"}),
    ];
    for task in &tasks {
        site.submit(task).await;
    }
    site.post("/v1/tasks/gone/cancel", &json!({})).await;
    for id in ["done", "failed"] {
        site.wait_final(id).await;
    }
    site.until_state("retrying", "retrying").await;
    site
}

async fn every_filter_keeps_what_it_should(store: Store) {
    let site = site_with_tasks(store).await;
    let all = ["done", "failed", "gone", "later", "retrying", "waiting"];
    let (past, future) = (ago(Duration::from_secs(60)), from_now(Duration::from_secs(60)));
    let table: &[(&str, &[&str])] = &[
        ("", &all),
        ("state=succeeded", &["done"]),
        ("state=failed", &["failed"]),
        ("state=canceled", &["gone"]),
        ("state=scheduled", &["later"]),
        ("state=retrying", &["retrying"]),
        ("state=queued", &["waiting"]),
        ("state=running", &[]),
        ("state=queued&state=scheduled", &["later", "waiting"]),
        ("task=nobody", &["later", "waiting"]),
        ("task=bad", &["failed", "gone"]),
        ("queue=slow", &["later", "waiting"]),
        ("queue=nowhere", &[]),
        ("worker=w", &["done", "failed", "retrying"]),
        ("worker=other", &[]),
        ("label=team:a", &["done", "waiting"]),
        ("label=team:a&label=tier:1", &["done"]),
        ("label=url:http://x:1", &["waiting"]),
        ("label=team%3Ab", &["failed"]),
        ("error_type=ValueError", &["failed"]),
        ("error_type=Other", &[]),
        ("dead=true", &["failed"]),
        ("dead=false", &["done", "gone", "later", "retrying", "waiting"]),
        (&format!("created_after={past}"), &all),
        (&format!("created_after={future}"), &[]),
        (&format!("created_before={past}"), &[]),
        (&format!("created_before={future}"), &all),
    ];
    for (query, expected) in table {
        assert_eq!(ids(&site, query).await, *expected, "{query}");
    }
    // A list shows records without results; errors are shown.
    let items = site.list("/v1/tasks").await;
    assert!(!json!(items).to_string().contains("secret result"));
    let failed = items.iter().find(|item| item["id"] == "failed").unwrap();
    assert_eq!(failed["error"]["message"], "no");
    // Instants are exact: a task is after its own creation and not before it.
    let created = site.task("later").await["created_at"].as_str().unwrap().to_owned();
    assert!(ids(&site, &format!("created_after={created}")).await.contains(&"later".to_owned()));
    assert!(!ids(&site, &format!("created_before={created}")).await.contains(&"later".to_owned()));
}

async fn filters_are_joined_by_and(store: Store) {
    let site = site_with_tasks(store).await;
    assert_eq!(ids(&site, "task=nobody&state=queued").await, ["waiting"]);
    assert_eq!(ids(&site, "queue=slow&label=team:a").await, ["waiting"]);
    assert!(ids(&site, "label=team:a&label=team:b").await.is_empty());
    assert!(ids(&site, "state=succeeded&dead=true").await.is_empty());
    assert!(ids(&site, "state=queued&error_type=ValueError").await.is_empty());
}

/// Submits tasks with these ids.
async fn submit_all(site: &Site, ids: &[String]) {
    let items: Vec<Value> = ids.iter().map(|id| json!({"task": "nobody", "id": id})).collect();
    assert_eq!(site.submit_batch(&items).await.ids(), ids);
}

async fn pages_hold_every_task_once(store: Store) {
    let site = store.dev().await;
    let mut expected: Vec<String> = (0..230).map(|n| format!("t-{n:03}")).collect();
    submit_all(&site, &expected).await;
    expected.sort();
    for limit in [1, 7, 50, 229, 230, 1_000] {
        if limit == 1 {
            // One request per task is slow; a part of the list will do.
            let first = site.get("/v1/tasks?limit=1").await;
            assert_eq!(first.items().len(), 1);
            continue;
        }
        assert_eq!(ids(&site, &format!("limit={limit}")).await, expected, "limit {limit}");
    }
    let page = site.get("/v1/tasks").await;
    assert!(page.items().len() <= 50 && page.json["next_cursor"].is_string(), "{} items", page.items().len());
    // The order is stable.
    assert_eq!(site.list("/v1/tasks?limit=13").await, site.list("/v1/tasks?limit=100").await);
}

async fn a_list_follows_while_tasks_arrive(store: Store) {
    let site = store.dev().await;
    let before: Vec<String> = (0..60).map(|n| format!("before-{n}")).collect();
    submit_all(&site, &before).await;
    let mut seen = Vec::new();
    let mut path = "/v1/tasks?limit=10".to_owned();
    for round in 0.. {
        let page = site.get(&path).await;
        seen.extend(page.items().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page.json["next_cursor"].as_str() else { break };
        path = format!("/v1/tasks?limit=10&cursor={cursor}");
        if round < 5 {
            submit_all(&site, &[format!("during-{round}")]).await;
        }
    }
    let unique: HashSet<&String> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "a task was shown twice");
    assert!(before.iter().all(|id| unique.contains(id)), "a task was left out");
}

async fn cursors_belong_to_their_list(store: Store) {
    let site = store.dev().await;
    submit_all(&site, &(0..20).map(|n| format!("t-{n}")).collect::<Vec<_>>()).await;
    for n in 0..3 {
        site.register_worker(&format!("w{n}"), "http://127.0.0.1:1", &[&format!("t{n}")]).await;
    }
    let tasks = site.get("/v1/tasks?limit=5").await.json["next_cursor"].as_str().unwrap().to_owned();
    let workers = site.get("/v1/workers?limit=1").await.json["next_cursor"].as_str().unwrap().to_owned();
    let bad = [
        format!("/v1/tasks?cursor={workers}"),
        format!("/v1/workers?cursor={tasks}"),
        format!("/v1/queues?cursor={tasks}"),
        format!("/v1/tasks?cursor={}", &tasks[1..]),
        "/v1/tasks?cursor=".to_owned(),
        "/v1/tasks?cursor=%F0%9F%98%80".to_owned(),
    ];
    for path in bad {
        let refused = site.get(&path).await;
        assert_eq!((refused.status, refused.code()), (400, "bad_cursor"), "{path}");
    }
}

async fn parameters_are_checked(store: Store) {
    let site = store.dev().await;
    for (query, code, pointer) in [
        ("limit=0", "invalid_field", "/limit"),
        ("limit=1001", "invalid_field", "/limit"),
        ("limit=-1", "invalid_field", "/limit"),
        ("limit=ten", "invalid_field", "/limit"),
        ("limit=5&limit=6", "invalid_field", "/limit"),
        ("state=done", "invalid_field", "/state"),
        ("label=team", "invalid_field", "/label"),
        ("created_after=yesterday", "invalid_field", "/created_after"),
        ("created_before=2026-13-01T00:00:00Z", "invalid_field", "/created_before"),
        ("root=a%2Fb", "invalid_field", "/root"),
        ("dead=perhaps", "invalid_field", "/dead"),
        ("colour=red", "unknown_field", "/colour"),
    ] {
        let refused = site.get(&format!("/v1/tasks?{query}")).await;
        assert_eq!((refused.status, refused.code(), refused.pointers()), (422, code, vec![pointer]), "{query}");
    }
    let malformed = site.get("/v1/tasks?queue=%FF").await;
    assert_eq!((malformed.status, malformed.code()), (400, "malformed"));
}
