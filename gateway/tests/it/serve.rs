//! The listener: slow clients are cut, connections are counted, a stop is clean and bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lovage_gateway::{GatewayOptions, ServeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{Harness, options, until};

struct Server {
    h: Arc<Harness>,
    address: SocketAddr,
    stop: CancellationToken,
    /// The other parts of the process are done.
    rest: CancellationToken,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    async fn start(set: impl FnOnce(&mut GatewayOptions)) -> Self {
        let mut options = options();
        set(&mut options);
        let h = Arc::new(Harness::with(options, |_| ()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let rest = CancellationToken::new();
        let (server, stopping, others) = (h.clone(), stop.clone(), rest.clone());
        let served = tokio::spawn(async move { server.gateway.serve(listener, stopping, others).await });
        Self { h, address, stop, rest, served }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `bytes` and reads until the server closes.
    async fn talk(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is as good as an end.
    let reading = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes));
    let _ = reading.await.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until `text` has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&all).contains(text) {
            assert_ne!(stream.read_buf(&mut all).await.unwrap(), 0, "closed after {:?}", String::from_utf8_lossy(&all));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap_or_else(|_| panic!("no {text:?}"));
    String::from_utf8(all).unwrap()
}

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

const GET_READY: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_client_that_does_not_speak_is_cut() {
    let server = Server::start(|options| options.times.head = Duration::from_millis(100)).await;
    for beginning in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", b"GET /healthz HTTP/1.1\r\nHost: loc", b"POST / HTTP/1.1\r\n"] {
        let started = Instant::now();
        let answer = server.talk(beginning).await;
        assert!(!answer.contains(" 200 "), "{answer}");
        assert!(started.elapsed() < Duration::from_secs(5), "{beginning:?}");
    }
    let mut stream = server.connect().await;
    stream.write_all(GET).await.unwrap();
    assert!(rest(&mut stream).await.contains("200 OK"), "an idle connection is closed after its answer");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_problem() {
    let server = Server::start(|options| options.times.body_idle = Duration::from_millis(100)).await;
    let head =
        "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"task\"";
    let answer = server.talk(head.as_bytes()).await;
    assert!(answer.contains(" 400 ") && answer.contains("did not arrive in time"), "{answer}");
    let head = head.replace("/v1/tasks", "/v1/tasks:batch").replace("application/json", "application/x-ndjson");
    let answer = server.talk(head.replace("{\"task\"", "{\"task\":\"a\"}\n{\"ta").as_bytes()).await;
    assert!(answer.contains("\"status\":202") && answer.contains("did not arrive in time"), "{answer}");
}

#[tokio::test]
async fn a_body_in_drops_runs_out_of_time() {
    let server = Server::start(|options| {
        options.times.body_idle = Duration::from_millis(200);
        options.times.body = Duration::from_millis(400);
    })
    .await;
    let mut stream = server.connect().await;
    let head = "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let dropping = tokio::spawn(async move {
        while writing.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = vec![0; 12];
    tokio::time::timeout(Duration::from_secs(20), reading.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 400");
    dropping.abort();
}

#[tokio::test]
async fn a_client_that_does_not_listen_is_cut() {
    let server = Server::start(|options| options.times.write_idle = Duration::from_millis(200)).await;
    let payload = "x".repeat(1_000_000);
    server.h.submit(&format!(r#"{{"task":"a","id":"big","payload":"{payload}"}}"#)).await;
    let mut stream = server.connect().await;
    for _ in 0..64 {
        stream.write_all(b"GET /v1/tasks/big/payload HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    }
    // The client reads nothing; once it is cut, writing fails.
    let is_cut = |result: std::io::Result<usize>| result.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock);
    until("it is cut", async || is_cut(stream.try_write(b"GET"))).await;
}

#[tokio::test]
async fn connections_are_counted() {
    let server = Server::start(|options| options.limits.connections = 1).await;
    let mut first = server.connect().await;
    first.write_all(GET).await.unwrap();
    read_until(&mut first, "ok").await;
    let mut second = server.connect().await;
    second.write_all(GET).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), second.read_u8()).await;
    assert!(early.is_err(), "the second one waits: {early:?}");
    drop(first);
    read_until(&mut second, "200 OK").await;
}

#[tokio::test]
async fn heads_over_the_limit_are_problems() {
    let server = Server::start(|_| ()).await;
    let long = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000));
    let answer = server.talk(long.as_bytes()).await;
    assert!(answer.contains(" 413 ") && answer.contains("payload_too_large"), "{answer}");
    let endless = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: {}", "x".repeat(200_000));
    let mut stream = server.connect().await;
    // The server may close before all is written.
    let _ = stream.write_all(endless.as_bytes()).await;
    assert!(!rest(&mut stream).await.contains("200 OK"));
}

#[tokio::test]
async fn lines_are_answered_while_the_stream_goes_on() {
    let server = Server::start(|_| ()).await;
    let mut stream = server.connect().await;
    let head = "POST /v1/tasks:batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for n in 0..3 {
        let line = format!("{{\"task\":\"a\",\"id\":\"line-{n}\"}}\n");
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
        read_until(&mut stream, &format!("line-{n}")).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut stream, "0\r\n\r\n").await;
}

#[tokio::test]
async fn http2_is_spoken() {
    let server = Server::start(|_| ()).await;
    let io = TokioIo::new(server.connect().await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{}/v1/tasks", server.address);
    let request = axum::http::Request::post(&uri).header("content-type", "application/json");
    let response = sender.send_request(request.body(Body::from(r#"{"task":"a"}"#)).unwrap()).await.unwrap();
    assert_eq!(response.status(), 202);
    assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
    let foreign = axum::http::Request::get("http://evil.example/healthz").body(Body::empty()).unwrap();
    assert_eq!(sender.send_request(foreign).await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_stop_answers_those_who_wait() {
    let server = Server::start(|_| ()).await;
    let mut waiting = server.connect().await;
    let body = r#"{"task":"a","id":"stored"}"#;
    let head = "POST /v1/tasks?wait=60s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ";
    waiting.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    until("it is stored and waited for", async || server.h.get("/v1/tasks/stored").await.status == 200).await;
    let mut idle = server.connect().await;
    idle.write_all(GET).await.unwrap();
    read_until(&mut idle, "ok").await;
    server.stop.cancel();
    server.rest.cancel();
    let answer = rest(&mut waiting).await;
    assert!(answer.contains("202 Accepted") && answer.contains("queued"), "{answer}");
    assert_eq!(rest(&mut idle).await, "");
    let served = tokio::time::timeout(Duration::from_secs(20), server.served).await.unwrap().unwrap();
    assert!(served.is_ok());
    server.h.get("/readyz").await.is_problem(lovage_core::problem::Code::Draining);
    until("nobody listens", async || TcpStream::connect(server.address).await.is_err()).await;
}

#[tokio::test]
async fn who_comes_while_the_rest_is_finished_is_told_so() {
    let server = Server::start(|_| ()).await;
    let mut old = server.connect().await;
    old.write_all(GET).await.unwrap();
    read_until(&mut old, "ok").await;
    server.stop.cancel();
    until("it drains", async || server.talk(GET_READY).await.contains(" 503 ")).await;
    // A connection from before is no worse off than a new one.
    old.write_all(GET_READY).await.unwrap();
    assert!(rest(&mut old).await.contains("\"draining\""));
    for path in ["/readyz", "/v1/tasks", "/nowhere"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = server.talk(request.as_bytes()).await.to_ascii_lowercase();
        assert!(answer.contains(" 503 ") && answer.contains("\"draining\""), "{path}: {answer}");
        assert!(answer.contains("\r\nretry-after: ") && answer.contains("\r\nconnection: close"), "{path}: {answer}");
    }
    let live = server.talk(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(live.contains("200 OK"), "{live}");
    // One that is kept open does not hold up the end.
    let mut kept = server.connect().await;
    kept.write_all(GET).await.unwrap();
    read_until(&mut kept, "ok").await;
    server.rest.cancel();
    let served = tokio::time::timeout(Duration::from_secs(20), server.served).await.unwrap().unwrap();
    assert!(served.is_ok());
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_stream_that_is_open_goes_on_and_keeps_the_listener() {
    let server = Server::start(|_| ()).await;
    let mut stream = server.connect().await;
    let head = "POST /v1/tasks:batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for id in ["before", "after"] {
        let line = format!("{{\"task\":\"a\",\"id\":\"{id}\"}}\n");
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
        read_until(&mut stream, id).await;
        server.stop.cancel();
        server.rest.cancel();
        until("it drains", async || server.talk(GET_READY).await.contains(" 503 ")).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(rest(&mut stream).await.ends_with("0\r\n\r\n"));
    assert!(server.served.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_stop_is_bounded_by_the_grace() {
    let server = Server::start(|options| options.times.grace = Duration::from_millis(200)).await;
    let mut endless = server.connect().await;
    let head = "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n";
    endless.write_all(head.as_bytes()).await.unwrap();
    // Sent when the handler asks for the body.
    read_until(&mut endless, "100 Continue").await;
    server.stop.cancel();
    let served = tokio::time::timeout(Duration::from_secs(5), server.served).await.unwrap().unwrap();
    assert!(matches!(served, Err(ServeError::Cut)));
    assert_eq!(rest(&mut endless).await, "");
}
