//! What a worker reports to the URL of its attempt (API: Reporting to the attempt URL).

use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::answer::{TaskError, cut};
use crate::attempt::LOG_BYTES;
use crate::classify::error_of;
use crate::event::Event;
use crate::fields::{self, Errors, Object};
use crate::head::Attempt;
use crate::outcome::{MAX_LEASE, MIN_LEASE, Outcome, Then};
use crate::problem::{Code, Problem};
use crate::readable;
use crate::retry::MAX_RETRY_AFTER;
use crate::signature::{Draft, Rules};
use crate::units::{Dur, Size};
use crate::view::INLINE_BYTES;

/// The longest progress report in bytes: it is shown inside the record.
pub const MAX_PROGRESS: usize = INLINE_BYTES;

/// A report, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// It is alive.
    Heartbeat {
        /// How long it may be silent from now on; none: as before.
        lease: Option<Duration>,
        /// Its resident memory in bytes.
        memory_rss: Option<u64>,
    },
    /// How far it is, as JSON.
    Progress(Bytes),
    /// It succeeded.
    Complete {
        /// Of the result.
        content_type: Option<String>,
        /// The result; empty is null.
        bytes: Bytes,
    },
    /// It failed.
    Fail {
        /// Why.
        error: TaskError,
        /// Whether the retry policy decides; else it has failed for good.
        retry: bool,
    },
    /// It wants to see the task later.
    Snooze {
        /// How much later.
        after: Duration,
    },
    /// It starts other tasks.
    Spawn {
        /// At least one.
        tasks: Vec<Draft>,
        /// Whether the attempt ends and the task waits for them.
        then: Then,
    },
    /// Another signature takes the place of this one.
    Replace {
        /// It.
        replacement: Box<Draft>,
    },
    /// Lines for the record of the attempt.
    Logs(Vec<String>),
}

/// The last step of the attempt URL's paths.
pub const VERBS: [&str; 8] = ["heartbeat", "progress", "complete", "fail", "snooze", "spawn", "replace", "logs"];

impl Report {
    /// Reads the report that `verb` names; `None`: there is no such verb.
    pub fn read(verb: &str, content_type: Option<&str>, body: &Bytes, rules: &Rules<'_>) -> Option<Result<Self, Problem>> {
        Some(match verb {
            "complete" => {
                let content_type = content_type.filter(|text| !text.is_empty() && text.len() <= 255).map(str::to_owned);
                Ok(Self::Complete { content_type, bytes: body.clone() })
            }
            "progress" => progress(body),
            "heartbeat" => document(body, |object, errors| Some(heartbeat(object, errors))),
            "fail" => document(body, |object, errors| Some(fail(body, object, errors))),
            "snooze" => document(body, snooze),
            "spawn" => document(body, |object, errors| spawn(body, object, rules, errors)),
            "replace" => document(body, |object, errors| replace(body, object, rules, errors)),
            "logs" => document(body, logs),
            _ => return None,
        })
    }
}

impl Report {
    /// What it means for the task. `room`: [`crate::AttemptEntry::log_room`] of the attempt.
    pub fn event(self, attempt: Attempt, room: usize) -> Event {
        let answered = |outcome| Event::Answered { attempt, outcome };
        match self {
            Self::Heartbeat { lease, .. } => Event::Heartbeat { attempt, lease },
            Self::Progress(value) => Event::Progress { attempt, value },
            Self::Complete { content_type, bytes } => {
                let body = Some(bytes).filter(|bytes| !bytes.is_empty());
                answered(Outcome::Success { content_type: content_type.filter(|_| body.is_some()), body })
            }
            Self::Fail { error, retry: true } => answered(Outcome::Retry { after: None, error }),
            Self::Fail { error, retry: false } => answered(Outcome::Permanent { error }),
            Self::Snooze { after } => answered(Outcome::Snooze { after }),
            Self::Spawn { tasks, then: Then::Detach } => Event::Spawned { attempt, tasks },
            Self::Spawn { tasks, then: Then::Wait } => answered(Outcome::Spawn { tasks, then: Then::Wait, result: None }),
            Self::Replace { replacement } => answered(Outcome::Replace { replacement }),
            Self::Logs(lines) => Event::Logs { attempt, lines, room },
        }
    }
}

/// A short mark of a report, kept with its attempt to tell a repetition from a second report: 64-bit FNV-1a.
pub fn mark(verb: &str, content_type: Option<&str>, body: &[u8]) -> u64 {
    let feed = |hash: u64, bytes: &[u8]| {
        let bytes = bytes.iter().chain(&[0]);
        bytes.fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let hash = feed(0xcbf2_9ce4_8422_2325, verb.as_bytes());
    feed(feed(hash, content_type.unwrap_or_default().as_bytes()), body)
}

fn document(body: &Bytes, read: impl FnOnce(&Object<'_>, &mut Errors) -> Option<Report>) -> Result<Report, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| Problem::new(Code::Malformed, "the body is not UTF-8"))?;
    let text = if text.trim().is_empty() { "{}" } else { text };
    let object = fields::document(text)?;
    let mut errors = Errors::default();
    let report = read(&object, &mut errors);
    match errors.problem() {
        Some(problem) => Err(problem),
        None => report.ok_or_else(|| Problem::invalid("", "is not valid")),
    }
}

/// The value of a field that is given and not null; every other field is refused by [`only`].
fn field<'a>(object: &Object<'a>, name: &str) -> Option<&'a RawValue> {
    object.iter().find(|(field, raw)| field == name && !fields::is_null(raw)).map(|(_, raw)| *raw)
}

