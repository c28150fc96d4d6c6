//! Store time: milliseconds since the Unix epoch.
//!
//! Nothing in this crate reads a clock. Every rule gets `now` as an argument, so that it can be tested
//! at any instant and so that the store's clock, not the caller's, decides what is due.

use std::fmt;
use std::time::Duration;

use jiff::fmt::temporal::Pieces;
use serde::{Deserialize, Serialize};

/// An instant of store time in milliseconds since the Unix epoch. Fits 48 bits until the year 10889.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The largest instant a packed head can hold (48 bits).
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The instant `delay` later, never beyond [`Millis::MAX`].
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis).min(Self::MAX.0))
    }

    /// How long after `earlier` this instant is; zero if it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339 in UTC with milliseconds, the only form in which times leave the API.
    pub fn rfc3339(self) -> String {
        let stamp = jiff::Timestamp::from_millisecond(self.0 as i64).unwrap_or_default();
        format!("{stamp:.3}")
    }

    /// Reads an RFC 3339 instant with any offset. `Err`: what it must be instead, fit for clients.
    pub fn parse_rfc3339(text: &str) -> Result<Self, &'static str> {
        let stamp: jiff::Timestamp = text.parse().map_err(|_| {
            // What is well written lies outside of what times can name: they end so that they can be shown with any offset.
            let is_well_written = Pieces::parse(text).is_ok_and(|it| it.time().is_some() && it.offset().is_some());
            if is_well_written {
                "must be a time before 9999-12-30T22:00:00Z"
            } else {
                "must be a time such as 2026-01-31T12:00:00Z"
            }
        })?;
        // The last one is far within the range.
        u64::try_from(stamp.as_millisecond()).map(Self).map_err(|_| "must be a time from 1970 on")
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_milliseconds() {
        let t = Millis(1_767_225_600_123);
        assert_eq!(t.rfc3339(), "2026-01-01T00:00:00.123Z");
        assert_eq!(Millis::parse_rfc3339("2026-01-01T01:00:00.123+01:00"), Ok(t));
        assert_eq!(Millis(0).rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Millis::parse_rfc3339("1969-12-31T23:59:59Z"), Err("must be a time from 1970 on"));
        assert_eq!(Millis::parse_rfc3339("tomorrow"), Err("must be a time such as 2026-01-31T12:00:00Z"));
        let too_late = Err("must be a time before 9999-12-30T22:00:00Z");
        assert_eq!(Millis::parse_rfc3339("9999-12-31T23:59:59Z"), too_late);
        assert_eq!(Millis::parse_rfc3339("9999-12-31T23:59:59+02:00"), too_late);
        assert_eq!(Millis::parse_rfc3339("9999-12-31"), Err("must be a time such as 2026-01-31T12:00:00Z"));
        assert!(Millis::parse_rfc3339("9999-12-30T00:00:00Z").is_ok_and(|last| last < Millis::MAX));
    }

    #[test]
    fn never_leaves_48_bits() {
        assert_eq!(Millis::MAX.after(Duration::from_secs(1)), Millis::MAX);
        assert_eq!(Millis(5).since(Millis(9)), Duration::ZERO);
    }
}
