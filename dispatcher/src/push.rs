//! One attempt on the wire: builds the request (API: The request) and turns what came back into an answer.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use lovage_core::attempt::EXCERPT_BYTES;
use lovage_core::pace::Allowance;
use lovage_core::{Answer, AnswerHeaders, AttemptToken, Fault, Flags, Head, Millis, Spec, TaskKey, Trace, worker_mark};

use crate::egress::{FaultKind, HeaderLines, PushRequest, Pushed, Target, sendable};
use crate::options::Options;
use crate::registry::Worker;

const LABEL_PREFIX: &str = "lovage-label-";

pub(crate) static WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
pub(crate) static WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
pub(crate) static WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) static TASK: HeaderName = HeaderName::from_static("lovage-task");
pub(crate) static QUEUE: HeaderName = HeaderName::from_static("lovage-queue");
static ATTEMPT: HeaderName = HeaderName::from_static("lovage-attempt");
static MAX_ATTEMPTS: HeaderName = HeaderName::from_static("lovage-max-attempts");
pub(crate) static DEADLINE: HeaderName = HeaderName::from_static("lovage-deadline");
static SOFT_DEADLINE: HeaderName = HeaderName::from_static("lovage-soft-deadline");
static ATTEMPT_URL: HeaderName = HeaderName::from_static("lovage-attempt-url");
static RESUME: HeaderName = HeaderName::from_static("lovage-resume");
static ROOT: HeaderName = HeaderName::from_static("lovage-root");
static PARENT: HeaderName = HeaderName::from_static("lovage-parent");
static ETA: HeaderName = HeaderName::from_static("lovage-eta");

/// Everything one attempt needs.
pub struct Attempt<'a> {
    /// The task.
    pub key: &'a TaskKey,
    /// Its head while it runs.
    pub head: &'a Head,
    /// Its signature.
    pub spec: &'a Spec,
    /// The payload's media type; empty: JSON.
    pub content_type: &'a [u8],
    /// The body of the request.
    pub body: Bytes,
    /// Who gets it.
    pub worker: &'a Worker,
    /// Where.
    pub target: Arc<Target>,
    /// The name of that instance.
    pub instance: &'a str,
    /// Header values that many attempts share.
    pub common: &'a mut Common,
}

/// Header values that many attempts share: made once instead of once a push.
pub struct Common {
    user_agent: String,
    deadline: (Millis, String),
}

impl Common {
    /// With this `User-Agent`.
    pub fn new(user_agent: &str) -> Self {
        let fits = HeaderValue::from_str(user_agent).is_ok();
        let user_agent = if fits { user_agent } else { "Lovage" };
        Self { user_agent: user_agent.to_owned(), deadline: (Millis(0), Millis(0).rfc3339()) }
    }

    /// The tasks of a claim started together: most have the deadline of the one before.
    fn deadline(&mut self, at: Millis) -> &str {
        if self.deadline.0 != at {
            self.deadline = (at, at.rfc3339());
        }
        &self.deadline.1
    }
}

impl Attempt<'_> {
    /// The request of this attempt. Its deadline is the task's time limit from the claim on.
    pub fn request(mut self, options: &Options) -> PushRequest {
        let method = self.spec.method.as_deref().and_then(|m| m.parse().ok()).unwrap_or(http::Method::POST);
        let headers = self.headers(options);
        let mut request = PushRequest::new(self.target, method, headers, self.body);
        request.timeout = self.spec.time_limit().get();
        request.connect_timeout = options.connect_timeout.min(request.timeout);
        request.max_body = options.max_answer;
        request
    }

    fn headers(&mut self, options: &Options) -> HeaderLines {
        let (head, spec) = (self.head, self.spec);
        let mut lines = HeaderLines::with_capacity(1024);
        self.given(&mut lines);
        // Bytes that cannot be sent are none of a media type.
        if self.content_type.is_empty() || !lines.push(&CONTENT_TYPE, self.content_type) {
            lines.push(&CONTENT_TYPE, b"application/json");
        }
        lines.push(&USER_AGENT, self.common.user_agent.as_bytes());
        let id = self.key.id.to_string();
        let seconds = head.started.0 / 1000;
        lines.push(&WEBHOOK_ID, id.as_bytes());
        lines.push_number(&WEBHOOK_TIMESTAMP, seconds);
        if let Some(signer) = &self.worker.signer {
            lines.push(&WEBHOOK_SIGNATURE, signer.sign(&id, seconds as i64, &self.body).as_bytes());
        }
        lines.push(&IDEMPOTENCY_KEY, id.as_bytes());
        if let Some(task) = &spec.task {
            set(&mut lines, &TASK, task);
        }
        set(&mut lines, &QUEUE, spec.queue());
        lines.push_number(&ATTEMPT, head.attempt.into());
        lines.push_number(&MAX_ATTEMPTS, spec.max_attempts().into());
        let deadline = self.common.deadline(head.started.after(spec.time_limit().get()));
        lines.push(&DEADLINE, deadline.as_bytes());
        if let Some(soft) = spec.soft_time_limit {
            set(&mut lines, &SOFT_DEADLINE, &head.started.after(soft.get()).rfc3339());
        }
        // Who gets a callback is no worker: it has nothing to report.
        if let Some(urls) = options.attempt_urls.as_ref().filter(|_| spec.callback.is_none()) {
            // Only where what the instance tells of its memory counts.
            let counts = self.worker.config.recycle.is_some_and(|recycle| recycle.max_memory.is_some());
            let instance = if counts { worker_mark(self.instance) } else { 0 };
            let token = AttemptToken { instance, ..AttemptToken::of(self.key, head) };
            set(&mut lines, &ATTEMPT_URL, &urls.write(&token));
        }
        if head.flags.has(Flags::RESUMED) {
            lines.push_number(&RESUME, 1);
        }
        if let Some(root) = &spec.root {
            set(&mut lines, &ROOT, &root.to_string());
        }
        if let Some(parent) = &spec.parent {
            set(&mut lines, &PARENT, &parent.to_string());
        }
        if let Some(eta) = spec.eta {
            set(&mut lines, &ETA, &eta.rfc3339());
        }
        for (name, value) in spec.trace.iter().flat_map(Trace::fields) {
            set(&mut lines, &HeaderName::from_static(name), value);
        }
        for (name, value) in &spec.labels {
            // Text in any script, as UTF-8. A label that cannot be a header is only missing there; the record has it.
            if let Ok(name) = HeaderName::try_from(format!("{LABEL_PREFIX}{name}")) {
                set(&mut lines, &name, value);
            }
        }
        lines
    }

    /// The headers that the worker's document and the task ask for; the task's go before the document's.
    fn given(&self, lines: &mut HeaderLines) {
        if self.worker.headers.is_empty() && self.spec.headers.is_empty() {
            return;
        }
        let mut given = self.worker.headers.clone();
        given.extend(sendable(self.spec.headers.iter().map(|(name, value)| (name, value))));
        for (name, value) in &given {
            lines.push(name, value.as_bytes());
        }
    }
}

