//! What came back from a push, before anybody judged it.
//!
//! The transport yields an [`Answer`] and nothing else; [`crate::classify::classify`] turns it into an
//! [`Outcome`](crate::Outcome); the
//! task's next state is decided from that. So the meaning of a status code is written in one place, and a transport can
//! be replaced by a script in tests.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The error type of an attempt whose answer says its outcome in a way that cannot be read.
pub const BAD_OUTCOME: &str = "BadOutcome";
/// The error type of an attempt that its time limit or `max_run` ended.
pub const TIMED_OUT: &str = "TimedOut";

/// The end of one HTTP attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The endpoint answered.
    Response {
        /// The status as received, also if it is outside 100–599.
        status: u16,
        /// The headers that have a meaning here.
        headers: AnswerHeaders,
        /// The body, read up to the transport's limit.
        body: Bytes,
        /// The body went on beyond so many bytes, the limit.
        truncated: Option<usize>,
    },
    /// The answer is not HTTP, or its content encoding cannot be read: what is wrong and where.
    Malformed(String),
    /// No answer.
    Fault(Fault),
}

/// The response headers that have a meaning here, as received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerHeaders {
    /// `Content-Type`
    pub content_type: Option<String>,
    /// `Retry-After`
    pub retry_after: Option<String>,
    /// `Lovage-Outcome`
    pub lovage_outcome: Option<String>,
    /// `Lovage-Lease`
    pub lovage_lease: Option<String>,
}

/// Why there is no usable answer. With the first five nothing left the process, so the worker has not seen the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The connection was refused.
    Refused,
    /// The name does not resolve.
    Dns,
    /// The TLS handshake failed.
    Tls,
    /// The address is not allowed as a destination.
    Forbidden,
    /// No connection within the time for connecting.
    ConnectTimeout,
    /// The connection broke after the request left: the worker may have run the task.
    Reset,
    /// The time limit of the attempt ran out.
    TimedOut,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Refused, Self::Dns, Self::Tls, Self::Forbidden, Self::ConnectTimeout, Self::Reset, Self::TimedOut];

    /// The error type and message that users see. Fixed texts: what the network said in detail is not theirs to know.
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Refused => ("ConnectionRefused", "the endpoint refused the connection"),
            Self::Dns => ("DnsFailed", "the name of the endpoint does not resolve"),
            Self::Tls => ("TlsFailed", "the TLS handshake with the endpoint failed"),
            Self::Forbidden => ("DestinationForbidden", "the address of the endpoint is not an allowed destination"),
            Self::ConnectTimeout => ("ConnectTimeout", "no connection to the endpoint within the time allowed"),
            Self::Reset => ("ConnectionReset", "the connection broke before the answer was complete"),
            Self::TimedOut => (TIMED_OUT, "no complete answer within the time limit"),
        }
    }

    /// Whether the request certainly never reached the endpoint.
    pub fn before_send(self) -> bool {
        match self {
            Self::Refused | Self::Dns | Self::Tls | Self::Forbidden | Self::ConnectTimeout => true,
            Self::Reset | Self::TimedOut => false,
        }
    }

    /// The error as stored with the attempt.
    pub fn error(self) -> TaskError {
        let (kind, message) = self.describe();
        TaskError::new(kind, message)
    }
}

/// The error of an attempt as stored and shown. Every part is bounded, whatever the worker sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// A short name to group by, such as `ValueError` or `HttpStatus`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One or a few sentences.
    pub message: String,
    /// The worker's stack trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// The HTTP status, if there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

impl TaskError {
    /// The longest `type` in bytes.
    pub const MAX_TYPE: usize = 128;
    /// The longest `message` in bytes.
    pub const MAX_MESSAGE: usize = 4 * 1024;
    /// The longest `stack` in bytes.
    pub const MAX_STACK: usize = 16 * 1024;

    /// An error without stack and status; texts beyond the bounds are cut.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: cut(kind.into(), Self::MAX_TYPE),
            message: cut(message.into(), Self::MAX_MESSAGE),
            stack: None,
            status: None,
        }
    }

    /// With the worker's stack trace, cut to the bound.
    #[must_use]
    pub fn with_stack(mut self, stack: impl Into<String>) -> Self {
        self.stack = Some(cut(stack.into(), Self::MAX_STACK));
        self
    }

    /// With the status of the answer.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }
}

/// At most `max` bytes of `text`, cut between two characters.
pub(crate) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_is_written_with_the_words_of_the_api() {
        let error = TaskError::new("ValueError", "no such image").with_status(500);
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(json, serde_json::json!({"type": "ValueError", "message": "no such image", "status": 500}));
        assert_eq!(serde_json::from_value::<TaskError>(json).unwrap(), error);
        let packed = rmp_serde::to_vec_named(&error.clone().with_stack("at main")).unwrap();
        assert_eq!(rmp_serde::from_slice::<TaskError>(&packed).unwrap(), error.with_stack("at main"));
    }

    #[test]
    fn faults_have_names_of_their_own() {
        let names: HashSet<_> = Fault::ALL.iter().map(|fault| fault.describe().0).collect();
        assert_eq!(names.len(), Fault::ALL.len());
        assert_eq!(Fault::Forbidden.error().kind, "DestinationForbidden");
    }

    proptest! {
        #[test]
        fn a_cut_text_is_the_longest_beginning_that_fits(text: String, max in 0..40_usize) {
            let short = cut(text.clone(), max);
            prop_assert!(short.len() <= max && text.starts_with(&short));
            let next = text[short.len()..].chars().next();
            prop_assert!(next.is_none_or(|next| short.len() + next.len_utf8() > max));
        }

        #[test]
        fn errors_are_bounded(text in "[a-zü€😀]{0,40}", times in 0..2_000_usize) {
            let long = text.repeat(times);
            let error = TaskError::new(long.clone(), long.clone()).with_stack(long);
            prop_assert!(error.kind.len() <= TaskError::MAX_TYPE);
            prop_assert!(error.message.len() <= TaskError::MAX_MESSAGE);
            prop_assert!(error.stack.unwrap().len() <= TaskError::MAX_STACK);
        }
    }
}
