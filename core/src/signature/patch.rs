//! Changes of a waiting task from JSON (API: `PATCH /v1/tasks/{id}`). What is not given stays; `null` gives a field its
//! default again, that of its task type if it has one; labels and retry policy are replaced as a whole.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::check::NEVER_STARTS;
use super::{Rules, Signature, json, labels, retry};
use crate::event::{Patch, When};
use crate::fields::{self, Errors};
use crate::names;
use crate::problem::Problem;
use crate::queue::{self, QueueConfig};
use crate::spec::{DEFAULT_PRIORITY, DEFAULT_QUEUE};
use crate::task_type::Missing;

const FIELDS: [&str; 8] = ["eta", "delay", "priority", "queue", "expires_at", "expires_in", "labels", "retry"];

impl Rules<'_> {
    /// Reads and checks the changes.
    pub fn patch(&self, text: &str) -> Result<Patch, Problem> {
        let mut errors = Errors::default();
        let mut patch = Patch::default();
        for (name, raw) in fields::document(text)? {
            let (given, at) = (!fields::is_null(raw), format!("/{name}"));
            match &*name {
                "eta" | "delay" => instant(&mut patch.due, "eta", "delay", raw, &at, &mut errors),
                "expires_at" | "expires_in" => {
                    instant(&mut patch.expires, "expires_at", "expires_in", raw, &at, &mut errors);
                    if matches!(patch.expires, Some(When::In(wait)) if wait.is_zero()) {
                        errors.invalid(at, "must be longer than zero");
                    }
                }
                "priority" if given => patch.priority = fields::number(raw, 0, 9, &at, &mut errors).map(|n| n as u8),
                "priority" => {
                    patch.priority = Some(DEFAULT_PRIORITY);
                    patch.reset.push("priority");
                }
                "queue" if given => {
                    patch.queue = fields::string(raw, &at, &mut errors).map(Into::into);
                    if patch.queue.as_ref().is_some_and(|queue| !names::is_name(queue)) {
                        errors.invalid(at, names::NAME_RULE);
                    }
                }
                "queue" => {
                    patch.queue = Some(DEFAULT_QUEUE.to_owned());
                    patch.reset.push("queue");
                }
                "labels" => {
                    let all = if given { labels::read(raw, &at, &mut errors) } else { BTreeMap::default() };
                    labels::check(&all, self.limits, &mut errors);
                    patch.labels = Some(all);
                    patch.reset.extend((!given).then_some("labels"));
                }
                "retry" if given => patch.retry = Some(retry::read(raw, &at, &mut errors)),
                "retry" => {
                    patch.retry = Some(None);
                    patch.reset.push("retry");
                }
                other => errors.unknown("", other, &FIELDS),
            }
        }
        let never = match (patch.due, patch.expires) {
            (Some(When::In(delay)), Some(When::In(expires))) if expires <= delay => Some("/expires_in"),
            (Some(When::At(eta)), Some(When::At(expires))) if expires <= eta => Some("/expires_at"),
            _ => None,
        };
        if let Some(at) = never.filter(|_| errors.is_empty()) {
            errors.invalid(at, NEVER_STARTS);
        }
        errors.problem().map_or(Ok(patch), Err)
    }

    /// The changes for a task with this name in this queue: what was null is as its task type or its queue says, and in a new
    /// queue it waits as that one orders its tasks.
    #[must_use]
    pub fn reset(&self, patch: &Patch, task: Option<&str>, queue: &str) -> Patch {
        let mut patch = patch.clone();
        if patch.reset.is_empty() && patch.queue.is_none() {
            return patch;
        }
        let mut defaults = Signature::default();
        if let Some(task_type) = self.types.and_then(|types| types.of(task?)) {
            // A type was read before, so nothing is refused.
            task_type.fill(&mut defaults, Missing { keys: false, order: false, links: false }, &mut Errors::default());
        }
        if patch.reset.contains(&"queue") {
            patch.queue = defaults.queue.take().map(Into::into).or(patch.queue);
        }
        let config = queue::fill::of(self.queues, patch.queue.as_deref().or(Some(queue)));
        if let Some(config) = config {
            config.fill(&mut defaults);
        }
        if patch.queue.as_deref().is_some_and(|new| new != queue) {
            patch.order = Some(config.map(QueueConfig::order).unwrap_or_default());
        }
        for field in std::mem::take(&mut patch.reset) {
            match field {
                "priority" => patch.priority = defaults.priority.or(patch.priority),
                "labels" => patch.labels = Some(std::mem::take(&mut defaults.labels)),
                "retry" => patch.retry = Some(defaults.retry.take()),
                // Done.
                _ => {}
            }
        }
        patch
    }
}

/// An instant in one of its two forms.
fn instant(place: &mut Option<When>, at_name: &str, in_name: &str, raw: &RawValue, at: &str, errors: &mut Errors) {
    let when = if fields::is_null(raw) {
        Some(When::Never)
    } else if at == format!("/{at_name}") {
        json::time(raw, at, errors).map(When::At)
    } else {
        fields::value(raw, at, errors).map(When::In)
    };
    if place.is_some() {
        errors.invalid(at, format!("{at_name} and {in_name} cannot be given together"));
    }
    *place = when;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::RULES;
    use super::*;
    use crate::time::Millis;

    #[test]
    fn fields_are_set_or_given_their_defaults_again() {
        let patch = RULES.patch(r#"{"delay":"5s","priority":9,"queue":"mail","expires_at":"2027-01-01T00:00:00Z","labels":{"a":"b"},"retry":{"max_attempts":2}}"#).unwrap();
        assert_eq!((patch.due, patch.priority), (Some(When::In("5s".parse().unwrap())), Some(9)));
        assert_eq!(patch.expires, Some(When::At(Millis::parse_rfc3339("2027-01-01T00:00:00Z").unwrap())));
        assert_eq!(patch.retry.unwrap().unwrap().max_attempts, 2);
        let patch =
            RULES.patch(r#"{"eta":null,"priority":null,"queue":null,"expires_in":null,"labels":null,"retry":null}"#).unwrap();
        assert_eq!((patch.due, patch.expires, patch.retry), (Some(When::Never), Some(When::Never), Some(None)));
        assert_eq!((patch.priority, patch.queue.as_deref()), (Some(DEFAULT_PRIORITY), Some(DEFAULT_QUEUE)));
        assert_eq!(RULES.patch("{}").unwrap(), Patch::default());
    }

    #[test]
    fn what_is_refused_names_its_place() {
        for (text, pointer) in [
            (r#"{"eta":"soon"}"#, "/eta"),
            (r#"{"eta":"2027-01-01T00:00:00Z","delay":1}"#, "/delay"),
            (r#"{"expires_in":0}"#, "/expires_in"),
            (r#"{"expires_in":"1m","delay":"1m"}"#, "/expires_in"),
            (r#"{"eta":"2027-01-01T00:00:00Z","expires_at":"2026-12-31T00:00:00Z"}"#, "/expires_at"),
            (r#"{"priority":10}"#, "/priority"),
            (r#"{"queue":"no good"}"#, "/queue"),
            (r#"{"labels":{"a b":"c"}}"#, "/labels/a b"),
            (r#"{"retry":{"max_attempts":0}}"#, "/retry/max_attempts"),
            (r#"{"task":"other"}"#, "/task"),
        ] {
            assert_eq!(RULES.patch(text).unwrap_err().errors[0].pointer, pointer, "{text}");
        }
    }
}
