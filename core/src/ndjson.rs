//! A worker's answer as a stream of lines (API: The answer): progress, logs, heartbeats, and a last line with the result or
//! the error. Reads incrementally with bounded memory, whatever arrives.

use bytes::{Bytes, BytesMut};

use crate::answer::{TaskError, cut};
use crate::attempt::LOG_BYTES;
use crate::classify::{error_of, success};
use crate::fields::{self, Errors};
use crate::outcome::RawOutcome;
use crate::readable;
use crate::report::MAX_PROGRESS;

/// The content type of such an answer.
pub const CONTENT_TYPE: &str = "application/x-ndjson";

const FIELDS: [&str; 5] = ["progress", "log", "heartbeat", "result", "error"];
const ONE_OF: &str = "must have exactly one of progress, log, heartbeat, result and error";
/// What a line may have beside a result of the greatest length.
const AROUND: usize = 64;

/// What one line says.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// How far it is, as JSON.
    Progress(Bytes),
    /// A line of its log.
    Log(String),
    /// It is alive.
    Heartbeat,
    /// The end: the result as JSON.
    Result(Bytes),
    /// The end: it failed.
    Error {
        /// Why.
        error: TaskError,
        /// Another attempt is useless.
        permanent: bool,
    },
    /// The end: it cannot be read, and why.
    Bad(String),
    /// The end: it is longer than so many bytes, or the result in it is.
    TooLong(usize),
}

impl Line {
    /// What the line means for the task, if it is the last one.
    pub fn outcome(self) -> Option<RawOutcome> {
        match self {
            Self::Progress(_) | Self::Log(_) | Self::Heartbeat => None,
            Self::Result(bytes) => Some(success(Some(bytes).filter(|bytes| &bytes[..] != b"null"))),
            Self::Error { error, permanent: true } => Some(RawOutcome::Permanent { error }),
            Self::Error { error, permanent: false } => Some(RawOutcome::Retry { after: None, error }),
            Self::Bad(reason) => Some(RawOutcome::bad(reason)),
            Self::TooLong(limit) => Some(RawOutcome::too_large(limit)),
        }
    }
}

/// Turns pieces of a stream into lines. After the last line nothing counts. A stream that ends without one is a reset.
#[derive(Debug)]
pub struct Reader {
    buffer: BytesMut,
    max_line: usize,
    /// The line that is read, from 1.
    number: u64,
    done: bool,
}

impl Reader {
    /// For lines of at most `max_line` bytes, not counting what stands around a result of that length.
    pub fn new(max_line: usize) -> Self {
        Self { buffer: BytesMut::new(), max_line, number: 1, done: false }
    }

    /// Whether the last line has come.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The lines that `piece` completes. Keeps at most one line that is not complete.
    pub fn feed(&mut self, piece: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.done {
            return lines;
        }
        let mut rest = piece;
        while !self.done && !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (part, after) = end.map_or((rest, &rest[rest.len()..]), |end| (&rest[..end], &rest[end + 1..]));
            if self.buffer.len() + part.len() > self.max_line + AROUND {
                lines.push(self.last(Line::TooLong(self.max_line)));
                break;
            }
            self.buffer.extend_from_slice(part);
            if end.is_some() {
                lines.extend(self.line());
                self.number += 1;
            }
            rest = after;
        }
        lines
    }

    /// The stream has ended: what stands after the last line feed is a line, too.
    pub fn finish(&mut self) -> Option<Line> {
        if self.done { None } else { self.line() }
    }

    /// Takes the buffer as one line; `None` if it is blank.
    fn line(&mut self) -> Option<Line> {
        let bytes = self.buffer.split().freeze();
        if bytes.trim_ascii().is_empty() {
            return None;
        }
        let line = read(&bytes).unwrap_or_else(|reason| Line::Bad(format!("line {}: {reason}", self.number)));
        match line {
            Line::Result(result) if result.len() > self.max_line => Some(self.last(Line::TooLong(self.max_line))),
            Line::Progress(_) | Line::Log(_) | Line::Heartbeat => Some(line),
            last => Some(self.last(last)),
        }
    }

    fn last(&mut self, line: Line) -> Line {
        self.done = true;
        self.buffer = BytesMut::new();
        line
    }
}

