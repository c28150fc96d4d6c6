//! Rules of limits as documents: what may be written under `/v1/limits`, on queues, task types and workers, and in tasks.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{BUILT_IN, LimitRule};
use crate::fields::{self, Errors};
use crate::problem::Problem;
use crate::queue::pause_end;
use crate::time::Millis;

/// The highest numbers that a limit takes: stores count with them exactly.
pub mod most {
    /// Starts that may come at once, and the cost of one.
    pub const BURST: u64 = 1_000_000;
    /// Tasks that may run at once.
    pub const CONCURRENCY: u64 = 1_000_000;
}

/// A limit as it is stored under its key. What it does not set holds as the latest task with the key says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredLimit {
    /// What it sets.
    #[serde(flatten)]
    pub rule: LimitRule,
    /// Nothing with the key starts before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Millis>,
}

impl StoredLimit {
    /// The fields of the document.
    pub const FIELDS: [&'static str; 4] = ["rate", "burst", "concurrency", "paused_until"];

    /// What `text`, the document of a request, makes of it: fields that are given replace those stored, and `null` takes one
    /// away. A pause that is asked for ends later than `now`.
    pub fn edited(mut self, text: &str, now: Millis) -> Result<Self, Problem> {
        let mut errors = Errors::default();
        for (name, raw) in fields::document(text)? {
            let at = format!("/{name}");
            match &*name {
                "paused_until" if fields::is_null(raw) => self.paused_until = None,
                "paused_until" => self.paused_until = pause_end(raw, now, &at, &mut errors),
                name if read_rule(&mut self.rule, name, raw, &at, &mut errors) => {}
                other => errors.unknown("", other, &Self::FIELDS),
            }
        }
        errors.problem().map_or(Ok(self), Err)
    }

    /// Until when nothing with the key starts, if that is later than `now`.
    pub fn paused(&self, now: Millis) -> Option<Millis> {
        self.paused_until.filter(|until| *until > now)
    }
}

/// Reads a field of a stored rule; `false`: it is none. `null` takes it away; a `concurrency` of 0 stops all.
pub fn read_rule(rule: &mut LimitRule, name: &str, raw: &RawValue, at: &str, errors: &mut Errors) -> bool {
    let given = !fields::is_null(raw);
    match name {
        "rate" => rule.rate = given.then(|| fields::value(raw, at, errors)).flatten(),
        "burst" => rule.burst = given.then(|| read_burst(raw, at, errors)).flatten(),
        "concurrency" => {
            let read = given.then(|| fields::number(raw, 0, most::CONCURRENCY, at, errors)).flatten();
            rule.concurrency = read.map(|n| n as u32);
        }
        _ => return false,
    }
    true
}

/// Starts that may come at once.
pub(crate) fn read_burst(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<u32> {
    fields::number(raw, 1, most::BURST, at, errors).map(|n| n as u32)
}

/// Refuses a rule that contradicts itself, where nothing else can complete it.
pub fn check_rule(rule: &LimitRule, at: &str, errors: &mut Errors) {
    if rule.burst.is_some() && rule.rate.is_none() {
        errors.invalid(format!("{at}/burst"), "needs a rate: it says how many starts of it may come at once");
    }
}

/// Refuses a key whose limit is written elsewhere, and says where.
pub fn refuse_built_in(key: &str, at: &str, errors: &mut Errors) {
    let Some((prefix, name)) = BUILT_IN.iter().find_map(|prefix| Some((*prefix, key.strip_prefix(prefix)?))) else { return };
    let place = match prefix {
        "queue:" => "/v1/queues",
        "task:" => "/v1/task-types",
        _ => "/v1/workers",
    };
    errors.invalid(at, format!("is the limit of {place}/{name}: give rate, burst and concurrency there"));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::units::{Period, Rate};

    fn edited(of: StoredLimit, text: &str) -> Result<StoredLimit, Vec<String>> {
        of.edited(text, Millis(1_800_000_000_000))
            .map_err(|problem| problem.errors.into_iter().map(|error| error.pointer).collect())
    }

    #[test]
    fn fields_are_set_and_taken_away() {
        let first = edited(StoredLimit::default(), r#"{"rate":"10/m","burst":3,"paused_until":"2030-01-01T00:00:00Z"}"#).unwrap();
        assert_eq!((first.rule.rate, first.rule.burst), (Rate::new(10, Period::Minute), Some(3)));
        let later = edited(first, r#"{"concurrency":0,"burst":null,"paused_until":null}"#).unwrap();
        assert_eq!((later.rule.rate, later.rule.burst, later.rule.concurrency), (first.rule.rate, None, Some(0)));
        let until = first.paused_until.unwrap();
        assert_eq!((first.paused(Millis(until.0 - 1)), first.paused(until), later.paused(Millis(0))), (Some(until), None, None));
        assert_eq!(edited(first, "{}"), Ok(first));
    }

    #[test]
    fn stored_rules_stay_readable() {
        let text = r#"{"rate":"10/m","burst":3,"concurrency":2,"paused_until":1893456000000}"#;
        let limit: StoredLimit = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&limit).unwrap(), text);
        assert_eq!(serde_json::from_str::<StoredLimit>("{}").unwrap(), StoredLimit::default());
        assert_eq!(serde_json::to_string(&StoredLimit::default()).unwrap(), "{}");
    }

    #[test]
    fn what_is_refused_names_its_place() {
        for (text, pointer) in [
            (r#"{"rate":"0/s"}"#, "/rate"),
            (r#"{"rate":"1e99/s"}"#, "/rate"),
            (r#"{"rate":"-1/s"}"#, "/rate"),
            (r#"{"burst":0}"#, "/burst"),
            (r#"{"burst":1000001}"#, "/burst"),
            (r#"{"concurrency":-1}"#, "/concurrency"),
            (r#"{"concurrency":"2"}"#, "/concurrency"),
            (r#"{"paused_until":"soon"}"#, "/paused_until"),
            (r#"{"paused_until":"2020-01-01T00:00:00Z"}"#, "/paused_until"),
            (r#"{"key":"a"}"#, "/key"),
        ] {
            assert_eq!(edited(StoredLimit::default(), text), Err(vec![pointer.to_owned()]), "{text}");
        }
    }
}
