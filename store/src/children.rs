//! Reads what a parent is called with again.

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use lovage_core::resume::{Child, Children};
use lovage_core::{AttemptEntry, Flags, Partition, ResultValue, TaskId, TaskKey};

use crate::{Parts, Result, Store};

/// Children read at the same time.
const READS: usize = 16;

/// The children that `parent` waited for last, in the order in which it spawned them, and who they are if the next entry of
/// the parent has to say it again ([`AttemptEntry::waited_for`]).
pub async fn children(store: &dyn Store, p: Partition, parent: &TaskKey) -> Result<(Children, Vec<TaskId>)> {
    let parts = Parts { attempts: true, ..Parts::default() };
    let entries = store.get(p, parent, parts).await?.map(|stored| stored.attempts).unwrap_or_default();
    let entries: Vec<AttemptEntry> = entries.iter().filter_map(|bytes| AttemptEntry::decode(bytes)).collect();
    let (ids, again) = AttemptEntry::waited_for(&entries);
    let keys: Vec<TaskKey> = ids.iter().map(|id| TaskKey::new(parent.ns, id.clone())).collect();
    // Boxed: the compiler cannot see through a stream of borrowing futures that they are `Send`.
    let partitions = store.caps().partitions;
    let reads = keys.into_iter().map(|key| child(store, key.slot().partition(partitions), key).boxed());
    let mut reads = stream::iter(reads).buffered(READS);
    let mut children = Children::default();
    while let Some(child) = reads.try_next().await? {
        children.push(child);
    }
    drop(reads);
    Ok((children, if again { ids.to_vec() } else { Vec::new() }))
}

async fn child(store: &dyn Store, p: Partition, key: TaskKey) -> Result<Child> {
    let stored = store.get(p, &key, Parts { result: true, ..Parts::default() }).await?;
    let Some(stored) = stored else { return Ok(Child::new(&key.id, None, None, false)) };
    let value = stored.result.as_ref().and_then(ResultValue::decode);
    Ok(Child::new(&key.id, Some(stored.head.state), value, stored.head.flags.has(Flags::RESULT_GONE)))
}
