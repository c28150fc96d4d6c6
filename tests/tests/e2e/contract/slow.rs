//! Clients that do not speak, do not finish, or do not listen are cut; those beside them do not notice.

use std::time::{Duration, Instant};

use lovage_tests::{Lovage, Setup, eventually};
use serde_json::json;

use super::site::{PATIENCE, Store};
use super::wire::Wire;

on_both_stores!(
    silence_is_cut,
    a_head_that_does_not_end_is_cut,
    a_trickling_head_is_cut,
    a_body_that_stops_is_cut,
    a_trickling_body_is_cut,
    a_stream_that_stops_is_ended,
    who_does_not_listen_is_cut,
    an_idle_connection_is_closed,
);

/// Times short enough for a test.
fn impatient() -> Setup {
    let times = [("HEAD", "300ms"), ("BODY_IDLE", "300ms"), ("BODY", "600ms"), ("WRITE_IDLE", "300ms")];
    times.into_iter().fold(Lovage::dev(), |setup, (name, time)| setup.env(&format!("LOVAGE_TIMES_{name}"), time))
}

const SOON: Duration = Duration::from_secs(8);
const POST: &str = "POST /v1/tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";

/// Waits until the server has closed the connection, and returns what it said.
async fn cut(wire: &mut Wire) -> String {
    let start = Instant::now();
    let said = wire.read_to_end(SOON).await.expect("the server closes the connection");
    assert!(start.elapsed() < SOON);
    said
}

async fn silence_is_cut(store: Store) {
    let site = store.start(impatient()).await;
    assert_eq!(cut(&mut Wire::open(&site).await).await, "");
}

async fn a_head_that_does_not_end_is_cut(store: Store) {
    let site = store.start(impatient()).await;
    for start in
        ["G", "GET /v1/tasks HTTP/1.1\r\n", "GET /v1/tasks HTTP/1.1\r\nhost: localhost\r\nx-long: y", "PRI * HTTP/2.0\r\n"]
    {
        let mut wire = Wire::open(&site).await;
        assert!(wire.send(start).await);
        let said = cut(&mut wire).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{start:?}: {said}");
    }
}

async fn a_trickling_head_is_cut(store: Store) {
    let site = store.start(impatient()).await;
    let mut wire = Wire::open(&site).await;
    assert!(wire.send("GET /v1/tasks HTTP/1.1\r\n").await);
    let start = Instant::now();
    // A byte now and then does not buy more time.
    while wire.send("a").await && start.elapsed() < SOON {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() < SOON, "a trickling head is read for ever");
}

async fn a_body_that_stops_is_cut(store: Store) {
    let site = store.start(impatient()).await;
    let mut wire = Wire::open(&site).await;
    assert!(wire.send(POST).await && wire.send(r#"{"task": "#).await);
    let said = cut(&mut wire).await;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("malformed"), "{said}");
}

async fn a_trickling_body_is_cut(store: Store) {
    let site = store.start(impatient()).await;
    let mut wire = Wire::open(&site).await;
    assert!(wire.send(POST).await);
    let start = Instant::now();
    for _ in 0..90 {
        if !wire.send(" ").await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let said = cut(&mut wire).await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    assert!(start.elapsed() < SOON);
    assert!(site.list("/v1/tasks").await.is_empty());
}

async fn a_stream_that_stops_is_ended(store: Store) {
    let site = store.start(impatient()).await;
    let mut wire = Wire::open(&site).await;
    let head = "POST /v1/tasks:batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n\
                transfer-encoding: chunked\r\n\r\n";
    assert!(wire.send(head).await && wire.send_chunk("{\"task\": \"nobody\", \"id\": \"kept\"}\n{\"task\"").await);
    let said = cut(&mut wire).await;
    // The last line says why there are no more.
    assert!(said.contains(r#""id":"kept""#) && said.contains(r#""status":400"#), "{said}");
    assert_eq!(site.task("kept").await["state"], "queued");
}

async fn who_does_not_listen_is_cut(store: Store) {
    let site = store.start(impatient()).await;
    site.submit(&json!({"task": "nobody", "id": "large", "payload": "x".repeat(900_000)})).await;
    let mut wire = Wire::open(&site).await;
    assert!(wire.send("GET /v1/tasks/large/payload HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(20)).await);
    let cut = r#"lovage_http_connections_cut_total{reason="write"} 1"#;
    eventually("the deaf client to be cut", PATIENCE, async || {
        let metrics = site.get("/metrics").await;
        String::from_utf8_lossy(&metrics.body).contains(cut).then_some(())
    })
    .await;
}

async fn an_idle_connection_is_closed(store: Store) {
    let site = store.start(impatient()).await;
    let mut wire = Wire::open(&site).await;
    assert!(wire.send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await);
    wire.read_until(r#"{"status":"ok"}"#).await;
    cut(&mut wire).await;
    // Others are served meanwhile, also beside many who say nothing.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(Wire::open(&site).await);
    }
    assert_eq!(site.get("/healthz").await.status, 200);
    for wire in &mut silent {
        assert!(wire.read_to_end(SOON).await.is_some());
    }
}
