//! One attempt on the wire: builds the request (API: The request) and turns what came back into an answer.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use lovage_core::attempt::EXCERPT_BYTES;
use lovage_core::spec::delivered;
use lovage_core::{Answer, AnswerHeaders, Fault, Head, Millis, Spec, TaskKey};

use crate::egress::{FaultKind, PushRequest, Pushed, Target, check_user_headers};
use crate::options::Options;
use crate::registry::Worker;

const LABEL_PREFIX: &str = "lovage-label-";

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
    /// The payload as stored.
    pub payload: &'a Bytes,
    /// Who gets it.
    pub worker: &'a Worker,
    /// Where.
    pub target: Arc<Target>,
    /// Header values that many attempts share.
    pub common: &'a mut Common,
}

/// Header values that many attempts share: made once instead of once a push.
pub struct Common {
    user_agent: HeaderValue,
    deadline: (Millis, HeaderValue),
}

impl Common {
    /// With this `User-Agent`.
    pub fn new(user_agent: &str) -> Self {
        let user_agent = HeaderValue::from_str(user_agent).unwrap_or(HeaderValue::from_static("Lovage"));
        Self { user_agent, deadline: (Millis(0), HeaderValue::from_static("1970-01-01T00:00:00.000Z")) }
    }

    /// The tasks of a claim started together: most have the deadline of the one before.
    fn deadline(&mut self, at: Millis) -> HeaderValue {
        if self.deadline.0 != at
            && let Ok(value) = HeaderValue::try_from(at.rfc3339())
        {
            self.deadline = (at, value);
        }
        self.deadline.1.clone()
    }
}

impl Attempt<'_> {
    /// The request of this attempt. Its deadline is the task's time limit from the claim on.
    pub fn request(mut self, options: &Options) -> PushRequest {
        let body = delivered(self.spec, &self.key.id, self.payload);
        let method = self.spec.method.as_deref().and_then(|m| m.parse().ok()).unwrap_or(http::Method::POST);
        let headers = self.headers(&body);
        let mut request = PushRequest::new(Arc::clone(&self.target), method, headers, body);
        request.timeout = self.spec.time_limit().get();
        request.connect_timeout = options.connect_timeout.min(request.timeout);
        request.max_body = options.max_answer;
        request
    }

    fn headers(&mut self, body: &Bytes) -> HeaderMap {
        let (head, spec) = (self.head, self.spec);
        let mut headers = HeaderMap::with_capacity(20 + spec.labels.len() + spec.headers.len());
        headers.extend(self.worker.headers.clone());
        if !spec.headers.is_empty() {
            // Judged at submit; judged again because rules may have become stricter since.
            let given = spec.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
            headers.extend(check_user_headers(given).unwrap_or_default());
        }
        let content_type = HeaderValue::from_bytes(self.content_type).ok().filter(|v| !v.is_empty());
        headers.insert(CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("application/json")));
        headers.insert(USER_AGENT, self.common.user_agent.clone());
        let id = self.key.id.to_string();
        let seconds = (head.started.0 / 1000) as i64;
        // An id is made of characters that every header takes.
        let id_value = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static(""));
        headers.insert(HeaderName::from_static("webhook-id"), id_value.clone());
        headers.insert(HeaderName::from_static("webhook-timestamp"), seconds.into());
        if let Some(signer) = &self.worker.signer {
            headers.insert(HeaderName::from_static("webhook-signature"), signer.sign(&id, seconds, body));
        }
        headers.insert(HeaderName::from_static("idempotency-key"), id_value);
        if let Some(task) = &spec.task {
            set(&mut headers, HeaderName::from_static("lovage-task"), task);
        }
        set(&mut headers, HeaderName::from_static("lovage-queue"), spec.queue());
        headers.insert(HeaderName::from_static("lovage-attempt"), head.attempt.into());
        headers.insert(HeaderName::from_static("lovage-max-attempts"), spec.max_attempts().into());
        let deadline = self.common.deadline(head.started.after(spec.time_limit().get()));
        headers.insert(HeaderName::from_static("lovage-deadline"), deadline);
        if let Some(root) = &spec.root {
            set(&mut headers, HeaderName::from_static("lovage-root"), &root.to_string());
        }
        if let Some(parent) = &spec.parent {
            set(&mut headers, HeaderName::from_static("lovage-parent"), &parent.to_string());
        }
        if let Some(eta) = spec.eta {
            set(&mut headers, HeaderName::from_static("lovage-eta"), &eta.rfc3339());
        }
        for (name, value) in &spec.labels {
            // A label that cannot be a header is only missing there; the record has it.
            if let Ok(name) = HeaderName::try_from(format!("{LABEL_PREFIX}{name}")) {
                set(&mut headers, name, value);
            }
        }
        headers
    }
}

/// Sets a header; a text that cannot be a header value is left out (a name in another script, say).
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What the rules need of an answer.
pub fn answer(pushed: Pushed) -> Answer {
    match pushed.outcome {
        Ok(response) => {
            let text = |name: &HeaderName| response.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            Answer::Response {
                status: response.status.as_u16(),
                headers: AnswerHeaders {
                    content_type: text(&CONTENT_TYPE),
                    retry_after: text(&RETRY_AFTER),
                    lovage_outcome: text(&HeaderName::from_static("lovage-outcome")),
                    lovage_lease: text(&HeaderName::from_static("lovage-lease")),
                },
                body: response.body,
                truncated: response.truncated,
            }
        }
        Err(fault) => {
            if !fault.detail().is_empty() {
                tracing::debug!(detail = fault.detail(), "a push failed");
            }
            Answer::Fault(kind(fault.kind()))
        }
    }
}

fn kind(kind: FaultKind) -> Fault {
    match kind {
        FaultKind::Forbidden => Fault::Forbidden,
        FaultKind::Dns => Fault::Dns,
        FaultKind::Refused => Fault::Refused,
        FaultKind::Tls => Fault::Tls,
        FaultKind::ConnectTimeout => Fault::ConnectTimeout,
        FaultKind::Reset => Fault::Reset,
        FaultKind::TimedOut => Fault::TimedOut,
        FaultKind::Malformed => Fault::Malformed,
    }
}

/// Status and beginning of an answer, for the attempt's entry.
pub fn excerpt(answer: &Answer) -> (Option<u16>, Option<String>) {
    match answer {
        Answer::Response { status, body, .. } => {
            let start = &body[..body.len().min(EXCERPT_BYTES)];
            (Some(*status), (!start.is_empty()).then(|| String::from_utf8_lossy(start).into_owned()))
        }
        Answer::Fault(_) => (None, None),
    }
}
