//! What a worker's answer means for its task (API: The answer).
//!
//! In order of weight: the `Lovage-Outcome` header, a document that says the outcome, acceptance by 202, success for any
//! other 2xx, the worker's own status lists, its preset.
//! A fault of the network has the same meaning under every preset, because the presets speak of status codes. Nothing
//! here panics or fails, whatever the worker sent.

mod document;
mod error;
mod status_map;
#[cfg(test)]
mod tests;
mod together;

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;

use crate::answer::{Answer, AnswerHeaders, Fault, TaskError};
use crate::outcome::{BAD_LEASE, MAX_LEASE, RawOutcome};
use crate::retry::MAX_RETRY_AFTER;
use crate::units::Dur;

pub(crate) use document::success;
pub use status_map::{Class, Preset, StatusMap};
pub use together::{BATCH_ITEM_MISSING, Batch, Judged, classify_batch};

/// How long a task sleeps when its worker snoozes it without saying for how long.
pub const DEFAULT_SNOOZE: Duration = Duration::from_secs(60);

/// The longest content type that is kept with a result, in bytes.
const MAX_CONTENT_TYPE: usize = 255;

/// Judges `answer` by `map`. `accepts`: every 202 of this worker is an acceptance, with a lease or without. `now_ms` is only
/// there for a `Retry-After` that is a date.
pub fn classify(answer: &Answer, map: &StatusMap, accepts: bool, now_ms: u64) -> RawOutcome {
    match answer {
        Answer::Fault(fault) => classify_fault(*fault),
        Answer::Malformed(what) => RawOutcome::Retry { after: None, error: TaskError::new("MalformedAnswer", what) },
        Answer::Response { status, headers, body, truncated } => {
            Response { status: *status, headers, body, truncated: *truncated, accepts, now_ms }.classify(map)
        }
    }
}

fn classify_fault(fault: Fault) -> RawOutcome {
    let error = fault.error();
    match fault {
        Fault::Refused | Fault::Dns | Fault::Tls | Fault::Forbidden | Fault::ConnectTimeout => RawOutcome::Endpoint { error },
        Fault::Reset => RawOutcome::Retry { after: None, error },
        Fault::TimedOut => RawOutcome::TimedOut { error },
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
    truncated: Option<usize>,
    accepts: bool,
    now_ms: u64,
}

impl Response<'_> {
    fn classify(&self, map: &StatusMap) -> RawOutcome {
        match self.word() {
            Some(Word::Success) => self.success(),
            Some(Word::Retry) => RawOutcome::Retry { after: self.after(), error: self.error() },
            Some(Word::Fail) => RawOutcome::Permanent { error: self.error() },
            Some(Word::Snooze) => RawOutcome::Snooze { after: self.after().unwrap_or(DEFAULT_SNOOZE) },
            Some(Word::Cancel) => RawOutcome::Cancel,
            // Taking the status instead could turn a misspelt "fail" into a success that nobody looks at.
            Some(Word::Unknown) => {
                let word = shown(self.headers.lovage_outcome.as_deref().unwrap_or_default());
                let error = TaskError::new("UnknownOutcome", format!("the worker answered with Lovage-Outcome {word:?}"));
                RawOutcome::Retry { after: self.after(), error: error.with_status(self.status) }
            }
            None if self.is_document() => match self.truncated {
                Some(limit) => RawOutcome::too_large(limit).with_status(self.status),
                None => document::read(self.status, self.body),
            },
            None if self.status == 202 && (self.accepts || self.headers.lovage_lease.is_some()) => self.accepted(),
            None => self.by_status(map),
        }
    }

    fn accepted(&self) -> RawOutcome {
        let Some(text) = self.headers.lovage_lease.as_deref() else { return RawOutcome::Accepted { lease: None } };
        if let Some(lease) = lease(text) {
            return RawOutcome::Accepted { lease: Some(lease) };
        }
        let error = TaskError::new(BAD_LEASE, format!("Lovage-Lease {:?} is not a duration longer than zero", shown(text)));
        RawOutcome::Retry { after: None, error: error.with_status(self.status) }
    }

    fn by_status(&self, map: &StatusMap) -> RawOutcome {
        match map.class(self.status) {
            Class::Success => self.success(),
            Class::Retry => RawOutcome::Retry { after: self.after(), error: self.error() },
            Class::Throttled => RawOutcome::Throttled { after: self.after(), error: self.error() },
            Class::Endpoint => RawOutcome::Endpoint { error: self.error() },
            Class::Permanent => RawOutcome::Permanent { error: self.error() },
        }
    }

    /// Whether the body says the outcome. Its "fail" must not be taken for a result, also if the header is there twice.
    fn is_document(&self) -> bool {
        let content_type = self.headers.content_type.as_deref().unwrap_or_default();
        content_type.split([';', ',']).any(|part| part.trim().eq_ignore_ascii_case(document::CONTENT_TYPE))
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

    fn success(&self) -> RawOutcome {
        if let Some(limit) = self.truncated {
            return RawOutcome::too_large(limit).with_status(self.status);
        }
        if matches!(self.status, 204 | 205) || self.body.is_empty() {
            return RawOutcome::Success { content_type: None, body: None };
        }
        let content_type = self.headers.content_type.clone().filter(|name| name.len() <= MAX_CONTENT_TYPE);
        RawOutcome::Success { content_type, body: Some(self.body.clone()) }
    }

    fn error(&self) -> TaskError {
        error::from_body(self.status, self.headers.content_type.as_deref(), self.body)
    }

    fn after(&self) -> Option<Duration> {
        retry_after(self.headers.retry_after.as_deref()?, self.now_ms)
    }
}

/// As much of the value of a header as an error shows.
fn shown(value: &str) -> String {
    value.chars().take(40).collect()
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

/// Reads a lease as a duration or a number of seconds, at most [`MAX_LEASE`]; junk and zero are `None`.
fn lease(raw: &str) -> Option<Duration> {
    let raw = raw.trim();
    let read = raw.parse::<Dur>().map(Dur::get).or_else(|_| raw.parse().map(Duration::from_secs));
    read.ok().filter(|lease| !lease.is_zero()).map(|lease| lease.min(MAX_LEASE))
}

/// The error that a worker wrote as a JSON object, apart from any status.
pub(crate) fn error_of(object: &str) -> TaskError {
    error::from_object(object.as_bytes())
}
