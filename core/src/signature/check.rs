//! The rules of a signature (API: Tasks), and what it becomes.

use std::cell::Cell;
use std::collections::BTreeSet;

use bytes::Bytes;

use super::nest::{LINK_DEFAULTS, Nest, Start};
use super::{Draft, Payload, Signature, SignatureLimits, labels};
use crate::destinations::{Destinations, UrlRefusal};
use crate::fields::Errors;
use crate::id::TaskId;
use crate::names;
use crate::problem::{Problem, pointer_step};
use crate::queue::{self, QueueConfig, Queues};
use crate::spec::{self, Form, Spec};
use crate::task_type::{Missing, TaskType, TaskTypes};
use crate::time::Millis;
use crate::units::Dur;
use crate::view::is_json;

/// Why an expiry is refused.
pub(super) const NEVER_STARTS: &str = "is not later than the task's start: it would never be started";
const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];

/// What signatures are checked against.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// How large and how deep they may be.
    pub limits: &'a SignatureLimits,
    /// Which addresses and headers they may name.
    pub destinations: &'a dyn Destinations,
    /// The task types of the namespace, for what they leave out and for their arguments.
    pub types: Option<&'a TaskTypes>,
    /// The queues of the namespace, for what types leave out.
    pub queues: Option<&'a Queues>,
    /// What the texts of the signature are parts of, if it is at hand: a payload then shares its bytes instead of copying
    /// them, and keeps all of them for as long as the draft lives.
    pub source: Option<&'a Bytes>,
}

