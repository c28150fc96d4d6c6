//! The document of a task type: its fields as they were given.

use serde_json::value::RawValue;

use crate::fields::{self, Errors, Object};
use crate::problem::Problem;
use crate::signature;

/// The fields of a task type.
pub const FIELDS: [&str; 24] = [
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
/// Fields of the API that this version does not have.
const LATER: [&str; 4] = ["rate", "burst", "concurrency", "worker"];

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
        known if known == SCHEMA || FIELDS.contains(&known) => {}
        "eta" => errors.invalid(at(), "is an instant and cannot be a default; give delay"),
        "expires_at" => errors.invalid(at(), "is an instant and cannot be a default; give expires_in"),
        own if signature::FIELDS.contains(&own) => errors.invalid(at(), "belongs to one task and cannot be a default"),
        later if LATER.contains(&later) || signature::LATER.contains(&later) => errors.unsupported("", later),
        other => {
            let known: Vec<&str> = FIELDS.into_iter().chain([SCHEMA]).collect();
            errors.unknown("", other, &known);
        }
    }
}

/// The defaults as an object, empty if there are none, and the schema.
pub(super) fn split(text: &str) -> Result<(String, Option<&RawValue>), Problem> {
    let all = fields::document(text)?;
    let schema = all.iter().find(|(name, _)| name == SCHEMA).map(|(_, raw)| *raw);
    let mut rest = all.iter().filter(|(name, _)| name != SCHEMA).peekable();
    let defaults = if rest.peek().is_some() { object(rest.map(|(name, raw)| (&**name, *raw))) } else { String::new() };
    Ok((defaults, schema))
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
