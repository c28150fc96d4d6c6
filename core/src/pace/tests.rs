#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const T0: Millis = Millis(1_800_000_000_000);

fn at(ms: u64) -> Millis {
    Millis(T0.0 + ms)
}

/// A pace that was halved from `measured` at the beginning.
fn halved(measured: f64) -> Pace {
    let mut pace = Pace::default();
    assert!(pace.not_now(T0, T0, T0, measured));
    pace
}

#[test]
fn not_now_halves_what_was_measured_once_a_round() {
    let mut pace = Pace::default();
    assert_eq!(pace.take(1, T0), Ok(()));
    assert!(pace.is_free(T0));
    assert!(pace.not_now(at(10), at(5), at(1_010), 100.0));
    assert_eq!(pace.rate(at(10)), Some(50.0));
    // Answers to what was sent before are of the same round.
    assert!(!pace.not_now(at(500), at(9), at(1_500), 100.0));
    assert!(!pace.not_now(at(9_000), at(10), at(9_500), 100.0));
    assert_eq!(pace.rate(at(9_000)), Some(50.0));
    assert!(pace.not_now(at(9_000), at(8_000), at(9_500), 80.0));
    assert_eq!(pace.rate(at(9_000)), Some(25.0));
    assert!(pace.not_now(at(9_002), at(9_001), at(9_500), 0.1));
    assert_eq!(pace.rate(at(9_002)), Some(1.0), "but once a second it is asked");
    // Good answers to what was sent before say nothing either.
    pace.good(at(9_900), at(8_999));
    assert_eq!(pace.rate(at(9_900)), Some(1.0));
    pace.good(at(10_000), at(9_950));
    assert!(pace.rate(at(10_000)).unwrap() > 1.0);
}

#[test]
fn a_pace_that_holds_nothing_back_ends() {
    let mut pace = halved(200.0);
    for s in 1..=4 {
        // One a second is wanted.
        assert_eq!(pace.take(1, at(s * 1_000)), Ok(()));
        pace.good(at(s * 1_000 + 10), at(s * 1_000));
        assert!(!pace.is_free(at(s * 1_000 + 10)), "after {s} s");
    }
    pace.good(at(5_000), at(4_900));
    assert!(pace.is_free(at(5_000)));
}

#[test]
fn whoever_waits_has_its_turn() {
    let mut pace = halved(4.0);
    let mut got = BTreeMap::<u64, u32>::new();
    // Three that always want more, the first always first to ask.
    for ms in 0..30_000 {
        for asker in 1..=3 {
            if pace.take(asker, at(ms)).is_ok() {
                *got.entry(asker).or_default() += 1;
            }
        }
    }
    let counts: Vec<u32> = got.into_values().collect();
    assert!(counts.len() == 3 && counts.iter().all(|n| (19..=22).contains(n)), "{counts:?}");
    // Who stays away for long keeps nobody waiting for ever.
    let mut alone = 0;
    for ms in 30_000..50_000 {
        alone += u32::from(pace.take(1, at(ms)).is_ok());
    }
    assert!((36..=42).contains(&alone), "{alone}");
}

#[test]
fn what_was_not_sent_is_given_back() {
    let mut pace = halved(2.0);
    assert_eq!(pace.take(1, T0), Ok(()));
    assert!(pace.take(1, T0).is_err());
    pace.give_back(T0);
    assert_eq!(pace.take(1, T0), Ok(()));
}

#[test]
fn an_allowance_is_spread_when_it_is_low_and_closes_at_nothing() {
    let of = |remaining, secs, limit| Allowance { remaining, reset: Duration::from_secs(secs), limit };
    let mut pace = Pace::default();
    assert_eq!(pace.told(of(900, 60, Some(1_000)), T0, 50.0), None);
    assert!(pace.is_free(T0), "plenty");
    assert_eq!(pace.told(of(100, 60, Some(1_000)), T0, 1.0), None);
    assert_eq!(pace.rate(T0), Some(100.0 / 60.0), "a tenth of the whole");
    assert_eq!(pace.told(of(100, 60, None), T0, 50.0), None);
    assert_eq!(pace.rate(T0), Some(100.0 / 60.0), "used up within five seconds");
    assert!(pace.is_free(at(60_000)), "there are more");
    assert_eq!(pace.told(of(100, 60, None), T0, 5.0), None);
    assert!(pace.is_free(T0));
    assert_eq!(pace.told(of(0, 30, Some(1_000)), T0, 5.0), Some(at(30_000)));
    assert_eq!(pace.told(of(0, 86_400, None), T0, 5.0), Some(at(300_000)), "asked again after five minutes");
}

#[test]
fn a_ramp_begins_with_one_and_ends_with_all() {
    let rows: Vec<Option<u32>> = (0..=10).map(|s| ramp(100, Duration::from_secs(s))).collect();
    let shown = [1, 1, 2, 3, 6, 10, 15, 25, 39, 63].map(Some);
    assert_eq!((&rows[..10], rows[10]), (&shown[..], None));
    assert_eq!(ramp(0, Duration::ZERO), Some(1));
    assert_eq!(ramp(u32::MAX, Duration::from_millis(9_999)).map(|n| n > 1_000_000), Some(true));
}

