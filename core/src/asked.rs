//! What of a signature a record shows beside the fields that every record has: only what was given.
//!
//! Values of headers are written and never read: they are where credentials are.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::keys::{Batching, Debounce, Unique};
use crate::limit::TaskLimit;
use crate::redact::{Redaction, pass_on, without_query};
use crate::retry::RetryPolicy;
use crate::signature::Draft;
use crate::spec::Spec;
use crate::time::Millis;
use crate::units::Dur;
use crate::view::Shown;

/// The rest of what was asked for, in the words of the API.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// Names only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    limits: Vec<TaskLimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fair_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique: Option<Unique>,
    #[serde(skip_serializing_if = "Option::is_none")]
    debounce: Option<Debounce>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<Batching>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    immutable: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ignore_result: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_ttl: Option<Dur>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<Dur>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    redact: Vec<String>,
}

impl Asked {
    /// That of this signature.
    pub fn of(spec: &Spec) -> Self {
        Self {
            method: spec.method.clone(),
            headers: spec.headers.iter().map(|(name, _)| (name.clone(), None)).collect(),
            eta: spec.eta.map(Millis::rfc3339),
            limits: spec.limits.clone(),
            order_key: spec.order_key.clone(),
            fair_key: spec.fair_key.clone(),
            unique: spec.unique.clone(),
            debounce: spec.debounce.clone(),
            batch: spec.batch.clone(),
            immutable: spec.immutable,
            ignore_result: spec.ignore_result,
            result_ttl: spec.result_ttl,
            retention: spec.retention,
            redact: spec.redact.clone(),
        }
    }
}

/// A link as it is shown: the signature that will become a task, without what it or its parent hides.
#[derive(Clone, Debug, Serialize)]
pub struct LinkView {
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    queue: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Dur>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<Dur>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kwargs: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_time_limit: Option<Dur>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_limit: Option<Dur>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_run: Option<Dur>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<RetryPolicy>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(flatten)]
    asked: Asked,
    #[serde(flatten)]
    follow: Follow,
}

/// What a task starts, and whom it tells.
#[derive(Clone, Debug, Serialize)]
pub struct Follow {
    /// Tasks started after success.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    link: Vec<LinkView>,
    /// Tasks started after final failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    link_error: Vec<LinkView>,
    /// The addresses of its callbacks without their queries, where credentials may be.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    callback_urls: BTreeMap<&'static str, String>,
}

impl Follow {
    /// That of this signature.
    pub fn of(spec: &Spec) -> Self {
        let callbacks = [
            ("on_success", &spec.callbacks.on_success),
            ("on_failure", &spec.callbacks.on_failure),
            ("on_retry", &spec.callbacks.on_retry),
            ("on_progress", &spec.callbacks.on_progress),
            ("on_terminal", &spec.callbacks.on_terminal),
        ];
        let links = |drafts: &[Draft]| drafts.iter().map(|draft| LinkView::of(draft, &spec.redact)).collect();
        Self {
            link: links(&spec.link),
            link_error: links(&spec.link_error),
            callback_urls: callbacks
                .into_iter()
                .filter_map(|(kind, callback)| Some((kind, without_query(&callback.as_ref()?.url).to_owned())))
                .collect(),
        }
    }
}

