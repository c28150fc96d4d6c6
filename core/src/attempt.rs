//! The record of one attempt that did not simply succeed at the first try.

use serde::{Deserialize, Serialize};

use crate::answer::{TaskError, cut};
use crate::head::Head;
use crate::id::TaskId;
use crate::time::Millis;

/// Bytes of a worker's answer that are kept for people.
pub const EXCERPT_BYTES: usize = 2048;

/// Bytes of log lines that are kept of one attempt.
pub const LOG_BYTES: usize = 8 * 1024;

/// Entries that a store keeps of one task: the latest.
pub const KEPT_ENTRIES: usize = 500;

/// What an entry with log lines counts beside them.
const LOG_ENTRY: usize = 64;

/// The first of `lines` that fit into `room` bytes; the last of them may be cut.
fn bounded(lines: Vec<String>, room: usize) -> Vec<String> {
    let mut left = room;
    let mut kept = Vec::new();
    for line in lines {
        if left == 0 {
            break;
        }
        let line = cut(line, left);
        // With its line feed, so that empty ones come to an end as well.
        left = left.saturating_sub(line.len() + 1);
        kept.push(line);
    }
    kept
}

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
    /// `succeeded`, `failed`, `canceled`, `given_back`, `lost`, `spawned`, `replaced`, or the reason of the retry. Empty: a
    /// part of an entry, written while the attempt was open.
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
    /// Lines that the worker logged, up to [`LOG_BYTES`] in all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<String>,
    /// Tasks that the worker spawned, in order. With the outcome `spawned`: those that the task waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<TaskId>,
    /// The tasks that it waited for before, said again because the entry that says so will not be kept much longer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waited_for: Vec<TaskId>,
    /// The mark of the report that caused it (`report::mark`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<u64>,
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
            status: error.as_ref().and_then(|e| e.status),
            error,
            ..Self::default()
        }
    }

    /// A part of the entry of the attempt that is open in `head`.
    pub fn open(head: &Head) -> Self {
        Self { number: head.attempt, generation: head.generation, started: head.started, worker: head.worker, ..Self::default() }
    }

    /// With these lines, as many as fit into `room` bytes (of [`LOG_BYTES`]).
    #[must_use]
    pub fn with_logs(mut self, lines: Vec<String>, room: usize) -> Self {
        self.logs = bounded(lines, room.min(LOG_BYTES));
        self
    }

    /// Bytes of log lines that this attempt may still store. Every entry counts a little, too, so that many small ones end.
    pub fn log_room(entries: &[Self], number: u32) -> usize {
        let used = |entry: &Self| entry.logs.iter().map(|line| line.len() + 1).sum::<usize>() + LOG_ENTRY;
        let entries = entries.iter().filter(|entry| entry.number == number && !entry.logs.is_empty());
        LOG_BYTES.saturating_sub(entries.map(used).sum())
    }

    /// The tasks that a parent waited for last, by its stored entries, and whether that has to be said again: else endless
    /// attempts would make a parent forget its children.
    pub fn waited_for(entries: &[Self]) -> (&[TaskId], bool) {
        let says = |entry: &Self| entry.outcome == "spawned" || !entry.waited_for.is_empty();
        let Some((at, entry)) = entries.iter().enumerate().rfind(|(_, entry)| says(entry)) else { return (&[], false) };
        let ids = if entry.outcome == "spawned" { &entry.children } else { &entry.waited_for };
        (ids, entries.len() - at > KEPT_ENTRIES / 2)
    }

    /// One entry per attempt: parts are joined with the entry of its end, if it has one.
    pub fn merged(entries: Vec<Self>) -> Vec<Self> {
        let mut out: Vec<Self> = Vec::with_capacity(entries.len());
        for entry in entries {
            match out.last_mut().filter(|last| last.number == entry.number && last.outcome.is_empty()) {
                Some(part) => {
                    let mut logs = std::mem::take(&mut part.logs);
                    let mut children = std::mem::take(&mut part.children);
                    logs.extend(entry.logs);
                    children.extend(entry.children);
                    *part = Self { logs: bounded(logs, LOG_BYTES), children, ..entry };
                }
                None => out.push(entry),
            }
        }
        out
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
