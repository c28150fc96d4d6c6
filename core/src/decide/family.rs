//! Tasks that a task starts: children that its worker spawns, and links after its end.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Task, Transition, plain};
use crate::attempt::AttemptEntry;
use crate::body::ResultValue;
use crate::head::{Flags, Head, SessionId};
use crate::id::{IdRun, Slot, TaskKey};
use crate::readable;
use crate::redact::pass_on;
use crate::signature::Draft;
use crate::spec::{Arrival, Far, Form, Linked, call_payload};
use crate::state::{Reason, State};
use crate::time::Millis;
use crate::units::Dur;
use crate::view::is_json;

/// The most labels with those that are inherited: else they would grow from generation to generation.
const MOST_LABELS: usize = 64;

/// What lives elsewhere is kept for at least so long after its end: it came in a message, which does nothing the second time only
/// while the record is there.
const LEAST_RETENTION: Dur = Dur::from_secs(3_600);

impl Task<'_> {
    /// The attempt is over; the task waits until all of `tasks` are final.
    pub(super) fn blocked_by(self, tasks: Vec<Draft>) -> Transition {
        let mut next = self.step(State::Blocked, Reason::Children);
        next.session = SessionId(0);
        next.lost = 0;
        (next.due, next.deadline) = (Millis(0), Millis(0));
        let mut transition = plain(next);
        transition.barrier = Some(tasks.len() as u32);
        let children = self.children(tasks, true);
        self.give_ids(&mut transition, children);
        let ids = transition.spawns.iter().map(|task| task.key.id.clone()).collect();
        let mut transition = self.entry(transition, "spawned", None);
        if let Some(entry) = &mut transition.attempt {
            entry.children = ids;
        }
        transition
    }

    /// What all children of this task have.
    pub(super) fn children(self, drafts: Vec<Draft>, arrive: bool) -> Vec<Draft> {
        let adopt = |(index, mut draft): (u32, Draft)| {
            self.adopt(&mut draft);
            // The worker that wrote it does not know what this task hides.
            self.hide_in(&mut draft.spec.redact);
            draft.spec.arrives = arrive.then(|| {
                let home = self.spec.place(self.key);
                let is_far = self.slot_of(&draft) != home;
                let far = Far { slot: home.number(), attempt: self.head.attempt, generation: self.head.generation };
                Arrival { barrier: self.key.id.clone(), index, far: is_far.then_some(far) }
            });
            draft
        };
        (0..).zip(drafts).map(adopt).collect()
    }

    fn adopt(self, draft: &mut Draft) {
        self.inherit(&mut draft.spec.labels);
        pass_on(&self.spec.redact, &mut draft.spec.redact, None);
        draft.spec.trace.clone_from(&self.spec.trace);
        draft.spec.parent = Some(self.key.id.clone());
        draft.spec.root = Some(self.spec.root.clone().unwrap_or_else(|| self.key.id.clone()));
    }

    /// Adds what this task hides.
    pub(super) fn hide_in(self, redact: &mut Vec<String>) {
        let hidden: Vec<String> = self.spec.redact.iter().filter(|pointer| !redact.contains(pointer)).cloned().collect();
        redact.extend(hidden);
    }

    /// A child's own labels go before inherited ones.
    pub(super) fn inherit(self, labels: &mut BTreeMap<String, String>) {
        for (key, value) in &self.spec.labels {
            if labels.len() >= MOST_LABELS {
                break;
            }
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }

    /// Where a task of this signature lives that this task starts: beside it, unless its order belongs elsewhere.
    fn slot_of(self, draft: &Draft) -> Slot {
        draft.spec.bound(self.key.ns).unwrap_or_else(|| self.spec.place(self.key))
    }

    /// Makes `drafts` tasks of this transition. The ids follow from the task and its version: a version is left only once, so
    /// a repeated commit makes the same tasks and no other commit makes them.
    pub(super) fn give_ids(self, transition: &mut Transition, drafts: Vec<Draft>) {
        let home = self.spec.place(self.key);
        let run = IdRun::new(self.head.started, home, seed(self.key, self.head));
        for mut draft in drafts {
            let slot = self.slot_of(&draft);
            if slot != home {
                draft.spec.retention = draft.spec.retention.map(|kept| kept.max(LEAST_RETENTION));
            }
            let id = run.nth_in(transition.spawns.len() as u32, slot);
            let mut task = draft.task(TaskKey::new(self.key.ns, id), self.now);
            task.head.flags = task.head.flags.with(Flags::HAS_PARENT);
            transition.spawns.push(task);
        }
    }

    /// Starts the links of a success: the result goes before their arguments.
    pub(super) fn link(self, transition: &mut Transition, content_type: Option<&str>, result: Option<&Bytes>) {
        if !self.spec.link.is_empty() {
            let value = as_json(content_type.unwrap_or_default(), result);
            self.links(transition, &self.spec.link, Linked::Success, &value);
        }
    }

    /// Starts the links of a failure: what failed goes before their arguments.
    pub(super) fn link_error(self, transition: &mut Transition, error: &ResultValue) {
        #[derive(serde::Serialize)]
        struct Told<'a> {
            id: &'a crate::id::TaskId,
            task: Option<&'a str>,
            error: Option<&'a RawValue>,
        }
        if self.spec.link_error.is_empty() {
            return;
        }
        let ResultValue::Error(bytes) = error else { return };
        let error = serde_json::from_slice(bytes).ok();
        let told = Told { id: &self.key.id, task: self.spec.task.as_deref(), error };
        let value = serde_json::to_string(&told).unwrap_or_default();
        self.links(transition, &self.spec.link_error, Linked::Failure, &value);
    }

    fn links(self, transition: &mut Transition, links: &[Draft], linked: Linked, value: &str) {
        // The field of this record that `value` shows.
        let field = match linked {
            Linked::Success => "result",
            Linked::Failure => "error",
        };
        let mut drafts = links.to_vec();
        for draft in &mut drafts {
            self.adopt(draft);
            draft.spec.linked = Some(linked);
            if draft.spec.form == Form::Call && !draft.spec.immutable {
                pass_on(&self.spec.redact, &mut draft.spec.redact, Some(field));
                draft.payload = prepend(&draft.payload, value);
            }
        }
        self.give_ids(transition, drafts);
    }

    /// The worker starts other tasks and goes on.
    pub(super) fn spawned(self, tasks: Vec<Draft>) -> Result<Transition, super::Refusal> {
        if self.head.flags.has(Flags::CANCEL) {
            return Err(self.wrong_state());
        }
        let mut transition = plain(self.step(State::Running, self.head.reason));
        let children = self.children(tasks, false);
        self.give_ids(&mut transition, children);
        let children = transition.spawns.iter().map(|task| task.key.id.clone()).collect();
        transition.attempt = Some(AttemptEntry { children, ..AttemptEntry::open(self.head) });
        Ok(transition.with_flag(Flags::HAS_ATTEMPTS))
    }
}

