//! An `Idempotency-Key` whose tasks live elsewhere than the key.
//!
//! The key is taken in one step with the task, where that lives. But it is for one request, and where the tasks of another one
//! live depends on what that asks for. So the request is also noted where the key alone would put it, before its task is stored. A
//! note outlives a request of which nobody knows whether it was carried out: then the key stays with it.

use lovage_core::problem::Problem;
use lovage_core::{Partition, TaskKey};
use lovage_store::{KeyEntry, KeyKind, KeyTake, Result};

use crate::app::App;
use crate::intake::Idempotency;

/// The note of a request.
pub(crate) struct Noted {
    p: Partition,
    take: KeyTake,
}

impl App {
    /// Notes a request whose tasks will live in `p`, the first as `task`; the inner error: the key is that of another request.
    pub(crate) async fn note_request(
        &self,
        idempotency: &Idempotency,
        p: Partition,
        task: &TaskKey,
    ) -> Result<Result<Option<Noted>, Problem>> {
        let home = idempotency.slot(task.ns).partition(self.partitions());
        if home == p || idempotency.is_of_item() {
            return Ok(Ok(None));
        }
        let put = idempotency.put(self, self.now(), 1);
        let entry = KeyEntry { task: task.clone(), value: put.value, until: put.until };
        let take = KeyTake { kind: KeyKind::Idempotency, key: put.key, entry, seen: None };
        Ok(match self.store.put_key(home, take.clone()).await? {
            Some(other) => idempotency.replay(&other).map(|_| None),
            None => Ok(Some(Noted { p: home, take })),
        })
    }

    /// Takes a note back: the request was refused. If this fails the key stays taken until its end.
    pub(crate) async fn forget_request(&self, noted: Noted) {
        let Noted { p, take } = noted;
        let over = KeyEntry { until: Some(self.now()), ..take.entry.clone() };
        if let Err(error) = self.store.put_key(p, KeyTake { entry: over, seen: Some(take.entry), ..take }).await {
            error.log("free an idempotency key");
        }
    }
}
