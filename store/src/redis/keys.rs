//! The names of everything in Redis. All keys of a partition carry its hash tag, so that they share one slot of a cluster.

use lovage_core::id::SlotKind;
use lovage_core::{LaneId, Ns, SessionId, Slot, TaskKey};

use crate::{DocKind, KeyKind};

/// The names of one partition's keys: `<prefix>{pNN}…`.
#[derive(Clone, Debug)]
pub(super) struct PartitionKeys {
    tag: String,
    /// What `lib.lua` expects first, in its order.
    pub(super) fixed: [Vec<u8>; 13],
}

/// Places in [`PartitionKeys::fixed`], counted from 1 as Lua does.
pub(super) mod at {
    pub(in super::super) const TIMERS: usize = 9;
    pub(in super::super) const RUNNING: usize = 10;
    pub(in super::super) const DONE: usize = 11;
    /// The first key that a plan may name by itself.
    pub(in super::super) const FREE: usize = 14;
}

/// Where a key of a task is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyPlace {
    /// A string with this name, which may expire.
    Own(Vec<u8>),
    /// A field of [`PartitionKeys::holds`].
    Held(Vec<u8>),
}

impl PartitionKeys {
    pub(super) fn new(prefix: &str, partition: u16) -> Self {
        let tag = format!("{prefix}{{p{partition:02}}}");
        let names = ["h", "n", "seq", "f", "L", "lc", "mt", "mr", "t", "run", "done", "own", "k"];
        let fixed = names.map(|name| format!("{tag}{name}").into_bytes());
        Self { tag, fixed }
    }

    /// The keys that are the same for all tasks, with the types that they have if they are there.
    pub(super) fn types(&self) -> Vec<(Vec<u8>, &'static str)> {
        let types = ["hash", "hash", "string", "stream", "hash", "hash", "zset", "hash", "zset", "set", "zset", "string", "hash"];
        let others = [(self.until(), "string"), (self.sessions(), "hash"), (self.outbox(), "stream")];
        self.fixed.iter().cloned().zip(types).chain(others).collect()
    }

    pub(super) fn heads(&self) -> &[u8] {
        &self.fixed[0]
    }

    pub(super) fn counts(&self) -> &[u8] {
        &self.fixed[1]
    }

    pub(super) fn feed(&self) -> &[u8] {
        &self.fixed[3]
    }

    pub(super) fn lanes(&self) -> &[u8] {
        &self.fixed[4]
    }

    pub(super) fn members(&self) -> &[u8] {
        &self.fixed[6]
    }

    pub(super) fn roots(&self) -> &[u8] {
        &self.fixed[7]
    }

    pub(super) fn timers(&self) -> &[u8] {
        &self.fixed[at::TIMERS - 1]
    }

    pub(super) fn running(&self) -> &[u8] {
        &self.fixed[at::RUNNING - 1]
    }

    pub(super) fn done(&self) -> &[u8] {
        &self.fixed[at::DONE - 1]
    }

    pub(super) fn own(&self) -> &[u8] {
        &self.fixed[11]
    }

    pub(super) fn until(&self) -> Vec<u8> {
        self.with("until", &[])
    }

    pub(super) fn sessions(&self) -> Vec<u8> {
        self.with("ses", &[])
    }

    pub(super) fn lane(&self, lane: LaneId) -> Vec<u8> {
        format!("{}l:{:016x}", self.tag, lane.0).into_bytes()
    }

    pub(super) fn body(&self, id: &[u8]) -> Vec<u8> {
        self.with("b:", id)
    }

    pub(super) fn result(&self, id: &[u8]) -> Vec<u8> {
        self.with("r:", id)
    }

    pub(super) fn attempts(&self, id: &[u8]) -> Vec<u8> {
        self.with("a:", id)
    }

    pub(super) fn barrier(&self, id: &[u8]) -> Vec<u8> {
        self.with("bar:", id)
    }

    /// Messages for other partitions.
    pub(super) fn outbox(&self) -> Vec<u8> {
        self.with("out", &[])
    }

    /// The keys that go with the records of their tasks.
    pub(super) fn holds(&self) -> &[u8] {
        &self.fixed[12]
    }

