//! The events of a task, as a stream and as a list.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use http_body_util::BodyExt;
use lovage_core::problem::Code;
use lovage_core::{Event, SessionId};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::{Harness, options, until};

/// An open stream.
struct Stream {
    body: Body,
    text: String,
}

/// One event: id, name, record.
type Seen = (u64, String, Value);

impl Stream {
    async fn open(h: &Harness, id: &str, last: &str) -> Self {
        let request = Request::get(format!("/v1/tasks/{id}/events")).header("host", "localhost");
        let request = request.header("accept", "text/html, text/event-stream;q=0.9").header("last-event-id", last);
        let response = h.gateway.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next block of lines; none at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                return Some(block.trim_end().to_owned());
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await.expect("something comes");
            let Some(frame) = frame else {
                assert_eq!(self.text, "", "the end is not in the middle of an event");
                return None;
            };
            self.text.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
        }
    }

    async fn next(&mut self) -> Option<Seen> {
        loop {
            let block = self.block().await?;
            if block.starts_with(':') {
                continue;
            }
            let field = |name: &str| -> Vec<&str> { block.lines().filter_map(|line| line.strip_prefix(name)).collect() };
            let data = field("data: ").join("\n");
            return Some((
                field("id: ")[0].parse().unwrap(),
                field("event: ")[0].to_owned(),
                serde_json::from_str(&data).unwrap(),
            ));
        }
    }
}

async fn progress(h: &Harness, id: &str, value: &'static str) {
    let attempt = lovage_core::Attempt { number: 1, generation: 0, session: SessionId(1) };
    h.happen(id, Event::Progress { attempt, value: Bytes::from_static(value.as_bytes()) }).await;
}

#[tokio::test]
async fn a_stream_shows_every_change_and_ends() {
    let h = Harness::new();
    // Line breaks between the parts of what users sent stay as they came.
    let id = h.submit("{\"task\":\"a\",\"payload\":{\n\"x\":1}}").await;
    let mut stream = Stream::open(&h, &id, "").await;
    let (first, name, record) = stream.next().await.unwrap();
    assert_eq!((first, name.as_str()), (1, "task.queued"));
    assert_eq!(record, h.get(&format!("/v1/tasks/{id}")).await.json());
    h.start(&id).await;
    assert_eq!(stream.next().await.unwrap().1, "task.started");
    for value in ["1", "{\"done\":2}"] {
        progress(&h, &id, value).await;
        let (_, name, record) = stream.next().await.unwrap();
        assert_eq!((name.as_str(), &record["progress"]), ("task.progress", &serde_json::from_str(value).unwrap()));
    }
    h.happen(&id, cancel()).await;
    let (_, name, record) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &record["cancel_requested"]), ("task.started", &json!(true)));
    let attempt = lovage_core::Attempt { number: 1, generation: 0, session: SessionId(1) };
    h.happen(&id, Event::Aborted { attempt }).await;
    let (last, name, record) = stream.next().await.unwrap();
    assert_eq!((name.as_str(), &record["version"]), ("task.canceled", &json!(last)));
    assert!(stream.next().await.is_none());
}

fn cancel() -> Event {
    Event::Cancel { hard: false, reason: lovage_core::Reason::Requested, grace: Duration::from_secs(1) }
}

#[tokio::test]
async fn only_what_is_newer_comes_again() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a"}"#).await;
    let mut stream = Stream::open(&h, &id, "1").await;
    h.start(&id).await;
    assert_eq!(stream.next().await.unwrap().1, "task.started");
    // Ids that the task never gave out are as good as none.
    for odd in ["77", "x", "-1"] {
        assert_eq!(Stream::open(&h, &id, odd).await.next().await.unwrap().0, 2, "{odd}");
    }
    h.happen(&id, cancel()).await;
    let attempt = lovage_core::Attempt { number: 1, generation: 0, session: SessionId(1) };
    h.happen(&id, Event::Aborted { attempt }).await;
    let mut stream = Stream::open(&h, &id, "2").await;
    let (last, name, _) = stream.next().await.unwrap();
    assert_eq!(name, "task.canceled");
    assert!(stream.next().await.is_none());
    let path = format!("/v1/tasks/{id}/events");
    let seen = last.to_string();
    let headers = [("accept", "text/event-stream"), ("last-event-id", seen.as_str())];
    assert_eq!(h.call(axum::http::Method::GET, &path, &headers, "").await.status, 204, "tells a browser to stop");
}

