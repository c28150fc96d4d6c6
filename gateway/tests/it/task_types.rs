//! Task types over the memory store.

use axum::http::Method;
use lovage_core::Ns;
use lovage_core::problem::Code;
use lovage_store::{DocGuard, DocKind, DocPut, Store};
use serde_json::{Value, json};

use crate::harness::{Harness, Reply, options, until};

async fn put(h: &Harness, pattern: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut all = vec![("content-type", "application/json")];
    all.extend(headers);
    h.call(Method::PUT, &format!("/v1/task-types/{pattern}"), &all, body.to_owned()).await
}

async fn queue(h: &Harness, body: &str) -> Value {
    let id = h.submit(body).await;
    h.get(&format!("/v1/tasks/{id}")).await.json()["queue"].clone()
}

#[tokio::test]
async fn a_type_is_stored_as_it_was_given() {
    let h = Harness::new();
    let made = put(&h, "images.*", &[], r#"{"queue":"q","retry":{"factor":2.50},"priority":null}"#).await;
    assert_eq!((made.status.as_u16(), made.header("etag")), (201, "\"1\""));
    let expected = r#"{"pattern":"images.*","queue":"q","retry":{"factor":2.50},"version":1}"#;
    assert_eq!(made.bytes, expected);
    let shown = h.get("/v1/task-types/images.%2A").await;
    assert_eq!((shown.bytes.clone(), shown.header("etag")), (made.bytes.clone(), "\"1\""));
    let patch = [("content-type", "application/json"), ("if-match", "\"1\"")];
    let changed = h.call(Method::PATCH, "/v1/task-types/images.*", &patch, r#"{"queue":null,"priority":9}"#).await;
    assert_eq!(changed.json(), json!({"pattern": "images.*", "retry": {"factor": 2.5}, "priority": 9, "version": 2}));
    h.call(Method::PATCH, "/v1/task-types/images.*", &patch, "{}").await.is_problem(Code::VersionMismatch);
    put(&h, "images.*", &[("if-none-match", "*")], "{}").await.is_problem(Code::VersionMismatch);
    assert_eq!(put(&h, "images.*", &[], "{}").await.bytes, r#"{"pattern":"images.*","version":3}"#);
    put(&h, "a%2Fb%25", &[], "{}").await;
    assert_eq!(h.get("/v1/task-types?limit=1").await.json()["items"][0]["pattern"], "a/b%");
    assert_eq!(h.call(Method::DELETE, "/v1/task-types/a%2Fb%25", &[], "").await.status, 204);
    for (method, body) in [(Method::GET, ""), (Method::PATCH, "{}"), (Method::DELETE, "")] {
        let reply = h.call(method, "/v1/task-types/a%2Fb%25", &[("content-type", "application/json")], body).await;
        reply.is_problem(Code::TaskTypeUnknown);
    }
    put(&h, "no%20good", &[], "{}").await.is_problem(Code::InvalidField);
    put(&h, "a", &[], r#"{"rate":"0/s"}"#).await.is_problem(Code::InvalidField);
}

#[tokio::test]
async fn every_way_in_knows_the_types() {
    let h = Harness::new();
    put(&h, "a", &[], r#"{"queue":"q","args_schema":{"properties":{"args":{"maxItems":1}}}}"#).await;
    assert_eq!(queue(&h, r#"{"task":"a"}"#).await, "q");
    assert_eq!(queue(&h, r#"{"task":"a","queue":"mine"}"#).await, "mine");
    let raw = h.call(Method::POST, "/v1/tasks", &[("lovage-task", "a"), ("content-type", "text/plain")], "x").await;
    assert_eq!(raw.is_problem(Code::ArgumentsRefused)["errors"][0]["pointer"], "/payload");
    let bad = r#"{"task":"a","args":[1,2]}"#;
    assert_eq!(h.post("/v1/tasks", bad).await.is_problem(Code::ArgumentsRefused)["errors"][0]["pointer"], "/args");
    let items = h.post("/v1/tasks:batch", format!(r#"[{{"task":"a"}},{bad}]"#)).await.json()["items"].clone();
    assert_eq!((&items[0]["status"], &items[1]["problem"]["code"]), (&json!(202), &json!("arguments_refused")));
    let atomic = h.post("/v1/tasks:batch?atomic=true", format!("[{bad}]")).await.is_problem(Code::ArgumentsRefused);
    assert_eq!(atomic["errors"][0]["pointer"], "/0/args");
    let lines = [("content-type", "application/x-ndjson")];
    let reply = h.call(Method::POST, "/v1/tasks:batch", &lines, format!("{bad}\n{{\"task\":\"a\"}}\n")).await;
    let statuses: Vec<Value> = String::from_utf8_lossy(&reply.bytes)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].clone())
        .collect();
    assert_eq!(statuses, [422, 202]);
    assert_eq!(h.get("/v1/queues/q").await.status, 200, "the queue is made");
}

#[tokio::test]
async fn a_change_elsewhere_is_noticed_and_a_type_that_cannot_be_read_is_left_out() {
    let h = Harness::new();
    assert_eq!(queue(&h, r#"{"task":"a"}"#).await, "default");
    let write = async |bytes: Option<&'static [u8]>| {
        let put = DocPut {
            kind: DocKind::TaskType,
            ns: Ns::DEFAULT,
            name: "a".into(),
            guard: DocGuard::Any,
            bytes: bytes.map(Into::into),
        };
        h.store.put_docs(vec![put]).await.unwrap();
    };
    for (bytes, expected) in [(Some(&br#"{"queue":"q"}"#[..]), "q"), (Some(b"{"), "default"), (Some(br#"{"queue":"r"}"#), "r")] {
        write(bytes).await;
        until(expected, async || queue(&h, r#"{"task":"a"}"#).await == expected).await;
    }
    write(None).await;
    until("no type", async || queue(&h, r#"{"task":"a"}"#).await == "default").await;
}

#[tokio::test]
async fn the_first_submit_waits_for_the_types() {
    let h = Harness::new();
    // Nothing was awaited yet, so the readers have not run.
    h.faulty.set_away(true);
    h.post("/v1/tasks", r#"{"task":"a"}"#).await.is_problem(Code::StoreUnavailable);
    h.faulty.heal();
    put(&h, "a", &[], r#"{"queue":"q"}"#).await;
    assert_eq!(queue(&h, r#"{"task":"a"}"#).await, "q");
}

#[tokio::test]
async fn the_number_of_types_is_bounded() {
    let mut few = options();
    few.limits.task_types = 2;
    let h = Harness::with(few, |_| ());
    for pattern in ["a", "b"] {
        assert_eq!(put(&h, pattern, &[], "{}").await.status, 201);
    }
    put(&h, "c", &[], "{}").await.is_problem(Code::QuotaExceeded);
    assert_eq!(put(&h, "b", &[], r#"{"priority":1}"#).await.status, 200);
    h.call(Method::DELETE, "/v1/task-types/a", &[], "").await;
    assert_eq!(put(&h, "c", &[], "{}").await.status, 201);
}

#[tokio::test]
async fn a_stricter_schema_does_not_refuse_a_repetition() {
    let h = Harness::new();
    let (stored, other) = (r#"{"id":"mine","task":"a","args":[1]}"#, r#"{"id":"new","task":"a","args":[1]}"#);
    let without = r#"{"task":"a","args":[1]}"#;
    let (key, batch) = ([("idempotency-key", "k")], [("idempotency-key", "b")]);
    let atomic = "/v1/tasks:batch?atomic=true";
    h.submit(stored).await;
    let id = h.post_with("/v1/tasks", &key, without).await.json()["id"].clone();
    assert_eq!(h.post_with(atomic, &batch, format!("[{without}]")).await.status, 200);
    put(&h, "a", &[], r#"{"args_schema":{"properties":{"args":{"maxItems":0}}}}"#).await;

    let again = h.post("/v1/tasks", stored).await;
    assert_eq!((again.status.as_u16(), &again.json()["id"]), (200, &json!("mine")));
    let again = h.post_with("/v1/tasks", &key, without).await;
    assert_eq!((again.status.as_u16(), &again.json()["id"]), (200, &id));
    assert_eq!(h.post_with(atomic, &batch, format!("[{without}]")).await.header("idempotency-replayed"), "true");
    let statuses = |items: &Value| items.as_array().unwrap().iter().map(|item| item["status"].clone()).collect::<Vec<_>>();
    let items = h.post("/v1/tasks:batch", format!("[{stored},{other}]")).await.json()["items"].clone();
    assert_eq!(statuses(&items), [200, 422]);
    let items = h.post(atomic, format!("[{stored}]")).await.json()["items"].clone();
    assert_eq!(statuses(&items), [200]);
    let lines = [("content-type", "application/x-ndjson")];
    let reply = h.call(Method::POST, "/v1/tasks:batch", &lines, stored).await;
    assert_eq!(serde_json::from_slice::<Value>(&reply.bytes).unwrap()["status"], 200);

    h.post("/v1/tasks", other).await.is_problem(Code::ArgumentsRefused);
    h.post("/v1/tasks", without).await.is_problem(Code::ArgumentsRefused);
    h.post_with("/v1/tasks", &[("idempotency-key", "new")], without).await.is_problem(Code::ArgumentsRefused);
    h.post_with(atomic, &[("idempotency-key", "new")], format!("[{without}]")).await.is_problem(Code::ArgumentsRefused);
    h.post("/v1/tasks?dry_run=true", stored).await.is_problem(Code::ArgumentsRefused);
}

#[tokio::test]
async fn a_patch_with_null_gives_what_the_type_says() {
    let h = Harness::new();
    put(&h, "mail", &[], r#"{"queue":"post","priority":7,"labels":{"team":"a"},"retry":{"max_attempts":3}}"#).await;
    let nulls = r#"{"queue":null,"priority":null,"labels":null,"retry":null}"#;
    let given = r#"{"task":"TASK","queue":"other","priority":1,"labels":{"x":"y"},"retry":{"max_attempts":9}}"#;
    let shown = |record: &Value| json!([record["queue"], record["priority"], record["labels"], record["retry"]]);
    for (task, expected) in
        [("mail", json!(["post", 7, {"team": "a"}, {"max_attempts": 3}])), ("free", json!(["default", 4, {}, {}]))]
    {
        let [one, many] = [h.submit(&given.replace("TASK", task)).await, h.submit(&given.replace("TASK", task)).await];
        let reply = h.call(Method::PATCH, &format!("/v1/tasks/{one}"), &[("content-type", "application/json")], nulls).await;
        assert_eq!(shown(&reply.json()), expected, "{task}");
        h.post("/v1/tasks:patch", format!(r#"{{"ids":["{many}"],"patch":{nulls}}}"#)).await;
        assert_eq!(shown(&h.get(&format!("/v1/tasks/{many}")).await.json()), expected, "{task} in bulk");
    }
    assert_eq!(h.get("/v1/queues/post").await.status, 200);
}