fn read(bytes: &Bytes) -> Result<Line, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    let object = fields::document(text).map_err(|problem| in_line(&problem.detail))?;
    let [(name, raw)] = &object[..] else { return Err(ONE_OF.to_owned()) };
    // `text` is `bytes`, and raw values borrow from it.
    let slice = || bytes.slice_ref(raw.get().as_bytes());
    match &**name {
        "progress" if raw.get().len() > MAX_PROGRESS => Err(format!("/progress: may have at most {MAX_PROGRESS} bytes")),
        "progress" => match readable::check(raw.get().as_bytes()) {
            Ok(()) => Ok(Line::Progress(slice())),
            Err(error) => Err(format!("/progress{}: {}", error.pointer, error.message)),
        },
        "log" => {
            let text = fields::string(raw, "/log", &mut Errors::default()).map_or_else(|| raw.get().to_owned(), Into::into);
            Ok(Line::Log(cut(text, LOG_BYTES)))
        }
        "heartbeat" => Ok(Line::Heartbeat),
        "result" => Ok(Line::Result(slice())),
        "error" if raw.get().starts_with('{') => {
            let permanent = permanent(raw.get())?;
            Ok(Line::Error { error: error_of(raw.get()), permanent })
        }
        "error" => Err("/error: must be an object".to_owned()),
        other => {
            let mut errors = Errors::default();
            errors.unknown("", other, &FIELDS);
            Err(errors.problem().map_or_else(String::new, |problem| problem.detail))
        }
    }
}

/// What the parser says of a text that is one line: it calls that the first one.
fn in_line(detail: &str) -> String {
    detail.replacen("the body is", "is", 1).replacen(" at line 1 column ", " at column ", 1)
}

