//! The memory store passes its own definition.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lovage_core::{Millis, Partition};

use super::{MemoryClock, MemoryOptions, MemoryStore};
use crate::Store;
use crate::conformance::Fixture;

struct Memory {
    store: Arc<MemoryStore>,
    clock: MemoryClock,
}

impl Memory {
    fn new() -> Self {
        let clock = MemoryClock::manual(Millis(1_767_225_600_000));
        Self { store: Arc::new(MemoryStore::new(MemoryOptions::new(clock.clone()))), clock }
    }
}

#[async_trait]
impl Fixture for Memory {
    async fn fresh(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn advance(&self, by: Duration) -> bool {
        self.clock.advance(by);
        true
    }

    async fn forget_feed(&self, _: &Arc<dyn Store>, _: Partition) {
        self.store.forget_feed();
    }
}

crate::conformance_suite!(Memory::new());
