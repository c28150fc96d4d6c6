//! What is shown of tasks, what is hidden, and what is refused instead of being passed over.

use std::sync::Arc;

use axum::http::Method;
use lovage_core::problem::Code;
use lovage_core::units::Dur;
use lovage_core::{Outcome, TaskError};
use lovage_gateway::{AdminKeys, Auth};
use serde_json::{Value, json};

use crate::harness::{Harness, options};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A task that failed so often and is going to be tried again.
async fn failed(h: &Harness, id: &str, times: usize) {
    for n in 0..times {
        if n > 0 {
            h.post(&format!("/v1/tasks/{id}/run"), "").await;
        }
        h.finish(id, Outcome::Retry { after: Some("1h".parse::<Dur>().unwrap().get()), error: TaskError::new("E", "no") }).await;
    }
}

#[tokio::test]
async fn attempts_come_by_page_oldest_first() {
    let h = Harness::new();
    for id in ["a", "b"] {
        h.submit(&format!(r#"{{"task":"t","id":"{id}","retry":{{"max_attempts":100}}}}"#)).await;
    }
    failed(&h, "a", 7).await;
    failed(&h, "b", 1).await;
    let (mut seen, mut path) = (Vec::new(), "/v1/tasks/a/attempts?limit=3".to_owned());
    let mut pages = Vec::new();
    loop {
        let page = h.get(&path).await.json();
        let numbers: Vec<u64> = page["items"].as_array().unwrap().iter().map(|it| it["attempt"].as_u64().unwrap()).collect();
        pages.push(numbers.len());
        seen.extend(numbers);
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/tasks/a/attempts?limit=3&cursor={next}");
        // A cursor is for the list that gave it.
        h.get(&format!("/v1/tasks/b/attempts?cursor={next}")).await.is_problem(Code::BadCursor);
    }
    assert_eq!((seen, pages), ((1..=7).collect(), vec![3, 3, 1]));
    assert_eq!(h.get("/v1/tasks/a/attempts?limit=7").await.json()["next_cursor"], Value::Null);
    assert_eq!(h.get("/v1/tasks/a/attempts").await.json()["items"].as_array().unwrap().len(), 7);
    h.get("/v1/tasks/a/attempts?limit=0").await.is_problem(Code::InvalidField);
    h.get("/v1/tasks/a/attempts?cursor=x").await.is_problem(Code::BadCursor);
    h.get("/v1/tasks/a/attempts?page=2").await.is_problem(Code::UnknownField);
}

#[tokio::test]
async fn a_dry_run_counts_those_whose_unique_key_is_taken() {
    for path in ["/v1/tasks:retry", "/v1/dead-letters:retry"] {
        let h = Harness::new();
        let mut ids = Vec::new();
        // `x`: two that failed; `y`: one that failed, and one that holds the key now; `z`: one alone.
        for (key, fails) in [("x", true), ("x", true), ("y", true), ("y", false), ("z", true)] {
            let id = h.submit(&format!(r#"{{"task":"t","unique":{{"key":"{key}"}}}}"#)).await;
            if fails {
                h.finish(&id, Outcome::Permanent { error: TaskError::new("E", "no") }).await;
                ids.push(id);
            }
        }
        for target in [json!({"ids": ids}), json!({"filter": {"state": "failed"}})] {
            let mut body = target.clone();
            body["dry_run"] = json!(true);
            let told = h.post(path, body.to_string()).await.json();
            assert_eq!((&told["matched"], &told["changed"], &told["failed"]), (&json!(4), &json!(0), &json!(2)), "{told}");
            assert!(told["errors"].as_array().unwrap().iter().all(|error| error["code"] == "unique_conflict"), "{told}");
        }
        let done = h.post(path, json!({"ids": ids}).to_string()).await.json();
        assert_eq!((&done["matched"], &done["changed"], &done["failed"]), (&json!(4), &json!(2), &json!(2)), "{done}");
    }
}

#[tokio::test]
async fn what_a_task_hides_is_neither_shown_beforehand_nor_found() {
    let h = Harness::new();
    let text = r#"{"task":"t","url":"http://a.example/?k=secret","labels":{"who":"secret","team":"a"},
        "redact":["/labels/who","/url","/error/type"]}"#;
    let shown = h.post("/v1/tasks?dry_run=true", text).await.json();
    assert!(!shown.to_string().contains("secret"), "{shown}");
    assert_eq!((&shown["labels"], &shown["url"]), (&json!({"who": "[redacted]", "team": "a"}), &json!("[redacted]")));
    let id = h.submit(text).await;
    h.finish(&id, Outcome::Permanent { error: TaskError::new("Secret", "no") }).await;
    for (filter, found) in [
        ("label=team:a", 1),
        ("label=who:secret", 0),
        ("label=who:%5Bredacted%5D", 0),
        ("label=team:a&label=who:secret", 0),
        ("error_type=Secret", 0),
        ("state=failed", 1),
    ] {
        let list = h.get(&format!("/v1/tasks?{filter}")).await.json();
        assert_eq!(list["items"].as_array().unwrap().len(), found, "{filter}");
    }
    let told = h.post("/v1/tasks:delete", r#"{"filter":{"label":"who:secret"}}"#).await.json();
    assert_eq!(told["matched"], 0);
}

#[tokio::test]
async fn the_address_of_a_callback_is_shown_without_its_query_everywhere() {
    let h = Harness::new();
    let id = h
        .submit(
            r#"{"task":"t","callbacks":{"on_success":"http://a.example/told?token=SEKRIT"},
            "link":{"url":"http://b.example/next?key=SEKRIT","payload":1},
            "link_error":{"url":"http://c.example/?key=SEKRIT","payload":1}}"#,
        )
        .await;
    let before = h.get(&format!("/v1/tasks/{id}")).await.json();
    h.succeed(&id, "1").await;
    let tree = h.get(&format!("/v1/tasks/{id}/tree")).await.json();
    let mut seen =
        vec![before, tree.clone(), h.get(&format!("/v1/tasks?root={id}")).await.json(), h.get("/v1/tasks").await.json()];
    let nodes = tree["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3, "{tree:#}");
    for node in nodes {
        let task = node["id"].as_str().unwrap();
        for part in ["", "/explain", "/events", "/attempts", "/tree?format=dot", "/tree?format=mermaid"] {
            let reply = h.get(&format!("/v1/tasks/{task}{part}")).await;
            seen.push(Value::String(String::from_utf8(reply.bytes.to_vec()).unwrap()));
        }
        if node["kind"] != "root" {
            let again = h.post(&format!("/v1/tasks/{task}/replay"), "").await.json();
            seen.push(h.get(&format!("/v1/tasks/{}", again["id"].as_str().unwrap())).await.json());
        }
    }
    for shown in &seen {
        assert!(!shown.to_string().contains("SEKRIT"), "{shown:#}");
    }
    assert!(seen[1].to_string().contains("http://a.example/told") && seen[2].to_string().contains("http://b.example/next"));
    // The address of a task is what its user gave.
    let own = h.submit(r#"{"url":"http://a.example/?q=1","payload":1}"#).await;
    assert_eq!(h.get(&format!("/v1/tasks/{own}")).await.json()["url"], "http://a.example/?q=1");
}

#[tokio::test]
async fn a_replay_hides_what_was_hidden() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"t","args":["SEKRIT"],"redact":["/args/0"]}"#).await;
    for edits in [r#"{"redact":null}"#, r#"{"redact":[]}"#, r#"{"redact":["/result"]}"#] {
        let again = h.post(&format!("/v1/tasks/{id}/replay"), format!(r#"{{"edits":{edits}}}"#)).await.json();
        let record = h.get(&format!("/v1/tasks/{}", again["id"].as_str().unwrap())).await.json();
        assert_eq!(record["args"], json!(["[redacted]"]), "{edits}");
    }
}

#[tokio::test]
async fn a_record_shows_what_was_asked_for() {
    let h = Harness::new();
    let id = h
        .submit(
            r#"{"task":"t","unique":{"key":"k"},"result_ttl":"1h","redact":["/kwargs/p"],"link":{"task":"next","args":[1]},
            "callbacks":{"on_terminal":"http://a.example/told?token=secret"}}"#,
        )
        .await;
    let record = h.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!((&record["unique"]["key"], &record["result_ttl"]), (&json!("k"), &json!("1h")));
    assert_eq!(record["link"], json!([{"task": "next", "queue": "default", "args": [1], "kwargs": {}}]));
    assert_eq!(record["callback_urls"], json!({"on_terminal": "http://a.example/told"}));
    assert_eq!(record["redact"], json!(["/kwargs/p"]));
    let listed = h.get("/v1/tasks").await.json()["items"][0].clone();
    assert_eq!((&listed["unique"]["key"], listed.get("link")), (&json!("k"), None));
}

#[tokio::test]
async fn a_patch_that_changes_nothing_is_no_change() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"t","priority":4,"labels":{"a":"b"},"eta":"2030-01-01T00:00:00Z"}"#).await;
    let path = format!("/v1/tasks/{id}");
    let patch = async |body: &'static str| h.call(Method::PATCH, &path, &[JSON], body).await;
    for body in [
        "{}",
        r#"{"priority":4}"#,
        r#"{"priority":null,"queue":"default","retry":null,"expires_at":null}"#,
        r#"{"labels":{"a":"b"},"eta":"2030-01-01T00:00:00Z"}"#,
    ] {
        let reply = patch(body).await;
        assert_eq!((reply.status.as_u16(), reply.header("etag"), &reply.json()["version"]), (200, "\"1\"", &json!(1)), "{body}");
    }
    let told = h.post("/v1/tasks:patch", json!({"ids": [id], "patch": {"priority": 4}}).to_string()).await.json();
    assert_eq!((&told["matched"], &told["changed"], &told["failed"]), (&json!(1), &json!(0), &json!(0)));
    assert_eq!(patch(r#"{"priority":5}"#).await.header("etag"), "\"2\"");
    // A precondition counts even so.
    h.call(Method::PATCH, &path, &[JSON, ("if-match", "\"1\"")], "{}").await.is_problem(Code::VersionMismatch);
}

#[tokio::test]
async fn verbs_obey_preconditions() {
    let h = Harness::new();
    for verb in ["cancel", "run", "retry", "hold", "release"] {
        let id = h.submit(r#"{"task":"t","delay":"1h"}"#).await;
        let path = format!("/v1/tasks/{id}/{verb}");
        h.post_with(&path, &[("if-match", "\"7\"")], "").await.is_problem(Code::VersionMismatch);
        assert_eq!(h.get(&format!("/v1/tasks/{id}")).await.header("etag"), "\"1\"", "{verb}");
        let status = h.post_with(&path, &[("if-match", "\"1\"")], "").await.status;
        assert_eq!(status, if verb == "retry" { 409 } else { 200 }, "{verb}");
    }
    let id = h.submit(r#"{"task":"t"}"#).await;
    h.succeed(&id, "1").await;
    let etag = h.get(&format!("/v1/tasks/{id}")).await.header("etag").to_owned();
    for path in [format!("/v1/tasks/{id}/result"), format!("/v1/tasks/{id}")] {
        h.call(Method::DELETE, &path, &[("if-match", "\"1\"")], "").await.is_problem(Code::VersionMismatch);
    }
    let gone = h.call(Method::DELETE, &format!("/v1/tasks/{id}"), &[("if-match", &etag)], "").await;
    assert_eq!(gone.status, 204);
    h.call(Method::DELETE, &format!("/v1/tasks/{id}"), &[("if-match", &etag)], "").await.is_problem(Code::TaskUnknown);
}

#[tokio::test]
async fn what_would_be_passed_over_is_refused() {
    let h = Harness::new();
    let worker = r#"{"url":"http://a.example","tasks":["t"]}"#;
    h.call(Method::PUT, "/v1/workers/w", &[JSON], worker).await;
    for path in ["/v1/workers/w/rotate-secret", "/v1/signing-keys/rotate"] {
        h.post(path, r#"{"secret":"whsec_x"}"#).await.is_problem(Code::UnknownField);
        h.post(path, "{").await.is_problem(Code::Malformed);
        for nothing in ["{}", "null", ""] {
            assert_eq!(h.post(path, nothing).await.status, 200, "{path} {nothing}");
        }
        assert_eq!(h.call(Method::POST, path, &[], "").await.status, 200, "{path}");
    }
    h.post_with("/v1/workers/w/rotate-secret", &[("if-match", "\"1\"")], "").await.is_problem(Code::VersionMismatch);
    for field in [
        r#""concurrency":3"#,
        r#""headers":{"X-Key":"v"}"#,
        r#""async":true"#,
        r#""breaker":{}"#,
        r#""batch":{"max":2}"#,
        r#""status_map":"qstash""#,
    ] {
        let body = format!(r#"{{"pull":true,"tasks":["p"],{field}}}"#);
        let problem = h.call(Method::PUT, "/v1/workers/p", &[JSON], body).await.is_problem(Code::InvalidField);
        let name = field.split('"').nth(1).unwrap();
        assert_eq!(problem["errors"][0]["pointer"], format!("/{name}"), "{problem}");
    }
    let plain = r#"{"pull":true,"tasks":["p"],"async":false,"batch":null,"cancel_grace":"1s","control_url":"http://a.example"}"#;
    assert_eq!(h.call(Method::PUT, "/v1/workers/p", &[JSON], plain).await.status, 201);
    let problem = h.post("/v1/tasks", r#"{"url":"http://a.example","batch":{"key":"k"}}"#).await.is_problem(Code::InvalidField);
    assert_eq!(problem["errors"][0]["pointer"], "/batch");
}

#[tokio::test]
async fn public_routes_do_not_look_at_keys() {
    let h =
        Harness::with(lovage_gateway::GatewayOptions { auth: Auth::Keys(Arc::new(AdminKeys::new(["k"]))), ..options() }, |_| ());
    for value in ["Bearer wrong", "Bearer", "Basic x", "é"] {
        for path in ["/", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/errors/malformed"] {
            let reply = h.call(Method::GET, path, &[("authorization", value)], "").await;
            assert_eq!(reply.status, 200, "{path} {value}");
        }
        h.call(Method::GET, "/v1/tasks", &[("authorization", value)], "").await.is_problem(Code::Unauthenticated);
    }
}
