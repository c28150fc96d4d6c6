//! `redact`: what a signature hides is seen by its worker and by nobody else.

use std::time::Duration;

use lovage_tests::{Call, Reply};
use reqwest::Method;
use serde_json::json;

use crate::contract::site::{Site, Store, quick_retry};

on_both_stores!(nobody_sees_what_is_hidden, errors_answers_and_logs_are_hidden, raw_bytes_are_hidden_as_a_whole);

const SECRET: &str = "hunter2";

/// The texts of all routes that show something of a task.
async fn views(site: &Site, id: &str) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    for path in ["", "/payload", "/result", "/attempts", "/explain", "/tree", "/events"] {
        let answer = site.get(&format!("/v1/tasks/{id}{path}")).await;
        seen.push((path.to_owned(), String::from_utf8_lossy(&answer.body).into_owned()));
    }
    let list = site.list("/v1/tasks").await;
    seen.push(("the list".to_owned(), json!(list).to_string()));
    seen
}

async fn nobody_sees_what_is_hidden(store: Store) {
    let site = store.dev().await;
    site.worker
        .on("t", Reply::json(&json!({"token": SECRET, "n": 1})))
        .on("link", Reply::status(204))
        .on("/told", Reply::status(204));
    site.serves(&["t", "link"]).await;
    let signature = json!({"task": "t", "args": [1, SECRET], "kwargs": {"password": SECRET, "user": "ann"},
        "labels": {"card": SECRET, "team": "a"}, "redact": ["/args/1", "/kwargs/password", "/labels/card", "/result/token"],
        "callbacks": {"on_success": site.worker.url_of("/told")}, "link": {"task": "link", "args": ["own", SECRET], "redact": ["/args/1"]}});
    let id = site.submit(&signature).await;
    let record = site.wait_final(&id).await;
    assert_eq!(record["args"], json!([1, "[redacted]"]));
    assert_eq!(record["kwargs"], json!({"password": "[redacted]", "user": "ann"}));
    assert_eq!(record["result"], json!({"token": "[redacted]", "n": 1}));
    assert_eq!(record["labels"], json!({"card": "[redacted]", "team": "a"}));
    let calls = site.worker.wait_until("all calls", Duration::from_secs(20), |calls| calls.len() == 3).await;
    let of = |task: &str| calls.iter().find(|call| call.task == task || call.path == task).unwrap();
    // The worker and the link get all of it.
    assert_eq!(of("t").json()["kwargs"]["password"], SECRET);
    assert_eq!(of("link").json()["args"], json!([{"token": SECRET, "n": 1}, "own", SECRET]));
    assert!(!String::from_utf8_lossy(&of("/told").body).contains(SECRET), "the callback shows it");
    let all = site.list(&format!("/v1/tasks?root={id}")).await;
    assert_eq!(all.len(), 2, "{all:?}");
    for task in all.iter().map(|task| task["id"].as_str().unwrap()).chain([id.as_str()]) {
        site.wait_final(task).await;
        for (path, text) in views(&site, task).await {
            assert!(!text.contains(SECRET), "{path}: {text}");
        }
    }
    let link = all.iter().find(|task| task["task"] == "link").unwrap();
    let link = site.task(link["id"].as_str().unwrap()).await;
    assert_eq!(link["args"], json!([{"token": "[redacted]", "n": 1}, "own", "[redacted]"]));
    // A replay is made from what is stored, not from what is shown.
    let again = site.post(&format!("/v1/tasks/{id}/replay?wait=20s"), &json!({})).await.id();
    assert_eq!(site.worker.received_for(&again)[0].json()["kwargs"]["password"], SECRET);
    let refused = site.post_task(&json!({"task": "t", "redact": ["/password"]})).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/redact/0"]));
}

async fn errors_answers_and_logs_are_hidden(store: Store) {
    let site = store.dev().await;
    let error = json!({"type": "Refused", "message": SECRET, "stack": SECRET});
    let lines = [json!({"log": SECRET}), json!({"progress": {"key": SECRET, "n": 1}}), json!({"error": error})];
    site.worker.on("stream", Reply::ndjson(Duration::from_millis(300), &lines));
    site.worker.on("plain", Reply::json(&error).with_status(500));
    site.serves(&["stream", "plain"]).await;
    for task in ["stream", "plain"] {
        let redact = json!(["/error/message", "/error/stack", "/progress/key"]);
        let id = site.submit(&json!({"task": task, "redact": redact, "retry": quick_retry(2)})).await;
        let record = site.wait_final(&id).await;
        assert_eq!((&record["error"]["type"], &record["error"]["message"]), (&json!("Refused"), &json!("[redacted]")));
        for (path, text) in views(&site, &id).await {
            assert!(!text.contains(SECRET), "{path} of {task}: {text}");
        }
    }
}

async fn raw_bytes_are_hidden_as_a_whole(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::status(204));
    site.serves(&["t"]).await;
    let kind = json!({"redact": ["/payload/card"]});
    assert_eq!(site.put("/v1/task-types/t", &kind).await.status, 201);
    let request = site.request(Method::POST, "/v1/tasks").header("lovage-task", "t").header("content-type", "text/plain");
    let id = site.send(request.body(format!("card={SECRET}"))).await.id();
    site.wait_final(&id).await;
    let shown = site.get(&format!("/v1/tasks/{id}/payload")).await;
    assert_eq!((&shown.json, shown.header("content-type")), (&json!("[redacted]"), "application/json"));
    let sent = |calls: &[Call]| calls.iter().any(|call| call.body.ends_with(SECRET.as_bytes()));
    site.worker.wait_until("the call", Duration::from_secs(20), sent).await;
}
