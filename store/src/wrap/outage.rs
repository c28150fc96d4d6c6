//! Tells of a store that stays away without flooding the log: each of many callers tries again a few times a second.
//!
//! The first failure is a line, then there is at most one every ten seconds, which says how many it stands for, and one
//! when it is over. Over means that calls succeed and none has failed for a while: a full store goes on answering reads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Verb;
use crate::Error;

/// Between two lines about the same outage.
const EVERY: Duration = Duration::from_secs(10);
/// Without a failure for this long, a success ends the outage.
const QUIET: Duration = Duration::from_secs(1);

/// What is known of the present outage, if there is one.
#[derive(Default)]
pub(super) struct Outage {
    /// Looked at by every call that succeeds.
    lasts: AtomicBool,
    state: Mutex<Option<State>>,
}

struct State {
    since: Instant,
    failed: Instant,
    told: Instant,
    /// Failures since the last line.
    left_out: u64,
    failures: u64,
}

/// A line to be written.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    First,
    More { left_out: u64 },
    Over { lasted: Duration, failures: u64 },
}

impl Outage {
    /// A call failed in a way that may pass.
    pub(super) fn failed(&self, verb: Verb, error: &Error) {
        let verb = verb.as_str();
        match self.note_failure(Instant::now()) {
            Some(Line::More { left_out }) => tracing::warn!(verb, %error, left_out, "the store still fails"),
            Some(_) => tracing::warn!(verb, %error, "the store fails; while it does, a line every 10 s says so"),
            None => {}
        }
    }

    /// A call was carried out.
    pub(super) fn worked(&self) {
        if !self.lasts.load(Ordering::Relaxed) {
            return;
        }
        if let Some(Line::Over { lasted, failures }) = self.note_success(Instant::now()) {
            tracing::info!(lasted_s = lasted.as_secs_f64(), failures, "the store works again");
        }
    }

    fn note_failure(&self, now: Instant) -> Option<Line> {
        let mut state = self.state.lock();
        let Some(outage) = &mut *state else {
            *state = Some(State { since: now, failed: now, told: now, left_out: 0, failures: 1 });
            self.lasts.store(true, Ordering::Relaxed);
            return Some(Line::First);
        };
        outage.failed = now;
        outage.failures += 1;
        if now.saturating_duration_since(outage.told) < EVERY {
            outage.left_out += 1;
            return None;
        }
        outage.told = now;
        Some(Line::More { left_out: std::mem::take(&mut outage.left_out) })
    }

    fn note_success(&self, now: Instant) -> Option<Line> {
        let mut state = self.state.lock();
        let outage = state.take_if(|outage| now.saturating_duration_since(outage.failed) >= QUIET)?;
        self.lasts.store(false, Ordering::Relaxed);
        Some(Line::Over { lasted: outage.failed - outage.since, failures: outage.failures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_at_the_start_one_every_ten_seconds_and_one_at_the_end() {
        let (outage, start) = (Outage::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(outage.note_success(at(0)), None);
        assert_eq!(outage.note_failure(at(0)), Some(Line::First));
        let lines: Vec<Line> = (1..=250).filter_map(|n| outage.note_failure(at(n * 100))).collect();
        assert_eq!(lines, [Line::More { left_out: 99 }, Line::More { left_out: 99 }]);
        // A success in between is not the end: other calls still fail.
        assert_eq!(outage.note_success(at(25_500)), None);
        assert_eq!(outage.note_failure(at(25_600)), None);
        let over = Line::Over { lasted: Duration::from_millis(25_600), failures: 252 };
        assert_eq!(outage.note_success(at(26_600)), Some(over));
        assert_eq!(outage.note_success(at(26_700)), None);
        assert_eq!(outage.note_failure(at(26_800)), Some(Line::First));
    }
}
