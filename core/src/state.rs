//! The states of a task and the reasons beside them (API: States).

use serde::{Deserialize, Serialize};

macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $number:literal $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant = $number),+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in the API, in metrics and in logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The one with this number in a stored head.
            pub fn from_u8(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The one that the API calls `text`.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named! {
    /// Where a task is in its life. The numbers are part of the stored format.
    State {
        /// Waits for something other than time: parents, children, a token.
        Blocked = 0 "blocked",
        /// Waits for its first due time.
        Scheduled = 1 "scheduled",
        /// May start as soon as its lane lets it.
        Queued = 2 "queued",
        /// An attempt is open.
        Running = 3 "running",
        /// Waits for the next attempt.
        Retrying = 4 "retrying",
        /// Final: a worker said so.
        Succeeded = 5 "succeeded",
        /// Final: no further attempt will be made.
        Failed = 6 "failed",
        /// Final: somebody or something called it off.
        Canceled = 7 "canceled",
        /// Final: it did not start in time.
        Expired = 8 "expired",
    }
}

named! {
    /// Why a task is in its state. The numbers are part of the stored format.
    Reason {
        /// No particular reason (queued, scheduled, succeeded, expired).
        None = 0 "none",
        /// Blocked: earlier steps are not final.
        Parents = 1 "parents",
        /// Blocked: spawned children are not final.
        Children = 2 "children",
        /// Blocked: an outside token is not complete.
        Token = 3 "token",
        /// Running: pushed, the answer is open.
        Dispatched = 4 "dispatched",
        /// Running: the worker will report later.
        Accepted = 5 "accepted",
        /// Running: a cancel was asked for.
        Canceling = 6 "canceling",
        /// Retrying: the attempt failed, the retry policy chose the time.
        Backoff = 7 "backoff",
        /// Retrying: the worker asked to slow down.
        Throttled = 8 "throttled",
        /// Retrying: the endpoint is at fault, the budget is not charged.
        Endpoint = 9 "endpoint",
        /// Retrying: the dispatcher that ran it died.
        Lost = 10 "lost",
        /// Retrying: the worker asked for a later time.
        Snoozed = 11 "snoozed",
        /// Failed: the worker said that another attempt is useless.
        Permanent = 12 "permanent",
        /// Failed: the retry policy allows no further attempt.
        Exhausted = 13 "exhausted",
        /// Failed: the last allowed attempt ran into its time limit.
        Timeout = 14 "timeout",
        /// Failed: its dispatchers died too often while it ran.
        Poison = 15 "poison",
        /// Canceled: by request.
        Requested = 16 "requested",
        /// Canceled: an earlier step failed or was canceled.
        Upstream = 17 "upstream",
        /// Canceled: a newer task with the same unique key took its place.
        Replaced = 18 "replaced",
        /// Canceled: a newer task with the same debounce key took its place.
        Debounced = 19 "debounced",
        /// Canceled: its queue was purged.
        Purged = 20 "purged",
        /// Canceled: its queue was full and drops the oldest.
        Dropped = 21 "dropped",
        /// Canceled: the next firing of its schedule took its place.
        Overlap = 22 "overlap",
    }
}

impl State {
    /// No attempt starts any more, except after a manual retry, which makes a new generation.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled | Self::Expired)
    }

    /// Not running and not final.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Blocked | Self::Scheduled | Self::Queued | Self::Retrying)
    }
}
