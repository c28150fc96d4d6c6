//! Where a record sits, computed from its head alone. Stores keep these indexes; they never decide them.

use crate::head::{Flags, Head, LaneId};
use crate::lane::Score;
use crate::state::State;
use crate::time::Millis;

/// The index entries of one record: at most four are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Waits (or, when ordered, keeps its place) in this lane at this score.
    pub lane: Option<(LaneId, Score)>,
    /// Somebody has to look at it at this time.
    pub timer: Option<Millis>,
    /// An attempt is open.
    pub running: bool,
    /// Final; the janitor looks at it at this time.
    pub done: Option<Millis>,
    /// Kept for inspection as a dead letter.
    pub dead: bool,
}

/// The index entries of a record with this head.
pub fn placement(head: &Head) -> Placement {
    let ordered = head.flags.has(Flags::ORDERED) && !head.state.is_final();
    let mut place = Placement::default();
    if head.state == State::Queued || ordered {
        place.lane = Some((head.lane, head.score()));
    }
    match head.state {
        State::Blocked => place.timer = set(head.deadline).min_some(set(head.expires)),
        State::Scheduled | State::Retrying => place.timer = Some(head.due).min_some(set(head.expires)),
        State::Queued => place.timer = set(head.expires),
        State::Running => {
            place.running = true;
            // Of an accepted attempt, also while it is canceled.
            place.timer = set(head.deadline);
        }
        State::Succeeded | State::Failed | State::Canceled | State::Expired => {
            place.done = Some(head.due);
            place.dead = head.state == State::Failed;
        }
    }
    place
}

fn set(time: Millis) -> Option<Millis> {
    (time.0 != 0).then_some(time)
}

trait MinSome {
    fn min_some(self, other: Self) -> Self;
}

impl MinSome for Option<Millis> {
    fn min_some(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// How a change moves the counts of tasks by state: one state loses a task, another gains one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountDelta {
    /// The state that loses one; `None` at insert.
    pub from: Option<State>,
    /// The state that gains one; `None` at deletion.
    pub to: Option<State>,
}

/// The count change from one head to the next; `None` if no count moves.
pub fn count_delta(was: Option<&Head>, now: Option<&Head>) -> Option<CountDelta> {
    let delta = CountDelta { from: was.map(|h| h.state), to: now.map(|h| h.state) };
    (delta.from != delta.to).then_some(delta)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::head::tests::any_head;

    proptest! {
        /// Every non-final task is somewhere that somebody looks (invariant I2); a final one is with the janitor only.
        #[test]
        fn nothing_is_placed_nowhere(head in any_head()) {
            let place = placement(&head);
            match head.state {
                State::Blocked => prop_assert!(!place.running),
                State::Queued => prop_assert!(place.lane.is_some()),
                State::Scheduled | State::Retrying => prop_assert!(place.timer.is_some()),
                State::Running => prop_assert!(place.running),
                _ => prop_assert!(place.done.is_some() && place.lane.is_none() && place.timer.is_none() && !place.running),
            }
            let waits = !head.state.is_final() && (head.state == State::Queued || head.flags.has(Flags::ORDERED));
            prop_assert_eq!(place.lane.is_some(), waits);
            prop_assert_eq!(place.dead, head.state == State::Failed);
            prop_assert_eq!(place.done.is_some(), head.state.is_final());
        }

        #[test]
        fn a_timer_is_never_later_than_the_expiry(head in any_head()) {
            let timed = matches!(head.state, State::Scheduled | State::Retrying | State::Queued);
            if timed && head.expires.0 != 0 {
                prop_assert!(placement(&head).timer.is_some_and(|t| t <= head.expires));
            }
        }

        #[test]
        fn counts_balance(was in any_head(), now in any_head()) {
            prop_assert_eq!(count_delta(Some(&was), Some(&now)).is_none(), was.state == now.state);
            prop_assert_eq!(count_delta(None, Some(&now)).and_then(|d| d.to), Some(now.state));
        }
    }
}
