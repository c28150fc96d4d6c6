//! Creating and showing single tasks.

use lovage_core::problem::Code;
use serde_json::{Value, json};

use crate::harness::{Harness, options};

#[tokio::test]
async fn a_task_is_stored_and_shown() {
    let h = Harness::new();
    let body = r#"{"task":"demo.add","args":[1, 2.50],"kwargs":{"x":null},"labels":{"tenant":"a"},"queue":"mail","priority":7}"#;
    let reply = h.post("/v1/tasks", body).await;
    assert_eq!(reply.status, 202);
    let accepted = reply.json();
    let id = accepted["id"].as_str().unwrap();
    assert_eq!(reply.header("location"), format!("/v1/tasks/{id}"));
    assert_eq!(accepted["state"], "queued");
    assert_eq!(accepted["links"]["self"], format!("/v1/tasks/{id}"));

    let reply = h.get(&format!("/v1/tasks/{id}")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("etag"), "\"1\"");
    let record = reply.json();
    assert_eq!(record["task"], "demo.add");
    assert_eq!(record["queue"], "mail");
    assert_eq!(record["priority"], 7);
    assert_eq!(record["labels"], json!({"tenant": "a"}));
    assert!(String::from_utf8_lossy(&reply.bytes).contains(r#""args":[1, 2.50]"#), "digits and spaces stay: {record}");
    assert_eq!(record["version"], 1);
}

#[tokio::test]
async fn delay_eta_and_expiry_are_times() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a","delay":"90s","expires_in":"1h"}"#).await;
    let record = h.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!(record["state"], "scheduled");
    assert_eq!(record["due_at"], "2027-01-15T08:01:30.000Z");
    assert_eq!(record["expires_at"], "2027-01-15T09:00:00.000Z");
    let id = h.submit(r#"{"task":"a","eta":"2027-01-15T10:00:00+01:00","delay":null}"#).await;
    assert_eq!(h.get(&format!("/v1/tasks/{id}")).await.json()["due_at"], "2027-01-15T09:00:00.000Z");
    let id = h.submit(r#"{"task":"a","delay":0}"#).await;
    assert_eq!(h.get(&format!("/v1/tasks/{id}")).await.json()["state"], "queued");
}

#[tokio::test]
async fn the_same_id_and_body_is_the_same_task() {
    let h = Harness::new();
    let body = r#"{"id":"order-1","task":"a","args":[1]}"#;
    assert_eq!(h.post("/v1/tasks", body).await.status, 202);
    let again = h.post("/v1/tasks", format!(" {body}\n")).await;
    assert_eq!((again.status.as_u16(), again.json()["id"].as_str()), (200, Some("order-1")));
    h.post("/v1/tasks", r#"{"id":"order-1","task":"a","args":[2]}"#).await.is_problem(Code::IdExists);
}

#[tokio::test]
async fn an_idempotency_key_answers_the_first_task() {
    let h = Harness::new();
    let body = r#"{"task":"a"}"#;
    let first = h.post_with("/v1/tasks", &[("idempotency-key", "k1")], body).await;
    assert_eq!(first.status, 202);
    let id = first.json()["id"].clone();
    h.succeed(id.as_str().unwrap(), "42").await;
    let again = h.post_with("/v1/tasks", &[("idempotency-key", "k1")], body).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!((&again.json()["id"], &again.json()["result"]), (&id, &json!(42)));
    let other = h.post_with("/v1/tasks", &[("idempotency-key", "k1")], r#"{"task":"b"}"#).await;
    other.is_problem(Code::IdempotencyMismatch);
    let fresh = h.post_with("/v1/tasks", &[("idempotency-key", "k2")], body).await;
    assert_eq!(fresh.status, 202);
    h.clock.advance(std::time::Duration::from_secs(24 * 3600 + 1));
    let late = h.post_with("/v1/tasks", &[("idempotency-key", "k1")], body).await;
    assert_eq!(late.status, 202, "kept for 24 hours");
}

#[tokio::test]
async fn a_raw_body_is_the_payload() {
    let h = Harness::new();
    let headers = [
        ("lovage-task", "images.resize"),
        ("content-type", "image/png"),
        ("lovage-queue", "pics"),
        ("lovage-delay", "30"),
        ("lovage-priority", "9"),
        ("lovage-label-tenant", "x y"),
    ];
    let reply = h.call(axum::http::Method::POST, "/v1/tasks", &headers, vec![0_u8, 255, 10]).await;
    assert_eq!(reply.status, 202, "{:?}", reply.bytes);
    let record = h.get(&format!("/v1/tasks/{}", reply.json()["id"].as_str().unwrap())).await.json();
    assert_eq!(record["task"], "images.resize");
    assert_eq!(record["state"], "scheduled");
    assert_eq!(record["queue"], "pics");
    assert_eq!(record["labels"], json!({"tenant": "x y"}));
}

#[tokio::test]
async fn unknown_tasks_are_404() {
    let h = Harness::new();
    for id in ["nope", "018f0000-0000-8000-8000-000000000000", "a%20b", "%F0%9F%98%80"] {
        h.get(&format!("/v1/tasks/{id}")).await.is_problem(Code::TaskUnknown);
    }
    h.get("/v1/tasks/%FF").await.is_problem(Code::Malformed);
}

#[tokio::test]
async fn a_failing_store_is_a_503_that_passes() {
    let h = Harness::new();
    h.faulty.set_away(true);
    h.post("/v1/tasks", r#"{"task":"a"}"#).await.is_problem(Code::StoreUnavailable);
    h.post("/v1/tasks:batch", r#"[{"task":"a"},{"task":"b"}]"#).await.is_problem(Code::StoreUnavailable);
    h.get("/v1/tasks/a").await.is_problem(Code::StoreUnavailable);
    h.get("/readyz").await.is_problem(Code::StoreUnavailable);
    assert_eq!(h.get("/healthz").await.status, 200);
    h.faulty.heal();
    h.submit(r#"{"task":"a"}"#).await;
    assert_eq!(h.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_repetition_of_what_is_gone_answers_its_id() {
    let h = Harness::new();
    for body in [r#"{"task":"a"}"#, r#"{"id":"mine","task":"a"}"#] {
        let key = [("idempotency-key", body)];
        let id = h.post_with("/v1/tasks", &key, body).await.json()["id"].clone();
        h.post(&format!("/v1/tasks/{}/cancel", id.as_str().unwrap()), "").await;
        let path = format!("/v1/tasks/{}", id.as_str().unwrap());
        assert!(h.call(axum::http::Method::DELETE, &path, &[], "").await.status.is_success());
        for route in ["/v1/tasks", "/v1/tasks?wait=1s"] {
            let again = h.post_with(route, &key, body).await;
            assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (200, "true"));
            assert_eq!(again.json(), json!({"id": id}));
        }
        assert_eq!(h.get(&path).await.status, 404, "nothing was made");
    }
}

/// One key is for one request, wherever the tasks of both would live.
#[tokio::test]
async fn an_idempotency_key_is_one_in_all_partitions() {
    let h = Harness::with(options(), |memory| memory.partitions = 16);
    let body = |kind: usize, n: usize| match kind {
        0 => ("/v1/tasks", format!(r#"{{"task":"a","args":[{n}]}}"#)),
        1 => ("/v1/tasks", format!(r#"{{"task":"a","unique":{{"key":"u-{n}"}}}}"#)),
        2 => ("/v1/tasks", format!(r#"{{"task":"a","id":"order-{n}"}}"#)),
        3 => ("/v1/tasks", format!(r#"{{"task":"a","debounce":{{"key":"d-{n}","wait":"1m"}}}}"#)),
        4 => ("/v1/tasks", format!(r#"{{"task":"a","id":"away-{n}","unique":{{"key":"v-{n}"}}}}"#)),
        5 => ("/v1/tasks:batch?atomic=true", format!(r#"[{{"task":"a","unique":{{"key":"w-{n}"}}}}, {{"task":"b"}}]"#)),
        6 => ("/v1/tasks:batch?atomic=true", format!(r#"[{{"task":"a","id":"together-{n}"}}]"#)),
        _ => ("/v1/tasks:batch", format!(r#"[{{"task":"a","args":[{n}]}}, {{"task":"b","id":"array-{n}"}}]"#)),
    };
    let send = async |key: &str, (path, body): (&str, String)| h.post_with(path, &[("idempotency-key", key)], body).await;
    for (first, other) in (0..8).flat_map(|first| (0..8).map(move |other| (first, other))) {
        let key = format!("k-{first}-{other}");
        let n = 100 * first + 10 * other;
        let made = send(&key, body(first, n)).await;
        assert!(made.status.is_success(), "{}", made.json());
        let again = send(&key, body(first, n)).await;
        assert_eq!(again.status, 200, "{}", again.json());
        let id = |json: Value| if json.is_array() { json[0]["id"].clone() } else { json["id"].clone() };
        assert_eq!(id(again.json()), id(made.json()));
        send(&key, body(other, n + 1)).await.is_problem(Code::IdempotencyMismatch);
    }
    // A client's id that is stored already is answered first.
    let (_, stored) = body(2, 200);
    assert_eq!(send("k-0-0", ("/v1/tasks", stored)).await.status, 200);
    send("k-0-0", ("/v1/tasks", r#"{"task":"b","id":"order-200"}"#.to_owned())).await.is_problem(Code::IdExists);
}

/// What was refused leaves its key to another request.
#[tokio::test]
async fn a_refused_request_leaves_its_idempotency_key() {
    let h = Harness::with(options(), |memory| memory.partitions = 16);
    for n in 0..12 {
        let taken = format!(r#"{{"task":"a","unique":{{"key":"u-{n}","on_conflict":"reject"}}}}"#);
        assert_eq!(h.post("/v1/tasks", taken.clone()).await.status, 202);
        let key = format!("k-{n}");
        let key = [("idempotency-key", &*key)];
        h.post_with("/v1/tasks", &key, taken.clone()).await.is_problem(Code::UniqueConflict);
        let together = format!("[{taken}]");
        h.post_with("/v1/tasks:batch?atomic=true", &key, together).await.is_problem(Code::UniqueConflict);
        let other = format!(r#"{{"task":"a","unique":{{"key":"v-{n}"}}}}"#);
        assert_eq!(h.post_with("/v1/tasks", &key, other.clone()).await.status, 202);
        assert_eq!(h.post_with("/v1/tasks", &key, other).await.status, 200);
        h.post_with("/v1/tasks", &key, taken).await.is_problem(Code::IdempotencyMismatch);
    }
}
