//! The worker's memory: what was asked, when, and how it ended.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use serde_json::Value;
use sha2::Sha256;
use tokio::sync::watch;

use crate::clock::now_ns;

/// One request as the worker saw it.
#[derive(Debug, Clone)]
pub struct Call {
    /// `Webhook-Id`: the task id (or the callback's id); empty if absent.
    pub id: String,
    /// `Lovage-Task`; empty if absent.
    pub task: String,
    /// `Lovage-Attempt`; 0 if absent.
    pub attempt: u32,
    /// The method, as sent.
    pub method: String,
    /// Path and query, as sent.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Number of the connection that carried it, counted by the worker.
    pub connection: u64,
    /// When its last byte had been read; see [`crate::clock`].
    pub started_ns: u64,
    /// Just before the last byte of the answer was sent or the connection cut, or when the other side was seen to have left.
    pub ended_ns: Option<u64>,
    /// How it ended.
    pub answered: Answered,
}

/// How a call ended, as far as the worker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answered {
    /// Not yet.
    Open,
    /// With this status, completely handed to the kernel.
    Status(u16),
    /// The worker reset the connection.
    Reset,
    /// The worker closed the connection, after raw bytes or none.
    Closed,
    /// The other side left before the answer was complete.
    ClientLeft,
}

impl Call {
    /// The body as JSON; panics if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("the body of a call is no JSON ({error}): {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// A header as text; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers of calls are text"))
    }

    /// Whether `Webhook-Signature` is valid for a `whsec_…` secret, as Standard Webhooks define it.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = BASE64_STANDARD.decode(secret.trim_start_matches("whsec_")).expect("the secret is base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key may have any length");
        mac.update(format!("{}.{}.", self.id, self.header("webhook-timestamp")).as_bytes());
        mac.update(&self.body);
        let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
        self.header("webhook-signature").split(' ').any(|signature| signature == expected)
    }
}

/// All calls of a worker, and a signal for each change.
#[derive(Default)]
pub(crate) struct Record {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    calls: Vec<Call>,
    open: Vec<Open>,
    /// How many calls have been forgotten; a call's number less this is its place in `calls`.
    forgotten: usize,
}

struct Open {
    number: usize,
    /// A second handle on the call's connection.
    socket: Arc<TcpStream>,
}

/// A call that has arrived and not ended. Dropped without an end (the worker was stopped) it counts as closed.
pub(crate) struct OpenCall<'a> {
    record: &'a Record,
    number: usize,
}

impl Record {
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Runs `look` on all calls so far.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&[Call]) -> T) -> T {
        look(&self.lock().calls)
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().calls.len()
    }

    pub(crate) fn open(&self) -> usize {
        self.lock().open.len()
    }

    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        inner.forgotten += inner.calls.len();
        inner.calls.clear();
        inner.open.clear();
        drop(inner);
        self.signal();
    }

    /// Adds an arrived call. Earlier calls of the same task whose connection the other side has already closed end now: their
    /// own connection may not have had its turn to notice, and would otherwise look as if it overlapped this one.
    pub(crate) fn arrive(&self, call: Call, socket: &Arc<TcpStream>) -> OpenCall<'_> {
        let mut inner = self.lock();
        let abandoned: Vec<usize> = inner.abandoned(&call.id);
        for number in abandoned {
            inner.end(number, call.started_ns, Answered::ClientLeft);
        }
        let number = inner.forgotten + inner.calls.len();
        inner.calls.push(call);
        inner.open.push(Open { number, socket: Arc::clone(socket) });
        drop(inner);
        self.signal();
        OpenCall { record: self, number }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    fn signal(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }
}

impl Inner {
    fn abandoned(&self, id: &str) -> Vec<usize> {
        let of_task = |open: &&Open| self.calls[open.number - self.forgotten].id == id;
        self.open.iter().filter(of_task).filter(|open| is_closed(&open.socket)).map(|open| open.number).collect()
    }

    fn end(&mut self, number: usize, now_ns: u64, answered: Answered) {
        self.open.retain(|open| open.number != number);
        let Some(call) = number.checked_sub(self.forgotten).and_then(|place| self.calls.get_mut(place)) else { return };
        call.ended_ns.get_or_insert(now_ns);
        // Once the other side has left, nothing the worker still does is an answer.
        if call.answered != Answered::ClientLeft {
            call.answered = answered;
        }
    }
}

impl OpenCall<'_> {
    /// Stamps the end of the call; to be called before the answer leaves. The first stamp counts for the time; a later one can
    /// still say that the other side had left.
    pub(crate) fn end(&self, answered: Answered) {
        self.record.lock().end(self.number, now_ns(), answered);
        self.record.signal();
    }
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        let still_open = self.record.lock().open.iter().any(|open| open.number == self.number);
        if still_open {
            self.end(Answered::Closed);
        }
    }
}

/// Whether the other side has closed or reset the connection. The socket is non-blocking.
fn is_closed(socket: &TcpStream) -> bool {
    match socket.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Pairs of calls of one task that were open at the same time.
pub(crate) fn overlaps(calls: &[Call]) -> Vec<(Call, Call)> {
    let mut last: HashMap<&str, &Call> = HashMap::new();
    let mut pairs = Vec::new();
    let mut ordered: Vec<&Call> = calls.iter().filter(|call| !call.id.is_empty()).collect();
    ordered.sort_by_key(|call| call.started_ns);
    for call in ordered {
        let longest = last.entry(&call.id).or_insert(call);
        if longest.connection != call.connection && longest.ended_ns.is_none_or(|end| end > call.started_ns) {
            pairs.push((Call::clone(longest), call.clone()));
        }
        if longest.ended_ns.is_some_and(|end| call.ended_ns.is_none_or(|own| own > end)) {
            *longest = call;
        }
    }
    pairs
}

/// A few lines about the last calls, for the message of a failed wait.
pub(crate) fn describe(calls: &[Call]) -> String {
    let mut text = format!("{} calls", calls.len());
    for call in calls.iter().rev().take(10) {
        let _infallible = write!(text, "\n  {} {} attempt {} {:?}", call.id, call.task, call.attempt, call.answered);
    }
    text
}
