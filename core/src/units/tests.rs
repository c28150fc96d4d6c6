//! Examples and properties of the three parsers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::time::Duration;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Dur, Period, Rate, Size, UnitError};

fn dur(text: &str) -> Option<u64> {
    text.parse::<Dur>().ok().map(Dur::millis)
}

#[test]
fn durations_as_documented() {
    for (text, millis, shown) in [
        ("250ms", 250, "250ms"),
        ("30s", 30_000, "30s"),
        ("5m", 300_000, "5m"),
        ("1h30m", 5_400_000, "1h30m"),
        ("7d", 604_800_000, "7d"),
        ("1.5s", 1_500, "1.5s"),
        ("1.005s", 1_005, "1.005s"),
        ("1m1.5s", 61_500, "1m1.5s"),
        ("1m250ms", 60_250, "1m250ms"),
        ("1d2h3m4s5ms", 93_784_005, "1d2h3m4.005s"),
        ("0.1s", 100, "100ms"),
        ("0.25h", 900_000, "15m"),
        ("0.5ms", 1, "1ms"),
        ("0.4ms", 0, "0s"),
        ("24h", 86_400_000, "1d"),
        ("90s", 90_000, "1m30s"),
        ("0s", 0, "0s"),
        ("30", 30_000, "30s"),
        ("1.5", 1_500, "1.5s"),
        ("10000d", 864_000_000_000, "10000d"),
    ] {
        assert_eq!(dur(text), Some(millis), "{text}");
        assert_eq!(Dur::from_millis(millis).to_string(), shown, "{text}");
    }
}

#[test]
fn no_durations() {
    for text in [
        "", " ", "s", "ms", "-5s", "+5s", "5 s", " 5s", "5s ", "5S", "5min", "5w", "1m1h", "1s1s", "1.5h30m", ".5s", "5.s",
        "1e3s", "1_000s", "٣s", "5s\0", "1h30",
    ] {
        assert!(matches!(text.parse::<Dur>(), Err(UnitError::Malformed { .. })), "{text:?}");
    }
    for text in
        ["10001d", "864000000001ms", "10000d1ms", "99999999999999999999999999999999999999999999d", "999999999999999999999999"]
    {
        assert!(matches!(text.parse::<Dur>(), Err(UnitError::OutOfRange { .. })), "{text:?}");
    }
}

#[test]
fn duration_numbers_are_seconds() {
    let read = |json: &str| serde_json::from_str::<Dur>(json).map(Dur::millis).map_err(|error| error.to_string());
    assert_eq!(read("30"), Ok(30_000));
    assert_eq!(read("0.25"), Ok(250));
    assert_eq!(read("0.30000000000000004"), Ok(300));
    assert_eq!(read("-0.0"), Ok(0));
    assert_eq!(read("864000000"), Ok(864_000_000_000));
    assert!(read("-1").unwrap_err().starts_with("\"-1\" is out of range: a duration is from 0 to 10 000 days"));
    assert!(read("-0.001").is_err());
    assert!(read("864000001").is_err());
    assert!(read("1e300").is_err());
    assert!(read("18446744073709551615").is_err());
    assert!(read("true").unwrap_err().contains("expected a duration: write a number with a unit"));
    assert!(read("null").is_err());
    assert!(read("\"soon\"").unwrap_err().starts_with("\"soon\" is not a duration: write a number with a unit"));
}

#[test]
fn refusals_show_only_the_beginning() {
    let message = "x".repeat(10_000).parse::<Dur>().unwrap_err().to_string();
    assert!(message.len() < 300, "{message}");
}

