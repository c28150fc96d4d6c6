//! Counts, reasons and ends in words.

use lovage_core::{Head, Reason, State};

/// So many of them.
pub(super) fn count(n: u32, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Why a task that is blocked or waits for another attempt does so.
pub(super) fn of_wait(reason: Reason) -> &'static str {
    match reason {
        Reason::Parents => "It waits for earlier steps.",
        Reason::Token => "It waits for somebody to complete its token.",
        Reason::Throttled => "The worker asked to slow down",
        Reason::Endpoint => "The endpoint could not do its work, which is not charged",
        Reason::Lost => "The attempt was lost while it ran",
        Reason::Snoozed => "The worker asked for a later time",
        _ => "The attempt failed",
    }
}

/// How a final task ended, as a verb.
pub(super) fn of_end(state: State) -> &'static str {
    match state {
        State::Succeeded => "succeeded",
        State::Canceled => "was canceled",
        State::Expired => "expired",
        _ => "failed",
    }
}

/// Why a final task ended so.
pub(super) fn why(head: &Head) -> &'static str {
    match head.reason {
        Reason::Permanent => "the worker said that another attempt is useless",
        Reason::Exhausted => "its retry policy allows no further attempt",
        Reason::Timeout => "its last attempt ran into its time limit",
        Reason::Poison => "it was lost too often while it ran",
        Reason::Requested => "somebody asked for it",
        Reason::Upstream => "what it depends on failed or was canceled",
        Reason::Replaced => "a newer task with its unique key took its place",
        Reason::Debounced => "a newer task with its debounce key took its place",
        Reason::Purged => "its queue was purged",
        Reason::Dropped => "its queue was full",
        Reason::Overlap => "the next run of its schedule took its place",
        _ if head.state == State::Expired => "it had not started in time",
        _ => "its worker said so",
    }
}
