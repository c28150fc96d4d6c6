//! Reading what a request says of a queue. PUT starts from an empty one, PATCH from the stored one.

use serde_json::value::RawValue;

use super::{Pause, QueueConfig};
use crate::fields::{self, Errors};
use crate::names;
use crate::problem::Problem;
use crate::signature;
use crate::time::Millis;
use crate::units::Dur;

/// The fields of a queue.
pub const FIELDS: [&str; 13] = [
    "rate",
    "burst",
    "concurrency",
    "max_length",
    "on_full",
    "max_age",
    "retry",
    "soft_time_limit",
    "time_limit",
    "max_run",
    "retention",
    "worker",
    "order",
];
/// What GET shows beside them.
const SHOWN: [&str; 4] = ["name", "created_at", "version", "paused"];

/// The largest `concurrency`, and the largest `burst`.
pub const MOST_CONCURRENCY: u64 = 1_000_000;
/// The largest `max_length`.
const MOST_LENGTH: u64 = 1_000_000_000_000;

/// Sets the fields that `text` names; `null` takes one away.
pub fn apply(config: &mut QueueConfig, text: &str) -> Result<(), Problem> {
    let mut errors = Errors::default();
    for (name, raw) in fields::document(text)? {
        let given = (!fields::is_null(raw)).then_some(raw);
        let at = crate::problem::pointer_step(&name);
        let duration = |errors: &mut Errors| given.and_then(|raw| time_span(raw, &at, errors));
        let count = |errors: &mut Errors, min, max| given.and_then(|raw| fields::number(raw, min, max, &at, errors));
        match &*name {
            "rate" => config.rate = given.and_then(|raw| fields::value(raw, &at, &mut errors)),
            "burst" => config.burst = count(&mut errors, 1, MOST_CONCURRENCY).map(|n| n as u32),
            "concurrency" => config.concurrency = count(&mut errors, 0, MOST_CONCURRENCY).map(|n| n as u32),
            "max_length" => config.max_length = count(&mut errors, 1, MOST_LENGTH),
            "on_full" => {
                config.on_full = given.and_then(|raw| one_of(raw, &at, "must be reject or drop_oldest", &mut errors));
            }
            "max_age" => config.max_age = duration(&mut errors),
            "retry" => config.retry = given.and_then(|raw| signature::read_retry(raw, &at, &mut errors)),
            "soft_time_limit" => config.soft_time_limit = duration(&mut errors),
            "time_limit" => config.time_limit = duration(&mut errors),
            "max_run" => config.max_run = duration(&mut errors),
            "retention" => config.retention = given.and_then(|raw| fields::value(raw, &at, &mut errors)),
            "worker" => {
                let worker = given.and_then(|raw| fields::string(raw, &at, &mut errors)).map(String::from);
                if worker.as_ref().is_some_and(|worker| !names::is_name(worker)) {
                    errors.invalid(&*at, names::NAME_RULE);
                }
                config.worker = worker;
            }
            "order" => config.order = given.and_then(|raw| one_of(raw, &at, "must be priority, fifo or fair", &mut errors)),
            "paused" => errors.invalid(at, "is set by POST …/pause, …/drain and …/resume"),
            shown if SHOWN.contains(&shown) => errors.invalid(at, "is shown and cannot be set"),
            other => errors.unknown("", other, &FIELDS),
        }
    }
    if errors.is_empty() {
        agree(config, &mut errors);
    }
    errors.problem().map_or(Ok(()), Err)
}

/// Fields that say something only beside others.
fn agree(config: &QueueConfig, errors: &mut Errors) {
    if config.burst.is_some() && config.rate.is_none() {
        errors.invalid("/burst", "says nothing without rate");
    }
    if config.on_full.is_some() && config.max_length.is_none() {
        errors.invalid("/on_full", "says nothing without max_length");
    }
    let limits = config.soft_time_limit.zip(config.time_limit);
    if limits.is_some_and(|(soft, hard)| soft >= hard) {
        errors.invalid("/soft_time_limit", "must be shorter than time_limit");
    }
}

/// What a pause is to be: `{"intake": false, "dispatch": true, "until": null}` where nothing is said. An empty text says
/// nothing.
pub fn read_pause(text: &str, now: Millis) -> Result<Pause, Problem> {
    let mut pause = Pause { intake: false, dispatch: true, until: None };
    if text.trim().is_empty() {
        return Ok(pause);
    }
    let mut errors = Errors::default();
    for (name, raw) in fields::document(text)? {
        let flag = |default: bool, at: &str, errors: &mut Errors| {
            if fields::is_null(raw) { default } else { fields::boolean(raw, at, errors).unwrap_or_default() }
        };
        match &*name {
            "intake" => pause.intake = flag(false, "/intake", &mut errors),
            "dispatch" => pause.dispatch = flag(true, "/dispatch", &mut errors),
            "until" if fields::is_null(raw) => {}
            "until" => pause.until = pause_end(raw, now, "/until", &mut errors),
            other => errors.unknown("", other, &["intake", "dispatch", "until"]),
        }
    }
    if errors.is_empty() && !pause.intake && !pause.dispatch {
        errors.invalid("", "closes nothing: one of intake and dispatch must be true");
    }
    errors.problem().map_or(Ok(pause), Err)
}

/// Until when a pause is to last that closes one thing: `{"until": null}` where nothing is said.
pub fn read_until(text: &str, now: Millis) -> Result<Option<Millis>, Problem> {
    fields::only(text, "until", |raw, at, errors| pause_end(raw, now, at, errors))
}

/// When a pause is to end: later than `now`.
pub(crate) fn pause_end(raw: &RawValue, now: Millis, at: &str, errors: &mut Errors) -> Option<Millis> {
    let until = signature::time(raw, at, errors)?;
    if until <= now {
        errors.invalid(at, "is over already");
    }
    Some(until)
}

fn time_span(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<Dur> {
    let duration: Option<Dur> = fields::value(raw, at, errors);
    if duration.is_some_and(Dur::is_zero) {
        errors.invalid(at, "must be longer than zero");
    }
    duration
}

fn one_of<T: serde::de::DeserializeOwned>(raw: &RawValue, at: &str, message: &str, errors: &mut Errors) -> Option<T> {
    let value = serde_json::from_str(raw.get()).ok();
    if value.is_none() {
        errors.invalid(at, message);
    }
    value
}