#[test]
fn rates_as_documented() {
    let read = |text: &str| text.parse::<Rate>().map(|rate| rate.to_string()).ok();
    for (text, shown) in
        [("10/s", "10/s"), ("200/m", "200/m"), ("5000/h", "5000/h"), ("1000000/s", "1000000/s"), ("3600000000/h", "3600000000/h")]
    {
        assert_eq!(read(text).as_deref(), Some(shown));
    }
    for (text, shown) in
        [("0.5/s", "30/m"), ("1.5/s", "90/m"), ("0.1/m", "6/h"), ("0.01/s", "36/h"), ("10", "10/s"), ("2.0/s", "2/s")]
    {
        assert_eq!(read(text).as_deref(), Some(shown));
    }
    for text in [
        "",
        "/",
        "/s",
        "10/",
        "10/d",
        "10/S",
        "-1/s",
        "10 /s",
        "10/s/s",
        "1.5/h",
        "0.0000000000000000001/s",
        "inf/s",
        "NaN/s",
        "1e3/s",
    ] {
        assert!(matches!(text.parse::<Rate>(), Err(UnitError::Malformed { .. })), "{text:?}");
    }
    for text in ["0/s", "0", "0.0/m", "1000001/s", "60000001/m", "4294967296/h", "99999999999999999999999/h"] {
        assert!(matches!(text.parse::<Rate>(), Err(UnitError::OutOfRange { .. })), "{text:?}");
    }
}

#[test]
fn rate_numbers_are_per_second() {
    let read = |json: &str| serde_json::from_str::<Rate>(json).map(|rate| rate.to_string());
    assert_eq!(read("10").unwrap(), "10/s");
    assert_eq!(read("0.5").unwrap(), "30/m");
    assert!(read("0").unwrap_err().to_string().contains("null is none"));
    assert!(read("-1").is_err());
    assert!(read("1e300").is_err());
    assert_eq!(serde_json::from_str::<Option<Rate>>("null").unwrap(), None);
}

#[test]
fn a_rate_knows_its_interval() {
    let interval = |text: &str| text.parse::<Rate>().unwrap().interval();
    assert_eq!(interval("10/s"), Duration::from_millis(100));
    assert_eq!(interval("200/m"), Duration::from_millis(300));
    assert_eq!(interval("1000000/s"), Duration::from_micros(1));
    assert_eq!(interval("3/s"), Duration::from_nanos(333_333_333));
}

#[test]
fn sizes_as_documented() {
    for (text, bytes, shown) in [
        ("200MB", 200_000_000, "200MB"),
        ("200MiB", 209_715_200, "200MiB"),
        ("1KB", 1_000, "1KB"),
        ("1kib", 1_024, "1KiB"),
        ("1.5KiB", 1_536, "1536B"),
        ("1024KiB", 1 << 20, "1MiB"),
        ("1500", 1_500, "1500B"),
        ("0", 0, "0B"),
        ("0MB", 0, "0B"),
        ("128KB", 128_000, "128KB"),
        ("18446744073709551615B", u64::MAX, "18446744073709551615B"),
    ] {
        assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        assert_eq!(Size(bytes).to_string(), shown, "{text}");
    }
    for text in ["", "B", "MB", "-1B", "1 MB", "1M", "1ZB", "0.1KiB", "1.5B", "1e3", "1.B"] {
        assert!(matches!(text.parse::<Size>(), Err(UnitError::Malformed { .. })), "{text:?}");
    }
    for text in ["18446744073709551616", "16EiB", "99999999999999999999999999999999EiB"] {
        assert!(matches!(text.parse::<Size>(), Err(UnitError::OutOfRange { .. })), "{text:?}");
    }
    let read = |json: &str| serde_json::from_str::<Size>(json).ok();
    assert_eq!(read("1048576"), Some(Size(1 << 20)));
    assert_eq!(read("1e6"), Some(Size(1_000_000)));
    assert_eq!(read("18446744073709551615"), Some(Size(u64::MAX)));
    assert_eq!(read("1.5"), None);
    assert_eq!(read("-1"), None);
    assert_eq!(read("1e30"), None);
}

