//! The signature of a task without its payload: what was asked for, kept beside the head and rarely rewritten.
//!
//! Stored as named MessagePack, so that fields can be added: every field has a default and is left out when it has it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::callback::{CallbackKind, Callbacks};
use crate::id::{Ns, Slot, SlotKind, TaskId, TaskKey};
use crate::keys::{Batching, Debounce, Unique};
use crate::lane::{LaneDef, LaneOrder, Route};
use crate::limit::TaskLimit;
use crate::retry::RetryPolicy;
use crate::signature::Draft;
use crate::time::Millis;
use crate::trace::Trace;
use crate::units::Dur;

/// The queue of tasks that name none.
pub const DEFAULT_QUEUE: &str = "default";
/// The priority of tasks that give none.
pub const DEFAULT_PRIORITY: u8 = 4;
/// How long the open request of one attempt may take, when nothing is said.
pub const DEFAULT_TIME_LIMIT: Dur = Dur::from_secs(60);
/// How long results and finished tasks are kept, when nothing is said.
pub const DEFAULT_RETENTION: Dur = Dur::from_secs(24 * 3600);
/// How long failed tasks are kept, when nothing is said.
pub const DEFAULT_DEAD_RETENTION: Dur = Dur::from_secs(14 * 24 * 3600);

/// How the payload is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `{"task","id","args","kwargs"}`; the stored payload is `{"args":…,"kwargs":…}`.
    #[default]
    Call,
    /// The stored payload as it is.
    Verbatim,
}

impl Form {
    // serde's `skip_serializing_if` passes a reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_call(&self) -> bool {
        *self == Self::Call
    }
}

/// One of those that a blocked task waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// The task that waits, in the same namespace.
    pub barrier: TaskId,
    /// Which of them this is, from 0.
    pub index: u32,
    /// Where the one that waits is, if this one lives in another slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub far: Option<Far>,
}

/// A task that waits elsewhere, named so closely that a message to it counts for no other wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Far {
    /// Its slot.
    pub slot: u16,
    /// The attempt after which it waits.
    pub attempt: u32,
    /// The generation in which it waits.
    pub generation: u8,
}

/// Which end of its parent a link follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Linked {
    /// Its success.
    Success,
    /// Its final failure.
    Failure,
}

/// What was asked for. See API: Tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// The task's name, served by a registered worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Push straight to this URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Shown in lists and logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The queue; empty: [`DEFAULT_QUEUE`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub queue: String,
    /// How the payload is delivered.
    #[serde(skip_serializing_if = "Form::is_call")]
    pub form: Form,
    /// The method of the delivery; none: POST.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers of the delivery, as given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Not before, as asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<Millis>,
    /// After this long of an attempt, its worker is told to come to an end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_time_limit: Option<Dur>,
    /// How long the open request of one attempt may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<Dur>,
    /// How long an attempt may take in all after it was accepted with 202, whatever its lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_run: Option<Dur>,
    /// When and how often to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// At most one task at a time has its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique: Option<Unique>,
    /// Only the last of a burst runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Debounce>,
    /// May be delivered together with others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batching>,
    /// Its limits beside those of its queue, task type and worker, in order of their keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<TaskLimit>,
    /// One task at a time has this key, in order of acceptance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_key: Option<String>,
    /// Tasks of this key share the queue with those of other keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fair_key: Option<String>,
    /// How its queue ordered its tasks when it was accepted.
    #[serde(skip_serializing_if = "LaneOrder::is_priority")]
    pub order: LaneOrder,
    /// Tasks started after success.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<Draft>,
    /// Tasks started after final failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link_error: Vec<Draft>,
    /// As a link it does not get the result of the task before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub immutable: bool,
    /// Who is told.
    #[serde(skip_serializing_if = "Callbacks::is_empty")]
    pub callbacks: Callbacks,
    /// Do not keep the result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_result: bool,
    /// How long the result is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_ttl: Option<Dur>,
    /// How long the record is kept after its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Dur>,
    /// For people and filters; inherited by children.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// JSON pointers to what no view, log or event shows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<String>,
    /// The trace it belongs to; inherited by what it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// The task that spawned this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// The first ancestor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<TaskId>,
    /// The task that waits for this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrives: Option<Arrival>,
    /// The slot in which it lives, if that is not its id's: a client chose the id, and the task took a key that belongs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub away: Option<u16>,
    /// Set on a callback: what it reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback: Option<CallbackKind>,
    /// Set on a link: what it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linked: Option<Linked>,
    /// A hash of the request, to tell a repetition from another task with the same id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_hash: Option<u64>,
}

