//! What a signature hides: JSON pointers into the record, behind which views, events and callbacks show [`HIDDEN`].
//!
//! A worker gets everything, and so do links, as their arguments: what is hidden in the parent stays hidden in them
//! ([`pass_on`]). When in doubt more is hidden: what is no JSON has no places to point at, so it is hidden as a whole.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::answer::TaskError;
use crate::spec::Spec;

/// What stands where something is hidden.
pub const HIDDEN: &str = "[redacted]";

/// The fields of a record of which parts can be hidden.
pub const FIELDS: [&str; 8] = ["args", "kwargs", "payload", "result", "error", "progress", "labels", "url"];

/// Whether this is a pointer (RFC 6901) into one of [`FIELDS`].
pub fn is_pointer(text: &str) -> bool {
    let escapes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    let mut steps = text.split('/');
    escapes && steps.next() == Some("") && steps.next().is_some_and(|field| FIELDS.contains(&field))
}

/// The places that a task hides.
#[derive(Clone, Debug, Default)]
pub struct Redaction(Vec<Vec<String>>);

impl Redaction {
    /// That of the field `redact`. What is no pointer hides nothing.
    pub fn of(pointers: &[String]) -> Self {
        let steps = |pointer: &String| -> Option<Vec<String>> {
            let rest = pointer.strip_prefix('/')?;
            Some(rest.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
        };
        Self(pointers.iter().filter_map(steps).collect())
    }

    /// Whether nothing is hidden.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this whole field is hidden.
    pub fn hides(&self, field: &str) -> bool {
        self.0.iter().any(|path| path.len() == 1 && path[0] == field)
    }

    /// Whether this entry of a field is hidden, or the whole field.
    pub fn hides_entry(&self, field: &str, name: &str) -> bool {
        self.hides(field) || self.0.iter().any(|path| path.len() == 2 && path[0] == field && path[1] == name)
    }

    /// The labels as they may be shown.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut shown = labels.clone();
        for (name, value) in &mut shown {
            if self.hides_entry("labels", name) {
                HIDDEN.clone_into(value);
            }
        }
        shown
    }

    /// The address of a task as it may be shown: of a callback or a link without its query, in every view of them, because
    /// credentials may be there.
    pub fn url(&self, spec: &Spec) -> Option<String> {
        let url = spec.url.as_deref()?;
        let url = if follows(spec) { without_query(url) } else { url };
        Some(if self.hides("url") { HIDDEN } else { url }.to_owned())
    }

    /// The paths within a field.
    fn within(&self, field: &str) -> Vec<&[String]> {
        self.0.iter().filter(|path| path[0] == field).map(|path| &path[1..]).collect()
    }

