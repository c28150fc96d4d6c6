//! The little of HTTP/1.1 that the bench needs, read in place without allocation: a message head and the chunked coding.
//!
//! This is no general parser. It trusts its peers to speak HTTP and only has to be cheap and to notice when they do not.

use std::io;

/// The head of a request or an answer, borrowed from the buffer that holds it.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Request line or status line, without the line end.
    pub first_line: &'a [u8],
    /// Bytes of the head, the empty line included.
    pub length: usize,
    /// `Content-Length`, if given and a number.
    pub content_length: Option<usize>,
    /// Whether the body comes in chunks.
    pub chunked: bool,
    /// Whether the peer closes the connection after this message.
    pub close: bool,
    /// `Webhook-Id`: the task's id on a push.
    pub webhook_id: Option<&'a [u8]>,
    /// Whether the body is an array of tasks (`Lovage-Batch`).
    pub batch: bool,
}

impl Head<'_> {
    /// The status of an answer; `None` for a request or a broken status line.
    pub fn status(&self) -> Option<u16> {
        let digits = self.first_line.strip_prefix(b"HTTP/1.")?.get(2..5)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// Method and target of a request; `None` for anything else.
    pub fn request(&self) -> Option<(&str, &str)> {
        let mut parts = std::str::from_utf8(self.first_line).ok()?.split(' ');
        Some((parts.next()?, parts.next()?))
    }
}

/// Reads the head at the start of `bytes`; `None` while it is not whole.
pub fn parse_head(bytes: &[u8]) -> Option<Head<'_>> {
    let mut head =
        Head { first_line: &[], length: 0, content_length: None, chunked: false, close: false, webhook_id: None, batch: false };
    let mut rest = bytes;
    loop {
        let end = memchr::memchr(b'\n', rest)?;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        if head.first_line.is_empty() {
            head.first_line = line;
        } else if line.is_empty() {
            head.length = bytes.len() - rest.len();
            return Some(head);
        } else {
            note_field(&mut head, line);
        }
    }
}

fn note_field<'a>(head: &mut Head<'a>, line: &'a [u8]) {
    // Only five names matter; their lengths rule out nearly every other line before any comparison.
    let Some(colon) = memchr::memchr(b':', line) else {
        return;
    };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    match name.len() {
        10 if name.eq_ignore_ascii_case(b"webhook-id") => head.webhook_id = Some(value),
        10 if name.eq_ignore_ascii_case(b"connection") => {
            head.close = value.eq_ignore_ascii_case(b"close");
        }
        12 if name.eq_ignore_ascii_case(b"lovage-batch") => head.batch = true,
        14 if name.eq_ignore_ascii_case(b"content-length") => {
            head.content_length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
        }
        17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
            head.chunked = value.eq_ignore_ascii_case(b"chunked");
        }
        _ => {}
    }
}

/// Decodes a chunked body that arrives in arbitrary pieces.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    state: ChunkState,
}

#[derive(Debug, Default)]
enum ChunkState {
    /// In the line with the size; the value so far, and whether an extension is being skipped.
    #[default]
    SizeStart,
    Size(usize, bool),
    /// Inside a chunk, so many bytes to come.
    Data(usize),
    /// In the line end after a chunk.
    DataEnd,
    /// In the trailer; whether the current line has had a byte.
    Trailer(bool),
    Done,
}

impl ChunkDecoder {
    /// Appends what `input` holds of the body to `body` and answers whether the body is whole. Bytes after the end are
    /// ignored: the bench never pipelines. A broken size is `InvalidData`.
    pub fn decode(&mut self, mut input: &[u8], body: &mut Vec<u8>) -> io::Result<bool> {
        while let Some((&byte, rest)) = input.split_first() {
            match self.state {
                ChunkState::Done => return Ok(true),
                ChunkState::Data(left) => {
                    let taken = left.min(input.len());
                    body.extend_from_slice(&input[..taken]);
                    input = &input[taken..];
                    self.state = if taken == left { ChunkState::DataEnd } else { ChunkState::Data(left - taken) };
                    continue;
                }
                ChunkState::SizeStart => self.state = ChunkState::Size(hex_digit(byte)?, false),
                ChunkState::Size(size, skipping) => {
                    self.state = match byte {
                        b'\n' if size == 0 => ChunkState::Trailer(false),
                        b'\n' => ChunkState::Data(size),
                        b'\r' | b';' => ChunkState::Size(size, true),
                        _ if skipping => ChunkState::Size(size, true),
                        digit => ChunkState::Size(size * 16 + hex_digit(digit)?, false),
                    };
                }
                ChunkState::DataEnd => {
                    if byte == b'\n' {
                        self.state = ChunkState::SizeStart;
                    }
                }
                ChunkState::Trailer(in_line) => {
                    self.state = match byte {
                        b'\n' if in_line => ChunkState::Trailer(false),
                        b'\n' => ChunkState::Done,
                        b'\r' => ChunkState::Trailer(in_line),
                        _ => ChunkState::Trailer(true),
                    };
                }
            }
            input = rest;
        }
        Ok(matches!(self.state, ChunkState::Done))
    }
}

fn hex_digit(byte: u8) -> io::Result<usize> {
    char::from(byte)
        .to_digit(16)
        .map(|digit| digit as usize)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "broken chunk size"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn head_is_read_only_when_whole() {
        let whole = b"POST /task HTTP/1.1\r\nWEBHOOK-ID: abc\r\nContent-Length: 12\r\n\r\nbody";
        for cut in 0..whole.len() - 4 {
            assert_eq!(parse_head(&whole[..cut]), None, "cut at {cut}");
        }
        let head = parse_head(whole).unwrap();
        assert_eq!(head.request(), Some(("POST", "/task")));
        assert_eq!(head.webhook_id, Some(&b"abc"[..]));
        assert_eq!(head.content_length, Some(12));
        assert_eq!(head.length, whole.len() - 4);
        assert_eq!(head.status(), None);
    }

    #[test]
    fn status_line_is_read() {
        let head = parse_head(b"HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        assert_eq!(head.status(), Some(202));
        assert!(head.chunked);
        assert!(!head.close);
    }

    #[test]
    fn chunks_decode_at_every_cut() {
        let coded = b"5\r\nhello\r\nB;x=1\r\n, wide worl\r\n1\r\nd\r\n0\r\nTrailer: x\r\n\r\n";
        for cut in 0..coded.len() {
            let (mut decoder, mut body) = (ChunkDecoder::default(), Vec::new());
            assert!(!decoder.decode(&coded[..cut], &mut body).unwrap(), "cut at {cut}");
            assert!(decoder.decode(&coded[cut..], &mut body).unwrap());
            assert_eq!(body, b"hello, wide world");
        }
    }

    #[test]
    fn a_broken_chunk_size_is_an_error() {
        let mut decoder = ChunkDecoder::default();
        assert!(decoder.decode(b"zz\r\n", &mut Vec::new()).is_err());
    }
}
