//! `callbacks`: somebody is told how a task went, by deliveries that are tasks of their own.

use std::collections::BTreeMap;

use lovage_tests::{Call, Reply, eventually};
use serde_json::{Value, json};

use super::site::{PATIENCE, Site, Store, quick_retry, slow_retry};

on_both_stores!(
    success_is_told,
    failure_and_every_retry_are_told,
    progress_is_told,
    the_end_is_told_however_it_came,
    a_callback_has_retries_of_its_own,
    a_callback_is_signed_with_the_namespaces_key,
    a_callback_is_seen_by_its_root,
    a_record_shows_its_callbacks,
    a_callback_is_sent_as_asked,
);

/// All five callbacks, each to a path of its own.
fn all(site: &Site) -> Value {
    let kinds = ["on_success", "on_failure", "on_retry", "on_progress", "on_terminal"];
    kinds.into_iter().map(|kind| (kind.to_owned(), json!(site.worker.url_of(&format!("/{kind}"))))).collect::<Value>()
}

async fn listening_site(store: Store) -> Site {
    let site = store.dev().await;
    for path in ["/on_success", "/on_failure", "/on_retry", "/on_progress", "/on_terminal"] {
        site.worker.on(path, Reply::status(204));
    }
    site.worker.on("good", Reply::json(&json!({"sum": 5})));
    site.worker.on("bad", Reply::json(&json!({"type": "ValueError", "message": "no"})).with_status(400));
    site.register_worker("w", &site.worker.url_of("/work"), &["good", "bad", "flaky"]).await;
    site
}

/// Waits until this many callbacks have come, and then a little for one too many; the calls by path.
async fn told(site: &Site, count: usize) -> BTreeMap<String, Vec<Call>> {
    let is_callback = |call: &&Call| call.path.starts_with("/on_");
    let calls = site
        .worker
        .wait_until(&format!("{count} callbacks"), PATIENCE, |calls| calls.iter().filter(is_callback).count() >= count)
        .await;
    // All callbacks are tasks of one queue: when none is left there, none is to come.
    eventually("the callbacks to be done", PATIENCE, async || {
        let depth = site.get("/v1/queues/callbacks/stats").await.json["depth"].clone();
        (depth["queued"] == 0 && depth["running"] == 0).then_some(())
    })
    .await;
    assert_eq!(site.worker.received().iter().filter(is_callback).count(), count);
    let mut by_path: BTreeMap<String, Vec<Call>> = BTreeMap::new();
    for call in calls.iter().filter(is_callback) {
        by_path.entry(call.path.clone()).or_default().push(call.clone());
    }
    by_path
}

async fn success_is_told(store: Store) {
    let site = listening_site(store).await;
    let signature = json!({"task": "good", "id": "main", "callbacks": all(&site), "labels": {"team": "a"}});
    site.submit(&signature).await;
    site.wait_final("main").await;
    let told = told(&site, 2).await;
    assert_eq!(told.keys().collect::<Vec<_>>(), ["/on_success", "/on_terminal"]);
    for call in told.values().flatten() {
        let body = call.json();
        assert_eq!(body["type"], "task.succeeded");
        let record = [&body["id"], &body["state"], &body["result"], &body["task"], &body["labels"]["team"]];
        assert_eq!(record, [&json!("main"), &json!("succeeded"), &json!({"sum": 5}), &json!("good"), &json!("a")]);
        assert!(body["finished_at"].is_string() && body["error"].is_null(), "{body}");
        assert_eq!((call.header("lovage-parent"), call.header("lovage-root")), ("main", "main"));
        assert_eq!((call.header("lovage-label-team"), call.header("content-type")), ("a", "application/json"));
        assert!(call.id != "main" && call.header("idempotency-key") == call.id, "a callback has an id of its own");
    }
}

