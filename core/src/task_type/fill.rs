//! Giving a signature what it leaves out.
//!
//! A default that cannot stand beside what the signature says is left out: a signature that is right by itself stays right.

use super::Missing;
use crate::Callbacks;
use crate::keys::Debounce;
use crate::signature::{Payload, Signature};
use crate::units::Dur;
use crate::view::is_json;

/// Fills what `s` leaves out with what `default` says. Labels, headers and callbacks are joined name by name, and `redact`
/// has the pointers of both, because what a type hides must stay hidden; everything else is taken whole.
pub(super) fn fill<'a>(s: &mut Signature<'a>, default: Signature<'a>, missing: Missing) {
    let timed = s.delay.is_some() || s.eta.is_some();
    let keyed = s.unique.is_some() || s.debounce.is_some();
    let expiring = s.expires_in.is_some() || s.expires_at.is_some();
    let apart = !s.headers.is_empty() || s.method.is_some();
    let json = !matches!(s.payload, Payload::Raw { content_type, .. } if !is_json(content_type));
    let together = s.batch.is_some();
    let ordered = s.order_key.is_some();
    // Whether a task with this wait before its start would expire before it.
    let late = |wait: Option<Dur>, expires: Option<Dur>| wait.zip(expires).is_some_and(|(wait, expires)| wait >= expires);
    let bursts = |debounce: &Option<Debounce>| debounce.as_ref().map(|debounce| debounce.wait);

    if !together {
        or(&mut s.url, default.url);
    }
    or(&mut s.name, default.name);
    or(&mut s.queue, default.queue);
    or(&mut s.priority, default.priority);
    if !timed && s.debounce.is_none() && !late(default.delay, s.expires_in) {
        or(&mut s.delay, default.delay);
    }
    if !expiring && !late(s.delay.or(bursts(&s.debounce)), default.expires_in) {
        or(&mut s.expires_in, default.expires_in);
    }
    or(&mut s.limits, default.limits);
    or(&mut s.fair_key, default.fair_key);
    if missing.order && !together {
        or(&mut s.order_key, default.order_key);
    }
    if missing.keys && !keyed {
        or(&mut s.unique, default.unique);
        if !timed && !late(bursts(&default.debounce), s.expires_in) {
            or(&mut s.debounce, default.debounce);
        }
    }
    if !apart && json && s.url.is_none() && !ordered {
        or(&mut s.batch, default.batch);
    }
    if !together {
        or(&mut s.method, default.method);
        for (name, value) in default.headers {
            if !s.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(&name)) {
                s.headers.push((name, value));
            }
        }
    }
    or(&mut s.soft_time_limit, default.soft_time_limit);
    or(&mut s.time_limit, default.time_limit);
    or(&mut s.max_run, default.max_run);
    or(&mut s.retry, default.retry);
    if missing.links {
        or(&mut s.link, default.link);
        or(&mut s.link_error, default.link_error);
    }
    or(&mut s.immutable, default.immutable);
    callbacks(&mut s.callbacks, default.callbacks);
    or(&mut s.ignore_result, default.ignore_result);
    or(&mut s.result_ttl, default.result_ttl);
    or(&mut s.retention, default.retention);
    for (key, value) in default.labels {
        s.labels.entry(key).or_insert(value);
    }
    for pointer in default.redact {
        if !s.redact.contains(&pointer) {
            s.redact.push(pointer);
        }
    }
}

fn or<T>(field: &mut Option<T>, default: Option<T>) {
    if field.is_none() {
        *field = default;
    }
}

fn callbacks(given: &mut Callbacks, default: Callbacks) {
    or(&mut given.on_success, default.on_success);
    or(&mut given.on_failure, default.on_failure);
    or(&mut given.on_retry, default.on_retry);
    or(&mut given.on_progress, default.on_progress);
    or(&mut given.on_terminal, default.on_terminal);
}
