//! Lists, parts, cancel and deletion of tasks.

use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use lovage_core::problem::Code;
use lovage_core::{Event, Ns, Outcome, TaskError, TaskId, TaskKey};
use lovage_store::Store;
use serde_json::{Value, json};

use crate::harness::{Harness, options};

fn permanent(kind: &str) -> Outcome {
    Outcome::Permanent { error: TaskError::new(kind, "it broke") }
}

#[tokio::test]
async fn payloads_are_given_back_as_they_came() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a","payload": {"b" :1.00, "a":[ ]} }"#).await;
    let reply = h.get(&format!("/v1/tasks/{id}/payload")).await;
    assert_eq!((&reply.bytes[..], reply.header("content-type")), (&br#"{"b" :1.00, "a":[ ]}"#[..], "application/json"));
    let id = h.submit(r#"{"task":"a","args":[1]}"#).await;
    assert_eq!(h.get(&format!("/v1/tasks/{id}/payload")).await.json(), json!({"args": [1], "kwargs": {}}));
    let raw = h.call(Method::POST, "/v1/tasks", &[("lovage-task", "a"), ("content-type", "text/html")], vec![0, 159, 146]).await;
    let reply = h.get(&format!("/v1/tasks/{}/payload", raw.json()["id"].as_str().unwrap())).await;
    assert_eq!((&reply.bytes[..], reply.header("content-type")), (&[0, 159, 146][..], "text/html"));
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert!(reply.header("content-security-policy").contains("sandbox"));
    h.get("/v1/tasks/none/payload").await.is_problem(Code::TaskUnknown);
}

#[tokio::test]
async fn results_have_the_statuses_of_the_contract() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a"}"#).await;
    let path = format!("/v1/tasks/{id}/result");
    let waiting = h.get(&path).await;
    assert_eq!((waiting.status.as_u16(), waiting.header("retry-after")), (202, "1"));
    h.finish(&id, Outcome::Success { content_type: Some("image/png".into()), body: Some(Bytes::from_static(&[1, 2])) }).await;
    let reply = h.get(&path).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type"), &reply.bytes[..]), (200, "image/png", &[1, 2][..]));
    assert_eq!(h.get(&format!("/v1/tasks/{id}")).await.json().get("result"), None, "only JSON is inlined");
    h.clock.advance(Duration::from_secs(24 * 3600 + 1));
    h.get(&path).await.is_problem(Code::ResultExpired);

    let null = h.submit(r#"{"task":"a","id":"null"}"#).await;
    h.succeed(&null, " null ").await;
    assert_eq!(h.get("/v1/tasks/null/result").await.status, 204);
    let ignored = h.submit(r#"{"task":"a","id":"ignored","ignore_result":true}"#).await;
    h.succeed(&ignored, "1").await;
    assert_eq!(h.get("/v1/tasks/ignored/result").await.status, 204);

    h.submit(r#"{"task":"a","id":"bad"}"#).await;
    h.finish("bad", permanent("ValueError")).await;
    let problem = h.get("/v1/tasks/bad/result").await.is_problem(Code::TaskFailed);
    assert_eq!(problem["state"], "failed");
    assert!(problem["detail"].as_str().unwrap().contains("ValueError: it broke"));
    h.submit(r#"{"task":"a","id":"off"}"#).await;
    h.happen("off", Event::Cancel { hard: false, reason: lovage_core::Reason::Requested, grace: std::time::Duration::ZERO })
        .await;
    h.get("/v1/tasks/off/result").await.is_problem(Code::TaskCanceled);
    h.submit(r#"{"task":"a","id":"late","expires_in":1}"#).await;
    h.clock.advance(Duration::from_secs(2));
    h.happen("late", Event::Due).await;
    h.get("/v1/tasks/late/result").await.is_problem(Code::TaskExpired);
}

#[tokio::test]
async fn attempts_are_listed_with_the_open_one() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a","retry":{"backoff":"fixed","min":"0s","jitter":"none"}}"#).await;
    let path = format!("/v1/tasks/{id}/attempts");
    assert_eq!(h.get(&path).await.json(), json!({"items": [], "next_cursor": null}));
    let error = TaskError::new("Flaky", "again").with_status(500);
    h.finish(&id, Outcome::Retry { after: None, error }).await;
    h.happen(&id, Event::Due).await;
    h.start(&id).await;
    let items = h.get(&path).await.json()["items"].clone();
    assert_eq!(
        (&items[0]["attempt"], &items[0]["error"]["type"], &items[0]["status"]),
        (&json!(1), &json!("Flaky"), &json!(500))
    );
    assert_eq!((&items[1]["attempt"], &items[1]["outcome"], &items[1]["ended_at"]), (&json!(2), &json!("running"), &Value::Null));
    let first = h.submit(r#"{"task":"a"}"#).await;
    h.succeed(&first, "1").await;
    let items = h.get(&format!("/v1/tasks/{first}/attempts")).await.json()["items"].clone();
    assert_eq!((items.as_array().unwrap().len(), &items[0]["outcome"]), (1, &json!("succeeded")));
}

#[tokio::test]
async fn cancel_goes_through_the_rules() {
    let h = Harness::new();
    let callbacks = r#"{"task":"a","id":"c","callbacks":{"on_terminal":"http://a.example/done"}}"#;
    h.submit(callbacks).await;
    let reply = h.call(Method::POST, "/v1/tasks/c/cancel", &[], "").await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["state"], &reply.json()["reason"]),
        (200, &json!("canceled"), &json!("requested"))
    );
    let problem = h.post("/v1/tasks/c/cancel", "{}").await.is_problem(Code::WrongState);
    assert_eq!(problem["state"], "canceled");
    let spawned = h.get("/v1/tasks?queue=callbacks").await.json();
    assert_eq!(spawned["items"][0]["callback"], "terminal");
    assert_eq!(spawned["items"][0]["parent"], "c");
    assert_eq!(h.get("/v1/tasks?root=c").await.json()["items"][0]["id"], spawned["items"][0]["id"]);

    h.submit(r#"{"task":"a","id":"r"}"#).await;
    h.start("r").await;
    for (body, hard) in [("{}", false), (r#"{"mode":"soft","cascade":true}"#, false), (r#"{"mode":"hard"}"#, true)] {
        let reply = h.post("/v1/tasks/r/cancel", body).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["reason"]), (202, &json!("canceling")), "{body}");
        let key = TaskKey::new(Ns::DEFAULT, TaskId::parse("r").unwrap());
        let p = key.slot().partition(2);
        let head = h.store.heads(p, &[key]).await.unwrap().pop().unwrap().unwrap();
        assert_eq!(head.flags.has(lovage_core::Flags::HARD), hard);
    }
    h.post("/v1/tasks/r/cancel", r#"{"mode":"gently"}"#).await.is_problem(Code::InvalidField);
    h.post("/v1/tasks/r/cancel", r#"{"node":1}"#).await.is_problem(Code::UnknownField);
    h.post("/v1/tasks/none/cancel", "{}").await.is_problem(Code::TaskUnknown);
}

#[tokio::test]
async fn only_final_tasks_are_deleted() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a"}"#).await;
    let path = format!("/v1/tasks/{id}");
    h.call(Method::DELETE, &path, &[], "").await.is_problem(Code::WrongState);
    h.succeed(&id, "1").await;
    assert_eq!(h.call(Method::DELETE, &path, &[], "").await.status, 204);
    h.call(Method::DELETE, &path, &[], "").await.is_problem(Code::TaskUnknown);
}

async fn ids(h: &Harness, query: &str) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    for _ in 0..1000 {
        let reply = h.get(&format!("/v1/tasks?{query}{cursor}")).await;
        assert_eq!(reply.status, 200, "{:?}", reply.bytes);
        let page = reply.json();
        ids.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        if let Some(next) = page["next_cursor"].as_str() {
            cursor = format!("&cursor={next}");
        } else {
            ids.sort_unstable();
            return ids;
        }
    }
    panic!("the list does not end");
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let mut options = options();
    options.limits.list_scan = 7;
    let h = Harness::with(options, |memory| memory.partitions = 3);
    for n in 0..30 {
        let queue = if n % 2 == 0 { "even" } else { "odd" };
        let body =
            format!(r#"{{"task":"t{}","id":"n{n:02}","queue":"{queue}","labels":{{"k":"{}","all":"x:y"}}}}"#, n % 3, n % 5);
        h.submit(&body).await;
        h.clock.advance(Duration::from_secs(1));
    }
    for id in ["n03", "n06"] {
        h.finish(id, permanent(if id == "n03" { "KeyError" } else { "ValueError" })).await;
    }
    h.succeed("n09", "1").await;
    let all: Vec<String> = (0..30).map(|n| format!("n{n:02}")).collect();
    let some =
        |pick: &dyn Fn(usize) -> bool| -> Vec<String> { (0..30).filter(|n| pick(*n)).map(|n| format!("n{n:02}")).collect() };
    for limit in [1, 4, 1000] {
        let ids = async |query: &str| ids(&h, &format!("limit={limit}{query}")).await;
        assert_eq!(ids("").await, all);
        assert_eq!(ids("&task=t1").await, some(&|n| n % 3 == 1));
        assert_eq!(ids("&queue=odd&label=k:2").await, some(&|n| n % 2 == 1 && n % 5 == 2));
        assert_eq!(ids("&label=k:2&label=all:x:y").await, some(&|n| n % 5 == 2));
        assert_eq!(ids("&label=k:2&label=k:3").await, some(&|_| false));
        assert_eq!(ids("&state=failed").await, ["n03", "n06"]);
        assert_eq!(ids("&state=failed&state=succeeded").await, ["n03", "n06", "n09"]);
        assert_eq!(ids("&dead").await, ["n03", "n06"]);
        assert_eq!(ids("&dead=false&state=failed").await, some(&|_| false));
        assert_eq!(ids("&error_type=KeyError").await, ["n03"]);
        assert_eq!(ids("&worker=w").await, ["n03", "n06", "n09"]);
        assert_eq!(ids("&created_after=2027-01-15T08:00:10Z&created_before=2027-01-15T08:00:12Z").await, ["n10", "n11"]);
    }
    let failed = h.get("/v1/tasks?error_type=KeyError&limit=1000").await.json();
    let shown = failed["items"].as_array().unwrap();
    assert!(shown.iter().all(|item| item["error"]["type"] == "KeyError"));
}

#[tokio::test]
async fn bad_lists_are_refused() {
    let h = Harness::new();
    for (query, code, pointer) in [
        ("limit=0", Code::InvalidField, "/limit"),
        ("limit=1001", Code::InvalidField, "/limit"),
        ("limit=x", Code::InvalidField, "/limit"),
        ("state=sleeping", Code::InvalidField, "/state"),
        ("label=novalue", Code::InvalidField, "/label"),
        ("created_after=yesterday", Code::InvalidField, "/created_after"),
        ("root=a%20b", Code::InvalidField, "/root"),
        ("dead=perhaps", Code::InvalidField, "/dead"),
        ("workflow=w", Code::InvalidField, "/workflow"),
        ("schedule=s", Code::InvalidField, "/schedule"),
        ("colour=red", Code::UnknownField, "/colour"),
    ] {
        let problem = h.get(&format!("/v1/tasks?{query}")).await.is_problem(code);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}");
    }
    for cursor in ["x", "", "AAAAAAAAAA", "%F0%9F"] {
        let reply = h.get(&format!("/v1/tasks?cursor={cursor}")).await;
        assert_eq!(reply.status, 400, "{cursor}: {:?}", reply.bytes);
    }
}