#[test]
fn allowances_are_read_in_all_their_forms() {
    let now = T0.0;
    let read = |headers: &[(&'static str, &str)]| {
        let headers: BTreeMap<_, _> = headers.iter().copied().collect();
        Allowance::read(|name| headers.get(name).copied(), now)
    };
    let of = |remaining, secs, limit| Some(Allowance { remaining, reset: Duration::from_secs(secs), limit });
    let epoch = (now / 1_000 + 30).to_string();
    for (headers, wanted) in [
        (vec![("ratelimit", r#""default";r=50;t=30"#), ("ratelimit-policy", r#""default";q=100;w=60"#)], of(50, 30, Some(100))),
        (vec![("ratelimit", r#""a";r=9;t=1, "b";r=5;t=3600"#)], of(5, 3_600, None)),
        (vec![("ratelimit", r#""a";r=0;t=1, "b";r=0;t=3600"#)], of(0, 3_600, None)),
        (vec![("ratelimit", "a;r=50"), ("ratelimit-policy", "b;q=1;w=1, a;q=100;w=60")], of(50, 60, Some(100))),
        (vec![("ratelimit", "limit=100, remaining=50, reset=30")], of(50, 30, Some(100))),
        (
            vec![("ratelimit-remaining", "50"), ("ratelimit-reset", "30"), ("ratelimit-limit", "100, 100;w=60")],
            of(50, 30, Some(100)),
        ),
        (vec![("ratelimit-remaining", "76;w=21600"), ("ratelimit-limit", "100;w=21600")], of(76, 21_600, Some(100))),
        (vec![("x-ratelimit-remaining", "50"), ("x-ratelimit-reset", &epoch)], of(50, 30, None)),
        (vec![("x-ratelimit-remaining", "50"), ("x-ratelimit-reset", &format!("{epoch}000"))], of(50, 30, None)),
        (vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "30.0")], of(0, 30, None)),
        (vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "Fri, 15 Jan 2027 08:00:30 GMT")], of(0, 30, None)),
        (vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1000000001")], of(0, 0, None)),
        (vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "99999999")], of(0, 86_400, None)),
        (vec![("ratelimit-remaining", "0")], None),
        (vec![("ratelimit-remaining", "soon"), ("ratelimit-reset", "30")], None),
        (vec![("ratelimit-remaining", "-1"), ("ratelimit-reset", "30")], None),
        (vec![("ratelimit-remaining", "1"), ("ratelimit-reset", "soon")], None),
        (vec![("ratelimit", "r=1")], None),
    ] {
        assert_eq!(read(&headers), wanted, "{headers:?}");
    }
    let long = "9".repeat(400);
    let read = read(&[("x-ratelimit-remaining", &long), ("x-ratelimit-reset", "5")]);
    assert_eq!(read.map(|read| read.remaining), Some(u64::MAX));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the pattern of asking, in no window are there more than its length at the rate, and what may be made up for.
    #[test]
    fn never_above_the_rate(measured in 1.0f64..5_000.0, asks in prop::collection::vec((0u64..400, 1u64..4, 1usize..40), 1..80)) {
        let mut pace = halved(measured);
        let rate = pace.rate(T0).unwrap();
        let (mut now, mut sent) = (T0, Vec::new());
        for (wait, asker, times) in asks {
            now = now.after(Duration::from_millis(wait));
            for _ in 0..times {
                match pace.take(asker, now) {
                    Ok(()) => sent.push(now),
                    Err(until) => prop_assert!(until > now && until <= now.after(ASK_AGAIN)),
                }
            }
        }
        for (first, from) in sent.iter().enumerate() {
            for (last, to) in sent.iter().enumerate().skip(first) {
                let most = rate * (to.since(*from).as_secs_f64() + 0.05) + 1.0;
                prop_assert!((last - first + 1) as f64 <= most + 1e-6, "{} from {from:?} to {to:?} at {rate}", last - first + 1);
            }
        }
    }

    /// Whatever it was slowed to, and whatever is wanted up to a thousand a second: it is back at full within a minute and a bit.
    #[test]
    fn it_recovers(measured in 1.0f64..1_000.0, wanted in 1u64..1_000, latency in 1u64..2_000) {
        let mut pace = halved(measured);
        let mut open: VecDeque<(u64, u64)> = VecDeque::new();
        let (mut want, mut ask_at) = (0.0, 0);
        for ms in 1..=75_000u64 {
            while open.front().is_some_and(|(end, _)| *end <= ms) {
                let (_, sent) = open.pop_front().unwrap();
                pace.good(at(ms), at(sent));
            }
            if pace.is_free(at(ms)) {
                return Ok(());
            }
            want = f64::min(want + wanted as f64 / 1e3, wanted as f64);
            while want >= 1.0 && ms >= ask_at {
                match pace.take(1, at(ms)) {
                    Ok(()) => {
                        want -= 1.0;
                        open.push_back((ms + latency, ms));
                    }
                    Err(until) => ask_at = until.0 - T0.0,
                }
            }
        }
        prop_assert!(false, "still {:?}", pace.rate(at(75_000)));
    }

    #[test]
    fn headers_of_any_kind_are_read(remaining: String, reset: String, limit: String) {
        for names in [["ratelimit", "ratelimit-policy", "-"], ["ratelimit-remaining", "ratelimit-reset", "ratelimit-limit"]] {
            let headers: BTreeMap<_, _> = names.into_iter().zip([&remaining, &reset, &limit]).collect();
            if let Some(read) = Allowance::read(|name| headers.get(name), T0.0) {
                prop_assert!(read.reset <= Duration::from_secs(86_400));
                let mut pace = Pace::default();
                pace.told(read, T0, 10.0);
                prop_assert!(pace.rate(T0).is_none_or(|rate| rate > 0.0));
                let _ = pace.take(1, T0);
            }
        }
    }
}
