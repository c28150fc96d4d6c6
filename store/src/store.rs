//! The contract of a store. `conformance` checks every promise made here.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lovage_core::{Head, LaneDef, LaneId, Millis, Ns, Partition, SessionId, TaskKey};

use crate::{
    Claim, Claimed, Commit, Committed, Cursor, DocKind, DocOutcome, DocPage, DocPut, Document, FeedBatch, FeedPos, Index, Insert,
    Inserted, KeyEntry, KeyKind, KeyTake, LanePage, LimitKey, LimitReply, LimitRequest, ListQuery, Mode, OutboxPage, OwnReply,
    OwnRequest, OwnToken, Ownership, Page, Parts, QueueCounts, Result, Stored, Sync, Traffic,
};

/// What a store is and can do.
#[derive(Clone, Debug)]
pub struct Caps {
    /// `memory`, `embedded` or `redis`.
    pub name: &'static str,
    /// Number of partitions; fixed when the store is created.
    pub partitions: u16,
    /// What a 2xx answer means, in one sentence.
    pub durability: String,
    /// The most items one call may carry; longer batches are the caller's to split.
    pub max_batch: usize,
}

/// Store time. It decides what is due; the wall clock of a caller decides nothing.
pub trait StoreClock: Send + std::marker::Sync {
    /// The store's time now.
    fn now(&self) -> Millis;
}

