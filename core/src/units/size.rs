//! Byte sizes: `"200MB"`, `"200MiB"`, or a number of bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Decimal, Unit, UnitError, deserialize};

/// A number of bytes. Decimal (`KB` = 1000) and binary (`KiB` = 1024) units are told apart; their case does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 13] = [
    ("EiB", 1 << 60),
    ("EB", 1_000_000_000_000_000_000),
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl Size {
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes for lengths in memory; `usize::MAX` where it does not fit.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Unit for Size {
    const KIND: &'static str = "size";
    const HINT: &'static str = "write a number with a unit, such as \"200MB\" or \"64KiB\", or a whole number of bytes";
    const RANGE: &'static str = "from 0 to 2^64 - 1 bytes";

    fn from_number(bytes: f64) -> Result<Self, UnitError> {
        // 2^53 and above arrive as integers; a float is accepted when it is one in disguise, such as 1e6.
        let exact = 0.0..=9_007_199_254_740_992.0;
        if bytes.fract() == 0.0 && exact.contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(Self::malformed(bytes)) }
    }

    fn from_integer(bytes: u64) -> Result<Self, UnitError> {
        Ok(Self(bytes))
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, name) = Decimal::take(text).ok_or_else(|| Self::malformed(text))?;
        let name = if name.is_empty() { "B" } else { name };
        let bytes = UNITS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .and_then(|(_, unit)| number.times_exact(*unit))
            .ok_or_else(|| Self::malformed(text))?;
        u64::try_from(bytes).map(Self).map_err(|_| Self::out_of_range(text))
    }
}

impl fmt::Display for Size {
    /// The shortest of the texts without a fraction: `128KB` rather than `125KiB`, but `64KiB` rather than `65536B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = UNITS.iter().filter(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        let shortest = fitting.min_by_key(|(name, unit)| (self.0 / unit).ilog10() as usize + name.len());
        match shortest {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => f.write_str("0B"),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer)
    }
}
