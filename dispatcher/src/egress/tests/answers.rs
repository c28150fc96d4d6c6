//! What is sent, and how answers are read.

use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::*;
use crate::egress::{AnswerSink, FaultKind, SinkVerdict};

/// Sends one request to a server that reports what it read.
async fn sent_by(change: impl FnOnce(&mut PushRequest)) -> String {
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut peer| {
        let told = told.clone();
        async move {
            told.send(peer.request().await.unwrap()).unwrap();
            peer.write(OK).await;
            peer.gone().await;
        }
    })
    .await;
    let transport = transport();
    let mut request = request(&transport, &server.url());
    change(&mut request);
    let pushed = timeout(PATIENCE, transport.push(request)).await.unwrap();
    assert!(pushed.outcome.is_ok(), "{pushed:?}");
    heard.recv().await.unwrap().replace(&server.address.to_string(), "HOST")
}

#[tokio::test]
async fn the_request_is_framed_by_us_alone() {
    let text = sent_by(|request| {
        for (name, value) in [("transfer-encoding", "chunked"), ("content-length", "999"), ("host", "evil"), ("x-kept", "1")] {
            request.headers.push(&HeaderName::from_static(name), value.as_bytes());
        }
    })
    .await;
    assert!(text.starts_with("POST /hook?a=1 HTTP/1.1\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n{}"), "{text}");
    for line in ["\r\nhost: HOST\r\n", "\r\ncontent-length: 2\r\n", "\r\nx-kept: 1\r\n", "\r\nuser-agent: Lovage/"] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert!(!text.contains("evil") && !text.contains("999") && !text.contains("chunked"), "{text}");
}

#[tokio::test]
async fn a_missing_body_is_said_to_be_empty() {
    let text = sent_by(|request| request.body = Bytes::new()).await;
    assert!(text.contains("\r\ncontent-length: 0\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    let text = sent_by(|request| {
        request.body = Bytes::new();
        request.method = Method::GET;
    })
    .await;
    assert!(!text.contains("content-length"), "{text}");
}

#[tokio::test]
async fn an_own_user_agent_is_kept() {
    let text = sent_by(|request| {
        request.headers.push(&http::header::USER_AGENT, b"mine");
    })
    .await;
    assert!(text.contains("\r\nuser-agent: mine\r\n") && !text.contains("Lovage/"), "{text}");
}

#[tokio::test]
async fn connect_is_refused() {
    let server = Server::answering(OK).await;
    let transport = transport();
    let mut request = request(&transport, &server.url());
    request.method = Method::CONNECT;
    assert_eq!(transport.push(request).await.outcome.unwrap_err().kind(), FaultKind::Forbidden);
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn bodies_of_every_coding_and_size_come_whole() {
    let cases = [
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 204, String::new()),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), 200, String::new()),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nx-t: 1\r\n\r\n".to_owned(),
            200,
            "abc".to_owned(),
        ),
        ("HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 3\r\n\r\nraw".to_owned(), 200, "raw".to_owned()),
        ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 500 No\r\ncontent-length: 1\r\n\r\nx".to_owned(), 500, "x".to_owned()),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n{}", "y".repeat(300_000)), 200, "y".repeat(300_000)),
    ];
    for (answer, status, body) in cases {
        let server = Server::start(move |mut peer| {
            let answer = answer.clone();
            async move {
                while peer.request().await.is_some() {
                    peer.write(&answer).await;
                }
            }
        })
        .await;
        let transport = transport();
        for round in 0..3 {
            let pushed = push(&transport, &server.url()).await;
            assert_eq!(pushed.reused, round > 0, "{status} {}", body.len());
            let response = pushed.outcome.unwrap();
            assert_eq!(response.status, status);
            assert!(response.body == body && !response.truncated);
        }
    }
}

#[tokio::test]
async fn a_compressed_answer_is_decoded_and_junk_is_none() {
    let packed = lovage_coding::encode(lovage_coding::Coding::Gzip, &[b'z'; 5_000]).unwrap();
    for (body, coding) in [(packed, "gzip"), (b"raw".to_vec(), "gzip"), (b"raw".to_vec(), "snappy")] {
        let good = body != b"raw";
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend(body);
        let server = Server::start(move |mut peer| {
            let answer = answer.clone();
            async move {
                while peer.request().await.is_some() {
                    peer.write(&answer).await;
                }
            }
        })
        .await;
        let transport = transport();
        for round in 0..2 {
            let pushed = push(&transport, &server.url()).await;
            assert_eq!(pushed.reused, round > 0, "the connection is as good as before");
            match pushed.outcome {
                Ok(response) => assert!(good && response.body == vec![b'z'; 5_000] && !response.truncated),
                Err(fault) => assert!(!good && fault.kind() == FaultKind::Malformed),
            }
        }
    }
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_whole() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfour").await;
    let transport = transport();
    for (limit, body, truncated) in [(4, "four", false), (3, "fou", true), (0, "", true)] {
        let mut request = request(&transport, &server.url());
        request.max_body = limit;
        let response = transport.push(request).await.outcome.unwrap();
        assert_eq!((response.body, response.truncated), (Bytes::from(body), truncated));
    }
}