/// 64-bit FNV-1a over key and version, finished by an avalanche step.
fn seed(key: &TaskKey, head: &Head) -> u64 {
    let (key, version) = (key.to_bytes(), head.version.to_be_bytes());
    let bytes = key.iter().chain(&version);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ hash >> 33
}

/// A result as JSON: as it is, as a string if it is another text; null if it is neither, or not every reader could read it.
fn as_json(content_type: &str, result: Option<&Bytes>) -> String {
    const NULL: &str = "null";
    let Some(text) = result.and_then(|bytes| std::str::from_utf8(bytes).ok()) else { return NULL.to_owned() };
    if is_json(content_type) {
        let value = serde_json::from_str::<&RawValue>(text).ok().filter(|raw| readable::check(raw.get().as_bytes()).is_ok());
        return value.map_or(NULL, RawValue::get).to_owned();
    }
    serde_json::to_string(text).unwrap_or_else(|_| NULL.to_owned())
}

/// The stored payload of a call with one more argument in front.
fn prepend(payload: &Bytes, value: &str) -> Bytes {
    #[derive(serde::Deserialize)]
    struct Call<'a> {
        #[serde(borrow)]
        args: &'a RawValue,
        #[serde(borrow)]
        kwargs: &'a RawValue,
    }
    let Ok(call) = serde_json::from_slice::<Call<'_>>(payload) else { return payload.clone() };
    let rest = call.args.get().get(1..).unwrap_or("]");
    let comma = if rest.trim_start().starts_with(']') { "" } else { "," };
    call_payload(Some(&format!("[{value}{comma}{rest}")), Some(call.kwargs.get()))
}