/// Sets a header; a text that cannot be a header value, because of a control character, is left out.
pub(crate) fn set(lines: &mut HeaderLines, name: &HeaderName, value: &str) {
    lines.push(name, value.as_bytes());
}

/// What the rules need of an answer of which at most `limit` bytes were read.
pub fn answer(pushed: Pushed, limit: usize) -> Answer {
    match pushed.outcome {
        Ok(response) => {
            let text = |name: &HeaderName| value(&response.headers, name);
            let content_type = text(&CONTENT_TYPE).filter(|value| HeaderValue::from_str(value).is_ok());
            Answer::Response {
                status: response.status.as_u16(),
                headers: AnswerHeaders {
                    content_type,
                    retry_after: text(&RETRY_AFTER),
                    lovage_outcome: text(&HeaderName::from_static("lovage-outcome")),
                    lovage_lease: text(&HeaderName::from_static("lovage-lease")),
                },
                body: response.body,
                truncated: response.truncated.then_some(limit),
            }
        }
        Err(fault) => {
            if !fault.detail().is_empty() {
                tracing::debug!(detail = fault.detail(), "a push failed");
            }
            Answer::Fault(match fault.kind() {
                FaultKind::Forbidden => Fault::Forbidden,
                FaultKind::Dns => Fault::Dns,
                FaultKind::Refused => Fault::Refused,
                FaultKind::Tls => Fault::Tls,
                FaultKind::ConnectTimeout => Fault::ConnectTimeout,
                FaultKind::Reset => Fault::Reset,
                FaultKind::TimedOut => Fault::TimedOut,
                FaultKind::Malformed => return Answer::Malformed(fault.told().to_owned()),
            })
        }
    }
}

/// What a worker says about how many more requests it takes.
pub fn allowance(pushed: &Pushed, now: Millis) -> Option<Allowance> {
    let headers = &pushed.outcome.as_ref().ok()?.headers;
    let any = Allowance::SIGNS.iter().any(|sign| headers.contains_key(*sign));
    any.then(|| Allowance::read(|name| value(headers, &HeaderName::from_static(name)), now.0)).flatten()
}

/// What a header says. One that is there several times with different values says all of them, as a list, which is none of
/// the values that have a meaning: the first must not win over a second that contradicts it. What is no text is junk.
pub(crate) fn value(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii()).collect();
    values.dedup();
    (!values.is_empty()).then(|| String::from_utf8_lossy(&values.join(&b", "[..])).into_owned())
}

/// Status and beginning of an answer, for the attempt's entry.
pub fn excerpt(answer: &Answer) -> (Option<u16>, Option<String>) {
    match answer {
        Answer::Response { status, body, .. } => (Some(*status), beginning(body)),
        Answer::Fault(_) | Answer::Malformed(_) => (None, None),
    }
}

/// The beginning of (a part of) an answer, for the attempt's entry.
pub fn beginning(body: &[u8]) -> Option<String> {
    let start = &body[..body.len().min(EXCERPT_BYTES)];
    (!start.is_empty()).then(|| String::from_utf8_lossy(start).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_in_any_script_is_sent_as_it_is() {
        let mut lines = HeaderLines::default();
        set(&mut lines, &HeaderName::from_static("lovage-label-city"), "Köln 東京");
        set(&mut lines, &HeaderName::from_static("lovage-label-bad"), "a\r\nhost: b");
        let sent = lines.to_map();
        assert_eq!((sent.len(), sent["lovage-label-city"].as_bytes()), (1, "Köln 東京".as_bytes()));
    }

    #[test]
    fn of_a_header_that_contradicts_itself_nothing_wins() {
        let name = HeaderName::from_static("lovage-outcome");
        for (values, said) in [
            (&[][..], None),
            (&[&b"fail"[..]], Some("fail")),
            (&[b" fail ", b"fail"], Some("fail")),
            (&[b"success", b"fail"], Some("success, fail")),
            (&[b"", b"fail"], Some(", fail")),
            (&[b"\xff"], Some("\u{fffd}")),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(&name, HeaderValue::from_bytes(value).unwrap());
            }
            assert_eq!(value(&headers, &name).as_deref(), said, "{values:?}");
        }
    }
}
