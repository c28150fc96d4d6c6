//! A request as the bytes that are sent.

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, HOST, USER_AGENT};

use super::conn::Outgoing;
use super::lines::{HeaderLines, write_line};
use super::target::Target;

const AGENT: &str = concat!("Lovage/", env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));

/// Bodies up to this size are copied behind the head: one piece of memory is written faster than two.
const JOIN_UP_TO: usize = 8 * 1024;

/// A whole request. It can be sent again if nothing of it was taken.
pub(crate) struct Message {
    /// The head; with a small body behind it.
    head: Vec<u8>,
    /// A large body.
    body: Bytes,
    /// The method is `HEAD`, so that an answer has no body.
    pub(super) to_head: bool,
}

impl Message {
    /// The framing is ours alone: `headers` cannot hold any.
    pub(super) fn new(target: &Target, method: &Method, headers: &HeaderLines, body: Bytes) -> Self {
        let join = body.len() <= JOIN_UP_TO;
        let (path, host) = (target.path_text().as_bytes(), target.host_header().as_bytes());
        let room = 128 + path.len() + host.len() + headers.text().len() + if join { body.len() } else { 0 };
        let mut head = Vec::with_capacity(room);
        head.extend_from_slice(method.as_str().as_bytes());
        head.push(b' ');
        head.extend_from_slice(path);
        head.extend_from_slice(b" HTTP/1.1\r\n");
        write_line(&mut head, HOST.as_str(), host);
        head.extend_from_slice(headers.text());
        if !headers.has_agent() {
            write_line(&mut head, USER_AGENT.as_str(), AGENT.as_bytes());
        }
        // Some servers insist on a length also when there is no body but could be one.
        if !body.is_empty() || matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
            write_line(&mut head, CONTENT_LENGTH.as_str(), itoa::Buffer::new().format(body.len()).as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        let to_head = *method == Method::HEAD;
        if join {
            head.extend_from_slice(&body);
            return Self { head, body: Bytes::new(), to_head };
        }
        Self { head, body, to_head }
    }

    pub(super) fn outgoing(&self) -> Outgoing<'_> {
        Outgoing::new(&self.head, &self.body)
    }
}
