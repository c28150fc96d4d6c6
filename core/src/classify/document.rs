//! An answer that tells its outcome in the body, `application/vnd.lovage.outcome+json` (API: The answer).

use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{DEFAULT_SNOOZE, error};
use crate::answer::TaskError;
use crate::fields::{self, Errors};
use crate::outcome::{RawOutcome, Then};
use crate::retry::MAX_RETRY_AFTER;
use crate::units::Dur;

/// The content type of the document.
pub(super) const CONTENT_TYPE: &str = "application/vnd.lovage.outcome+json";

const FIELDS: [&str; 7] = ["outcome", "after", "error", "replacement", "tasks", "then", "result"];
const WORDS: &str = "must be one of success, retry, snooze, fail, cancel, spawn, replace";

/// What the document says. One that cannot be read is a charged failure that says why.
pub(super) fn read(status: u16, body: &Bytes) -> RawOutcome {
    match parse(status, body, None) {
        Ok(outcome) => outcome,
        Err(reason) => RawOutcome::bad(format!("the outcome document cannot be read: {reason}")).with_status(status),
    }
}

/// The same of the item of an answer to a batch that stands at `index`, and the id in it.
pub(super) fn read_item(status: u16, index: usize, item: &Bytes) -> (Option<String>, RawOutcome) {
    let mut id = None;
    let outcome = parse(status, item, Some(&mut id)).unwrap_or_else(|reason| {
        RawOutcome::bad(format!("the item /{index} of the answer cannot be read: {reason}")).with_status(status)
    });
    (id, outcome)
}

#[derive(Default)]
struct Document {
    outcome: Option<String>,
    after: Option<Duration>,
    error: Option<TaskError>,
    replacement: Option<Bytes>,
    tasks: Option<Vec<Bytes>>,
    then: Then,
    result: Option<Bytes>,
}

/// `id`: where the id is to be put; a document that is the whole answer has none.
fn parse(status: u16, body: &Bytes, id: Option<&mut Option<String>>) -> Result<RawOutcome, String> {
    let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8")?;
    let mut errors = Errors::default();
    let document = fields(status, body, text, id, &mut errors)?;
    let at = |outcome: Option<RawOutcome>, field: &str| outcome.ok_or_else(|| format!("/{field}: must be given"));
    let failed = |error: Option<TaskError>| {
        error.unwrap_or_else(|| TaskError::new("WorkerOutcome", "the worker said so without a reason").with_status(status))
    };
    let outcome = match document.outcome.as_deref() {
        Some("success") => Ok(success(document.result)),
        Some("retry") => Ok(RawOutcome::Retry { after: document.after, error: failed(document.error) }),
        Some("snooze") => Ok(RawOutcome::Snooze { after: document.after.unwrap_or(DEFAULT_SNOOZE) }),
        Some("fail") => Ok(RawOutcome::Permanent { error: failed(document.error) }),
        Some("cancel") => Ok(RawOutcome::Cancel),
        Some("spawn") => {
            let Document { tasks, then, result, .. } = document;
            at(tasks.map(|tasks| RawOutcome::Spawn { tasks, then, result }), "tasks")
        }
        Some("replace") => {
            let replacement = document.replacement.map(Box::new);
            at(replacement.map(|replacement| RawOutcome::Replace { replacement }), "replacement")
        }
        Some(_) => Err(format!("/outcome: {WORDS}")),
        None => at(None, "outcome"),
    };
    // What is refused field by field says more than what is missing because of it.
    errors.problem().map_or(outcome, |problem| Err(problem.detail))
}

fn fields(
    status: u16,
    body: &Bytes,
    text: &str,
    mut id: Option<&mut Option<String>>,
    errors: &mut Errors,
) -> Result<Document, String> {
    let mut document = Document::default();
    for (name, raw) in fields::document(text).map_err(|problem| problem.detail)? {
        // `text` is `body`, and raw values borrow from it.
        let slice = |raw: &RawValue| body.slice_ref(raw.get().as_bytes());
        let at = format!("/{name}");
        match &*name {
            "id" if id.is_some() => {
                if let Some(id) = &mut id {
                    **id = fields::string(raw, &at, errors).map(Into::into);
                }
            }
            _ if fields::is_null(raw) && FIELDS.contains(&&*name) => {}
            "outcome" => document.outcome = fields::string(raw, &at, errors).map(Into::into),
            "after" => document.after = fields::value::<Dur>(raw, &at, errors).map(|after| after.get().min(MAX_RETRY_AFTER)),
            "error" if raw.get().starts_with('{') => {
                document.error = Some(error::from_object(raw.get().as_bytes()).with_status(status));
            }
            "error" => errors.invalid(at, "must be an object"),
            "replacement" => document.replacement = Some(slice(raw)),
            "tasks" => match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
                Ok(list) => document.tasks = Some(list.into_iter().map(slice).collect()),
                Err(_) => errors.invalid(at, "must be an array"),
            },
            "then" => document.then = fields::value(raw, &at, errors).unwrap_or_default(),
            "result" => document.result = Some(slice(raw)),
            other => errors.unknown("", other, &FIELDS),
        }
    }
    Ok(document)
}

/// A success with a JSON result.
pub(crate) fn success(result: Option<Bytes>) -> RawOutcome {
    let content_type = result.is_some().then(|| "application/json".to_owned());
    RawOutcome::Success { content_type, body: result }
}