    /// The value of a field as it may be shown.
    pub fn value(&self, field: &str, raw: Box<RawValue>) -> Box<RawValue> {
        let masked = mask(raw.get(), &self.within(field));
        // What `mask` writes is JSON; were it not, nothing would be shown.
        masked.map_or(raw, |text| RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// The bytes of a field as they may be shown, if that is not as they are: always JSON. Of bytes that are none
    /// everything is hidden.
    pub fn bytes(&self, field: &str, is_json: bool, bytes: &[u8]) -> Option<Bytes> {
        let paths = self.within(field);
        if paths.is_empty() {
            return None;
        }
        match serde_json::from_slice::<&RawValue>(bytes) {
            Ok(raw) if is_json => mask(raw.get(), &paths).map(Bytes::from),
            _ => Some(hidden().into()),
        }
    }

    /// The stored payload of a call, `{"args":…,"kwargs":…}`, as it may be shown, if that is not as it is.
    pub fn call(&self, payload: &[u8]) -> Option<Bytes> {
        let paths: Vec<&[String]> =
            self.0.iter().filter(|path| path[0] == "args" || path[0] == "kwargs").map(Vec::as_slice).collect();
        let raw = serde_json::from_slice::<&RawValue>(payload).ok().filter(|_| !paths.is_empty())?;
        mask(raw.get(), &paths).map(Bytes::from)
    }

    /// An error as it may be shown.
    #[must_use]
    pub fn error(&self, mut error: TaskError) -> TaskError {
        if self.hides_entry("error", "type") {
            HIDDEN.clone_into(&mut error.kind);
        }
        if self.hides_entry("error", "message") {
            HIDDEN.clone_into(&mut error.message);
        }
        if self.hides_entry("error", "stack") {
            error.stack = error.stack.map(|_| HIDDEN.to_owned());
        }
        error
    }
}

/// Whether this task was made from a part of another one's signature: a callback or a link.
pub(crate) fn follows(spec: &Spec) -> bool {
    spec.callback.is_some() || spec.linked.is_some()
}

/// An address without its query and what follows.
pub(crate) fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// What a task that another one starts hides beside its own: labels that it inherits, and what stands in front of its
/// arguments. `passed` is the field of the parent that became the first argument, if one did.
pub fn pass_on(parent: &[String], child: &mut Vec<String>, passed: Option<&str>) {
    if let Some(field) = passed {
        for pointer in child.iter_mut() {
            *pointer = moved(pointer).unwrap_or_else(|| std::mem::take(pointer));
        }
        let place = if field == "error" { "/args/0/error" } else { "/args/0" };
        let of_field = parent.iter().filter_map(|pointer| pointer.strip_prefix('/')?.strip_prefix(field));
        let of_field = of_field.filter(|rest| rest.is_empty() || rest.starts_with('/'));
        child.extend(of_field.map(|rest| format!("{place}{rest}")));
    }
    for pointer in parent.iter().filter(|pointer| *pointer == "/labels" || pointer.starts_with("/labels/")) {
        if !child.contains(pointer) {
            child.push(pointer.clone());
        }
    }
}

/// A pointer to an argument that has another one in front of it now.
fn moved(pointer: &str) -> Option<String> {
    let rest = pointer.strip_prefix("/args/")?;
    let (index, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some(format!("/args/{}{rest}", index.parse::<usize>().ok()?.checked_add(1)?))
}

fn hidden() -> String {
    format!("\"{HIDDEN}\"")
}

/// The JSON text with everything at these paths hidden; `None`: nothing of it is there.
fn mask(text: &str, paths: &[&[String]]) -> Option<String> {
    if paths.is_empty() {
        return None;
    }
    if paths.iter().any(|path| path.is_empty()) {
        return Some(hidden());
    }
    // The paths that go on below this step.
    let below = |step: &str| -> Vec<&[String]> {
        paths.iter().filter_map(|path| path.split_first()).filter(|(first, _)| *first == step).map(|(_, rest)| rest).collect()
    };
    let mut changed = false;
    let mut part = |step: &str, raw: &RawValue, out: &mut String| match mask(raw.get(), &below(step)) {
        Some(masked) => {
            changed = true;
            out.push_str(&masked);
        }
        None => out.push_str(raw.get()),
    };
    let mut out = String::with_capacity(text.len());
    match text.as_bytes().first() {
        Some(b'{') => {
            // A name that cannot be read (half of a surrogate pair) may be the one that is meant.
            let Ok(Members(members)) = serde_json::from_str::<Members<'_>>(text) else { return Some(hidden()) };
            for (n, (name, raw)) in members.iter().enumerate() {
                out.push(if n == 0 { '{' } else { ',' });
                out.push_str(&serde_json::to_string(name).ok()?);
                out.push(':');
                part(name, raw, &mut out);
            }
            out.push('}');
        }
        Some(b'[') => {
            let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text) else { return Some(hidden()) };
            for (n, raw) in items.iter().enumerate() {
                out.push(if n == 0 { '[' } else { ',' });
                part(&n.to_string(), raw, &mut out);
            }
            out.push(']');
        }
        _ => {}
    }
    changed.then_some(out)
}

/// All members of an object as they come, also those of the same name.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn redaction(pointers: &[&str]) -> Redaction {
        Redaction::of(&strings(pointers))
    }

