//! `link` and `link_error`: tasks that run after another one, with what came of it in front of their arguments.

use lovage_tests::{Call, Reply, eventually};
use serde_json::{Value, json};

use super::site::{PATIENCE, Site, Store, quick_retry};

on_both_stores!(
    a_link_gets_the_result,
    links_stay_as_they_were_given,
    links_have_links,
    a_link_after_failure_gets_the_error,
    a_link_belongs_to_the_family,
    a_link_has_a_life_of_its_own,
    a_task_that_did_not_end_well_starts_no_link,
);

/// A worker whose tasks answer with their names, but for the one that fails.
async fn chained(store: Store) -> Site {
    let site = store.dev().await;
    site.worker.on_call("*", |call: &Call| Reply::json(&json!(call.task)));
    site.worker.on("bad", Reply::json(&json!({"type": "ValueError", "message": "no"})).with_status(400));
    site.serves(&["*"]).await;
    site
}

/// The calls of this task name, once there are so many.
async fn calls(site: &Site, task: &str, count: usize) -> Vec<Call> {
    let of = |calls: &[Call]| calls.iter().filter(|call| call.task == task).cloned().collect::<Vec<_>>();
    let all = site.worker.wait_until(&format!("{count} calls of {task}"), PATIENCE, |calls| of(calls).len() >= count).await;
    of(&all)
}

/// Waits until all tasks are final, and returns how many there are.
async fn settled(site: &Site) -> usize {
    eventually("all tasks to be final", PATIENCE, async || {
        let tasks = site.list("/v1/tasks").await;
        let open = ["blocked", "scheduled", "queued", "running", "retrying"];
        tasks.iter().all(|task| !open.contains(&task["state"].as_str().unwrap())).then_some(tasks.len())
    })
    .await
}

