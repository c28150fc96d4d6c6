//! The generic cell rate algorithm: how many starts a rate allows, and when each of them is.
//!
//! All that is kept of a limit is its *theoretical arrival time* (TAT): when the next start is due if starts come evenly. A
//! start moves it on by one interval; at most `burst` starts may be taken before their even time. Starts can be reserved a
//! little ahead of their time, so that a caller who wakes up late loses nothing: each has its own instant, and whoever
//! starts nothing before that instant keeps `starts ≤ rate × window + burst` in every window, whatever the pattern of asking.
//!
//! Times are microseconds of the clock that judges the limit. Intervals are rounded up, so rounding never raises a rate.

use crate::units::Rate;

/// Starts that were reserved together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lot {
    /// How many.
    pub count: u32,
    /// The TAT that they were counted from: the one before, or the time of asking if that was later.
    pub base: u64,
    /// What rules them.
    pub rate: Rate,
    /// How many may start before their even time.
    pub burst: u32,
}

/// What became of a wish for starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// What was reserved; its count may be 0.
    pub lot: Lot,
    /// The TAT from now on.
    pub tat: u64,
    /// When as many as are needed at least can be reserved; the time of asking, if that is now.
    pub retry_at: u64,
}

/// How long `count` starts take at this rate: microseconds, rounded up.
pub fn span(rate: Rate, count: u32) -> u64 {
    let micros = u128::from(count) * u128::from(rate.per().secs()) * 1_000_000;
    u64::try_from(micros.div_ceil(u128::from(rate.count()))).unwrap_or(u64::MAX)
}

/// Starts are reserved so long before they are due, or less, unless a wish says more: microseconds.
pub const MOST_AHEAD: u64 = 1_000_000;

/// The TAT under a rule that may have changed. No rule moves it further on than this by itself, so what is beyond is left of a
/// slower one, and nobody has to wait for that any more.
pub fn under(tat: u64, now: u64, rate: Rate, burst: u32) -> u64 {
    tat.min(now.saturating_add(MOST_AHEAD).saturating_add(span(rate, burst)))
}

/// Reserves up to `most` starts that are due `ahead` from now at the latest, or none if they are fewer than `least`.
/// `least` is at most `burst`, else it can never be met.
pub fn reserve(tat: u64, now: u64, ahead: u64, rate: Rate, burst: u32, least: u32, most: u32) -> Reserved {
    let base = tat.max(now);
    // The start with number n (from 1) is due at base + span(n) - span(burst).
    let room = now.saturating_add(ahead).saturating_add(span(rate, burst)).saturating_sub(base);
    let fits = u128::from(room) * u128::from(rate.count()) / (u128::from(rate.per().secs()) * 1_000_000);
    let count = u32::try_from(fits).unwrap_or(u32::MAX).min(most);
    let lot = |count| Lot { count, base, rate, burst };
    if count < least.max(1) {
        let due = base.saturating_add(span(rate, least.max(1))).saturating_sub(span(rate, burst)).saturating_sub(ahead);
        return Reserved { lot: lot(0), tat, retry_at: due.max(now) };
    }
    Reserved { lot: lot(count), tat: base.saturating_add(span(rate, count)), retry_at: now }
}

impl Lot {
    /// When the start with this number, from 0, may be made.
    pub fn due(&self, number: u32) -> u64 {
        let even = self.base.saturating_add(span(self.rate, number.saturating_add(1)));
        even.saturating_sub(span(self.rate, self.burst))
    }

