//! Connections are kept, reused and given up at the right times.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::*;
use crate::egress::conn::{Conn, Stream};
use crate::egress::pool::PoolKey;

fn with_idle(idle: Duration) -> HttpTransport {
    HttpTransport::new(EgressOptions { idle, ..options() }).unwrap()
}

#[tokio::test]
async fn one_connection_serves_many_pushes() {
    let server = Server::answering(OK).await;
    let transport = transport();
    for n in 0..5 {
        let pushed = push(&transport, &server.url()).await;
        assert_eq!(pushed.outcome.unwrap().body, "ok");
        assert_eq!(pushed.reused, n > 0);
        assert_eq!((pushed.sent, pushed.received), (2, 2));
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(transport.idle_connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_pushes_share_a_bounded_set_of_connections() {
    let server = Server::answering(OK).await;
    let transport = Arc::new(HttpTransport::new(EgressOptions { idle_per_origin: 3, ..options() }).unwrap());
    let mut pushes = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (transport, url) = (Arc::clone(&transport), server.url());
        pushes.spawn(async move {
            for _ in 0..50 {
                assert!(push(&transport, &url).await.outcome.is_ok());
            }
        });
    }
    while let Some(done) = pushes.join_next().await {
        done.unwrap();
    }
    assert!(transport.idle_connections() <= 3);
    assert!(server.accepted() < 800, "connections were reused");
}

#[tokio::test]
async fn the_youngest_connection_is_used_first() {
    // Both connections must be open at once, so the first two answers wait for each other.
    let together = Arc::new(tokio::sync::Barrier::new(2));
    let server = Server::start(move |mut peer| {
        let together = Arc::clone(&together);
        async move {
            let mut first = true;
            while peer.request().await.is_some() {
                if std::mem::take(&mut first) {
                    together.wait().await;
                }
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}", peer.number);
                peer.write(&answer).await;
            }
        }
    })
    .await;
    let transport = transport();
    let done = parking_lot::Mutex::new(Vec::new());
    let one = || async {
        let body = push(&transport, &server.url()).await.outcome.unwrap().body;
        done.lock().push(body);
    };
    tokio::join!(one(), one());
    assert_eq!(transport.idle_connections(), 2);
    let last = done.lock().last().unwrap().clone();
    for _ in 0..3 {
        assert_eq!(push(&transport, &server.url()).await.outcome.unwrap().body, last);
    }
}

#[tokio::test]
async fn the_total_of_kept_connections_is_limited() {
    let (a, b) = (Server::answering(OK).await, Server::answering(OK).await);
    let transport = HttpTransport::new(EgressOptions { idle_total: 1, ..options() }).unwrap();
    assert!(push(&transport, &a.url()).await.outcome.is_ok());
    assert!(push(&transport, &b.url()).await.outcome.is_ok());
    assert_eq!(transport.idle_connections(), 1);
    assert!(push(&transport, &a.url()).await.reused);
}

#[tokio::test]
async fn a_worker_that_says_close_is_not_met_again_on_that_connection() {
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nkeep-alive: timeout=0\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let server = Server::answering(answer).await;
        let transport = transport();
        for _ in 0..2 {
            let pushed = push(&transport, &server.url()).await;
            assert_eq!(pushed.outcome.unwrap().body, "ok");
            assert!(!pushed.reused);
            assert_eq!(transport.idle_connections(), 0);
        }
        assert_eq!(server.accepted(), 2);
    }
}

#[tokio::test]
async fn a_connection_the_worker_closed_is_swept_and_replaced() {
    let server = Server::start(|mut peer| async move {
        peer.request().await;
        peer.write(OK).await;
    })
    .await;
    let transport = transport();
    assert!(push(&transport, &server.url()).await.outcome.is_ok());
    until(|| transport.idle_connections() == 0).await;
    let pushed = push(&transport, &server.url()).await;
    assert!(pushed.outcome.is_ok());
    assert!(!pushed.reused);
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time() {
    let (told, mut closed) = mpsc::unbounded_channel();
    let server = Server::start(move |mut peer| {
        let told = told.clone();
        async move {
            peer.request().await;
            peer.write(OK).await;
            peer.gone().await;
            told.send(()).unwrap();
        }
    })
    .await;
    let transport = with_idle(Duration::from_millis(60));
    assert!(push(&transport, &server.url()).await.outcome.is_ok());
    timeout(PATIENCE, closed.recv()).await.unwrap();
    until(|| transport.idle_connections() == 0).await;

    // The sweep ended with the last connection; the next one starts it again.
    assert!(push(&transport, &server.url()).await.outcome.is_ok());
    timeout(PATIENCE, closed.recv()).await.unwrap();
}

#[tokio::test]
async fn surplus_bytes_spoil_a_connection() {
    let server = Server::start(|mut peer| async move {
        while peer.request().await.is_some() {
            peer.write(&format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")).await;
        }
    })
    .await;
    let transport = transport();
    for _ in 0..3 {
        let pushed = push(&transport, &server.url()).await;
        assert_eq!(pushed.outcome.unwrap().body, "ok");
        assert!(!pushed.reused);
    }
    assert_eq!(server.accepted(), 3);
}

/// Plants a kept connection to nowhere, and returns its other end.
fn plant(transport: &HttpTransport, server: &Server, keep: Duration) -> tokio::io::DuplexStream {
    let (ours, theirs) = tokio::io::duplex(4096);
    let conn = Conn::new(Stream::Other(Box::new(ours)));
    let origin = Arc::clone(request(transport, &server.url()).target.origin());
    transport.pool.put(PoolKey { origin, address: server.address }, conn, keep);
    assert_eq!(transport.idle_connections(), 1);
    theirs
}

#[tokio::test]
async fn an_aged_connection_is_not_used_even_before_the_sweep() {
    let server = Server::answering(OK).await;
    let transport = transport();
    let planted = std::time::Instant::now();
    let _theirs = plant(&transport, &server, Duration::from_millis(1));
    until(|| planted.elapsed() > Duration::from_millis(20)).await;
    let pushed = push(&transport, &server.url()).await;
    assert_eq!(pushed.outcome.unwrap().body, "ok");
    assert!(!pushed.reused);
}

#[tokio::test]
async fn a_stale_connection_that_took_nothing_is_replaced_once() {
    let server = Server::answering(OK).await;
    let transport = transport();
    // The peer hangs up, and nobody has noticed yet.
    drop(plant(&transport, &server, Duration::from_secs(4)));
    let pushed = push(&transport, &server.url()).await;
    assert_eq!(pushed.outcome.unwrap().body, "ok");
    assert!(!pushed.reused, "the answer came over a fresh connection");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_request_that_may_have_been_read_is_never_sent_again() {
    let server = Server::start(|mut peer| async move {
        if peer.number == 1 {
            peer.request().await;
            peer.write(OK).await;
        }
        // The second request on the kept connection, or any on another one, is read and left unanswered.
        peer.request().await;
        let _ = peer.stream.shutdown().await;
    })
    .await;
    let transport = transport();
    assert!(push(&transport, &server.url()).await.outcome.is_ok());
    let pushed = push(&transport, &server.url()).await;
    let fault = pushed.outcome.unwrap_err();
    assert_eq!(fault.kind(), crate::egress::FaultKind::Reset);
    assert!(fault.kind().may_have_arrived());
    assert!(pushed.reused);
    assert_eq!(server.accepted(), 1, "no second try");
}
