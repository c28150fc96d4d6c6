//! Workers that misbehave cost a bounded time and a bounded amount of memory.

use std::time::Duration;

use tokio::sync::mpsc;

use super::*;
use crate::egress::FaultKind;

/// Pushes with a time limit of 150 ms and 64 KiB of answer.
async fn short_push(transport: &HttpTransport, url: &str) -> Pushed {
    let mut request = request(transport, url);
    request.timeout = Duration::from_millis(150);
    request.max_body = 64 * 1024;
    timeout(PATIENCE, transport.push(request)).await.unwrap()
}

/// What a push at a worker that sends `answer` and then waits, or hangs up, ends with.
async fn fault_after(answer: &'static str, hang_up: bool) -> FaultKind {
    let server = Server::start(move |mut peer| async move {
        peer.request().await;
        peer.write(answer).await;
        if !hang_up {
            peer.gone().await;
        }
    })
    .await;
    let transport = transport();
    let pushed = short_push(&transport, &server.url()).await;
    assert_eq!(transport.idle_connections(), 0, "{answer:?}");
    pushed.outcome.unwrap_err().kind()
}

#[tokio::test]
async fn silence_ends_at_the_time_limit_and_closes_the_connection() {
    for answer in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nx-a: ",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end",
    ] {
        let (told, mut closed) = mpsc::unbounded_channel();
        let server = Server::start(move |mut peer| {
            let told = told.clone();
            async move {
                peer.request().await;
                peer.write(answer).await;
                peer.gone().await;
                told.send(()).unwrap();
            }
        })
        .await;
        let transport = transport();
        let pushed = short_push(&transport, &server.url()).await;
        assert_eq!(pushed.outcome.unwrap_err().kind(), FaultKind::TimedOut, "{answer:?}");
        assert!(pushed.elapsed >= Duration::from_millis(150) && pushed.elapsed < Duration::from_secs(5));
        timeout(PATIENCE, closed.recv()).await.unwrap();
        assert_eq!(transport.idle_connections(), 0);
    }
}

#[tokio::test]
async fn a_body_in_drops_ends_at_the_time_limit() {
    let server = Server::start(|mut peer| async move {
        peer.request().await;
        peer.write("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await;
        while peer.write("x").await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let pushed = short_push(&transport(), &server.url()).await;
    assert_eq!(pushed.outcome.unwrap_err().kind(), FaultKind::TimedOut);
}

#[tokio::test]
async fn an_endless_body_is_cut_and_its_connection_dropped() {
    for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"] {
        let (told, mut closed) = mpsc::unbounded_channel();
        let server = Server::start(move |mut peer| {
            let told = told.clone();
            async move {
                peer.request().await;
                peer.write(head).await;
                while peer.write(&"x".repeat(10_000)).await {}
                told.send(()).unwrap();
            }
        })
        .await;
        let transport = transport();
        let mut request = request(&transport, &server.url());
        request.max_body = 64 * 1024;
        let pushed = timeout(PATIENCE, transport.push(request)).await.unwrap();
        let response = pushed.outcome.unwrap();
        assert!(response.truncated);
        assert_eq!(response.body.len(), 64 * 1024);
        assert_eq!(pushed.received, 64 * 1024);
        assert_eq!(transport.idle_connections(), 0);
        timeout(PATIENCE, closed.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_http_is_malformed() {
    let headers = Box::leak(format!("HTTP/1.1 200 OK\r\nx-a: {}\r\n\r\n", "a".repeat(20_000)).into_boxed_str());
    let many = Box::leak(format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101)).into_boxed_str());
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\0\0\0\0\0\0\0\0\0\0\0",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/3.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        headers,
        many,
    ] {
        assert_eq!(fault_after(answer, false).await, FaultKind::Malformed, "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_early_is_a_reset() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        assert_eq!(fault_after(answer, true).await, FaultKind::Reset, "{answer:?}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::answering(OK).await;
    let location = elsewhere.url();
    for status in [301, 302, 303, 307, 308] {
        let answer = format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let server = Server::start(move |mut peer| {
            let answer = answer.clone();
            async move {
                peer.request().await;
                peer.write(&answer).await;
                peer.gone().await;
            }
        })
        .await;
        let pushed = push(&transport(), &server.url()).await;
        assert_eq!(pushed.outcome.unwrap().status, status);
    }
    assert_eq!(elsewhere.accepted(), 0);
}

#[tokio::test]
async fn a_closed_port_is_refused_before_anything_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let pushed = push(&transport(), &format!("http://{address}/")).await;
    let fault = pushed.outcome.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Refused);
    assert!(!fault.kind().may_have_arrived());
    assert_eq!(pushed.sent, 0);
    // The tenant's text is fixed; the system's words stay in the detail.
    assert_eq!(fault.to_string(), "the connection cannot be established");
    assert!(fault.detail().contains("refused"), "{fault:?}");
}

#[tokio::test]
async fn giving_up_a_push_closes_its_connection() {
    let (told, mut news) = mpsc::unbounded_channel();
    let server = Server::start(move |mut peer| {
        let told = told.clone();
        async move {
            peer.request().await;
            told.send("asked").unwrap();
            peer.gone().await;
            told.send("gone").unwrap();
        }
    })
    .await;
    let transport = transport();
    let mut running = transport.push(request(&transport, &server.url()));
    tokio::select! {
        _ = &mut running => panic!("nobody answers"),
        asked = news.recv() => assert_eq!(asked, Some("asked")),
    }
    drop(running);
    assert_eq!(timeout(PATIENCE, news.recv()).await.unwrap(), Some("gone"));
}

#[tokio::test]
async fn a_worker_that_answers_without_reading_holds_no_connection() {
    const BODY: usize = 64 << 20;
    let (told, mut read) = mpsc::unbounded_channel();
    let done = Arc::new(tokio::sync::Notify::new());
    let push_is_over = Arc::clone(&done);
    let server = Server::start(move |mut peer| {
        let (told, push_is_over) = (told.clone(), Arc::clone(&push_is_over));
        async move {
            peer.write("HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\n\r\ntoo large").await;
            push_is_over.notified().await;
            let (mut total, mut chunk) = (0, vec![0; 1 << 16]);
            while let Ok(n) = peer.stream.read(&mut chunk).await
                && n > 0
            {
                total += n;
            }
            told.send(total).unwrap();
        }
    })
    .await;
    let transport = transport();
    let mut request = request(&transport, &server.url());
    request.body = Bytes::from(vec![0; BODY]);
    request.max_body = 3;
    request.timeout = PATIENCE;
    let pushed = timeout(PATIENCE, transport.push(request)).await.unwrap();
    assert!(pushed.outcome.unwrap().truncated);
    done.notify_one();
    let read = timeout(PATIENCE, read.recv()).await.unwrap().unwrap();
    assert!(read < BODY, "the connection lived on and sent everything");
}
