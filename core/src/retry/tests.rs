//! One property for each rule of the policy, and the documented examples.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const DAY_MS: u64 = 86_400_000;

fn policy(value: Value) -> RetryPolicy {
    serde_json::from_value(value).unwrap()
}

fn seconds(policy: &RetryPolicy) -> Vec<u64> {
    (1..=6).map(|n| policy.base_delay(n).as_secs()).collect()
}

/// Any valid policy.
fn valid() -> impl Strategy<Value = RetryPolicy> {
    let backoff = prop_oneof![Just(Backoff::Exponential), Just(Backoff::Linear), Just(Backoff::Fixed), Just(Backoff::List)];
    let jitter = prop_oneof![Just(Jitter::Full), Just(Jitter::Equal), Just(Jitter::None)];
    let delays = prop::collection::vec((0..600_000_u64).prop_map(Dur::from_millis), 1..20);
    let bounds = (1..100_000_000_u64, 0..100_000_000_u64);
    (1..200_u16, backoff, delays, bounds, 100..5_000_u32, jitter, 20 * 600_000..20 * DAY_MS).prop_map(
        |(max_attempts, backoff, delays, (min, more), factor, jitter, max_age)| RetryPolicy {
            max_attempts,
            backoff,
            delays: if backoff == Backoff::List { delays } else { Vec::new() },
            min: Dur::from_millis(min),
            max: Dur::from_millis(min + more),
            // Hundredths, because serde_json rounds the last of seventeen digits.
            factor: if backoff == Backoff::Exponential { f64::from(factor) / 100.0 } else { RetryPolicy::DEFAULT.factor },
            jitter,
            max_age: Dur::from_millis(max_age),
        },
    )
}

#[test]
fn missing_fields_have_the_documented_defaults() {
    let written = policy(json!({
        "max_attempts": 10, "backoff": "exponential", "delays": [], "min": "1s", "max": "10m",
        "factor": 2, "jitter": "full", "max_age": "24h",
    }));
    assert_eq!(policy(json!({})), written);
    assert_eq!(RetryPolicy::default(), written);
    assert_eq!(policy(json!({"max_attempts": 3})), RetryPolicy { max_attempts: 3, ..written.clone() });
    assert_eq!(
        policy(json!({"jitter": "none", "min": 0.5})),
        RetryPolicy { jitter: Jitter::None, min: Dur::from_millis(500), ..written }
    );
    assert_eq!(serde_json::to_value(RetryPolicy::default()).unwrap(), json!({}));
    let few = json!({"backoff": "list", "delays": ["1s", "1m30s"], "max_age": "2d"});
    assert_eq!(serde_json::to_value(policy(few.clone())).unwrap(), few);
}

