//! The headers of a request as the lines that are sent.
//!
//! A push has about fifteen headers, made for it alone and read by nobody on this side: a map would be filled only to be
//! written out. So they are written at once, and what must not be in them is left out on the way in.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, USER_AGENT};

/// Header lines. A name that is put in twice is sent twice.
#[derive(Clone, Debug, Default)]
pub struct HeaderLines {
    text: Vec<u8>,
    has_agent: bool,
}

impl HeaderLines {
    /// No lines yet, with room for so many bytes of them.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), has_agent: false }
    }

    /// Adds a line. Whether it was: a value that cannot be sent is left out, and so are the headers that frame the message and
    /// name the host, which are the transport's alone. The name has to be one in small letters.
    pub fn push(&mut self, name: &HeaderName, value: &[u8]) -> bool {
        let framing = *name == TRANSFER_ENCODING || *name == CONTENT_LENGTH || *name == HOST;
        // Counted rather than looked for: a loop without a way out is compiled to look at many bytes at a time.
        let broken = value.iter().filter(|byte| byte.is_ascii_control() && **byte != b'\t').count() > 0;
        if framing || broken {
            return false;
        }
        self.has_agent |= *name == USER_AGENT;
        write_line(&mut self.text, name.as_str(), value);
        true
    }

    /// Adds a line with a number.
    pub fn push_number(&mut self, name: &HeaderName, value: u64) {
        self.push(name, itoa::Buffer::new().format(value).as_bytes());
    }

    /// Whether there is a `User-Agent`.
    pub(super) fn has_agent(&self) -> bool {
        self.has_agent
    }

    /// The lines, each with its end.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The same as a map, for those who look into it.
    pub fn to_map(&self) -> HeaderMap {
        let lines = self.text.split(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\r"));
        let pair = |line: &[u8]| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((HeaderName::from_bytes(&line[..colon]).ok()?, HeaderValue::from_bytes(&line[colon + 2..]).ok()?))
        };
        let mut map = HeaderMap::new();
        for (name, value) in lines.filter_map(pair) {
            map.append(name, value);
        }
        map
    }
}

impl From<&HeaderMap> for HeaderLines {
    fn from(map: &HeaderMap) -> Self {
        let mut lines = Self::default();
        for (name, value) in map {
            lines.push(name, value.as_bytes());
        }
        lines
    }
}

/// Writes one line. Neither part may hold a line end.
pub(super) fn write_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_the_message_is_left_out() {
        let mut lines = HeaderLines::default();
        let name = HeaderName::from_static("x-a");
        for value in ["a\r\nb", "a\nb", "a\rb", "a\0", "a\u{7f}"] {
            assert!(!lines.push(&name, value.as_bytes()), "{value:?}");
        }
        for name in [TRANSFER_ENCODING, CONTENT_LENGTH, HOST] {
            assert!(!lines.push(&name, b"1"), "{name}");
        }
        assert!(lines.text().is_empty() && !lines.has_agent());
        assert!(lines.push(&name, b"\ta b") && lines.push(&USER_AGENT, b""));
        lines.push_number(&name, 42);
        assert_eq!(lines.text(), b"x-a: \ta b\r\nuser-agent: \r\nx-a: 42\r\n");
        assert!(lines.has_agent());
        let map = lines.to_map();
        assert_eq!((map.len(), map.get_all("x-a").iter().count()), (3, 2));
    }
}