async fn failure_and_every_retry_are_told(store: Store) {
    let site = listening_site(store).await;
    site.worker.on("flaky", [Reply::status(500), Reply::status(502), Reply::status(400)]);
    site.submit(&json!({"task": "flaky", "id": "main", "callbacks": all(&site), "retry": quick_retry(5)})).await;
    site.wait_final("main").await;
    let told = told(&site, 4).await;
    assert_eq!(told.keys().collect::<Vec<_>>(), ["/on_failure", "/on_retry", "/on_terminal"]);
    let mut attempts: Vec<Value> = told["/on_retry"].iter().map(|call| call.json()["attempt"].clone()).collect();
    attempts.sort_by_key(Value::as_u64);
    assert_eq!(attempts, [json!(1), json!(2)]);
    assert!(told["/on_retry"].iter().all(|call| call.json()["type"] == "task.retrying"));
    for path in ["/on_failure", "/on_terminal"] {
        let body = told[path][0].json();
        assert_eq!((&body["type"], &body["reason"], &body["attempt"]), (&json!("task.failed"), &json!("permanent"), &json!(3)));
        assert_eq!(body["error"]["status"], 400);
    }
}

async fn progress_is_told(store: Store) {
    let site = listening_site(store).await;
    let lines = [json!({"progress": {"done": 1}}), json!({"progress": {"done": 2}}), json!({"result": "all"})];
    // Longer apart than reports are gathered for.
    site.worker.on("good", Reply::ndjson(std::time::Duration::from_millis(500), &lines));
    site.submit(&json!({"task": "good", "id": "main", "callbacks": all(&site)})).await;
    site.wait_final("main").await;
    let told = told(&site, 4).await;
    assert_eq!(told.keys().collect::<Vec<_>>(), ["/on_progress", "/on_success", "/on_terminal"]);
    let mut seen: Vec<Value> = told["/on_progress"].iter().map(Call::json).collect();
    seen.sort_by_key(|body| body["progress"]["done"].as_u64());
    for (body, done) in seen.iter().zip(1..) {
        let told = [&body["type"], &body["id"], &body["state"], &body["progress"]];
        assert_eq!(told, [&json!("task.progress"), &json!("main"), &json!("running"), &json!({"done": done})]);
    }
}

async fn the_end_is_told_however_it_came(store: Store) {
    let site = listening_site(store).await;
    let callbacks = all(&site);
    site.submit(&json!({"task": "nobody", "id": "canceled", "callbacks": callbacks})).await;
    site.submit(&json!({"task": "nobody", "id": "expired", "expires_in": "50ms", "callbacks": callbacks})).await;
    site.post("/v1/tasks/canceled/cancel", &json!({})).await;
    let told = told(&site, 2).await;
    let mut ends: Vec<(Value, Value)> =
        told["/on_terminal"].iter().map(Call::json).map(|body| (body["id"].clone(), body["type"].clone())).collect();
    ends.sort_by_key(|(id, _)| id.to_string());
    assert_eq!(ends, [(json!("canceled"), json!("task.canceled")), (json!("expired"), json!("task.expired"))]);
}

async fn a_callback_has_retries_of_its_own(store: Store) {
    let site = listening_site(store).await;
    site.worker.on("/on_success", [Reply::status(500), Reply::reset(), Reply::status(204)]);
    let callback = json!({"url": site.worker.url_of("/on_success"), "retry": quick_retry(5)});
    site.submit(&json!({"task": "good", "id": "main", "callbacks": {"on_success": callback}, "retry": slow_retry()})).await;
    site.wait_final("main").await;
    let calls = site.worker.wait_until("three callbacks", PATIENCE, |calls| calls.len() >= 4).await;
    let calls = &calls[1..];
    assert_eq!(calls.iter().map(|call| call.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(calls.iter().all(|call| call.id == calls[0].id && call.body == calls[0].body));
    // Its failures are its own: the task is done.
    assert_eq!(site.task("main").await["attempt"], 1);
    let record = site.wait_final(&calls[0].id).await;
    assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(3)));
}

