//! The seam through which every request leaves: the [`Transport`] trait and what goes through it.
//!
//! The owner of a partition knows this alone; simulations bring a transport of their own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode};

use super::fault::PushFault;
use super::lines::HeaderLines;
use super::target::Target;

/// Sends requests to workers. The dispatcher knows this trait alone; simulations bring their own.
pub trait Transport: Send + Sync {
    /// Sends one request and waits for the end of its answer, a fault, or the time limit. Dropping the future
    /// closes the connection.
    fn push(&self, request: PushRequest) -> BoxFuture<'_, Pushed>;
}

/// One request.
pub struct PushRequest {
    /// Where to.
    pub target: Arc<Target>,
    /// The method; `CONNECT` is refused.
    pub method: Method,
    /// All headers but `Host`, `Content-Length` and (unless given) `User-Agent`, which the transport sets.
    pub headers: HeaderLines,
    /// The body; may be empty.
    pub body: Bytes,
    /// The time from the name lookup to the last byte of the answer.
    pub timeout: Duration,
    /// The part of it that lookup, connect and TLS handshake may take together.
    pub connect_timeout: Duration,
    /// How many bytes of the answer's body are read.
    pub max_body: usize,
    /// Takes a streaming answer while it arrives.
    pub sink: Option<Box<dyn AnswerSink>>,
}

impl PushRequest {
    /// A request with the default limits: 30 s in all, 5 s to connect, 1 MiB of answer, no sink.
    pub fn new(target: Arc<Target>, method: Method, headers: HeaderLines, body: Bytes) -> Self {
        Self {
            target,
            method,
            headers,
            body,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            max_body: 1024 * 1024,
            sink: None,
        }
    }
}

/// Takes the body of a streaming answer piece by piece. It sets its own limit on what it keeps.
pub trait AnswerSink: Send {
    /// Called with the head of the answer: true takes the body, false leaves it to be collected as usual.
    fn head(&mut self, status: StatusCode, headers: &HeaderMap) -> bool;
    /// Called with each piece of the body, cut anywhere.
    fn chunk(&mut self, piece: Bytes) -> SinkVerdict;
}

/// What a sink wants after a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkVerdict {
    /// Read on.
    Continue,
    /// Read on, and let the time limit end this long from now.
    Extend(Duration),
    /// Stop reading and drop the connection; the answer counts as truncated.
    Stop,
}

/// The answer of a worker.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; empty if a sink took it.
    pub body: Bytes,
    /// The body was longer than `max_body`, or the sink stopped.
    pub truncated: bool,
}

/// What became of a push.
#[derive(Debug)]
pub struct Pushed {
    /// The answer, or why there is none.
    pub outcome: Result<Response, PushFault>,
    /// Bytes of body handed to a connection.
    pub sent: u64,
    /// Bytes of body read from the answer; zero after a fault.
    pub received: u64,
    /// The request went over a kept connection.
    pub reused: bool,
    /// How long it took.
    pub elapsed: Duration,
}