    /// How many of them are due by `now`.
    pub fn ripe(&self, now: u64) -> u32 {
        let room = now.saturating_add(span(self.rate, self.burst)).saturating_sub(self.base);
        let fits = u128::from(room) * u128::from(self.rate.count()) / (u128::from(self.rate.per().secs()) * 1_000_000);
        u32::try_from(fits).unwrap_or(u32::MAX).min(self.count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::units::Period;

    fn any_rate() -> impl Strategy<Value = Rate> {
        (1u32..5_000, 0usize..3).prop_map(|(count, per)| Rate::new(count, Period::ALL[per]).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Whatever the pattern of asking: in no window are there more starts than rate × window + burst.
        #[test]
        fn never_above_rate_and_burst(
            rate in any_rate(),
            burst in 1u32..50,
            asked in prop::collection::vec((0u64..3_000_000, 0u64..60_000, 1u32..60), 1..60),
        ) {
            let (mut now, mut tat, mut starts) = (1_000_000_000u64, 0u64, Vec::new());
            for (wait, ahead, most) in asked {
                now += wait;
                let reserved = reserve(tat, now, ahead, rate, burst, 1, most);
                prop_assert!(reserved.tat >= tat);
                tat = reserved.tat;
                for n in 0..reserved.lot.count {
                    let due = reserved.lot.due(n).max(now);
                    prop_assert!(due <= now + ahead);
                    starts.push(due);
                }
            }
            starts.sort_unstable();
            for (first, from) in starts.iter().enumerate() {
                for (n, to) in starts[first..].iter().enumerate() {
                    // A window that holds both ends is as long as from one to the other.
                    let allowed = u128::from(to - from) * u128::from(rate.count()) / (u128::from(rate.per().secs()) * 1_000_000);
                    prop_assert!((n as u128) < allowed + u128::from(burst) + 1, "{} starts in {} µs", n + 1, to - from);
                }
            }
        }

        /// Whoever always asks again when told to gets the whole rate, even if it is late each time.
        #[test]
        fn the_whole_rate_is_given(rate in any_rate(), late in 0u64..20_000) {
            let (mut now, mut tat, mut got) = (1_000_000_000u64, 0u64, 0u64);
            let start = now;
            for _ in 0..200 {
                let reserved = reserve(tat, now, 50_000, rate, 1, 1, 1_000_000);
                tat = reserved.tat;
                got += u64::from(reserved.lot.count);
                now = reserve(tat, now, 50_000, rate, 1, 1, 1).retry_at.max(now + 1) + late;
            }
            let even = u128::from(now - start) * u128::from(rate.count()) / (u128::from(rate.per().secs()) * 1_000_000);
            prop_assert!(u128::from(got) + 2 + even / 50 >= even, "{got} of {even}");
        }

        #[test]
        fn what_is_told_to_come_again_comes(rate in any_rate(), burst in 1u32..50, tat in 0u64..10_000_000, ahead in 0u64..60_000) {
            let now = 1 << 50;
            let tat = now - 5_000_000 + tat;
            let first = reserve(tat, now, ahead, rate, burst, burst, burst);
            let second = reserve(first.tat, first.retry_at, ahead, rate, burst, burst, burst);
            prop_assert_eq!(first.lot.count + second.lot.count >= burst, true);
            let lot = if first.lot.count > 0 { first.lot } else { second.lot };
            prop_assert_eq!(lot.ripe(lot.due(lot.count - 1)), lot.count);
            prop_assert_eq!(lot.ripe(lot.due(0).saturating_sub(1)), 0);
        }
    }

    proptest! {
        /// Of a rule that stays the same it changes nothing; after a slower one the next start is not far.
        #[test]
        fn a_slower_rule_of_before_is_not_waited_for(
            rate in any_rate(), burst in 1u32..50, before in any_rate(), ahead in 0u64..=MOST_AHEAD, most in 1u32..100,
        ) {
            let now = 1 << 50;
            let same = reserve(0, now, ahead, rate, burst, 1, most).tat;
            prop_assert_eq!(under(same, now, rate, burst), same);
            let slow = reserve(0, now, 0, before, burst, 1, burst).tat;
            let next = reserve(under(slow, now, rate, burst), now, 0, rate, burst, 1, 1).retry_at;
            prop_assert!(next <= now + MOST_AHEAD + span(rate, 1));
        }
    }

    #[test]
    fn a_burst_is_due_at_once_and_the_rest_evenly() {
        let rate = Rate::new(10, Period::Second).unwrap();
        let reserved = reserve(0, 1_000_000, 250_000, rate, 3, 1, 100);
        assert_eq!(reserved.lot.count, 5);
        let due: Vec<u64> = (0..5).map(|n| reserved.lot.due(n).max(1_000_000)).collect();
        assert_eq!(due, [1_000_000, 1_000_000, 1_000_000, 1_100_000, 1_200_000]);
        assert_eq!((reserved.lot.ripe(1_000_000), reserved.lot.ripe(1_199_999), reserved.lot.ripe(9_000_000)), (3, 4, 5));
        assert_eq!(reserve(reserved.tat, 1_000_000, 0, rate, 3, 1, 1).retry_at, 1_300_000);
    }
}
