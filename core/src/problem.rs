//! Every way in which a request can be refused.
//!
//! The catalogue of codes is closed: a code has one status, one title, one answer to "is it worth trying again" and one
//! page in `docs/errors/`, which is compiled in, so that a code without a page does not build. A [`Problem`] is one such
//! refusal with its details; [`Problem::view`] is its body on the wire (RFC 9457). There is no "internal error": what
//! fails on this side is a fault that may pass, so it is 503 and the client may try again.

mod code;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use code::Code;

/// One field that was refused: where it is and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// A JSON pointer into the request body, such as `/retry/max`.
    pub pointer: String,
    /// What is wrong, for the person who sent it.
    pub message: String,
}

impl FieldError {
    /// A refusal of the field at `pointer`; the empty pointer is the whole document.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }

    /// The same, seen from the document that holds this one at `prefix`.
    #[must_use]
    pub fn under(self, prefix: &str) -> Self {
        Self { pointer: format!("{prefix}{}", self.pointer), message: self.message }
    }
}

/// One step of a JSON pointer: `/` and the key with its special characters escaped (RFC 6901).
pub fn pointer_step(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Problem {
    /// What kind of refusal.
    pub code: Code,
    /// What happened this time, in a sentence. It may show what the client sent, never what is inside.
    pub detail: String,
    /// The refused fields.
    pub errors: Vec<FieldError>,
    /// The task that is in the way, for `unique_conflict`.
    pub existing_id: Option<String>,
    /// The state that does not allow it, for `wrong_state`.
    pub state: Option<String>,
    /// How long to wait before trying again; see [`Problem::retry_after_secs`].
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// A refusal with nothing but a sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), existing_id: None, state: None, retry_after: None }
    }

    /// `invalid_field` for one field; the detail repeats it for those who read only that.
    pub fn invalid(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::from(FieldError::new(pointer, message))
    }

    /// With one more refused field.
    #[must_use]
    pub fn field(mut self, pointer: impl Into<String>, message: impl Into<String>) -> Self {
        self.errors.push(FieldError::new(pointer, message));
        self
    }

    /// With the task that is in the way.
    #[must_use]
    pub fn existing(mut self, id: impl Into<String>) -> Self {
        self.existing_id = Some(id.into());
        self
    }

    /// With the state that does not allow it.
    #[must_use]
    pub fn in_state(mut self, state: impl Into<String>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// With the time after which another try makes sense.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same refusal of item `index` of an array: every pointer starts with the index, and a refusal of the item as
    /// a whole points at it.
    #[must_use]
    pub fn at_index(mut self, index: usize) -> Self {
        let prefix = format!("/{index}");
        if self.errors.is_empty() {
            self.errors.push(FieldError::new("", self.detail.clone()));
        }
        self.errors = self.errors.into_iter().map(|error| error.under(&prefix)).collect();
        self
    }

    /// The value of `Retry-After` in whole seconds, rounded up and at least one. 429 and 503 always have one.
    pub fn retry_after_secs(&self) -> Option<u64> {
        let always = matches!(self.code.status(), 429 | 503);
        let wait = self.retry_after.or(always.then_some(Duration::from_secs(1)))?;
        Some(wait.as_millis().div_ceil(1_000).clamp(1, u128::from(u64::MAX)) as u64)
    }

    /// The body of the answer, `application/problem+json`.
    pub fn view<'a>(&'a self, request_id: &'a str) -> ProblemView<'a> {
        ProblemView {
            kind: self.code.page_path(),
            title: self.code.title(),
            status: self.code.status(),
            detail: &self.detail,
            code: self.code,
            request_id,
            errors: &self.errors,
            existing_id: self.existing_id.as_deref(),
            state: self.state.as_deref(),
        }
    }

    /// [`Problem::view`] as JSON bytes.
    pub fn to_json(&self, request_id: &str) -> Vec<u8> {
        // Strings, numbers and an enum with names: there is nothing in it that could fail to serialize.
        serde_json::to_vec(&self.view(request_id)).unwrap_or_default()
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        let detail =
            if error.pointer.is_empty() { error.message.clone() } else { format!("{}: {}", error.pointer, error.message) };
        Self { errors: vec![error], ..Self::new(Code::InvalidField, detail) }
    }
}

/// A problem on the wire, in the order in which its members are read best.
#[derive(Clone, Debug, Serialize)]
pub struct ProblemView<'a> {
    /// The page about the code, relative to the server that answered: it is the page of its own version.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: &'a str,
    /// The code for programs.
    pub code: Code,
    /// The same as in `X-Request-Id`.
    pub request_id: &'a str,
    /// The refused fields.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    pub errors: &'a [FieldError],
    /// The task that is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub existing_id: Option<&'a str>,
    /// The state that does not allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'a str>,
}
