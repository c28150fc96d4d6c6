//! A signature from headers beside a raw body: `Lovage-Task`, `Lovage-Url`, other scalar fields, `Lovage-Label-KEY`.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use lovage_core::Millis;
use lovage_core::fields::Errors;
use lovage_core::problem::pointer_step;
use lovage_core::signature::{self, Payload, Signature};
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;

const PREFIX: &str = "lovage-";
const LABEL: &str = "label-";
const UNIQUE: &str = "unique-";
const DEBOUNCE: &str = "debounce-";
const NAMES: [&str; 26] = [
    "task",
    "url",
    "method",
    "id",
    "name",
    "queue",
    "priority",
    "delay",
    "eta",
    "expires-in",
    "expires-at",
    "soft-time-limit",
    "time-limit",
    "max-run",
    "order-key",
    "fair-key",
    "unique-key",
    "unique-scope",
    "unique-ttl",
    "unique-on-conflict",
    "debounce-key",
    "debounce-wait",
    "debounce-max-wait",
    "ignore-result",
    "result-ttl",
    "retention",
];

/// Whether the request's body is a payload and not a signature.
pub(crate) fn is_raw(headers: &HeaderMap) -> bool {
    headers.contains_key("lovage-task") || headers.contains_key("lovage-url")
}

/// Reads the `Lovage-*` headers. Pointers are those of the fields with the same meaning.
pub(crate) fn read<'a>(headers: &'a HeaderMap, body: Bytes, errors: &mut Errors) -> Signature<'a> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // A payload without a type must not be taken for JSON, which is what an empty one means in the store.
    let content_type = content_type.filter(|text| !text.is_empty()).unwrap_or("application/octet-stream");
    let mut s = Signature { payload: Payload::Raw { content_type, bytes: body }, ..Signature::default() };
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for name in headers.keys() {
        let Some(field) = name.as_str().strip_prefix(PREFIX) else { continue };
        let mut values = headers.get_all(name).iter();
        let pointer = pointer_step(&field.replace('-', "_"));
        let text = match (values.next().map(|value| std::str::from_utf8(value.as_bytes())), values.next()) {
            (Some(Ok(text)), None) => text.trim(),
            (Some(Err(_)), None) => {
                errors.invalid(pointer, format!("the header {name} is not UTF-8"));
                continue;
            }
            _ => {
                errors.invalid(pointer, format!("the header {name} may be given once"));
                continue;
            }
        };
        if let Some(key) = field.strip_prefix(LABEL) {
            s.labels.insert(key.to_owned(), text.to_owned());
            continue;
        }
        match field {
            "task" => s.task = Some(Cow::Borrowed(text)),
            "url" => s.url = Some(Cow::Borrowed(text)),
            "method" => s.method = Some(Cow::Borrowed(text)),
            "id" => s.id = Some(Cow::Borrowed(text)),
            "name" => s.name = Some(Cow::Borrowed(text)),
            "queue" => s.queue = Some(Cow::Borrowed(text)),
            "priority" => s.priority = priority(text, &pointer, errors),
            "delay" => s.delay = parsed(text, &pointer, errors),
            "eta" => s.eta = time(text, &pointer, errors),
            "expires-in" => s.expires_in = parsed(text, &pointer, errors),
            "expires-at" => s.expires_at = time(text, &pointer, errors),
            "soft-time-limit" => s.soft_time_limit = parsed(text, &pointer, errors),
            "order-key" => s.order_key = Some(Cow::Borrowed(text)),
            "fair-key" => s.fair_key = Some(Cow::Borrowed(text)),
            "max-run" => s.max_run = parsed(text, &pointer, errors),
            _ if NAMES.contains(&field) && (field.starts_with(UNIQUE) || field.starts_with(DEBOUNCE)) => keys.push((field, text)),
            "time-limit" => s.time_limit = parsed(text, &pointer, errors),
            "ignore-result" => s.ignore_result = boolean(text, &pointer, errors),
            "result-ttl" => s.result_ttl = parsed(text, &pointer, errors),
            "retention" => s.retention = parsed(text, &pointer, errors),
            other => errors.unknown("", &format!("{PREFIX}{other}"), &NAMES),
        }
    }
    s.unique = nested(&keys, UNIQUE).and_then(|object| signature::unique(&object, "/unique", errors));
    s.debounce = nested(&keys, DEBOUNCE).and_then(|object| signature::debounce(&object, "/debounce", errors));
    s
}

/// The object whose fields are headers with this beginning; `None`: there are none.
fn nested(fields: &[(&str, &str)], prefix: &str) -> Option<Box<RawValue>> {
    let inner = fields.iter().filter_map(|(name, text)| Some((name.strip_prefix(prefix)?.replace('-', "_"), *text)));
    let object: BTreeMap<String, &str> = inner.collect();
    if object.is_empty() { None } else { to_raw_value(&object).ok() }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str, at: &str, errors: &mut Errors) -> Option<T> {
    text.parse().map_err(|error| errors.invalid(at, format!("{error}"))).ok()
}

fn priority(text: &str, at: &str, errors: &mut Errors) -> Option<u8> {
    let number = text.parse().ok().filter(|n| *n <= 9);
    if number.is_none() {
        errors.invalid(at, "must be a whole number from 0 to 9");
    }
    number
}

fn time(text: &str, at: &str, errors: &mut Errors) -> Option<Millis> {
    Millis::parse_rfc3339(text).map_err(|why| errors.invalid(at, why)).ok()
}

fn boolean(text: &str, at: &str, errors: &mut Errors) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => {
            errors.invalid(at, "must be true or false");
            None
        }
    }
}

/// What of the headers is part of the request, for telling a repetition from another request.
pub(crate) fn fingerprint(headers: &HeaderMap) -> Vec<u8> {
    let mut lines: Vec<(&str, &[u8])> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with(PREFIX))
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    if lines.is_empty() {
        return Vec::new();
    }
    lines.extend(headers.get(CONTENT_TYPE).map(|value| (CONTENT_TYPE.as_str(), value.as_bytes())));
    lines.sort_unstable();
    let mut text = Vec::new();
    for (name, value) in lines {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        text.extend_from_slice(value);
        text.push(b'\n');
    }
    text
}
