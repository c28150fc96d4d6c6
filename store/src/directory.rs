//! The directory: where a task lives whose client-chosen id does not say it. How it is kept right: [`KeyKind`].

use std::time::Duration;

use bytes::Bytes;
use lovage_core::{Millis, Partition, Slot, TaskKey};

use crate::{KeyEntry, KeyKind, KeyTake, Result, Store};

/// How long after its entry the insert of a task may still be sent ([`not_after`](crate::Insert::not_after)).
pub const INSERT_WITHIN: Duration = Duration::from_secs(5);
/// How long after its entry a task may still appear: an insert that was sent in time may be under way.
const SETTLED_WITHIN: Duration = Duration::from_secs(15);

/// What a directory entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residence {
    /// Where the task lives or will live.
    pub slot: Slot,
    /// After this a task that is not there yet cannot come any more.
    pub settled_by: Millis,
    /// Random: two entries are never the same.
    pub mark: u64,
}

impl Residence {
    /// That of a task whose entry is made now.
    pub fn new(slot: Slot, now: Millis, mark: u64) -> Self {
        Self { slot, settled_by: now.after(SETTLED_WITHIN), mark }
    }

    /// The key of the entry for this task.
    pub fn name(key: &TaskKey) -> Bytes {
        Bytes::from(key.id.to_string())
    }

    /// The entry for this task. It has no end of its own.
    pub fn entry(self, key: &TaskKey) -> KeyEntry {
        let mut value = self.slot.number().to_be_bytes().to_vec();
        value.extend_from_slice(&self.settled_by.0.to_be_bytes());
        value.extend_from_slice(&self.mark.to_be_bytes());
        KeyEntry { task: key.clone(), value: value.into(), until: None }
    }

    /// Reads an entry; `None` if it is none.
    pub fn read(entry: &KeyEntry) -> Option<Self> {
        let (slot, rest) = entry.value.split_first_chunk()?;
        let (settled_by, mark) = rest.split_first_chunk()?;
        Some(Self {
            slot: Slot::new(u16::from_be_bytes(*slot)),
            settled_by: Millis(u64::from_be_bytes(*settled_by)),
            mark: u64::from_be_bytes(mark.try_into().ok()?),
        })
    }
}

/// The partition of a task's own id, in which its directory entry is kept.
fn desk(store: &dyn Store, key: &TaskKey) -> Partition {
    key.slot().partition(store.caps().partitions)
}

/// The directory entry for this task, if there is one.
pub async fn find(store: &dyn Store, key: &TaskKey) -> Result<Option<KeyEntry>> {
    store.lookup(desk(store, key), key.ns, KeyKind::Directory, &Residence::name(key)).await
}

/// Enters a task in the place of an entry that was seen, or of none. `None`: done; else the entry that is in the way.
pub async fn enter(store: &dyn Store, entry: KeyEntry, seen: Option<KeyEntry>) -> Result<Option<KeyEntry>> {
    let (p, name) = (desk(store, &entry.task), Residence::name(&entry.task));
    store.put_key(p, KeyTake { kind: KeyKind::Directory, key: name, entry, seen }).await
}

/// Strikes out an entry that was seen. One that was replaced meanwhile stays.
pub async fn strike(store: &dyn Store, seen: KeyEntry) -> Result<()> {
    let over = KeyEntry { until: Some(store.clock().now()), ..seen.clone() };
    enter(store, over, Some(seen)).await.map(drop)
}

/// Strikes out the entry of a task that was created at `created` and whose record was deleted from `slot`; the entry of a task
/// that came after it stays, also if this is done once more. Until it is done, whoever comes with the same id strikes it out.
pub async fn forget(store: &dyn Store, key: &TaskKey, slot: Slot, created: Millis) -> Result<()> {
    let Some(entry) = find(store, key).await? else { return Ok(()) };
    // An entry is made before its task.
    let latest = created.after(SETTLED_WITHIN);
    match Residence::read(&entry) {
        Some(residence) if residence.slot == slot && residence.settled_by <= latest => strike(store, entry).await,
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{MemoryClock, MemoryOptions, MemoryStore};
    use lovage_core::{Ns, TaskId};

    #[tokio::test]
    async fn an_entry_is_read_as_it_was_written_and_struck_out_once() {
        let clock = MemoryClock::manual(Millis(1_000_000));
        let store = MemoryStore::new(MemoryOptions { partitions: 4, ..MemoryOptions::new(clock) });
        let key = TaskKey::new(Ns(3), TaskId::parse("order-1").unwrap());
        let first = Residence::new(Slot::new(4_000), Millis(1_000_000), u64::MAX);
        assert_eq!(Residence::read(&first.entry(&key)), Some(first));
        assert_eq!(enter(&store, first.entry(&key), None).await.unwrap(), None);
        assert_eq!(find(&store, &key).await.unwrap(), Some(first.entry(&key)));
        let second = Residence::new(first.slot, Millis(1_000_500), 1);
        assert_eq!(enter(&store, second.entry(&key), None).await.unwrap(), Some(first.entry(&key)));
        assert_eq!(enter(&store, second.entry(&key), Some(first.entry(&key))).await.unwrap(), None);
        // The first is gone, and whoever still means it does not touch the second.
        strike(&store, first.entry(&key)).await.unwrap();
        forget(&store, &key, first.slot, Millis(1_000_100)).await.unwrap();
        forget(&store, &key, Slot::new(1), Millis(1_000_600)).await.unwrap();
        assert_eq!(find(&store, &key).await.unwrap(), Some(second.entry(&key)));
        forget(&store, &key, second.slot, Millis(1_000_600)).await.unwrap();
        assert_eq!(find(&store, &key).await.unwrap(), None);
    }
}
