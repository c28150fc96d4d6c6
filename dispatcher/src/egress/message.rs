//! A request as the bytes that are sent.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, Method};

use super::conn::Outgoing;
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
    /// Framing headers are ours alone, whatever the caller put in.
    pub(super) fn new(target: &Target, method: &Method, headers: &HeaderMap, body: Bytes) -> Self {
        let join = body.len() <= JOIN_UP_TO;
        let known: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let mut head = Vec::with_capacity(known + 128 + target.path_text().len() + if join { body.len() } else { 0 });
        head.extend_from_slice(method.as_str().as_bytes());
        head.push(b' ');
        head.extend_from_slice(target.path_text().as_bytes());
        head.extend_from_slice(b" HTTP/1.1\r\n");
        line(&mut head, HOST.as_str(), target.host_header().as_bytes());
        for (name, value) in headers {
            if *name != TRANSFER_ENCODING && *name != CONTENT_LENGTH && *name != HOST {
                line(&mut head, name.as_str(), value.as_bytes());
            }
        }
        if !headers.contains_key(USER_AGENT) {
            line(&mut head, USER_AGENT.as_str(), AGENT.as_bytes());
        }
        // Some servers insist on a length also when there is no body but could be one.
        if !body.is_empty() || matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
            line(&mut head, CONTENT_LENGTH.as_str(), body.len().to_string().as_bytes());
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

/// Names and values cannot hold a line end: their types see to that.
fn line(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}
