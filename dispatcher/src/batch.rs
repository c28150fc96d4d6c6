//! Tasks that are delivered together: one request with an array of them (API: Batches).
//!
//! The request is made where it is sent from, not in the owner's loop: writing and signing megabytes takes a while.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, USER_AGENT};
use lovage_core::resume::{self, Children};
use lovage_core::spec::delivered;
use lovage_core::{AttemptToken, AttemptUrls, Body, Flags, Form, Head, Millis, Spec, TaskKey, Trace};

use crate::egress::{HeaderLines, PushRequest, Target};
use crate::options::Options;
use crate::push::{DEADLINE, QUEUE, TASK, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP, set};
use crate::registry::Worker;

static BATCH: HeaderName = HeaderName::from_static("lovage-batch");

/// One of them.
pub(crate) struct Item {
    pub key: TaskKey,
    /// Its head while it runs.
    pub head: Head,
    pub spec: Arc<Spec>,
    pub body: Body,
}

impl Item {
    /// Whether it is called again with its children.
    pub fn is_resumed(&self) -> bool {
        self.head.flags.has(Flags::RESUMED)
    }

    /// Writes its object: what it would get alone, and what its headers would say.
    fn write(&self, children: Option<&Children>, urls: Option<&AttemptUrls>, out: &mut Vec<u8>) {
        let (spec, id) = (&self.spec, &self.key.id);
        let fields = match (children, spec.form) {
            (Some(children), _) => resume::body(spec, id, &self.body, children),
            (None, Form::Call) => delivered(spec, id, &self.body.payload),
            (None, Form::Verbatim) => resume::payload(&self.body),
        };
        out.push(b'{');
        // Plain data into a Vec cannot fail.
        if spec.form == Form::Verbatim {
            out.extend_from_slice(b"\"task\":");
            let _ = serde_json::to_writer(&mut *out, spec.task.as_deref().unwrap_or_default());
            out.extend_from_slice(b",\"id\":");
            let _ = serde_json::to_writer(&mut *out, &id.to_string());
            out.push(b',');
        }
        let inner = fields.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")).unwrap_or_default();
        out.extend_from_slice(inner);
        out.extend_from_slice(b",\"attempt\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.head.attempt).as_bytes());
        if let Some(urls) = urls {
            let token = AttemptToken::of(&self.key, &self.head);
            out.extend_from_slice(b",\"attempt_url\":");
            let _ = serde_json::to_writer(&mut *out, &urls.write(&token));
        }
        for (name, value) in spec.trace.iter().flat_map(Trace::fields) {
            out.extend_from_slice(b",");
            let _ = serde_json::to_writer(&mut *out, name);
            out.push(b':');
            let _ = serde_json::to_writer(&mut *out, value);
        }
        out.push(b'}');
    }
}

/// An array that grows until it is full.
pub(crate) struct Array {
    text: Vec<u8>,
    len: usize,
    /// The longest of their time limits.
    limit: Duration,
}

impl Array {
    /// Without items.
    pub fn new() -> Self {
        Self { text: vec![b'['], len: 0, limit: Duration::ZERO }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds an item with the children that it is called again with; false: it does not fit. The first one always fits.
    pub fn add(&mut self, item: &Item, children: Option<&Children>, options: &Options) -> bool {
        let before = self.text.len();
        if self.len > 0 {
            self.text.push(b',');
        }
        item.write(children, options.attempt_urls.as_ref(), &mut self.text);
        // With the bracket at the end.
        if self.len > 0 && self.text.len() >= options.max_batch {
            self.text.truncate(before);
            return false;
        }
        self.len += 1;
        self.limit = self.limit.max(item.spec.time_limit().get());
        true
    }

    /// The request, sent now. `id` is the batch's own.
    pub fn request(
        mut self,
        id: &str,
        of: &Spec,
        worker: &Worker,
        target: Arc<Target>,
        now: Millis,
        options: &Options,
    ) -> PushRequest {
        self.text.push(b']');
        let body = Bytes::from(self.text);
        let mut lines = HeaderLines::with_capacity(1024);
        for (name, value) in &worker.headers {
            lines.push(name, value.as_bytes());
        }
        lines.push(&CONTENT_TYPE, b"application/json");
        set(&mut lines, &USER_AGENT, &options.user_agent);
        let seconds = now.0 / 1000;
        lines.push(&WEBHOOK_ID, id.as_bytes());
        lines.push_number(&WEBHOOK_TIMESTAMP, seconds);
        if let Some(signer) = &worker.signer {
            lines.push(&WEBHOOK_SIGNATURE, signer.sign(id, seconds as i64, &body).as_bytes());
        }
        lines.push_number(&BATCH, self.len as u64);
        set(&mut lines, &TASK, of.task.as_deref().unwrap_or_default());
        set(&mut lines, &QUEUE, of.queue());
        set(&mut lines, &DEADLINE, &now.after(self.limit).rfc3339());
        let mut request = PushRequest::new(target, http::Method::POST, lines, body);
        request.timeout = self.limit;
        request.connect_timeout = options.connect_timeout.min(self.limit);
        request.max_body = options.max_batch;
        request
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lovage_core::{NewTask, Ns, TaskId};
    use serde_json::{Value, json};

    use super::*;

    fn item(id: &str, spec: Spec, payload: &'static str) -> Item {
        let head = NewTask::first_head(&spec.lane(Ns(0), 4), 4, None, None, Millis(5));
        let body = Body { spec: Bytes::new(), content_type: Bytes::new(), payload: Bytes::from_static(payload.as_bytes()) };
        Item {
            key: TaskKey::new(Ns(0), TaskId::parse(id).unwrap()),
            head: Head { attempt: 2, ..head },
            spec: Arc::new(spec),
            body,
        }
    }

    fn call() -> Spec {
        Spec { task: Some("a\"b".into()), ..Spec::default() }
    }

    fn read(array: Array) -> Value {
        serde_json::from_slice(&[&array.text[..], b"]"].concat()).unwrap()
    }

    #[test]
    fn each_is_what_it_would_be_alone() {
        let (mut array, options) = (Array::new(), Options::default());
        assert!(array.add(&item("1", call(), r#"{"args":[1.50],"kwargs":{}}"#), None, &options));
        let raw = Spec { form: Form::Verbatim, ..call() };
        assert!(array.add(&item("2", raw.clone(), r#" {"x": 1} "#), None, &options));
        assert!(array.add(&item("3", call(), r#"{"args":[],"kwargs":{}}"#), Some(&Children::default()), &options));
        assert!(array.add(&item("4", raw, "null"), Some(&Children::default()), &options));
        let trace = Trace::read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=\"1\"");
        assert!(array.add(&item("5", Spec { trace, ..call() }, r#"{"args":[],"kwargs":{}}"#), None, &options));
        assert_eq!(
            read(array),
            json!([
                {"task": "a\"b", "id": "1", "args": [1.50], "kwargs": {}, "attempt": 2},
                {"task": "a\"b", "id": "2", "payload": {"x": 1}, "attempt": 2},
                {"task": "a\"b", "id": "3", "args": [], "kwargs": {}, "children": [], "attempt": 2},
                {"task": "a\"b", "id": "4", "payload": null, "children": [], "attempt": 2},
                {"task": "a\"b", "id": "5", "args": [], "kwargs": {}, "attempt": 2,
                 "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=\"1\""},
            ])
        );
    }

    #[test]
    fn what_does_not_fit_is_left_and_the_first_always_fits() {
        let options = Options { max_batch: 100, ..Options::default() };
        let long = || {
            item("1", call(), r#"{"args":["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"],"kwargs":{}}"#)
        };
        let mut array = Array::new();
        assert!(array.add(&long(), None, &options));
        assert!(!array.add(&item("2", call(), r#"{"args":[],"kwargs":{}}"#), None, &options));
        assert_eq!((array.len(), read(array).as_array().unwrap().len()), (1, 1));
    }

    #[test]
    fn the_longest_time_limit_counts() {
        let (mut array, options) = (Array::new(), Options::default());
        for limit in ["5s", "90s", "7s"] {
            let spec = Spec { time_limit: Some(limit.parse().unwrap()), ..call() };
            assert!(array.add(&item("1", spec, r#"{"args":[],"kwargs":{}}"#), None, &options));
        }
        assert_eq!(array.limit, Duration::from_secs(90));
    }
}
