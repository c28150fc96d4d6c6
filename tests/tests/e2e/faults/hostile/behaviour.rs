//! The ways of a worker to misbehave, and what each of them must end in.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// The time limit of tasks whose worker is cut by it. All others end by themselves, however slow the machine is.
const SHORT: &str = "500ms";
const LONG: &str = "60s";

const PLAIN: &str = "HTTP/1.1 200 OK\r\n";
const DOCUMENT: &str = "application/vnd.lovage.outcome+json";
const LINES: &str = "application/x-ndjson";

/// A worker's misbehaviour.
pub struct Behaviour {
    /// The name of the worker, of its queue and of its tasks.
    pub name: &'static str,
    /// What it does with a call.
    pub act: Act,
    /// The error types that its attempts may end in.
    pub errors: &'static [&'static str],
    /// The reason that its tasks show in the end.
    pub reason: &'static str,
    /// How many attempts a task has; none: as many as there is time for, because they are not charged.
    pub attempts: Option<usize>,
    /// The time limit of its tasks.
    pub time_limit: &'static str,
}

/// What is done with a call. Of several answers each call gets the next one.
pub enum Act {
    /// Answers and waits for the next call.
    Answer(Vec<Bytes>),
    /// Answers and closes the connection.
    AnswerAndClose(Vec<Bytes>),
    /// Answers and resets the connection.
    AnswerAndReset(Bytes),
    /// Begins to answer and then sends a byte now and then.
    Drip(Bytes),
    /// Begins to answer and then sends the second part again and again, as fast as it is taken.
    Flood(Bytes, Bytes),
}

/// All of them.
pub fn all() -> Vec<Behaviour> {
    vec![
        cut("silence", Act::Answer(vec![Bytes::new()])),
        cut("slow-head", Act::Drip(text(format!("{PLAIN}x-slow: ")))),
        cut("slow-body", Act::Drip(text(format!("{PLAIN}content-length: 1000000\r\n\r\n")))),
        cut("endless-lines", Act::Flood(head(LINES), text(format!("{{\"log\": \"{}\"}}\n", "x".repeat(1000))))),
        too_large("endless-body", Act::Flood(head("text/plain"), text("x".repeat(1 << 14)))),
        too_large("gzip-bomb", Act::Answer(vec![bomb()])),
        too_large(
            "long-line",
            Act::Answer(vec![
                whole(LINES, &"x".repeat(2 << 20)),
                whole(DOCUMENT, &format!("{{\"result\": \"{}", "x".repeat(2 << 20))),
            ]),
        ),
        too_large("endless-line", Act::Flood(head(LINES), text("x".repeat(1 << 14)))),
        malformed("endless-head", Act::Flood(text(PLAIN), text("x-more: and more\r\n"))),
        malformed("huge-header", Act::Flood(text(format!("{PLAIN}x-huge: ")), text("x".repeat(1 << 14)))),
        malformed("interim-flood", Act::Flood(Bytes::new(), text("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"))),
        malformed(
            "bad-chunks",
            answers(
                ["zz\r\n", "-1\r\n", "ffffffffffffffffff\r\n", "2\r\nlonger\r\n", "2\nok\n0\n\n"]
                    .map(|chunks| format!("{PLAIN}transfer-encoding: chunked\r\n\r\n{chunks}")),
            ),
        ),
        malformed(
            "wrong-length",
            answers(
                ["-5", "0x5", "99999999999999999999999", "5\r\ncontent-length: 6", "5, 6"]
                    .map(|length| format!("{PLAIN}content-length: {length}\r\n\r\nhello")),
            ),
        ),
        reset("short-body", Act::AnswerAndClose(vec![text(format!("{PLAIN}content-length: 100\r\n\r\nhello"))])),
        reset("reset-in-body", Act::AnswerAndReset(text(format!("{PLAIN}content-length: 100\r\n\r\nhello")))),
        uncharged(
            "redirect-loop",
            answers(
                [301, 302, 303, 307, 308]
                    .map(|status| format!("HTTP/1.1 {status} Moved\r\nlocation: /work\r\ncontent-length: 0\r\n\r\n")),
            ),
        ),
        uncharged(
            "junk-retry-after",
            answers(
                ["soon", "-1", "1e9", "Thu, 99 Foo 2026 99:99:99 GMT", "\u{1F600}", ""]
                    .map(|time| format!("HTTP/1.1 503 No\r\nretry-after: {time}\r\ncontent-length: 0\r\n\r\n")),
            ),
        ),
        charged(
            "junk-lease",
            answers(
                ["", "for ever", "-5m", "0", "99999999999999999999999", "\u{1F600}"]
                    .map(|lease| format!("HTTP/1.1 202 Accepted\r\nlovage-lease: {lease}\r\ncontent-length: 0\r\n\r\n")),
            ),
            &["BadLease"],
        ),
        charged("junk-outcome", Act::Answer(junk_outcomes()), &["BadOutcome", "UnknownOutcome"]),
        // Whoever takes the second answer for that of the next call shows a success.
        charged(
            "second-answer",
            answers([format!("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n{PLAIN}content-length: 6\r\n\r\n\"mine\"")]),
            &["HttpStatus"],
        ),
    ]
}

fn whole(content_type: &str, body: &str) -> Bytes {
    text(format!("{PLAIN}content-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

fn junk_outcomes() -> Vec<Bytes> {
    let deep = "[".repeat(100_000);
    vec![
        whole(LINES, "junk\n"),
        whole(LINES, &format!("{{\"result\": {deep}\n")),
        whole(DOCUMENT, "junk"),
        whole(DOCUMENT, "\0\0\0\0"),
        whole(DOCUMENT, &deep),
        whole(DOCUMENT, &format!("{{\"outcome\": \"success\", \"result\": {deep}")),
        whole(DOCUMENT, r#"{"outcome": "spawn", "tasks": [{"task": 5}]}"#),
        text(format!("{PLAIN}lovage-outcome: perhaps\r\ncontent-length: 0\r\n\r\n")),
    ]
}

/// 32 MiB in as many kilobytes.
fn bomb() -> Bytes {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..32 {
        packer.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let packed = packer.finish().unwrap();
    let mut bytes = format!("{PLAIN}content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", packed.len()).into_bytes();
    bytes.extend_from_slice(&packed);
    bytes.into()
}

fn text(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

fn head(content_type: &str) -> Bytes {
    text(format!("{PLAIN}content-type: {content_type}\r\n\r\n"))
}

fn answers<const N: usize>(texts: [String; N]) -> Act {
    Act::Answer(texts.map(text).into())
}

/// Tasks that have the one try that is left after a failure.
fn charged(name: &'static str, act: Act, errors: &'static [&'static str]) -> Behaviour {
    Behaviour { name, act, errors, reason: "exhausted", attempts: Some(2), time_limit: LONG }
}

fn malformed(name: &'static str, act: Act) -> Behaviour {
    charged(name, act, &["MalformedAnswer"])
}

fn reset(name: &'static str, act: Act) -> Behaviour {
    charged(name, act, &["ConnectionReset"])
}

fn cut(name: &'static str, act: Act) -> Behaviour {
    Behaviour { reason: "timeout", time_limit: SHORT, ..charged(name, act, &["TimedOut"]) }
}

fn too_large(name: &'static str, act: Act) -> Behaviour {
    Behaviour { reason: "permanent", attempts: Some(1), ..charged(name, act, &["ResultTooLarge"]) }
}

fn uncharged(name: &'static str, act: Act) -> Behaviour {
    Behaviour { attempts: None, ..charged(name, act, &["HttpStatus"]) }
}
