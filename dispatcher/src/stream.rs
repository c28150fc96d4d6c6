//! An answer that comes as lines while the worker works (API: The answer): read as it arrives, with bounded memory.
//!
//! The [`Sink`] sits in the transport and reads; the [`Stream`] is what it shares with the owner, who takes the news in his
//! own time. However fast lines come, only the latest progress and a bounded number of log lines wait for him.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, StatusCode};
use lovage_core::attempt::LOG_BYTES;
use lovage_core::classify::{StatusMap, classify};
use lovage_core::ndjson::{self, Line, Reader};
use lovage_core::{Answer, Fault, RawOutcome};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::egress::{AnswerSink, Response, SinkVerdict};
use crate::push;

/// How long the end of the answer is waited for after its last line, so that the connection can be kept.
const AFTER_END: Duration = Duration::from_secs(1);
const LOVAGE_OUTCOME: HeaderName = HeaderName::from_static("lovage-outcome");

/// What the worker of an open attempt has said and nobody has taken yet.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// How far it is, as JSON.
    pub progress: Option<Bytes>,
    /// Lines of its log.
    pub logs: Vec<String>,
}

impl News {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.progress.is_none() && self.logs.is_empty()
    }
}

/// A streaming answer, shared by the one who reads it and the owner.
#[derive(Debug)]
pub(crate) struct Stream(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    reader: Reader,
    news: News,
    /// Bytes of log lines that are still kept.
    room: usize,
    last: Option<Line>,
    /// The owner knows that there are news.
    told: bool,
}

impl Stream {
    fn new(max_line: usize) -> Self {
        let reader = Reader::new(max_line);
        Self(Mutex::new(Inner { reader, news: News::default(), room: LOG_BYTES, last: None, told: false }))
    }

    /// Takes the news; the next ones are told of again.
    pub fn take(&self) -> News {
        let mut inner = self.0.lock();
        inner.told = false;
        std::mem::take(&mut inner.news)
    }

    /// Whether there are any.
    pub fn has_news(&self) -> bool {
        !self.0.lock().news.is_empty()
    }

    /// Gives back what could not be stored; newer progress goes before it.
    pub fn give_back(&self, news: News) {
        let mut inner = self.0.lock();
        inner.news.progress = inner.news.progress.take().or(news.progress);
        inner.news.logs.splice(0..0, news.logs);
    }

    /// What the stream meant, now that it has ended like this. `None`: the fault of the transport says it.
    pub fn end(&self, complete: bool) -> Option<RawOutcome> {
        let mut inner = self.0.lock();
        if inner.last.is_none() && complete {
            inner.last = inner.reader.finish();
        }
        let outcome = inner.last.take().and_then(Line::outcome);
        outcome.or_else(|| complete.then(without_end))
    }

    /// Reads a piece: how many lines it completed, whether the owner is to be told, and whether the last line has come.
    fn feed(&self, piece: &[u8]) -> (usize, bool, bool) {
        let mut inner = self.0.lock();
        let lines = inner.reader.feed(piece);
        let count = lines.len();
        for line in lines {
            inner.note(line);
        }
        let tell = !inner.told && !inner.news.is_empty();
        inner.told |= tell;
        (count, tell, inner.reader.is_done())
    }
}

impl Inner {
    fn note(&mut self, line: Line) {
        match line {
            Line::Progress(value) => self.news.progress = Some(value),
            Line::Log(text) if self.room > 0 => {
                self.room = self.room.saturating_sub(text.len() + 1);
                self.news.logs.push(text);
            }
            Line::Log(_) | Line::Heartbeat => {}
            last => self.last = Some(last),
        }
    }
}

/// A stream without a last line is a connection that broke.
fn without_end() -> RawOutcome {
    classify(&Answer::Fault(Fault::Reset), &StatusMap::default(), false, 0)
}

