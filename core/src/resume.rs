//! What a parent is called with again: its own call and what became of the tasks that it spawned and waited for.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::body::{Body, ResultValue};
use crate::id::TaskId;
use crate::readable;
use crate::spec::{Form, Spec};
use crate::state::State;
use crate::view::is_json;

/// Results of up to this size are sent whatever the others are.
const SMALL: usize = 16 * 1024;
/// Bytes of results in one body; beyond it only small ones are sent.
const MOST_RESULTS: usize = 8 * 1024 * 1024;

/// A child as its parent sees it.
#[derive(Debug, Serialize)]
pub struct Child {
    id: String,
    /// Null: its record is gone already.
    state: Option<&'static str>,
    result: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
    /// There is a result, but it is too large, or neither JSON that every reader can read nor text, or its time is over.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    result_omitted: bool,
}

/// Children in the order in which they were spawned, with as much of their results as one call may carry.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Children {
    all: Vec<Child>,
    #[serde(skip)]
    bytes: usize,
    /// All results together are too large.
    #[serde(skip)]
    only_small: bool,
}

impl Children {
    /// Adds the next one.
    pub fn push(&mut self, mut child: Child) {
        self.bytes += child.size();
        if !self.only_small && self.bytes > MOST_RESULTS {
            self.only_small = true;
            self.all.iter_mut().for_each(Child::without_large);
        }
        if self.only_small {
            child.without_large();
        }
        self.all.push(child);
    }
}

impl Child {
    /// A child in this state with what is stored in the place of its result; `gone`: the time of its result is over.
    pub fn new(id: &TaskId, state: Option<State>, value: Option<ResultValue>, gone: bool) -> Self {
        let mut child =
            Self { id: id.to_string(), state: state.map(State::as_str), result: None, error: None, result_omitted: gone };
        match value {
            Some(ResultValue::Value { content_type, bytes }) => {
                child.result = as_json(&content_type, &bytes).filter(|raw| readable::check(raw.get().as_bytes()).is_ok());
                child.result_omitted |= child.result.is_none();
            }
            Some(ResultValue::Error(bytes)) => child.error = serde_json::from_slice(&bytes).ok(),
            Some(ResultValue::Progress(_)) | None => {}
        }
        child
    }

    fn size(&self) -> usize {
        self.result.as_ref().map_or(0, |result| result.get().len())
    }

    fn without_large(&mut self) {
        if self.size() > SMALL {
            (self.result, self.result_omitted) = (None, true);
        }
    }
}

/// Bytes as a value inside JSON: JSON as it is, text as a string; `None`: neither.
pub fn as_json(content_type: &str, bytes: &Bytes) -> Option<Box<RawValue>> {
    if is_json(content_type) {
        return serde_json::from_slice(bytes).ok();
    }
    serde_json::value::to_raw_value(std::str::from_utf8(bytes).ok()?).ok()
}

/// The body of the call: the usual fields and the children. A payload that is no call is a field of its own: JSON as it is,
/// text as a string, other bytes as null.
pub fn body(spec: &Spec, id: &TaskId, stored: &Body, children: &Children) -> Bytes {
    #[derive(Serialize)]
    struct Raw<'a> {
        payload: Option<Box<RawValue>>,
        children: &'a Children,
    }
    match spec.form {
        Form::Call => {
            let call = crate::spec::delivered(spec, id, &stored.payload);
            let mut out = Vec::with_capacity(call.len() + 1024);
            out.extend_from_slice(call.strip_suffix(b"}").unwrap_or(&call));
            out.extend_from_slice(b",\"children\":");
            // Plain data into a Vec cannot fail.
            let _ = serde_json::to_writer(&mut out, children);
            out.push(b'}');
            out.into()
        }
        Form::Verbatim => {
            let payload = as_json(&String::from_utf8_lossy(&stored.content_type), &stored.payload);
            serde_json::to_vec(&Raw { payload, children }).unwrap_or_default().into()
        }
    }
}

