//! How many starts a rate allows, for stores that judge it in their own process: `governor` decides.
//!
//! All that is kept of a key is its theoretical arrival time. A quota of `governor` never changes, so the limiter is made of the
//! rule in force for each judgement: that costs a few multiplications. Its clock is set by hand: a start that is not due yet is
//! judged at the instant at which it is, so that it can be reserved a little ahead. The answers are those of
//! `lovage_core::gcra`, which the scripts of Redis follow.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use lovage_core::gcra::{Lot, span};
use lovage_core::units::Rate;

use crate::TokenWish;

/// A burst takes no longer to come back than this, some 73 years: sums of times stay far from the end of the numbers.
const LONGEST: u64 = 1 << 61;

/// The arrival time as `governor` sees it: nanoseconds, 0 for none.
struct Tat(Cell<u64>);

impl StateStore for Tat {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let was = self.0.get();
        let (answer, next) = judge((was != 0).then(|| was.into()))?;
        self.0.set(next.as_u64());
        Ok(answer)
    }
}

/// The instant of judgement. It is 0 while a limiter is made, so that all its times are absolute.
#[derive(Default)]
struct At(Cell<u64>);

impl Clock for At {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.get().into()
    }
}

/// The time between two starts in nanoseconds, rounded up: rounding never raises a rate.
fn interval(rate: Rate) -> u64 {
    (rate.per().secs() * 1_000_000_000).div_ceil(u64::from(rate.count()))
}

/// As much of a burst as is counted.
pub(crate) fn allowed_burst(rate: Rate, burst: u32) -> u32 {
    u64::from(burst).min(LONGEST / interval(rate)).max(1) as u32
}

/// A limiter under one rule.
struct Judge {
    limiter: RateLimiter<NotKeyed, Tat, At, NoOpMiddleware<Nanos>>,
    now: u64,
    /// The latest instant at which a start may be due.
    end: u64,
}

impl Judge {
    /// Takes `count` starts, all or none; if none, the instant at which they could be had.
    fn take(&self, count: NonZeroU32) -> Result<(), Option<u64>> {
        let mut instant = self.now;
        loop {
            self.limiter.clock().0.set(instant);
            match self.limiter.check_n(count) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(refused)) => {
                    let earliest = refused.earliest_possible().as_u64();
                    if earliest > self.end || earliest <= instant {
                        return Err(Some(earliest));
                    }
                    instant = earliest;
                }
                Err(_) => return Err(None),
            }
        }
    }
}

/// Reserves starts as wished. `tat` is in nanoseconds, `now` and the answer in microseconds: the lot, and when to come again.
pub(super) fn reserve(tat: &mut u64, now: u64, rate: Rate, burst: u32, wish: &TokenWish) -> (Option<Lot>, Option<u64>) {
    let interval = interval(rate);
    let burst = allowed_burst(rate, burst);
    let allowed = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    let Some(quota) = Quota::with_period(Duration::from_nanos(interval)) else { return (None, None) };
    let ahead = wish.ahead.as_micros() as u64 * 1_000;
    let nanos = now * 1_000;
    let judge = Judge {
        limiter: RateLimiter::new(quota.allow_burst(allowed), Tat(Cell::new(*tat)), At::default()),
        now: nanos,
        end: nanos + ahead,
    };
    let base = (*tat).max(nanos).div_ceil(1_000);
    let least = NonZeroU32::new(wish.least).unwrap_or(NonZeroU32::MIN);
    let mut count = 0;
    let mut again = None;
    if least.get() <= wish.most {
        match judge.take(least) {
            Ok(()) => count = least.get(),
            // More than the burst: asked again only once the rule may have changed.
            Err(None) => again = Some(base + span(rate, least.get()) - span(rate, allowed.get())),
            Err(Some(_)) => {}
        }
    }
    let mut step = if count == 0 { 0 } else { (wish.most - count).min(allowed.get()) };
    while let Some(more) = NonZeroU32::new(step.min(wish.most - count)) {
        match judge.take(more) {
            Ok(()) => count += more.get(),
            Err(_) => step = more.get() / 2,
        }
    }
    if count < wish.most && again.is_none() {
        // What was refused just now changes nothing when it is asked for once more.
        again = judge.take(least).err().flatten().map(|earliest| earliest.saturating_sub(ahead).div_ceil(1_000).max(now));
    }
    *tat = judge.limiter.into_state_store().0.get();
    ((count > 0).then_some(Lot { count, base, rate, burst }), again)
}