impl Rules<'_> {
    /// Applies the rules; all that is refused, here and before, makes one problem.
    pub fn check(&self, signature: Signature<'_>, errors: Errors) -> Result<Draft, Problem> {
        self.check_apart(signature, errors).and_then(|(draft, refused)| refused.map_or(Ok(draft), Err))
    }

    /// The same, but if nothing else is refused than arguments that do not fit their type's schema, that refusal stands
    /// beside the draft: a repetition of what was accepted before has to be recognized first.
    pub fn check_apart(&self, signature: Signature<'_>, mut errors: Errors) -> Result<(Draft, Option<Problem>), Problem> {
        let left = Cell::new(LINK_DEFAULTS);
        match self.draft(signature, Nest::outer(Start::Submit, &left), &mut errors) {
            Some(draft) => Ok((draft, errors.problem())),
            None => Err(errors.problem().unwrap_or_else(|| Problem::invalid("", "is not valid"))),
        }
    }

    /// The draft of a signature at this place; `None` if anything but arguments was refused.
    pub(super) fn draft<'s>(&'s self, mut s: Signature<'s>, nest: Nest<'_>, errors: &mut Errors) -> Option<Draft> {
        let task_type = self.types.and_then(|types| types.of(s.task.as_deref()?));
        if let Some(task_type) = task_type {
            if nest.take(task_type.default_bytes()) {
                // Links that a type gives are not continued by types, so that types cannot lead in a circle.
                let (keys, order) = (nest.start == Start::Submit, nest.start != Start::Replacement);
                task_type.fill(&mut s, Missing { keys, order, links: !nest.is_link() }, errors);
            } else {
                errors.invalid("", format!("with it, task types give the links more than {LINK_DEFAULTS} bytes of defaults"));
            }
        }
        let queue = queue::fill::of(self.queues, s.queue.as_deref());
        if let Some(queue) = queue {
            queue.fill(&mut s);
        }
        let id = Self::identity(&s, errors);
        self.delivery(&s, errors);
        labels::check(&s.labels, self.limits, errors);
        Self::times(&s, errors);
        Self::keys(&s, errors);
        Self::flow(&s, errors);
        let link = self.links(s.link, "/link", nest, errors);
        let link_error = self.links(s.link_error, "/link_error", nest, errors);
        // What runs before a link is put in front of its arguments, so they are not known yet.
        let complete = !nest.is_link() || s.immutable == Some(true) || !s.payload.is_call();
        let arguments = task_type.and_then(TaskType::schema).filter(|_| complete).map(|schema| (schema, s.payload.clone()));
        let (form, content_type, payload) = self.payload(s.payload, errors);
        if let Some((schema, payload)) = arguments.filter(|_| errors.is_empty()) {
            schema.check(&payload, errors);
        }
        if !errors.only_arguments() {
            return None;
        }
        let spec = Spec {
            task: s.task.map(Into::into),
            url: s.url.map(Into::into),
            name: s.name.map(Into::into),
            // The default is not stored, so that most specs are a few bytes.
            queue: s.queue.filter(|queue| queue != spec::DEFAULT_QUEUE).map(Into::into).unwrap_or_default(),
            form,
            method: s.method.filter(|method| method != "POST").map(Into::into),
            headers: s.headers,
            eta: s.eta.map(at_least_one),
            soft_time_limit: s.soft_time_limit,
            time_limit: s.time_limit,
            max_run: s.max_run,
            retry: s.retry,
            limits: s.limits.unwrap_or_default(),
            order_key: s.order_key.map(Into::into),
            fair_key: s.fair_key.map(Into::into),
            unique: s.unique,
            debounce: s.debounce,
            batch: s.batch,
            link,
            link_error,
            immutable: s.immutable.unwrap_or_default(),
            callbacks: s.callbacks,
            ignore_result: s.ignore_result.unwrap_or_default(),
            result_ttl: s.result_ttl,
            retention: s.retention,
            labels: s.labels,
            redact: s.redact,
            order: queue.map(QueueConfig::order).unwrap_or_default(),
            ..Spec::default()
        };
        Some(Draft {
            id,
            spec,
            priority: s.priority,
            delay: s.delay.filter(|delay| !delay.is_zero()),
            expires_in: s.expires_in,
            expires_at: s.expires_at.map(at_least_one),
            max_age: queue.and_then(|queue| queue.max_age),
            content_type,
            payload,
        })
    }

    fn identity(s: &Signature<'_>, errors: &mut Errors) -> Option<TaskId> {
        if s.task.is_none() && s.url.is_none() && errors.is_empty() {
            errors.invalid("", "one of task and url must be given");
        }
        if s.task.as_ref().is_some_and(|task| !names::is_task_name(task)) {
            errors.invalid("/task", names::TASK_RULE);
        }
        if s.queue.as_ref().is_some_and(|queue| !names::is_name(queue)) {
            errors.invalid("/queue", names::NAME_RULE);
        }
        if s.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > 255 || name.chars().any(char::is_control)) {
            errors.invalid("/name", "must have 1 to 255 bytes and no control characters");
        }
        match TaskId::parse(s.id.as_deref()?) {
            Ok(id) => Some(id),
            Err(error) => {
                errors.invalid("/id", error.to_string());
                None
            }
        }
    }

    fn delivery(&self, s: &Signature<'_>, errors: &mut Errors) {
        if let Some(url) = &s.url {
            self.url(url, "/url", errors);
        }
        if s.method.as_ref().is_some_and(|method| !METHODS.contains(&&**method)) {
            errors.invalid("/method", format!("must be one of {}", METHODS.join(", ")));
        }
        self.headers(&s.headers, "/headers", errors);
        let callbacks = [
            ("on_success", &s.callbacks.on_success),
            ("on_failure", &s.callbacks.on_failure),
            ("on_retry", &s.callbacks.on_retry),
            ("on_progress", &s.callbacks.on_progress),
            ("on_terminal", &s.callbacks.on_terminal),
        ];
        for (kind, callback) in callbacks {
            let Some(callback) = callback else { continue };
            self.url(&callback.url, &format!("/callbacks/{kind}/url"), errors);
            self.headers(&callback.headers, &format!("/callbacks/{kind}/headers"), errors);
            if callback.time_limit.is_some_and(Dur::is_zero) {
                errors.invalid(format!("/callbacks/{kind}/time_limit"), "must be longer than zero");
            }
        }
    }

    /// A URL that may be called.
    pub fn url(&self, url: &str, at: &str, errors: &mut Errors) {
        match self.destinations.check_url(url) {
            Ok(()) => {}
            Err(UrlRefusal::Invalid(message)) => errors.invalid(at, message),
            Err(UrlRefusal::Forbidden(message)) => errors.forbidden(at, message),
        }
    }

    /// Headers that may be sent.
    pub fn headers(&self, headers: &[(String, String)], at: &str, errors: &mut Errors) {
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if headers.len() > self.limits.forwarded_headers || bytes > self.limits.forwarded_header_bytes {
            let (count, bytes) = (self.limits.forwarded_headers, self.limits.forwarded_header_bytes);
            errors.invalid(at, format!("may have at most {count} headers and {bytes} bytes"));
        } else if !headers.is_empty()
            && let Err(refusal) = self.destinations.check_headers(headers)
        {
            let step = if refusal.name.is_empty() { String::new() } else { pointer_step(&refusal.name) };
            errors.invalid(format!("{at}{step}"), refusal.message);
        }
        for name in differ_in_case(headers.iter().map(|(name, _)| name.as_str())) {
            errors.invalid(format!("{at}{}", pointer_step(name)), "is there twice: case makes no difference in header names");
        }
    }

    fn times(s: &Signature<'_>, errors: &mut Errors) {
        if s.delay.is_some() && s.eta.is_some() {
            errors.invalid("/eta", "cannot be given together with delay");
        }
        if s.expires_in.is_some() && s.expires_at.is_some() {
            errors.invalid("/expires_at", "cannot be given together with expires_in");
        }
        // Only what is so whatever the time is: a request that is repeated later must not be refused because it is late.
        let wait = s.delay.or(s.debounce.as_ref().filter(|debounce| debounce.max_wait.is_none()).map(|debounce| debounce.wait));
        if s.expires_in.zip(wait).is_some_and(|(expires, wait)| expires <= wait) {
            errors.invalid("/expires_in", NEVER_STARTS);
        }
        if s.expires_at.zip(s.eta).is_some_and(|(expires, eta)| expires <= eta) {
            errors.invalid("/expires_at", NEVER_STARTS);
        }
        let durations = [
            ("/expires_in", s.expires_in),
            ("/soft_time_limit", s.soft_time_limit),
            ("/time_limit", s.time_limit),
            ("/max_run", s.max_run),
        ];
        for (at, duration) in durations {
            if duration.is_some_and(Dur::is_zero) {
                errors.invalid(at, "must be longer than zero");
            }
        }
    }

    fn keys(s: &Signature<'_>, errors: &mut Errors) {
        if s.debounce.is_some() {
            if s.unique.is_some() {
                errors.invalid("/debounce", "cannot be given together with unique");
            }
            if s.delay.is_some() || s.eta.is_some() {
                errors.invalid("/debounce", "cannot be given together with delay or eta");
            }
        }
        if s.batch.is_some() {
            if s.url.is_some() {
                errors.invalid("/batch", "cannot be given together with url: only registered workers take tasks together");
            }
            // One request carries them all: there is no place for what one of them wants to send apart.
            if !s.headers.is_empty() || s.method.is_some() {
                errors.invalid("/batch", "cannot be given together with headers or method");
            }
            if matches!(s.payload, Payload::Raw { content_type, .. } if !is_json(content_type)) {
                errors.invalid("/batch", "takes JSON payloads only");
            }
        }
    }

    /// What says when it may start beside others. The limits were checked when they were read, each by itself.
    fn flow(s: &Signature<'_>, errors: &mut Errors) {
        for (at, key) in [("/order_key", &s.order_key), ("/fair_key", &s.fair_key)] {
            if key.as_ref().is_some_and(|key| !names::is_key(key)) {
                errors.invalid(at, names::KEY_RULE);
            }
        }
        if s.order_key.is_some() && s.batch.is_some() {
            errors.invalid("/order_key", "cannot be given together with batch: of one order key only one task runs at a time");
        }
    }

    fn payload(&self, payload: Payload<'_>, errors: &mut Errors) -> (Form, String, Bytes) {
        // The signature itself is the first level.
        let limit = self.limits.json_depth.saturating_sub(1);
        let mut check = |text: &str, at: &str| {
            if crate::view::deeper_than(text.as_bytes(), limit) {
                errors.invalid(at, format!("is nested deeper than {} levels", self.limits.json_depth));
            }
        };
        match payload {
            Payload::None => (Form::Call, String::new(), spec::call_payload(None, None)),
            Payload::Call { args, kwargs } => {
                check(args.unwrap_or_default(), "/args");
                check(kwargs.unwrap_or_default(), "/kwargs");
                (Form::Call, String::new(), spec::call_payload(args, kwargs))
            }
            Payload::Json(text) => {
                check(text, "/payload");
                let shared = self.source.and_then(|source| part_of(source, text));
                (Form::Verbatim, String::new(), shared.unwrap_or_else(|| Bytes::copy_from_slice(text.as_bytes())))
            }
            Payload::Raw { content_type, bytes } => {
                if content_type.len() > 255 {
                    errors.invalid("/content_type", "the content type may have at most 255 bytes");
                }
                (Form::Verbatim, content_type.to_owned(), bytes)
            }
        }
    }
}

/// `text` as a part of `source`, if that is what it is.
fn part_of(source: &Bytes, text: &str) -> Option<Bytes> {
    let start = text.as_ptr().addr().checked_sub(source.as_ptr().addr())?;
    let end = start.checked_add(text.len())?;
    (end <= source.len()).then(|| source.slice(start..end))
}

/// An instant of zero means "none" in a head, so the first one that can be asked for is a millisecond later.
fn at_least_one(time: Millis) -> Millis {
    Millis(time.0.max(1))
}

/// Those of these names that are, but for upper and lower case, a name before them.
pub(super) fn differ_in_case<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(name.to_ascii_lowercase())).collect()
}
