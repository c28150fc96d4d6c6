//! The body of a bulk verb.

use ahash::AHashSet;
use lovage_core::fields::{self, Errors};
use lovage_core::problem::{Problem, pointer_step};
use serde_json::value::RawValue;

use super::{Kind, Order, Target, Verb};
use crate::app::App;
use crate::filter::{self, Filter};
use crate::query::Query;

const FIELDS: [&str; 4] = ["filter", "ids", "dry_run", "cursor"];

/// What the body asks for.
pub(super) fn order(app: &App, kind: Kind, dead: bool, text: &str) -> Result<Order, Problem> {
    let mut errors = Errors::default();
    let (mut filter, mut ids, mut cursor, mut patch) = (None, None, None, None);
    let (mut dry_run, mut hard, mut cascade, mut edits) = (false, false, true, "{}");
    for (name, raw) in fields::document(text)? {
        match &*name {
            _ if fields::is_null(raw) && known(kind, &name) => {}
            "filter" => filter = read_filter(raw, &mut errors),
            "ids" => ids = Some(read_ids(app, raw, &mut errors)),
            "dry_run" => dry_run = fields::boolean(raw, "/dry_run", &mut errors).unwrap_or_default(),
            "cursor" => cursor = fields::string(raw, "/cursor", &mut errors).map(Into::into),
            "mode" if kind == Kind::Cancel => match fields::string(raw, "/mode", &mut errors).as_deref() {
                Some("hard") => hard = true,
                Some("soft") | None => {}
                Some(_) => errors.invalid("/mode", "must be \"soft\" or \"hard\""),
            },
            "cascade" if kind == Kind::Cancel => {
                cascade = fields::boolean(raw, "/cascade", &mut errors).unwrap_or(true);
            }
            "edits" if kind == Kind::Replay => {
                edits = raw.get();
                let object = fields::object(raw, "/edits", &mut errors).unwrap_or_default();
                if object.iter().any(|(name, raw)| name == "id" && !fields::is_null(raw)) {
                    errors.invalid("/edits/id", "cannot be given to many tasks");
                }
            }
            "patch" if kind == Kind::Patch => match app.rules().patch(raw.get()) {
                Ok(changes) => patch = Some(changes),
                Err(problem) => errors.refuse_under("/patch", problem),
            },
            other => errors.unknown("", other, &names(kind)),
        }
    }
    if errors.is_empty() {
        match (&filter, &ids) {
            (None, None) => errors.invalid("", "one of filter and ids must be given"),
            (Some(_), Some(_)) => errors.invalid("/ids", "cannot be given together with filter"),
            (None, Some(_)) if cursor.is_some() => errors.invalid("/cursor", "is for filters: ids are done in one call"),
            _ => {}
        }
        if kind == Kind::Patch && patch.is_none() {
            errors.invalid("/patch", "must be given");
        }
    }
    errors.problem().map_or(Ok(()), Err)?;
    let verb = match kind {
        Kind::Cancel => Verb::Cancel { hard, cascade },
        Kind::Retry => Verb::Retry,
        Kind::Replay => Verb::Replay(edits.to_owned()),
        Kind::Delete => Verb::Delete,
        Kind::Patch => Verb::Patch(Box::new(patch.unwrap_or_default())),
    };
    let target = match filter {
        Some(mut filter) => {
            if dead {
                filter.only_dead();
            }
            filter.or_in(|state| kind.is_for(state));
            Target::Filter(Box::new(filter), cursor)
        }
        None => Target::Ids(ids.unwrap_or_default()),
    };
    Ok(Order { kind, verb, target, dry_run, dead })
}

fn names(kind: Kind) -> Vec<&'static str> {
    let own: &[&str] = match kind {
        Kind::Cancel => &["mode", "cascade"],
        Kind::Replay => &["edits"],
        Kind::Patch => &["patch"],
        Kind::Retry | Kind::Delete => &[],
    };
    FIELDS.iter().chain(own).copied().collect()
}

fn known(kind: Kind, name: &str) -> bool {
    names(kind).contains(&name)
}

/// The filter of a list, as an object: a list of strings is a parameter that is given several times.
fn read_filter(raw: &RawValue, errors: &mut Errors) -> Option<Filter> {
    let mut pairs = Vec::new();
    for (name, raw) in fields::object(raw, "/filter", errors)? {
        let at = format!("/filter{}", pointer_step(&name));
        match raw.get().as_bytes().first() {
            _ if filter::LATER.contains(&&*name) => errors.unsupported("/filter", &name),
            _ if !filter::NAMES.contains(&&*name) => errors.unknown("/filter", &name, &filter::NAMES),
            // A variable without a value must not make everything of a few.
            _ if fields::is_null(raw) => errors.invalid(at, "may not be null: leave it out to let all pass"),
            Some(b'"') => pairs.extend(fields::string(raw, &at, errors).map(|text| (name.to_string(), text.into_owned()))),
            Some(b't' | b'f') if name == "dead" => pairs.push((name.to_string(), raw.get().to_owned())),
            Some(b'[') if matches!(&*name, "state" | "label") => {
                let list: Vec<String> = fields::value(raw, &at, errors)?;
                if list.is_empty() {
                    errors.invalid(at, "may not be an empty list");
                }
                pairs.extend(list.into_iter().map(|text| (name.to_string(), text)));
            }
            _ => errors.invalid(at, if name == "dead" { "must be true or false" } else { "must be a string" }),
        }
    }
    match Filter::take(&mut Query::from(pairs)) {
        Ok(filter) => Some(filter),
        Err(problem) => {
            errors.refuse_under("/filter", problem);
            None
        }
    }
}

/// Each id once. What no task can be called is kept: it will not be found.
fn read_ids(app: &App, raw: &RawValue, errors: &mut Errors) -> Vec<String> {
    let list: Vec<String> = fields::value(raw, "/ids", errors).unwrap_or_default();
    let most = app.options.limits.bulk_tasks;
    if errors.is_empty() && !(1..=most).contains(&list.len()) {
        errors.invalid("/ids", format!("must have 1 to {most} ids"));
    }
    let mut seen = AHashSet::with_capacity(list.len());
    list.into_iter().filter(|id| seen.insert(id.clone())).collect()
}
