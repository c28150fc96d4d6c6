//! How a server stops: in order, in time, and nothing is lost by it.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lovage_tests::signal::{self, Signal};
use lovage_tests::{Lovage, Reply, Worker, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

async fn reason(lovage: &Lovage, id: &str) -> Value {
    lovage.client().task(id).await["reason"].clone()
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let mut lovage = Lovage::dev().start().await;
    let asked = Instant::now();
    assert_eq!(lovage.stop().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn an_open_attempt_ends_within_the_grace() {
    let worker = Worker::start();
    let gate = worker.hold("a.b", Reply::json(&json!("in time")));
    let mut lovage = Lovage::dev().start().await;
    let id = lovage.client().submit(&json!({"task": "a.b", "url": worker.url()})).await;
    worker.wait_for(1).await;
    lovage.sigterm();
    eventually("it drains", PATIENCE, async || (lovage.client().get("/readyz").await.status == 503).then_some(())).await;
    for (status, path) in [(503, "/readyz"), (503, "/v1/tasks"), (200, "/healthz")] {
        assert_eq!(lovage.client().get(path).await.status, status, "{path}");
    }
    let refused = lovage.client().post_task(&json!({"task": "a.b", "url": worker.url()})).await;
    assert_eq!((refused.status, refused.code()), (503, "draining"));
    assert!(refused.headers.contains_key("retry-after"), "{:?}", refused.headers);
    gate.open();
    assert_eq!(lovage.wait_exit().await.code(), Some(0));
    lovage.restart().await;
    let record = lovage.client().task(&id).await;
    assert_eq!((&record["state"], &record["result"]), (&json!("succeeded"), &json!("in time")));
    assert_eq!(worker.count(), 1);
}

#[tokio::test]
async fn what_is_still_open_is_given_back() {
    let worker = Worker::start();
    worker.on("a.b", [Reply::never(), Reply::json(&json!("again"))]);
    let mut lovage = Lovage::dev().option("--grace", "100ms").start().await;
    let task = json!({"task": "a.b", "url": worker.url(), "retry": {"max_attempts": 1}});
    let id = lovage.client().submit(&task).await;
    worker.wait_for(1).await;
    assert_eq!(lovage.stop().await.code(), Some(0));
    lovage.restart().await;
    // Not charged: with one attempt allowed it runs again, and at once.
    let record = lovage.client().wait_final(&id).await;
    assert_eq!((&record["state"], &record["result"]), (&json!("succeeded"), &json!("again")));
    assert_eq!(worker.count(), 2);
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let worker = Worker::start();
    worker.on("a.b", [Reply::never(), Reply::json(&json!("later"))]);
    let mut lovage = Lovage::dev().option("--grace", "1h").start().await;
    let id = lovage.client().submit(&json!({"task": "a.b", "url": worker.url()})).await;
    worker.wait_for(1).await;
    assert_eq!(reason(&lovage, &id).await, json!("dispatched"));
    lovage.sigterm();
    eventually("the first signal to be noticed", PATIENCE, async || lovage.stderr().contains("second signal").then_some(()))
        .await;
    lovage.sigterm();
    assert_eq!(lovage.wait_exit().await.code(), Some(0));
    lovage.restart().await;
    assert_eq!(lovage.client().wait_final(&id).await["result"], json!("later"));
}

/// As in `lovage dev 2>&1 | head`, or when whoever collects the log has died.
#[tokio::test]
async fn a_server_whose_log_nobody_reads_stops_too() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut command = super::command(folder.path(), &["dev", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(File::create(&out).unwrap()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    eventually("a listening server", PATIENCE, async || fs::read_to_string(&out).ok().filter(|text| text.ends_with("\n\n")))
        .await;
    signal::send(child.id(), Signal::TERM);
    let ended = eventually("the end", PATIENCE, async || child.try_wait().unwrap()).await;
    assert_eq!(ended.code(), Some(0));
}
