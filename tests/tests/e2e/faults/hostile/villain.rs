//! A worker on a raw socket that does one thing wrong, to every call.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::behaviour::Act;

/// Between two bytes of an answer in drops.
const DRIP: Duration = Duration::from_millis(20);

/// A running worker. Dropping it closes its port and its connections.
pub struct Villain {
    url: String,
    calls: Arc<AtomicUsize>,
    _listening: JoinSet<()>,
}

impl Villain {
    pub async fn start(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/work", listener.local_addr().unwrap());
        let (calls, act) = (Arc::new(AtomicUsize::new(0)), Arc::new(act));
        let mut listening = JoinSet::new();
        let counted = Arc::clone(&calls);
        listening.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (act, calls) = (Arc::clone(&act), Arc::clone(&counted));
                // A connection that breaks is what it is there for.
                connections.spawn(async move { drop(misbehave(stream, &act, &calls).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { url, calls, _listening: listening }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Requests that came, whatever for.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// Serves calls until the other side has had enough.
async fn misbehave(mut stream: TcpStream, act: &Act, calls: &AtomicUsize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while read_request(&mut stream).await? {
        let number = calls.fetch_add(1, Ordering::Relaxed);
        let next = |answers: &[Bytes]| answers[number % answers.len()].clone();
        match act {
            Act::Answer(answers) => stream.write_all(&next(answers)).await?,
            Act::AnswerAndClose(answers) => return stream.write_all(&next(answers)).await,
            Act::AnswerAndReset(answer) => {
                stream.write_all(answer).await?;
                return stream.set_zero_linger();
            }
            Act::Drip(head) => {
                stream.write_all(head).await?;
                loop {
                    stream.write_all(b"x").await?;
                    tokio::time::sleep(DRIP).await;
                }
            }
            Act::Flood(head, piece) => {
                stream.write_all(head).await?;
                loop {
                    stream.write_all(piece).await?;
                }
            }
        }
    }
    Ok(())
}

/// Reads one request to its end; `false` when there is none any more.
async fn read_request(stream: &mut TcpStream) -> io::Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).map_or(0, |n| n.trim().parse().unwrap());
    stream.read_exact(&mut vec![0; length]).await?;
    Ok(true)
}