impl Spec {
    /// The queue's name.
    pub fn queue(&self) -> &str {
        if self.queue.is_empty() { DEFAULT_QUEUE } else { &self.queue }
    }

    /// The retry policy in force.
    pub fn retry(&self) -> RetryPolicy {
        self.retry.clone().unwrap_or_default()
    }

    /// How many attempts are charged at most.
    pub fn max_attempts(&self) -> u16 {
        self.retry.as_ref().unwrap_or(&RetryPolicy::DEFAULT).max_attempts
    }

    /// How long the open request of one attempt may take.
    pub fn time_limit(&self) -> Dur {
        self.time_limit.unwrap_or(DEFAULT_TIME_LIMIT)
    }

    /// How long a result is kept after the end.
    pub fn result_ttl(&self) -> Duration {
        self.result_ttl.unwrap_or(DEFAULT_RETENTION).get()
    }

    /// How long the record is kept after the end.
    pub fn retention(&self, failed: bool) -> Duration {
        self.retention.unwrap_or(if failed { DEFAULT_DEAD_RETENTION } else { DEFAULT_RETENTION }).get()
    }

    /// The lane of a task with this signature and priority.
    pub fn lane(&self, ns: Ns, priority: u8) -> LaneDef {
        let mixed = LaneDef::of(ns, self.queue(), Route::Mixed);
        if self.order_key.is_some() {
            return LaneDef { order_key: self.order_key.clone(), ..mixed };
        }
        if self.order == LaneOrder::Fifo {
            return LaneDef { order: self.order, ..mixed };
        }
        let priority = self.batch.is_none().then_some(priority.min(9));
        LaneDef { priority, order: self.order, ..self.gates(ns) }
    }

    /// What a task with this signature has to pass, wherever it waits: the lane that it would have if its order did not matter.
    pub fn gates(&self, ns: Ns) -> LaneDef {
        let route = match (&self.url, &self.task) {
            (Some(url), _) => Route::Origin(origin(url)),
            (None, task) => Route::Task(task.clone().unwrap_or_default()),
        };
        LaneDef {
            batch: self.batch.clone(),
            fair_key: self.fair_key.clone(),
            limits: self.limits.clone(),
            ..LaneDef::of(ns, self.queue(), route)
        }
    }

    /// The slot in which all tasks with its order, unique or debounce key live; `None`: it has none of them, and its queue is
    /// not kept in order either.
    pub fn bound(&self, ns: Ns) -> Option<Slot> {
        if let Some(key) = &self.order_key {
            return Some(Slot::of(ns, SlotKind::Order, key.as_bytes()));
        }
        let unique = self.unique.as_ref().map(|it| (SlotKind::Unique, &it.key));
        let debounce = self.debounce.as_ref().map(|it| (SlotKind::Debounce, &it.key));
        let (kind, key) = match unique.or(debounce) {
            Some((kind, key)) => (kind, key.as_str()),
            None if self.order == LaneOrder::Fifo => (SlotKind::Queue, self.queue()),
            None => return None,
        };
        Some(Slot::of(ns, kind, key.as_bytes()))
    }

    /// What keeps it in order with others, if anything does: the order key, or the queue that is kept in order.
    pub fn order_name(&self) -> Option<(SlotKind, &str)> {
        match &self.order_key {
            Some(key) => Some((SlotKind::Order, key)),
            None => (self.order == LaneOrder::Fifo).then(|| (SlotKind::Queue, self.queue())),
        }
    }

    /// Under which name it takes its unique key: with an order key it is unique among the tasks of that one. No key has a
    /// control character, so names of both kinds never meet.
    pub fn unique_name(&self) -> Option<String> {
        let key = &self.unique.as_ref()?.key;
        Some(self.order_key.as_ref().map_or_else(|| key.clone(), |order| format!("{order}\0{key}")))
    }

