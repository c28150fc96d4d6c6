//! The stream of a task's events, over real connections.

use std::time::{Duration, Instant};

use lovage_tests::{Client, Lovage, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::contract::site::{PATIENCE, Store};

on_both_stores!(a_stream_follows_a_task_to_its_end, a_stream_goes_on_after_a_restart, streams_end_when_the_server_stops);

/// An open stream.
pub(crate) struct Stream {
    response: reqwest::Response,
    text: String,
}

/// An event: its id, its name, the record.
pub(crate) type Seen = (u64, String, Value);

impl Stream {
    pub(crate) async fn open(client: &Client, id: &str, last: Option<u64>) -> Self {
        let mut request = client.request(Method::GET, &format!("/v1/tasks/{id}/events")).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| block.lines().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>().join("\n");
                let (number, event, data) = (field("id: "), field("event: "), field("data: "));
                if !event.is_empty() {
                    return Some((number.parse().unwrap(), event, serde_json::from_str(&data).unwrap()));
                }
            } else {
                let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("an event in time");
                match chunk {
                    Ok(Some(chunk)) => self.text.push_str(std::str::from_utf8(&chunk).unwrap()),
                    // A server that was killed ends nothing in order.
                    Ok(None) | Err(_) => return None,
                }
            }
        }
    }
}

async fn a_stream_follows_a_task_to_its_end(store: Store) {
    let site = store.dev().await;
    let lines = [json!({"progress": 1}), json!({"progress": 2}), json!({"result": "done"})];
    site.worker.on("t", Reply::ndjson(Duration::from_millis(500), &lines));
    let id = site.submit_plain("t").await;
    let mut stream = Stream::open(&site, &id, None).await;
    assert_eq!(stream.next().await.unwrap().1, "task.queued");
    site.serves(&["t"]).await;
    let (mut names, mut last) = (Vec::new(), (0, Value::Null));
    while let Some((version, name, record)) = stream.next().await {
        assert!(version > last.0 && record["version"] == version, "{version} after {}", last.0);
        names.push(name);
        last = (version, record);
    }
    assert_eq!(names, ["task.started", "task.progress", "task.progress", "task.succeeded"]);
    assert_eq!((&last.1["result"], &last.1), (&json!("done"), &site.task(&id).await));
    let list = site.list(&format!("/v1/tasks/{id}/events")).await;
    let events: Vec<&str> = list.iter().map(|item| item["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["task.created", "attempt.started", "attempt.ended", "task.succeeded"]);
}

async fn a_stream_goes_on_after_a_restart(store: Store) {
    let mut site = store.dev().await;
    site.worker.on("t", Reply::json(&json!(1)));
    let id = site.submit_plain("t").await;
    let mut stream = Stream::open(&site, &id, None).await;
    let (seen, ..) = stream.next().await.unwrap();
    site.lovage.kill9();
    assert!(stream.next().await.is_none());
    site.lovage.restart().await;
    let mut stream = Stream::open(&site, &id, Some(seen)).await;
    site.serves(&["t"]).await;
    let mut names = Vec::new();
    while let Some((_, name, _)) = stream.next().await {
        names.push(name);
    }
    assert_eq!(names.last().map(String::as_str), Some("task.succeeded"));
    assert!(!names.iter().any(|name| name == "task.queued"), "{names:?}");
}

async fn streams_end_when_the_server_stops(store: Store) {
    let mut site = store.dev().await;
    let id = site.submit_plain("nobody").await;
    let mut stream = Stream::open(&site, &id, None).await;
    stream.next().await.unwrap();
    let start = Instant::now();
    let (stopped, end) = tokio::join!(site.lovage.stop(), stream.next());
    assert!(stopped.success() && end.is_none());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// Who has no key learns nothing.
#[tokio::test]
async fn a_stream_wants_the_key() {
    let server = Lovage::serve().start().await;
    let id = server.client().submit(&json!({"task": "nobody"})).await;
    let stranger = server.client().with_key(None);
    let path = format!("/v1/tasks/{id}/events");
    let answer = stranger.send(stranger.request(Method::GET, &path).header("accept", "text/event-stream")).await;
    assert_eq!((answer.status, answer.code()), (401, "unauthenticated"));
}
