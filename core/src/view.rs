//! A record as people and callbacks see it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::answer::TaskError;
use crate::asked::Asked;
use crate::body::ResultValue;
use crate::callback::CallbackKind;
use crate::head::{Flags, Head};
use crate::id::TaskId;
use crate::redact::Redaction;
use crate::retry::RetryPolicy;
use crate::spec::Spec;
use crate::state::Reason;
use crate::units::Dur;

/// Results and arguments up to this size are shown inside the record; larger ones have a route of their own.
pub const INLINE_BYTES: usize = 16 * 1024;

/// Values of workers that are nested deeper than this are not put inside other documents: many parsers give up on them, and
/// then on the whole document ([`crate::readable`]).
pub const INLINE_DEPTH: usize = 100;

/// The record of a task (API: `GET /v1/tasks/{id}`).
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The event that a callback reports, such as `task.succeeded`; absent elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<&'static str>,
    /// The task's id.
    pub id: String,
    /// Its state.
    pub state: &'static str,
    /// Why it is in that state.
    pub reason: Option<&'static str>,
    /// The task's name.
    pub task: Option<String>,
    /// The address it is pushed to.
    pub url: Option<String>,
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The queue it waits in.
    pub queue: String,
    /// 0–9, higher first.
    pub priority: u8,
    /// Attempts started so far.
    pub attempt: u32,
    /// Attempts that the retry budget still allows.
    pub attempts_left: u32,
    /// Rises with every manual retry.
    pub generation: u8,
    /// Whether somebody keeps it from starting.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Whether a cancel was asked for while it ran.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// When it was accepted.
    pub created_at: String,
    /// Not before (while it waits).
    pub due_at: Option<String>,
    /// Never started at or after this.
    pub expires_at: Option<String>,
    /// Start of the latest attempt.
    pub started_at: Option<String>,
    /// When it became final.
    pub finished_at: Option<String>,
    /// The worker of the latest attempt.
    pub worker: Option<String>,
    /// Positional arguments, when given and small.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Box<RawValue>>,
    /// Named arguments, when given and small.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kwargs: Option<Box<RawValue>>,
    /// The payload, when it is JSON and small.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    /// The result, when it is JSON of up to 16 KiB; null while there is none. Left out when there is one that is larger, or
    /// that not every reader can read ([`crate::readable`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// What went wrong: at last, or in the last attempt.
    pub error: Option<TaskError>,
    /// How far the open attempt is, as its worker last said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Box<RawValue>>,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// The retry policy in force.
    pub retry: RetryPolicy,
    /// After this long of an attempt its worker is told to come to an end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_time_limit: Option<Dur>,
    /// How long the open request of one attempt may take.
    pub time_limit: Dur,
    /// How long an attempt may take in all after it was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_run: Option<Dur>,
    /// The rest of what was asked for.
    #[serde(flatten)]
    pub asked: Asked,
    /// The task that spawned this one.
    pub parent: Option<String>,
    /// The first ancestor.
    pub root: Option<String>,
    /// Set on a callback: what it reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback: Option<CallbackKind>,
    /// Rises by one with every change; also the `ETag`.
    pub version: u64,
    /// What is not shown of all this.
    #[serde(skip)]
    redaction: Redaction,
}

impl Record {
    /// The record of this head and signature, without result and payload. What the signature hides is hidden here and in
    /// what is added later, so that every view hides it.
    pub fn new(id: &TaskId, head: &Head, spec: &Spec) -> Self {
        let (retry, redaction) = (spec.retry(), Redaction::of(&spec.redact));
        let time = |t: crate::Millis| (t.0 != 0).then(|| t.rfc3339());
        let left = if head.state.is_final() { 0 } else { u32::from(retry.max_attempts.saturating_sub(head.budget)) };
        Self {
            r#type: None,
            id: id.to_string(),
            state: head.state.as_str(),
            reason: (head.reason != Reason::None).then(|| head.reason.as_str()),
            task: spec.task.clone(),
            url: redaction.url(spec),
            name: spec.name.clone(),
            queue: spec.queue().to_owned(),
            priority: head.priority,
            attempt: head.attempt,
            attempts_left: left,
            generation: head.generation,
            held: head.flags.has(Flags::HELD),
            cancel_requested: head.flags.has(Flags::CANCEL),
            created_at: head.created.rfc3339(),
            due_at: if head.state.is_waiting() { time(head.due) } else { None },
            expires_at: time(head.expires),
            started_at: time(head.started),
            finished_at: time(head.ended),
            worker: None,
            args: None,
            kwargs: None,
            payload: None,
            result: Some(RawValue::NULL.to_owned()),
            error: None,
            progress: None,
            labels: redaction.labels(&spec.labels),
            retry,
            soft_time_limit: spec.soft_time_limit,
            time_limit: spec.time_limit(),
            max_run: spec.max_run,
            asked: Asked::of(spec),
            parent: spec.parent.as_ref().map(ToString::to_string),
            root: spec.root.as_ref().map(ToString::to_string),
            callback: spec.callback,
            version: head.version,
            redaction,
        }
    }

    /// With the result (inlined when it is JSON and small) or the error.
    #[must_use]
    pub fn with_result(mut self, result: Option<&ResultValue>) -> Self {
        let shown = |field, bytes: &Bytes| {
            let shown = inline(bytes).filter(|_| crate::readable::check(bytes).is_ok());
            Some(self.redaction.value(field, shown?))
        };
        match result {
            Some(ResultValue::Value { content_type, bytes }) if is_json(content_type) => self.result = shown("result", bytes),
            Some(ResultValue::Error(bytes)) => {
                self.error = serde_json::from_slice(bytes).ok().map(|error| self.redaction.error(error));
            }
            Some(ResultValue::Progress(bytes)) => self.progress = shown("progress", bytes),
            Some(ResultValue::Value { .. }) => self.result = None,
            None => {}
        }
        self
    }