    /// The slot for its id, if that is made for it: where other tasks with its unique, debounce or batch key live; `None`: any
    /// will do.
    pub fn home(&self, ns: Ns) -> Option<Slot> {
        let batch = self.batch.as_ref().map(|it| Slot::of(ns, SlotKind::Batch, it.key.as_bytes()));
        self.bound(ns).or(batch)
    }

    /// The slot that is home to what the task `key` with this signature starts: in every store, however many partitions it has,
    /// that is in the partition in which the task lives.
    pub fn place(&self, key: &TaskKey) -> Slot {
        let bound = || self.bound(key.ns).filter(|_| matches!(key.id, TaskId::Client(_)));
        self.away.map(Slot::new).or_else(bound).unwrap_or_else(|| key.slot())
    }

    /// The slot in which the task `key` with this signature lives.
    pub fn slot(&self, key: &TaskKey) -> Slot {
        self.away.map_or_else(|| key.slot(), Slot::new)
    }

    /// Named MessagePack.
    pub fn encode(&self) -> Vec<u8> {
        // Serialising plain data into a Vec cannot fail: no maps with odd keys, no I/O.
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    /// Reads an encoded signature; `None` if it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }
}

/// `scheme://host:port` of a URL that was validated at submit.
fn origin(url: &str) -> String {
    url::Url::parse(url).map(|u| u.origin().ascii_serialization()).unwrap_or_default()
}

/// The stored payload of a call: `{"args":…,"kwargs":…}` from JSON texts that were validated once.
pub fn call_payload(args: Option<&str>, kwargs: Option<&str>) -> Bytes {
    let (args, kwargs) = (args.unwrap_or("[]"), kwargs.unwrap_or("{}"));
    let mut out = String::with_capacity(args.len() + kwargs.len() + 20);
    out.push_str("{\"args\":");
    out.push_str(args);
    out.push_str(",\"kwargs\":");
    out.push_str(kwargs);
    out.push('}');
    Bytes::from(out)
}

/// The body that a worker gets.
pub fn delivered(spec: &Spec, id: &TaskId, payload: &Bytes) -> Bytes {
    match spec.form {
        Form::Verbatim => payload.clone(),
        Form::Call => {
            let task = spec.task.as_deref().unwrap_or_default();
            let mut out = Vec::with_capacity(payload.len() + task.len() + 64);
            out.extend_from_slice(b"{\"task\":");
            // A string always serialises; into a Vec nothing else can fail.
            let _ = serde_json::to_writer(&mut out, task);
            out.extend_from_slice(b",\"id\":\"");
            out.extend_from_slice(id.to_string().as_bytes());
            out.extend_from_slice(b"\",");
            out.extend_from_slice(payload.get(1..).unwrap_or(b"}"));
            out.into()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plain_signature_is_small_and_round_trips() {
        let spec = Spec { task: Some("demo.add".into()), ..Spec::default() };
        let bytes = spec.encode();
        assert!(bytes.len() < 20, "{}", bytes.len());
        assert_eq!(Spec::decode(&bytes).unwrap(), spec);
        assert_eq!(spec.queue(), "default");
    }

    #[test]
    fn fields_of_a_newer_version_are_passed_over() {
        #[derive(Serialize)]
        struct Newer {
            task: &'static str,
            invented_later: u8,
        }
        let bytes = rmp_serde::to_vec_named(&Newer { task: "a", invented_later: 1 }).unwrap();
        assert_eq!(Spec::decode(&bytes).unwrap().task.as_deref(), Some("a"));
    }

    #[test]
    fn a_call_is_delivered_with_its_name_and_id() {
        let spec = Spec { task: Some("a\"b".into()), ..Spec::default() };
        let id = TaskId::parse("t-1").unwrap();
        let body = delivered(&spec, &id, &call_payload(Some("[1.50]"), None));
        assert_eq!(&body[..], br#"{"task":"a\"b","id":"t-1","args":[1.50],"kwargs":{}}"#);
    }

    #[test]
    fn lanes_follow_queue_and_route() {
        let by_url =
            Spec { task: Some("x".into()), url: Some("https://a.example/p?q=1".into()), queue: "mail".into(), ..Spec::default() };
        assert_eq!(
            by_url.lane(Ns(3), 5),
            LaneDef { priority: Some(5), ..LaneDef::of(Ns(3), "mail", Route::Origin("https://a.example".into())) }
        );
    }
}
