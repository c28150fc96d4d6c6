//! Reading the fields of a worker into its stored form. PUT starts from an empty one, PATCH from the stored one.

use std::collections::BTreeMap;
use std::time::Duration;

use lovage_core::classify::StatusMap;
use lovage_core::instance::Balance;
use lovage_core::keys::MAX_BATCH;
use lovage_core::limit::{check_rule, read_rule};
use lovage_core::problem::{self, Problem, pointer_step};
use lovage_core::units::Dur;
use lovage_core::worker::{Breaker, WorkerBatch, WorkerConfig};
use serde_json::value::RawValue;

use super::upkeep;
use crate::app::App;
use crate::secrets;
use lovage_core::fields::{self, Errors};
use lovage_core::{Rules, names};

const FIELDS: [&str; 19] = [
    "url",
    "urls",
    "tasks",
    "queues",
    "balance",
    "concurrency",
    "rate",
    "burst",
    "cancel_grace",
    "headers",
    "async",
    "pull",
    "control_url",
    "breaker",
    "health",
    "recycle",
    "batch",
    "status_map",
    "signing",
];
const LATER: [&str; 3] = ["auth", "http", "max_run"];
const MOST_URLS: usize = 100;
const MOST_PATTERNS: usize = 100;
const MOST_CONCURRENCY: u64 = 100_000;
const MOST_FAILURES: u64 = 10_000;
const SHORTEST_OPEN: Duration = Duration::from_millis(100);
const LONGEST_OPEN: Duration = Duration::from_secs(3600);

/// Sets the fields that `text` names; `null` gives a field its default again, and a header its value in `kept`. The
/// secret, if one was given, is returned.
pub(super) fn apply(
    app: &App,
    text: &str,
    config: &mut WorkerConfig,
    kept: &BTreeMap<String, String>,
) -> Result<Option<String>, Problem> {
    let rules = app.rules();
    let mut errors = Errors::default();
    let mut secret = None;
    let (mut url, mut urls) = (false, false);
    for (name, raw) in fields::document(text)? {
        let given = !fields::is_null(raw);
        match &*name {
            "url" => {
                url = given;
                let one = if given { fields::string(raw, "/url", &mut errors) } else { None };
                config.urls = one.into_iter().map(Into::into).collect();
                check_urls(&config.urls, |_| "/url".to_owned(), &rules, &mut errors);
            }
            "urls" => {
                urls = given;
                config.urls = list(raw, "/urls", MOST_URLS, &mut errors);
                check_urls(&config.urls, |n| format!("/urls/{n}"), &rules, &mut errors);
            }
            "tasks" => {
                config.tasks = list(raw, "/tasks", MOST_PATTERNS, &mut errors);
                check_each(&config.tasks, "/tasks", names::is_task_pattern, names::PATTERN_RULE, &mut errors);
            }
            "queues" => {
                config.queues = list(raw, "/queues", MOST_PATTERNS, &mut errors);
                check_each(&config.queues, "/queues", names::is_name, names::NAME_RULE, &mut errors);
            }
            "concurrency" => {
                config.concurrency = if given {
                    fields::number(raw, 1, MOST_CONCURRENCY, "/concurrency", &mut errors).map(|n| n as u32)
                } else {
                    None
                };
            }
            "rate" | "burst" => {
                let mut rule = config.rule();
                read_rule(&mut rule, &name, raw, &format!("/{name}"), &mut errors);
                (config.rate, config.burst) = (rule.rate, rule.burst);
            }
            "cancel_grace" => config.cancel_grace = if given { fields::value(raw, "/cancel_grace", &mut errors) } else { None },
            "headers" => config.headers = headers(raw, kept, &rules, &mut errors),
            "async" => config.accepts = given && fields::boolean(raw, "/async", &mut errors).unwrap_or_default(),
            "pull" => config.pull = given && fields::boolean(raw, "/pull", &mut errors).unwrap_or_default(),
            "control_url" => {
                let url = if given { fields::string(raw, "/control_url", &mut errors) } else { None };
                config.control_url = url.map(Into::into);
                check_urls(config.control_url.as_slice(), |_| "/control_url".to_owned(), &rules, &mut errors);
            }
            "breaker" => config.breaker = if given { breaker(raw, &mut errors) } else { None },
            "balance" => config.balance = if given { upkeep::balance(raw, &mut errors) } else { Balance::default() },
            "health" => config.health = if given { upkeep::health(raw, &mut errors) } else { None },
            "recycle" => config.recycle = if given { upkeep::recycle(raw, &mut errors) } else { None },
            "batch" => config.batch = if given { batch(raw, &mut errors) } else { None },
            "status_map" => config.status_map = if given { status_map(raw, &mut errors) } else { None },
            "signing" if given => {
                secret = fields::string(raw, "/signing", &mut errors).map(String::from);
                if secret.as_ref().is_some_and(|secret| !secrets::is_secret(secret)) {
                    errors.invalid("/signing", secrets::SECRET_RULE);
                }
            }
            "signing" => {}
            later if LATER.contains(&later) => errors.unsupported("", later),
            other => errors.unknown("", other, &FIELDS),
        }
    }
    check_rule(&config.rule(), "", &mut errors);
    if url && urls {
        errors.invalid("/urls", "cannot be given together with url");
    }
    if config.pull && !config.urls.is_empty() {
        errors.invalid("/pull", "a worker that pulls is not called: it has no url");
    }
    if config.pull {
        let of_calls = [
            ("/concurrency", config.concurrency.is_some()),
            ("/headers", !config.headers.is_empty()),
            ("/async", config.accepts),
            ("/breaker", config.breaker.is_some()),
            ("/balance", config.balance != Balance::default()),
            ("/health", config.health.is_some()),
            ("/recycle", config.recycle.is_some()),
            ("/batch", config.batch.is_some()),
            ("/status_map", config.status_map.is_some()),
        ];
        for (at, _) in of_calls.into_iter().filter(|(_, given)| *given) {
            errors.invalid(at, "is for workers that are called: one that pulls cannot have it");
        }
    }
    upkeep::check_broadcast(config, &mut errors);
    if config.tasks.is_empty() && errors.is_empty() {
        errors.invalid("/tasks", "must have at least one pattern, such as \"images.*\"");
    }
    errors.problem().map_or(Ok(secret), Err)
}

