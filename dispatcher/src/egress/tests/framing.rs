//! Where an answer ends, and what that means for the next one on the same connection.

use std::time::Duration;

use super::*;
use crate::egress::FaultKind;
use crate::egress::conn::{Conn, Stream};
use crate::egress::pool::PoolKey;

/// Pushes twice at a server that sends `answer` to every request, and hangs up after it if wished: the bodies or faults, and
/// whether the second push went over the connection of the first.
async fn twice(method: Method, answer: String, hang_up: bool) -> (Vec<Result<Bytes, FaultKind>>, bool) {
    let server = Server::start(move |mut peer| {
        let answer = answer.clone();
        async move {
            while peer.request().await.is_some() {
                peer.write(&answer).await;
                if hang_up {
                    return;
                }
            }
        }
    })
    .await;
    let (transport, mut seen) = (transport(), Vec::new());
    for _ in 0..2 {
        let mut request = request(&transport, &server.url());
        request.method = method.clone();
        let pushed = timeout(PATIENCE, transport.push(request)).await.unwrap();
        seen.push(pushed.outcome.map(|response| response.body).map_err(|fault| fault.kind()));
    }
    (seen, server.accepted() == 1)
}

#[tokio::test]
async fn an_answer_that_ends_for_certain_leaves_the_connection_usable() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let (seen, kept) = twice(Method::POST, answer.to_owned(), false).await;
        assert_eq!(seen, [Ok(Bytes::from("ok")), Ok(Bytes::from("ok"))], "{answer:?}");
        assert!(kept, "{answer:?}");
    }
    for status in ["204 No Content", "304 Not Modified"] {
        let (seen, kept) = twice(Method::POST, format!("HTTP/1.1 {status}\r\ncontent-length: 7\r\n\r\n"), false).await;
        assert_eq!((seen, kept), (vec![Ok(Bytes::new()), Ok(Bytes::new())], true), "{status}");
    }
    let (seen, kept) = twice(Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n".to_owned(), false).await;
    assert_eq!((seen, kept), (vec![Ok(Bytes::new()), Ok(Bytes::new())], true));
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    let (seen, kept) = twice(Method::POST, "HTTP/1.1 200 OK\r\n\r\nok".to_owned(), true).await;
    assert_eq!((seen, kept), (vec![Ok(Bytes::from("ok")), Ok(Bytes::from("ok"))], false));
}

#[tokio::test]
async fn a_connection_that_two_readers_could_read_differently_is_not_used_again() {
    for answer in [
        // Both ways to tell the end.
        "HTTP/1.1 200 OK\r\ncontent-length: 40\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        // A body where there cannot be one.
        "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok",
        // More than was announced.
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n0\r\n\r\n",
    ] {
        let (seen, kept) = twice(Method::POST, answer.to_owned(), false).await;
        assert!(seen.iter().all(|body| body.as_ref().is_ok_and(|body| body == "ok" || body.is_empty())), "{answer:?}: {seen:?}");
        assert!(!kept, "{answer:?}");
    }
}

#[tokio::test]
async fn a_coding_that_cannot_be_undone_is_malformed() {
    for answer in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokk\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nokk",
    ] {
        let (seen, _) = twice(Method::POST, answer.to_owned(), false).await;
        assert_eq!(seen, [Err(FaultKind::Malformed), Err(FaultKind::Malformed)], "{answer:?}");
    }
}

#[tokio::test]
async fn interim_answers_are_bounded() {
    let (seen, _) = twice(Method::POST, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(2_000), false).await;
    assert_eq!(seen, [Err(FaultKind::Malformed), Err(FaultKind::Malformed)]);
}

#[tokio::test]
async fn an_answer_in_drops_is_read_whole() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-a: 1\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n";
    let server = Server::start(move |mut peer| async move {
        while peer.request().await.is_some() {
            for at in 0..answer.len() {
                peer.write(&answer[at..=at]).await;
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let transport = transport();
    for round in 0..3 {
        let pushed = push(&transport, &server.url()).await;
        assert_eq!(pushed.reused, round > 0);
        assert_eq!(pushed.outcome.unwrap().body, "ok");
    }
}

#[tokio::test]
async fn a_worker_may_answer_while_it_still_reads() {
    const BODY: usize = 8 << 20;
    let server = Server::start(|mut peer| async move {
        // The head of the answer goes out first, the body only when all of the request was read.
        peer.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await;
        while let Some(request) = peer.request().await {
            assert!(request.len() > BODY);
            peer.write("ok").await;
        }
    })
    .await;
    let transport = transport();
    let mut request = request(&transport, &server.url());
    request.body = Bytes::from(vec![b'x'; BODY]);
    let pushed = timeout(PATIENCE, transport.push(request)).await.unwrap();
    assert_eq!(pushed.outcome.unwrap().body, "ok");
    assert_eq!(pushed.sent, BODY as u64);
    assert_eq!(transport.idle_connections(), 1);
}

#[tokio::test]
async fn an_answer_counts_although_the_request_did_not_get_through() {
    let server = Server::start(|mut peer| async move {
        let mut chunk = [0; 1024];
        let _ = peer.stream.read(&mut chunk).await;
        peer.write("HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno").await;
        // The sending side is closed, and what still comes is read away: the answer must not be lost to a reset.
        let _ = peer.stream.shutdown().await;
        peer.gone().await;
    })
    .await;
    let transport = transport();
    let mut request = request(&transport, &server.url());
    request.body = Bytes::from(vec![b'x'; 32 << 20]);
    let pushed = timeout(PATIENCE, transport.push(request)).await.unwrap();
    let response = pushed.outcome.unwrap();
    assert_eq!((response.status.as_u16(), &response.body[..]), (413, &b"no"[..]));
    assert_eq!(transport.idle_connections(), 0);
}

#[tokio::test]
async fn a_connection_that_was_reset_unnoticed_gives_the_request_back() {
    let server = Server::answering(OK).await;
    let transport = transport();
    let origin = Arc::clone(request(&transport, &server.url()).target.origin());
    // A connection to nowhere whose reset the runtime has not seen yet when the push begins.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut conn = Conn::new(Stream::Tcp(TcpStream::from_std(ours).unwrap()));
    theirs.set_nonblocking(true).unwrap();
    let theirs = TcpStream::from_std(theirs).unwrap();
    theirs.set_zero_linger().unwrap();
    drop(theirs);
    assert!(conn.is_quiet(), "nobody has noticed yet");
    transport.pool.put(PoolKey { origin, address: server.address }, conn, Duration::from_secs(4));
    let pushed = push(&transport, &server.url()).await;
    assert_eq!(pushed.outcome.unwrap().body, "ok");
    assert!(!pushed.reused, "the answer came over a fresh connection");
    assert_eq!(server.accepted(), 1);
}
