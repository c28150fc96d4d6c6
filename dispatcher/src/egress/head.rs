//! The head of an answer, and what it says about where the body ends (RFC 9112, 6.3).
//!
//! Two readers that disagree about the end of a message are how requests are smuggled. A worker cannot harm others with that
//! here, since no connection is shared beyond its origin; all the same, whatever is ambiguous is refused or ends the connection.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};

/// The longest head, in bytes; also of all interim answers together.
pub(super) const MAX_HEAD: usize = 16 * 1024;
/// The most headers.
const MAX_HEADERS: usize = 100;
/// Characters of a header's name that are shown.
const SHOWN_NAME: usize = 40;

/// The answer is not HTTP as it should be: what is wrong, and where. It may show names that the worker wrote, cut short.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) Cow<'static, str>);

impl Malformed {
    /// In words that are always the same.
    pub(super) fn new(why: &'static str) -> Self {
        Self(Cow::Borrowed(why))
    }
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
}

/// Where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// Takes a head out of `input`; `None` while it is not whole.
pub(super) fn take_head(input: &mut BytesMut) -> Result<Option<Head>, Malformed> {
    // The parser would skip them, again and again while they come in drops.
    if matches!(input.first(), Some(b'\r' | b'\n')) {
        return Err(Malformed::new("the answer does not begin with a status line"));
    }
    let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, input, &mut space) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return Ok(None),
        Ok(_) => return Err(Malformed::new("the head of the answer has more than 16 KiB")),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::new("the answer has more than 100 headers")),
        Err(_) => return Err(unreadable(input)),
    };
    let status =
        parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::new("the status of the answer is none"))?;
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        match (HeaderName::from_bytes(header.name.as_bytes()), HeaderValue::from_bytes(header.value)) {
            (Ok(name), Ok(value)) => headers.append(name, value),
            _ => return Err(unreadable(input)),
        };
    }
    input.advance(length);
    Ok(Some(Head { status, version, headers }))
}

/// The first line of a head that cannot be parsed.
fn unreadable(head: &[u8]) -> Malformed {
    let lines = head.split(|byte| *byte == b'\n').take_while(|line| !line.trim_ascii().is_empty());
    for (number, line) in (1..).zip(lines) {
        let alone = [line, b"\n\r\n"].concat();
        if number == 1 {
            let read = httparse::Response::new(&mut []).parse(&alone);
            if !matches!(read, Ok(httparse::Status::Complete(_))) {
                return Malformed::new("the status line of the answer cannot be read");
            }
        } else if !matches!(httparse::parse_headers(&alone, &mut [httparse::EMPTY_HEADER; 2]), Ok(httparse::Status::Complete(_)))
        {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default().trim_ascii_end();
            let name: String = String::from_utf8_lossy(name).chars().take(SHOWN_NAME).collect();
            return Malformed(Cow::Owned(format!("line {number} of the answer's head cannot be read: the header {name:?}")));
        }
    }
    Malformed::new("the head of the answer cannot be read")
}

impl Head {
    /// Where the body ends; `to_head`: the request's method was `HEAD`.
    pub(super) fn framing(&self, to_head: bool) -> Result<Framing, Malformed> {
        if to_head || self.status == StatusCode::NO_CONTENT || self.status == StatusCode::NOT_MODIFIED {
            return Ok(Framing::Length(0));
        }
        let mut codings = self.headers.get_all(TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            // We asked for no other coding, so there is none that could be undone here.
            let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            return match (chunked, self.version) {
                (true, Version::HTTP_11) => Ok(Framing::Chunked),
                _ => Err(Malformed::new("the Transfer-Encoding of the answer is not understood")),
            };
        }
        let mut length = None;
        for value in self.headers.get_all(CONTENT_LENGTH) {
            // A list of equal lengths is what some proxies make of two headers.
            for text in value.as_bytes().split(|byte| *byte == b',') {
                let number = decimal(text.trim_ascii()).ok_or(Malformed::new("the Content-Length of the answer is no number"))?;
                if length.is_some_and(|known| known != number) {
                    return Err(Malformed::new("the answer has lengths in Content-Length that contradict each other"));
                }
                length = Some(number);
            }
        }
        Ok(length.map_or(Framing::UntilClose, Framing::Length))
    }

    /// Both ways to tell the end: the chunks decide, but the next answer on this connection is not to be trusted.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.headers.contains_key(TRANSFER_ENCODING) && self.headers.contains_key(CONTENT_LENGTH)
    }
}

