//! The limits of a task from JSON (API: Tasks, Queues, limits, task types).

use serde_json::value::RawValue;

use super::keys::{given, key};
use crate::fields::{self, Errors};
use crate::limit::{TaskLimit, check_rule, most, read_burst, refuse_built_in};

/// The most limits of one task's own.
pub const MAX_LIMITS: usize = 8;

/// Reads the list that stands at `at`, in order of their keys; `None`: something was refused.
pub(super) fn read(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<Vec<TaskLimit>> {
    let list: Vec<&RawValue> = match serde_json::from_str(raw.get()) {
        Ok(list) => list,
        Err(error) => {
            errors.invalid(at, fields::bare(&error));
            return None;
        }
    };
    if list.len() > MAX_LIMITS {
        errors.invalid(at, format!("may have at most {MAX_LIMITS} limits"));
        return None;
    }
    let mut limits: Vec<TaskLimit> = Vec::with_capacity(list.len());
    for (n, raw) in list.into_iter().enumerate() {
        let at = format!("{at}/{n}");
        let Some(limit) = one(raw, &at, errors) else { continue };
        if limits.iter().any(|other| other.key == limit.key) {
            errors.invalid(format!("{at}/key"), "is the key of a limit before");
        }
        limits.push(limit);
    }
    limits.sort_by(|a, b| a.key.cmp(&b.key));
    Some(limits)
}

fn one(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<TaskLimit> {
    const FIELDS: [&str; 5] = ["key", "rate", "burst", "concurrency", "cost"];
    let object = fields::object(raw, at, errors)?;
    let mut limit = TaskLimit { key: String::new(), rate: None, burst: None, concurrency: None, cost: 1 };
    for (name, raw, at) in given(&object, at, &FIELDS, errors) {
        match name {
            "rate" => limit.rate = Some(fields::value(raw, &at, errors)?),
            "burst" => limit.burst = Some(read_burst(raw, &at, errors)?),
            // A task that nothing may start is not worth accepting; a stored limit may stop a key.
            "concurrency" => limit.concurrency = Some(fields::number(raw, 1, most::CONCURRENCY, &at, errors)? as u32),
            "cost" => limit.cost = fields::number(raw, 1, most::BURST, &at, errors)? as u32,
            _ => {}
        }
    }
    limit.key = key(&object, at, errors)?;
    refuse_built_in(&limit.key, &format!("{at}/key"), errors);
    check_rule(&limit.rule(), at, errors);
    // Without a rate of its own the one in force is not known yet: then a cost above its burst counts as the burst.
    let burst = limit.rule().burst();
    if limit.rate.is_some() && limit.cost > burst {
        errors.invalid(format!("{at}/cost"), format!("is above burst, {burst}: it could never start"));
    }
    Some(limit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::tests::{check, pointers};
    use crate::spec::Spec;

    #[test]
    fn limits_are_kept_in_order_of_their_keys() {
        let text = r#"{"task":"a","limits":[{"key":"b","rate":"10/s","burst":5,"cost":5},{"key":"a","concurrency":2,"rate":null},{"key":"c","cost":3}]}"#;
        let draft = check(text).unwrap();
        let limits = Spec::decode(&draft.spec.encode()).unwrap().limits;
        assert_eq!(limits.iter().map(|limit| &*limit.key).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((limits[0].concurrency, limits[0].rate, limits[0].cost), (Some(2), None, 1));
        assert_eq!((limits[1].burst, limits[1].cost, limits[2].cost), (Some(5), 5, 3));
        assert!(check(r#"{"task":"a","limits":[]}"#).unwrap().spec.limits.is_empty());
        assert!(check(r#"{"task":"a","limits":null}"#).unwrap().spec.limits.is_empty());
    }

    #[test]
    fn what_is_refused_names_its_place() {
        for (limits, pointer) in [
            (r#""customer""#, "/limits"),
            (r#"{"key":"a"}"#, "/limits"),
            (r#"["a"]"#, "/limits/0"),
            (r"[{}]", "/limits/0/key"),
            (r#"[{"key":""}]"#, "/limits/0/key"),
            (r#"[{"key":"a\n"}]"#, "/limits/0/key"),
            (r#"[{"key":"queue:mail"}]"#, "/limits/0/key"),
            (r#"[{"key":"task:a"}]"#, "/limits/0/key"),
            (r#"[{"key":"worker:w"}]"#, "/limits/0/key"),
            (r#"[{"key":"a"},{"key":"b"},{"key":"a"}]"#, "/limits/2/key"),
            (r#"[{"key":"a","rate":"0/s"}]"#, "/limits/0/rate"),
            (r#"[{"key":"a","rate":"-1/s"}]"#, "/limits/0/rate"),
            (r#"[{"key":"a","rate":"1e99/s"}]"#, "/limits/0/rate"),
            (r#"[{"key":"a","rate":"2000000/s"}]"#, "/limits/0/rate"),
            (r#"[{"key":"a","rate":"1/d"}]"#, "/limits/0/rate"),
            (r#"[{"key":"a","rate":0}]"#, "/limits/0/rate"),
            (r#"[{"key":"a","rate":-1}]"#, "/limits/0/rate"),
            (r#"[{"key":"a","concurrency":0}]"#, "/limits/0/concurrency"),
            (r#"[{"key":"a","concurrency":-1}]"#, "/limits/0/concurrency"),
            (r#"[{"key":"a","concurrency":1.5}]"#, "/limits/0/concurrency"),
            (r#"[{"key":"a","concurrency":1e99}]"#, "/limits/0/concurrency"),
            (r#"[{"key":"a","rate":"1/s","burst":0}]"#, "/limits/0/burst"),
            (r#"[{"key":"a","rate":"1/s","burst":-3}]"#, "/limits/0/burst"),
            (r#"[{"key":"a","burst":2}]"#, "/limits/0/burst"),
            (r#"[{"key":"a","cost":0}]"#, "/limits/0/cost"),
            (r#"[{"key":"a","rate":"1/s","cost":2}]"#, "/limits/0/cost"),
            (r#"[{"key":"a","rate":"1/s","burst":3,"cost":4}]"#, "/limits/0/cost"),
            (r#"[{"key":"a","rates":"1/s"}]"#, "/limits/0/rates"),
        ] {
            assert_eq!(pointers(&format!(r#"{{"task":"a","limits":{limits}}}"#)), [pointer], "{limits}");
        }
        let many: Vec<_> = (0..=super::MAX_LIMITS).map(|n| json!({ "key": n.to_string() })).collect();
        assert_eq!(pointers(&json!({"task": "a", "limits": many}).to_string()), ["/limits"]);
        let told = check(r#"{"task":"a","limits":[{"key":"queue:mail"}]}"#).unwrap_err().errors[0].message.clone();
        assert!(told.contains("/v1/queues/mail"), "{told}");
    }

    #[test]
    fn order_and_fair_keys_are_names_of_any_kind() {
        let spec = check(r#"{"task":"a","order_key":"Kunde 42 ✓","fair_key":"b"}"#).unwrap().spec;
        assert_eq!((spec.order_key.as_deref(), spec.fair_key.as_deref()), (Some("Kunde 42 ✓"), Some("b")));
        let long = "x".repeat(256);
        for (text, pointer) in [
            (r#"{"task":"a","order_key":""}"#.to_owned(), "/order_key"),
            (format!(r#"{{"task":"a","order_key":"{long}"}}"#), "/order_key"),
            (r#"{"task":"a","order_key":7}"#.to_owned(), "/order_key"),
            (r#"{"task":"a","fair_key":"\u0000"}"#.to_owned(), "/fair_key"),
            (r#"{"task":"a","order_key":"k","batch":{"key":"b"}}"#.to_owned(), "/order_key"),
            (r#"{"task":"a","link":{"task":"b","order_key":""}}"#.to_owned(), "/link/order_key"),
        ] {
            assert_eq!(pointers(&text), [pointer], "{text}");
        }
    }

    proptest! {
        /// What is accepted can start: the rules that the limiters rely on hold, whatever was sent.
        #[test]
        fn what_is_accepted_holds_the_rules(
            keys in prop::collection::vec("[ab:]{0,3}|queue:x|task:x", 0..10),
            numbers in prop::collection::vec((prop::option::of(-2i64..12), prop::option::of(-2i64..12), prop::option::of(-2i64..12), prop::option::of("[0-9]{1,3}/[smhd]|0/s|-1/s")), 10),
        ) {
            let limits: Vec<_> = keys.iter().zip(numbers).map(|(key, (burst, concurrency, cost, rate))| {
                json!({"key": key, "rate": rate, "burst": burst, "concurrency": concurrency, "cost": cost})
            }).collect();
            let Ok(draft) = check(&json!({"task": "t", "limits": limits}).to_string()) else { return Ok(()) };
            let kept = draft.spec.limits;
            prop_assert_eq!(kept.len(), limits.len());
            prop_assert!(kept.len() <= super::MAX_LIMITS && kept.windows(2).all(|pair| pair[0].key < pair[1].key));
            for limit in kept {
                prop_assert!(!limit.key.is_empty() && !crate::limit::is_built_in(&limit.key));
                prop_assert!(limit.concurrency != Some(0) && limit.cost >= 1 && limit.burst != Some(0));
                prop_assert!(limit.rate.is_some() || limit.burst.is_none());
                prop_assert!(limit.rate.is_none() || limit.cost <= limit.rule().burst());
            }
        }
    }
}
