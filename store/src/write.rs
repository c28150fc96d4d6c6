//! The writes: inserts, claims and guarded commits.

use std::sync::Arc;

use bytes::Bytes;
use lovage_core::callback::{self, Change};
use lovage_core::{Head, LaneDef, Millis, NewTask, ResultValue, Spec, TaskKey, Transition};

/// What happens when an id is already stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExists {
    /// The id was just generated: nobody has it, the store need not look.
    Generated,
    /// Answer [`Inserted::Exists`] and leave the stored task alone.
    Return,
}

/// Whether the items of a batch depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each item applies or is refused alone.
    Each,
    /// All items apply, or none does and the innocent ones are answered `Aborted`.
    Atomic,
}

/// When a commit's answer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Once the change is durable in the store's documented mode.
    Durable,
    /// Once the change is ordered: later durable writes imply it, and nobody is shown it before it is durable. The
    /// store may hold it back for up to 5 ms to make it durable together with others.
    Ordered,
}

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// An `Idempotency-Key`; value: hash of the request.
    Idempotency = b'i',
}

/// A key that an insert takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPut {
    /// What the key is used for.
    pub kind: KeyKind,
    /// The key; unique per namespace and kind.
    pub key: Bytes,
    /// Kept beside the task's id and returned with a conflict.
    pub value: Bytes,
    /// The key is free again at this time.
    pub until: Millis,
}

/// A key as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// Whose it is.
    pub task: TaskKey,
    /// What was put beside it.
    pub value: Bytes,
    /// When it ends.
    pub until: Millis,
}

/// A new task.
#[derive(Clone, Debug)]
pub struct Insert {
    /// Its namespace and id; the id's slot must belong to the partition.
    pub key: TaskKey,
    /// Its first head, with version 1 and `seq` 0: the store assigns `seq`.
    pub head: Head,
    /// Its body (`lovage_core::Body`).
    pub body: Bytes,
    /// Its lane; the store keeps the definition while tasks wait in it. Its queue is the one that is counted.
    pub lane: Arc<LaneDef>,
    /// What happens when the id is already stored.
    pub exists: OnExists,
    /// Refused as [`Inserted::Late`] if the store's time is already past this.
    pub not_after: Option<Millis>,
    /// A key that must be free (or past its end), taken together with the insert.
    pub unique: Option<KeyPut>,
    /// The root of the tree it belongs to, if it is not a root itself.
    pub root: Option<TaskKey>,
}

/// The answer to an [`Insert`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// Stored, with this order of acceptance.
    Ok {
        /// The `seq` assigned.
        seq: u64,
    },
    /// The id is taken: this is the stored head.
    Exists(Head),
    /// The key is taken.
    Conflict(KeyEntry),
    /// Its time was over before it was stored.
    Late,
    /// Another item of an atomic batch was refused.
    Aborted,
}

/// Moves a waiting task to running.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The task.
    pub key: TaskKey,
    /// The head that it must still have (compared by version), from which the store knows the old placement.
    pub was: Head,
    /// The head after: running, attempt and version one higher.
    pub head: Head,
    /// Its queue, for the counts.
    pub queue: Arc<str>,
}

/// The answer to a [`Claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Running now; this is its body.
    Ok(Bytes),
    /// The task has another version or is gone; nothing was changed.
    Stale,
}

/// A guarded change of one task.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The task.
    pub key: TaskKey,
    /// The head that it must still have (compared by version), from which the store knows the old placement.
    pub was: Head,
    /// The head after, or `None` to delete the record with all its parts.
    pub head: Option<Head>,
    /// Its queue, for the counts.
    pub queue: Arc<str>,
    /// Replaces the body.
    pub body: Option<Bytes>,
    /// `Some(Some(bytes))` stores a result, `Some(None)` removes it.
    pub result: Option<Option<Bytes>>,
    /// Appends an entry to the attempts.
    pub attempt: Option<Bytes>,
    /// What happens together with the change.
    pub effects: Vec<Effect>,
}

/// What else a commit does in the same atomic step.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Stores a new task of the same partition (a callback). Refused by nothing: its id is generated.
    Spawn(Box<Insert>),
}

/// The answer to a [`Commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Applied.
    Ok,
    /// The task has another version: this is its head now, or it is gone. Nothing was changed.
    Stale(Option<Head>),
    /// Another item of an atomic batch was refused.
    Aborted,
}

impl Insert {
    /// The insert of a new task without a unique key.
    pub fn new(task: NewTask, exists: OnExists) -> Self {
        Self {
            key: task.key,
            head: task.head,
            body: task.body,
            lane: Arc::new(task.lane),
            exists,
            not_after: None,
            unique: None,
            root: task.root,
        }
    }
}

impl Commit {
    /// What a decided transition asks of the store: children, links and callbacks become tasks of the same commit. `worker` is the name that
    /// callbacks show; `random` seeds their ids.
    #[allow(clippy::too_many_arguments)] // the whole of a change; each caller has them under these names
    pub fn of(
        key: &TaskKey,
        was: Head,
        transition: Transition,
        spec: &Spec,
        queue: Arc<str>,
        worker: Option<&str>,
        now: Millis,
        random: impl Fn() -> u64,
    ) -> Self {
        let spawn = |task| Effect::Spawn(Box::new(Insert::new(task, OnExists::Generated)));
        let mut effects: Vec<Effect> = transition.spawns.into_iter().map(spawn).collect();
        if let Some(head) = &transition.head {
            let result = transition.result.as_ref().and_then(Option::as_ref);
            for kind in &transition.notices {
                let task = callback::spawn(*kind, Change { of: key, head, spec, result, worker }, now, random());
                effects.extend(task.map(spawn));
            }
        }
        Self {
            key: key.clone(),
            was,
            head: transition.head,
            queue,
            body: transition.body,
            result: transition.result.map(|result| result.as_ref().map(ResultValue::encode)),
            attempt: transition.attempt.map(|entry| entry.encode().into()),
            effects,
        }
    }
}
