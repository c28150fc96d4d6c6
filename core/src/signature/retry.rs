//! A retry policy from JSON, field by field, so that a refusal names its place.

use crate::retry::RetryPolicy;
use serde_json::value::RawValue;

use crate::fields::{self, Errors};

const FIELDS: [&str; 8] = ["max_attempts", "backoff", "delays", "min", "max", "factor", "jitter", "max_age"];

/// Reads and checks a policy; `None` if anything in it was refused.
pub(crate) fn read(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<RetryPolicy> {
    let mut policy = RetryPolicy::DEFAULT;
    let mut mine = Errors::default();
    for (name, raw) in fields::object(raw, at, errors)? {
        if fields::is_null(raw) && FIELDS.contains(&&*name) {
            continue;
        }
        let at = format!("{at}/{name}");
        match &*name {
            "max_attempts" => set(&mut policy.max_attempts, fields::number(raw, 1, 65_535, &at, &mut mine).map(|n| n as u16)),
            "backoff" => set(&mut policy.backoff, fields::value(raw, &at, &mut mine)),
            "delays" => set(&mut policy.delays, fields::value(raw, &at, &mut mine)),
            "min" => set(&mut policy.min, fields::value(raw, &at, &mut mine)),
            "max" => set(&mut policy.max, fields::value(raw, &at, &mut mine)),
            "factor" => set(&mut policy.factor, fields::value(raw, &at, &mut mine)),
            "jitter" => set(&mut policy.jitter, fields::value(raw, &at, &mut mine)),
            "max_age" => set(&mut policy.max_age, fields::value(raw, &at, &mut mine)),
            other => mine.unknown(at.strip_suffix(&format!("/{other}")).unwrap_or_default(), other, &FIELDS),
        }
    }
    if mine.is_empty()
        && let Err(error) = policy.validate()
    {
        mine.push(error.under(at));
    }
    let fine = mine.is_empty();
    errors.join(mine);
    fine.then_some(policy)
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}
