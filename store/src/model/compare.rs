//! What "the same answer" means.

use std::collections::BTreeMap;
use std::fmt::Debug;

use lovage_core::{Head, Millis, TaskKey};

use crate::{Error, FeedEntry, Result as Answer};

/// Equal, or a description of both.
pub(super) fn same<T: PartialEq + Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} differs:\n   found {found:?}\nexpected {expected:?}")) }
}

/// Both answers, if both succeeded; `None` if both were refused for the same reason.
pub(super) fn both<T: Debug>(what: &str, found: Answer<T>, expected: Answer<T>) -> Result<Option<(T, T)>, String> {
    match (found, expected) {
        (Ok(found), Ok(expected)) => Ok(Some((found, expected))),
        (Err(found), Err(expected)) if std::mem::discriminant(&found) == std::mem::discriminant(&expected) => Ok(None),
        (found, expected) => Err(format!("{what} differs:\n   found {found:?}\nexpected {expected:?}")),
    }
}

/// The answer of a call that must succeed.
pub(super) fn ok<T>(what: &str, answer: Answer<T>) -> Result<T, String> {
    answer.map_err(|error: Error| format!("{what} failed: {error}"))
}

/// A head without its order of acceptance, which is the store's own.
pub(super) fn bare(head: &Head) -> Head {
    Head { seq: 0, ..head.clone() }
}

/// A head in which a deadline that is about `now` is not told apart from another: it is the time of the call that woke the
/// task, which differs between two stores. No other time of a sequence is so near.
pub(super) fn timeless(head: &Head, now: Millis) -> Head {
    let woken = head.deadline.0.abs_diff(now.0) < 45_000;
    Head { deadline: if woken { Millis(1) } else { head.deadline }, ..head.clone() }
}

/// What a feed entry says in the end about each task.
pub(super) fn meaning(entry: &FeedEntry, now: Millis) -> BTreeMap<TaskKey, Option<Head>> {
    entry.rows.iter().map(|row| (row.key.clone(), row.head.as_ref().map(|head| bare(&timeless(head, now))))).collect()
}
