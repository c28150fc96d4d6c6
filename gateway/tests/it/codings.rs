//! Compressed requests and answers.

use std::io::Write;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request};
use bytes::Bytes;
use futures_util::StreamExt;
use lovage_coding::{Coding, decode, encode};
use lovage_core::problem::Code;
use serde_json::Value;
use tower::ServiceExt;

use crate::harness::{Harness, Reply, options};

const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

async fn send(h: &Harness, path: &str, coding: Coding, headers: &[(&str, &str)], plain: &[u8]) -> Reply {
    let mut all = vec![("content-encoding", coding.name())];
    all.extend(headers);
    h.call(Method::POST, path, &all, encode(coding, plain).unwrap()).await
}

fn lines(reply: &Reply) -> Vec<Value> {
    std::str::from_utf8(&reply.bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn every_body_may_be_compressed() {
    let h = Harness::new();
    for coding in Coding::ALL {
        let id = coding.name();
        let signature = format!(r#"{{"id":"{id}","task":"a","payload":"{}"}}"#, "x".repeat(200_000));
        let reply = send(&h, "/v1/tasks", coding, &[JSON], signature.as_bytes()).await;
        assert_eq!(reply.status, 202, "{id}: {:?}", reply.bytes);
        // The same request as without the coding.
        assert_eq!(h.post("/v1/tasks", signature).await.status, 200, "{id}");

        let raw: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let headers = [("lovage-task", "a"), ("lovage-id", &*format!("raw-{id}")), ("content-type", "image/png")];
        assert_eq!(send(&h, "/v1/tasks", coding, &headers, &raw).await.status, 202, "{id}");
        let kept = h.get(&format!("/v1/tasks/raw-{id}/payload")).await;
        assert!(kept.bytes == raw && kept.header("content-type") == "image/png", "{id}");

        let reply = send(&h, "/v1/tasks:batch", coding, &[JSON], br#"[{"task":"a"},{"task":""}]"#).await.json();
        assert_eq!((&reply["items"][0]["status"], &reply["items"][1]["status"]), (&202.into(), &422.into()), "{id}");

        let body: Vec<String> = (0..5_000).map(|n| format!("{{\"task\":\"a\",\"id\":\"{id}-{n}\"}}\n")).collect();
        let reply = send(&h, "/v1/tasks:batch", coding, &[NDJSON], body.concat().as_bytes()).await;
        let answers = lines(&reply);
        assert_eq!((answers.len(), &answers[4_999]["id"]), (5_000, &format!("{id}-4999").into()));

        let document = br#"{"url":"http://a.example","tasks":["a"]}"#;
        let headers = [JSON, ("content-encoding", coding.name())];
        let put = h.call(Method::PUT, &format!("/v1/workers/{id}"), &headers, encode(coding, document).unwrap()).await;
        assert_eq!(put.status, 201, "{id}: {:?}", put.bytes);
        // Nothing is nothing, also when it says that it is compressed.
        let coded = [("content-encoding", coding.name())];
        let cancel = h.call(Method::POST, &format!("/v1/tasks/{id}/cancel"), &coded, "").await;
        assert_eq!(cancel.status, 200, "{id}");
    }
}

#[tokio::test]
async fn unknown_and_stacked_codings_are_415() {
    let h = Harness::new();
    for coding in ["compress", "gzip, gzip", "br, gzip", "gz", "*", "gzip;q=1"] {
        for content_type in [JSON, NDJSON] {
            let reply = h.call(Method::POST, "/v1/tasks:batch", &[content_type, ("content-encoding", coding)], "[]").await;
            reply.is_problem(Code::ContentTypeRefused);
            assert_eq!(reply.header("accept-encoding"), "gzip, br, zstd, deflate", "{coding}");
        }
    }
    let reply = h.call(Method::POST, "/v1/tasks", &[("content-type", "text/csv")], "").await;
    reply.is_problem(Code::ContentTypeRefused);
    assert_eq!(reply.header("accept-encoding"), "", "here the coding is not at fault");
    assert_eq!(h.post_with("/v1/tasks", &[("content-encoding", "identity")], r#"{"task":"a"}"#).await.status, 202);
}

#[tokio::test]
async fn broken_bodies_are_malformed() {
    let h = Harness::new();
    for coding in Coding::ALL {
        let whole = encode(coding, br#"{"task":"a","payload":"some text"}"#).unwrap();
        let headers = [JSON, ("content-encoding", coding.name())];
        for body in [&b"{\"task\":\"a\"}"[..], &whole[..whole.len() - 1], &[&whole[..], b"more"].concat()] {
            h.call(Method::POST, "/v1/tasks", &headers, body.to_vec()).await.is_problem(Code::Malformed);
        }
        // Of a stream, what came before is stored, and the last answer says what is wrong.
        let packed = encode(coding, "{\"task\":\"a\"}\n".repeat(20_000).as_bytes()).unwrap();
        let headers = [NDJSON, ("content-encoding", coding.name())];
        let reply = h.call(Method::POST, "/v1/tasks:batch", &headers, packed[..packed.len() - 1].to_vec()).await;
        let answers = lines(&reply);
        assert_eq!(answers.last().unwrap()["problem"]["code"], "malformed", "{}", coding.name());
    }
}

#[tokio::test]
async fn limits_count_what_a_body_inflates_to() {
    let mut options = options();
    options.limits.task_bytes = 10_000;
    let h = Harness::with(options, |_| ());
    let signature = |len: usize| format!(r#"{{"task":"a","payload":"{}"}}"#, "x".repeat(len - 25));
    for coding in Coding::ALL {
        assert_eq!(send(&h, "/v1/tasks", coding, &[JSON], signature(10_000).as_bytes()).await.status, 202, "{coding:?}");
        for size in [10_001, 10 << 20] {
            send(&h, "/v1/tasks", coding, &[JSON], signature(size).as_bytes()).await.is_problem(Code::PayloadTooLarge);
            send(&h, "/v1/tasks", coding, &[("lovage-task", "a")], &vec![0; size]).await.is_problem(Code::PayloadTooLarge);
        }
        // Noise becomes larger by being compressed: what fits as it is fits compressed as well.
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let noise: Vec<u8> = noise.take(10_000).collect();
        assert_eq!(send(&h, "/v1/tasks", coding, &[("lovage-task", "a")], &noise).await.status, 202, "{coding:?}");
    }
}

#[tokio::test]
async fn a_stream_of_nothing_ends() {
    let mut options = options();
    options.limits.array_bytes = 1 << 20;
    let h = Harness::with(options, |_| ());
    for coding in [Coding::Brotli, Coding::Zstd, Coding::Gzip] {
        for filler in [b'\n', b'x'] {
            let started = Instant::now();
            let body = [b"{\"task\":\"a\"}\n".to_vec(), vec![filler; 40 << 20]].concat();
            let answers = lines(&send(&h, "/v1/tasks:batch", coding, &[NDJSON], &body).await);
            assert_eq!((answers.len(), &answers[0]["status"]), (2, &202.into()), "{answers:?}");
            assert_eq!(answers[1]["problem"]["code"], "payload_too_large");
            assert!(started.elapsed() < Duration::from_secs(30), "{coding:?} took {:?}", started.elapsed());
        }
    }
}

#[tokio::test]
async fn lines_are_answered_while_a_compressed_stream_is_sent() {
    let h = Harness::new();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), receiver))
    });
    let request = Request::post("/v1/tasks:batch")
        .header("host", "localhost")
        .header(NDJSON.0, NDJSON.1)
        .header("content-encoding", "gzip");
    // Wanting compressed answers does not hold them back.
    let request = request.header("accept-encoding", "gzip").body(Body::from_stream(body)).unwrap();
    let response = h.gateway.router().oneshot(request).await.unwrap();
    assert!(!response.headers().contains_key("content-encoding"));
    let mut answers = response.into_body().into_data_stream();

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for n in 0..3 {
        encoder.write_all(format!("{{\"task\":\"a\",\"id\":\"t{n}\"}}\n").as_bytes()).unwrap();
        encoder.flush().unwrap();
        sender.send(std::mem::take(encoder.get_mut()).into()).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(20), answers.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap()["id"], format!("t{n}"));
    }
    sender.send(encoder.finish().unwrap().into()).await.unwrap();
    drop(sender);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn compressed_streams_are_counted() {
    let mut options = options();
    options.limits.compressed_streams = 1;
    let h = Harness::with(options, |_| ());
    let open = || {
        let request = Request::post("/v1/tasks:batch")
            .header("host", "localhost")
            .header(NDJSON.0, NDJSON.1)
            .header("content-encoding", "br");
        h.gateway
            .router()
            .oneshot(request.body(Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>())).unwrap())
    };
    let first = open().await.unwrap();
    assert_eq!(first.status(), 200);
    let second = open().await.unwrap();
    assert_eq!((second.status().as_u16(), second.headers().contains_key("retry-after")), (503, true));
    // A plain stream needs no decoder, and one that has ended gives its own back.
    assert_eq!(lines(&h.call(Method::POST, "/v1/tasks:batch", &[NDJSON], r#"{"task":"a"}"#).await)[0]["status"], 202);
    drop(first);
    assert_eq!(open().await.unwrap().status(), 200);
}

#[tokio::test]
async fn large_answers_are_compressed_as_the_client_wants() {
    let h = Harness::new();
    for n in 0..300 {
        h.submit(&format!(r#"{{"id":"t{n}","task":"a"}}"#)).await;
    }
    let plain = h.get("/v1/tasks?limit=300").await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "accept-encoding"));
    for coding in Coding::ALL {
        let accept = ("accept-encoding", coding.name());
        for path in ["/v1/tasks?limit=300", "/v1/tasks?limit=20"] {
            let plain = h.get(path).await;
            let packed = h.call(Method::GET, path, &[accept], "").await;
            assert_eq!((packed.header("content-encoding"), packed.header("vary")), (coding.name(), "accept-encoding"));
            assert!(packed.bytes.len() < plain.bytes.len() / 2, "{coding:?} {path}");
            assert!(decode(coding, &packed.bytes, 10 << 20).unwrap().bytes == plain.bytes, "{coding:?} {path}");
        }
    }
    let head = h.call(Method::HEAD, "/v1/tasks?limit=300", &[("accept-encoding", "gzip")], "").await;
    assert_eq!(head.header("content-encoding"), "");
    let refused = h.call(Method::GET, "/v1/tasks?limit=300", &[("accept-encoding", "gzip;q=0, compress")], "").await;
    assert!(refused.bytes == plain.bytes);
}

#[tokio::test]
async fn answers_that_would_not_gain_are_left_alone() {
    let h = Harness::new();
    let wants = ("accept-encoding", "gzip, br");
    let small = h.post_with("/v1/tasks", &[wants], r#"{"task":"a"}"#).await;
    assert_eq!((small.header("content-encoding"), small.header("vary")), ("", ""));
    for (id, content_type) in [("png", "image/png"), ("bytes", "application/octet-stream"), ("events", "text/event-stream")] {
        let headers = [("lovage-task", "a"), ("lovage-id", id), ("content-type", content_type)];
        h.call(Method::POST, "/v1/tasks", &headers, "x".repeat(5_000)).await;
        let kept = h.call(Method::GET, &format!("/v1/tasks/{id}/payload"), &[wants], "").await;
        assert_eq!((kept.header("content-encoding"), kept.bytes.len()), ("", 5_000), "{id}");
    }
    // Text, but without anything to gain.
    let noise: String =
        (0..2_000_u64).map(|n| char::from(33 + (n.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 20) as u8 % 94)).collect();
    let headers = [("lovage-task", "a"), ("lovage-id", "noise"), ("content-type", "text/plain")];
    h.call(Method::POST, "/v1/tasks", &headers, noise.clone()).await;
    let kept = h.call(Method::GET, "/v1/tasks/noise/payload", &[("accept-encoding", "deflate")], "").await;
    if kept.header("content-encoding").is_empty() {
        assert_eq!(kept.bytes, noise);
    } else {
        assert!(kept.bytes.len() < noise.len());
    }
}

#[tokio::test]
async fn a_tag_is_weak_when_the_bytes_are_others_and_still_guards() {
    let h = Harness::new();
    let tasks: Vec<String> = (0..60).map(|n| format!("\"a.task.with.a.long.name.number.{n}\"")).collect();
    let document = format!(r#"{{"url":"http://a.example","tasks":[{}]}}"#, tasks.join(","));
    assert_eq!(h.call(Method::PUT, "/v1/workers/w", &[JSON], document.clone()).await.status, 201);
    let plain = h.get("/v1/workers/w").await;
    let packed = h.call(Method::GET, "/v1/workers/w", &[("accept-encoding", "gzip")], "").await;
    assert_eq!((plain.header("etag"), packed.header("etag")), ("\"1\"", "W/\"1\""));
    let put = h.call(Method::PUT, "/v1/workers/w", &[JSON, ("if-match", packed.header("etag"))], document.clone()).await;
    assert_eq!(put.status, 200);
    let stale = h.call(Method::PUT, "/v1/workers/w", &[JSON, ("if-match", packed.header("etag"))], document).await;
    stale.is_problem(Code::VersionMismatch);
}
