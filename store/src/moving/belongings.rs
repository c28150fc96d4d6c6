//! What a store keeps of a task that no verb of the contract shows.

use async_trait::async_trait;
use bytes::Bytes;
use lovage_core::{LaneDef, Partition, TaskKey};

use crate::{Cursor, Footprint, KeyEntry, KeyKind, Result};

/// What belongs to a record besides what [`Store::get`](crate::Store::get) answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belongings {
    /// Its lane.
    pub lane: LaneDef,
    /// The root of its tree, if it is not a root itself.
    pub root: Option<TaskKey>,
    /// Its keys that end with the record, over or not.
    pub keys: Vec<(KeyKind, Bytes, KeyEntry)>,
    /// Whom it waits for.
    pub barrier: Option<Barrier>,
}

/// A barrier as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// How many there are.
    pub members: u32,
    /// Who has arrived, in order.
    pub arrived: Vec<u32>,
}

/// A page of the keys that do not end with a record.
#[derive(Clone, Debug, Default)]
pub struct KeyPage {
    /// Each key with its entry, over or not.
    pub items: Vec<(KeyKind, Bytes, KeyEntry)>,
    /// Where to go on; `None`: this was the end.
    pub next: Option<Cursor>,
}

/// Looks inside a store, for moves and for people who watch its size.
#[async_trait]
pub trait Inside: Send + Sync {
    /// What belongs to these tasks, in order; `None` for those that there are not. Nobody may write meanwhile.
    async fn belongings(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Belongings>>>;

    /// A page of about `limit` of the keys that do not end with a record, each at least once.
    async fn loose_keys(&self, p: Partition, from: Cursor, limit: usize) -> Result<KeyPage>;

    /// How much room the store takes: bounded work, whatever is stored.
    async fn footprint(&self) -> Result<Footprint>;
}

/// The members whose bits are set, the lowest first: bit 0 of a byte is its lowest if `low_first`.
pub(crate) fn set_bits(bits: &[u8], low_first: bool) -> impl Iterator<Item = u32> {
    let is_set = move |byte: u8, i: u32| byte & if low_first { 1 << i } else { 0x80 >> i } != 0;
    (0u32..).zip(bits).flat_map(move |(at, byte)| (0..8).filter(move |i| is_set(*byte, *i)).map(move |i| at * 8 + i))
}