#[tokio::test]
async fn a_slow_reader_finds_the_newest_state() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a"}"#).await;
    let mut stream = Stream::open(&h, &id, "").await;
    h.start(&id).await;
    for value in ["1", "2", "3", "4"] {
        progress(&h, &id, value).await;
    }
    // The first was looked at when the stream was opened.
    assert_eq!(stream.next().await.unwrap().1, "task.queued");
    let (version, name, record) = stream.next().await.unwrap();
    assert_eq!((version, name.as_str(), &record["progress"]), (6, "task.started", &json!(4)));
    // What was forgotten by the feed is looked at.
    progress(&h, &id, "5").await;
    h.store.forget_feed();
    assert_eq!(stream.next().await.unwrap().2["progress"], json!(5));
}

#[tokio::test]
async fn streams_are_counted_and_kept_alive() {
    let mut options = options();
    options.limits.event_streams = 1;
    options.times.keep_alive = Duration::from_millis(20);
    let h = Harness::with(options, |_| ());
    let id = h.submit(r#"{"task":"a"}"#).await;
    let mut stream = Stream::open(&h, &id, "").await;
    stream.next().await.unwrap();
    for _ in 0..3 {
        assert_eq!(stream.block().await.unwrap(), ": keep-alive");
    }
    let path = format!("/v1/tasks/{id}/events");
    let open = async || h.call(axum::http::Method::GET, &path, &[("accept", "text/event-stream")], "").await;
    open().await.is_problem(Code::Overloaded);
    assert_eq!(h.get(&path).await.status, 200, "the list needs no place");
    drop(stream);
    h.happen(&id, cancel()).await;
    until("the place is free", async || open().await.status == 200).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_time_its_record_and_the_store() {
    let mut options = options();
    options.times.stream = Duration::from_millis(300);
    let h = Harness::with(options, |_| ());
    let id = h.submit(r#"{"task":"a"}"#).await;
    let mut stream = Stream::open(&h, &id, "1").await;
    assert!(stream.next().await.is_none(), "its time is over");

    let h = Harness::new();
    let id = h.submit(r#"{"task":"a"}"#).await;
    let mut stream = Stream::open(&h, &id, "1").await;
    h.faulty.set_away(true);
    assert!(stream.next().await.is_none(), "the client is to come again");
    let path = format!("/v1/tasks/{id}/events");
    let open = async |headers: &[(&str, &str)]| h.call(axum::http::Method::GET, &path, headers, "").await;
    open(&[]).await.is_problem(Code::StoreUnavailable);
    h.faulty.set_away(false);
    h.happen(&id, cancel()).await;
    let mut stream = Stream::open(&h, &id, "1").await;
    assert_eq!(stream.next().await.unwrap().1, "task.canceled");
    let gone = "/v1/tasks/nothing/events";
    for accept in ["text/event-stream", "application/json"] {
        h.call(axum::http::Method::GET, gone, &[("accept", accept)], "").await.is_problem(Code::TaskUnknown);
    }
}

#[tokio::test]
async fn the_list_tells_what_is_known() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a"}"#).await;
    let created = h.store_time();
    let list = async || h.get(&format!("/v1/tasks/{id}/events")).await.json();
    let expected = json!({"items": [
        {"event": "task.created", "at": created}, {"event": "task.queued", "at": null, "version": 1},
    ], "next_cursor": null});
    assert_eq!(list().await, expected);
    h.clock.advance(Duration::from_secs(1));
    let started = h.store_time();
    let error = lovage_core::TaskError::new("E", "m");
    h.finish(&id, lovage_core::Outcome::Retry { after: Some(Duration::from_secs(5)), error }).await;
    let items = list().await["items"].clone();
    assert_eq!(items[1], json!({"event": "attempt.started", "at": started, "attempt": 1, "generation": 0}));
    assert_eq!((&items[2]["event"], &items[2]["outcome"]), (&json!("attempt.ended"), &json!("backoff")));
    assert_eq!(items[2]["error"]["type"], "E");
    assert_eq!(items[3], json!({"event": "task.retrying", "at": null, "reason": "backoff", "version": 3}));
}
