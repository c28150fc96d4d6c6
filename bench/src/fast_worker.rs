//! A worker that costs almost nothing, so that a measurement is about the queue in front of it.
//!
//! One thread, one reusable buffer per connection, one fixed answer: per request one `recv`, one `send`, a scan of the
//! head and a timestamp. Any POST outside its own routes counts as a task, or as all the tasks of its `Lovage-Batch`.
//!
//! Routes: `GET /stats[?nth=N]`, `GET /receipts` (a line `ID NANOSECONDS` each, if recording), and
//! `POST /reset[?record=true][&delay_ms=N]`.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::client::read_more;
use crate::clock::{monotonic_ns, own_cpu_seconds};
use crate::wire::parse_head;

const DONE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"ok\":true}";
const LARGEST_BODY: usize = 8 * 1024 * 1024;

/// What `GET /stats` answers. Instants are `CLOCK_MONOTONIC` nanoseconds, 0 for "not yet".
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Task requests received since the last reset.
    pub count: usize,
    /// When the first one was whole.
    pub first_ns: u64,
    /// When the last one so far was whole.
    pub last_ns: u64,
    /// When the one asked for by `nth` (from 1) was whole.
    pub nth_ns: u64,
    /// Processor seconds of the worker process since its start.
    pub cpu_seconds: f64,
}

#[derive(Default)]
struct Record {
    instants: Vec<u64>,
    /// Task id and instant of each receipt; `None` when not recording.
    receipts: Option<Vec<(Box<[u8]>, u64)>>,
    delay: Duration,
}

/// Serves until the process ends, on the calling thread. `started` is told the address once connections are accepted.
pub fn run(listen: &str, delay: Duration, started: impl FnOnce(std::net::SocketAddr)) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        started(listener.local_addr()?);
        let record = Arc::new(Mutex::new(Record { delay, ..Record::default() }));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let record = Arc::clone(&record);
            tokio::spawn(async move {
                // A peer that goes away, or does not speak HTTP, ends its own connection and nothing else.
                let _ = serve_connection(stream, &record).await;
            });
        }
    })
}

/// One thread serves all connections, so there is never anybody to wait for.
fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve_connection(mut stream: TcpStream, record: &Mutex<Record>) -> io::Result<()> {
    let mut input = Vec::new();
    loop {
        let Some(head) = parse_head(&input) else {
            read_more(&mut stream, &mut input).await?;
            continue;
        };
        let end = head.length + head.content_length.unwrap_or(0);
        if head.chunked || end > LARGEST_BODY {
            let refusal: &[u8] = if head.chunked {
                b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            } else {
                b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            };
            return stream.write_all(refusal).await;
        }
        if input.len() < end {
            read_more(&mut stream, &mut input).await?;
            continue;
        }
        let (method, target) = head.request().unwrap_or(("", ""));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match (method, path) {
            ("GET", "/stats") => {
                let stats = lock(record).stats(number(query, "nth"));
                let body = serde_json::to_vec(&stats)?;
                write_answer(&mut stream, "application/json", &body).await?;
            }
            ("GET", "/receipts") => {
                let body = lock(record).receipt_lines();
                write_answer(&mut stream, "text/plain", &body).await?;
            }
            ("POST", "/reset") => {
                *lock(record) = Record {
                    receipts: parameter(query, "record").map(|_| Vec::new()),
                    delay: Duration::from_millis(number(query, "delay_ms") as u64),
                    ..Record::default()
                };
                stream.write_all(DONE).await?;
            }
            ("POST", _) if head.batch => {
                let tasks: Vec<Task<'_>> = serde_json::from_slice(&input[head.length..end])?;
                let delay = {
                    let mut record = lock(record);
                    tasks.iter().map(|task| record.note(Some(task.id.as_bytes()))).max().unwrap_or_default()
                };
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let body = done_together(&tasks);
                write_answer(&mut stream, "application/json", &body).await?;
            }
            ("POST", _) => {
                let delay = lock(record).note(head.webhook_id);
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                stream.write_all(DONE).await?;
            }
            _ => {
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?;
            }
        }
        input.drain(..end);
    }
}

/// A task of a batch.
#[derive(Deserialize)]
struct Task<'a> {
    id: &'a str,
}

/// The answer to a batch: all went well.
fn done_together(tasks: &[Task<'_>]) -> Vec<u8> {
    let mut body = Vec::with_capacity(tasks.len() * 96 + 2);
    body.push(b'[');
    for (index, task) in tasks.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(b"{\"id\":\"");
        body.extend_from_slice(task.id.as_bytes());
        body.extend_from_slice(b"\",\"outcome\":\"success\",\"result\":{\"ok\":true}}");
    }
    body.push(b']');
    body
}

impl Record {
    fn note(&mut self, id: Option<&[u8]>) -> Duration {
        let now = monotonic_ns();
        self.instants.push(now);
        if let (Some(receipts), Some(id)) = (&mut self.receipts, id) {
            receipts.push((id.into(), now));
        }
        self.delay
    }

    fn stats(&self, nth: usize) -> Stats {
        let at = |index: Option<usize>| index.and_then(|index| self.instants.get(index)).copied();
        Stats {
            count: self.instants.len(),
            first_ns: at(Some(0)).unwrap_or(0),
            last_ns: at(self.instants.len().checked_sub(1)).unwrap_or(0),
            nth_ns: at(nth.checked_sub(1)).unwrap_or(0),
            cpu_seconds: own_cpu_seconds(),
        }
    }

    fn receipt_lines(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        for (id, instant) in self.receipts.iter().flatten() {
            lines.extend_from_slice(id);
            lines.extend_from_slice(format!(" {instant}\n").as_bytes());
        }
        lines
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn number(query: &str, name: &str) -> usize {
    parameter(query, name).and_then(|value| value.parse().ok()).unwrap_or(0)
}

async fn write_answer(stream: &mut TcpStream, content_type: &str, body: &[u8]) -> io::Result<()> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    stream.write_all(&answer).await
}
