//! A stored task as the signature that makes it again, with edits laid over it (API: `POST /v1/tasks/{id}/replay`).
//!
//! It is read and checked like any other signature, so a replay never gets past a rule of today. The times of the stored
//! task are not taken over: they are over, or it would not be replayed.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{Draft, Payload, Rules, Signature, json};
use crate::body::Body;
use crate::callback::{Callback, CallbackKind};
use crate::fields::{self, Errors, Object};
use crate::problem::Problem;
use crate::redact::{follows, without_query};
use crate::spec::{Form, Spec};

/// Fields of which a signature has one or the other.
const EITHER: [[&str; 2]; 2] = [["eta", "delay"], ["expires_at", "expires_in"]];

impl Rules<'_> {
    /// The task that `edits`, an object of fields of a signature, make of a stored one. A field that is given takes the place
    /// of the stored one, and `null` removes it; but what was hidden stays hidden. Refused edits are named under `at`, the place of `edits` in its document.
    pub fn replay(&self, spec: &Spec, priority: u8, body: &Body, edits: &str, at: &str) -> Result<Draft, Problem> {
        let edits = fields::document(edits).map_err(|problem| placed(problem, at, |_| true))?;
        let mut laid = written(spec, Some(priority));
        laid.remove("redact");
        for (name, raw) in &edits {
            for pair in EITHER.iter().filter(|pair| pair.contains(&&**name) && !fields::is_null(raw)) {
                for either in pair {
                    laid.remove(*either);
                }
            }
        }
        laid.extend(edits.iter().map(|(name, raw)| (name.to_string(), (*raw).to_owned())));
        let text = serde_json::to_string(&laid).map_err(|error| fields::json_problem(&error))?;
        let mut errors = Errors::default();
        let replayed = json::read(&text, &mut errors).and_then(|mut signature| {
            keep_payload(&mut signature, spec, body, &edits);
            keep_hidden(&mut signature, spec, &edits);
            self.check(signature, errors)
        });
        replayed.map_err(|problem| placed(problem, at, |field| edits.iter().any(|(name, _)| name == field)))
    }
}

/// What is wrong with an edit is shown where the edit is; what the stored task does no longer fit stays what it is.
fn placed(mut problem: Problem, at: &str, edited: impl Fn(&str) -> bool) -> Problem {
    for error in &mut problem.errors {
        let field = error.pointer.split('/').nth(1).unwrap_or_default();
        if error.pointer.is_empty() || edited(field) {
            error.pointer.insert_str(0, at);
        }
    }
    if let Some(first) = problem.errors.first() {
        problem.detail = format!("{}: {}", first.pointer, first.message);
    }
    problem
}

/// Gives the signature what the edits leave of the stored payload: all of it, or of a call the part that is not given.
fn keep_payload<'a>(signature: &mut Signature<'a>, spec: &Spec, body: &'a Body, edits: &Object<'_>) {
    let given = |name: &str| edits.iter().any(|(edit, _)| edit == name);
    if given("payload") {
        return;
    }
    let (args, kwargs) = match &signature.payload {
        Payload::Call { args, kwargs } => (*args, *kwargs),
        _ => (None, None),
    };
    if spec.form == Form::Call {
        let (old_args, old_kwargs) = call_parts(&body.payload).unzip();
        let args = if given("args") { args } else { old_args };
        let kwargs = if given("kwargs") { kwargs } else { old_kwargs };
        signature.payload = Payload::Call { args, kwargs };
    } else if args.is_none() && kwargs.is_none() {
        let content_type = std::str::from_utf8(&body.content_type).unwrap_or_default();
        signature.payload = match std::str::from_utf8(&body.payload) {
            Ok(text) if content_type.is_empty() => Payload::Json(text),
            _ => Payload::Raw { content_type, bytes: body.payload.clone() },
        };
    }
}

