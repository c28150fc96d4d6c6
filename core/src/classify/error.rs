//! The error of a task, taken from the body of a failed answer.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::answer::TaskError;

/// The fields that count, whatever else the object holds.
#[derive(Default, Deserialize)]
struct Body<'a> {
    #[serde(default, borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(default, borrow)]
    message: Option<Text<'a>>,
    #[serde(default, borrow)]
    stack: Option<Text<'a>>,
}

/// A string; a value of another type is passed over, so that the other fields still count.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(IgnoredAny),
}

impl Text<'_> {
    fn into_string(self) -> Option<String> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text.into_owned()),
            Self::Text(_) | Self::Other(_) => None,
        }
    }
}

/// `type`, `message` and `stack` of a JSON body; for what is missing `HttpStatus` and `HTTP 500`.
pub(super) fn from_body(status: u16, content_type: Option<&str>, body: &[u8]) -> TaskError {
    // Only an object: serde would also read the fields of an array, by their places.
    let is_object = may_be_json(content_type) && body.trim_ascii_start().starts_with(b"{");
    let parsed: Body<'_> = if is_object { serde_json::from_slice(body).unwrap_or_default() } else { Body::default() };
    let kind = parsed.kind.and_then(Text::into_string).unwrap_or_else(|| "HttpStatus".to_owned());
    let message = parsed.message.and_then(Text::into_string).unwrap_or_else(|| format!("HTTP {status}"));
    let error = TaskError::new(kind, message).with_status(status);
    match parsed.stack.and_then(Text::into_string) {
        Some(stack) => error.with_stack(stack),
        None => error,
    }
}

/// The same of an object that is no answer by itself: there is no status to fall back on.
pub(super) fn from_object(object: &[u8]) -> TaskError {
    let parsed: Body<'_> = serde_json::from_slice(object).unwrap_or_default();
    let kind = parsed.kind.and_then(Text::into_string).unwrap_or_else(|| "Error".to_owned());
    let message = parsed.message.and_then(Text::into_string).unwrap_or_else(|| "the worker gave no message".to_owned());
    let error = TaskError::new(kind, message);
    match parsed.stack.and_then(Text::into_string) {
        Some(stack) => error.with_stack(stack),
        None => error,
    }
}

/// Simple workers send no content type at all; then the body speaks for itself.
fn may_be_json(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else { return true };
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.is_empty() || essence == "application/json" || essence.ends_with("+json")
}