/// Whether an answer with these headers is a stream of lines.
fn is_stream(status: StatusCode, headers: &HeaderMap) -> bool {
    let text = |name: &HeaderName| push::value(headers, name).unwrap_or_default();
    let content_type = text(&CONTENT_TYPE);
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    status == StatusCode::OK && essence.eq_ignore_ascii_case(ndjson::CONTENT_TYPE) && text(&LOVAGE_OUTCOME).is_empty()
}

/// What a stream means that was collected as a whole, because it came compressed: up to `limit` bytes of it.
pub(crate) fn collected(response: &Response, limit: usize) -> Option<RawOutcome> {
    if !is_stream(response.status, &response.headers) {
        return None;
    }
    let stream = Stream::new(limit);
    stream.feed(&response.body);
    stream.end(!response.truncated).or_else(|| Some(RawOutcome::too_large(limit)))
}

/// How long an attempt may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From line to line.
    pub silence: Duration,
    /// In all; none: as long as lines come.
    pub until: Option<Instant>,
    /// Bytes of one line.
    pub max_line: usize,
}

/// Reads the stream for the owner, who is called with it when there are news.
pub(crate) struct Sink<F> {
    limits: Limits,
    stream: Option<Arc<Stream>>,
    ended: bool,
    tell: F,
}

impl<F: Fn(Arc<Stream>) + Send> Sink<F> {
    /// Nothing has come yet.
    pub fn new(limits: Limits, tell: F) -> Self {
        Self { limits, stream: None, ended: false, tell }
    }
}

impl<F: Fn(Arc<Stream>) + Send> AnswerSink for Sink<F> {
    fn head(&mut self, status: StatusCode, headers: &HeaderMap) -> bool {
        let encoding = headers.get(CONTENT_ENCODING).map_or(&b"identity"[..], |value| value.as_bytes());
        if !is_stream(status, headers) || !encoding.eq_ignore_ascii_case(b"identity") {
            return false;
        }
        let stream = Arc::new(Stream::new(self.limits.max_line));
        // Also without news: the owner has to know that the end is in there.
        (self.tell)(Arc::clone(&stream));
        self.stream = Some(stream);
        true
    }

