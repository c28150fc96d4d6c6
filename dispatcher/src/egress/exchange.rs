//! One request and its answer on an open connection.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_ENCODING, HeaderName};
use http::{HeaderMap, StatusCode, Version};
use tokio::time::{Instant, Sleep};

use super::body::{Body, Taken};
use super::conn::{Conn, Outgoing};
use super::fault::{FaultKind, PushFault};
use super::head::{Head, MAX_HEAD, Malformed, take_head};
use super::message::Message;
use super::transport::{AnswerSink, Response, SinkVerdict};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How an exchange went.
pub(crate) enum Exchanged {
    /// The answer, and for how long the connection may be kept (`None`: not at all).
    Answered { response: Response, received: u64, keep: Option<Duration> },
    /// The connection was closed before it took anything of the request: it can be sent again on another.
    GivenBack(PushFault),
    /// Nothing of use came; the connection must be dropped.
    Failed(PushFault),
}

/// Limits of one exchange.
pub(crate) struct Limits<'a> {
    /// Fires at the end of the time limit; a sink may move it.
    pub(crate) alarm: Pin<&'a mut Sleep>,
    pub(crate) max_body: usize,
    /// The longest time to keep the connection afterwards.
    pub(crate) idle: Duration,
}

/// Sends `message` and reads the answer to its end, to `max_body`, or until the alarm.
pub(crate) async fn exchange(
    conn: &mut Conn,
    message: &Message,
    limits: &mut Limits<'_>,
    sink: Option<&mut (dyn AnswerSink + '_)>,
) -> Exchanged {
    let mut line = Line { conn, out: message.outgoing() };
    let head = match line.head(limits).await {
        Ok(head) => head,
        Err(fault) if line.conn.took_nothing(&line.out) => return Exchanged::GivenBack(fault),
        Err(fault) => return Exchanged::Failed(fault),
    };
    let framing = match head.framing(message.to_head) {
        Ok(framing) => framing,
        Err(malformed) => return Exchanged::Failed(malformed.into()),
    };
    // Lines of a compressed stream cannot be read as they come: it is collected and decoded like any other answer.
    let sink = sink.filter(|_| !head.headers.contains_key(CONTENT_ENCODING));
    let sink = sink.and_then(|sink| sink.head(head.status, &head.headers).then_some(sink));
    let mut body = Body::new(framing);
    let read = match sink {
        None => collect(&mut line, &mut body, limits).await,
        Some(sink) => stream(&mut line, &mut body, limits, sink).await,
    };
    match read {
        Ok(read) => {
            // What follows the answer, or did not get through before it, would be taken for a part of the next exchange.
            let clean = read.complete && line.is_clean() && !body.ends_with_connection() && !head.is_ambiguous();
            let keep = if clean { keep_time(head.version, &head.headers, limits.idle) } else { None };
            conn.rest();
            let response = Response { status: head.status, headers: head.headers, body: read.body, truncated: !read.complete };
            Exchanged::Answered { response, received: read.received, keep }
        }
        Err(fault) => Exchanged::Failed(fault),
    }
}

/// A connection with a request on it.
struct Line<'a> {
    conn: &'a mut Conn,
    out: Outgoing<'a>,
}

impl Line<'_> {
    /// Reads more; the number of bytes, 0 at the end of the connection.
    async fn fill(&mut self, limits: &mut Limits<'_>) -> Result<usize, PushFault> {
        let Self { conn, out } = self;
        let filled = before(limits.alarm.as_mut(), poll_fn(|cx| conn.poll_fill(cx, out))).await;
        match filled {
            None => Err(PushFault::new(FaultKind::TimedOut)),
            Some(Ok(0)) => Ok(0),
            Some(Ok(count)) => Ok(count),
            Some(Err(error)) => Err(PushFault::caused(FaultKind::Reset, self.out.failure().unwrap_or(&error))),
        }
    }

    /// The end of the connection although the answer is not whole.
    fn cut_short(&self) -> PushFault {
        match self.out.failure() {
            Some(error) => PushFault::caused(FaultKind::Reset, error),
            None => PushFault::explained(FaultKind::Reset, "the connection was closed before the answer was whole"),
        }
    }

    /// The head of the final answer; interim ones are skipped.
    async fn head(&mut self, limits: &mut Limits<'_>) -> Result<Head, PushFault> {
        let (mut interim, mut worth_a_look) = (0, true);
        loop {
            let before = self.conn.input.len();
            // A head that comes in drops is not read from its start with each of them.
            if before > 0
                && worth_a_look
                && let Some(head) = take_head(&mut self.conn.input)?
            {
                // An upgrade nobody asked for: what follows is not HTTP any more.
                if head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Err(Malformed::new("the answer is an upgrade that nobody asked for").into());
                }
                if !head.status.is_informational() {
                    return Ok(head);
                }
                interim += before - self.conn.input.len();
                if interim > MAX_HEAD {
                    return Err(Malformed::new("there are more than 16 KiB of interim answers").into());
                }
                continue;
            }
            if self.fill(limits).await? == 0 {
                return Err(self.cut_short());
            }
            let input = &self.conn.input;
            worth_a_look = before == 0 || input.len() >= MAX_HEAD || input[before..].contains(&b'\n');
        }
    }

    /// The next piece of the body; `None` at its end.
    async fn piece(&mut self, body: &mut Body, limits: &mut Limits<'_>) -> Result<Option<Bytes>, PushFault> {
        loop {
            match body.take(&mut self.conn.input)? {
                Taken::Piece(piece) => return Ok(Some(piece)),
                Taken::End => return Ok(None),
                Taken::Nothing => {}
            }
            if self.fill(limits).await? == 0 {
                return if body.ends_with_connection() { Ok(None) } else { Err(self.cut_short()) };
            }
        }
    }

    /// The request is out, and nothing is left of the answer.
    fn is_clean(&self) -> bool {
        self.out.is_done() && self.conn.input.is_empty()
    }
}

