//! `POST /v1/tasks:batch` as NDJSON: lines in, lines out, of any number.

use std::time::Duration;

use lovage_tests::Reply;
use serde_json::{Value, json};

use super::site::Store;
use super::wire::Wire;

on_both_stores!(
    a_stream_may_be_longer_than_any_array,
    a_bad_line_is_refused_alone,
    answers_come_while_lines_are_sent,
    a_broken_stream_keeps_what_it_acknowledged,
    a_stream_is_not_atomic,
);

async fn a_stream_may_be_longer_than_any_array(store: Store) {
    let site = store.dev().await;
    site.worker.on("many", Reply::status(204));
    site.serves(&["many"]).await;
    let signatures: Vec<Value> = (0..2_500).map(|n| json!({"task": "many", "id": format!("line-{n}")})).collect();
    let answer = site.submit_ndjson(&signatures).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    let expected: Vec<Value> = (0..2_500).map(|n| json!({"status": 202, "id": format!("line-{n}")})).collect();
    assert_eq!(answer.items(), expected);
    let calls = site.worker.wait_until("all calls", Duration::from_secs(60), |calls| calls.len() >= 2_500).await;
    assert_eq!((calls.len(), site.worker.by_task().len()), (2_500, 2_500));
}

async fn a_bad_line_is_refused_alone(store: Store) {
    let site = store.dev().await;
    let long = format!(r#"{{"task": "nobody", "payload": "{}"}}"#, "x".repeat(1 << 20));
    let lines = [
        r#"{"task": "nobody", "id": "first"}"#,
        "",
        "{",
        r#"{"task": "nobody", "priority": "high"}"#,
        "   \t",
        &long,
        "[]",
        r#"{"task": "nobody", "id": "first"}"#,
        r#"{"task": "nobody", "id": "last"}"#,
    ];
    // Lines may end as on other systems, and the last one need not end at all.
    let answer = site.send_ndjson(lines.join("\r\n")).await;
    let items = answer.items();
    let statuses: Vec<u64> = items.iter().map(|item| item["status"].as_u64().unwrap()).collect();
    // A long line goes apart from what was before it, so either of two lines with one id may be the first.
    let first = [statuses[0], statuses[5]];
    assert!(first == [202, 200] || first == [200, 202], "{statuses:?}");
    assert_eq!((answer.status, &statuses[1..5], statuses[6]), (200, &[400, 422, 413, 422][..], 202));
    assert_eq!(items[1]["problem"]["code"], "malformed");
    assert_eq!(items[2]["problem"]["errors"][0]["pointer"], "/priority");
    assert_eq!(items[3]["problem"]["code"], "payload_too_large");
    assert_eq!(site.list("/v1/tasks").await.len(), 2);
}

const HEAD: &str = "POST /v1/tasks:batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n\
                    transfer-encoding: chunked\r\n\r\n";

async fn answers_come_while_lines_are_sent(store: Store) {
    let site = store.dev().await;
    let mut wire = Wire::open(&site).await;
    assert!(wire.send(HEAD).await);
    for n in 0..3 {
        // In two pieces: a line is a line wherever the network cuts it.
        assert!(wire.send_chunk(r#"{"task": "nobody", "#).await);
        assert!(wire.send_chunk(&format!("\"id\": \"s-{n}\"}}\n")).await);
        wire.read_until(&format!(r#"{{"status":202,"id":"s-{n}"}}"#)).await;
        // What is acknowledged is stored, whatever becomes of the rest.
        assert_eq!(site.task(&format!("s-{n}")).await["state"], "queued");
    }
    assert!(wire.send("0\r\n\r\n").await);
    wire.read_until("\r\n0\r\n\r\n").await;
}

async fn a_broken_stream_keeps_what_it_acknowledged(store: Store) {
    let site = store.dev().await;
    let mut wire = Wire::open(&site).await;
    assert!(wire.send(HEAD).await);
    assert!(wire.send_chunk("{\"task\": \"nobody\", \"id\": \"kept\"}\n").await);
    wire.read_until(r#""id":"kept""#).await;
    assert!(wire.send_chunk(r#"{"task": "nobody", "id": "half"}"#).await);
    drop(wire);
    assert_eq!(site.task("kept").await["state"], "queued");
    // A line without its end is none: the client cannot have meant it to be complete.
    assert_eq!(site.list("/v1/tasks").await.len(), 1);
}

async fn a_stream_is_not_atomic(store: Store) {
    let site = store.dev().await;
    let send = async |path: &str, key: Option<&str>| {
        let mut request = site.request(reqwest::Method::POST, path).header("content-type", "application/x-ndjson");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        site.send(request.body(r#"{"task": "nobody"}"#)).await
    };
    let refused = send("/v1/tasks:batch?atomic=true", None).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/atomic"]));
    let refused = send("/v1/tasks:batch", Some("k")).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/idempotency_key"]));
    assert_eq!(send("/v1/tasks:batch?atomic=false", None).await.status, 200);
    assert_eq!(site.list("/v1/tasks").await.len(), 1);
}