/// Collects what it takes into a shared list.
struct Lines {
    taken: Arc<Mutex<Vec<Bytes>>>,
    verdict: SinkVerdict,
}

impl AnswerSink for Lines {
    fn head(&mut self, status: StatusCode, headers: &HeaderMap) -> bool {
        status == 200 && headers.get("content-type").is_some_and(|kind| kind == "application/x-ndjson")
    }

    fn chunk(&mut self, piece: Bytes) -> SinkVerdict {
        self.taken.lock().push(piece);
        self.verdict
    }
}

/// Pushes with a time limit of 300 ms at a worker that takes 600 ms for five lines.
async fn streamed(kind: &'static str, verdict: SinkVerdict) -> (Pushed, Vec<Bytes>) {
    let server = Server::start(move |mut peer| async move {
        peer.request().await;
        peer.write(&format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n")).await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(120)).await;
            peer.write("3\r\n{}\n\r\n").await;
        }
        peer.write("0\r\n\r\n").await;
        peer.gone().await;
    })
    .await;
    let transport = transport();
    let mut request = request(&transport, &server.url());
    request.timeout = Duration::from_millis(300);
    let taken = Arc::new(Mutex::new(Vec::new()));
    request.sink = Some(Box::new(Lines { taken: Arc::clone(&taken), verdict }));
    let pushed = timeout(PATIENCE, transport.push(request)).await.unwrap();
    let taken = taken.lock().clone();
    (pushed, taken)
}

#[tokio::test]
async fn a_flood_of_lines_ends_at_the_time_limit() {
    for verdict in [SinkVerdict::Continue, SinkVerdict::Extend(Duration::ZERO)] {
        let server = Server::start(|mut peer| async move {
            peer.request().await;
            peer.write("HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n").await;
            while peer.write(&"{}\n".repeat(10_000)).await {}
        })
        .await;
        let transport = transport();
        let mut request = request(&transport, &server.url());
        request.timeout = Duration::from_millis(100);
        request.sink = Some(Box::new(Lines { taken: Arc::default(), verdict }));
        let pushed = timeout(PATIENCE, transport.push(request)).await.unwrap();
        assert_eq!(pushed.outcome.unwrap_err().kind(), FaultKind::TimedOut, "{verdict:?}");
    }
}

#[tokio::test]
async fn a_sink_takes_a_stream_and_may_extend_the_time_limit() {
    let (pushed, taken) = streamed("application/x-ndjson", SinkVerdict::Extend(Duration::from_secs(5))).await;
    let response = pushed.outcome.unwrap();
    assert_eq!(taken.concat().len(), 15);
    assert!(response.body.is_empty() && !response.truncated);
    assert_eq!(pushed.received, 15);

    let (pushed, taken) = streamed("application/x-ndjson", SinkVerdict::Continue).await;
    assert_eq!(pushed.outcome.unwrap_err().kind(), FaultKind::TimedOut);
    assert!(!taken.is_empty() && taken.len() < 5);

    let (pushed, taken) = streamed("application/x-ndjson", SinkVerdict::Stop).await;
    assert!(pushed.outcome.unwrap().truncated);
    assert_eq!(taken.len(), 1);

    let (pushed, taken) = streamed("text/plain", SinkVerdict::Extend(Duration::from_secs(5))).await;
    assert_eq!(pushed.outcome.unwrap_err().kind(), FaultKind::TimedOut);
    assert!(taken.is_empty());
}

#[tokio::test]
async fn a_compressed_stream_is_collected_and_decoded() {
    let packed = lovage_coding::encode(lovage_coding::Coding::Gzip, b"{}\n{}\n").unwrap();
    let server = Server::start(move |mut peer| {
        let packed = packed.clone();
        async move {
            peer.request().await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-encoding: gzip\r\n";
            peer.write(format!("{head}content-length: {}\r\n\r\n", packed.len())).await;
            peer.write(&packed).await;
            peer.gone().await;
        }
    })
    .await;
    let transport = transport();
    let mut request = request(&transport, &server.url());
    let taken = Arc::new(Mutex::new(Vec::new()));
    request.sink = Some(Box::new(Lines { taken: Arc::clone(&taken), verdict: SinkVerdict::Continue }));
    let response = timeout(PATIENCE, transport.push(request)).await.unwrap().outcome.unwrap();
    assert_eq!(response.body, "{}\n{}\n");
    assert!(taken.lock().is_empty());
}