    fn chunk(&mut self, piece: Bytes) -> SinkVerdict {
        let Some(stream) = self.stream.as_ref().filter(|_| !self.ended) else { return SinkVerdict::Stop };
        let (lines, tell, done) = stream.feed(&piece);
        if tell {
            (self.tell)(Arc::clone(stream));
        }
        if done {
            self.ended = true;
            return SinkVerdict::Extend(AFTER_END);
        }
        if lines == 0 {
            return SinkVerdict::Continue;
        }
        let left = self.limits.until.map(|until| until.saturating_duration_since(Instant::now()));
        SinkVerdict::Extend(left.map_or(self.limits.silence, |left| left.min(self.limits.silence)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn sink(until: Option<Instant>) -> (Sink<impl Fn(Arc<Stream>) + Send>, Arc<Mutex<Vec<Arc<Stream>>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tells = Arc::clone(&told);
        let limits = Limits { silence: 30 * SECOND, until, max_line: 100 };
        (Sink::new(limits, move |stream| tells.lock().push(stream)), told)
    }

    #[test]
    fn only_lines_of_a_success_are_a_stream() {
        for (status, pairs, taken) in [
            (200, &[("content-type", "application/x-ndjson")][..], true),
            (200, &[("content-type", "Application/X-NDJSON; charset=utf-8")], true),
            (200, &[("content-type", "application/json")], false),
            (200, &[], false),
            (500, &[("content-type", "application/x-ndjson")], false),
            (200, &[("content-type", "application/x-ndjson"), ("content-encoding", "gzip")], false),
            (200, &[("content-type", "application/x-ndjson"), ("lovage-outcome", "fail")], false),
            (200, &[("content-type", "application/x-ndjson"), ("lovage-outcome", ""), ("lovage-outcome", "fail")], false),
            (200, &[("content-type", "application/x-ndjson"), ("content-type", "text/plain")], false),
            (200, &[("content-type", "application/x-ndjson"), ("content-type", "application/x-ndjson")], true),
        ] {
            let (mut sink, told) = sink(None);
            assert_eq!(sink.head(StatusCode::from_u16(status).unwrap(), &headers(pairs)), taken, "{pairs:?}");
            assert_eq!(told.lock().len(), usize::from(taken));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lines_extend_the_time_and_drops_do_not() {
        let (mut sink, told) = sink(Some(Instant::now() + 45 * SECOND));
        assert!(sink.head(StatusCode::OK, &headers(&[("content-type", "application/x-ndjson")])));
        assert_eq!(sink.chunk(Bytes::from_static(b"{\"heart")), SinkVerdict::Continue);
        assert_eq!(sink.chunk(Bytes::from_static(b"beat\":true}\n\n")), SinkVerdict::Extend(30 * SECOND));
        assert_eq!(told.lock().len(), 1, "a heartbeat is no news");
        tokio::time::advance(20 * SECOND).await;
        let lines = b"{\"progress\":1}\n{\"log\":\"a\"}\n{\"progress\":2}\n";
        assert_eq!(sink.chunk(Bytes::from_static(lines)), SinkVerdict::Extend(25 * SECOND));
        assert_eq!(sink.chunk(Bytes::from_static(b"{\"log\":\"b\"}\n")), SinkVerdict::Extend(25 * SECOND));
        assert_eq!(told.lock().len(), 2, "told once until they are taken");
        let stream = told.lock()[0].clone();
        let news = stream.take();
        assert_eq!((news.progress.as_deref(), &news.logs[..]), (Some(&b"2"[..]), &["a".to_owned(), "b".to_owned()][..]));
        assert_eq!(sink.chunk(Bytes::from_static(b"{\"progress\":3}\n")), SinkVerdict::Extend(25 * SECOND));
        assert_eq!(told.lock().len(), 3);
        stream.give_back(news);
        let news = stream.take();
        assert_eq!((news.progress.as_deref(), news.logs.len()), (Some(&b"3"[..]), 2));
    }

    #[test]
    fn after_the_last_line_nothing_counts() {
        let (mut sink, told) = sink(None);
        assert!(sink.head(StatusCode::OK, &headers(&[("content-type", "application/x-ndjson")])));
        assert_eq!(sink.chunk(Bytes::from_static(b"{\"result\":1}\n{\"result\":2}\n")), SinkVerdict::Extend(AFTER_END));
        assert_eq!(sink.chunk(Bytes::from_static(b"{\"error\":{}}\n")), SinkVerdict::Stop);
        // Whatever became of the connection.
        let outcome = told.lock()[0].end(false).unwrap();
        assert!(matches!(outcome, RawOutcome::Success { body: Some(body), .. } if body == "1"));
    }

    #[test]
    fn a_stream_without_an_end_is_a_reset() {
        for (bytes, complete, reset) in [
            (&b"{\"progress\":1}\n"[..], true, Some(true)),
            (b"", true, Some(true)),
            (b"", false, None),
            (b"{\"result\":1}", true, Some(false)),
        ] {
            let stream = Stream::new(100);
            stream.feed(bytes);
            let kind = |outcome| matches!(outcome, RawOutcome::Retry { error, .. } if error.kind == "ConnectionReset");
            assert_eq!(stream.end(complete).map(kind), reset, "{bytes:?}");
        }
    }

    #[test]
    fn whatever_comes_is_kept_within_bounds() {
        let stream = Stream::new(100);
        let line = format!("{{\"log\":\"{}\"}}\n", "x".repeat(80));
        for _ in 0..10_000 {
            stream.feed(line.as_bytes());
        }
        let kept: usize = stream.take().logs.iter().map(String::len).sum();
        assert!(kept <= LOG_BYTES + 100, "{kept}");
        let (_, _, done) = stream.feed(&[b'x'; 1000]);
        let RawOutcome::Permanent { error } = stream.end(false).unwrap() else { unreachable!() };
        assert!(done && error.kind == "ResultTooLarge" && error.message.contains("100 bytes"), "{error:?}");
    }
}
