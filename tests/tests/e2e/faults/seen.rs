//! What clients and workers have been shown, and when: the promises that a crash must not break.

use std::collections::HashMap;
use std::sync::Mutex;

use lovage_tests::{Answer, Call};
use serde_json::Value;

/// What of a task must be the same for ever once it was shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Facts {
    pub version: u64,
    pub state: String,
    pub reason: Option<String>,
    pub cancel_requested: bool,
    /// As far as it was shown: a list has no results.
    pub result: Option<Value>,
}

#[derive(Debug)]
enum Sight {
    /// Somebody was told that the task is stored.
    Exists,
    /// Somebody was shown its record.
    Record(Facts),
    /// Somebody asked for its deletion: from now on it may be gone.
    DeleteSent,
    /// … and was told that it is.
    Deleted,
}

/// Sights with their instants (see `lovage_tests::clock`), by task id.
#[derive(Default)]
pub(super) struct Journal(Mutex<HashMap<String, Vec<(u64, Sight)>>>);

impl Facts {
    pub fn of(record: &Value) -> Self {
        let text = |name: &str| record[name].as_str().map(str::to_owned);
        Self {
            version: record["version"].as_u64().unwrap(),
            state: text("state").unwrap(),
            reason: text("reason"),
            cancel_requested: record["cancel_requested"] == true,
            result: record.get("result").filter(|result| !result.is_null()).cloned(),
        }
    }

    fn is_final(&self) -> bool {
        matches!(&*self.state, "succeeded" | "failed" | "canceled" | "expired")
    }

    /// Why `self`, found after a crash, breaks the promise that `shown` was.
    fn breaks(&self, shown: &Self) -> Option<&'static str> {
        if shown.is_final() {
            let same = self.state == shown.state && self.reason == shown.reason;
            let same_result = shown.result.is_none() || self.result == shown.result;
            return (!same || !same_result).then_some("its end was undone");
        }
        if shown.cancel_requested {
            return (!self.cancel_requested && !self.is_final()).then_some("its cancel was undone");
        }
        // The start of an attempt survives a kill, but is not promised over a power cut.
        let promised = if shown.state == "running" { shown.version - 1 } else { shown.version };
        (self.version < promised).then_some("a step was undone")
    }
}

impl Journal {
    /// An answer that acknowledges a task or shows its record.
    pub fn saw(&self, answer: &Answer) {
        self.saw_item(&answer.json, answer.received_ns);
    }

    /// An item of a batch's answer, or a record.
    pub fn saw_item(&self, item: &Value, at_ns: u64) {
        let Some(id) = item["id"].as_str() else { return };
        let sight = if item["version"].is_u64() { Sight::Record(Facts::of(item)) } else { Sight::Exists };
        self.note(id, at_ns, sight);
    }

    /// What the worker got: an attempt shows it that the task exists, a callback at `/hook` shows it the whole record.
    pub fn saw_call(&self, call: &Call) {
        if call.path == "/hook" {
            self.saw_item(&call.json(), call.started_ns);
        } else {
            self.note(&call.id, call.started_ns, Sight::Exists);
        }
    }

    /// A `DELETE` is about to leave.
    pub fn sends_delete(&self, id: &str) {
        self.note(id, lovage_tests::clock::now_ns(), Sight::DeleteSent);
    }

    /// It was answered.
    pub fn saw_deleted(&self, id: &str, answer: &Answer) {
        self.note(id, answer.received_ns, Sight::Deleted);
    }

    /// Number of tasks of which anything was seen.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// All tasks of which anything was seen.
    pub fn ids(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    /// What was promised until an instant and is not kept: `kept` is what is stored of each task.
    pub fn broken(&self, at_ns: u64, kept: &HashMap<String, Facts>) -> Vec<String> {
        let mut broken = Vec::new();
        for (id, sights) in self.0.lock().unwrap().iter() {
            let sights: Vec<&Sight> = sights.iter().filter(|(seen_ns, _)| *seen_ns <= at_ns).map(|(_, sight)| sight).collect();
            let may_be_gone = sights.iter().any(|sight| matches!(sight, Sight::DeleteSent));
            let must_be_gone = sights.iter().any(|sight| matches!(sight, Sight::Deleted));
            match kept.get(id) {
                Some(found) if must_be_gone => broken.push(format!("{id} was deleted and is back: {found:?}")),
                Some(found) => broken.extend(sights.iter().find_map(|sight| match sight {
                    Sight::Record(shown) => found.breaks(shown).map(|why| format!("{id}: {why}: {shown:?} became {found:?}")),
                    _ => None,
                })),
                None if sights.is_empty() || may_be_gone => {}
                None => broken.push(format!("{id} is lost; last seen: {:?}", sights.last().unwrap())),
            }
        }
        broken
    }

    fn note(&self, id: &str, at_ns: u64, sight: Sight) {
        self.0.lock().unwrap().entry(id.to_owned()).or_default().push((at_ns, sight));
    }
}
