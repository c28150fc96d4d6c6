//! When a failed attempt is followed by another one, and when it is not.
//!
//! A policy is plain data with small pure functions: time and randomness are arguments. [`RetryPolicy::validate`]
//! refuses nonsense once, at the edge; the functions nevertheless stay in their bounds for a policy that skipped it.
//!
//! Only failures of the attempt itself are *charged*. A throttled worker or a faulty endpoint costs no attempt, so the
//! caller passes the number of charged failures, and `max_age` is what ends such a series.

mod timetable;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::problem::FieldError;
use crate::units::Dur;

pub use timetable::{Slot, TIMETABLE_LENGTH};

/// How the delay grows with the number of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// `min`, then `factor` times as long after each failure, at most `max`.
    Exponential,
    /// `min` times the number of failures, at most `max`.
    Linear,
    /// Always `min`; `max` has no part in it.
    Fixed,
    /// The given `delays` as they are, without jitter; the last repeats.
    List,
}

/// How a delay is spread, so that tasks that failed together do not return together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Evenly between zero and the delay.
    Full,
    /// Evenly between half the delay and the delay.
    Equal,
    /// Exactly the delay.
    None,
}

/// The retry policy of a task or callback. Missing fields have the defaults of [`RetryPolicy::DEFAULT`], and fields
/// with the default value are not written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Charged failures after which the task has failed; the first attempt counts.
    #[serde(skip_serializing_if = "RetryPolicy::is_default_max_attempts")]
    pub max_attempts: u16,
    /// How the delay grows.
    #[serde(skip_serializing_if = "RetryPolicy::is_default_backoff")]
    pub backoff: Backoff,
    /// The delays of [`Backoff::List`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delays: Vec<Dur>,
    /// The first delay before jitter.
    #[serde(skip_serializing_if = "RetryPolicy::is_default_min")]
    pub min: Dur,
    /// The longest delay before jitter.
    #[serde(skip_serializing_if = "RetryPolicy::is_default_max")]
    pub max: Dur,
    /// What [`Backoff::Exponential`] multiplies by.
    #[serde(skip_serializing_if = "RetryPolicy::is_default_factor")]
    pub factor: f64,
    /// How delays are spread.
    #[serde(skip_serializing_if = "RetryPolicy::is_default_jitter")]
    pub jitter: Jitter,
    /// No attempt starts later than this after the first one started.
    #[serde(skip_serializing_if = "RetryPolicy::is_default_max_age")]
    pub max_age: Dur,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt at this instant, in milliseconds of store time.
    RetryAt(u64),
    /// None: the task has failed.
    Exhausted(Exhausted),
}

/// Which limit of the policy was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// `max_attempts`.
    Attempts,
    /// `max_age`.
    Age,
}

