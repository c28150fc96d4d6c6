//! A signature from JSON. Types are checked here, rules in `check`.

use crate::Millis;
use crate::problem::Problem;
use serde_json::value::RawValue;

use super::{FIELDS, LATER, Payload, Signature, callbacks, keys, labels, limits, retry};
use crate::fields::{self, Errors};
use crate::redact;

/// Reads the signature that is the whole of `text`. Refused fields are noted; `Err` only if there is no object at all.
pub fn read<'a>(text: &'a str, errors: &mut Errors) -> Result<Signature<'a>, Problem> {
    let mut s = Signature::default();
    let (mut args, mut kwargs, mut payload) = (None, None, None);
    for (name, raw) in fields::document(text)? {
        if fields::is_null(raw) && name != "payload" && FIELDS.contains(&&*name) {
            continue;
        }
        match &*name {
            "task" => s.task = fields::string(raw, "/task", errors),
            "url" => s.url = fields::string(raw, "/url", errors),
            "args" => args = call_part(raw, '[', "/args", "must be an array", errors),
            "kwargs" => kwargs = call_part(raw, '{', "/kwargs", "must be an object", errors),
            "payload" => payload = Some(raw.get()),
            "method" => s.method = fields::string(raw, "/method", errors),
            "headers" => s.headers = headers(raw, "/headers", errors),
            "id" => s.id = fields::string(raw, "/id", errors),
            "name" => s.name = fields::string(raw, "/name", errors),
            "queue" => s.queue = fields::string(raw, "/queue", errors),
            "priority" => s.priority = fields::number(raw, 0, 9, "/priority", errors).map(|n| n as u8),
            "delay" => s.delay = fields::value(raw, "/delay", errors),
            "eta" => s.eta = time(raw, "/eta", errors),
            "expires_in" => s.expires_in = fields::value(raw, "/expires_in", errors),
            "expires_at" => s.expires_at = time(raw, "/expires_at", errors),
            "time_limit" => s.time_limit = fields::value(raw, "/time_limit", errors),
            "soft_time_limit" => s.soft_time_limit = fields::value(raw, "/soft_time_limit", errors),
            "max_run" => s.max_run = fields::value(raw, "/max_run", errors),
            "retry" => s.retry = retry::read(raw, "/retry", errors),
            "limits" => s.limits = limits::read(raw, "/limits", errors),
            "order_key" => s.order_key = fields::string(raw, "/order_key", errors),
            "fair_key" => s.fair_key = fields::string(raw, "/fair_key", errors),
            "unique" => s.unique = keys::unique(raw, "/unique", errors),
            "debounce" => s.debounce = keys::debounce(raw, "/debounce", errors),
            "batch" => s.batch = keys::batch(raw, "/batch", errors),
            "link" => s.link = Some(raw),
            "link_error" => s.link_error = Some(raw),
            "immutable" => s.immutable = fields::boolean(raw, "/immutable", errors),
            "callbacks" => s.callbacks = callbacks::read(raw, "/callbacks", errors),
            "ignore_result" => s.ignore_result = fields::boolean(raw, "/ignore_result", errors),
            "result_ttl" => s.result_ttl = fields::value(raw, "/result_ttl", errors),
            "retention" => s.retention = fields::value(raw, "/retention", errors),
            "labels" => s.labels = labels::read(raw, "/labels", errors),
            "redact" => s.redact = hidden(raw, errors),
            later if LATER.contains(&later) => errors.unsupported("", later),
            other => errors.unknown("", other, &FIELDS),
        }
    }
    s.payload = match (payload, args, kwargs) {
        (None, None, None) => Payload::None,
        (None, args, kwargs) => Payload::Call { args, kwargs },
        (Some(payload), None, None) => Payload::Json(payload),
        (Some(_), ..) => {
            errors.invalid("/payload", "cannot be given together with args or kwargs");
            Payload::None
        }
    };
    Ok(s)
}

fn call_part<'a>(raw: &'a RawValue, first: char, at: &str, message: &str, errors: &mut Errors) -> Option<&'a str> {
    if raw.get().starts_with(first) {
        return Some(raw.get());
    }
    errors.invalid(at, message);
    None
}

/// An instant; a refusal is noted at `at`.
pub fn time(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<Millis> {
    let text = fields::string(raw, at, errors)?;
    Millis::parse_rfc3339(&text).map_err(|why| errors.invalid(at, why)).ok()
}

/// The most pointers of `redact`, and the longest in bytes.
const MAX_REDACT: (usize, usize) = (32, 256);

fn hidden(raw: &RawValue, errors: &mut Errors) -> Vec<String> {
    let list: Vec<String> = fields::value(raw, "/redact", errors).unwrap_or_default();
    let (count, bytes) = MAX_REDACT;
    if list.len() > count {
        errors.invalid("/redact", format!("may have at most {count} pointers"));
    }
    for (n, pointer) in list.iter().take(count).enumerate() {
        if pointer.len() > bytes || !redact::is_pointer(pointer) {
            errors.invalid(
                format!("/redact/{n}"),
                format!(
                    "must be a JSON pointer of up to {bytes} bytes that begins with one of /{}, such as \"/kwargs/password\"",
                    redact::FIELDS.join(", /")
                ),
            );
        }
    }
    list
}

/// An object of strings, as header names and values.
pub(super) fn headers(raw: &RawValue, at: &str, errors: &mut Errors) -> Vec<(String, String)> {
    let Some(object) = fields::object(raw, at, errors) else { return Vec::new() };
    let mut headers = Vec::with_capacity(object.len());
    for (name, raw) in object {
        let at = format!("{at}{}", crate::problem::pointer_step(&name));
        if let Some(value) = fields::string(raw, &at, errors) {
            headers.push((name.into_owned(), value.into_owned()));
        }
    }
    headers
}
