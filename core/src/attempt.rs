//! The record of one attempt that did not simply succeed at the first try.

use serde::{Deserialize, Serialize};

use crate::answer::TaskError;
use crate::head::Head;
use crate::time::Millis;

/// Bytes of a worker's answer that are kept for people.
pub const EXCERPT_BYTES: usize = 2048;

/// How one attempt went. Stored as named MessagePack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttemptEntry {
    /// Its number, from 1.
    pub number: u32,
    /// The generation it belongs to.
    pub generation: u8,
    /// When it was claimed.
    pub started: Millis,
    /// When its end was decided.
    pub ended: Millis,
    /// `succeeded`, `failed`, `canceled`, `given_back`, `lost`, or the reason of the retry.
    pub outcome: String,
    /// The worker's mark (`worker_mark`); 0: a bare URL.
    pub worker: u32,
    /// The instance that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The status answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// The first [`EXCERPT_BYTES`] of the answer, lossily as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
}

impl AttemptEntry {
    /// The entry of the attempt that was open in `was` and ended `now`.
    pub fn ended(was: &Head, now: Millis, outcome: &str, error: Option<TaskError>) -> Self {
        Self {
            number: was.attempt,
            generation: was.generation,
            started: was.started,
            ended: now,
            outcome: outcome.to_owned(),
            worker: was.worker,
            instance: None,
            status: error.as_ref().and_then(|e| e.status),
            error,
            excerpt: None,
        }
    }

    /// The entry of a first-try success, told by its head alone.
    pub fn of_success(head: &Head) -> Self {
        Self {
            number: head.attempt,
            generation: head.generation,
            started: head.started,
            ended: head.ended,
            outcome: "succeeded".to_owned(),
            worker: head.worker,
            ..Self::default()
        }
    }

    /// Named MessagePack.
    pub fn encode(&self) -> Vec<u8> {
        // Plain data into a Vec cannot fail.
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    /// Reads an encoded entry; `None` if it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }
}
