//! When a policy makes its attempts, for people.

use std::time::Duration;

use super::RetryPolicy;

/// The most attempts that a timetable shows.
pub const TIMETABLE_LENGTH: usize = 100;

/// One attempt after the first, if every attempt before it fails as soon as it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its number; the first attempt is 1.
    pub attempt: u32,
    /// The shortest and the longest delay after the failure before.
    pub delay: (Duration, Duration),
    /// The earliest and the latest start, counted from that of the first attempt.
    pub after: (Duration, Duration),
}

impl RetryPolicy {
    /// The attempts that follow the first, at most [`TIMETABLE_LENGTH`]. Those that can only come after `max_age` are not made.
    pub fn timetable(&self) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut after = (Duration::ZERO, Duration::ZERO);
        let most = u16::try_from(TIMETABLE_LENGTH).unwrap_or(u16::MAX);
        for failures in 1..self.max_attempts.min(most.saturating_add(1)) {
            // The two ends of what chance can make of it.
            let delay = (self.delay(failures, 0), self.delay(failures, u64::MAX));
            after = (after.0.saturating_add(delay.0), after.1.saturating_add(delay.1).min(self.max_age.get()));
            if after.0 > self.max_age.get() {
                break;
            }
            slots.push(Slot { attempt: u32::from(failures) + 1, delay, after });
        }
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::{Backoff, Jitter};
    use crate::units::Dur;

    fn seconds(slots: &[Slot]) -> Vec<(u32, u64, u64, u64, u64)> {
        let all = slots.iter();
        all.map(|s| (s.attempt, s.delay.0.as_secs(), s.delay.1.as_secs(), s.after.0.as_secs(), s.after.1.as_secs())).collect()
    }

    #[test]
    fn both_ends_of_chance_are_shown() {
        let policy = RetryPolicy { max_attempts: 4, jitter: Jitter::Equal, min: Dur::from_secs(2), ..RetryPolicy::DEFAULT };
        assert_eq!(seconds(&policy.timetable()), [(2, 1, 2, 1, 2), (3, 2, 4, 3, 6), (4, 4, 8, 7, 14)]);
        assert_eq!(RetryPolicy { max_attempts: 1, ..RetryPolicy::DEFAULT }.timetable(), []);
    }

    #[test]
    fn it_ends_with_the_age_and_is_bounded() {
        let fixed = |max_age| RetryPolicy {
            max_attempts: u16::MAX,
            backoff: Backoff::Fixed,
            jitter: Jitter::None,
            min: Dur::from_secs(10),
            max_age: Dur::from_secs(max_age),
            ..RetryPolicy::DEFAULT
        };
        assert_eq!(seconds(&fixed(25).timetable()), [(2, 10, 10, 10, 10), (3, 10, 10, 20, 20)]);
        assert_eq!(fixed(86_400).timetable().len(), TIMETABLE_LENGTH);
    }
}
