//! One open connection: what came in and is not used yet, and what is on its way out.
//!
//! Sending and reading go on side by side within one task: a worker may answer before it has read the whole request, and
//! neither side waits for the other. Nothing is spawned, so an exchange costs one write and one read when both are small.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How much is read at once. Also the most that is read ahead of what is used.
pub(super) const READ_BYTES: usize = 16 * 1024;

/// A stream in both directions other than a bare socket.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// What a connection runs over.
pub(crate) enum Stream {
    /// A bare socket.
    Tcp(TcpStream),
    /// TLS.
    Other(Box<dyn Duplex>),
}

/// One open connection. Dropping it closes the socket at once, even while the peer blocks it.
pub(crate) struct Conn {
    stream: Stream,
    /// Read and not used yet.
    pub(super) input: BytesMut,
}

/// A request on its way out.
pub(super) struct Outgoing<'a> {
    head: &'a [u8],
    body: &'a [u8],
    sent: usize,
    state: Sending,
}

enum Sending {
    Writing,
    Flushing,
    Done,
    Failed(io::Error),
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(head: &'a [u8], body: &'a [u8]) -> Self {
        Self { head, body, sent: 0, state: Sending::Writing }
    }

    /// Everything was taken by the connection.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, Sending::Done)
    }

    /// Why sending ended early.
    pub(super) fn failure(&self) -> Option<&io::Error> {
        match &self.state {
            Sending::Failed(error) => Some(error),
            _ => None,
        }
    }

    fn rest(&self) -> (&'a [u8], &'a [u8]) {
        let head = self.head.get(self.sent..).unwrap_or_default();
        let body = self.body.get(self.sent.saturating_sub(self.head.len())..).unwrap_or_default();
        (head, body)
    }
}

impl Conn {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, input: BytesMut::new() }
    }

    /// Whether the peer left the idle connection alone: it neither closed it nor said anything. Asks the system only if there
    /// is news.
    pub(crate) fn is_quiet(&mut self) -> bool {
        if !self.input.is_empty() {
            return false;
        }
        let mut byte = [0];
        match &mut self.stream {
            Stream::Tcp(tcp) => matches!(tcp.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock),
            // What belongs to TLS alone, a new session ticket for one, is taken in by this and is no news.
            Stream::Other(other) => {
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(other).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        }
    }

    /// Whether it is certain that the peer got nothing of a request whose sending failed. TLS cannot tell: what it could not
    /// write may have been written in part.
    pub(super) fn took_nothing(&self, out: &Outgoing<'_>) -> bool {
        out.failure().is_some() && out.sent == 0 && matches!(self.stream, Stream::Tcp(_))
    }

    /// Sends what is left of `out` as far as the peer takes it, and reads what the peer has sent; the number of bytes read, 0
    /// at the end of the stream. A failure to send is kept in `out`, because there may be an answer all the same.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, out: &mut Outgoing<'_>) -> Poll<io::Result<usize>> {
        if !out.is_done() {
            let _ = self.stream.poll_send(cx, out);
            if self.took_nothing(out) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        // On the stack: a connection that waits for its answer, or for its next request, holds no buffer.
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(self.stream.poll_read(cx, &mut buffer))?;
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Frees what a large answer left behind.
    pub(super) fn rest(&mut self) {
        if self.input.capacity() > READ_BYTES {
            self.input = BytesMut::new();
        }
    }
}

impl Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Other(other) => Pin::new(other).poll_read(cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, (head, body): (&[u8], &[u8])) -> Poll<io::Result<usize>> {
        let both = [IoSlice::new(head), IoSlice::new(body)];
        let one = if head.is_empty() { body } else { head };
        match self {
            Self::Tcp(tcp) if head.is_empty() || body.is_empty() => Pin::new(tcp).poll_write(cx, one),
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, &both),
            Self::Other(other) if head.is_empty() || body.is_empty() => Pin::new(other).poll_write(cx, one),
            Self::Other(other) => Pin::new(other).poll_write_vectored(cx, &both),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Other(other) => Pin::new(other).poll_flush(cx),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut Outgoing<'_>) -> Poll<()> {
        loop {
            out.state = match out.state {
                Sending::Writing => match ready!(self.poll_write(cx, out.rest())) {
                    Ok(0) => Sending::Failed(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        out.sent += written;
                        let whole = out.sent == out.head.len() + out.body.len();
                        if whole { Sending::Flushing } else { Sending::Writing }
                    }
                    Err(error) => Sending::Failed(error),
                },
                Sending::Flushing => match ready!(self.poll_flush(cx)) {
                    Ok(()) => Sending::Done,
                    Err(error) => Sending::Failed(error),
                },
                Sending::Done | Sending::Failed(_) => return Poll::Ready(()),
            };
        }
    }
}