/// `permanent` of an error; false if it is not given.
fn permanent(error: &str) -> Result<bool, String> {
    let object = fields::document(error).map_err(|problem| format!("/error: {}", in_line(&problem.detail)))?;
    match object.iter().find(|(name, _)| name == "permanent").map(|(_, raw)| raw.get()) {
        None | Some("false" | "null") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err("/error/permanent: must be true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = concat!(
        "{\"progress\": {\"done\": 1}}\n\r\n{\"log\":\"hello\"}\n{\"log\":3}\n{\"heartbeat\":true}\n",
        "{\"result\": [1.50]}\n{\"progress\":2}\n"
    );

    fn all(pieces: &[&[u8]]) -> Vec<Line> {
        let mut reader = Reader::new(100);
        let mut lines: Vec<Line> = pieces.iter().flat_map(|piece| reader.feed(piece)).collect();
        lines.extend(reader.finish());
        lines
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(cuts in prop::collection::vec(0..STREAM.len(), 0..8)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&STREAM.as_bytes()[from..cut]);
                from = cut;
            }
            pieces.push(&STREAM.as_bytes()[from..]);
            prop_assert_eq!(all(&pieces), [
                Line::Progress(Bytes::from_static(b"{\"done\": 1}")),
                Line::Log("hello".into()),
                Line::Log("3".into()),
                Line::Heartbeat,
                Line::Result(Bytes::from_static(b"[1.50]")),
            ]);
        }

        #[test]
        fn junk_ends_it_with_a_reason_and_keeps_little(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5)) {
            let mut reader = Reader::new(100);
            for piece in &pieces {
                for line in reader.feed(piece) {
                    if let Line::Bad(reason) = &line {
                        prop_assert!(!reason.is_empty() && reader.is_done());
                    }
                }
                prop_assert!(reader.buffer.len() <= 100 + AROUND);
                if reader.is_done() {
                    let after = reader.feed(b"{\"heartbeat\":true}\n");
                    prop_assert_eq!(after, Vec::new());
                }
            }
            let _ = reader.finish();
        }
    }

    #[test]
    fn the_last_line_may_lack_its_line_feed() {
        assert_eq!(all(&[b"{\"result\":null}"]), [Line::Result(Bytes::from_static(b"null"))]);
        assert_eq!(all(&[b"{\"heartbeat\":true}"]), [Line::Heartbeat]);
        assert_eq!(all(&[b" "]), []);
        assert_eq!(Line::Heartbeat.outcome(), None);
        let null = Line::Result(Bytes::from_static(b"null")).outcome();
        assert_eq!(null, Some(RawOutcome::Success { content_type: None, body: None }));
    }

    #[test]
    fn a_line_is_as_long_as_its_result_may_be() {
        let result = |bytes: usize| format!("{{\"result\": \"{}\"}}", "x".repeat(bytes - 2));
        let too_long = [Line::TooLong(100)];
        assert!(matches!(&all(&[result(100).as_bytes()])[..], [Line::Result(bytes)] if bytes.len() == 100));
        for text in [result(101), result(100_000), "x".repeat(100 + AROUND + 1), format!("{}{{\"result\":1}}", " ".repeat(200))] {
            assert_eq!(all(&[text.as_bytes()]), too_long);
            assert_eq!(all(&[text.as_bytes(), b"\n"]), too_long);
        }
        let Some(RawOutcome::Permanent { error }) = Line::TooLong(100).outcome() else { unreachable!() };
        assert!(error.kind == "ResultTooLarge" && error.message.contains("100 bytes"), "{error:?}");
    }

    #[test]
    fn an_error_says_whether_it_is_permanent() {
        for (line, permanent) in [
            (r#"{"error":{"type":"E","message":"m","permanent":true}}"#, true),
            (r#"{"error":{"type":"E","message":"m"}}"#, false),
        ] {
            let error = TaskError::new("E", "m");
            assert_eq!(all(&[line.as_bytes()]), [Line::Error { error: error.clone(), permanent }]);
            match all(&[line.as_bytes()]).pop().unwrap().outcome() {
                Some(RawOutcome::Permanent { error: it }) => assert!(permanent && it == error),
                Some(RawOutcome::Retry { after: None, error: it }) => assert!(!permanent && it == error),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let deep = format!("{{\"progress\":{}{}}}", "[".repeat(7_000), "]".repeat(7_000));
        for (text, reason) in [
            ("{}", ONE_OF),
            (r#"{"progress":1,"log":"x"}"#, ONE_OF),
            ("[1]", "line 1: invalid type: sequence, expected an object"),
            ("hello", "line 1: is not JSON: expected value at column 1"),
            ("\n\n{\"heartbeat\":", "line 3: is not JSON: EOF while parsing a value at column 13"),
            (r#"{"progress":[1,1e999]}"#, "line 1: /progress/1: "),
            (r#"{"progress":{"a":"\ud800"}}"#, "line 1: /progress/a: "),
            (r#"{"progress":NaN}"#, "line 1: is not JSON"),
            (&deep, "line 1: /progress: is nested deeper than 100 levels"),
            (r#"{"progres":1}"#, "did you mean `progress`"),
            (r#"{"error":"x"}"#, "/error: must be an object"),
            (r#"{"error":{"permanent":"yes"}}"#, "/error/permanent"),
        ] {
            let mut reader = Reader::new(1 << 20);
            match &reader.feed(format!("{text}\n").as_bytes())[..] {
                [Line::Bad(found)] => assert!(found.contains(reason), "{text}: {found}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let long = format!("{{\"progress\":\"{}\"}}", "x".repeat(MAX_PROGRESS));
        let mut reader = Reader::new(1 << 20);
        reader.feed(long.as_bytes());
        assert!(matches!(reader.finish(), Some(Line::Bad(reason)) if reason.contains("/progress")));
    }
}
