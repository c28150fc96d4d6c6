//! Starts of a rate that this process has reserved, each to be made at its own instant or not at all.
//!
//! The instants are those of the clock that judged them, taken over from the moment the answer came: later than they were meant
//! by the time of the answer's way, never earlier. A start that is not made soon after it was due is given up: many that are late
//! would come together.

use std::collections::VecDeque;
use std::time::Duration;

use lovage_core::gcra::Lot;
use tokio::time::Instant;

/// How late a start may be made.
pub(super) const LATE: Duration = Duration::from_millis(25);

#[derive(Debug)]
struct Held {
    lot: Lot,
    /// So many of them are made or given up.
    taken: u32,
    /// When the answer came, here and by the clock that judged.
    came: (Instant, u64),
}

impl Held {
    fn judged_at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.came.0).as_micros();
        self.came.1.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    fn ripe(&self, now: Instant) -> u32 {
        self.lot.ripe(self.judged_at(now)).saturating_sub(self.taken)
    }

    fn instant(&self, number: u32) -> Instant {
        self.came.0 + Duration::from_micros(self.lot.due(number).saturating_sub(self.came.1))
    }

    fn left(&self) -> u32 {
        self.lot.count - self.taken
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Starts(VecDeque<Held>);

impl Starts {
    /// What an answer brought that came `now`, when the clock that judges showed `judged`.
    pub(super) fn add(&mut self, lot: Lot, now: Instant, judged: u64) {
        if lot.count > 0 {
            self.0.push_back(Held { lot, taken: 0, came: (now, judged) });
        }
    }

    /// How many there are, due or not.
    pub(super) fn left(&self) -> u32 {
        self.0.iter().map(Held::left).sum()
    }

    /// How many may be made now.
    pub(super) fn ripe(&self, now: Instant) -> u32 {
        self.0.iter().map(|held| held.ripe(now)).sum()
    }

    /// Makes so many of those that may be made now.
    pub(super) fn take(&mut self, count: u32, now: Instant) {
        self.use_up(count, |held| held.ripe(now));
    }

    fn use_up(&mut self, mut count: u32, of: impl Fn(&Held) -> u32) {
        for held in &mut self.0 {
            let used = of(held).min(count);
            held.taken += used;
            count -= used;
        }
        self.0.retain(|held| held.left() > 0);
    }

    /// Gives up those that have been due for too long, but `keep` of them; answers how many.
    pub(super) fn drop_late(&mut self, now: Instant, keep: u32) -> u32 {
        let late = |held: &Held| now.checked_sub(LATE).filter(|then| held.came.0 <= *then).map_or(0, |then| held.ripe(then));
        let all: u32 = self.0.iter().map(late).sum();
        // Those that are ripe by now, late or not, are as good as each other.
        let count = all.saturating_sub(keep.saturating_sub(self.ripe(now) - all));
        self.use_up(count, late);
        count
    }

    /// When one more of them may be made, or is late if some may be made now.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let next = |held: &Held| {
            let ripe = held.ripe(now);
            let unripe = (ripe < held.left()).then(|| held.instant(held.taken + ripe));
            let late = (ripe > 0).then(|| held.instant(held.taken).max(held.came.0) + LATE);
            // One is late a moment after the instant.
            unripe.into_iter().chain(late.map(|late| late + Duration::from_millis(1))).min()
        };
        self.0.iter().filter_map(next).min()
    }

    /// When the last of them is due.
    pub(super) fn last(&self) -> Option<Instant> {
        self.0.back().map(|held| held.instant(held.lot.count - 1))
    }

    /// Gives up all; answers how many.
    pub(super) fn clear(&mut self) -> u32 {
        let left = self.left();
        self.0.clear();
        left
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lovage_core::gcra::reserve;
    use lovage_core::units::{Period, Rate};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn starts_are_made_when_they_are_due_and_soon_or_never() {
        let ms = Duration::from_millis;
        let rate = Rate::new(100, Period::Second).unwrap();
        let now = Instant::now();
        let mut starts = Starts::default();
        // Two at once, then one every 10 ms.
        starts.add(reserve(0, 5_000_000, 50_000, rate, 2, 1, 100).lot, now, 5_000_000);
        assert_eq!((starts.left(), starts.ripe(now), starts.next(now)), (7, 2, Some(now + ms(10))));
        starts.take(2, now);
        assert_eq!((starts.left(), starts.ripe(now)), (5, 0));
        assert_eq!((starts.ripe(now + ms(9)), starts.ripe(now + ms(10)), starts.ripe(now + ms(60))), (0, 1, 5));
        assert_eq!(starts.last(), Some(now + ms(50)));
        assert_eq!(starts.drop_late(now + ms(35), 0), 1);
        assert_eq!((starts.left(), starts.ripe(now + ms(35))), (4, 2));
        // Whoever waits gets one, however late it is.
        assert_eq!(starts.drop_late(now + ms(200), 1), 3);
        assert_eq!((starts.left(), starts.drop_late(now + ms(200), 0), starts.left()), (1, 1, 0));
    }
}