/// Makes the signature hide what the stored task hides, and the query of an address that only callbacks and links hide.
fn keep_hidden(signature: &mut Signature<'_>, spec: &Spec, edits: &Object<'_>) {
    let has_query = spec.url.as_deref().is_some_and(|url| without_query(url) != url);
    let is_kept = !edits.iter().any(|(name, _)| name == "url");
    let url = (follows(spec) && has_query && is_kept).then(|| "/url".to_owned());
    for pointer in spec.redact.iter().cloned().chain(url) {
        if !signature.redact.contains(&pointer) {
            signature.redact.push(pointer);
        }
    }
}

/// The texts of `args` and `kwargs` in the stored payload of a call.
fn call_parts(payload: &Bytes) -> Option<(&str, &str)> {
    #[derive(serde::Deserialize)]
    struct Call<'a> {
        #[serde(borrow)]
        args: &'a RawValue,
        #[serde(borrow)]
        kwargs: &'a RawValue,
    }
    serde_json::from_slice::<Call<'_>>(payload).ok().map(|call| (call.args.get(), call.kwargs.get()))
}

/// Fields of a signature by name.
type Written = BTreeMap<String, Box<RawValue>>;

fn put(fields: &mut Written, name: &str, value: impl Serialize) {
    // Plain data with string keys always serialises.
    fields.extend(to_raw_value(&value).ok().map(|raw| (name.to_owned(), raw)));
}

fn put_some(fields: &mut Written, name: &str, value: Option<impl Serialize>) {
    if let Some(value) = value {
        put(fields, name, value);
    }
}

/// The fields that ask for what `spec` says, but for id, times and payload.
fn written(spec: &Spec, priority: Option<u8>) -> Written {
    let mut fields = Written::new();
    let of = &mut fields;
    put_some(of, "task", spec.task.as_ref());
    put_some(of, "url", spec.url.as_ref());
    put_some(of, "name", spec.name.as_ref());
    put_some(of, "queue", Some(&spec.queue).filter(|queue| !queue.is_empty()));
    put_some(of, "priority", priority);
    put_some(of, "method", spec.method.as_ref());
    put_some(of, "headers", headers(&spec.headers));
    put_some(of, "soft_time_limit", spec.soft_time_limit);
    put_some(of, "time_limit", spec.time_limit);
    put_some(of, "max_run", spec.max_run);
    put_some(of, "retry", spec.retry.as_ref());
    put_some(of, "limits", Some(&spec.limits).filter(|limits| !limits.is_empty()));
    put_some(of, "order_key", spec.order_key.as_ref());
    put_some(of, "fair_key", spec.fair_key.as_ref());
    put_some(of, "unique", spec.unique.as_ref());
    put_some(of, "debounce", spec.debounce.as_ref());
    put_some(of, "batch", spec.batch.as_ref());
    put_some(of, "link", links(&spec.link));
    put_some(of, "link_error", links(&spec.link_error));
    put_some(of, "immutable", spec.immutable.then_some(true));
    put_some(of, "callbacks", callbacks(spec));
    put_some(of, "ignore_result", spec.ignore_result.then_some(true));
    put_some(of, "result_ttl", spec.result_ttl);
    put_some(of, "retention", spec.retention);
    put_some(of, "labels", Some(&spec.labels).filter(|labels| !labels.is_empty()));
    put_some(of, "redact", Some(&spec.redact).filter(|redact| !redact.is_empty()));
    fields
}

fn headers(headers: &[(String, String)]) -> Option<BTreeMap<&str, &str>> {
    (!headers.is_empty()).then(|| headers.iter().map(|(name, value)| (&**name, &**value)).collect())
}

fn callbacks(spec: &Spec) -> Option<BTreeMap<&'static str, Written>> {
    let kinds = [
        ("on_success", CallbackKind::Success),
        ("on_failure", CallbackKind::Failure),
        ("on_retry", CallbackKind::Retry),
        ("on_progress", CallbackKind::Progress),
        ("on_terminal", CallbackKind::Terminal),
    ];
    let one = |callback: &Callback| {
        let mut fields = Written::new();
        put(&mut fields, "url", &callback.url);
        put_some(&mut fields, "headers", headers(&callback.headers));
        put_some(&mut fields, "retry", callback.retry.as_ref());
        put_some(&mut fields, "time_limit", callback.time_limit);
        fields
    };
    let all = kinds.into_iter().filter_map(|(name, kind)| Some((name, one(spec.callbacks.get(kind)?))));
    (!spec.callbacks.is_empty()).then(|| all.collect())
}

