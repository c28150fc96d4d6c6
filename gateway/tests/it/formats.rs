//! Signatures in MessagePack and YAML are what the same signatures in JSON are.

use axum::http::Method;
use lovage_core::problem::Code;
use serde_json::{Value, json};

use crate::harness::{Harness, Reply, options};
use crate::malformed::{SIGNATURES, pointers};

const MSGPACK: &str = "application/msgpack";
const YAML: &str = "application/yaml";

async fn send(h: &Harness, path: &str, format: &str, body: impl Into<axum::body::Body>) -> Reply {
    h.call(Method::POST, path, &[("content-type", format)], body).await
}

fn pack(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap()
}

#[tokio::test]
async fn every_format_makes_the_same_task() {
    let h = Harness::new();
    let signature = |id: &str| {
        json!({"id": id, "task": "a", "args": [1, "\u{e4}", null, 1.5], "kwargs": {"k": {"deep": []}},
        "priority": 7, "delay": "1h", "labels": {"team": "x"}})
    };
    assert_eq!(h.post("/v1/tasks", signature("json").to_string()).await.status, 202);
    for name in [MSGPACK, "application/vnd.msgpack", "application/x-msgpack"] {
        assert!(send(&h, "/v1/tasks", name, pack(&signature("msgpack"))).await.status.is_success(), "{name}");
    }
    let yaml =
        "id: yaml\ntask: a\nargs: [1, \u{e4}, ~, 1.5]\nkwargs:\n  k: {deep: []}\npriority: 7\ndelay: 1h\nlabels:\n  team: x\n";
    for name in [YAML, "application/x-yaml", "text/yaml; charset=utf-8"] {
        assert!(send(&h, "/v1/tasks", name, yaml).await.status.is_success(), "{name}");
    }
    let expected = h.get("/v1/tasks/json").await.json();
    for id in ["msgpack", "yaml"] {
        let record = h.get(&format!("/v1/tasks/{id}")).await.json();
        for field in ["task", "args", "kwargs", "priority", "due_at", "labels", "state"] {
            assert_eq!(record[field], expected[field], "{id}.{field}");
        }
    }
}

#[tokio::test]
async fn a_payload_is_stored_as_json() {
    let h = Harness::new();
    send(&h, "/v1/tasks", YAML, "{id: p, task: a, payload: {big: 123456789012345678901, f: 1.50, s: \"\\t\"}}").await;
    let kept = h.get("/v1/tasks/p/payload").await;
    assert_eq!(kept.header("content-type"), "application/json");
    assert_eq!(kept.bytes, r#"{"big":123456789012345678901,"f":1.50,"s":"\t"}"#);
}

#[tokio::test]
async fn refusals_are_those_of_json() {
    let h = Harness::new();
    for (body, code, expected) in SIGNATURES {
        // What is no JSON has no MessagePack either, and a value in memory has each field once.
        let Ok(value) = serde_json::from_str::<Value>(body) else { continue };
        if body.matches("\"task\":").count() > 1 {
            continue;
        }
        for (format, body) in [(MSGPACK, pack(&value)), (YAML, value.to_string().into_bytes())] {
            let problem = send(&h, "/v1/tasks", format, body).await.is_problem(*code);
            assert_eq!(pointers(&problem), *expected, "{format}: {value}");
        }
    }
}

#[tokio::test]
async fn what_json_does_not_have_is_refused_with_its_place() {
    let h = Harness::new();
    let binary = [b"\x82\xa4task\xa1a\xa7payload\x81\xa4file\xc4\x02hi".as_slice()].concat();
    let problem = send(&h, "/v1/tasks", MSGPACK, binary).await.is_problem(Code::InvalidField);
    assert_eq!(pointers(&problem), ["/payload/file"]);
    assert!(problem["detail"].as_str().unwrap().contains("binary"), "{problem}");
    for (yaml, pointer) in [
        ("{task: a, payload: !!python/object/apply:os.system ['true']}", "/payload"),
        ("{task: a, args: [&x [1], *x]}", "/args/1"),
        ("{task: a, kwargs: {1: 2}}", "/kwargs"),
        ("{task: a, task: b}", "/task"),
        ("{task: a, payload: .nan}", "/payload"),
    ] {
        let problem = send(&h, "/v1/tasks", YAML, yaml).await.is_problem(Code::InvalidField);
        assert_eq!(pointers(&problem), [pointer], "{yaml}");
    }
    send(&h, "/v1/tasks", YAML, "{").await.is_problem(Code::Malformed);
    send(&h, "/v1/tasks", MSGPACK, "").await.is_problem(Code::Malformed);
    send(&h, "/v1/tasks", "application/cbor", "").await.is_problem(Code::ContentTypeRefused);
    assert!(h.get("/v1/tasks").await.json()["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn arrays_come_in_every_format() {
    let mut options = options();
    options.limits.array_items = 3;
    let h = Harness::with(options, |memory| memory.partitions = 1);
    let items = json!([{"task": "a", "id": "x"}, {"task": "a", "priority": 99}]);
    let yaml = "- {task: a, id: x}\n- task: a\n  priority: 99\n";
    for (format, body) in [(MSGPACK, pack(&items)), (YAML, yaml.into())] {
        let reply = send(&h, "/v1/tasks:batch", format, body).await.json();
        assert_eq!(reply["items"][1]["problem"]["errors"][0]["pointer"], "/priority", "{reply}");
        let id = reply["items"][0]["id"].as_str().unwrap();
        assert_eq!(id, "x");
        let four = pack(&json!([{"task": "a"}, {"task": "a"}, {"task": "a"}, {"task": "a"}]));
        send(&h, "/v1/tasks:batch", MSGPACK, four).await.is_problem(Code::PayloadTooLarge);
    }
    let problem = send(&h, "/v1/tasks:batch?atomic=true", YAML, "[{task: a}, {task: [b]}]").await.is_problem(Code::InvalidField);
    assert_eq!(pointers(&problem), ["/1/task"]);
    // What cannot be read at all is refused with the whole array.
    let problem = send(&h, "/v1/tasks:batch", YAML, "[{task: a}, {task: !b c}]").await.is_problem(Code::InvalidField);
    assert_eq!(pointers(&problem), ["/1/task"]);
}

#[tokio::test]
async fn a_key_and_an_id_know_the_same_request_again() {
    let h = Harness::new();
    let body = pack(&json!({"task": "a"}));
    let headers = [("content-type", MSGPACK), ("idempotency-key", "k")];
    let first = h.call(Method::POST, "/v1/tasks", &headers, body.clone()).await.json();
    let again = h.call(Method::POST, "/v1/tasks", &headers, body).await;
    assert_eq!((again.status.as_u16(), &again.json()["id"]), (200, &first["id"]));
    let other = pack(&json!({"task": "b"}));
    h.call(Method::POST, "/v1/tasks", &headers, other).await.is_problem(Code::IdempotencyMismatch);
    // It is the text that counts, whichever way it came.
    assert_eq!(h.post("/v1/tasks", r#"{"id":"one","task":"a"}"#).await.status, 202);
    assert_eq!(send(&h, "/v1/tasks", YAML, "id: one\ntask: a").await.status, 200);
    send(&h, "/v1/tasks", YAML, "id: one\ntask: b").await.is_problem(Code::IdExists);
}