    fn strings(pointers: &[&str]) -> Vec<String> {
        pointers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_is_pointed_at_is_hidden_and_the_rest_keeps_its_digits() {
        for (pointers, text, shown) in [
            (&["/payload/a"][..], r#"{"a":{"b":1},"c":1.50}"#, r#"{"a":"[redacted]","c":1.50}"#),
            (
                &["/payload/a/b", "/payload/c/1"],
                r#"{"a":{"b":1,"x":[]},"c":[1e400,2]}"#,
                r#"{"a":{"b":"[redacted]","x":[]},"c":[1e400,"[redacted]"]}"#,
            ),
            (&["/payload"], "[1]", r#""[redacted]""#),
            (&["/payload/a~1b/~01"], r#"{"a/b":{"~1":1}}"#, r#"{"a/b":{"~1":"[redacted]"}}"#),
            (&["/payload/a"], r#"{"a":1,"a":2,"\u0061":3}"#, r#"{"a":"[redacted]","a":"[redacted]","a":"[redacted]"}"#),
            (&["/payload/"], r#"{"":1}"#, r#"{"":"[redacted]"}"#),
            (&["/payload/a"], r#"{"\ud800":1,"a":2}"#, r#""[redacted]""#),
        ] {
            let shown_now = redaction(pointers).bytes("payload", true, text.as_bytes()).unwrap();
            assert_eq!(shown_now, shown, "{pointers:?} {text}");
        }
        for (pointers, text) in [
            (&["/payload/b"][..], r#"{"a":1}"#),
            (&["/payload/01"], "[1,2]"),
            (&["/result/a"], r#"{"a":1}"#),
            (&["/payload/a/b"], r#"{"a":3}"#),
        ] {
            assert_eq!(redaction(pointers).bytes("payload", true, text.as_bytes()), None, "{pointers:?} {text}");
        }
    }

    #[test]
    fn what_is_no_json_is_hidden_as_a_whole() {
        let redaction = redaction(&["/payload/a"]);
        for (is_json, bytes) in [(false, &b"a=secret"[..]), (true, b"{secret"), (false, br#"{"a":1}"#)] {
            assert_eq!(redaction.bytes("payload", is_json, bytes).unwrap(), r#""[redacted]""#);
        }
    }

    #[test]
    fn calls_errors_and_entries() {
        let redaction = redaction(&["/kwargs/password", "/error/message", "/labels/a"]);
        let shown = redaction.call(br#"{"args":[1],"kwargs":{"password":"x"}}"#).unwrap();
        assert_eq!(shown, r#"{"args":[1],"kwargs":{"password":"[redacted]"}}"#);
        let error = redaction.error(TaskError::new("Kind", "secret"));
        assert_eq!((&*error.kind, &*error.message), ("Kind", HIDDEN));
        assert!(redaction.hides_entry("labels", "a") && !redaction.hides_entry("labels", "b") && !redaction.hides("labels"));
    }

    #[test]
    fn what_moves_to_another_task_stays_hidden_there() {
        let parent = strings(&["/result/token", "/resulting", "/error/stack", "/labels/who", "/args/0"]);
        let passed = |own: &[&str], field| {
            let mut child = strings(own);
            pass_on(&parent, &mut child, field);
            child
        };
        assert_eq!(
            passed(&["/args/0/x", "/kwargs/k"], Some("result")),
            ["/args/1/x", "/kwargs/k", "/args/0/token", "/labels/who"]
        );
        assert_eq!(passed(&["/args"], Some("error")), ["/args", "/args/0/error/stack", "/labels/who"]);
        assert_eq!(passed(&["/args/0", "/labels/who"], None), ["/args/0", "/labels/who"]);
    }

    #[test]
    fn pointers_begin_with_a_field_of_the_record() {
        for good in ["/args", "/kwargs/password", "/payload/a~1b", "/url", "/result/"] {
            assert!(is_pointer(good), "{good}");
        }
        for bad in ["", "/", "password", "/password", "/args~2", "/state", "//args"] {
            assert!(!is_pointer(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn junk_is_hidden_or_left_alone(text in r#"[\[\]{}",:a0-9 ]{0,40}"#, step in "[a0-9]{0,2}") {
            let redaction = Redaction::of(&[format!("/payload/{step}")]);
            if let Some(shown) = redaction.bytes("payload", true, text.as_bytes()) {
                prop_assert!(serde_json::from_slice::<&RawValue>(&shown).is_ok());
                prop_assert!(std::str::from_utf8(&shown).unwrap().contains(HIDDEN));
            }
        }
    }
}
