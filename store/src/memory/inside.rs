//! What a move reads of the memory store.

use async_trait::async_trait;
use lovage_core::{Partition, TaskKey};

use super::MemoryStore;
use crate::moving::{Belongings, Inside, KeyPage};
use crate::{Cursor, Footprint, Result};

#[async_trait]
impl Inside for MemoryStore {
    async fn belongings(&self, p: Partition, keys: &[TaskKey]) -> Result<Vec<Option<Belongings>>> {
        let part = self.shelf(p, 0)?.part.lock();
        Ok(keys.iter().map(|key| part.tasks.belongings(key)).collect())
    }

    async fn loose_keys(&self, p: Partition, _: Cursor, _: usize) -> Result<KeyPage> {
        Ok(KeyPage { items: self.shelf(p, 0)?.part.lock().tasks.loose_keys(), next: None })
    }

    /// What the process takes besides cannot be told apart.
    async fn footprint(&self) -> Result<Footprint> {
        Ok(Footprint::default())
    }
}