impl LinkView {
    fn of(draft: &Draft, parent: &[String]) -> Self {
        let mut spec = draft.spec.clone();
        pass_on(parent, &mut spec.redact, None);
        let redaction = Redaction::of(&spec.redact);
        let Shown { args, kwargs, payload } = Shown::of(&spec, &draft.content_type, &draft.payload, &redaction);
        Self {
            task: spec.task.clone(),
            url: redaction.url(&spec).map(|url| without_query(&url).to_owned()),
            name: spec.name.clone(),
            queue: spec.queue().to_owned(),
            priority: draft.priority,
            delay: draft.delay,
            expires_in: draft.expires_in,
            expires_at: draft.expires_at.map(Millis::rfc3339),
            args,
            kwargs,
            payload,
            soft_time_limit: spec.soft_time_limit,
            time_limit: spec.time_limit,
            max_run: spec.max_run,
            retry: spec.retry.clone(),
            labels: redaction.labels(&spec.labels),
            asked: Asked::of(&spec),
            follow: Follow::of(&spec),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::fields::Errors;
    use crate::id::{Ns, TaskId};
    use crate::signature::{FIELDS, read, tests::RULES};
    use crate::submit::NewTask;
    use crate::view::Record;

    /// A signature with every field, in parts: some exclude each other.
    const ALL: [&str; 3] = [
        r#"{"task":"a","args":[1],"kwargs":{"k":2},"name":"n","queue":"q","priority":9,"delay":"1m","expires_in":"2m",
        "soft_time_limit":"1s","time_limit":"2s","max_run":"3s","retry":{"max_attempts":2},"unique":{"key":"k"},
        "limits":[{"key":"c","rate":"10/s"}],"order_key":"o","fair_key":"f",
        "link":{"task":"b","args":["secret"],"labels":{"who":"secret"},"redact":["/args/0"],"link":{"task":"c"}},
        "link_error":[{"url":"http://c/x?token=secret","payload":{"password":"secret"},"redact":["/payload/password"]}],"immutable":true,
        "callbacks":{"on_success":{"url":"http://d/x?token=secret","headers":{"Authorization":"secret"}}},
        "ignore_result":true,"result_ttl":"4m","retention":"5m","labels":{"who":"secret","b":"c"},"redact":["/labels/who"]}"#,
        r#"{"task":"a","url":"http://a","payload":1,"method":"PUT","headers":{"X-Key":"secret"},
        "eta":"2030-01-01T00:00:00Z","expires_at":"2031-01-01T00:00:00Z"}"#,
        r#"{"task":"a","debounce":{"key":"k","wait":"1s"},"batch":{"key":"b"}}"#,
    ];

    fn shown(text: &str) -> Value {
        let mut errors = Errors::default();
        let signature = read(text, &mut errors).unwrap();
        let draft = RULES.check(signature, errors).unwrap();
        let spec = Spec::decode(&draft.spec.encode()).unwrap();
        let head = NewTask::first_head(
            &spec.lane(Ns::DEFAULT, draft.priority()),
            draft.priority(),
            None,
            draft.expires(Millis(1)),
            Millis(1),
        );
        let record = Record::new(&TaskId::parse("t").unwrap(), &head, &spec);
        let record = record.with_payload(&spec, &draft.content_type, &draft.payload);
        let mut record = serde_json::to_value(record).unwrap();
        let follow = serde_json::to_value(Follow::of(&spec)).unwrap();
        record.as_object_mut().unwrap().extend(follow.as_object().unwrap().clone());
        record
    }

    #[test]
    fn a_record_shows_every_field_that_was_given_and_no_secret() {
        for text in ALL {
            let shown = shown(text);
            assert!(!shown.to_string().contains("secret"), "{shown:#}");
            let given: Value = serde_json::from_str(text).unwrap();
            for field in FIELDS.into_iter().filter(|field| !given[*field].is_null()) {
                let name = match field {
                    "delay" => "due_at",
                    "expires_in" => "expires_at",
                    "callbacks" => "callback_urls",
                    field => field,
                };
                assert!(shown.get(name).is_some(), "{field}: {shown:#}");
            }
        }
        let shown = shown(ALL[0]);
        assert_eq!(shown["callback_urls"], json!({"on_success": "http://d/x"}));
        assert_eq!(shown["link"][0]["args"], json!(["[redacted]"]));
        assert_eq!(shown["link"][0]["labels"], json!({"who": "[redacted]"}));
        assert_eq!((&shown["link"][0]["link"][0]["task"], &shown["link"][0]["queue"]), (&json!("c"), &json!("default")));
        assert_eq!(shown["link_error"][0]["url"], "http://c/x");
        assert_eq!(shown["link_error"][0]["payload"], json!({"password": "[redacted]"}));
        assert_eq!((&shown["unique"]["key"], &shown["ignore_result"]), (&json!("k"), &json!(true)));
    }

    #[test]
    fn a_record_shows_nothing_that_was_not_given() {
        let spec = Spec { task: Some("a".into()), ..Spec::default() };
        assert_eq!(serde_json::to_value(Asked::of(&spec)).unwrap(), json!({}));
        assert_eq!(serde_json::to_value(Follow::of(&spec)).unwrap(), json!({}));
        let shown = Shown::of(&spec, "", &Bytes::from_static(b"{}"), &Redaction::default());
        assert!(shown.payload.is_none() && shown.args.is_none());
    }
}
