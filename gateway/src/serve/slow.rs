//! A connection that is closed if its peer does not speak or does not listen.
//!
//! The server library times the head of a request, but only once it knows which HTTP is spoken, and it never times a
//! client that does not take its answer. Both are done here, below it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use metrics::counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// What HTTP/2 begins with; less than that may leave open which HTTP it is.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much, and how long, is read of what a client goes on sending after it has been answered.
const LINGER_BYTES: usize = 16 << 20;
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct SlowGuard {
    stream: TcpStream,
    /// Runs until it is clear which HTTP is spoken.
    greeting: Option<Pin<Box<Sleep>>>,
    /// Bytes seen so far, while they could still become the preface.
    seen: usize,
    write_idle: Duration,
    /// Runs while the peer takes nothing.
    stuck: Option<Pin<Box<Sleep>>>,
    /// Runs from the close of our side to that of the client's, with the bytes that come meanwhile.
    linger: Option<Pin<Box<Sleep>>>,
    lingered: usize,
}

impl SlowGuard {
    pub(super) fn new(stream: TcpStream, greeting: Duration, write_idle: Duration) -> Self {
        Self { stream, greeting: Some(Box::pin(sleep(greeting))), seen: 0, write_idle, stuck: None, linger: None, lingered: 0 }
    }

    /// Whether the bytes so far decide which HTTP it is.
    fn note(&mut self, bytes: &[u8]) {
        let expected = PREFACE.get(self.seen..).unwrap_or_default();
        let compared = bytes.len().min(expected.len());
        self.seen += compared;
        if self.seen == PREFACE.len() || bytes[..compared] != expected[..compared] {
            self.greeting = None;
        }
    }

    fn waiting_to_write<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stuck = None;
            return poll;
        }
        let idle = self.write_idle;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)));
        ready!(stuck.as_mut().poll(cx));
        counter!("lovage_http_connections_cut_total", "reason" => "write").increment(1);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Drops what a client is still sending, such as the rest of a body that was refused unread, until it has closed its
    /// side as well. A connection that is closed with unread bytes is reset, and the client would lose the answer that
    /// says why.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 8 << 10];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            // A failure means that the client is gone, which is as good.
            let _ = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
            self.lingered += buf.filled().len();
            if buf.filled().is_empty() || self.lingered > LINGER_BYTES {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for SlowGuard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.greeting.is_none() {
            return poll;
        }
        if poll.is_ready() {
            self.note(&buf.filled()[before..]);
            return poll;
        }
        if let Some(greeting) = &mut self.greeting {
            ready!(greeting.as_mut().poll(cx));
        }
        counter!("lovage_http_connections_cut_total", "reason" => "greeting").increment(1);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for SlowGuard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.waiting_to_write(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.poll_linger(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.waiting_to_write(cx, poll)
    }
}
