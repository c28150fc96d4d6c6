//! Arrays and streams of tasks.

use axum::http::Method;
use lovage_core::problem::Code;
use serde_json::{Value, json};

use crate::harness::{Harness, options};

fn statuses(reply: &Value) -> Vec<u64> {
    reply["items"].as_array().unwrap().iter().map(|item| item["status"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn each_item_has_its_answer_in_order() {
    let h = Harness::new();
    h.submit(r#"{"id":"old","task":"a"}"#).await;
    let body =
        r#"[{"task":"a"},{"task":"b","id":"new"},{"id":"old","task":"a"},{"id":"old","task":"z"},{"tusk":1},3,{"task":"c"}]"#;
    let reply = h.post("/v1/tasks:batch", body).await;
    assert_eq!(reply.status, 200);
    let json = reply.json();
    assert_eq!(statuses(&json), [202, 202, 200, 409, 422, 422, 202]);
    assert_eq!(json["items"][1]["id"], "new");
    let problem = &json["items"][4]["problem"];
    assert_eq!(problem["errors"][0]["pointer"], "/tusk");
    assert!(problem["errors"][0]["message"].as_str().unwrap().contains("`task`"));
    assert_eq!(problem["request_id"], reply.header("x-request-id"));
    for item in [0, 1, 6] {
        let id = json["items"][item]["id"].as_str().unwrap();
        assert_eq!(h.get(&format!("/v1/tasks/{id}")).await.status, 200);
    }
}

#[tokio::test]
async fn generated_ids_of_an_array_share_a_partition_and_rise() {
    let h = Harness::with(options(), |memory| {
        memory.partitions = 7;
        memory.max_batch = 10;
    });
    let body = format!("[{}]", vec![r#"{"task":"a"}"#; 35].join(","));
    let json = h.post("/v1/tasks:batch", body).await.json();
    let ids: Vec<lovage_core::TaskId> =
        json["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(ids.len(), 35);
    assert!(ids.is_sorted());
    let slots: std::collections::HashSet<_> = ids.iter().map(|id| id.slot(lovage_core::Ns::DEFAULT)).collect();
    assert_eq!(slots.len(), 1);
}

#[tokio::test]
async fn atomic_is_all_or_nothing() {
    let h = Harness::with(options(), |memory| memory.partitions = 1);
    let refused = h.post("/v1/tasks:batch?atomic=true", r#"[{"id":"x","task":"a"},{"task":"a","queue":"no good"}]"#).await;
    assert_eq!(refused.is_problem(Code::InvalidField)["errors"][0]["pointer"], "/1/queue");
    assert_eq!(h.get("/v1/tasks/x").await.status, 404);

    h.submit(r#"{"id":"y","task":"a"}"#).await;
    let refused = h.post("/v1/tasks:batch?atomic=true", r#"[{"id":"x","task":"a"},{"id":"y","task":"other"}]"#).await;
    assert_eq!(refused.is_problem(Code::IdExists)["errors"][0]["pointer"], "/1");
    assert_eq!(h.get("/v1/tasks/x").await.status, 404);

    let body = r#"[{"id":"x","task":"a"},{"id":"y","task":"a"},{"task":"a"}]"#;
    let json = h.post("/v1/tasks:batch?atomic=true", body).await.json();
    assert_eq!(statuses(&json), [202, 200, 202]);
}

#[tokio::test]
async fn atomic_items_must_live_together() {
    let h = Harness::with(options(), |memory| memory.partitions = 16);
    let body =
        r#"[{"id":"order-1","task":"a"},{"id":"customer:77","task":"a"},{"id":"x.y.z","task":"a"},{"id":"2027-01","task":"a"}]"#;
    let refused = h.post("/v1/tasks:batch?atomic=true", body).await.is_problem(Code::InvalidField);
    assert!(refused["errors"][0]["pointer"].as_str().unwrap().ends_with("/id"));
}

#[tokio::test]
async fn a_repeated_batch_answers_the_same_ids() {
    let h = Harness::new();
    let body = r#"[{"task":"a"},{"id":"mine","task":"b"},{"bad":1},{"task":"c"}]"#;
    for path in ["/v1/tasks:batch"] {
        let first = h.post_with(path, &[("idempotency-key", "k")], body).await;
        let again = h.post_with(path, &[("idempotency-key", "k")], body).await;
        assert_eq!(again.header("idempotency-replayed"), "true");
        let (first, again) = (first.json(), again.json());
        assert_eq!(statuses(&first), [202, 202, 422, 202]);
        assert_eq!(statuses(&again), [200, 200, 422, 200]);
        for item in [0, 1, 3] {
            assert_eq!(first["items"][item]["id"], again["items"][item]["id"]);
        }
        h.post_with(path, &[("idempotency-key", "k")], r#"[{"task":"a"}]"#).await.is_problem(Code::IdempotencyMismatch);
    }
}

#[tokio::test]
async fn too_many_items_and_too_many_bytes_are_413() {
    let mut options = options();
    options.limits.array_items = 3;
    options.limits.array_bytes = 200;
    options.limits.task_bytes = 60;
    let h = Harness::with(options, |_| ());
    h.post("/v1/tasks:batch", r"[1,2,3,4]").await.is_problem(Code::PayloadTooLarge);
    h.post("/v1/tasks:batch", format!("[\"{}\"]", "x".repeat(300))).await.is_problem(Code::PayloadTooLarge);
    let long = format!(r#"[{{"task":"a"}},{{"task":"a","payload":"{}"}}]"#, "x".repeat(60));
    assert_eq!(statuses(&h.post("/v1/tasks:batch", long).await.json()), [202, 413]);
    h.post("/v1/tasks", format!(r#"{{"task":"a","payload":"{}"}}"#, "x".repeat(60))).await.is_problem(Code::PayloadTooLarge);
}

#[tokio::test]
async fn lines_are_answered_by_lines() {
    let h = Harness::new();
    let mut body = String::new();
    for n in 0..700 {
        let line = match n % 100 {
            50 => "{\"broken\n".to_owned(),
            60 => "{\"tosk\":1}\r\n\n".to_owned(),
            _ => format!("{{\"task\":\"a\",\"id\":\"t{n}\",\"args\":[{n}]}}\n"),
        };
        body.push_str(&line);
    }
    body.push_str(r#"{"task":"last"}"#);
    let reply = h.call(Method::POST, "/v1/tasks:batch", &[("content-type", "application/x-ndjson")], body).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/x-ndjson"));
    let text = String::from_utf8(reply.bytes.to_vec()).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 701);
    for (n, answer) in answers.iter().enumerate().take(700) {
        match n % 100 {
            50 => assert_eq!(answer["problem"]["code"], "malformed"),
            60 => assert_eq!(answer["problem"]["errors"][0]["pointer"], "/tosk"),
            _ => assert_eq!(answer, &json!({"status": 202, "id": format!("t{n}")})),
        }
    }
    assert_eq!(answers[700]["status"], 202);
}

#[tokio::test]
async fn streams_take_no_key_and_are_not_atomic() {
    let h = Harness::new();
    let lines = ("content-type", "application/x-ndjson");
    h.call(Method::POST, "/v1/tasks:batch?atomic=true", &[lines], "{}").await.is_problem(Code::InvalidField);
    h.call(Method::POST, "/v1/tasks:batch", &[lines, ("idempotency-key", "k")], "{}").await.is_problem(Code::InvalidField);
}

async fn keyed(h: &Harness, body: &str) -> crate::harness::Reply {
    h.post_with("/v1/tasks:batch", &[("idempotency-key", "k")], body.to_owned()).await
}

async fn delete(h: &Harness, id: &str) {
    h.post(&format!("/v1/tasks/{id}/cancel"), "").await;
    let gone = h.call(Method::DELETE, &format!("/v1/tasks/{id}"), &[], "").await;
    assert!(gone.status.is_success(), "{:?}", gone.bytes);
}

#[tokio::test]
async fn a_key_counts_for_a_batch_whose_items_all_have_ids() {
    let h = Harness::new();
    let body = r#"[{"id":"a","task":"x"},{"id":"b","task":"x"}]"#;
    assert_eq!(statuses(&keyed(&h, body).await.json()), [202, 202]);
    keyed(&h, r#"[{"id":"c","task":"x"}]"#).await.is_problem(Code::IdempotencyMismatch);
    assert_eq!(h.get("/v1/tasks/c").await.status, 404);
    delete(&h, "a").await;
    delete(&h, "b").await;
    let again = keyed(&h, body).await;
    assert_eq!((again.header("idempotency-replayed"), statuses(&again.json())), ("true", vec![200, 200]));
    assert_eq!(again.json()["items"][1]["id"], "b");
    assert_eq!(h.get("/v1/tasks/a").await.status, 404, "nothing was made");
}

#[tokio::test]
async fn what_a_batch_refused_is_refused_at_its_repetition() {
    let h = Harness::new();
    let types = ("/v1/task-types/typed", r#"{"args_schema":{"properties":{"args":{"maxItems":0}}}}"#);
    let json = [("content-type", "application/json")];
    assert_eq!(h.call(Method::PUT, types.0, &json, types.1).await.status, 201);
    let unique = |policy: &str| format!(r#"{{"task":"u","unique":{{"key":"u","on_conflict":"{policy}"}}}}"#);
    let holder = h.submit(&unique("return")).await;
    let body = format!(
        r#"[{{"task":"a"}},{},{},{{"id":"typed","task":"typed","args":[1]}},{{"task":"typed","args":[1]}}]"#,
        unique("reject"),
        unique("return")
    );
    let first = keyed(&h, &body).await.json();
    assert_eq!(statuses(&first), [202, 409, 200, 422, 422]);
    // Now all of it would be accepted.
    delete(&h, &holder).await;
    assert_eq!(h.call(Method::DELETE, types.0, &[], "").await.status, 204);
    let again = keyed(&h, &body).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    let again = again.json();
    assert_eq!(statuses(&again), [200, 409, 200, 422, 422]);
    for place in 0..5 {
        assert_eq!(first["items"][place]["id"], again["items"][place]["id"]);
        for field in ["code", "detail", "existing_id", "errors"] {
            assert_eq!(first["items"][place]["problem"][field], again["items"][place]["problem"][field], "{place} {field}");
        }
    }
    assert_eq!(h.get("/v1/tasks").await.json()["items"].as_array().unwrap().len(), 1);
    let fresh = h.post_with("/v1/tasks:batch", &[("idempotency-key", "k2")], body).await.json();
    assert_eq!(statuses(&fresh), [202, 202, 200, 202, 202], "another key is another request");
}

#[tokio::test]
async fn a_batch_that_did_not_come_to_its_end_is_completed() {
    use lovage_store::wrap::{Fault, Verb};
    let h = Harness::new();
    let body = r#"[{"task":"a"},{"id":"mine","task":"a"},{"bad":1}]"#;
    // The tasks with generated ids are stored with the key, the other call fails.
    h.faulty.script(Verb::Insert, [None, Some(Fault::Before)]);
    let first = keyed(&h, body).await.json();
    assert_eq!(statuses(&first), [202, 503, 422]);
    let again = keyed(&h, body).await;
    assert_eq!((again.header("idempotency-replayed"), statuses(&again.json())), ("true", vec![200, 202, 422]));
    assert_eq!(statuses(&keyed(&h, body).await.json()), [200, 200, 422]);

    // Nothing but the key is stored, and the answer cannot be kept: none is given.
    let body = r#"[{"id":"one","task":"a"},{"bad":1}]"#;
    h.faulty.script(Verb::PutKey, [None, Some(Fault::Before)]);
    let key = [("idempotency-key", "k2")];
    h.post_with("/v1/tasks:batch", &key, body).await.is_problem(Code::StoreUnavailable);
    let again = h.post_with("/v1/tasks:batch", &key, body).await.json();
    assert_eq!(statuses(&again), [200, 422]);
}