/// Takes starts back that were reserved last; `tat` is in nanoseconds.
pub(super) fn give_back(tat: &mut u64, count: u32, rate: Rate) {
    *tat = tat.saturating_sub(u64::from(count).saturating_mul(interval(rate)));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lovage_core::gcra;
    use lovage_core::units::Period;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever is asked of whatever state: the same starts at the same instants as by the book, within rounding.
        #[test]
        fn governor_agrees_with_the_book(
            count in 1u32..5_000,
            per in 0usize..3,
            burst in 1u32..60,
            tat in 0u64..4_000_000,
            ahead in 0u64..300_000,
            least in 1u32..60,
            more in 0u32..200,
        ) {
            let rate = Rate::new(count, Period::ALL[per]).unwrap();
            let now = 1_767_225_600_000_000;
            let tat = now + tat - 2_000_000;
            let least = least.min(burst);
            let expected = gcra::reserve(tat, now, ahead, rate, burst, least, least + more);
            let mut nanos = tat * 1_000;
            let wish = TokenWish { least, most: least + more, ahead: Duration::from_micros(ahead) };
            let (lot, again) = reserve(&mut nanos, now, rate, burst, &wish);
            let got = lot.map_or(0, |lot| lot.count);
            // An interval that is no whole number of nanoseconds is rounded up: at the very edge one start is missed.
            prop_assert!(expected.lot.count.abs_diff(got) <= 1, "{got} of {}", expected.lot.count);
            if let Some(lot) = lot {
                prop_assert_eq!(lot.base, expected.lot.base);
                for n in [0, got - 1] {
                    prop_assert!(lot.due(n).max(now) <= now + ahead + 2, "{} µs late", lot.due(n) - now - ahead);
                }
                let even = lot.base + span(rate, got);
                prop_assert!(nanos.div_ceil(1_000).abs_diff(even) <= 2, "{nanos} and {even}");
            } else {
                prop_assert_eq!(nanos, tat * 1_000);
            }
            if expected.lot.count == 0 && got == 0 {
                prop_assert!(again.unwrap().abs_diff(expected.retry_at) <= 2);
            }
            prop_assert_eq!(again.is_none(), got == least + more);
        }

        /// What is given back can be taken again, at the same instants.
        #[test]
        fn what_is_given_back_is_there_again(count in 1u32..5_000, burst in 1u32..60, taken in 1u32..60, back in 1u32..60) {
            let rate = Rate::new(count, Period::Second).unwrap();
            let (taken, now, mut tat) = (taken.min(burst), 1_767_225_600_000_000, 0);
            let back = back.min(taken);
            let wish = |n| TokenWish { least: n, most: n, ahead: Duration::ZERO };
            let (first, _) = reserve(&mut tat, now, rate, burst, &wish(taken));
            let full = tat;
            give_back(&mut tat, back, rate);
            let (again, _) = reserve(&mut tat, now, rate, burst, &wish(back));
            prop_assert_eq!((again.unwrap().count, tat), (back, full));
            prop_assert!(again.unwrap().due(0).abs_diff(first.unwrap().due(taken - back)) <= 2);
        }
    }

    #[test]
    fn the_longest_rule_does_not_overflow() {
        let rate = Rate::new(1, Period::Hour).unwrap();
        let (mut tat, now) = (0, 1_767_225_600_000_000);
        let wish = TokenWish { least: 1, most: u32::MAX, ahead: Duration::ZERO };
        let (lot, again) = reserve(&mut tat, now, rate, u32::MAX, &wish);
        assert!(lot.unwrap().count > 600_000);
        assert!(again.unwrap() > now);
    }
}
