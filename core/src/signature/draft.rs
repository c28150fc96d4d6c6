//! A checked signature that has no place in the store yet.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::body::Body;
use crate::head::Head;
use crate::id::{TaskId, TaskKey};
use crate::lane::LaneDef;
use crate::spec::{DEFAULT_PRIORITY, Spec};
use crate::submit::NewTask;
use crate::time::Millis;
use crate::units::Dur;

/// A valid signature without a place. Kept inside other specs as named MessagePack; relative times stay relative until it
/// becomes a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Draft {
    /// The client's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<TaskId>,
    /// What was asked for.
    pub spec: Spec,
    /// 0–9, higher first; none: [`DEFAULT_PRIORITY`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Not before so long after it became a task. The instant of `eta` is in the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Dur>,
    /// Never started so long after it became a task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Dur>,
    /// Never started at or after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    /// How long its queue lets it wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Dur>,
    /// The payload's media type; empty: JSON.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    /// As received, or `{"args":…,"kwargs":…}`.
    pub payload: Bytes,
}

impl Draft {
    /// When it may start if it becomes a task `now`; `None`: at once.
    pub fn due(&self, now: Millis) -> Option<Millis> {
        let wait = self.delay.or(self.spec.debounce.as_ref().map(|debounce| debounce.wait));
        wait.map(|wait| now.after(wait.get())).or(self.spec.eta)
    }

    /// When it expires if it becomes a task `now`. What its queue lets it wait begins when it may start.
    pub fn expires(&self, now: Millis) -> Option<Millis> {
        let own = self.expires_in.map(|wait| now.after(wait.get())).or(self.expires_at);
        let aged = self.max_age.map(|age| self.due(now).unwrap_or(now).max(now).after(age.get()));
        own.into_iter().chain(aged).min()
    }

    /// The priority in force.
    pub fn priority(&self) -> u8 {
        self.priority.unwrap_or(DEFAULT_PRIORITY)
    }

    /// The first head of its task.
    pub fn head(&self, lane: &LaneDef, now: Millis) -> Head {
        NewTask::first_head(lane, self.priority(), self.due(now), self.expires(now), now)
    }

    /// The body of its task.
    pub fn body(&self, now: Millis) -> Bytes {
        let spec = match self.due(now) {
            due if due == self.spec.eta => self.spec.encode(),
            due => Spec { eta: due, ..self.spec.clone() }.encode(),
        };
        Body::encode(&spec, &self.content_type, &self.payload)
    }

    /// The task that it becomes `now` under `key`.
    pub fn task(&self, key: TaskKey, now: Millis) -> NewTask {
        let lane = self.spec.lane(key.ns, self.priority());
        let root = self.spec.root.clone().map(|id| TaskKey::new(key.ns, id));
        NewTask { head: self.head(&lane, now), body: self.body(now), lane, root, key }
    }
}