#[test]
fn unknown_fields_and_words_are_refused() {
    for bad in [
        json!({"attempts": 3}),
        json!({"backoff": "Fixed"}),
        json!({"jitter": true}),
        json!({"max_attempts": -1}),
        json!({"max_attempts": 65_536}),
        json!({"max_attempts": 2.5}),
        json!({"min": "soon"}),
        json!({"max_age": null}),
        json!({"factor": "2"}),
    ] {
        assert!(serde_json::from_value::<RetryPolicy>(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn nonsense_is_refused_and_named() {
    for (bad, pointer) in [
        (json!({"max_attempts": 0}), "/max_attempts"),
        (json!({"max_age": 0}), "/max_age"),
        (json!({"factor": 0.5}), "/factor"),
        (json!({"factor": -2}), "/factor"),
        (json!({"factor": 1001}), "/factor"),
        (json!({"backoff": "linear", "factor": 3}), "/factor"),
        (json!({"min": "11m"}), "/min"),
        (json!({"backoff": "linear", "min": "2s", "max": "1s"}), "/min"),
        (json!({"min": 0}), "/min"),
        (json!({"delays": ["1s"]}), "/delays"),
        (json!({"backoff": "fixed", "delays": ["1s"]}), "/delays"),
        (json!({"backoff": "list"}), "/delays"),
        (json!({"backoff": "list", "delays": []}), "/delays"),
        (json!({"backoff": "list", "delays": ["13h", "12h"]}), "/delays"),
        (json!({"backoff": "list", "delays": ["2m"], "max_age": "1m"}), "/delays"),
        (json!({"backoff": "list", "delays": vec!["1s"; 101]}), "/delays"),
    ] {
        assert_eq!(policy(bad.clone()).validate().unwrap_err().pointer, pointer, "{bad}");
    }
    for factor in [f64::NAN, f64::INFINITY] {
        let bad = RetryPolicy { factor, ..RetryPolicy::DEFAULT };
        assert_eq!(bad.validate().unwrap_err().pointer, "/factor");
    }
    for good in [
        json!({}),
        json!({"max_attempts": 1}),
        json!({"backoff": "fixed", "min": 0}),
        json!({"backoff": "fixed", "min": "1h"}),
        json!({"min": "10m"}),
        json!({"factor": 1}),
        json!({"backoff": "list", "delays": [0, "12h", "12h"]}),
    ] {
        assert_eq!(policy(good.clone()).validate(), Ok(()), "{good}");
    }
}

#[test]
fn each_backoff_grows_as_documented() {
    assert_eq!(seconds(&policy(json!({}))), [1, 2, 4, 8, 16, 32]);
    assert_eq!(seconds(&policy(json!({"factor": 10, "min": "2s"}))), [2, 20, 200, 600, 600, 600]);
    assert_eq!(seconds(&policy(json!({"backoff": "linear", "min": "20s", "max": "90s"}))), [20, 40, 60, 80, 90, 90]);
    assert_eq!(seconds(&policy(json!({"backoff": "fixed", "min": "1h"}))), [3600; 6]);
    assert_eq!(seconds(&policy(json!({"backoff": "list", "delays": [5, 1, 9]}))), [5, 1, 9, 9, 9, 9]);
}

#[test]
fn jitter_reaches_both_ends() {
    let full = policy(json!({"min": "10s"}));
    assert_eq!(full.delay(1, 0), Duration::ZERO);
    assert_eq!(full.delay(1, u64::MAX), Duration::from_secs(10));
    assert_eq!(full.delay(1, u64::MAX / 2), Duration::from_secs(5));
    let equal = policy(json!({"min": "10s", "jitter": "equal"}));
    assert_eq!(equal.delay(1, 0), Duration::from_secs(5));
    assert_eq!(equal.delay(1, u64::MAX), Duration::from_secs(10));
}

#[test]
fn a_worker_may_choose_the_time_up_to_a_day() {
    let policy = policy(json!({"max_age": "30d"}));
    let after = |wish| policy.next(1, 0, 1_000, u64::MAX, Some(wish));
    assert_eq!(after(Duration::ZERO), Verdict::RetryAt(1_000));
    assert_eq!(after(Duration::from_secs(7)), Verdict::RetryAt(8_000));
    assert_eq!(after(Duration::from_nanos(1)), Verdict::RetryAt(1_001));
    assert_eq!(after(Duration::MAX), Verdict::RetryAt(1_000 + DAY_MS));
}

#[test]
fn the_limit_reached_first_ends_it() {
    let policy = policy(json!({"max_attempts": 3, "backoff": "fixed", "min": "10s", "jitter": "none", "max_age": "1m"}));
    let next = |charged, now_ms| policy.next(charged, 5_000, now_ms, 0, None);
    assert_eq!(next(2, 20_000), Verdict::RetryAt(30_000));
    assert_eq!(next(3, 20_000), Verdict::Exhausted(Exhausted::Attempts));
    assert_eq!(next(4, 20_000), Verdict::Exhausted(Exhausted::Attempts));
    assert_eq!(next(0, 55_000), Verdict::RetryAt(65_000));
    assert_eq!(next(0, 55_001), Verdict::Exhausted(Exhausted::Age));
    // A wish never ends what the policy would go on with, and never goes on with what it would end.
    let wish = |now_ms, secs| policy.next(1, 5_000, now_ms, 0, Some(Duration::from_secs(secs)));
    assert_eq!(wish(6_000, 60), Verdict::RetryAt(65_000));
    assert_eq!(wish(55_001, 60), Verdict::Exhausted(Exhausted::Age));
    assert_eq!(wish(55_001, 5), Verdict::RetryAt(60_001));
}

proptest! {
    #[test]
    fn generated_policies_are_valid_and_round_trip(policy in valid()) {
        prop_assert_eq!(policy.validate(), Ok(()));
        let json = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(&serde_json::from_str::<RetryPolicy>(&json).unwrap(), &policy);
        let packed = rmp_serde::to_vec_named(&policy).unwrap();
        prop_assert_eq!(&rmp_serde::from_slice::<RetryPolicy>(&packed).unwrap(), &policy);
    }

    #[test]
    fn base_delays_stay_between_min_and_max_and_never_shrink(policy in valid(), n in 1..u16::MAX) {
        let (delay, later) = (policy.base_delay(n), policy.base_delay(n + 1));
        match policy.backoff {
            Backoff::List => prop_assert!(policy.delays.iter().any(|listed| listed.get() == delay)),
            Backoff::Exponential | Backoff::Linear | Backoff::Fixed => {
                prop_assert!(delay >= policy.min.get() && delay <= policy.max.get());
                prop_assert!(later >= delay);
            }
        }
    }

    #[test]
    fn jitter_stays_in_its_range(policy in valid(), n in 1..u16::MAX, random: u64) {
        let (base, delay) = (policy.base_delay(n), policy.delay(n, random));
        prop_assert!(delay <= base);
        match (policy.backoff, policy.jitter) {
            (Backoff::List, _) | (_, Jitter::None) => prop_assert_eq!(delay, base),
            (_, Jitter::Equal) => prop_assert!(delay >= base / 2),
            (_, Jitter::Full) => {}
        }
    }

    #[test]
    fn full_jitter_is_even(n in 1..6_u16, quarter in 0..4_u64) {
        // Random numbers of one quarter of their range give delays in the same quarter of the delay.
        let policy = RetryPolicy::DEFAULT;
        let base = policy.base_delay(n).as_millis() as u64;
        let from = policy.delay(n, quarter << 62).as_millis() as u64;
        let to = policy.delay(n, (quarter << 62) | (u64::MAX >> 2)).as_millis() as u64;
        prop_assert!(from.abs_diff(base * quarter / 4) <= 1);
        prop_assert!(to.abs_diff(base * (quarter + 1) / 4) <= 1);
    }

    #[test]
    fn the_last_delay_of_a_list_repeats(millis in prop::collection::vec(0..600_000_u64, 1..20), n in 1..40_u16, random: u64) {
        let delays = millis.into_iter().map(Dur::from_millis).collect();
        let policy = RetryPolicy { backoff: Backoff::List, delays, ..RetryPolicy::DEFAULT };
        let index = usize::from(n - 1).min(policy.delays.len() - 1);
        prop_assert_eq!(policy.delay(n, random), policy.delays[index].get());
    }

    #[test]
    fn never_more_than_max_attempts(policy in valid(), random: u64) {
        let (mut now, mut failures) = (1_000, 0);
        loop {
            failures += 1;
            prop_assert!(failures <= policy.max_attempts);
            match policy.next(failures, 1_000, now, random, None) {
                Verdict::RetryAt(at) => now = at,
                Verdict::Exhausted(_) => break,
            }
        }
    }

    #[test]
    fn no_attempt_after_max_age(policy in valid(), charged in 0..300_u16, first: u32, ran: u32, random: u64, wish in prop::option::of(0..200_000_u64)) {
        let (first, now) = (u64::from(first), u64::from(first) + u64::from(ran));
        let verdict = policy.next(charged, first, now, random, wish.map(Duration::from_secs));
        match verdict {
            Verdict::RetryAt(at) => {
                prop_assert!(charged < policy.max_attempts);
                prop_assert!(at >= now && at <= first + policy.max_age.millis());
                if let Some(wish) = wish {
                    let end = first + policy.max_age.millis();
                    prop_assert_eq!(at, (now + (wish * 1_000).min(DAY_MS)).min(end));
                }
            }
            Verdict::Exhausted(Exhausted::Attempts) => prop_assert!(charged >= policy.max_attempts),
            Verdict::Exhausted(Exhausted::Age) => {
                // Neither the policy's own delay nor the wish fits.
                let own = policy.delay(charged, random).as_millis() as u64;
                let least = wish.map_or(own, |wish| own.min((wish * 1_000).min(DAY_MS)));
                prop_assert!(now + least > first + policy.max_age.millis());
            }
        }
    }

    /// Also a policy that nobody validated stays within bounds and does not panic.
    #[test]
    fn any_policy_is_safe(
        max_attempts: u16, factor: f64, min in 0..=Dur::MAX.millis(), max in 0..=Dur::MAX.millis(),
        kind in 0..4_usize, charged: u16, first: u64, now: u64, random: u64,
    ) {
        let policy = RetryPolicy {
            max_attempts,
            backoff: [Backoff::Exponential, Backoff::Linear, Backoff::Fixed, Backoff::List][kind],
            min: Dur::from_millis(min),
            max: Dur::from_millis(max),
            factor,
            ..RetryPolicy::DEFAULT
        };
        let _ = policy.validate();
        prop_assert!(policy.delay(charged, random) <= Dur::MAX.get());
        if let Verdict::RetryAt(at) = policy.next(charged, first, now, random, Some(Duration::MAX)) {
            prop_assert!(at >= now);
        }
    }
}