fn only(object: &Object<'_>, known: &[&str], errors: &mut Errors) {
    for (name, _) in object.iter().filter(|(name, _)| !known.contains(&&**name)) {
        errors.unknown("", name, known);
    }
}

fn missing(at: &str, errors: &mut Errors) -> Option<Report> {
    errors.invalid(at, "must be given");
    None
}

fn duration(raw: &RawValue, at: &str, most: Duration, errors: &mut Errors) -> Option<Duration> {
    fields::value::<Dur>(raw, at, errors).map(|value| value.get().min(most))
}

/// How long a worker that reports may be silent.
pub fn lease(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<Duration> {
    let lease = fields::value::<Dur>(raw, at, errors)?.get();
    if lease < MIN_LEASE || lease > MAX_LEASE {
        errors.invalid(at, "must be from 100ms to 24h");
    }
    Some(lease)
}

fn heartbeat(object: &Object<'_>, errors: &mut Errors) -> Report {
    only(object, &["lease", "memory_rss"], errors);
    let lease = field(object, "lease").and_then(|raw| lease(raw, "/lease", errors));
    let memory_rss = field(object, "memory_rss").and_then(|raw| fields::value::<Size>(raw, "/memory_rss", errors));
    Report::Heartbeat { lease, memory_rss: memory_rss.map(|size| size.0) }
}

fn progress(body: &Bytes) -> Result<Report, Problem> {
    if body.len() > MAX_PROGRESS {
        return Err(Problem::new(Code::PayloadTooLarge, format!("a progress report may have at most {MAX_PROGRESS} bytes")));
    }
    serde_json::from_slice::<&RawValue>(body).map_err(|error| fields::json_problem(&error))?;
    readable::check(body)?;
    Ok(Report::Progress(body.clone()))
}

fn fail(body: &Bytes, object: &Object<'_>, errors: &mut Errors) -> Report {
    only(object, &["type", "message", "stack", "retry"], errors);
    for name in ["type", "message", "stack"] {
        if let Some(raw) = field(object, name) {
            fields::string(raw, &format!("/{name}"), errors);
        }
    }
    let retry = field(object, "retry").and_then(|raw| fields::boolean(raw, "/retry", errors)).unwrap_or_default();
    // `document` read it as UTF-8.
    let error = error_of(std::str::from_utf8(body).unwrap_or_default());
    Report::Fail { error, retry }
}

fn snooze(object: &Object<'_>, errors: &mut Errors) -> Option<Report> {
    only(object, &["after"], errors);
    let Some(raw) = field(object, "after") else { return missing("/after", errors) };
    duration(raw, "/after", MAX_RETRY_AFTER, errors).map(|after| Report::Snooze { after })
}

fn spawn(body: &Bytes, object: &Object<'_>, rules: &Rules<'_>, errors: &mut Errors) -> Option<Report> {
    only(object, &["tasks", "then"], errors);
    let then = field(object, "then").and_then(|raw| fields::value(raw, "/then", errors)).unwrap_or_default();
    let Some(raw) = field(object, "tasks") else { return missing("/tasks", errors) };
    let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
        errors.invalid("/tasks", "must be an array");
        return None;
    };
    // The raw values borrow from `body`.
    let raw: Vec<Bytes> = list.into_iter().map(|raw| body.slice_ref(raw.get().as_bytes())).collect();
    let tasks = rules.children(&raw, "/tasks", errors);
    Some(Report::Spawn { tasks, then })
}

fn replace(body: &Bytes, object: &Object<'_>, rules: &Rules<'_>, errors: &mut Errors) -> Option<Report> {
    only(object, &["replacement"], errors);
    let Some(raw) = field(object, "replacement") else { return missing("/replacement", errors) };
    let raw = body.slice_ref(raw.get().as_bytes());
    let replacement = Box::new(rules.replacement(&raw, "/replacement", errors)?);
    Some(Report::Replace { replacement })
}

