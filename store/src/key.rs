//! Keys: names that at most one task has at a time.
//!
//! | kind | goes | names |
//! |---|---|---|
//! | `Idempotency` | at its end | the request that made the task |
//! | `Unique`, `Debounce` | at its end, and with the record of its task | the one task that may be waiting or running |
//! | `Directory` | at its end | the partition of a client-chosen id that does not live at home |
//!
//! # The directory
//!
//! A task whose id is chosen by the client and that takes a `Unique` or `Debounce` key lives where that key lives. Then
//! [`put_key`](crate::Store::put_key) first takes the id in its home partition, and the task is inserted afterwards:
//!
//! 1. The entry's value says where the task will be and until when its insert may still come: the
//!    [`not_after`](crate::Insert::not_after) of that insert, plus the time that a call may be under way. It has no end
//!    of its own: a task that is stored can always be found.
//! 2. Whoever finds an entry, and no task where it points, waits for that time to pass: then the task can no longer
//!    appear. It takes the entry over by naming it ([`KeyTake::seen`]). Of several that try one gets it, and the first,
//!    slow one is answered `Late`.
//! 3. The deletion of the record sends [`Message::Free`](crate::Message::Free) to the home of the id; there the entry is taken
//!    over with an end that has passed.

use bytes::Bytes;
use lovage_core::{Head, Millis, Spec, TaskKey, UniqueScope, Version, unique_holds};

/// The most keys of one task.
pub const MAX_KEYS: usize = 4;

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// A `debounce` key.
    Debounce = b'b',
    /// Where the task of a client-chosen id lives.
    Directory = b'd',
    /// An `Idempotency-Key`; value: hash of the request.
    Idempotency = b'i',
    /// A `unique` key.
    Unique = b'u',
}

impl KeyKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Debounce, Self::Directory, Self::Idempotency, Self::Unique];

    /// Whether the key goes with the record of its task: then it always names a task of its partition.
    pub fn ends_with_record(self) -> bool {
        matches!(self, Self::Unique | Self::Debounce)
    }
}

/// A key that a new task takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPut {
    /// What the key is used for.
    pub kind: KeyKind,
    /// The key; unique per namespace and kind.
    pub key: Bytes,
    /// Kept beside the task's id and returned with a conflict.
    pub value: Bytes,
    /// The key is free again at this time; `None`: it has no end of its own.
    pub until: Option<Millis>,
    /// Taken also from this task, if its record still has exactly this version or is gone. In a commit that also arrives at
    /// the barrier of that task it is open which version counts.
    pub steal: Option<(TaskKey, Version)>,
}

/// A key as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// Whose it is.
    pub task: TaskKey,
    /// What was put beside it.
    pub value: Bytes,
    /// When it ends; `None`: it has no end of its own.
    pub until: Option<Millis>,
}

/// A key that is taken alone, for a task that is stored apart or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTake {
    /// `Idempotency` or `Directory`; the others need their task's record.
    pub kind: KeyKind,
    /// The key; unique per kind and namespace, which is that of the entry's task.
    pub key: Bytes,
    /// What is stored. An end that has passed frees the key.
    pub entry: KeyEntry,
    /// An entry that may be replaced if it is still exactly this.
    pub seen: Option<KeyEntry>,
}

impl KeyPut {
    /// The unique key of a task that was submitted at `created`, if it has one; how long it is held stands beside it.
    pub fn unique(spec: &Spec, created: Millis) -> Option<Self> {
        let unique = spec.unique.as_ref()?;
        Some(Self {
            kind: KeyKind::Unique,
            key: spec.unique_name()?.into(),
            value: Bytes::copy_from_slice(&[unique.scope.to_byte()]),
            until: unique.until(created),
            steal: None,
        })
    }

    /// The entry that says that `task` has the key.
    pub(crate) fn entry(&self, task: &TaskKey) -> KeyEntry {
        KeyEntry { task: task.clone(), value: self.value.clone(), until: self.until }
    }
}

impl KeyEntry {
    /// Whether the task of this unique key, which has this head, still holds it.
    pub fn is_held(&self, head: Option<&Head>, now: Millis) -> bool {
        let scope = UniqueScope::from_byte(self.value.first().copied().unwrap_or_default());
        unique_holds(scope, self.until.unwrap_or(Millis(u64::MAX)), head, now)
    }

    /// Whether its own end has passed.
    pub(crate) fn is_over(&self, now: Millis) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}
