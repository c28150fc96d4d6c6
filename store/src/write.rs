//! The writes: inserts, claims and guarded commits.

use std::sync::Arc;

use bytes::Bytes;
use lovage_core::callback::{self, Change};
use lovage_core::{Arrival, Far, Head, HeldKey, LaneDef, Millis, NewTask, ResultValue, Slot, Spec, TaskKey, Transition, Version};

use crate::{KeyEntry, KeyKind, KeyPut, Message};

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

/// A new task.
#[derive(Clone, Debug)]
pub struct Insert {
    /// Its namespace and id; the id's slot must belong to the partition. Only a client-chosen id may live elsewhere, if
    /// the task takes a key that binds it there (`Unique`, `Debounce`).
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
    /// Keys that must be free, taken together with the insert; at most [`MAX_KEYS`](crate::MAX_KEYS).
    pub keys: Vec<KeyPut>,
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
    /// A key is taken.
    Conflict {
        /// What the key is used for.
        kind: KeyKind,
        /// Who has it.
        entry: KeyEntry,
        /// The head of that task; `None` if it is gone or lives in another partition.
        head: Option<Head>,
    },
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
    /// The head that it must still have (see [`Head::is_still`]), from which the store knows the old placement. A store may
    /// compare all of it: whoever makes up the rest may be refused.
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
    /// The task has another head or is gone; nothing was changed.
    Stale,
}

/// A guarded change of one task.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The task.
    pub key: TaskKey,
    /// The head that it must still have (see [`Head::is_still`]), from which the store knows the old placement. A store may
    /// compare all of it: whoever makes up the rest may be refused.
    pub was: Head,
    /// The head after, or `None` to delete the record with all its parts.
    pub head: Option<Head>,
    /// Its queue before, for the counts.
    pub queue: Arc<str>,
    /// The lane after, if the change moves the task to another one: it is what the head after names, and its queue is
    /// counted from then on. It is of the same namespace.
    pub lane: Option<Arc<LaneDef>>,
    /// Replaces the body.
    pub body: Option<Bytes>,
    /// `Some(Some(bytes))` stores a result, `Some(None)` removes it.
    pub result: Option<Option<Bytes>>,
    /// Appends an entry to the attempts; the latest [`KEPT_ENTRIES`](lovage_core::attempt::KEPT_ENTRIES) are kept.
    pub attempt: Option<Bytes>,
    /// What happens together with the change.
    pub effects: Vec<Effect>,
}

/// The most members of a barrier.
pub const MAX_MEMBERS: u32 = 1_000_000;

/// What else a commit does in the same atomic step, in this order, after its own change.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Stores a new task of the same partition. Skipped if its id is stored already, so that a deterministic id is
    /// spawned once. If a key that it takes belongs to another task, the whole commit is answered
    /// [`Committed::Conflict`]. From the commit's own task a key may be stolen whatever the version.
    Spawn(Box<Insert>),
    /// The commit's own task, which must be blocked now (else this does nothing), waits for so many members; at most
    /// [`MAX_MEMBERS`]. A barrier that it had before is forgotten.
    ///
    /// When all have arrived and the task is still blocked, the store sets its `deadline` to now, raises its version by
    /// one and shows that in the same feed entry; without members, at once. The barrier goes when it is complete, when
    /// its task is no longer blocked, and with the record.
    Barrier {
        /// How many.
        members: u32,
    },
    /// A member has arrived at the barrier of a task of this partition. Applied once for each index; one that is
    /// repeated, out of range, or at a barrier that is not there is ignored.
    Arrive {
        /// The task that waits.
        barrier: TaskKey,
        /// Which member, from 0.
        index: u32,
    },
    /// The commit's own task takes a key, unless it has it. If it belongs to another task that it may not be stolen from, the
    /// whole commit is answered [`Committed::Conflict`].
    TakeKey(KeyPut),
    /// Frees a key, if it still belongs to the commit's own task.
    FreeKey {
        /// What the key is used for.
        kind: KeyKind,
        /// The key.
        key: Bytes,
    },
    /// Puts a message for the partition of this slot into the outbox.
    Send {
        /// Where it goes: where the task of which it speaks is or will be, or the entry.
        to: Slot,
        /// What it says.
        message: Message,
    },
}

/// The answer to a [`Commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Applied.
    Ok,
    /// The task has another head, this one, or is gone. Nothing was changed.
    Stale(Option<Head>),
    /// A key that the task or a spawned one would take belongs to another task. Nothing was changed.
    Conflict {
        /// What the key is used for.
        kind: KeyKind,
        /// Who has it.
        entry: KeyEntry,
    },
    /// Another item of an atomic batch was refused.
    Aborted,
}