/// Digits alone: no sign, no spaces, nothing that overflows.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn head(text: &str) -> Result<Option<Head>, Malformed> {
        take_head(&mut BytesMut::from(text))
    }

    fn framed(lines: &str) -> Result<Framing, Malformed> {
        head(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n")).unwrap().unwrap().framing(false)
    }

    #[test]
    fn a_head_is_taken_only_when_it_is_whole() {
        let text = "HTTP/1.1 200 OK\r\ncontent-type: a\r\nX-Two: 1\r\nx-two: 2\r\n\r\nbody";
        for cut in 0..text.len() - 4 {
            assert!(head(&text[..cut]).unwrap().is_none(), "cut at {cut}");
        }
        let mut input = BytesMut::from(text);
        let head = take_head(&mut input).unwrap().unwrap();
        assert_eq!(&input[..], b"body");
        assert_eq!((head.status, head.version), (StatusCode::OK, Version::HTTP_11));
        assert_eq!(head.headers.get_all("x-two").iter().count(), 2);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "\n",
            "SSH-2.0-x\r\n",
            "HTTP/0.9 200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length : 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx-a: 1\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\n x-a: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx-\u{e9}: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx-a: 1\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx-a: 1\rx-b: 2\r\n\r\n",
        ] {
            assert!(head(text).is_err(), "{text:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nx-a: {}", "a".repeat(MAX_HEAD));
        assert!(head(&long).is_err());
        assert!(head(&format!("{long}\r\n\r\n")).is_err());
        let many = |n: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert!(head(&many(MAX_HEADERS)).is_ok());
        assert!(head(&many(MAX_HEADERS + 1)).is_err());
    }

    #[test]
    fn what_is_wrong_is_named_and_bounded() {
        let long = format!("{} : 1", "x".repeat(200));
        for (lines, why) in [
            ("HTTP/1.1 20 OK", "the status line of the answer cannot be read"),
            ("SSH-2.0-x", "the status line of the answer cannot be read"),
            (
                "HTTP/1.1 200 OK\r\na: b\r\ncontent-length : 1",
                r#"line 3 of the answer's head cannot be read: the header "content-length""#,
            ),
            ("HTTP/1.1 200 OK\r\nno colon", r#"line 2 of the answer's head cannot be read: the header "no colon""#),
            ("HTTP/1.1 200 OK\r\nx-a: 1\0\r\nx-b: 1", r#"line 2 of the answer's head cannot be read: the header "x-a""#),
            ("HTTP/1.1 200 OK\r\nx-a: 1\r\n folded", r#"line 3 of the answer's head cannot be read: the header " folded""#),
            ("HTTP/1.1 200 OK\r\nx-\u{e9}: 1", "line 2 of the answer's head cannot be read: the header \"x-\u{e9}\""),
        ] {
            assert_eq!(head(&format!("{lines}\r\n\r\n")).unwrap_err().0, why, "{lines:?}");
        }
        let error = head(&format!("HTTP/1.1 200 OK\r\n{long}\r\n\r\n")).unwrap_err();
        assert!(error.0.starts_with("line 2") && error.0.len() < 100, "{error:?}");
        for (lines, name) in [("content-length: x", "Content-Length"), ("transfer-encoding: gzip", "Transfer-Encoding")] {
            assert!(framed(&format!("{lines}\r\n")).unwrap_err().0.contains(name));
        }
    }

    #[test]
    fn the_end_of_a_body_is_told_in_one_way() {
        assert_eq!(framed(""), Ok(Framing::UntilClose));
        assert_eq!(framed("content-length: 0\r\n"), Ok(Framing::Length(0)));
        assert_eq!(framed("content-length: 18446744073709551615\r\n"), Ok(Framing::Length(u64::MAX)));
        assert_eq!(framed("content-length: 7\r\nContent-Length: 7\r\n"), Ok(Framing::Length(7)));
        assert_eq!(framed("content-length: 7, 7\r\n"), Ok(Framing::Length(7)));
        assert_eq!(framed("transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(framed("content-length: 9\r\ntransfer-encoding: chunked\r\n"), Ok(Framing::Chunked));
        for lines in [
            "content-length: \r\n",
            "content-length: -1\r\n",
            "content-length: +1\r\n",
            "content-length: 1x\r\n",
            "content-length: 0x1\r\n",
            "content-length: 1 1\r\n",
            "content-length: 1,2\r\n",
            "content-length: 1,\r\n",
            "content-length: 18446744073709551616\r\n",
            "content-length: 1\r\ncontent-length: 2\r\n",
            "transfer-encoding: gzip\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: xchunked\r\n",
            "transfer-encoding: \r\n",
        ] {
            assert!(framed(lines).is_err(), "{lines:?}");
        }
        assert!(head("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap().unwrap().framing(false).is_err());
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        for status in ["204 No Content", "304 Not Modified"] {
            let head = head(&format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n")).unwrap().unwrap();
            assert_eq!(head.framing(false), Ok(Framing::Length(0)));
        }
        let head = head("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.framing(true), Ok(Framing::Length(0)));
    }

    #[test]
    fn two_ways_to_tell_the_end_are_noticed() {
        let both = head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n").unwrap().unwrap();
        assert!(both.is_ambiguous());
        assert!(!head("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").unwrap().unwrap().is_ambiguous());
    }
}
