//! `unique`, `debounce` and `batch` from JSON.

use serde_json::value::RawValue;

use crate::fields::{self, Errors, Object};
use crate::keys::{Batching, DEFAULT_BATCH_WAIT, Debounce, MAX_BATCH, OnConflict, Unique, UniqueScope};
use crate::names;
use crate::units::Dur;

/// How long a task can wait for company at most.
const MAX_BATCH_WAIT: Dur = Dur::from_secs(600);

/// Reads the object of `unique` that stands at `at`; `None`: it was refused.
pub fn unique(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<Unique> {
    const FIELDS: [&str; 4] = ["key", "scope", "ttl", "on_conflict"];
    let (mut scope, mut ttl, mut on_conflict) = (UniqueScope::default(), None, OnConflict::default());
    let object = fields::object(raw, at, errors)?;
    for (name, raw, at) in given(&object, at, &FIELDS, errors) {
        match name {
            "scope" => scope = fields::value(raw, &at, errors)?,
            "ttl" => ttl = Some(positive(raw, &at, errors)?),
            "on_conflict" => on_conflict = fields::value(raw, &at, errors)?,
            _ => {}
        }
    }
    match (scope, ttl) {
        (UniqueScope::Ttl, None) => errors.invalid(format!("{at}/ttl"), "must be given with scope \"ttl\""),
        (UniqueScope::Queued | UniqueScope::Active, Some(_)) => errors.invalid(format!("{at}/ttl"), "is only for scope \"ttl\""),
        _ => {}
    }
    Some(Unique { key: key(&object, at, errors)?, scope, ttl, on_conflict })
}

/// Reads the object of `debounce` that stands at `at`; `None`: it was refused.
pub fn debounce(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<Debounce> {
    const FIELDS: [&str; 3] = ["key", "wait", "max_wait"];
    let (mut wait, mut max_wait) = (None, None);
    let object = fields::object(raw, at, errors)?;
    for (name, raw, at) in given(&object, at, &FIELDS, errors) {
        match name {
            "wait" => wait = Some(positive(raw, &at, errors)?),
            "max_wait" => max_wait = Some(positive(raw, &at, errors)?),
            _ => {}
        }
    }
    let Some(wait) = wait else {
        errors.invalid(format!("{at}/wait"), "must be given");
        return None;
    };
    if max_wait.is_some_and(|max_wait| max_wait < wait) {
        errors.invalid(format!("{at}/max_wait"), format!("is shorter than wait, {wait}"));
    }
    Some(Debounce { key: key(&object, at, errors)?, wait, max_wait })
}

pub(super) fn batch(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<Batching> {
    const FIELDS: [&str; 3] = ["key", "max", "max_wait"];
    let (mut max, mut max_wait) = (MAX_BATCH, DEFAULT_BATCH_WAIT);
    let object = fields::object(raw, at, errors)?;
    for (name, raw, at) in given(&object, at, &FIELDS, errors) {
        match name {
            "max" => max = fields::number(raw, 1, MAX_BATCH.into(), &at, errors)? as u16,
            "max_wait" => {
                max_wait = fields::value(raw, &at, errors)?;
                if max_wait > MAX_BATCH_WAIT {
                    errors.invalid(at, format!("must be at most {MAX_BATCH_WAIT}"));
                }
            }
            _ => {}
        }
    }
    Some(Batching { key: key(&object, at, errors)?, max, max_wait })
}

/// The fields that have a value, with their places; what is not in `known` is refused.
pub(super) fn given<'o, 'a>(
    object: &'o Object<'a>,
    at: &str,
    known: &[&str],
    errors: &mut Errors,
) -> Vec<(&'o str, &'a RawValue, String)> {
    let mut list = Vec::with_capacity(object.len());
    for (name, raw) in object {
        if !known.contains(&&**name) {
            errors.unknown(at, name, known);
        } else if !fields::is_null(raw) {
            list.push((&**name, *raw, format!("{at}/{name}")));
        }
    }
    list
}

fn positive(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<Dur> {
    let value: Dur = fields::value(raw, at, errors)?;
    if value.is_zero() {
        errors.invalid(at, "must be longer than zero");
        return None;
    }
    Some(value)
}

pub(super) fn key(object: &Object<'_>, at: &str, errors: &mut Errors) -> Option<String> {
    let at = format!("{at}/key");
    let Some((_, raw)) = object.iter().find(|(name, raw)| name == "key" && !fields::is_null(raw)) else {
        errors.invalid(at, "must be given");
        return None;
    };
    let key = fields::string(raw, &at, errors)?;
    if !names::is_key(&key) {
        errors.invalid(at, names::KEY_RULE);
        return None;
    }
    Some(key.into_owned())
}