impl Insert {
    /// The insert of a new task without keys.
    pub fn new(task: NewTask, exists: OnExists) -> Self {
        Self {
            key: task.key,
            head: task.head,
            body: task.body,
            lane: Arc::new(task.lane),
            exists,
            not_after: None,
            keys: Vec::new(),
            root: task.root,
        }
    }
}

impl Commit {
    /// The lane that the task moves to, if it is another one.
    pub(crate) fn moves_to(&self) -> Option<&Arc<LaneDef>> {
        let head = self.head.as_ref()?;
        self.lane.as_ref().filter(|_| head.lane != self.was.lane)
    }

    /// Whether it stores new tasks, here or elsewhere.
    pub(crate) fn spawns(&self) -> bool {
        let new = |effect: &_| matches!(effect, Effect::Spawn(_) | Effect::Send { message: Message::Insert(_), .. });
        self.effects.iter().any(new)
    }

    /// Whether a key that is taken may refuse it.
    pub(crate) fn may_conflict(&self) -> bool {
        self.effects.iter().any(|effect| match effect {
            Effect::Spawn(child) => !child.keys.is_empty(),
            Effect::TakeKey(_) => true,
            Effect::Barrier { .. } | Effect::Arrive { .. } | Effect::FreeKey { .. } | Effect::Send { .. } => false,
        })
    }

    /// Lets the keys that its own task takes be stolen from this one, if it still has this version.
    pub fn steal_from(&mut self, holder: &(TaskKey, Version)) {
        for effect in &mut self.effects {
            if let Effect::TakeKey(put) = effect {
                put.steal = Some(holder.clone());
            }
        }
    }

    /// What a decided transition asks of a store with so many `partitions`: children, links and callbacks become tasks of the same
    /// commit, what belongs to another partition is sent there, and the directory entry of a record that is deleted is struck
    /// out. `worker` is the name that callbacks show; `random` seeds their ids.
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
        partitions: u16,
    ) -> Self {
        let is_here = |slot: Slot| slot.partition(partitions) == spec.slot(key).partition(partitions);
        let spawn = |task: NewTask| {
            let to = task.key.slot();
            if is_here(to) {
                return Effect::Spawn(Box::new(Insert::new(task, OnExists::Generated)));
            }
            Effect::Send { to, message: Message::Insert(Box::new(Insert::new(task, OnExists::Return))) }
        };
        let mut effects: Vec<Effect> = transition.spawns.into_iter().map(spawn).collect();
        if let Some(head) = &transition.head {
            let result = transition.result.as_ref().and_then(Option::as_ref);
            for kind in &transition.notices {
                let task = callback::spawn(*kind, Change { of: key, head, spec, result, worker }, now, random());
                effects.extend(task.map(spawn));
            }
        }
        effects.extend(transition.barrier.map(|members| Effect::Barrier { members }));
        effects.extend(transition.arrive.map(|Arrival { barrier, index, far }| {
            let barrier = TaskKey::new(key.ns, barrier);
            match far.map(|far| (Slot::new(far.slot), far)) {
                Some((to, Far { attempt, generation, .. })) if !is_here(to) => {
                    Effect::Send { to, message: Message::Arrive { barrier, index, attempt, generation } }
                }
                _ => Effect::Arrive { barrier, index },
            }
        }));
        let again = KeyPut::unique(spec, was.created).filter(|_| transition.holds_again);
        effects.extend(again.map(Effect::TakeKey));
        effects.extend(transition.frees.into_iter().map(|held| match held {
            HeldKey::Unique(name) => Effect::FreeKey { kind: KeyKind::Unique, key: name.into() },
            HeldKey::Debounce(name) => Effect::FreeKey { kind: KeyKind::Debounce, key: name.into() },
        }));
        if transition.head.is_none() && spec.away.is_some() {
            let message = Message::Free { task: key.clone(), slot: spec.slot(key), created: was.created };
            effects.push(Effect::Send { to: key.slot(), message });
        }
        Self {
            key: key.clone(),
            was,
            head: transition.head,
            queue,
            lane: transition.lane.map(Arc::new),
            body: transition.body,
            result: transition.result.map(|result| result.as_ref().map(ResultValue::encode)),
            attempt: transition.attempt.map(|entry| entry.encode().into()),
            effects,
        }
    }
}
