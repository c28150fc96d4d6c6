//! The breaker of a worker or of one of its instances: after faults in a row it is left alone for a while, then one attempt is
//! tried.
//!
//! What counts is when something was sent, not when it came back: an answer to what was sent before the faults began says
//! nothing about now, and of what was sent before the trial no fault says that the trial has failed.

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
    /// When the first of them was sent.
    began: Millis,
    /// When that was sent which closed it last: what was sent before is of the outage that is over.
    worked: Millis,
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

    /// What was sent at `sent` failed. Answers for how long the breaker opens because of it.
    pub fn fault(&mut self, now: Millis, sent: Millis, settings: Settings) -> Option<Duration> {
        if sent < self.until.max(self.worked) {
            // An attempt from before it opened: that is told already.
            return None;
        }
        self.began = if self.faults == 0 { sent } else { self.began.min(sent) };
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

    /// What was sent at `sent` was answered. Whether this closes the breaker.
    pub fn works(&mut self, sent: Millis) -> bool {
        if sent < self.began {
            return false;
        }
        let was_open = self.until.0 != 0;
        let worked = if was_open { sent } else { self.worked };
        *self = Self { trial: self.trial, worked, ..Self::default() };
        was_open
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
        assert_eq!(breaker.fault(now, now, AFTER_TWO), None);
        assert!(!breaker.works(now));
        assert_eq!((breaker.fault(now, now, AFTER_TWO), breaker.way(now)), (None, Way::Free));
        assert_eq!(breaker.fault(now, now, AFTER_TWO), Some(10 * SECOND));
        assert_eq!(breaker.fault(now, now, AFTER_TWO), None, "an attempt from before");
        for pause in [20, 40, 80, 80] {
            let until = breaker.until();
            assert_eq!(breaker.way(now), Way::Until(until));
            now = until;
            assert_eq!((breaker.way(now), breaker.way(now)), (Way::Trial, Way::TrialOut));
            assert_eq!(breaker.fault(now, now, AFTER_TWO), Some(pause * SECOND));
            breaker.trial_ended();
        }
        now = breaker.until();
        assert_eq!(breaker.way(now), Way::Trial);
        // It came to nothing, as when it was canceled.
        breaker.trial_ended();
        assert_eq!(breaker.way(now), Way::Trial);
        assert!(breaker.works(now));
        assert_eq!((breaker.way(now), breaker.fault(now, now, AFTER_TWO)), (Way::Free, None));
    }

    #[test]
    fn what_was_sent_before_an_outage_says_nothing_of_it() {
        let mut breaker = Breaker::default();
        let (before, outage) = (Millis(1_000), Millis(2_000));
        breaker.fault(outage, outage, AFTER_TWO);
        assert!(!breaker.works(before), "a late answer does not interrupt the row");
        assert_eq!(breaker.fault(outage, outage, AFTER_TWO), Some(10 * SECOND));
        assert!(!breaker.works(before), "and does not close it");
        let trial = breaker.until();
        assert_eq!(breaker.way(trial), Way::Trial);
        assert_eq!(breaker.fault(trial, outage, AFTER_TWO), None, "a late fault is not that of the trial");
        assert_eq!((breaker.until(), breaker.way(trial)), (trial, Way::TrialOut));
        assert!(breaker.works(trial));
        breaker.trial_ended();
        for _ in 0..5 {
            assert_eq!(breaker.fault(trial.after(SECOND), outage, AFTER_TWO), None, "nor does it begin another outage");
        }
        assert!(breaker.is_calm());
        assert_eq!(breaker.fault(trial, trial, AFTER_TWO), None);
        assert_eq!(breaker.fault(trial, trial, AFTER_TWO), Some(10 * SECOND));
    }
}
