//! Durations, rates and byte sizes as users write them.
//!
//! Each type parses from text, prints its canonical text (which parses back to the same value) and travels through
//! serde as that text; numbers are accepted where the API says so. Parsing is exact decimal arithmetic, so `"0.1s"` is
//! 100 milliseconds and nothing near it, and it never panics whatever the text is.

mod duration;
mod rate;
mod size;
#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};

pub use duration::Dur;
pub use rate::{Period, Rate};
pub use size::Size;

/// Why a text or number is no duration, rate or size. The messages are meant for the client that sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// It is not written like one.
    #[error("{text:?} is not a {kind}: {hint}")]
    Malformed {
        /// What was wanted: `duration`, `rate` or `size`.
        kind: &'static str,
        /// The beginning of what came.
        text: String,
        /// How to write it.
        hint: &'static str,
    },
    /// It is written well but outside the range.
    #[error("{text:?} is out of range: a {kind} is {range}")]
    OutOfRange {
        /// What was wanted: `duration`, `rate` or `size`.
        kind: &'static str,
        /// The beginning of what came.
        text: String,
        /// The range in words.
        range: &'static str,
    },
}

/// What the three types share for parsing and serde.
trait Unit: FromStr<Err = UnitError> {
    const KIND: &'static str;
    const HINT: &'static str;
    const RANGE: &'static str;

    /// Reads a number without a unit, as it appears in JSON or MessagePack.
    fn from_number(number: f64) -> Result<Self, UnitError>;

    /// The same for whole numbers, where `f64` would lose digits.
    fn from_integer(number: u64) -> Result<Self, UnitError>;

    fn malformed(text: impl fmt::Display) -> UnitError {
        UnitError::Malformed { kind: Self::KIND, text: beginning(&text.to_string()), hint: Self::HINT }
    }

    fn out_of_range(text: impl fmt::Display) -> UnitError {
        UnitError::OutOfRange { kind: Self::KIND, text: beginning(&text.to_string()), range: Self::RANGE }
    }
}

/// Enough of a refused text to recognise it, and not more: messages stay short whatever was sent.
fn beginning(text: &str) -> String {
    const SHOWN: usize = 40;
    if text.chars().nth(SHOWN).is_none() {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain(['…']).collect()
}

/// Reads text or a number with the type's own rules and messages.
struct UnitVisitor<T>(PhantomData<T>);

impl<T: Unit> Visitor<'_> for UnitVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}: {}", T::KIND, T::HINT)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        T::from_integer(number).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        // MessagePack writers may send small positive numbers as signed ones.
        u64::try_from(number).map_err(|_| T::out_of_range(number)).and_then(T::from_integer).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        T::from_number(number).map_err(E::custom)
    }
}

fn deserialize<'de, T: Unit, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(UnitVisitor(PhantomData))
}

/// A non-negative decimal number `digits / 10^scale`, exact up to 18 digits after the point.
#[derive(Clone, Copy)]
struct Decimal {
    digits: u128,
    scale: u32,
    /// Digits other than 0 followed after the 18th.
    cut: bool,
}

impl Decimal {
    const MAX_SCALE: u32 = 18;
    /// Larger whole parts are taken as this; it is beyond the range of every type here, in its smallest unit.
    const MAX_WHOLE: u128 = 10_u128.pow(20);

    /// Splits a leading `12` or `12.5` from `text`. `None` if there is none, also for `.5` and `5.`.
    fn take(text: &str) -> Option<(Self, &str)> {
        let (whole, rest) = take_digits(text)?;
        let mut number = Self { digits: 0, scale: 0, cut: false };
        for digit in whole.bytes() {
            number.digits = (number.digits * 10 + u128::from(digit - b'0')).min(Self::MAX_WHOLE);
        }
        let Some(fraction) = rest.strip_prefix('.') else {
            return Some((number, rest));
        };
        let (fraction, rest) = take_digits(fraction)?;
        for digit in fraction.trim_end_matches('0').bytes() {
            if number.scale == Self::MAX_SCALE {
                number.cut = true;
                break;
            }
            number.digits = number.digits * 10 + u128::from(digit - b'0');
            number.scale += 1;
        }
        Some((number, rest))
    }

    /// The whole of `text` as a number.
    fn parse(text: &str) -> Option<Self> {
        Self::take(text).and_then(|(number, rest)| rest.is_empty().then_some(number))
    }

    fn is_whole(self) -> bool {
        self.scale == 0
    }

    /// This many units, rounded half up. Saturates far outside every range.
    fn times(self, unit: u64) -> u128 {
        let divisor = 10_u128.pow(self.scale);
        self.digits.saturating_mul(u128::from(unit)).saturating_add(divisor / 2) / divisor
    }

    /// This many units if that is a whole number.
    fn times_exact(self, unit: u64) -> Option<u128> {
        let product = self.digits.saturating_mul(u128::from(unit));
        let divisor = 10_u128.pow(self.scale);
        (!self.cut && product.is_multiple_of(divisor)).then_some(product / divisor)
    }
}

fn take_digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}
