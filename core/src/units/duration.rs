//! Durations: `"250ms"`, `"30s"`, `"1h30m"`, `"7d"`, or a number of seconds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Decimal, Unit, UnitError, deserialize};

/// A duration of whole milliseconds between zero and 10 000 days.
///
/// Parts come in descending units, each unit once; the last may have a fraction (`"1.5s"`). Anything finer than a
/// millisecond is rounded to the nearest one, because store time is counted in milliseconds. Text without a unit is a
/// number of seconds, as in JSON, so that `Lovage-Delay: 30` and `{"delay": 30}` mean the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dur(Duration);

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Dur {
    /// No time at all.
    pub const ZERO: Self = Self(Duration::ZERO);
    /// The longest: 10 000 days.
    pub const MAX: Self = Self(Duration::from_secs(10_000 * 86_400));

    /// This many milliseconds, at most [`Dur::MAX`].
    pub const fn from_millis(millis: u64) -> Self {
        if millis < Self::MAX.millis() { Self(Duration::from_millis(millis)) } else { Self::MAX }
    }

    /// This many seconds, at most [`Dur::MAX`].
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_millis(secs.saturating_mul(1_000))
    }

    /// The duration as the standard library has it.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// The duration in milliseconds.
    pub const fn millis(self) -> u64 {
        self.0.as_secs() * 1_000 + self.0.subsec_millis() as u64
    }

    /// Whether it is zero.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    fn checked(millis: u128, text: impl fmt::Display) -> Result<Self, UnitError> {
        match u64::try_from(millis) {
            Ok(millis) if millis <= Self::MAX.millis() => Ok(Self::from_millis(millis)),
            _ => Err(Self::out_of_range(text)),
        }
    }
}

impl From<Dur> for Duration {
    fn from(duration: Dur) -> Self {
        duration.0
    }
}

impl Unit for Dur {
    const KIND: &'static str = "duration";
    const HINT: &'static str =
        "write a number with a unit (d, h, m, s, ms), such as \"250ms\", \"30s\" or \"1h30m\", or a number of seconds";
    const RANGE: &'static str = "from 0 to 10 000 days";

    fn from_number(seconds: f64) -> Result<Self, UnitError> {
        let millis = (seconds * 1_000.0).round();
        // Written so that NaN is refused as well; -0.0 and what rounds to it are zero.
        if seconds >= 0.0 && millis <= Self::MAX.millis() as f64 {
            Ok(Self::from_millis(millis as u64))
        } else {
            Err(Self::out_of_range(seconds))
        }
    }

    fn from_integer(seconds: u64) -> Result<Self, UnitError> {
        Self::checked(u128::from(seconds) * 1_000, seconds)
    }
}

impl FromStr for Dur {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if let Some(seconds) = Decimal::parse(text) {
            return Self::checked(seconds.times(1_000), text);
        }
        let mut rest = text;
        let mut smaller_than = u64::MAX;
        let mut total: u128 = 0;
        loop {
            let (number, after) = Decimal::take(rest).ok_or_else(|| Self::malformed(text))?;
            let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            let Some(&(_, unit)) = UNITS.iter().find(|(known, unit)| *known == name && *unit < smaller_than) else {
                return Err(Self::malformed(text));
            };
            if !number.is_whole() && !after.is_empty() {
                return Err(Self::malformed(text));
            }
            total = total.saturating_add(number.times(unit));
            if after.is_empty() {
                return Self::checked(total, text);
            }
            (rest, smaller_than) = (after, unit);
        }
    }
}

impl fmt::Display for Dur {
    /// Every unit as often as it fits, largest first; the end is `1.5s` from a second on and `250ms` below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0s");
        }
        let mut rest = self.millis();
        for (name, unit) in &UNITS[..3] {
            if rest >= *unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        match (rest / 1_000, rest % 1_000) {
            (0, 0) => Ok(()),
            (0, millis) => write!(f, "{millis}ms"),
            (secs, 0) => write!(f, "{secs}s"),
            (secs, millis) => write!(f, "{secs}.{}s", format!("{millis:03}").trim_end_matches('0')),
        }
    }
}

impl Serialize for Dur {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Dur {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer)
    }
}
