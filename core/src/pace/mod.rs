//! How fast a worker is called that asked for less, and how it gets everything again.
//!
//! Three rules, each of them a function of times and counts, so that no worker needs a timer:
//!
//! * **Pace.** "Not now" halves the rate of requests that was measured lately. While answers are good the rate grows, a request a
//!   second and a tenth of itself every second. It ends when it has held nothing back for a while: then it is above what is wanted.
//! * **Allowance.** A worker that says how many requests are left until when gets no more than these, and the last of them evenly.
//! * **Ramp.** After a pause or an outage few requests may be open at once, and more with every second.
//!
//! They only ever take away: slots, limits and pauses hold all the same.

mod allowance;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Millis;

pub use allowance::Allowance;

/// However little a worker asks for, once a second it is asked again.
const LEAST: f64 = 1.0;
/// What limiters can still count.
const MOST: f64 = 1_000_000.0;
/// Requests a second that are gained in a second of good answers …
const STEP: f64 = 1.0;
/// … and the part of the rate that is gained with them.
const PART: f64 = 0.1;
/// The longest time between two good answers that counts as time of good answers.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// A pace that has held nothing back for so long is above what is wanted.
const UNHELD: Duration = Duration::from_secs(5);
/// How much of the time that a caller came too late it may make up for: microseconds.
const SLACK: u64 = 50_000;
/// The longest that somebody is told to wait before asking again: the rate may have grown.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// An allowance is low if it would be used up so soon …
const SOON: f64 = 5.0;
/// … or if it is no more than this part of the whole.
const LOW_PART: u64 = 10;
/// However long a worker wants to be left alone, it is asked again after this.
const LONGEST_CLOSED: Duration = Duration::from_secs(300);
/// How long a ramp is.
pub const RAMP: Duration = Duration::from_secs(10);

/// The pace of one worker in one process.
#[derive(Debug, Default)]
pub struct Pace {
    /// Requests a second; none: as many as there are slots for.
    rate: Option<f64>,
    /// Up to when good answers were counted.
    grown: Millis,
    /// When something was last held back.
    held: Millis,
    /// When the rate was last halved. What was sent before is a part of what was too much, and counts no second time.
    cut: Millis,
    /// The rest of an allowance, in requests a second, and until when.
    spread: Option<(f64, Millis)>,
    /// When the next request is due: microseconds.
    next: u64,
    /// Who was told to come again, in turn.
    waiting: VecDeque<Turn>,
}

/// Somebody waits for its turn.
#[derive(Debug)]
struct Turn {
    asker: u64,
    /// What it was told.
    until: Millis,
}

impl Pace {
    /// Requests a second that may be sent now; `None`: it holds nothing back.
    pub fn rate(&self, now: Millis) -> Option<f64> {
        let spread = self.spread.filter(|(_, until)| *until > now).map(|(rate, _)| rate);
        match (self.rate, spread) {
            (Some(rate), Some(spread)) => Some(rate.min(spread)),
            (rate, spread) => rate.or(spread),
        }
    }

    /// Whether `asker` may send a request now; else when it should ask again. Askers that wait have turns, so that none is always
    /// the last.
    pub fn take(&mut self, asker: u64, now: Millis) -> Result<(), Millis> {
        let Some(rate) = self.rate(now) else { return Ok(()) };
        let (at, interval) = (now.0 * 1_000, interval(rate));
        // Those that did not come have lost their turns.
        self.waiting.retain(|turn| turn.until.after(ASK_AGAIN) > now);
        let place = self.waiting.iter().position(|turn| turn.asker == asker);
        self.next = self.next.max(at.saturating_sub(SLACK));
        let due = self.next.saturating_add(interval.saturating_mul(place.unwrap_or(self.waiting.len()) as u64));
        if due <= at {
            if let Some(place) = place {
                self.waiting.remove(place);
            }
            self.next = self.next.saturating_add(interval);
            return Ok(());
        }
        self.held(now);
        let until = Millis(due.div_ceil(1_000)).min(now.after(ASK_AGAIN));
        match place.and_then(|place| self.waiting.get_mut(place)) {
            Some(turn) => turn.until = until,
            None => self.waiting.push_back(Turn { asker, until }),
        }
        Err(until)
    }

    /// A request that was granted is not sent after all.
    pub fn give_back(&mut self, now: Millis) {
        if let Some(rate) = self.rate(now) {
            self.next = self.next.saturating_sub(interval(rate));
        }
    }

    /// Something was held back, here or by what follows from the same cause.
    pub fn held(&mut self, now: Millis) {
        self.held = self.held.max(now);
    }

    /// The worker said "not now" to a request that was sent at `sent`, and is left alone until `until`. `measured` requests a second
    /// were sent to it lately. Whether this is news: answers to what was sent before the last halving are not.
    pub fn not_now(&mut self, now: Millis, sent: Millis, until: Millis, measured: f64) -> bool {
        if sent <= self.cut {
            return false;
        }
        let before = self.rate.map_or(measured, |rate| rate.min(measured));
        self.rate = Some((before / 2.0).clamp(LEAST, MOST));
        self.cut = now;
        self.grown = until;
        self.held = until;
        self.waiting.clear();
        true
    }

    /// Whether a request that was sent at `sent` says anything about the rate of now.
    pub fn is_news(&self, sent: Millis) -> bool {
        sent > self.cut
    }

    /// A request that was sent at `sent` was answered in earnest.
    pub fn good(&mut self, now: Millis, sent: Millis) {
        let Some(rate) = self.rate.filter(|_| self.is_news(sent)) else { return };
        let time = now.since(self.grown).min(GOOD_FOR).as_secs_f64();
        self.grown = self.grown.max(now);
        // What becomes of a rate that gains STEP and PART of itself a second.
        let grown = (rate + STEP / PART) * (PART * time).exp() - STEP / PART;
        let is_over = grown >= MOST || now.since(self.held) >= UNHELD;
        self.rate = (!is_over).then_some(grown);
    }

    /// The worker said what is left. Until when it is to be left alone, if nothing is. `measured` requests a second were sent to it
    /// lately.
    pub fn told(&mut self, allowance: Allowance, now: Millis, measured: f64) -> Option<Millis> {
        let Allowance { remaining, reset, limit } = allowance;
        self.spread = None;
        if remaining == 0 {
            return Some(now.after(reset.min(LONGEST_CLOSED)));
        }
        let seconds = reset.as_secs_f64();
        let is_soon = remaining as f64 <= measured * seconds.min(SOON);
        let is_little = limit.is_some_and(|limit| remaining <= limit / LOW_PART);
        if seconds > 0.0 && (is_soon || is_little) {
            self.spread = Some(((remaining as f64 / seconds).min(MOST), now.after(reset)));
        }
        None
    }

    /// Whether it holds nothing back and knows nothing of a rate.
    pub fn is_free(&self, now: Millis) -> bool {
        self.rate(now).is_none()
    }
}

fn interval(rate: f64) -> u64 {
    // Rates are positive; a fraction too long for the type is cut off by the cast.
    (1e6 / rate).ceil() as u64
}

/// How many requests may be open at once, of `slots`, so long after a pause or an outage; `None`: all of them.
pub fn ramp(slots: u32, since: Duration) -> Option<u32> {
    if since >= RAMP {
        return None;
    }
    let part = since.as_secs_f64() / RAMP.as_secs_f64();
    Some((f64::from(slots.max(1)).powf(part) as u32).max(1))
}