/// `{"payload": …}` of a payload that is no call, as in [`body`].
pub fn payload(stored: &Body) -> Bytes {
    #[derive(Serialize)]
    struct Raw {
        payload: Option<Box<RawValue>>,
    }
    let payload = as_json(&String::from_utf8_lossy(&stored.content_type), &stored.payload);
    serde_json::to_vec(&Raw { payload }).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn id(text: &str) -> TaskId {
        TaskId::parse(text).unwrap()
    }

    #[allow(clippy::unnecessary_wraps)] // the field it goes into is an option
    fn value(content_type: &str, bytes: &'static str) -> Option<ResultValue> {
        Some(ResultValue::Value { content_type: content_type.into(), bytes: Bytes::from_static(bytes.as_bytes()) })
    }

    fn stored(content_type: &'static str, payload: &'static [u8]) -> Body {
        Body { spec: Bytes::new(), content_type: content_type.into(), payload: Bytes::from_static(payload) }
    }

    #[test]
    fn every_kind_of_result_is_told() {
        let error = ResultValue::Error(Bytes::from_static(br#"{"type":"E","message":"m"}"#));
        let mut children = Children::default();
        for child in [
            Child::new(&id("a"), Some(State::Succeeded), value("application/json", "[1.50]"), false),
            Child::new(&id("b"), Some(State::Succeeded), value("text/plain", "hi"), false),
            Child::new(&id("c"), Some(State::Succeeded), None, false),
            Child::new(&id("d"), Some(State::Failed), Some(error), false),
            Child::new(&id("e"), None, None, false),
            Child::new(&id("f"), Some(State::Succeeded), value("application/json", "{broken"), false),
        ] {
            children.push(child);
        }
        let spec = Spec { task: Some("t".into()), ..Spec::default() };
        let text = body(&spec, &id("p"), &stored("", br#"{"args":[1],"kwargs":{}}"#), &children);
        assert!(text.starts_with(
            br#"{"task":"t","id":"p","args":[1],"kwargs":{},"children":[{"id":"a","state":"succeeded","result":[1.50]"#
        ));
        let read: Value = serde_json::from_slice(&text).unwrap();
        let child = |id: &str, state: Option<&str>, result: Value, error: Value| json!({"id": id, "state": state, "result": result, "error": error});
        assert_eq!(read["children"][1], child("b", Some("succeeded"), json!("hi"), json!(null)));
        assert_eq!(read["children"][2], child("c", Some("succeeded"), json!(null), json!(null)));
        assert_eq!(read["children"][3], child("d", Some("failed"), json!(null), json!({"type": "E", "message": "m"})));
        assert_eq!(read["children"][4], child("e", None, json!(null), json!(null)));
        assert_eq!(read["children"][5]["result_omitted"], true);
    }

    #[test]
    fn a_payload_that_is_no_call_is_a_field() {
        let spec = Spec { form: Form::Verbatim, ..Spec::default() };
        for (content_type, payload, expected) in [
            ("", &b"[1,2]"[..], json!([1, 2])),
            ("text/plain", b"x\"y", json!("x\"y")),
            ("application/octet-stream", b"\xff\xfe", json!(null)),
        ] {
            let read: Value =
                serde_json::from_slice(&body(&spec, &id("p"), &stored(content_type, payload), &Children::default())).unwrap();
            assert_eq!(read, json!({"payload": expected, "children": []}));
        }
    }

    #[test]
    fn large_results_go_when_all_are_too_large() {
        let text: &'static str = Box::leak(format!("\"{}\"", "x".repeat(SMALL)).into_boxed_str());
        let mut child = Child::new(&id("a"), Some(State::Succeeded), value("", text), false);
        child.without_large();
        assert!(child.result_omitted && child.result.is_none());
        let mut small = Child::new(&id("a"), Some(State::Succeeded), value("", "1"), false);
        small.without_large();
        assert_eq!(small.result.unwrap().get(), "1");
    }
}
