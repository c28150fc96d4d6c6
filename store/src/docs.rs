//! Named documents: queues, workers, task types, keys, settings. Small, versioned, read by every node.

use bytes::Bytes;
use lovage_core::{Ns, Version};

/// What a document describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DocKind {
    /// A queue.
    Queue = b'q',
    /// A worker.
    Worker = b'w',
    /// An instance of a worker, `worker/instance`.
    Instance = b'n',
    /// A signing key of a namespace.
    SigningKey = b's',
    /// Defaults and a schema for the tasks of a pattern.
    TaskType = b't',
    /// The limit of a key.
    Limit = b'l',
    /// The key that the tokens of attempts are made with; one for the whole store.
    AttemptKey = b'a',
    /// A process of the cluster; its name is the number of its session.
    Node = b'p',
    /// Facts about the store itself.
    Meta = b'm',
    /// Which instance of a worker is being started anew; its name is the worker's.
    Recycling = b'r',
    /// A request to call the instances of a worker, and the answer to it.
    Errand = b'e',
}

impl DocKind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Queue,
        Self::Worker,
        Self::Instance,
        Self::SigningKey,
        Self::TaskType,
        Self::Limit,
        Self::AttemptKey,
        Self::Node,
        Self::Meta,
        Self::Recycling,
        Self::Errand,
    ];
}

/// A document as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What it describes.
    pub kind: DocKind,
    /// The tenant.
    pub ns: Ns,
    /// Its name.
    pub name: String,
    /// Rises with every change, from 1; never reused while the store lives, also after a deletion.
    pub version: Version,
    /// Its content; `None`: deleted (only in change feeds).
    pub bytes: Option<Bytes>,
}

/// What the stored document must be for a put to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocGuard {
    /// There must be none.
    Absent,
    /// It must have this version.
    Version(Version),
    /// Whatever is there.
    Any,
}

/// A change of one document.
#[derive(Clone, Debug)]
pub struct DocPut {
    /// What it describes.
    pub kind: DocKind,
    /// The tenant.
    pub ns: Ns,
    /// Its name.
    pub name: String,
    /// What must be stored now.
    pub guard: DocGuard,
    /// The new content, or `None` to delete.
    pub bytes: Option<Bytes>,
}

/// The answer to a [`DocPut`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocOutcome {
    /// Stored or deleted.
    Ok {
        /// The document's version now.
        version: Version,
        /// Whether there was none before.
        created: bool,
    },
    /// The guard does not hold; the document that is stored, if any.
    Refused(Option<Document>),
}

/// A page of documents in order of (namespace, name).
#[derive(Clone, Debug, Default)]
pub struct DocPage {
    /// The documents.
    pub items: Vec<Document>,
    /// Where to go on: pass it as `after`; `None`: this was the end.
    pub next: Option<(Ns, String)>,
}