/// The longest wait that a worker can ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl RetryPolicy {
    /// Ten attempts, exponential from one second to ten minutes with full jitter, within a day.
    pub const DEFAULT: Self = Self {
        max_attempts: 10,
        backoff: Backoff::Exponential,
        delays: Vec::new(),
        min: Dur::from_secs(1),
        max: Dur::from_secs(600),
        factor: 2.0,
        jitter: Jitter::Full,
        max_age: Dur::from_secs(24 * 3600),
    };

    /// The most entries of `delays`: a stored policy stays small.
    pub const MAX_DELAYS: usize = 100;
    /// The largest `factor`; beyond it two failures already reach any `max`.
    pub const MAX_FACTOR: f64 = 1_000.0;

    /// Refuses policies that cannot mean what they say. The pointer is relative to the policy.
    pub fn validate(&self) -> Result<(), FieldError> {
        let refuse = |pointer: &str, message: String| Err(FieldError::new(pointer, message));
        if self.max_attempts == 0 {
            return refuse("/max_attempts", "must be at least 1, the first attempt counts".into());
        }
        if self.max_age.is_zero() {
            return refuse("/max_age", "must be longer than zero".into());
        }
        if !(1.0..=Self::MAX_FACTOR).contains(&self.factor) {
            return refuse("/factor", format!("must be between 1 and {}", Self::MAX_FACTOR));
        }
        if self.backoff != Backoff::Exponential && !Self::is_default_factor(&self.factor) {
            return refuse("/factor", "is only for exponential backoff".into());
        }
        match self.backoff {
            Backoff::Exponential | Backoff::Linear => {
                if self.min.is_zero() {
                    return refuse(
                        "/min",
                        "must be longer than zero, or every delay would be zero; use fixed backoff for that".into(),
                    );
                }
                if self.min > self.max {
                    return refuse("/min", format!("{} is longer than max, {}", self.min, self.max));
                }
            }
            Backoff::Fixed => {}
            Backoff::List => return self.validate_list(),
        }
        if self.delays.is_empty() { Ok(()) } else { refuse("/delays", "are only for backoff \"list\"".into()) }
    }

    fn validate_list(&self) -> Result<(), FieldError> {
        if self.delays.is_empty() {
            return Err(FieldError::new("/delays", "must have at least one delay for backoff \"list\""));
        }
        if self.delays.len() > Self::MAX_DELAYS {
            return Err(FieldError::new("/delays", format!("has more than {} delays", Self::MAX_DELAYS)));
        }
        // Each is at most 10 000 days, so a hundred of them cannot overflow.
        let total: Duration = self.delays.iter().map(|delay| delay.get()).sum();
        if total > self.max_age.get() {
            return Err(FieldError::new("/delays", format!("are together longer than max_age, {}", self.max_age)));
        }
        Ok(())
    }

    /// The delay after the `n`-th failure (from 1; 0 is taken as 1) before jitter.
    pub fn base_delay(&self, n: u16) -> Duration {
        let n = n.max(1);
        match self.backoff {
            Backoff::Exponential => {
                let millis = self.min.millis() as f64 * self.factor.powi(i32::from(n) - 1);
                // The comparison is false for NaN and infinity as well.
                if millis < self.max.millis() as f64 { Duration::from_millis(millis as u64) } else { self.max.get() }
            }
            Backoff::Linear => self.min.get().saturating_mul(u32::from(n)).min(self.max.get()),
            Backoff::Fixed => self.min.get(),
            Backoff::List => {
                let delay = self.delays.get(usize::from(n) - 1).or(self.delays.last());
                delay.map_or(self.min.get(), |delay| delay.get())
            }
        }
    }

    /// The delay after the `n`-th failure (from 1) in whole milliseconds; `random` is evenly distributed over `u64`.
    pub fn delay(&self, n: u16, random: u64) -> Duration {
        let base = self.base_delay(n);
        let jitter = if self.backoff == Backoff::List { Jitter::None } else { self.jitter };
        match jitter {
            Jitter::None => base,
            Jitter::Full => up_to(base, random),
            Jitter::Equal => {
                let half = Duration::from_millis(base.as_millis().div_ceil(2) as u64);
                half + up_to(base.saturating_sub(half), random)
            }
        }
    }

    /// What follows a failure at `now_ms`. `charged` counts the charged failures so far, this one included if it was.
    /// `retry_after` is the worker's own wish: it takes the place of the policy's delay, up to [`MAX_RETRY_AFTER`], and never
    /// ends the series where the policy itself would have gone on: then the last attempt is made when `max_age` is reached.
    /// The limit reached first ends the series; an attempt exactly at `max_age` is still made.
    pub fn next(&self, charged: u16, first_attempt_ms: u64, now_ms: u64, random: u64, retry_after: Option<Duration>) -> Verdict {
        if charged >= self.max_attempts {
            return Verdict::Exhausted(Exhausted::Attempts);
        }
        let own = self.delay(charged, random);
        let wish = retry_after.map_or(own, |wish| wish.min(MAX_RETRY_AFTER));
        self.within_age(first_attempt_ms, now_ms, own, wish)
    }

    /// The next attempt after `wish`. One that does not fit into `max_age` is made when that is reached, if at least `least`
    /// would have fitted.
    pub fn within_age(&self, first_attempt_ms: u64, now_ms: u64, least: Duration, wish: Duration) -> Verdict {
        // Rounded up: never earlier than asked for.
        let after = |delay: Duration| {
            let delay_ms = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            now_ms.saturating_add(delay_ms)
        };
        let end = first_attempt_ms.saturating_add(self.max_age.millis());
        let at = after(wish);
        if at.min(after(least)) > end { Verdict::Exhausted(Exhausted::Age) } else { Verdict::RetryAt(at.min(end)) }
    }
}

/// Evenly between zero and `limit`, both included, in whole milliseconds.
pub(crate) fn up_to(limit: Duration, random: u64) -> Duration {
    let steps = limit.as_millis() + 1;
    let millis = (steps * u128::from(random)) >> 64;
    Duration::from_millis(millis as u64).min(limit)
}

/// What serde asks before it writes a field.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls these with a reference")]
impl RetryPolicy {
    fn is_default_max_attempts(value: &u16) -> bool {
        *value == Self::DEFAULT.max_attempts
    }
    fn is_default_backoff(value: &Backoff) -> bool {
        *value == Self::DEFAULT.backoff
    }
    fn is_default_min(value: &Dur) -> bool {
        *value == Self::DEFAULT.min
    }
    fn is_default_max(value: &Dur) -> bool {
        *value == Self::DEFAULT.max
    }
    fn is_default_factor(value: &f64) -> bool {
        value.to_bits() == Self::DEFAULT.factor.to_bits()
    }
    fn is_default_jitter(value: &Jitter) -> bool {
        *value == Self::DEFAULT.jitter
    }
    fn is_default_max_age(value: &Dur) -> bool {
        *value == Self::DEFAULT.max_age
    }
}

#[cfg(test)]
mod tests;
