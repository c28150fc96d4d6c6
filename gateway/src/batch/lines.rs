//! Cutting a stream of bytes into lines, with bounded memory.

use bytes::{Bytes, BytesMut};

/// A line of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Its bytes without the line end.
    Text(Bytes),
    /// It is longer than a line may be; its bytes were dropped as they came.
    TooLong,
}

/// Holds what came after the last line end.
pub(crate) struct Lines {
    rest: BytesMut,
    limit: usize,
    /// The current line is too long: drop bytes up to its end.
    skipping: bool,
    /// Bytes of `rest` that are known to have no line end.
    searched: usize,
}

impl Lines {
    pub(crate) fn new(limit: usize) -> Self {
        Self { rest: BytesMut::new(), limit, skipping: false, searched: 0 }
    }

    /// Adds a piece of the body.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.rest.extend_from_slice(piece);
    }

    /// The next whole line; empty ones are passed over.
    pub(crate) fn next(&mut self) -> Option<Line> {
        loop {
            let found = self.rest[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(end) = found.map(|at| at + self.searched) else {
                self.searched = self.rest.len();
                if self.rest.len() > self.limit {
                    self.skipping = true;
                    self.rest.clear();
                    self.searched = 0;
                }
                return None;
            };
            let line = self.rest.split_to(end + 1).freeze().slice(..end);
            self.searched = 0;
            if let Some(line) = self.judge(line) {
                return Some(line);
            }
        }
    }

    /// What stands after the last line end when the stream has ended.
    pub(crate) fn last(&mut self) -> Option<Line> {
        let line = self.rest.split().freeze();
        self.searched = 0;
        self.judge(line)
    }

    fn judge(&mut self, line: Bytes) -> Option<Line> {
        if std::mem::take(&mut self.skipping) || line.len() > self.limit {
            return Some(Line::TooLong);
        }
        let text = line.trim_ascii();
        (!text.is_empty()).then(|| Line::Text(line.slice_ref(text)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cut(input: &[u8], limit: usize, piece: usize) -> Vec<Line> {
        let (mut lines, mut out) = (Lines::new(limit), Vec::new());
        for piece in input.chunks(piece) {
            lines.push(piece);
            out.extend(std::iter::from_fn(|| lines.next()));
        }
        out.extend(lines.last());
        out
    }

    #[test]
    fn pieces_do_not_matter() {
        let text = |text: &'static str| Line::Text(text.into());
        for piece in 1..20 {
            assert_eq!(
                cut(b"one\r\n\ntwo\n123456789\nthree", 6, piece),
                [text("one"), text("two"), Line::TooLong, text("three")]
            );
        }
    }

    #[test]
    fn a_long_line_costs_no_memory() {
        let mut lines = Lines::new(10);
        for _ in 0..1000 {
            lines.push(&[b'x'; 100]);
            assert_eq!(lines.next(), None);
            assert!(lines.rest.len() <= 110);
        }
        lines.push(b"\nok\n");
        assert_eq!(lines.next(), Some(Line::TooLong));
        assert_eq!(lines.next(), Some(Line::Text("ok".into())));
    }
}