/// Links as they were asked for: their times are relative, or still to come.
fn links(drafts: &[Draft]) -> Option<Vec<Written>> {
    let one = |draft: &Draft| {
        let mut fields = written(&draft.spec, draft.priority);
        put_some(&mut fields, "delay", draft.delay);
        put_some(&mut fields, "eta", draft.spec.eta.filter(|_| draft.delay.is_none()).map(crate::Millis::rfc3339));
        put_some(&mut fields, "expires_in", draft.expires_in);
        put_some(&mut fields, "expires_at", draft.expires_at.map(crate::Millis::rfc3339));
        match (draft.spec.form, call_parts(&draft.payload)) {
            (Form::Call, Some((args, kwargs))) => {
                put_some(&mut fields, "args", serde_json::from_str::<&RawValue>(args).ok());
                put_some(&mut fields, "kwargs", serde_json::from_str::<&RawValue>(kwargs).ok());
            }
            _ => put_some(&mut fields, "payload", serde_json::from_slice::<&RawValue>(&draft.payload).ok()),
        }
        fields
    };
    (!drafts.is_empty()).then(|| drafts.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::RULES;
    use super::*;
    use crate::time::Millis;

    fn draft(text: &str) -> Draft {
        let mut errors = Errors::default();
        RULES.check(json::read(text, &mut errors).unwrap(), errors).unwrap()
    }

    fn replay(of: &Draft, edits: &str) -> Result<Draft, Problem> {
        let body = Body::decode(&of.body(Millis(1))).unwrap();
        RULES.replay(&Spec::decode(&body.spec).unwrap(), of.priority(), &body, edits, "/edits")
    }

    /// Every field but those that a replay does not take over.
    const FULL: &str = r#"{"task":"a","url":"http://a","name":"n","queue":"q","priority":7,"method":"PUT","headers":{"X-A":"1"},
        "soft_time_limit":"1s","time_limit":"2s","max_run":"3s","retry":{"max_attempts":2},"unique":{"key":"k"},
        "limits":[{"key":"c","rate":"10/s","burst":5,"cost":2,"concurrency":3},{"key":"a"}],"order_key":"o","fair_key":"f",
        "link":[{"task":"b","args":[1.50],"delay":"5s","link":{"url":"http://c","payload":{"x":1e400}}}],
        "link_error":{"task":"d","eta":"2031-01-01T00:00:00.000Z","kwargs":{"k":"v"}},"immutable":true,
        "callbacks":{"on_success":{"url":"http://s","headers":{"B":"2"},"time_limit":"4s"},"on_terminal":"http://t"},
        "ignore_result":true,"result_ttl":"1h","retention":"2h","labels":{"l":"1"},"redact":["/args/0"],"args":[1.50],"kwargs":{"a":null}}"#;

    #[test]
    fn without_edits_it_is_the_same_again() {
        for text in [
            FULL,
            r#"{"task":"a"}"#,
            r#"{"task":"a","payload":{"b": [1e400]}}"#,
            r#"{"url":"http://a","payload":null,"debounce":{"key":"k","wait":"5s"}}"#,
            r#"{"task":"a","batch":{"key":"b","max":3,"max_wait":"1s"},"priority":4}"#,
        ] {
            let first = draft(text);
            let again = replay(&first, "{}").unwrap();
            let eta_free = Spec { eta: None, ..first.spec.clone() };
            assert_eq!((&again.spec, &again.payload, again.priority()), (&eta_free, &first.payload, first.priority()), "{text}");
        }
        let left_out = ["id", "args", "kwargs", "payload", "delay", "eta", "expires_in", "expires_at", "debounce", "batch"];
        let fields = written(&draft(FULL).spec, Some(1));
        for field in super::super::FIELDS.iter().filter(|field| !left_out.contains(field)) {
            assert!(fields.contains_key(*field), "a replay forgets {field}");
        }
    }

    #[test]
    fn edits_take_the_place_of_what_was() {
        let old = draft(FULL);
        let edits = r#"{"queue":null,"priority":null,"args":[2],"labels":{"x":"y"},"id":"mine","delay":"1h","unique":null,"link":null,"url":null}"#;
        let new = replay(&old, edits).unwrap();
        assert_eq!((new.spec.queue(), new.priority(), new.spec.labels.len()), ("default", crate::spec::DEFAULT_PRIORITY, 1));
        assert_eq!(new.payload, r#"{"args":[2],"kwargs":{"a":null}}"#);
        assert_eq!((new.id.unwrap().to_string(), new.delay), ("mine".to_owned(), Some("1h".parse().unwrap())));
        assert!(new.spec.unique.is_none() && new.spec.link.is_empty() && new.spec.url.is_none());
        assert_eq!(replay(&old, r#"{"payload":null}"#).unwrap().payload, "null");
        assert_eq!(replay(&old, r#"{"kwargs":null,"args":null}"#).unwrap().payload, r#"{"args":[],"kwargs":{}}"#);
        let verbatim = draft(r#"{"task":"a","payload":[1.50]}"#);
        assert_eq!(replay(&verbatim, r#"{"queue":"x"}"#).unwrap().payload, "[1.50]");
        assert_eq!(replay(&verbatim, r#"{"kwargs":{"b":1}}"#).unwrap().payload, r#"{"args":[],"kwargs":{"b":1}}"#);
    }

    #[test]
    fn what_was_hidden_stays_hidden() {
        let old = draft(r#"{"task":"a","args":["secret"],"redact":["/args/0"]}"#);
        for (edits, redact) in [
            ("{}", &["/args/0"][..]),
            (r#"{"redact":null}"#, &["/args/0"]),
            (r#"{"redact":["/result"]}"#, &["/result", "/args/0"]),
            (r#"{"redact":["/args/0"]}"#, &["/args/0"]),
        ] {
            assert_eq!(replay(&old, edits).unwrap().spec.redact, redact, "{edits}");
        }
        // The address of a callback is a task's own address in its replay.
        let mut old = draft(r#"{"url":"http://a/?token=secret","payload":1}"#);
        assert!(replay(&old, "{}").unwrap().spec.redact.is_empty());
        old.spec.callback = Some(CallbackKind::Success);
        assert_eq!(replay(&old, "{}").unwrap().spec.redact, ["/url"]);
        assert!(replay(&old, r#"{"url":"http://b/?x=1"}"#).unwrap().spec.redact.is_empty());
    }

    #[test]
    fn raw_bytes_stay_as_they_were() {
        let old = Draft {
            content_type: "text/plain".into(),
            payload: Bytes::from_static(b"\xff"),
            ..draft(r#"{"task":"a","payload":1}"#)
        };
        let new = replay(&old, r#"{"priority":1}"#).unwrap();
        assert_eq!((&*new.content_type, &new.payload[..], new.spec.form), ("text/plain", &b"\xff"[..], Form::Verbatim));
    }

    #[test]
    fn refusals_name_the_edit() {
        let old = draft(FULL);
        for (edits, pointer) in [
            (r#"{"queue":"no good"}"#, "/edits/queue"),
            (r#"{"colour":1}"#, "/edits/colour"),
            (r#"{"delay":1,"eta":"2031-01-01T00:00:00Z"}"#, "/edits/eta"),
            (r#"{"task":null,"url":null}"#, "/edits"),
            (r#"{"args":{}}"#, "/edits/args"),
            ("[]", "/edits"),
            // The stored part of a pair that does not go together.
            (r#"{"debounce":{"key":"k","wait":1}}"#, "/edits/debounce"),
        ] {
            let problem = replay(&old, edits).unwrap_err();
            assert_eq!(problem.errors[0].pointer, pointer, "{edits}");
            assert!(problem.detail.starts_with(pointer), "{}", problem.detail);
        }
    }
}
