//! What becomes of a task whose key another one has.

use lovage_core::problem::{Code, Problem};
use lovage_core::{Flags, Head, Millis, OnConflict, Reason, Spec, is_debouncing};
use lovage_store::{KeyEntry, KeyKind};

/// What becomes of it.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Nobody has the key by right: it is taken.
    Take,
    /// The one that has the key is called off for this reason, and the key is taken.
    Replace(Reason),
    /// The one that has the key is the answer.
    Return,
    /// It is refused.
    Refuse(Problem),
}

/// Judges a task that wants the key of `entry`; `head` is the head of the one that has it.
pub(super) fn judge(wants: &Spec, kind: KeyKind, entry: &KeyEntry, head: Option<&Head>, now: Millis) -> Verdict {
    let verdict = match (&wants.unique, kind) {
        (Some(unique), KeyKind::Unique) => {
            match unique.on_conflict {
                _ if !entry.is_held(head, now) => Verdict::Take,
                OnConflict::Return => Verdict::Return,
                OnConflict::Reject => Verdict::Refuse(unique_conflict(&format!("`{}`", unique.key), entry)),
                // It is being called off already.
                OnConflict::Replace if head.is_none_or(|head| head.state.is_final() || head.flags.has(Flags::CANCEL)) => {
                    Verdict::Take
                }
                OnConflict::Replace => Verdict::Replace(Reason::Replaced),
            }
        }
        _ if head.is_some_and(|head| is_debouncing(head, now)) => Verdict::Replace(Reason::Debounced),
        _ => Verdict::Take,
    };
    let outcome = match verdict {
        Verdict::Take => "free",
        Verdict::Replace(_) => "replaced",
        Verdict::Return => "returned",
        Verdict::Refuse(_) => "rejected",
    };
    let kind = if kind == KeyKind::Unique { "unique" } else { "debounce" };
    metrics::counter!("lovage_key_conflicts_total", "kind" => kind, "outcome" => outcome).increment(1);
    verdict
}

/// `unique_conflict`
pub(super) fn unique_conflict(which: &str, entry: &KeyEntry) -> Problem {
    let detail = format!("the unique key {which} is held by another task");
    Problem::new(Code::UniqueConflict, detail).existing(entry.task.id.to_string())
}

/// When the burst began of which the task with this debounce key is the last.
pub(super) fn first_of(entry: &KeyEntry) -> Option<Millis> {
    Some(Millis(u64::from_be_bytes(entry.value[..].try_into().ok()?)))
}
