//! What "the same answer" means.

use std::collections::BTreeMap;
use std::fmt::Debug;

use lovage_core::{Head, TaskKey};

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

/// What a feed entry says in the end about each task.
pub(super) fn meaning(entry: &FeedEntry) -> BTreeMap<TaskKey, Option<Head>> {
    entry.rows.iter().map(|row| (row.key.clone(), row.head.as_ref().map(bare))).collect()
}