/// A list of strings; `null` is an empty one.
fn list(raw: &RawValue, at: &str, most: usize, errors: &mut Errors) -> Vec<String> {
    if fields::is_null(raw) {
        return Vec::new();
    }
    let list: Vec<String> = fields::value(raw, at, errors).unwrap_or_default();
    if list.len() > most {
        errors.invalid(at, format!("may have at most {most} entries"));
    }
    list
}

fn check_urls(urls: &[String], at: impl Fn(usize) -> String, rules: &Rules<'_>, errors: &mut Errors) {
    for (n, url) in urls.iter().enumerate() {
        rules.url(url, &at(n), errors);
    }
}

fn check_each(list: &[String], at: &str, fits: impl Fn(&str) -> bool, rule: &str, errors: &mut Errors) {
    for (n, text) in list.iter().enumerate() {
        if !fits(text) {
            errors.invalid(format!("{at}/{n}"), rule);
        }
    }
}

/// The headers as given. A value of `null`, which is how they are shown, is the stored value.
fn headers(raw: &RawValue, kept: &BTreeMap<String, String>, rules: &Rules<'_>, errors: &mut Errors) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    if fields::is_null(raw) {
        return headers;
    }
    for (name, raw) in fields::object(raw, "/headers", errors).unwrap_or_default() {
        let at = format!("/headers{}", pointer_step(&name));
        let value = if fields::is_null(raw) {
            let value = kept.get(&*name).cloned();
            if value.is_none() {
                errors.invalid(at, "null keeps a stored value, and there is none");
            }
            value
        } else {
            fields::string(raw, &at, errors).map(Into::into)
        };
        headers.extend(value.map(|value| (name.into_owned(), value)));
    }
    let list: Vec<_> = headers.iter().map(|(name, value): (&String, &String)| (name.clone(), value.clone())).collect();
    rules.headers(&list, "/headers", errors);
    headers
}

fn breaker(raw: &RawValue, errors: &mut Errors) -> Option<Breaker> {
    let mut breaker = Breaker::default();
    for (name, raw) in fields::object(raw, "/breaker", errors)? {
        if fields::is_null(raw) {
            continue;
        }
        match &*name {
            "failures" => {
                let failures = fields::number(raw, 1, MOST_FAILURES, "/breaker/failures", errors);
                breaker.failures = failures.map_or(breaker.failures, |n| n as u32);
            }
            "open_for" => {
                let open_for: Option<Dur> = fields::value(raw, "/breaker/open_for", errors);
                if open_for.is_some_and(|time| time.get() < SHORTEST_OPEN || time.get() > LONGEST_OPEN) {
                    errors.invalid("/breaker/open_for", "must be from 100ms to 1h");
                }
                breaker.open_for = open_for.unwrap_or(breaker.open_for);
            }
            other => errors.unknown("/breaker", other, &["failures", "open_for"]),
        }
    }
    Some(breaker)
}

fn batch(raw: &RawValue, errors: &mut Errors) -> Option<WorkerBatch> {
    let mut max = MAX_BATCH;
    for (name, raw) in fields::object(raw, "/batch", errors)? {
        match &*name {
            "max" if fields::is_null(raw) => {}
            "max" => max = fields::number(raw, 1, MAX_BATCH.into(), "/batch/max", errors)? as u16,
            other => errors.unknown("/batch", other, &["max"]),
        }
    }
    Some(WorkerBatch { max })
}

fn status_map(raw: &RawValue, errors: &mut Errors) -> Option<StatusMap> {
    let map: StatusMap = fields::value(raw, "/status_map", errors)?;
    match map.validate() {
        Ok(()) => Some(map),
        Err(error) => {
            errors.push(problem::FieldError::under(error, "/status_map"));
            None
        }
    }
}