    /// With the arguments or the payload, where they are JSON and small.
    #[must_use]
    pub fn with_payload(mut self, spec: &Spec, content_type: &str, payload: &Bytes) -> Self {
        let shown = Shown::of(spec, content_type, payload, &self.redaction);
        (self.args, self.kwargs, self.payload) = (shown.args, shown.kwargs, shown.payload);
        self
    }
}

/// The arguments or the payload of a task, where they are JSON and small.
#[derive(Debug, Default)]
pub struct Shown {
    /// Positional arguments.
    pub args: Option<Box<RawValue>>,
    /// Named arguments.
    pub kwargs: Option<Box<RawValue>>,
    /// What is delivered as it is.
    pub payload: Option<Box<RawValue>>,
}

impl Shown {
    /// Those of a stored payload, as they may be shown.
    pub fn of(spec: &Spec, content_type: &str, payload: &Bytes, redaction: &Redaction) -> Self {
        #[derive(serde::Deserialize)]
        struct Call {
            args: Box<RawValue>,
            kwargs: Box<RawValue>,
        }
        let mut shown = Self::default();
        match spec.form {
            _ if payload.len() > INLINE_BYTES => {}
            crate::spec::Form::Call => {
                if let Ok(call) = serde_json::from_slice::<Call>(payload) {
                    shown.args = Some(redaction.value("args", call.args));
                    shown.kwargs = Some(redaction.value("kwargs", call.kwargs));
                }
            }
            crate::spec::Form::Verbatim if is_json(content_type) => {
                shown.payload = inline(payload).map(|payload| redaction.value("payload", payload));
            }
            crate::spec::Form::Verbatim => {}
        }
        shown
    }
}

/// Whether a content type is JSON; none given counts as JSON.
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.is_empty() || essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
}

fn inline(bytes: &Bytes) -> Option<Box<RawValue>> {
    if bytes.len() > INLINE_BYTES || deeper_than(bytes, INLINE_DEPTH) {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

/// Whether this JSON is nested deeper than `limit` levels. Of what is no JSON, the answer means nothing.
pub fn deeper_than(json: &[u8], limit: usize) -> bool {
    // Every level costs an opening and a closing character.
    if json.len() <= 2 * limit {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::redact::HIDDEN;
    use crate::{Millis, NewTask, Ns};

    fn nested(levels: usize) -> String {
        format!("{}1{}", "[".repeat(levels), "]".repeat(levels))
    }

    #[test]
    fn depth_is_counted_outside_strings() {
        let deeper = |text: String| deeper_than(text.as_bytes(), 128);
        assert!(!deeper(nested(128)));
        assert!(deeper(nested(129)));
        assert!(!deeper(format!("\"{}\"", "[".repeat(1000))));
        assert!(!deeper(format!("[{}]", "[],".repeat(1000))));
        assert!(deeper(format!("[\"\\\"\",{}]", nested(128))));
    }

    #[test]
    fn a_record_hides_what_its_signature_hides() {
        let redact = ["/kwargs/password", "/labels/who", "/url", "/result/token", "/error/message", "/progress"];
        let spec = Spec {
            url: Some("http://a/?key=secret".into()),
            labels: [("who", "secret"), ("team", "a")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            redact: redact.map(str::to_owned).into(),
            ..Spec::default()
        };
        let head = NewTask::first_head(&spec.lane(Ns::DEFAULT, 4), 4, None, None, Millis(1));
        let payload = Bytes::from_static(br#"{"args":[1.50],"kwargs":{"password":"secret"}}"#);
        let results = [
            ResultValue::Value { content_type: String::new(), bytes: Bytes::from_static(br#"{"token":"secret","n":1}"#) },
            ResultValue::Error(Bytes::from_static(br#"{"type":"E","message":"secret"}"#)),
            ResultValue::Progress(Bytes::from_static(br#""secret""#)),
        ];
        let record = Record::new(&TaskId::parse("t").unwrap(), &head, &spec).with_payload(&spec, "", &payload);
        let record = results.iter().fold(record, |record, result| record.with_result(Some(result)));
        let shown = serde_json::to_string(&record).unwrap();
        assert_eq!((shown.matches("secret").count(), shown.matches(HIDDEN).count()), (0, 6), "{shown}");
        assert!(shown.contains("1.50") && shown.contains(r#""team":"a""#) && shown.contains(r#""n":1"#), "{shown}");
    }

    #[test]
    fn a_result_that_is_not_shown_is_left_out() {
        let shown = |content_type: &str, text: String| {
            let spec = Spec::default();
            let head = NewTask::first_head(&spec.lane(Ns::DEFAULT, 4), 4, None, None, Millis(1));
            let record = Record::new(&TaskId::parse("t").unwrap(), &head, &spec);
            let result = ResultValue::Value { content_type: content_type.into(), bytes: text.into() };
            serde_json::to_value(record.with_result(Some(&result))).unwrap().get("result").cloned()
        };
        assert_eq!(shown("application/json", "[1]".into()), Some(serde_json::json!([1])));
        assert_eq!(shown("", "null".into()), Some(serde_json::Value::Null));
        assert_eq!(shown("text/html", "1".into()), None);
        assert_eq!(shown("application/json", "{nope".into()), None);
        assert_eq!(shown("application/json", "[1e999]".into()), None);
        assert_eq!(shown("application/json", r#""\ud800""#.into()), None);
        assert_eq!(shown("application/json", nested(INLINE_DEPTH + 1)), None);
        assert_eq!(shown("application/json", format!("\"{}\"", "x".repeat(INLINE_BYTES))), None);
    }
}
