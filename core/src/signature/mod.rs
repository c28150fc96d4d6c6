//! A signature as it comes in: typed fields that borrow from the request, before any rule is applied.
//!
//! [`read`] reads it from JSON; [`Rules`] checks it and makes a [`Draft`], which needs only an id to become a task. A draft
//! can be kept inside another task (a link), or be made from what a worker spawns ([`read_children`]).

mod callbacks;
mod check;
mod draft;
mod json;
mod keys;
mod labels;
mod limits;
mod links;
mod nest;
mod patch;
mod replay;
mod retry;
#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::callback::Callbacks;
use crate::keys::{Batching, Debounce, Unique};
use crate::limit::TaskLimit;
use crate::retry::RetryPolicy;
use crate::time::Millis;
use crate::units::Dur;

pub use check::Rules;
pub use draft::Draft;
pub use json::{read, time};
pub use keys::{debounce, unique};
pub use limits::MAX_LIMITS;
pub(crate) use links::refused;
pub use links::{MAX_CHILDREN, MAX_LINK_DEPTH, MAX_LINKS, read_children};
pub(crate) use retry::read as read_retry;

/// The fields that this version knows (API: Tasks).
pub const FIELDS: [&str; 34] = [
    "task",
    "url",
    "args",
    "kwargs",
    "payload",
    "method",
    "headers",
    "id",
    "name",
    "queue",
    "priority",
    "delay",
    "eta",
    "expires_in",
    "expires_at",
    "soft_time_limit",
    "time_limit",
    "max_run",
    "retry",
    "limits",
    "order_key",
    "fair_key",
    "unique",
    "debounce",
    "batch",
    "link",
    "link_error",
    "immutable",
    "callbacks",
    "ignore_result",
    "result_ttl",
    "retention",
    "labels",
    "redact",
];

/// Fields of the API that this version does not have: refused with a better reason than "unknown".
pub const LATER: [&str; 10] = ["auth", "chain", "group", "chord", "map", "starmap", "chunks", "dag", "wait", "needs"];

/// How large and how deep a signature may be; the defaults are those of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureLimits {
    /// Levels of arrays and objects.
    pub json_depth: usize,
    /// Number of labels.
    pub labels: usize,
    /// Key and value of one label together.
    pub label_bytes: usize,
    /// Headers forwarded with a delivery.
    pub forwarded_headers: usize,
    /// Names and values of all forwarded headers together.
    pub forwarded_header_bytes: usize,
}

impl Default for SignatureLimits {
    fn default() -> Self {
        Self { json_depth: 128, labels: 32, label_bytes: 256, forwarded_headers: 32, forwarded_header_bytes: 8 << 10 }
    }
}

/// What is delivered.
#[derive(Clone, Debug, Default)]
pub enum Payload<'a> {
    /// Nothing was given: a call without arguments.
    #[default]
    None,
    /// A call, as JSON texts.
    Call {
        /// An array.
        args: Option<&'a str>,
        /// An object.
        kwargs: Option<&'a str>,
    },
    /// JSON delivered as it is.
    Json(&'a str),
    /// Any bytes with their content type.
    Raw {
        /// Their media type.
        content_type: &'a str,
        /// As received.
        bytes: Bytes,
    },
}

impl Payload<'_> {
    /// Whether it is delivered as a call with arguments.
    pub(crate) fn is_call(&self) -> bool {
        matches!(self, Self::None | Self::Call { .. })
    }
}

/// The fields of a signature; `None` where it was not given or refused.
#[derive(Debug, Default)]
#[allow(missing_docs)] // the words of the API, explained there and in `Spec`
pub struct Signature<'a> {
    pub task: Option<Cow<'a, str>>,
    pub url: Option<Cow<'a, str>>,
    pub payload: Payload<'a>,
    pub method: Option<Cow<'a, str>>,
    pub headers: Vec<(String, String)>,
    pub id: Option<Cow<'a, str>>,
    pub name: Option<Cow<'a, str>>,
    pub queue: Option<Cow<'a, str>>,
    pub priority: Option<u8>,
    pub delay: Option<Dur>,
    pub eta: Option<Millis>,
    pub expires_in: Option<Dur>,
    pub expires_at: Option<Millis>,
    pub soft_time_limit: Option<Dur>,
    pub time_limit: Option<Dur>,
    pub max_run: Option<Dur>,
    pub retry: Option<RetryPolicy>,
    pub limits: Option<Vec<TaskLimit>>,
    pub order_key: Option<Cow<'a, str>>,
    pub fair_key: Option<Cow<'a, str>>,
    pub unique: Option<Unique>,
    pub debounce: Option<Debounce>,
    pub batch: Option<Batching>,
    /// Read when the rules are applied.
    pub link: Option<&'a RawValue>,
    /// Read when the rules are applied.
    pub link_error: Option<&'a RawValue>,
    pub immutable: Option<bool>,
    pub callbacks: Callbacks,
    pub ignore_result: Option<bool>,
    pub result_ttl: Option<Dur>,
    pub retention: Option<Dur>,
    pub labels: BTreeMap<String, String>,
    pub redact: Vec<String>,
}
