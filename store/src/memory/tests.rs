//! The memory store passes its own definition.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lovage_core::{Millis, Partition};

use super::{MemoryClock, MemoryOptions, MemoryStore};
use crate::conformance::Fixture;
use crate::conformance::kit::Kit;
use crate::{FeedBatch, Store};

/// A memory store with a clock that is moved by hand.
pub(crate) struct Memory {
    store: Arc<MemoryStore>,
    clock: MemoryClock,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self::with(|options| options)
    }

    fn with(change: impl FnOnce(MemoryOptions) -> MemoryOptions) -> Self {
        let clock = MemoryClock::manual(Millis(1_767_225_600_000));
        Self { store: Arc::new(MemoryStore::new(change(MemoryOptions::new(clock.clone())))), clock }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agrees_with_the_model() {
    crate::model::check("memory", Memory::new, 200).await;
}

/// A difference is found: here a feed that forgets what the audit wants to replay.
#[tokio::test]
async fn a_store_that_forgets_is_found() {
    let mut differences = 0;
    for seed in 0..20 {
        let forgetful = Memory::with(|options| MemoryOptions { feed_keep: Some(3), ..options });
        if let Err(difference) = crate::model::sequence(Arc::new(forgetful), seed, crate::model::STEPS).await {
            assert!(difference.contains("the feed has lost"), "{difference}");
            differences += 1;
        }
    }
    assert!(differences > 10, "{differences} of 20 sequences found it");
}

/// The bound takes effect when the owner renews, and readers are told.
#[tokio::test]
async fn a_bounded_feed_forgets_the_oldest() {
    let fixture = Memory::with(|options| MemoryOptions { feed_keep: Some(2), ..options });
    let kit = Kit::new(&fixture).await;
    let start = kit.store.tail(kit.p).await.unwrap();
    for _ in 0..4 {
        kit.put(kit.task()).await;
    }
    let all = kit.entries(start, 4).await;
    kit.token().await;
    assert!(matches!(kit.store.feed(kit.p, start, Duration::ZERO).await, Ok(FeedBatch::Behind { tail }) if tail == all[3].pos));
    assert_eq!(kit.entries(all[1].pos, 2).await.len(), 2);
}
