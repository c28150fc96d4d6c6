//! What a worker's answer means for its task (API: The answer).
//!
//! In order of weight: the `Lovage-Outcome` header, success for any 2xx, the worker's own status lists, its preset.
//! A fault of the network has the same meaning under every preset, because the presets speak of status codes. Nothing
//! here panics or fails, whatever the worker sent.

mod error;
mod status_map;
#[cfg(test)]
mod tests;

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;

use crate::answer::{Answer, AnswerHeaders, Fault, Outcome, TaskError};
use crate::retry::MAX_RETRY_AFTER;

pub use status_map::{Class, Preset, StatusMap};

/// How long a task sleeps when its worker snoozes it without saying for how long.
pub const DEFAULT_SNOOZE: Duration = Duration::from_secs(60);

/// The longest content type that is kept with a result, in bytes.
const MAX_CONTENT_TYPE: usize = 255;

/// The content type of an answer that tells its outcome in the body.
const OUTCOME_DOCUMENT: &str = "application/vnd.lovage.outcome+json";

/// Judges `answer` by `map`; `now_ms` is only there for a `Retry-After` that is a date.
pub fn classify(answer: &Answer, map: &StatusMap, now_ms: u64) -> Outcome {
    match answer {
        Answer::Fault(fault) => classify_fault(*fault),
        Answer::Response { status, headers, body, truncated } => {
            Response { status: *status, headers, body, truncated: *truncated, now_ms }.classify(map)
        }
    }
}

fn classify_fault(fault: Fault) -> Outcome {
    let error = fault.error();
    match fault {
        Fault::Refused | Fault::Dns | Fault::Tls | Fault::Forbidden | Fault::ConnectTimeout => Outcome::Endpoint { error },
        Fault::Reset | Fault::Malformed => Outcome::Retry { after: None, error },
        Fault::TimedOut => Outcome::TimedOut { error },
        // The work was done, and doing it again gives the same result.
        Fault::BodyTooLarge => Outcome::Permanent { error },
    }
}

/// The words of the `Lovage-Outcome` header.
enum Word {
    Success,
    Retry,
    Fail,
    Snooze,
    Cancel,
    Unknown,
}

struct Response<'a> {
    status: u16,
    headers: &'a AnswerHeaders,
    body: &'a Bytes,
    truncated: bool,
    now_ms: u64,
}

impl Response<'_> {
    fn classify(&self, map: &StatusMap) -> Outcome {
        match self.word() {
            Some(Word::Success) => self.success(),
            Some(Word::Retry) => Outcome::Retry { after: self.after(), error: self.error() },
            Some(Word::Fail) => Outcome::Permanent { error: self.error() },
            Some(Word::Snooze) => Outcome::Snooze { after: self.after().unwrap_or(DEFAULT_SNOOZE) },
            Some(Word::Cancel) => Outcome::Cancel,
            // Taking the status instead could turn a misspelt "fail" into a success that nobody looks at.
            Some(Word::Unknown) => {
                let word = self.headers.lovage_outcome.as_deref().unwrap_or_default();
                let error = TaskError::new("UnknownOutcome", format!("the worker answered with Lovage-Outcome {word:?}"));
                Outcome::Retry { after: self.after(), error: error.with_status(self.status) }
            }
            None => self.by_status(map),
        }
    }

    fn by_status(&self, map: &StatusMap) -> Outcome {
        match map.class(self.status) {
            Class::Success if self.is_outcome_document() => {
                let message = format!("this version does not read {OUTCOME_DOCUMENT}; use the header Lovage-Outcome");
                Outcome::Permanent { error: TaskError::new("UnsupportedAnswer", message).with_status(self.status) }
            }
            Class::Success => self.success(),
            Class::Retry => Outcome::Retry { after: self.after(), error: self.error() },
            Class::Throttled => Outcome::Throttled { after: self.after(), error: self.error() },
            Class::Endpoint => Outcome::Endpoint { error: self.error() },
            Class::Permanent => Outcome::Permanent { error: self.error() },
        }
    }

    /// Whether the body says the outcome. Its "fail" must not be taken for a result.
    fn is_outcome_document(&self) -> bool {
        let content_type = self.headers.content_type.as_deref().unwrap_or_default();
        content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(OUTCOME_DOCUMENT)
    }

    /// What the header says; `None` if it is missing or empty.
    fn word(&self) -> Option<Word> {
        let raw = self.headers.lovage_outcome.as_deref()?.trim();
        if raw.is_empty() {
            return None;
        }
        Some(match raw.to_ascii_lowercase().as_str() {
            "success" => Word::Success,
            "retry" => Word::Retry,
            "fail" => Word::Fail,
            "snooze" => Word::Snooze,
            "cancel" => Word::Cancel,
            _ => Word::Unknown,
        })
    }

    fn success(&self) -> Outcome {
        if self.truncated {
            return Outcome::Permanent { error: Fault::BodyTooLarge.error().with_status(self.status) };
        }
        if matches!(self.status, 204 | 205) || self.body.is_empty() {
            return Outcome::Success { content_type: None, body: None };
        }
        let content_type = self.headers.content_type.clone().filter(|name| name.len() <= MAX_CONTENT_TYPE);
        Outcome::Success { content_type, body: Some(self.body.clone()) }
    }

    fn error(&self) -> TaskError {
        error::from_body(self.status, self.headers.content_type.as_deref(), self.body)
    }

    fn after(&self) -> Option<Duration> {
        retry_after(self.headers.retry_after.as_deref()?, self.now_ms)
    }
}

/// Reads `Retry-After` in both its forms, seconds and an HTTP date, as a wait of at most a day. A date that has passed
/// is no wait; junk is `None`.
pub fn retry_after(raw: &str, now_ms: u64) -> Option<Duration> {
    let raw = raw.trim();
    if !raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only too many digits can fail here, and then it is more than a day.
        let secs = raw.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(secs).min(MAX_RETRY_AFTER));
    }
    let date = httpdate::parse_http_date(raw).ok()?;
    let since_epoch = date.duration_since(UNIX_EPOCH).ok()?;
    Some(since_epoch.saturating_sub(Duration::from_millis(now_ms)).min(MAX_RETRY_AFTER))
}
