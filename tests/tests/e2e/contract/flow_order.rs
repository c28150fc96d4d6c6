//! Tasks that keep an order: those of an order key, and those of a queue in order of acceptance.

use std::collections::HashSet;

use lovage_tests::{Call, Reply, eventually};
use serde_json::{Value, json};

use super::flow::most_at_once;
use super::site::{PATIENCE, Site, Store, quick_retry};

on_both_stores!(
    tasks_of_an_order_key_run_one_after_the_other,
    an_order_key_is_one_order_over_several_queues,
    the_next_of_an_order_key_follows_a_final_failure,
    a_task_that_may_not_start_holds_up_its_order_key_alone,
    a_fifo_queue_starts_its_tasks_as_they_were_accepted,
    links_and_children_of_an_order_key_keep_its_order,
    a_tree_over_several_orders_is_canceled_as_a_whole,
    what_would_wait_for_itself_is_refused,
);

const OUTCOME: &str = "application/vnd.lovage.outcome+json";

/// Starts these and waits for them.
fn spawn(tasks: &Value) -> Reply {
    Reply::bytes(OUTCOME, json!({"outcome": "spawn", "tasks": tasks}).to_string())
}

async fn submit_all(site: &Site, tasks: &[Value]) -> Vec<String> {
    site.submit_batch(tasks).await.items().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// The ids of all calls in the order in which the worker got them.
fn order_of_calls(site: &Site) -> Vec<String> {
    let mut calls = site.worker.received();
    calls.sort_by_key(|call| call.started_ns);
    calls.into_iter().map(|call| call.id).collect()
}

async fn tasks_of_an_order_key_run_one_after_the_other(store: Store) {
    let site = store.dev().await;
    site.serves(&["step"]).await;
    site.worker.on("step", [Reply::status(500), Reply::json(&json!(1))]);
    let task =
        |n: usize| json!({"task": "step", "order_key": "account:7", "args": [n], "priority": n % 10, "retry": quick_retry(3)});
    let ids = submit_all(&site, &(0..8).map(task).collect::<Vec<_>>()).await;
    site.wait_all_final(&ids, PATIENCE).await;
    let expected: Vec<String> = ids.iter().flat_map(|id| [id.clone(), id.clone()]).collect();
    assert_eq!(order_of_calls(&site), expected, "each is tried again before the next one starts");
    assert_eq!(most_at_once(&site, "step"), 1);
}

async fn an_order_key_is_one_order_over_several_queues(store: Store) {
    let site = store.dev().await;
    site.serves(&["step"]).await;
    site.worker.on("step", Reply::json(&json!(1)));
    let task = |n: usize| json!({"task": "step", "order_key": "k", "queue": format!("q{}", n * 5 % 3), "priority": n % 10});
    // One at a time: the next one comes while others run.
    let mut ids = Vec::new();
    for n in 0..30 {
        ids.push(site.submit(&task(n)).await);
    }
    site.wait_all_final(&ids, PATIENCE).await;
    assert_eq!(order_of_calls(&site), ids);
    assert_eq!(most_at_once(&site, "step"), 1);
}

async fn the_next_of_an_order_key_follows_a_final_failure(store: Store) {
    let site = store.dev().await;
    site.serves(&["step"]).await;
    site.worker.on("step", Reply::status(400));
    let ids = submit_all(&site, &vec![json!({"task": "step", "order_key": "k"}); 5]).await;
    site.wait_all_final(&ids, PATIENCE).await;
    for id in &ids {
        assert_eq!(site.task(id).await["state"], "failed");
    }
    assert_eq!(order_of_calls(&site), ids);
    assert_eq!(most_at_once(&site, "step"), 1);
}

async fn a_task_that_may_not_start_holds_up_its_order_key_alone(store: Store) {
    let site = store.dev().await;
    site.serves(&["step"]).await;
    site.worker.on("step", Reply::json(&json!(1)));
    let first = site.submit(&json!({"task": "step", "order_key": "k", "delay": "1h"})).await;
    let next = site.submit(&json!({"task": "step", "order_key": "k", "priority": 9})).await;
    let verb = async |verb: &str| assert_eq!(site.post(&format!("/v1/tasks/{first}/{verb}"), &json!({})).await.status, 200);
    let mut expected = Vec::new();
    // It is scheduled, held, and held although it could start otherwise.
    for change in ["hold", "run", "release"] {
        let other = site.submit(&json!({"task": "step", "order_key": "other"})).await;
        site.wait_final(&other).await;
        assert_eq!(site.task(&next).await["state"], "queued", "before {change}");
        expected.push(other);
        verb(change).await;
    }
    site.wait_all_final(&[first.clone(), next.clone()], PATIENCE).await;
    expected.extend([first.clone(), next]);
    assert_eq!(order_of_calls(&site), expected);
}

async fn a_fifo_queue_starts_its_tasks_as_they_were_accepted(store: Store) {
    let site = store.dev().await;
    // A single call at a time shows the order of the starts.
    let worker = json!({"url": site.worker.url(), "tasks": ["a", "b", "c"], "concurrency": 1});
    assert_eq!(site.put("/v1/workers/w", &worker).await.status, 201);
    assert_eq!(site.put("/v1/queues/q", &json!({"order": "fifo"})).await.status, 201);
    let names = ["a", "b", "c"];
    for name in names {
        site.worker.on(name, Reply::json(&json!(1)));
    }
    let task = |n: usize| json!({"task": names[n * 2 % 3], "queue": "q", "priority": n % 10});
    let ids = submit_all(&site, &(0..30).map(task).collect::<Vec<_>>()).await;
    site.wait_all_final(&ids, PATIENCE).await;
    assert_eq!(order_of_calls(&site), ids);
}

/// Ten tasks end together, each with links in two orders; then one waits for children in eight orders.
async fn links_and_children_of_an_order_key_keep_its_order(store: Store) {
    let site = store.dev().await;
    site.serves(&["*"]).await;
    site.worker.on_call("*", |call: &Call| Reply::json(&json!(call.task)));
    assert_eq!(site.put("/v1/queues/line", &json!({"order": "fifo"})).await.status, 201);
    // The dispatcher stores links.
    site.in_force().await;
    let links = json!([{"task": "step", "order_key": "account 7"}, {"task": "line", "queue": "line", "priority": 9}]);
    let ids = submit_all(&site, &vec![json!({"task": "first", "link": links}); 10]).await;
    site.wait_all_final(&ids, PATIENCE).await;
    let linked = async |task: &str| {
        eventually("the links to end", PATIENCE, async || {
            let all = site.list(&format!("/v1/tasks?task={task}&limit=100")).await;
            (all.len() == 10 && all.iter().all(|task| task["state"] == "succeeded")).then_some(all)
        })
        .await
    };
    for (task, order_key) in [("step", json!("account 7")), ("line", Value::Null)] {
        let parents: HashSet<String> =
            linked(task).await.iter().map(|task| task["parent"].as_str().unwrap().to_owned()).collect();
        assert_eq!(parents, ids.iter().cloned().collect(), "one of each");
        let one = linked(task).await.remove(0);
        assert_eq!(site.task(one["id"].as_str().unwrap()).await["order_key"], order_key);
    }
    assert_eq!(most_at_once(&site, "step"), 1);

    let children: Vec<Value> = (0..8).map(|n| json!({"task": "child", "order_key": format!("{n}xyz")})).collect();
    site.worker.on("parent", [spawn(&json!(children)), Reply::json(&json!("all there"))]);
    let id = site.submit(&json!({"task": "parent", "id": "mine", "order_key": "account 7"})).await;
    assert_eq!(site.wait_final(&id).await["result"], "all there");
    let calls: Vec<Call> = site.worker.received().into_iter().filter(|call| call.task == "parent").collect();
    let told = calls[1].json()["children"].as_array().unwrap().clone();
    assert_eq!((told.len(), told.iter().filter(|child| child["state"] == "succeeded").count()), (8, 8), "{told:?}");
    let tree = site.get(&format!("/v1/tasks/{id}/tree")).await.json;
    assert_eq!((&tree["nodes"][0]["id"], tree["nodes"].as_array().unwrap().len()), (&json!("mine"), 9));
}

async fn a_tree_over_several_orders_is_canceled_as_a_whole(store: Store) {
    let site = store.dev().await;
    site.serves(&["*"]).await;
    let children: Vec<Value> = (0..12).map(|n| json!({"task": "mid", "order_key": format!("{n}xyz"), "delay": "1h"})).collect();
    site.worker.on("top", spawn(&json!(children)));
    let id = site.submit_plain("top").await;
    site.until_state(&id, "blocked").await;
    let answer = site.post(&format!("/v1/tasks/{id}/cancel"), &json!({})).await;
    assert_eq!((answer.status, &answer.json["state"]), (200, &json!("canceled")));
    // Whatever was still on its way: it was canceled before the answer.
    let all = site.list(&format!("/v1/tasks?root={id}&limit=100")).await;
    assert_eq!(all.len(), 12);
    assert!(all.iter().all(|task| task["state"] == "canceled" && task["reason"] == "upstream"), "{all:?}");
}

async fn what_would_wait_for_itself_is_refused(store: Store) {
    let site = store.dev().await;
    site.serves(&["*"]).await;
    site.worker.on("stuck", spawn(&json!([{"task": "child", "order_key": "k"}])));
    let replacement = json!({"outcome": "replace", "replacement": {"task": "child", "order_key": "other"}});
    site.worker.on("moves", Reply::bytes(OUTCOME, replacement.to_string()));
    for (task, pointer) in [("stuck", "/tasks/0/order_key: "), ("moves", "/replacement/order_key: ")] {
        let id = site.submit(&json!({"task": task, "order_key": "k", "retry": quick_retry(1)})).await;
        let record = site.wait_final(&id).await;
        let message = record["error"]["message"].as_str().unwrap();
        assert!(record["state"] == "failed" && message.starts_with(pointer), "{record}");
    }
}