/// Versioned records with their placements, an ordered feed, and documents.
///
/// Every verb with a partition works on that one alone, most of them in batches. A verb that fails with
/// [`Unknown`](crate::Error::Unknown) may have been carried out; every other error means it was not.
#[async_trait]
pub trait Store: Send + std::marker::Sync + 'static {
    /// What this store is.
    fn caps(&self) -> &Caps;

    /// The store's time.
    fn clock(&self) -> &dyn StoreClock;

    /// What this process has changed lately, where it is counted: in [`Traced`](crate::wrap::Traced).
    fn traffic(&self) -> Option<&Traffic> {
        None
    }

    /// Stores new tasks. Resolves when they are durable. Answers come in order.
    ///
    /// Per item, in this order: `Late`, `Exists`, `Conflict`, else `Ok`. Items see the ones before them in the batch.
    /// Two items with the same generated id are a bug of the caller. An item takes all its keys or none.
    async fn insert(&self, p: Partition, items: Vec<Insert>, mode: Mode) -> Result<Vec<Inserted>>;

    /// Moves waiting tasks to running if `own` still holds the partition (else [`Fenced`](crate::Error::Fenced)) and each
    /// version still matches. Survives the end of the process, not necessarily a power cut. `source` is the session in the heads.
    async fn claim(&self, p: Partition, own: &OwnToken, source: SessionId, items: Vec<Claim>) -> Result<Vec<Claimed>>;

    /// Guarded changes, in order; the answer's moment is `sync`'s. `source` marks the feed entry (0: none).
    async fn commit(&self, p: Partition, source: SessionId, items: Vec<Commit>, mode: Mode, sync: Sync)
    -> Result<Vec<Committed>>;

    /// Takes, keeps or gives up a partition, renews the session in it, and tells whose sessions have lapsed. The store
    /// also uses the moment for its own bounded housekeeping: keys past their end, the tail of the feed, emptied lanes.
    /// One that was fenced is answered [`Fenced`](crate::Error::Fenced).
    async fn own(&self, p: Partition, request: OwnRequest) -> Result<OwnReply>;

    /// Who owns a partition and which sessions live in it.
    async fn ownership(&self, p: Partition) -> Result<Ownership>;

    /// The end of the feed: what is written from now on comes after it.
    async fn tail(&self, p: Partition) -> Result<FeedPos>;

    /// Changes after `at`, in order. Waits up to `wait` for the first. Only durable changes are shown, except claims.
    async fn feed(&self, p: Partition, at: FeedPos, wait: Duration) -> Result<FeedBatch>;

    /// The heads of these tasks, in order.
    async fn heads(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Head>>>;

    /// One record as of one moment; `None` if there is none.
    async fn get(&self, p: Partition, key: &TaskKey, parts: Parts) -> Result<Option<Stored>>;

    /// Bodies of these tasks, in order.
    async fn bodies(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Bytes>>>;

    /// A page of an index of at most `limit` records.
    async fn scan(&self, p: Partition, index: &Index, from: Cursor, limit: usize) -> Result<Page>;

    /// A page of the lanes that hold tasks, at most `limit`; may contain some that were emptied lately. A lane that holds tasks
    /// all the time is on some page, perhaps on two. [`all_lanes`](crate::all_lanes) walks them.
    async fn lanes(&self, p: Partition, from: Cursor, limit: usize) -> Result<LanePage>;

    /// The definitions of these lanes, in order; there is one as long as a lane holds tasks.
    async fn lane_defs(&self, p: Partition, lanes: &[LaneId]) -> Result<Vec<Option<LaneDef>>>;

    /// How many tasks there are in the index of each of these lanes, in order.
    async fn lane_sizes(&self, p: Partition, lanes: &[LaneId]) -> Result<Vec<u64>>;

    /// A page of a namespace's tasks: bounded work, at most `limit` records, possibly fewer with a cursor to go on.
    async fn list(&self, p: Partition, query: &ListQuery, from: Cursor, limit: usize) -> Result<Page>;

    /// Takes a key alone: `None` if it was free, was the entry named as seen, or is this very entry already; else the entry
    /// that is there. Resolves when durable. What this is for: [the directory](crate::KeyTake).
    async fn put_key(&self, p: Partition, take: KeyTake) -> Result<Option<KeyEntry>>;

    /// A key that was taken, unless its time is over.
    async fn lookup(&self, p: Partition, ns: Ns, kind: KeyKind, key: &[u8]) -> Result<Option<KeyEntry>>;

    /// The oldest messages of the outbox after `after` (its beginning: the default), at most `limit`.
    async fn outbox(&self, p: Partition, after: FeedPos, limit: usize) -> Result<OutboxPage>;

    /// Deletes messages that were delivered; those that are gone already are passed over. A power cut may bring them back.
    async fn delivered(&self, p: Partition, messages: &[FeedPos]) -> Result<()>;

    /// Absolute counts by queue and state, those that are not all zero, in order.
    async fn counts(&self, p: Partition) -> Result<Vec<QueueCounts>>;

    /// Documents of a kind after `after` in order of (namespace, name), of one namespace or of all.
    async fn docs(&self, kind: DocKind, ns: Option<Ns>, after: Option<(Ns, String)>, limit: usize) -> Result<DocPage>;

    /// One document.
    async fn doc(&self, kind: DocKind, ns: Ns, name: &str) -> Result<Option<Document>>;

    /// Guarded changes of documents; each applies or is refused alone. Resolves when durable.
    async fn put_docs(&self, items: Vec<DocPut>) -> Result<Vec<DocOutcome>>;

    /// A number that rises with every document change: waits up to `wait` until it differs from `seen`, then answers it.
    async fn doc_version(&self, seen: u64, wait: Duration) -> Result<u64>;

    /// Judges what is asked of limits: each request alone, in order, an answer for each, so that a key that cannot be reached
    /// stops no other. Requests of one call may be of one key.
    ///
    /// What fails may have been carried out. Nothing has to be undone: what is held is told as a whole
    /// the next time, and starts that were reserved for nobody are lost.
    async fn limit(&self, requests: Vec<LimitRequest>) -> Result<Vec<Result<LimitReply>>>;

    /// Leaves a note for a session that there may be something to be had at these keys. Best effort: nobody may rely on it.
    async fn wake(&self, session: SessionId, keys: &[LimitKey]) -> Result<()>;

    /// The notes for a session, which are gone then; waits up to `wait` for the first.
    async fn woken(&self, session: SessionId, wait: Duration) -> Result<Vec<LimitKey>>;

    /// Shows all others what this session wants them to see for [`BOARD_LEASE`](crate::BOARD_LEASE), at most
    /// [`MAX_BOARD`](crate::MAX_BOARD) bytes; `None`: nothing any more. Not durable.
    async fn publish(&self, session: SessionId, board: Option<Bytes>) -> Result<()>;

    /// What sessions show now, in order of their numbers.
    async fn boards(&self) -> Result<Vec<(SessionId, Bytes)>>;

    /// Whether the store works right now (a cheap round trip); the reason if not.
    async fn ping(&self) -> Result<()>;
}
