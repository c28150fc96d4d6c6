//! One request and its answer on an open connection.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderName};
use http::{HeaderMap, Request, StatusCode, Version};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::fault::{FaultKind, PushFault};
use super::pool::Conn;
use super::transport::{AnswerSink, Response, SinkVerdict};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Bodies up to this size are copied, so that hyper can use its read buffer again and a stored result does not
/// hold a whole buffer.
const COPY_UP_TO: usize = 4096;

/// How an exchange went.
pub(crate) enum Exchanged {
    /// The answer, and for how long the connection may be kept (`None`: not at all).
    Answered { response: Response, received: u64, keep: Option<Duration> },
    /// The connection was closed before it took the request: nothing was sent, and here it is again.
    GivenBack(Request<Full<Bytes>>, PushFault),
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

/// Sends `request` and reads the answer to its end, to `max_body`, or until the alarm.
pub(crate) async fn exchange(
    conn: &mut Conn,
    request: Request<Full<Bytes>>,
    limits: &mut Limits<'_>,
    sink: Option<&mut (dyn AnswerSink + '_)>,
) -> Exchanged {
    let sending = std::pin::pin!(conn.sender.try_send_request(request));
    let head = match before(limits.alarm.as_mut(), sending).await {
        None => return Exchanged::Failed(PushFault::new(FaultKind::TimedOut)),
        Some(Ok(head)) => head,
        Some(Err(mut error)) => {
            let given_back = error.take_message();
            let fault = classify(&error.into_error());
            return match given_back {
                Some(request) => Exchanged::GivenBack(request, fault),
                None => Exchanged::Failed(fault),
            };
        }
    };
    let (parts, mut incoming) = head.into_parts();
    // An upgrade nobody asked for: what follows is not HTTP any more.
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Exchanged::Failed(PushFault::new(FaultKind::Malformed));
    }
    let sink = sink.and_then(|sink| sink.head(parts.status, &parts.headers).then_some(sink));
    let read = match sink {
        None => collect(&mut incoming, limits).await,
        Some(sink) => stream(&mut incoming, limits, sink).await,
    };
    match read {
        Ok(read) => {
            let keep = if read.complete { keep_time(parts.version, &parts.headers, limits.idle) } else { None };
            let response = Response { status: parts.status, headers: parts.headers, body: read.body, truncated: !read.complete };
            Exchanged::Answered { response, received: read.received, keep }
        }
        Err(fault) => Exchanged::Failed(fault),
    }
}

struct Read {
    body: Bytes,
    received: u64,
    complete: bool,
}

/// Collects the body, at most `max_body` bytes of it. The usual answer is one chunk and costs no gathering.
async fn collect(incoming: &mut Incoming, limits: &mut Limits<'_>) -> Result<Read, PushFault> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut complete = true;
    while let Some(mut chunk) = next_chunk(incoming, limits).await? {
        let room = limits.max_body - first.len() - rest.len();
        if chunk.len() > room {
            chunk.truncate(room);
            complete = false;
        }
        if first.is_empty() {
            first = if chunk.len() <= COPY_UP_TO { Bytes::copy_from_slice(&chunk) } else { chunk };
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
async fn stream(incoming: &mut Incoming, limits: &mut Limits<'_>, sink: &mut (dyn AnswerSink + '_)) -> Result<Read, PushFault> {
    let mut received = 0;
    while let Some(chunk) = next_chunk(incoming, limits).await? {
        received += chunk.len() as u64;
        match sink.chunk(chunk) {
            SinkVerdict::Continue => {}
            SinkVerdict::Extend(by) => limits.alarm.as_mut().reset(far_from(Instant::now(), by)),
            SinkVerdict::Stop => return Ok(Read { body: Bytes::new(), received, complete: false }),
        }
    }
    Ok(Read { body: Bytes::new(), received, complete: true })
}

/// The next piece of the body; `None` at its end. Trailers are dropped.
async fn next_chunk(incoming: &mut Incoming, limits: &mut Limits<'_>) -> Result<Option<Bytes>, PushFault> {
    loop {
        if incoming.is_end_stream() {
            return Ok(None);
        }
        let frame = poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx));
        match before(limits.alarm.as_mut(), frame).await {
            None => return Err(PushFault::new(FaultKind::TimedOut)),
            Some(None) => return Ok(None),
            Some(Some(Err(error))) => return Err(classify(&error)),
            Some(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
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

fn classify(error: &hyper::Error) -> PushFault {
    let kind = if error.is_parse() || has_invalid_data(error) { FaultKind::Malformed } else { FaultKind::Reset };
    PushFault::caused(kind, error)
}

/// Broken chunked coding reaches us as an I/O error of these kinds.
fn has_invalid_data(error: &hyper::Error) -> bool {
    use std::error::Error;
    use std::io::ErrorKind;
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput)
        {
            return true;
        }
        next = cause.source();
    }
    false
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
