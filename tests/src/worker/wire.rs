//! As much of HTTP/1.1 as a worker needs: reading a request, writing an answer.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpStream;

use super::reply::Head;

const MAX_HEAD: usize = 256 * 1024;

/// A request, complete with its body.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) keep_alive: bool,
}

/// One side of a connection with the bytes read ahead.
pub(crate) struct Wire {
    stream: TcpStream,
    ahead: BytesMut,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, ahead: BytesMut::new() }
    }

    /// The next request, or `None` when the other side has closed the connection between two.
    pub(crate) async fn request(&mut self) -> io::Result<Option<Request>> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            if self.ahead.len() > MAX_HEAD {
                return Err(broken("the head of a request is too long"));
            }
            if !self.more().await? {
                return if self.ahead.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        let head = self.ahead.split_to(end);
        self.ahead.advance(4);
        let head = std::str::from_utf8(&head).map_err(|_| broken("the head of a request is no text"))?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(path), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
            return Err(broken("the request line is malformed"));
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| broken("a header has no colon"))?;
            let name: HeaderName = name.parse().map_err(|_| broken("a header's name is malformed"))?;
            let value: HeaderValue = value.trim().parse().map_err(|_| broken("a header's value is malformed"))?;
            headers.append(name, value);
        }
        let is = |name: &str, expected: &str| {
            headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.eq_ignore_ascii_case(expected))
        };
        let keep_alive = !is("connection", "close");
        let body = if is("transfer-encoding", "chunked") {
            self.chunks().await?
        } else {
            let length = headers.get("content-length").and_then(|value| value.to_str().ok());
            let length = length.map_or(Ok(0), str::parse).map_err(|_| broken("the content length is no number"))?;
            self.exactly(length).await?
        };
        Ok(Some(Request { method: method.to_owned(), path: path.to_owned(), headers, body, keep_alive }))
    }

    /// Writes all bytes.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns when the other side has closed or reset the connection. Bytes that arrive meanwhile are kept.
    pub(crate) async fn left(&mut self) {
        while let Ok(true) = self.more().await {}
    }

    /// Makes the end of this connection a reset: the kernel sends RST instead of FIN when the socket is closed.
    pub(crate) fn reset_at_end(&self) -> io::Result<()> {
        self.stream.set_zero_linger()
    }

    async fn more(&mut self) -> io::Result<bool> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.ahead) {
                Ok(count) => return Ok(count > 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Bytes> {
        while self.ahead.len() < length {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.split_to(length).freeze())
    }

    async fn chunks(&mut self) -> io::Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let end = loop {
                if let Some(at) = self.ahead.windows(2).position(|window| window == b"\r\n") {
                    break at;
                }
                if !self.more().await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            let line = self.exactly(end + 2).await?;
            let size = std::str::from_utf8(&line[..end]).ok().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
            let size = size.ok_or_else(|| broken("a chunk's size is malformed"))?;
            let chunk = self.exactly(size + 2).await?;
            if size == 0 {
                return Ok(body.freeze());
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
}

/// Status line and headers, with `framing` as the last header.
pub(crate) fn head_bytes(head: &Head, framing: &str) -> Vec<u8> {
    let reason = http::StatusCode::from_u16(head.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Other");
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", head.status);
    for (name, value) in &head.headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.extend([framing, "\r\n\r\n"]);
    text.into_bytes()
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
