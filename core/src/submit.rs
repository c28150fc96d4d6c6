//! A task before it is stored.

use bytes::Bytes;

use crate::head::{Head, SessionId};
use crate::id::TaskKey;
use crate::lane::LaneDef;
use crate::state::{Reason, State};
use crate::time::Millis;

/// A task that is ready to be inserted.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// Its namespace and id.
    pub key: TaskKey,
    /// Its first head; the store assigns `seq`.
    pub head: Head,
    /// Its body (`Body::encode`).
    pub body: Bytes,
    /// Where it waits.
    pub lane: LaneDef,
    /// The root of its tree, unless it is one.
    pub root: Option<TaskKey>,
}

impl NewTask {
    /// The first head of a task accepted `now`: scheduled if `due` is later, else queued.
    pub fn first_head(lane: &LaneDef, priority: u8, due: Option<Millis>, expires: Option<Millis>, now: Millis) -> Head {
        let later = due.filter(|due| *due > now);
        Head {
            version: 1,
            state: if later.is_some() { State::Scheduled } else { State::Queued },
            reason: Reason::None,
            priority: priority.min(9),
            flags: lane.flags(),
            attempt: 0,
            budget: 0,
            lost: 0,
            generation: 0,
            session: SessionId(0),
            lane: lane.id(),
            worker: 0,
            seq: 0,
            created: now,
            due: later.unwrap_or_default(),
            expires: expires.unwrap_or_default(),
            deadline: Millis(0),
            started: Millis(0),
            first_started: Millis(0),
            ended: Millis(0),
        }
    }
}