    /// Where a key is kept.
    pub(super) fn key(&self, ns: Ns, kind: KeyKind, key: &[u8]) -> KeyPlace {
        if kind.ends_with_record() {
            return KeyPlace::Held([&[kind as u8], &ns.0.to_be_bytes()[..], key].concat());
        }
        KeyPlace::Own(self.with(&format!("k:{}:{}:", ns.0, kind as u8 as char), key))
    }

    /// What the names of the keys begin with that do not go with a record.
    pub(super) fn loose(&self) -> Vec<u8> {
        self.with("k:", &[])
    }

    /// The kind and the key in such a name.
    pub(super) fn read_loose<'a>(&self, name: &'a [u8]) -> Option<(u8, &'a [u8])> {
        let rest = name.strip_prefix(&self.loose()[..])?;
        let colon = rest.iter().position(|byte| *byte == b':')?;
        let (kind, key) = rest.get(colon + 1..)?.split_first()?;
        Some((*kind, key.strip_prefix(b":")?))
    }

    fn with(&self, kind: &str, name: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.tag.len() + kind.len() + name.len());
        out.extend_from_slice(self.tag.as_bytes());
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(name);
        out
    }
}

/// The names of what belongs to no partition: `<prefix>{doc}…`.
#[derive(Clone, Debug)]
pub(super) struct DocKeys {
    tag: String,
}

impl DocKeys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { tag: format!("{prefix}{{doc}}") }
    }

    /// All keys with their types.
    pub(super) fn types(&self) -> Vec<(Vec<u8>, &'static str)> {
        let few = [(self.meta(), "hash"), (self.changes(), "string"), (self.feed(), "stream"), (self.boards(), "zset")];
        let kinds = DocKind::ALL.into_iter().flat_map(|kind| [(self.docs(kind), "hash"), (self.names(kind), "zset")]);
        few.into_iter().chain(kinds).map(|(name, kind)| (name.into_bytes(), kind)).collect()
    }

    /// Facts about the store: format, partitions, id.
    pub(super) fn meta(&self) -> String {
        format!("{}meta", self.tag)
    }

    /// How often a document was changed.
    pub(super) fn changes(&self) -> String {
        format!("{}v", self.tag)
    }

    /// An entry for every call that changed documents.
    pub(super) fn feed(&self) -> String {
        format!("{}f", self.tag)
    }

    /// The sessions that show a board, and until when.
    pub(super) fn boards(&self) -> String {
        format!("{}boards", self.tag)
    }

    /// The board of a session.
    pub(super) fn board(&self, session: SessionId) -> String {
        format!("{}board:{}", self.tag, session.0)
    }

    /// Documents of a kind: [`doc_name`] -> version, live, bytes.
    pub(super) fn docs(&self, kind: DocKind) -> String {
        format!("{}d:{}", self.tag, kind as u8 as char)
    }

    /// The names of the live ones in order.
    pub(super) fn names(&self, kind: DocKind) -> String {
        format!("{}i:{}", self.tag, kind as u8 as char)
    }
}

/// The names of what limits keep: `<prefix>{lNNNN}…` by the slot of the key, and `<prefix>{s…}…` by session.
#[derive(Clone, Debug)]
pub(super) struct LimitKeys {
    prefix: String,
}

impl LimitKeys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The state of a key.
    pub(super) fn state(&self, ns: Ns, key: &str) -> Vec<u8> {
        let slot = Slot::of(ns, SlotKind::Limit, key.as_bytes()).number();
        format!("{}{{l{slot:04}}}g:{}:{key}", self.prefix, ns.0).into_bytes()
    }

    /// The notes for a session.
    pub(super) fn notes(&self, session: SessionId) -> Vec<u8> {
        format!("{}{{s{}}}notes", self.prefix, session.0).into_bytes()
    }
}

/// A document's name within its kind; the order of the bytes is the order of (namespace, name).
pub(super) fn doc_name(ns: Ns, name: &str) -> Vec<u8> {
    let mut out = ns.0.to_be_bytes().to_vec();
    out.extend_from_slice(name.as_bytes());
    out
}

/// What the members of a tree begin with: the length of the root's key and the key.
pub(super) fn root_prefix(root: &TaskKey) -> Vec<u8> {
    let key = root.to_bytes();
    let mut out = vec![key.len() as u8];
    out.extend_from_slice(&key);
    out
}