impl From<Malformed> for PushFault {
    fn from(Malformed(why): Malformed) -> Self {
        Self::explained(FaultKind::Malformed, &why)
    }
}

struct Read {
    body: Bytes,
    received: u64,
    complete: bool,
}

/// Collects the body, at most `max_body` bytes of it. The usual answer is one chunk and costs no gathering.
async fn collect(line: &mut Line<'_>, body: &mut Body, limits: &mut Limits<'_>) -> Result<Read, PushFault> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut complete = true;
    while let Some(mut chunk) = line.piece(body, limits).await? {
        let room = limits.max_body - first.len() - rest.len();
        if chunk.len() > room {
            chunk.truncate(room);
            complete = false;
        }
        if first.is_empty() {
            first = chunk;
        } else {
            rest.extend_from_slice(&chunk);
        }
        if !complete {
            break;
        }
    }
    let received = (first.len() + rest.len()) as u64;
    let body = if rest.is_empty() {
        first
    } else {
        let mut whole = BytesMut::with_capacity(first.len() + rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        whole.freeze()
    };
    Ok(Read { body, received, complete })
}

/// Hands every chunk to `sink`, which may stop the reading or move the time limit.
async fn stream(
    line: &mut Line<'_>,
    body: &mut Body,
    limits: &mut Limits<'_>,
    sink: &mut (dyn AnswerSink + '_),
) -> Result<Read, PushFault> {
    let mut received = 0;
    while let Some(chunk) = line.piece(body, limits).await? {
        received += chunk.len() as u64;
        match sink.chunk(chunk) {
            SinkVerdict::Continue => {}
            SinkVerdict::Extend(by) => limits.alarm.as_mut().reset(far_from(Instant::now(), by)),
            SinkVerdict::Stop => return Ok(Read { body: Bytes::new(), received, complete: false }),
        }
        // Of a flood there is always more to read, and who never waits is never woken by the alarm.
        if limits.alarm.deadline() <= Instant::now() {
            return Err(PushFault::new(FaultKind::TimedOut));
        }
    }
    Ok(Read { body: Bytes::new(), received, complete: true })
}

/// The output of `future`, or `None` if the alarm goes off first. One timer serves all waits of a push.
async fn before<F: Future + Unpin>(mut alarm: Pin<&mut Sleep>, mut future: F) -> Option<F::Output> {
    poll_fn(|cx| {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
            return Poll::Ready(Some(output));
        }
        alarm.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// `now + by`, bounded so that no setting can overflow the clock.
pub(crate) fn far_from(now: Instant, by: Duration) -> Instant {
    now + by.min(Duration::from_secs(30 * 24 * 3600))
}

/// For how long the connection may be kept after this answer. A `Keep-Alive: timeout` of the worker counts less a
/// quarter, so that we part before the worker does.
fn keep_time(version: Version, headers: &HeaderMap, idle: Duration) -> Option<Duration> {
    if version < Version::HTTP_11 {
        return None;
    }
    for value in headers.get_all(CONNECTION) {
        let closes = |token: &[u8]| token.trim_ascii().eq_ignore_ascii_case(b"close");
        if value.as_bytes().split(|b| *b == b',').any(closes) {
            return None;
        }
    }
    let mut keep = idle;
    for value in headers.get_all(KEEP_ALIVE) {
        for parameter in value.to_str().unwrap_or_default().split(',') {
            let Some((name, number)) = parameter.split_once('=') else { continue };
            let Ok(number) = number.trim().parse::<u32>() else { continue };
            if name.trim().eq_ignore_ascii_case("timeout") {
                keep = keep.min(Duration::from_secs(u64::from(number)) * 3 / 4);
            } else if name.trim().eq_ignore_ascii_case("max") && number == 0 {
                return None;
            }
        }
    }
    (!keep.is_zero()).then_some(keep)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn kept(version: Version, lines: &[(&'static str, &'static str)]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        keep_time(version, &headers, Duration::from_secs(4))
    }

    #[test]
    fn the_worker_may_shorten_the_keeping_but_not_lengthen_it() {
        let v11 = Version::HTTP_11;
        assert_eq!(kept(v11, &[]), Some(Duration::from_secs(4)));
        assert_eq!(kept(v11, &[("keep-alive", "timeout=60, max=100")]), Some(Duration::from_secs(4)));
        assert_eq!(kept(v11, &[("keep-alive", "Timeout=2")]), Some(Duration::from_millis(1500)));
        assert_eq!(kept(v11, &[("keep-alive", "timeout=junk, ,=,x")]), Some(Duration::from_secs(4)));
        assert_eq!(kept(v11, &[("keep-alive", "timeout=0")]), None);
        assert_eq!(kept(v11, &[("keep-alive", "timeout=9, max=0")]), None);
        assert_eq!(kept(v11, &[("connection", "keep-alive, Close")]), None);
        assert_eq!(kept(v11, &[("connection", "keep-alive")]), Some(Duration::from_secs(4)));
        assert_eq!(kept(Version::HTTP_10, &[("connection", "keep-alive")]), None);
    }
}
