//! Keys by which tasks know of each other: one task at a time (`unique`), only the last of a burst (`debounce`), several
//! in one delivery (`batch`). See API: Tasks.
//!
//! A store keeps who holds a key; whether that still counts is judged here, from the holder's head, when somebody asks.

use serde::{Deserialize, Serialize};

use crate::head::Head;
use crate::state::State;
use crate::time::Millis;
use crate::units::Dur;

/// How long tasks wait for company in a batch, when nothing is said.
pub const DEFAULT_BATCH_WAIT: Dur = Dur::from_millis(50);
/// The most tasks of one delivery.
pub const MAX_BATCH: u16 = 1_000;

/// How long a unique key is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UniqueScope {
    /// Until the first attempt starts.
    Queued,
    /// Until the task is final.
    #[default]
    Active,
    /// For a time from submit on, also beyond the end.
    Ttl,
}

impl UniqueScope {
    /// As a byte of the stored format.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Queued => b'q',
            Self::Active => b'a',
            Self::Ttl => b't',
        }
    }

    /// Reads a byte of the stored format; one that this version does not know holds until the task is final.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            b'q' => Self::Queued,
            b't' => Self::Ttl,
            _ => Self::Active,
        }
    }
}

/// What happens to a submit whose unique key is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// The task that holds it is the answer.
    #[default]
    Return,
    /// It is refused.
    Reject,
    /// The holder is canceled and the new task takes its place.
    Replace,
}

/// At most one task at a time holds this key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// Unique per namespace.
    pub key: String,
    /// How long it is held.
    #[serde(default)]
    pub scope: UniqueScope,
    /// With [`UniqueScope::Ttl`]: for how long, from submit on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Dur>,
    /// What happens to the next one.
    #[serde(default)]
    pub on_conflict: OnConflict,
}

/// Of the tasks submitted with this key in a row, only the last runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debounce {
    /// Unique per namespace.
    pub key: String,
    /// How long after the last one it runs.
    pub wait: Dur,
    /// How long after the first one it runs at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_wait: Option<Dur>,
}

impl Unique {
    /// When a key that is held for a time is free, for a task submitted at `created`.
    pub fn until(&self, created: Millis) -> Option<Millis> {
        self.ttl.filter(|_| self.scope == UniqueScope::Ttl).map(|ttl| created.after(ttl.get()))
    }
}

impl Debounce {
    /// When the task runs that was the last of its burst at `now`; `first` is when the first of them came.
    pub fn due(&self, first: Millis, now: Millis) -> Millis {
        let due = now.after(self.wait.get());
        self.max_wait.map_or(due, |max_wait| due.min(first.after(max_wait.get())))
    }
}

/// Tasks of one lane with the same values here may be delivered together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Batching {
    /// Tasks with different keys are not mixed.
    pub key: String,
    /// The most in one delivery.
    pub max: u16,
    /// How long the first waits for others.
    pub max_wait: Dur,
}

/// A key that is given up together with the record of its task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldKey {
    /// The key of [`Unique`].
    Unique(String),
    /// The key of [`Debounce`].
    Debounce(String),
}

/// Whether the task that took a unique key still holds it. `head` is the holder's, `None` if its record is gone; `until` is
/// when the key ends by itself. A run that did not succeed never holds.
pub fn unique_holds(scope: UniqueScope, until: Millis, head: Option<&Head>, now: Millis) -> bool {
    let Some(head) = head else { return scope == UniqueScope::Ttl && now < until };
    if matches!(head.state, State::Failed | State::Canceled | State::Expired) {
        return false;
    }
    match scope {
        UniqueScope::Queued => head.state.is_waiting() && head.started.0 == 0,
        UniqueScope::Active => !head.state.is_final(),
        UniqueScope::Ttl => now < until,
    }
}

/// Whether the task that took a debounce key still waits for others of its burst, so that a newer one takes its place. One
/// whose wait is over will run, however long it waits for a worker: else a steady stream could keep all of them from running.
pub fn is_debouncing(head: &Head, now: Millis) -> bool {
    head.state == State::Scheduled && head.due > now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::any_head;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_run_that_did_not_succeed_never_holds(head in any_head(), until in 0u64..100, now in 0u64..100) {
            let holds = |scope| unique_holds(scope, Millis(until), Some(&head), Millis(now));
            match head.state {
                State::Failed | State::Canceled | State::Expired => {
                    prop_assert!(!holds(UniqueScope::Queued) && !holds(UniqueScope::Active) && !holds(UniqueScope::Ttl));
                }
                State::Succeeded => {
                    prop_assert!(!holds(UniqueScope::Queued) && !holds(UniqueScope::Active));
                    prop_assert_eq!(holds(UniqueScope::Ttl), now < until);
                }
                State::Running => prop_assert!(!holds(UniqueScope::Queued) && holds(UniqueScope::Active)),
                State::Blocked | State::Scheduled | State::Queued | State::Retrying => {
                    prop_assert!(holds(UniqueScope::Active));
                    prop_assert_eq!(holds(UniqueScope::Queued), head.started.0 == 0);
                }
            }
        }
    }

    #[test]
    fn a_burst_is_bounded_from_its_first() {
        let debounce = |max_wait| Debounce { key: "k".into(), wait: Dur::from_secs(2), max_wait };
        assert_eq!(debounce(None).due(Millis(1_000), Millis(60_000)), Millis(62_000));
        let bounded = debounce(Some(Dur::from_secs(5)));
        assert_eq!(bounded.due(Millis(1_000), Millis(1_000)), Millis(3_000));
        assert_eq!(bounded.due(Millis(1_000), Millis(5_000)), Millis(6_000));
    }

    #[test]
    fn scopes_are_read_as_they_were_written() {
        for scope in [UniqueScope::Queued, UniqueScope::Active, UniqueScope::Ttl] {
            assert_eq!(UniqueScope::from_byte(scope.to_byte()), scope);
        }
    }

    #[test]
    fn of_a_record_that_is_gone_only_the_time_counts() {
        let holds = |scope, now| unique_holds(scope, Millis(5), None, Millis(now));
        assert!(holds(UniqueScope::Ttl, 4) && !holds(UniqueScope::Ttl, 5));
        assert!(!holds(UniqueScope::Active, 4) && !holds(UniqueScope::Queued, 4));
    }
}
