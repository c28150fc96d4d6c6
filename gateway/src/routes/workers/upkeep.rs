//! Reading how the instances of a worker are chosen and kept well: `balance`, `health`, `recycle`.

use std::time::Duration;

use lovage_core::fields::{self, Errors};
use lovage_core::instance::{Balance, Health, Recycle};
use lovage_core::problem::Problem;
use lovage_core::units::{Dur, Size};
use lovage_core::worker::WorkerConfig;
use serde_json::value::RawValue;

const LONGEST_INTERVAL: Duration = Duration::from_secs(3_600);
const LONGEST_PATH: usize = 1_024;
const MOST_TASKS: u64 = 1_000_000_000_000;
const SHORTEST_AGE: Duration = Duration::from_secs(1);

pub(super) fn balance(raw: &RawValue, errors: &mut Errors) -> Balance {
    let word = fields::string(raw, "/balance", errors).unwrap_or_default();
    let balance = Balance::of(&word);
    if balance.is_none() && errors.is_empty() {
        errors.invalid("/balance", format!("must be one of {}", Balance::WORDS.join(", ")));
    }
    balance.unwrap_or_default()
}

pub(super) fn health(raw: &RawValue, errors: &mut Errors) -> Option<Health> {
    let mut health = Health { path: String::new(), interval: Health::INTERVAL };
    for (name, raw) in fields::object(raw, "/health", errors)? {
        match &*name {
            "path" => health.path = fields::string(raw, "/health/path", errors).unwrap_or_default().into_owned(),
            "interval" if fields::is_null(raw) => {}
            "interval" => {
                health.interval = fields::value(raw, "/health/interval", errors).unwrap_or(Health::INTERVAL);
                if health.interval.get() < Health::SHORTEST || health.interval.get() > LONGEST_INTERVAL {
                    errors.invalid("/health/interval", "must be from 1s to 1h");
                }
            }
            other => errors.unknown("/health", other, &["path", "interval"]),
        }
    }
    let plain = health.path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !health.path.starts_with('/') || !plain || health.path.len() > LONGEST_PATH {
        errors.invalid("/health/path", "must be a path that begins with a slash, such as \"/healthz\"");
    }
    Some(health)
}

pub(super) fn recycle(raw: &RawValue, errors: &mut Errors) -> Option<Recycle> {
    const FIELDS: [&str; 4] = ["max_tasks", "max_memory", "max_age", "max_errors"];
    let mut recycle = Recycle::default();
    for (name, raw) in fields::object(raw, "/recycle", errors)? {
        let at = format!("/recycle/{name}");
        match &*name {
            name if fields::is_null(raw) && FIELDS.contains(&name) => {}
            "max_tasks" => recycle.max_tasks = fields::number(raw, 1, MOST_TASKS, &at, errors),
            "max_errors" => recycle.max_errors = fields::number(raw, 1, MOST_TASKS, &at, errors),
            "max_memory" => {
                recycle.max_memory = fields::value::<Size>(raw, &at, errors);
                if recycle.max_memory.is_some_and(|most| most.0 == 0) {
                    errors.invalid(at, "must be more than nothing");
                }
            }
            "max_age" => {
                recycle.max_age = fields::value::<Dur>(raw, &at, errors);
                if recycle.max_age.is_some_and(|most| most.get() < SHORTEST_AGE) {
                    errors.invalid(at, "must be at least 1s");
                }
            }
            other => errors.unknown("/recycle", other, &FIELDS),
        }
    }
    if recycle == Recycle::default() && errors.is_empty() {
        errors.invalid("/recycle", format!("must set one of {}", FIELDS.join(", ")));
    }
    Some(recycle)
}

/// Refuses what does not go with calling all instances at once.
pub(super) fn check_broadcast(config: &WorkerConfig, errors: &mut Errors) {
    if config.balance != Balance::Broadcast {
        return;
    }
    for (at, given) in [("/async", config.accepts), ("/batch", config.batch.is_some())] {
        if given {
            errors.invalid(at, "does not go with the balance broadcast");
        }
    }
}

/// Refuses more instances than are called at once; `registered` beside those in the document.
pub(super) fn check_number(config: &WorkerConfig, registered: usize, most: usize, at: &str) -> Result<(), Problem> {
    if config.balance == Balance::Broadcast && config.urls.len() + registered > most {
        let message = format!("a worker with the balance broadcast may have at most {most} instances");
        return Err(Problem::invalid(at, message));
    }
    Ok(())
}
