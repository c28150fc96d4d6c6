//! The transport against real servers on loopback, and a scripted resolver.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod counting;
mod dials;
mod framing;
mod hostile;
mod keeping;
mod names;
mod targets;
mod tls;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{AddressPolicy, EgressOptions, HeaderLines, HttpTransport, PushRequest, Pushed, Resolve, Target, Transport};

/// No wait in these tests is longer, or something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that runs the given script on every connection.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start<F, R>(script: F) -> Self
    where
        F: Fn(Peer<TcpStream>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0", script).await
    }

    async fn start_at<F, R>(address: &str, script: F) -> Self
    where
        F: Fn(Peer<TcpStream>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(script(Peer { stream, number, buffer: Vec::new() }));
            }
        });
        Self { address, accepted, task }
    }

    /// Answers every request on a connection with `answer`, as long as the connection lasts.
    async fn answering(answer: &'static str) -> Self {
        Self::start(move |mut peer| async move {
            while peer.request().await.is_some() {
                peer.write(answer).await;
            }
        })
        .await
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn url(&self) -> String {
        format!("http://{}/hook?a=1", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The server's end of one connection; `number` counts the accepted ones from 1.
struct Peer<S> {
    stream: S,
    number: usize,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// The next whole request as text, or `None` at the end of the connection.
    async fn request(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.whole_request() {
                let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end);
                return Some(text);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
            }
        }
    }

    fn whole_request(&self) -> Option<usize> {
        let head = self.buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let end = head + length.map_or(0, |n| n.trim().parse::<usize>().unwrap());
        (self.buffer.len() >= end).then_some(end)
    }

    async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Waits until the other side is gone.
    async fn gone(&mut self) {
        let mut chunk = [0; 4096];
        while matches!(self.stream.read(&mut chunk).await, Ok(n) if n > 0) {}
    }
}

/// A resolver that gives the scripted answers in turn and repeats the last one.
struct Script {
    answers: Mutex<VecDeque<io::Result<Vec<IpAddr>>>>,
    lookups: AtomicUsize,
}

impl Script {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |list: &&[&str]| Ok(list.iter().map(|ip| ip.parse().unwrap()).collect());
        Arc::new(Self { answers: Mutex::new(answers.iter().map(parse).collect()), lookups: AtomicUsize::new(0) })
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }
}

impl Resolve for Script {
    fn lookup(&self, _host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock();
        let answer = match answers.front() {
            None => Err(io::Error::other("no such host: secret-resolver-detail")),
            Some(Ok(last)) if answers.len() == 1 => Ok(last.clone()),
            Some(_) => answers.pop_front().unwrap(),
        };
        Box::pin(async move {
            tokio::task::yield_now().await;
            answer
        })
    }
}

fn options() -> EgressOptions {
    EgressOptions { policy: AddressPolicy::development(), ..EgressOptions::default() }
}

fn transport() -> HttpTransport {
    HttpTransport::new(options()).unwrap()
}

fn request(transport: &HttpTransport, url: &str) -> PushRequest {
    let target = Arc::new(Target::parse(url, transport.policy()).unwrap());
    PushRequest::new(target, Method::POST, HeaderLines::default(), Bytes::from_static(b"{}"))
}

async fn push(transport: &HttpTransport, url: &str) -> Pushed {
    timeout(PATIENCE, transport.push(request(transport, url))).await.unwrap()
}

/// Waits until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("the condition never held");
}
