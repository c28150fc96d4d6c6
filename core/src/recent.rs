//! Counts of the last seconds, cheap enough for every start: one look at the time and one addition.

use std::array::from_fn;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::time::Millis;

/// A count of the last `S` seconds, by seconds. Threads that meet at the turn of a second may lose one or two.
#[derive(Debug)]
pub struct Recent<const S: usize> {
    /// The latest second that something was counted in.
    second: AtomicU64,
    counts: [AtomicU32; S],
}

impl<const S: usize> Default for Recent<S> {
    fn default() -> Self {
        Self { second: AtomicU64::new(0), counts: from_fn(|_| AtomicU32::new(0)) }
    }
}

impl<const S: usize> Recent<S> {
    /// One more.
    pub fn add(&self, now: Millis) {
        let second = now.0 / 1_000;
        self.turn(second);
        self.at(second).fetch_add(1, Ordering::Relaxed);
    }

    /// One less: it did not happen after all.
    pub fn take_back(&self, now: Millis) {
        let less = |count: u32| count.checked_sub(1);
        let _ = self.at(now.0 / 1_000).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// How many in the last `S` seconds, this one included.
    pub fn sum(&self, now: Millis) -> u64 {
        self.turn(now.0 / 1_000);
        self.counts.iter().map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
    }

    /// How many a second in the last one or two, or over all of them if that was more: what came at once counts for a while.
    pub fn rate(&self, now: Millis) -> f64 {
        let (second, part) = (now.0 / 1_000, (now.0 % 1_000) as f64 / 1e3);
        let average = self.sum(now) as f64 / S as f64;
        let of = |second| f64::from(self.at(second).load(Ordering::Relaxed));
        average.max(of(second) + of(second.wrapping_sub(1)) * (1.0 - part))
    }

    fn at(&self, second: u64) -> &AtomicU32 {
        &self.counts[(second % S as u64) as usize]
    }

    /// Empties what was counted longer ago.
    fn turn(&self, second: u64) {
        let was = self.second.load(Ordering::Relaxed);
        if was >= second || self.second.compare_exchange(was, second, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        for old in (was + 1).max(second.saturating_sub(S as u64 - 1))..=second {
            self.at(old).store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_is_not_counted() {
        let recent = Recent::<10>::default();
        let at = |ms: u64| Millis(1_800_000_000_000 + ms);
        assert_eq!((recent.sum(at(0)), recent.rate(at(0))), (0, 0.0));
        for _ in 0..100 {
            recent.add(at(900));
        }
        assert_eq!((recent.rate(at(950)), recent.rate(at(1_500)), recent.rate(at(3_000))), (100.0, 50.0, 10.0));
        recent.add(at(10_999));
        recent.add(at(10_999));
        recent.take_back(at(10_999));
        assert_eq!((recent.sum(at(10_999)), recent.sum(at(19_000)), recent.sum(at(21_000))), (1, 1, 0));
    }
}
