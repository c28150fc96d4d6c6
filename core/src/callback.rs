//! Callbacks: HTTP posts that tell somebody how a task went. Each is a task of its own, spawned inside the commit
//! that causes it, so it is neither lost nor sent for a change that did not happen.

use serde::{Deserialize, Serialize};

use crate::body::{Body, ResultValue};
use crate::head::{Flags, Head};
use crate::id::{IdRun, TaskKey};
use crate::redact::pass_on;
use crate::retry::RetryPolicy;
use crate::spec::{DEFAULT_PRIORITY, Form, Spec};
use crate::state::State;
use crate::submit::NewTask;
use crate::time::Millis;
use crate::units::Dur;
use crate::view::Record;

/// The queue in which callbacks wait, apart from the tasks that cause them.
pub const CALLBACK_QUEUE: &str = "callbacks";

/// When a callback is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallbackKind {
    /// The task succeeded.
    Success,
    /// The task failed for good.
    Failure,
    /// An attempt failed and another will be made.
    Retry,
    /// The worker reported progress.
    Progress,
    /// The task is final, however it ended.
    Terminal,
}

impl CallbackKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Success, Self::Failure, Self::Retry, Self::Progress, Self::Terminal];
}

/// Where and how to tell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Callback {
    /// The address.
    pub url: String,
    /// Headers of the post, as given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Its own retry policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// How long one post may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Dur>,
}

#[derive(Deserialize)]
struct Fields {
    url: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    retry: Option<RetryPolicy>,
    #[serde(default)]
    time_limit: Option<Dur>,
}

impl<'de> Deserialize<'de> for Callback {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let f = Fields::deserialize(deserializer)?;
        Ok(Self { url: f.url, headers: f.headers, retry: f.retry, time_limit: f.time_limit })
    }
}

/// Who is told of a task. See API: Tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Callbacks {
    /// After success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_success: Option<Callback>,
    /// After final failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Callback>,
    /// After a failed attempt that will be repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_retry: Option<Callback>,
    /// After each progress report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_progress: Option<Callback>,
    /// After the end, whatever it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_terminal: Option<Callback>,
}

impl Callbacks {
    /// The callback of this kind.
    pub fn get(&self, kind: CallbackKind) -> Option<&Callback> {
        match kind {
            CallbackKind::Success => self.on_success.as_ref(),
            CallbackKind::Failure => self.on_failure.as_ref(),
            CallbackKind::Retry => self.on_retry.as_ref(),
            CallbackKind::Progress => self.on_progress.as_ref(),
            CallbackKind::Terminal => self.on_terminal.as_ref(),
        }
    }

    /// Whether there is a callback of this kind.
    pub fn has(&self, kind: CallbackKind) -> bool {
        self.get(kind).is_some()
    }

    /// Whether nobody is told of anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The event type of a task that has come into the state of this head (API: Operation).
pub fn event_type(head: &Head) -> &'static str {
    match head.state {
        State::Blocked => "task.blocked",
        State::Scheduled => "task.scheduled",
        State::Queued => "task.queued",
        State::Running if head.is_accepted() => "task.accepted",
        State::Running => "task.started",
        State::Retrying => "task.retrying",
        State::Succeeded => "task.succeeded",
        State::Failed => "task.failed",
        State::Canceled => "task.canceled",
        State::Expired => "task.expired",
    }
}

/// A change of a task that somebody may want to be told of.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The task.
    pub of: &'a TaskKey,
    /// Its head after the change.
    pub head: &'a Head,
    /// Its signature.
    pub spec: &'a Spec,
    /// The result or error that the change stored.
    pub result: Option<&'a ResultValue>,
    /// The worker of the latest attempt, where its name is known.
    pub worker: Option<&'a str>,
}

/// The callback task of this kind, in the slot of the task it speaks of; `None` if nobody wants it. `random` seeds the id.
pub fn spawn(kind: CallbackKind, change: Change<'_>, now: Millis, random: u64) -> Option<NewTask> {
    let Change { of, head, spec, result, worker } = change;
    let callback = spec.callbacks.get(kind)?;
    let mut record = Record::new(&of.id, head, spec).with_result(result);
    let event = if kind == CallbackKind::Progress { "task.progress" } else { event_type(head) };
    record.r#type = Some(event);
    record.worker = worker.map(str::to_owned);
    let payload = serde_json::to_vec(&record).unwrap_or_default();
    let mut redact = Vec::new();
    pass_on(&spec.redact, &mut redact, None);
    let child = Spec {
        url: Some(callback.url.clone()),
        name: Some(format!("callback {} of {}", event, of.id)),
        queue: CALLBACK_QUEUE.to_owned(),
        form: Form::Verbatim,
        headers: callback.headers.clone(),
        time_limit: callback.time_limit,
        retry: callback.retry.clone(),
        labels: spec.labels.clone(),
        redact,
        parent: Some(of.id.clone()),
        root: Some(spec.root.clone().unwrap_or_else(|| of.id.clone())),
        callback: Some(kind),
        trace: spec.trace.clone(),
        ..Spec::default()
    };
    let key = TaskKey::new(of.ns, IdRun::new(now, spec.place(of), random).nth(0));
    let lane = child.lane(of.ns, DEFAULT_PRIORITY);
    let mut new_head = NewTask::first_head(&lane, DEFAULT_PRIORITY, None, None, now);
    new_head.flags = new_head.flags.with(Flags::HAS_PARENT);
    Some(NewTask {
        head: new_head,
        body: Body::encode(&child.encode(), "", &payload),
        lane,
        root: child.root.clone().map(|id| TaskKey::new(of.ns, id)),
        key,
    })
}