fn logs(object: &Object<'_>, errors: &mut Errors) -> Option<Report> {
    only(object, &["lines"], errors);
    let Some(raw) = field(object, "lines") else { return missing("/lines", errors) };
    let lines: Vec<String> = fields::value(raw, "/lines", errors)?;
    Some(Report::Logs(lines.into_iter().map(|line| cut(line, LOG_BYTES)).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::signature::tests::RULES;

    fn read(verb: &str, body: &str) -> Result<Report, Problem> {
        Report::read(verb, None, &Bytes::copy_from_slice(body.as_bytes()), &RULES).unwrap()
    }

    #[test]
    fn every_verb_is_read() {
        let secs = Duration::from_secs;
        assert_eq!(read("heartbeat", "").unwrap(), Report::Heartbeat { lease: None, memory_rss: None });
        let beat = read("heartbeat", r#"{"lease":"2m","memory_rss":"1KiB"}"#).unwrap();
        assert_eq!(beat, Report::Heartbeat { lease: Some(secs(120)), memory_rss: Some(1024) });
        assert_eq!(read("progress", " 0.50 ").unwrap(), Report::Progress(Bytes::from_static(b" 0.50 ")));
        assert_eq!(read("complete", "x").unwrap(), Report::Complete { content_type: None, bytes: Bytes::from_static(b"x") });
        let failed = read("fail", r#"{"type":"E","message":"m","stack":"s"}"#).unwrap();
        assert_eq!(failed, Report::Fail { error: TaskError::new("E", "m").with_stack("s"), retry: false });
        assert!(matches!(read("fail", r#"{"retry":true}"#), Ok(Report::Fail { retry: true, .. })));
        assert_eq!(read("snooze", r#"{"after":30}"#).unwrap(), Report::Snooze { after: secs(30) });
        assert_eq!(read("snooze", r#"{"after":"100d"}"#).unwrap(), Report::Snooze { after: MAX_RETRY_AFTER });
        let spawned = read("spawn", r#"{"tasks":[{"task":"a"},{"task":"b"}],"then":"detach"}"#).unwrap();
        assert!(matches!(spawned, Report::Spawn { tasks, then: Then::Detach } if tasks.len() == 2));
        assert!(matches!(read("replace", r#"{"replacement":{"task":"a"}}"#), Ok(Report::Replace { .. })));
        assert_eq!(read("logs", r#"{"lines":["a","b"]}"#).unwrap(), Report::Logs(vec!["a".into(), "b".into()]));
        assert!(Report::read("explode", None, &Bytes::new(), &RULES).is_none());
    }

    #[test]
    fn what_is_refused_names_its_place() {
        let deep = format!("{}{}", "[".repeat(8_000), "]".repeat(8_000));
        for (verb, body, pointer) in [
            ("heartbeat", r#"{"lease":"soon"}"#, "/lease"),
            ("heartbeat", r#"{"lease":0}"#, "/lease"),
            ("heartbeat", r#"{"lease":"99ms"}"#, "/lease"),
            ("heartbeat", r#"{"lease":"25h"}"#, "/lease"),
            ("heartbeat", r#"{"lease":-1}"#, "/lease"),
            ("heartbeat", r#"{"leas":1}"#, "/leas"),
            ("heartbeat", r#"{"memory_rss":-1}"#, "/memory_rss"),
            ("fail", r#"{"message":3}"#, "/message"),
            ("fail", r#"{"retry":"no"}"#, "/retry"),
            ("snooze", "{}", "/after"),
            ("snooze", r#"{"after":"x"}"#, "/after"),
            ("spawn", "{}", "/tasks"),
            ("spawn", r#"{"tasks":[]}"#, "/tasks"),
            ("spawn", r#"{"tasks":{}}"#, "/tasks"),
            ("spawn", r#"{"tasks":[{"task":"a","priority":11}]}"#, "/tasks/0/priority"),
            ("spawn", r#"{"tasks":[{"task":"a"}],"then":"rest"}"#, "/then"),
            ("replace", "{}", "/replacement"),
            ("replace", r#"{"replacement":{"task":"a","id":"b"}}"#, "/replacement/id"),
            ("logs", r#"{"lines":"a"}"#, "/lines"),
            ("logs", "[]", ""),
            ("progress", "1e999", ""),
            ("progress", r#"{"a":["\ud800"]}"#, "/a/0"),
            ("progress", &deep, ""),
        ] {
            let problem = read(verb, body).unwrap_err();
            assert_eq!(problem.errors[0].pointer, pointer, "{verb} {body}");
        }
        for body in ["{", "NaN", "[-Infinity]", ""] {
            assert_eq!(read("progress", body).unwrap_err().code, Code::Malformed, "{body}");
        }
        assert_eq!(read("progress", &format!("\"{}\"", "x".repeat(MAX_PROGRESS))).unwrap_err().code, Code::PayloadTooLarge);
    }

    #[test]
    fn a_repetition_has_the_same_mark() {
        assert_eq!(mark("complete", Some("text/plain"), b"1"), mark("complete", Some("text/plain"), b"1"));
        let marks = [
            mark("complete", None, b"1"),
            mark("complete", None, b"2"),
            mark("fail", None, b"1"),
            mark("complete", Some("1"), b""),
        ];
        assert_eq!(marks.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    }

    proptest! {
        #[test]
        fn junk_is_refused_and_never_panics(verb in prop::sample::select(&VERBS[..]), body: Vec<u8>) {
            let _ = Report::read(verb, None, &body.into(), &RULES);
        }
    }
}
