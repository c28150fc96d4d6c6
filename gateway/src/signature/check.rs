//! The rules of a signature (API: Tasks), and what it becomes.

use std::sync::Arc;

use bytes::Bytes;
use lovage_core::lane::Route;
use lovage_core::problem::Problem;
use lovage_core::spec::{self, DEFAULT_PRIORITY};
use lovage_core::{Body, Form, LaneDef, Millis, NewTask, Ns, Spec, TaskId, TaskKey};
use lovage_store::{Insert, OnExists};

use super::{Payload, Signature, labels};
use crate::destinations::{Destinations, UrlRefusal};
use crate::fields::Errors;
use crate::names;
use crate::options::Limits;

const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];

/// What signatures are checked against.
pub(crate) struct Rules<'a> {
    pub limits: &'a Limits,
    pub destinations: &'a dyn Destinations,
    pub now: Millis,
}

/// A valid signature that has no place in the store yet.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The client's own id.
    pub id: Option<TaskId>,
    pub spec: Spec,
    priority: u8,
    due: Option<Millis>,
    expires: Option<Millis>,
    content_type: String,
    payload: Bytes,
}

impl Rules<'_> {
    /// Applies the rules; all that is refused, here and before, makes one problem.
    pub(crate) fn check(&self, s: Signature<'_>, mut errors: Errors) -> Result<Draft, Problem> {
        let id = Self::identity(&s, &mut errors);
        self.delivery(&s, &mut errors);
        labels::check(&s.labels, self.limits, &mut errors);
        let (due, expires) = self.times(&s, &mut errors);
        let (form, content_type, payload) = self.payload(s.payload, &mut errors);
        if let Some(problem) = errors.problem() {
            return Err(problem);
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
            eta: due,
            time_limit: s.time_limit,
            retry: s.retry,
            callbacks: s.callbacks,
            ignore_result: s.ignore_result,
            result_ttl: s.result_ttl,
            retention: s.retention,
            labels: s.labels,
            ..Spec::default()
        };
        let priority = s.priority.unwrap_or(DEFAULT_PRIORITY);
        Ok(Draft { id, spec, priority, due, expires, content_type, payload })
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
        if s.time_limit.is_some_and(lovage_core::units::Dur::is_zero) {
            errors.invalid("/time_limit", "must be longer than zero");
        }
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
            if callback.time_limit.is_some_and(lovage_core::units::Dur::is_zero) {
                errors.invalid(format!("/callbacks/{kind}/time_limit"), "must be longer than zero");
            }
        }
    }

    /// A URL that may be called.
    pub(crate) fn url(&self, url: &str, at: &str, errors: &mut Errors) {
        match self.destinations.check_url(url) {
            Ok(()) => {}
            Err(UrlRefusal::Invalid(message)) => errors.invalid(at, message),
            Err(UrlRefusal::Forbidden(message)) => errors.forbidden(at, message),
        }
    }

    /// Headers that may be sent.
    pub(crate) fn headers(&self, headers: &[(String, String)], at: &str, errors: &mut Errors) {
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if headers.len() > self.limits.forwarded_headers || bytes > self.limits.forwarded_header_bytes {
            let (count, bytes) = (self.limits.forwarded_headers, self.limits.forwarded_header_bytes);
            errors.invalid(at, format!("may have {count} headers and {bytes} bytes"));
        } else if !headers.is_empty()
            && let Err(refusal) = self.destinations.check_headers(headers)
        {
            let step = if refusal.name.is_empty() { String::new() } else { lovage_core::problem::pointer_step(&refusal.name) };
            errors.invalid(format!("{at}{step}"), refusal.message);
        }
    }

    fn times(&self, s: &Signature<'_>, errors: &mut Errors) -> (Option<Millis>, Option<Millis>) {
        if s.delay.is_some() && s.eta.is_some() {
            errors.invalid("/eta", "cannot be given together with delay");
        }
        if s.expires_in.is_some() && s.expires_at.is_some() {
            errors.invalid("/expires_at", "cannot be given together with expires_in");
        }
        if s.expires_in.is_some_and(lovage_core::units::Dur::is_zero) {
            errors.invalid("/expires_in", "must be longer than zero");
        }
        // An instant of zero means "none" in a head, so the first one that can be asked for is a millisecond later.
        let at_least_one = |time: Millis| Millis(time.0.max(1));
        let due = s.delay.filter(|delay| !delay.is_zero()).map(|delay| self.now.after(delay.get())).or(s.eta);
        let expires = s.expires_in.map(|expires| self.now.after(expires.get())).or(s.expires_at);
        (due.map(at_least_one), expires.map(at_least_one))
    }

    fn payload(&self, payload: Payload<'_>, errors: &mut Errors) -> (Form, String, Bytes) {
        // The signature itself is the first level.
        let limit = self.limits.json_depth.saturating_sub(1);
        let mut check = |text: &str, at: &str| {
            if lovage_core::view::deeper_than(text.as_bytes(), limit) {
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
                (Form::Verbatim, String::new(), Bytes::copy_from_slice(text.as_bytes()))
            }
            Payload::Raw { content_type, bytes } => {
                if content_type.len() > 255 {
                    errors.invalid("/content_type", "the content type may have 255 bytes");
                }
                (Form::Verbatim, content_type.to_owned(), bytes)
            }
        }
    }
}

/// The lane of the draft before, kept because most tasks of a batch share one.
#[derive(Default)]
pub(crate) struct LaneCache(Option<Arc<LaneDef>>);

impl LaneCache {
    fn lane(&mut self, ns: Ns, spec: &Spec) -> Arc<LaneDef> {
        let same = self.0.as_ref().filter(|lane| {
            let task = if spec.url.is_none() { spec.task.as_deref() } else { None };
            lane.ns == ns && lane.queue == spec.queue() && matches!(&lane.route, Route::Task(name) if Some(&**name) == task)
        });
        if let Some(lane) = same {
            return lane.clone();
        }
        let lane = Arc::new(spec.lane(ns));
        self.0 = Some(lane.clone());
        lane
    }
}

impl Draft {
    /// The insert of this task under `key`.
    pub(crate) fn insert(&self, key: TaskKey, now: Millis, lanes: &mut LaneCache) -> Insert {
        let lane = lanes.lane(key.ns, &self.spec);
        Insert {
            head: NewTask::first_head(&lane, self.priority, self.due, self.expires, now),
            body: Body::encode(&self.spec.encode(), &self.content_type, &self.payload),
            lane,
            exists: if self.id.is_some() { OnExists::Return } else { OnExists::Generated },
            not_after: None,
            unique: None,
            root: None,
            key,
        }
    }
}
