//! Attempts that their workers have accepted: no connection holds them, so the owner of their partition counts them for their
//! limits.
//!
//! What limits such an attempt has is known if it was pushed from here; of others their signatures are read. Until all that ran
//! when the partition was taken are known, what the owner before has told is left standing. As long as no rule says how many tasks
//! may run at once nothing is read or counted.

use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use lovage_core::{Body, Head, LaneDef, Millis, SessionId, Spec, State, TaskKey};
use lovage_store::{Cursor, Error, Index};

use super::admit::Right;
use super::calls::Done;
use super::{Owner, STORE_PAUSE, Shared};
use crate::limits::Count;

/// Records read at once.
const BATCH: usize = 200;

/// An attempt that its worker accepts after its partition went to another owner is counted here for so long.
const HANDED_OVER: Duration = Duration::from_secs(2);

/// An accepted attempt whose limits have to be read.
struct Unread {
    attempt: u32,
    until: Millis,
    /// When its task was accepted.
    created: Millis,
    /// Its worker took it itself.
    taken: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Accepted {
    counted: AHashMap<TaskKey, (u32, Count)>,
    unread: AHashMap<TaskKey, Unread>,
    reading: bool,
    /// Those that ran before are among the unread.
    scanned: bool,
    /// All are known.
    complete: bool,
    /// Rises when everything is forgotten.
    life: u64,
}

/// What was read of accepted attempts.
pub(super) enum Found {
    /// Those of the partition.
    Heads(Vec<(TaskKey, Head)>),
    /// What they have to pass; `None`: it cannot be read.
    Gates(Vec<(TaskKey, Option<LaneDef>)>),
    /// The store failed.
    Nothing,
}

impl Accepted {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self { life: self.life + 1, ..Self::default() };
    }

    /// Whether all accepted attempts of the partition are known.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    fn know(&mut self, key: &TaskKey, head: &Head) {
        if let Some((_, count)) = self.counted.get(key).filter(|(attempt, _)| *attempt == head.attempt) {
            return count.renew(head.deadline);
        }
        self.counted.remove(key);
        let taken = head.session == SessionId(0);
        self.unread.insert(key.clone(), Unread { attempt: head.attempt, until: head.deadline, created: head.created, taken });
    }

    fn forget(&mut self, key: &TaskKey, attempt: Option<u32>) {
        if self.counted.get(key).is_some_and(|(known, _)| attempt != Some(*known)) {
            self.counted.remove(key);
        }
        if self.unread.get(key).is_some_and(|known| attempt != Some(known.attempt)) {
            self.unread.remove(key);
        }
    }
}

impl Owner {
    /// A record looks like this now.
    pub(super) fn look_at_accepted(&mut self, key: &TaskKey, head: Option<&Head>) {
        if self.token.is_none() || (!self.accepted.scanned && self.accepted.counted.is_empty()) {
            return;
        }
        match head.filter(|head| head.state == State::Running) {
            Some(head) if head.is_accepted() => self.accepted.know(key, head),
            // An acceptance of this attempt may be on its way from here.
            running => self.accepted.forget(key, running.map(|head| head.attempt)),
        }
    }

    /// An attempt that was pushed from here ends. If with its acceptance (its number, and until when), it is counted for the
    /// partition from now on; else nobody counts it.
    pub(super) fn end_permit(&mut self, key: &TaskKey, right: Option<Right>, accepted: Option<(u32, Millis)>) {
        let limits = &self.shared.limits;
        let (Some(right), Some((attempt, until)), true) = (right, accepted, limits.counts()) else { return };
        if self.token.is_none() {
            // Of a partition of another owner that one counts it, when the feed has told it: until then nobody takes its place.
            tokio::spawn(async move {
                tokio::time::sleep(HANDED_OVER).await;
                drop(right);
            });
        } else {
            let count = match right {
                Right::Granted(permit) => limits.accept(Ok(permit), self.partition, until, None, !self.accepted.complete),
                Right::Taken(count) => {
                    count.renew(until);
                    count
                }
            };
            self.accepted.counted.insert(key.clone(), (attempt, count));
        }
    }

    /// Reads what has to be known of accepted attempts.
    pub(super) fn read_accepted(&mut self) {
        if self.token.is_none() || self.accepted.reading || !self.shared.limits.counts() {
            return;
        }
        let (shared, p, life) = (Arc::clone(&self.shared), self.partition, self.accepted.life);
        if !self.accepted.scanned {
            // What changes from now on is told by the feed.
            (self.accepted.scanned, self.accepted.reading) = (true, true);
            self.calls.push(Box::pin(async move {
                let found = loop {
                    match heads(&shared, p).await {
                        Ok(found) => break found,
                        Err(error) => {
                            error.log("read which attempts are accepted");
                            tokio::time::sleep(STORE_PAUSE).await;
                        }
                    }
                };
                Done::Accepted(life, Found::Heads(found))
            }));
            return;
        }
        let keys: Vec<TaskKey> = self.accepted.unread.keys().take(BATCH).cloned().collect();
        if keys.is_empty() {
            if !std::mem::replace(&mut self.accepted.complete, true) {
                self.shared.limits.tell_accepted(self.partition);
            }
            return;
        }
        self.accepted.reading = true;
        self.calls.push(Box::pin(async move {
            let found = match shared.store.bodies(p, &keys).await {
                Ok(bodies) => {
                    let gates = |(key, body): (TaskKey, Option<bytes::Bytes>)| {
                        let spec = body.and_then(|body| Spec::decode(&Body::decode(&body)?.spec));
                        let gates = spec.map(|spec| spec.gates(key.ns));
                        (key, gates)
                    };
                    Found::Gates(keys.into_iter().zip(bodies).map(gates).collect())
                }
                Err(error) => {
                    error.log("read the limits of accepted attempts");
                    tokio::time::sleep(STORE_PAUSE).await;
                    Found::Nothing
                }
            };
            Done::Accepted(life, found)
        }));
    }

    pub(super) fn on_accepted_found(&mut self, life: u64, found: Found) {
        if life != self.accepted.life {
            return;
        }
        self.accepted.reading = false;
        match found {
            Found::Nothing => {}
            Found::Heads(found) => {
                for (key, head) in found {
                    // What the feed told meanwhile is newer.
                    if !self.accepted.unread.contains_key(&key) {
                        self.accepted.know(&key, &head);
                    }
                }
            }
            Found::Gates(found) => {
                for (key, gates) in found {
                    let (Some(unread), Some(gates)) = (self.accepted.unread.remove(&key), gates) else { continue };
                    let limits = &self.shared.limits;
                    let taken = unread.taken.then(|| lovage_store::attempt_holder(&key, unread.attempt));
                    let (gates, silent) = (limits.gates_of_accepted(&gates), !self.accepted.complete);
                    let count =
                        limits.accept(Err((gates, unread.created)), self.partition, unread.until, taken.as_deref(), silent);
                    self.accepted.counted.insert(key, (unread.attempt, count));
                }
            }
        }
    }
}

/// The accepted attempts of a partition.
async fn heads(shared: &Shared, p: lovage_core::Partition) -> Result<Vec<(TaskKey, Head)>, Error> {
    let (mut found, mut from) = (Vec::new(), Cursor::default());
    loop {
        let page = shared.store.scan(p, &Index::Running { session: None }, from, BATCH).await?;
        found.extend(page.items.into_iter().filter(|(_, head)| head.is_accepted()));
        match page.next {
            Some(next) => from = next,
            None => return Ok(found),
        }
    }
}
