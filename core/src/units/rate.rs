//! Rates in Celery's words: `"10/s"`, `"200/m"`, `"5000/h"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Decimal, Unit, UnitError, deserialize};

/// The period a rate counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// `s`
    Second,
    /// `m`
    Minute,
    /// `h`
    Hour,
}

impl Period {
    /// All of them, shortest first.
    pub const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    /// Its length in seconds.
    pub const fn secs(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "m",
            Self::Hour => "h",
        }
    }
}

/// So many starts per period: more than none, at most a million a second. No rate at all is `null`, an `Option` here.
///
/// Kept as written, a whole count and a period, so that a limiter can be exact. A fraction is accepted when a longer
/// period makes it whole: `"0.5/s"` is read as `"30/m"`. A number without a period is per second, as in Celery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    per: Period,
}

impl Rate {
    /// The highest rate in starts per second; an interval of one microsecond is what limiters can still count.
    pub const MAX_PER_SECOND: u64 = 1_000_000;

    /// `count` starts per `per`; `None` if that is zero or more than [`Rate::MAX_PER_SECOND`].
    pub fn new(count: u32, per: Period) -> Option<Self> {
        (count > 0 && u64::from(count) <= Self::MAX_PER_SECOND * per.secs()).then_some(Self { count, per })
    }

    /// Starts per period.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The period.
    pub const fn per(self) -> Period {
        self.per
    }

    /// The time between two starts, rounded to the nearest nanosecond; never zero.
    pub fn interval(self) -> Duration {
        let count = u64::from(self.count);
        Duration::from_nanos((self.per.secs() * 1_000_000_000 + count / 2) / count)
    }
}

impl Unit for Rate {
    const KIND: &'static str = "rate";
    const HINT: &'static str = "write a count and a period (s, m, h), such as \"10/s\", \"200/m\" or \"5000/h\"";
    const RANGE: &'static str = "more than zero and at most 1000000/s, null is none";

    fn from_number(per_second: f64) -> Result<Self, UnitError> {
        per_second.to_string().parse()
    }

    fn from_integer(per_second: u64) -> Result<Self, UnitError> {
        per_second.to_string().parse()
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, period) = text.split_once('/').unwrap_or((text, "s"));
        let written = Period::ALL.into_iter().find(|per| per.as_str() == period);
        let (Some(number), Some(written)) = (Decimal::parse(number), written) else {
            return Err(Self::malformed(text));
        };
        for per in Period::ALL.into_iter().filter(|per| *per >= written) {
            if let Some(count) = number.times_exact(per.secs() / written.secs()) {
                let rate = u32::try_from(count).ok().and_then(|count| Self::new(count, per));
                return rate.ok_or_else(|| Self::out_of_range(text));
            }
        }
        Err(Self::malformed(text))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per.as_str())
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer)
    }
}
