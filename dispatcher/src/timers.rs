//! The owner's view of what comes due: nothing is polled. Only the near future is held; the rest stays in the store.

use std::collections::BTreeSet;
use std::time::Duration;

use lovage_core::{Millis, TaskKey};

/// How far ahead timers are held in memory.
const AHEAD: Duration = Duration::from_secs(60);
/// Timers read from the store at once.
pub const PAGE: usize = 2_000;

/// Timers up to a horizon.
#[derive(Debug, Default)]
pub struct Timers {
    due: BTreeSet<(Millis, TaskKey)>,
    /// Every timer at or before this is in `due`, apart from those being handled.
    horizon: Millis,
    /// Set while a page is being read: what the feed brought meanwhile.
    aside: Option<Vec<(Millis, TaskKey)>>,
    /// Rises when everything is forgotten: a page that was asked for before is of no use afterwards.
    life: u64,
}

impl Timers {
    /// Forgets everything; the next [`Timers::read_on`] starts anew.
    pub fn clear(&mut self) {
        *self = Self { life: self.life + 1, ..Self::default() };
    }

    /// What [`Timers::loaded`] has to be given with a page that is asked for now.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// A task has to be looked at then.
    pub fn add(&mut self, at: Millis, key: &TaskKey) {
        if let Some(aside) = &mut self.aside {
            aside.push((at, key.clone()));
        }
        if at <= self.horizon {
            self.due.insert((at, key.clone()));
        }
    }

    /// Takes what is due, at most `most`.
    pub fn take(&mut self, now: Millis, most: usize) -> Vec<TaskKey> {
        let mut out = Vec::new();
        while out.len() < most {
            match self.due.first() {
                Some((at, _)) if *at <= now => out.extend(self.due.pop_first().map(|(_, key)| key)),
                _ => break,
            }
        }
        out
    }

    /// When to look again: the next timer, or the time to read further ahead, if that is possible (`may_read`).
    pub fn next(&self, may_read: bool) -> Option<Millis> {
        let first = self.due.first().map(|(at, _)| *at);
        if self.aside.is_some() || !may_read || self.is_full() {
            return first;
        }
        let then = Millis(self.horizon.0.saturating_sub(AHEAD.as_millis() as u64 / 2));
        Some(first.map_or(then, |first| first.min(then)))
    }

    /// The time up to which timers are to be read now, if it is time to; then call [`Timers::loaded`].
    pub fn read_on(&mut self, now: Millis) -> Option<Millis> {
        let low = now.after(AHEAD / 2) >= self.horizon && !self.is_full();
        if self.aside.is_some() || !low {
            return None;
        }
        self.aside = Some(Vec::new());
        Some(now.after(AHEAD))
    }

    /// So many are held that the rest can wait until some of them have been handled.
    fn is_full(&self) -> bool {
        self.due.len() >= PAGE / 4
    }

    /// The earliest timers up to `until`, asked for in this `life`; `more`: there were further ones. `None`: they could not
    /// be read.
    pub fn loaded(&mut self, life: u64, until: Millis, page: Option<(Vec<(Millis, TaskKey)>, bool)>) {
        if life != self.life {
            return;
        }
        let aside = self.aside.take().unwrap_or_default();
        let Some((timers, more)) = page else { return };
        // A full page may have cut a millisecond in two: its rest is read again.
        self.horizon = if more { timers.last().map_or(until, |(at, _)| Millis(at.0.saturating_sub(1))) } else { until };
        self.due.extend(timers);
        for (at, key) in aside {
            self.add(at, &key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lovage_core::{Ns, TaskId};

    use super::*;

    fn key(name: &str) -> TaskKey {
        TaskKey::new(Ns(0), TaskId::parse(name).unwrap())
    }

    #[test]
    fn holds_the_near_future_and_reads_the_rest_in_time() {
        let mut timers = Timers::default();
        let now = Millis(1_000_000);
        let until = timers.read_on(now).unwrap();
        assert_eq!(timers.read_on(now), None, "one page at a time");
        timers.add(Millis(now.0 + 5), &key("during"));
        timers.loaded(0, until, Some((vec![(Millis(now.0 + 10), key("stored"))], false)));
        timers.add(Millis(until.0 + 1), &key("far"));
        assert_eq!(timers.take(now, 10), []);
        assert_eq!(timers.next(true), Some(Millis(now.0 + 5)));
        assert_eq!(timers.take(Millis(now.0 + 20), 10), [key("during"), key("stored")]);
        let later = timers.next(true).unwrap();
        assert!(later > now && later < until);
        assert_eq!(timers.read_on(later), Some(later.after(AHEAD)));
    }

    #[test]
    fn a_full_page_sets_the_horizon_back() {
        let mut timers = Timers::default();
        let now = Millis(1_000_000);
        let until = timers.read_on(now).unwrap();
        timers.loaded(0, until, Some((vec![(Millis(now.0 + 1), key("a"))], true)));
        timers.add(Millis(now.0 + 2), &key("b"));
        assert_eq!(timers.take(until, 10), [key("a")], "b is behind the horizon and will be read");
        assert!(timers.read_on(now).is_some());
    }

    #[test]
    fn a_full_view_waits_for_its_first_timer_and_not_for_the_horizon() {
        let mut timers = Timers::default();
        let now = Millis(1_000_000);
        let until = timers.read_on(now).unwrap();
        let first = Millis(now.0 + 5_000);
        timers.loaded(0, until, Some(((0..PAGE).map(|i| (first, key(&format!("t{i}")))).collect(), true)));
        assert_eq!((timers.read_on(now), timers.next(true)), (None, Some(first)));
    }

    #[test]
    fn a_page_that_failed_is_asked_for_again() {
        let mut timers = Timers::default();
        let until = timers.read_on(Millis(5)).unwrap();
        timers.loaded(0, until, None);
        assert!(timers.read_on(Millis(5)).is_some());
    }
}
