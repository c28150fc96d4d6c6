//! Labels from JSON: an object of strings.

use std::collections::BTreeMap;

use crate::problem::pointer_step;
use serde_json::value::RawValue;

use super::SignatureLimits;
use super::check::differ_in_case;
use crate::fields::{self, Errors};

pub(super) fn read(raw: &RawValue, at: &str, errors: &mut Errors) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, raw) in fields::object(raw, at, errors).unwrap_or_default() {
        if let Some(value) = fields::string(raw, &format!("{at}{}", pointer_step(&key)), errors) {
            labels.insert(key.into_owned(), value.into_owned());
        }
    }
    labels
}

/// Labels are sent as headers and named in filters as `KEY:VALUE`, so a key is a header token, which has no colon.
pub(super) fn check(labels: &BTreeMap<String, String>, limits: &SignatureLimits, errors: &mut Errors) {
    if labels.len() > limits.labels {
        errors.invalid("/labels", format!("may have at most {} labels", limits.labels));
    }
    for key in differ_in_case(labels.keys().map(String::as_str)) {
        let at = format!("/labels{}", pointer_step(key));
        errors.invalid(at, "is there twice: labels are sent as headers, where case makes no difference");
    }
    for (key, value) in labels {
        let at = || format!("/labels{}", pointer_step(key));
        if key.is_empty() || !key.bytes().all(is_token) {
            errors.invalid(at(), "a label's key has letters, digits and !#$%&'*+-.^_`|~ only");
        } else if key.len() + value.len() > limits.label_bytes {
            errors.invalid(at(), format!("a label may have at most {} bytes, key and value together", limits.label_bytes));
        } else if value.chars().any(char::is_control) {
            errors.invalid(at(), "must not have control characters");
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
