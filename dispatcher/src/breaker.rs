//! The breaker of a worker: after faults of its endpoint in a row it is left alone for a while, then one attempt is tried.

use std::time::Duration;

use lovage_core::Millis;
use lovage_core::worker::Breaker as Settings;

/// The longest pause is so many times the first.
const MOST_DOUBLINGS: u32 = 3;

/// What the breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Everything.
    Free,
    /// This attempt alone, which decides what follows.
    Trial,
    /// Nothing until the trial has ended.
    TrialOut,
    /// Nothing until then.
    Until(Millis),
}

/// Faults in a row and what follows from them.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Faults in a row.
    faults: u32,
    /// Open until then; zero: closed.
    until: Millis,
    /// Trials that failed since it opened.
    failed: u32,
    trial: bool,
}

impl Breaker {
    /// What may start now. A trial that is let through is out until [`Breaker::trial_ended`].
    pub fn way(&mut self, now: Millis) -> Way {
        if self.until.0 == 0 {
            Way::Free
        } else if self.until > now {
            Way::Until(self.until)
        } else if self.trial {
            Way::TrialOut
        } else {
            self.trial = true;
            Way::Trial
        }
    }

    /// The trial is over, whatever came of it.
    pub fn trial_ended(&mut self) {
        self.trial = false;
    }

    /// The endpoint failed. Answers for how long the breaker opens because of it.
    pub fn fault(&mut self, now: Millis, settings: Settings) -> Option<Duration> {
        if self.until > now {
            // An attempt from before it opened: that is told already.
            return None;
        }
        self.faults = self.faults.saturating_add(1);
        let was_open = self.until.0 != 0;
        if !was_open && self.faults < settings.failures {
            return None;
        }
        self.failed = if was_open { (self.failed + 1).min(MOST_DOUBLINGS) } else { 0 };
        let pause = settings.open_for.get().saturating_mul(1 << self.failed);
        self.until = now.after(pause);
        Some(pause)
    }

    /// The endpoint answered. Whether the breaker was open.
    pub fn works(&mut self) -> bool {
        let trial = self.trial;
        let was = std::mem::take(self);
        self.trial = trial;
        was.until.0 != 0
    }

    /// Whether it is as a new one.
    pub fn is_calm(&self) -> bool {
        self.until.0 == 0 && self.faults == 0
    }

    /// Until when it is open.
    pub fn until(&self) -> Millis {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER_TWO: Settings = Settings { failures: 2, open_for: lovage_core::units::Dur::from_secs(10) };
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_opens_after_faults_in_a_row_and_tries_one_at_a_time() {
        let mut breaker = Breaker::default();
        let mut now = Millis(1_000);
        assert_eq!(breaker.fault(now, AFTER_TWO), None);
        assert!(!breaker.works());
        assert_eq!((breaker.fault(now, AFTER_TWO), breaker.way(now)), (None, Way::Free));
        assert_eq!(breaker.fault(now, AFTER_TWO), Some(10 * SECOND));
        assert_eq!(breaker.fault(now, AFTER_TWO), None, "an attempt from before");
        for pause in [20, 40, 80, 80] {
            let until = breaker.until();
            assert_eq!(breaker.way(now), Way::Until(until));
            now = until;
            assert_eq!((breaker.way(now), breaker.way(now)), (Way::Trial, Way::TrialOut));
            assert_eq!(breaker.fault(now, AFTER_TWO), Some(pause * SECOND));
            breaker.trial_ended();
        }
        now = breaker.until();
        assert_eq!(breaker.way(now), Way::Trial);
        // It came to nothing, as when it was canceled.
        breaker.trial_ended();
        assert_eq!(breaker.way(now), Way::Trial);
        assert!(breaker.works());
        assert_eq!((breaker.way(now), breaker.fault(now, AFTER_TWO)), (Way::Free, None));
    }
}