#[test]
fn numbers_come_through_messagepack() {
    let packed = |value: &serde_json::Value| rmp_serde::to_vec_named(value).unwrap();
    assert_eq!(rmp_serde::from_slice::<Dur>(&packed(&30.into())).unwrap(), Dur::from_secs(30));
    assert_eq!(rmp_serde::from_slice::<Dur>(&packed(&0.25.into())).unwrap(), Dur::from_millis(250));
    assert_eq!(rmp_serde::from_slice::<Size>(&packed(&70_000.into())).unwrap(), Size(70_000));
    assert_eq!(rmp_serde::from_slice::<Rate>(&packed(&5.into())).unwrap(), Rate::new(5, Period::Second).unwrap());
    assert!(rmp_serde::from_slice::<Dur>(&packed(&(-1).into())).is_err());
}

/// Its text, JSON and MessagePack all give the value back.
fn round_trips<T>(value: T) -> Result<(), TestCaseError>
where
    T: Copy + PartialEq + Debug + Display + FromStr<Err = UnitError> + Serialize + DeserializeOwned,
{
    prop_assert_eq!(value.to_string().parse::<T>(), Ok(value));
    let json = serde_json::to_string(&value).unwrap();
    prop_assert_eq!(&json, &format!("\"{value}\""));
    prop_assert_eq!(serde_json::from_str::<T>(&json).unwrap(), value);
    let packed = rmp_serde::to_vec_named(&value).unwrap();
    prop_assert_eq!(rmp_serde::from_slice::<T>(&packed).unwrap(), value);
    Ok(())
}

proptest! {
    #[test]
    fn durations_round_trip(millis in prop_oneof![0..100_000_u64, 0..=Dur::MAX.millis()]) {
        let value = Dur::from_millis(millis);
        prop_assert_eq!(value.millis(), millis);
        round_trips(value)?;
    }

    #[test]
    fn rates_round_trip(count in prop_oneof![1..1_000_u32, 1..=1_000_000_u32], period in 0..3_usize) {
        round_trips(Rate::new(count, Period::ALL[period]).unwrap())?;
    }

    #[test]
    fn sizes_round_trip(bytes in prop_oneof![any::<u64>(), (0..2_000_u64).prop_map(|n| n * 1_024), (0..2_000_u64).prop_map(|n| n * 1_000_000)]) {
        round_trips(Size(bytes))?;
    }

    /// Whatever is accepted is in range and prints as something that means the same; nothing panics.
    #[test]
    fn any_text_is_safe(text in prop_oneof![any::<String>(), "[0-9.]{0,30}([dhms/KMGTi]|ms|KB|EiB){0,2}[0-9.]{0,5}[dhmsBi/]{0,2}"]) {
        if let Ok(value) = text.parse::<Dur>() {
            prop_assert!(value <= Dur::MAX);
            round_trips(value)?;
        }
        if let Ok(value) = text.parse::<Rate>() {
            prop_assert!(!value.interval().is_zero());
            round_trips(value)?;
        }
        if let Ok(value) = text.parse::<Size>() {
            round_trips(value)?;
        }
    }

    #[test]
    fn any_number_is_safe(number in any::<f64>(), whole in any::<i64>()) {
        for json in [serde_json::json!(number), serde_json::json!(whole)] {
            if let Ok(value) = serde_json::from_value::<Dur>(json.clone()) {
                prop_assert!(value <= Dur::MAX);
            }
            let _ = serde_json::from_value::<Rate>(json.clone());
            let _ = serde_json::from_value::<Size>(json);
        }
    }

    /// Two lists of parts compare as their sums do: the parser adds what it reads.
    #[test]
    fn parts_add_up(hours in 0..1_000_u64, minutes in 0..1_000_u64, secs in 0..1_000_u64, millis in 0..10_000_u64) {
        let text = format!("{hours}h{minutes}m{secs}s{millis}ms");
        let sum = hours * 3_600_000 + minutes * 60_000 + secs * 1_000 + millis;
        prop_assert_eq!(dur(&text), Some(sum));
    }
}