async fn a_link_gets_the_result(store: Store) {
    let site = chained(store).await;
    site.worker.on("sum", Reply::bytes("application/json", r#"{"total": 1.50}"#));
    site.worker.on("text", Reply::bytes("text/plain", "so \"it\" is"));
    site.worker.on("nothing", Reply::status(204));
    for (task, result) in [("sum", r#"{"total": 1.50}"#), ("text", r#""so \"it\" is""#), ("nothing", "null")] {
        let next = format!("after.{task}");
        site.submit(&json!({"task": task, "ignore_result": true, "link": {"task": next, "args": [2], "kwargs": {"a": 1}}})).await;
        let call = &calls(&site, &next, 1).await[0];
        // Digits of numbers are those of the worker.
        let body = String::from_utf8(call.body.to_vec()).unwrap();
        assert!(body.contains(&format!("\"args\":[{result},2]")), "{body}");
        assert_eq!(call.json()["kwargs"], json!({"a": 1}));
    }
}

async fn links_stay_as_they_were_given(store: Store) {
    let site = chained(store).await;
    let links = json!([
        {"task": "immutable", "args": [1], "immutable": true},
        {"task": "payload", "payload": {"as": "it is"}},
        {"task": "plain", "queue": "next", "priority": 9, "headers": {"X-Mine": "yes"}},
    ]);
    site.submit(&json!({"task": "first", "link": links})).await;
    assert_eq!(calls(&site, "immutable", 1).await[0].json()["args"], json!([1]));
    assert_eq!(calls(&site, "payload", 1).await[0].json(), json!({"as": "it is"}));
    let plain = &calls(&site, "plain", 1).await[0];
    assert_eq!((&plain.json()["args"], plain.header("lovage-queue")), (&json!(["first"]), "next"));
    assert_eq!(plain.header("x-mine"), "yes");
    assert_eq!(settled(&site).await, 4);
}

async fn links_have_links(store: Store) {
    let site = chained(store).await;
    let third = json!({"task": "third", "args": ["own"]});
    let second = json!({"task": "second", "link": [third, {"task": "other"}]});
    site.submit(&json!({"task": "first", "id": "root", "link": second})).await;
    assert_eq!(calls(&site, "second", 1).await[0].json()["args"], json!(["first"]));
    let third = &calls(&site, "third", 1).await[0];
    assert_eq!(third.json()["args"], json!(["second", "own"]));
    assert_eq!(calls(&site, "other", 1).await[0].json()["args"], json!(["second"]));
    let second = &calls(&site, "second", 1).await[0];
    assert_eq!((third.header("lovage-parent"), third.header("lovage-root")), (&*second.id, "root"));
    assert_eq!(settled(&site).await, 4);
}

async fn a_link_after_failure_gets_the_error(store: Store) {
    let site = chained(store).await;
    let rescue = json!([{"task": "rescue", "args": [1]}, {"task": "note", "immutable": true}]);
    site.submit(&json!({"task": "bad", "id": "main", "link": {"task": "never"}, "link_error": rescue})).await;
    let args = calls(&site, "rescue", 1).await[0].json()["args"].clone();
    assert_eq!((&args[0]["id"], &args[0]["task"], &args[1]), (&json!("main"), &json!("bad"), &json!(1)));
    let error = &args[0]["error"];
    assert_eq!((&error["type"], &error["message"]), (&json!("ValueError"), &json!("no")));
    assert_eq!(calls(&site, "note", 1).await[0].json()["args"], json!([]));
    // A link that fails is a task that fails: the errors of links are handled by their own links.
    site.submit(&json!({"task": "fine", "link": {"task": "bad", "link_error": {"task": "rescue"}}})).await;
    let told = calls(&site, "rescue", 2).await[1].json()["args"].clone();
    assert_eq!((&told[0]["task"], told.as_array().unwrap().len()), (&json!("bad"), 1));
    assert_eq!(settled(&site).await, 6);
    assert!(site.worker.received().iter().all(|call| call.task != "never"));
}

async fn a_link_belongs_to_the_family(store: Store) {
    let site = chained(store).await;
    let link = json!({"task": "next", "labels": {"team": "b", "own": "1"}});
    site.submit(&json!({"task": "first", "id": "main", "labels": {"team": "a", "customer": "7"}, "link": link})).await;
    let call = &calls(&site, "next", 1).await[0];
    assert_eq!((call.header("lovage-parent"), call.header("lovage-root")), ("main", "main"));
    let record = site.wait_final(&call.id).await;
    assert_eq!((&record["parent"], &record["root"]), (&json!("main"), &json!("main")));
    assert_eq!(record["labels"], json!({"team": "b", "own": "1", "customer": "7"}));
    let members: Vec<Value> = site.list("/v1/tasks?root=main").await;
    assert!(members.iter().any(|member| member["id"] == json!(call.id)), "{members:?}");
}

async fn a_link_has_a_life_of_its_own(store: Store) {
    let site = chained(store).await;
    site.worker.on("flaky", [Reply::status(500), Reply::status(500), Reply::json(&json!("done"))]);
    let link = json!({"task": "flaky", "retry": quick_retry(5)});
    let first = site.submit(&json!({"task": "first", "link": link})).await;
    let call = &calls(&site, "flaky", 3).await[0];
    let record = site.wait_final(&call.id).await;
    assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(3)));
    assert_eq!(site.task(&first).await["attempt"], 1);
    // It may wait, which its parent does not notice.
    let first = site.submit(&json!({"task": "first", "link": {"task": "later", "delay": "1h"}})).await;
    site.wait_final(&first).await;
    let waiting = site.list("/v1/tasks?state=scheduled").await;
    assert_eq!((waiting.len(), &waiting[0]["task"], &waiting[0]["parent"]), (1, &json!("later"), &json!(first)));
}

async fn a_task_that_did_not_end_well_starts_no_link(store: Store) {
    let site = store.dev().await;
    let links = json!({"link": {"task": "next"}, "link_error": {"task": "rescue"}});
    for (id, more) in [("canceled", json!({})), ("expired", json!({"expires_in": "50ms"}))] {
        let mut signature = json!({"task": "nobody", "id": id});
        signature.as_object_mut().unwrap().extend(links.as_object().cloned().unwrap());
        signature.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        site.submit(&signature).await;
    }
    site.post("/v1/tasks/canceled/cancel", &json!({})).await;
    site.until_state("expired", "expired").await;
    assert_eq!(site.list("/v1/tasks").await.len(), 2);
}
