//! A signature as it comes in: typed fields that borrow from the request, before any rule is applied.
//!
//! It is read from JSON ([`json`]) or from headers beside a raw body ([`raw`]); [`check`] holds the rules for both and
//! makes a [`Draft`], which needs only an id to become a task.

mod callbacks;
mod check;
mod json;
mod labels;
pub(crate) mod raw;
mod retry;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use lovage_core::retry::RetryPolicy;
use lovage_core::units::Dur;
use lovage_core::{Callbacks, Millis};

pub(crate) use check::{Draft, LaneCache, Rules};
pub(crate) use json::read;

/// The fields that this version knows (API: Tasks).
pub(crate) const FIELDS: [&str; 22] = [
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
    "time_limit",
    "retry",
    "callbacks",
    "ignore_result",
    "result_ttl",
    "retention",
    "labels",
];

/// Fields of the API that this version does not have: refused with a better reason than "unknown".
pub(crate) const LATER: [&str; 22] = [
    "auth",
    "soft_time_limit",
    "limits",
    "order_key",
    "fair_key",
    "unique",
    "debounce",
    "batch",
    "link",
    "link_error",
    "immutable",
    "redact",
    "max_run",
    "chain",
    "group",
    "chord",
    "map",
    "starmap",
    "chunks",
    "dag",
    "wait",
    "needs",
];

/// What is delivered.
#[derive(Debug, Default)]
pub(crate) enum Payload<'a> {
    /// Nothing was given: a call without arguments.
    #[default]
    None,
    /// A call, as JSON texts.
    Call { args: Option<&'a str>, kwargs: Option<&'a str> },
    /// JSON delivered as it is.
    Json(&'a str),
    /// Any bytes with their content type.
    Raw { content_type: &'a str, bytes: Bytes },
}

/// The fields of a signature; `None` where it was not given or refused.
#[derive(Debug, Default)]
pub(crate) struct Signature<'a> {
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
    pub time_limit: Option<Dur>,
    pub retry: Option<RetryPolicy>,
    pub callbacks: Callbacks,
    pub ignore_result: bool,
    pub result_ttl: Option<Dur>,
    pub retention: Option<Dur>,
    pub labels: BTreeMap<String, String>,
}