async fn a_callback_is_signed_with_the_namespaces_key(store: Store) {
    let site = listening_site(store).await;
    let secret = site.post("/v1/signing-keys/rotate", &json!(null)).await.json["signing"].as_str().unwrap().to_owned();
    let callbacks = json!({"on_success": site.worker.url_of("/on_success")});
    eventually("a signed callback", PATIENCE, async || {
        let seen = site.worker.count();
        site.submit(&json!({"task": "good", "callbacks": callbacks})).await;
        let calls = site.worker.wait_for(seen + 2).await;
        calls.last().unwrap().is_signed_with(&secret).then_some(())
    })
    .await;
}

async fn a_callback_is_seen_by_its_root(store: Store) {
    let site = listening_site(store).await;
    site.submit(&json!({"task": "good", "id": "main", "callbacks": all(&site)})).await;
    site.wait_final("main").await;
    told(&site, 2).await;
    let members = site.list("/v1/tasks?root=main").await;
    let children: Vec<&Value> = members.iter().filter(|member| member["id"] != "main").collect();
    assert_eq!(children.len(), 2, "{members:?}");
    let mut kinds: Vec<&str> = children.iter().map(|child| child["callback"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["success", "terminal"]);
    for child in children {
        let told = [&child["parent"], &child["root"], &child["queue"]];
        assert_eq!(told, [&json!("main"), &json!("main"), &json!("callbacks")]);
        let id = child["id"].as_str().unwrap();
        assert_eq!(site.wait_final(id).await["state"], "succeeded");
    }
    assert!(site.list("/v1/tasks?root=other").await.is_empty());
}

async fn a_record_shows_its_callbacks(store: Store) {
    let site = listening_site(store).await;
    site.worker.on("flaky", [Reply::status(500), Reply::status(204)]);
    site.worker.on("/on_terminal", Reply::status(500));
    let quick = |kind: &str, tries: u32| json!({"url": site.worker.url_of(&format!("/{kind}")), "retry": quick_retry(tries)});
    let callbacks =
        json!({"on_retry": quick("on_retry", 3), "on_success": quick("on_success", 3), "on_terminal": quick("on_terminal", 2)});
    site.submit(&json!({"task": "flaky", "id": "main", "callbacks": callbacks, "retry": quick_retry(5)})).await;
    assert_eq!(site.wait_final("main").await["state"], "succeeded");
    let record = site
        .until("main", "told of", |record| {
            let shown = record["callbacks"].as_array().unwrap();
            shown.len() == 3
                && shown.iter().all(|callback| ["succeeded", "failed"].contains(&callback["state"].as_str().unwrap()))
        })
        .await;
    let shown = record["callbacks"].as_array().unwrap();
    let mut kinds: Vec<(&str, &str)> =
        shown.iter().map(|callback| (callback["kind"].as_str().unwrap(), callback["state"].as_str().unwrap())).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [("retry", "succeeded"), ("success", "succeeded"), ("terminal", "failed")]);
    for callback in shown {
        assert_eq!(site.task(callback["id"].as_str().unwrap()).await["parent"], "main");
    }
    // What nobody asked for is not shown.
    let plain = site.submit(&json!({"task": "good"})).await;
    assert!(site.wait_final(&plain).await.get("callbacks").is_none());
}

async fn a_callback_is_sent_as_asked(store: Store) {
    let site = listening_site(store).await;
    site.worker.on("/on_success", Reply::never());
    let callback = json!({
        "url": site.worker.url_of("/on_success"), "headers": {"Authorization": "Bearer cb"}, "time_limit": "100ms",
        "retry": quick_retry(2),
    });
    site.submit(&json!({"task": "good", "id": "main", "callbacks": {"on_success": callback}})).await;
    let calls = site.worker.wait_until("two callbacks", PATIENCE, |calls| calls.len() >= 3).await;
    assert_eq!((calls[1].header("authorization"), calls[1].header("lovage-max-attempts")), ("Bearer cb", "2"));
    let record = site.wait_final(&calls[1].id).await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("failed"), &json!("timeout")));
    // A callback that nobody takes does not touch its task.
    assert_eq!(site.task("main").await["state"], "succeeded");
}
