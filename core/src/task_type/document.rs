//! The document of a task type: its fields as they were given.

use serde_json::value::RawValue;

use crate::fields::{self, Errors, Object};
use crate::limit::{LimitRule, check_rule, read_rule};
use crate::names;
use crate::problem::Problem;
use crate::signature;

/// The fields of a task type.
pub const FIELDS: [&str; 27] = [
    "url",
    "method",
    "headers",
    "name",
    "queue",
    "priority",
    "delay",
    "expires_in",
    "soft_time_limit",
    "time_limit",
    "max_run",
    "retry",
    "limits",
    "order_key",
    "fair_key",
    "unique",
    "debounce",
    "batch",
    "link",
    "link_error",
    "immutable",
    "callbacks",
    "ignore_result",
    "result_ttl",
    "retention",
    "labels",
    "redact",
];

const SCHEMA: &str = "args_schema";
/// Fields that signatures do not have: they hold for all tasks of a name together.
const OWN: [&str; 5] = [SCHEMA, "rate", "burst", "concurrency", "worker"];

/// A document taken apart.
#[derive(Default)]
pub(super) struct Parts<'a> {
    /// The defaults as an object, empty if there are none.
    pub defaults: String,
    pub schema: Option<&'a RawValue>,
    /// For each task name by itself.
    pub rule: LimitRule,
    /// Who gets its tasks, whatever the patterns of workers say.
    pub worker: Option<String>,
}

/// The document that `text` makes of the stored one: fields that are given replace those stored, and `null` takes one away.
/// Values stay as they were written.
pub fn merge(stored: Option<&str>, text: &str) -> Result<String, Problem> {
    let mut errors = Errors::default();
    let given = fields::document(text)?;
    for (name, _) in &given {
        check_name(name, &mut errors);
    }
    if let Some(problem) = errors.problem() {
        return Err(problem);
    }
    let stored = stored.map_or_else(|| Ok(Object::new()), fields::document)?;
    let kept = stored.iter().filter(|(name, _)| !given.iter().any(|(other, _)| other == name));
    let all = kept.chain(given.iter().filter(|(_, raw)| !fields::is_null(raw)));
    Ok(object(all.map(|(name, raw)| (&**name, *raw))))
}

fn check_name(name: &str, errors: &mut Errors) {
    let at = || crate::problem::pointer_step(name);
    match name {
        known if OWN.contains(&known) || FIELDS.contains(&known) => {}
        "eta" => errors.invalid(at(), "is an instant and cannot be a default; give delay"),
        "expires_at" => errors.invalid(at(), "is an instant and cannot be a default; give expires_in"),
        own if signature::FIELDS.contains(&own) => errors.invalid(at(), "belongs to one task and cannot be a default"),
        later if signature::LATER.contains(&later) => errors.unsupported("", later),
        other => {
            let known: Vec<&str> = FIELDS.into_iter().chain(OWN).collect();
            errors.unknown("", other, &known);
        }
    }
}

/// Reads what signatures do not have; the defaults stay as they were written.
pub(super) fn split<'a>(text: &'a str, errors: &mut Errors) -> Result<Parts<'a>, Problem> {
    let all = fields::document(text)?;
    let mut parts = Parts::default();
    for (name, raw) in all.iter().filter(|(name, _)| OWN.contains(&&**name)) {
        let at = format!("/{name}");
        match &**name {
            SCHEMA => parts.schema = Some(*raw),
            "worker" => parts.worker = fields::string(raw, &at, errors).map(Into::into),
            name => {
                read_rule(&mut parts.rule, name, raw, &at, errors);
            }
        }
    }
    if parts.worker.as_ref().is_some_and(|worker| !names::is_name(worker)) {
        errors.invalid("/worker", names::NAME_RULE);
    }
    check_rule(&parts.rule, "", errors);
    let mut rest = all.iter().filter(|(name, _)| !OWN.contains(&&**name)).peekable();
    if rest.peek().is_some() {
        parts.defaults = object(rest.map(|(name, raw)| (&**name, *raw)));
    }
    Ok(parts)
}

/// Names are those of [`FIELDS`], which need no escapes.
pub(super) fn object<'a>(fields: impl Iterator<Item = (&'a str, &'a RawValue)>) -> String {
    let mut text = String::from("{");
    for (name, raw) in fields {
        if text.len() > 1 {
            text.push(',');
        }
        text.extend(["\"", name, "\":", raw.get()]);
    }
    text.push('}');
    text
}
