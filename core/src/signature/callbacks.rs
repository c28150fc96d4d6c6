//! Callbacks from JSON: each an object or, for short, a URL.

use crate::{Callback, Callbacks};
use serde_json::value::RawValue;

use super::{json, retry};
use crate::fields::{self, Errors};

const KINDS: [&str; 5] = ["on_success", "on_failure", "on_retry", "on_progress", "on_terminal"];
const FIELDS: [&str; 4] = ["url", "headers", "retry", "time_limit"];

pub(super) fn read(raw: &RawValue, at: &str, errors: &mut Errors) -> Callbacks {
    let mut callbacks = Callbacks::default();
    for (name, raw) in fields::object(raw, at, errors).unwrap_or_default() {
        if fields::is_null(raw) && KINDS.contains(&&*name) {
            continue;
        }
        let place = match &*name {
            "on_success" => &mut callbacks.on_success,
            "on_failure" => &mut callbacks.on_failure,
            "on_retry" => &mut callbacks.on_retry,
            "on_progress" => &mut callbacks.on_progress,
            "on_terminal" => &mut callbacks.on_terminal,
            other => {
                errors.unknown(at, other, &KINDS);
                continue;
            }
        };
        *place = one(raw, &format!("{at}/{name}"), errors);
    }
    callbacks
}

fn one(raw: &RawValue, at: &str, errors: &mut Errors) -> Option<Callback> {
    let mut callback = Callback { url: String::new(), headers: Vec::new(), retry: None, time_limit: None };
    if raw.get().starts_with('"') {
        callback.url = fields::string(raw, at, errors)?.into_owned();
        return Some(callback);
    }
    if !raw.get().starts_with('{') {
        errors.invalid(at, "must be a URL or an object with one");
        return None;
    }
    let mut url = None;
    for (name, raw) in fields::object(raw, at, errors)? {
        let place = format!("{at}{}", crate::problem::pointer_step(&name));
        match &*name {
            _ if fields::is_null(raw) && FIELDS.contains(&&*name) => {}
            "url" => url = Some(fields::string(raw, &place, errors)),
            "headers" => callback.headers = json::headers(raw, &place, errors),
            "retry" => callback.retry = retry::read(raw, &place, errors),
            "time_limit" => callback.time_limit = fields::value(raw, &place, errors),
            "auth" => errors.unsupported(at, "auth"),
            other => errors.unknown(at, other, &FIELDS),
        }
    }
    if let Some(url) = url {
        callback.url = url?.into_owned();
    } else {
        errors.invalid(format!("{at}/url"), "must be given");
        return None;
    }
    Some(callback)
}
