//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use lovage_core::{Millis, Ns, Partition, SignatureLimits, Slot, TaskKey};
use lovage_store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::Directory;
use crate::feed_hub::FeedHub;
use crate::options::GatewayOptions;
use crate::types::TypeCache;

pub(crate) type Shared = Arc<App>;

pub(crate) struct App {
    pub store: Arc<dyn Store>,
    pub options: GatewayOptions,
    /// What of the limits is about signatures.
    pub signature_limits: SignatureLimits,
    pub hub: Arc<FeedHub>,
    pub directory: Directory,
    pub types: TypeCache,
    /// Cancelled when the server shuts down: waits end, `/readyz` says so.
    pub draining: CancellationToken,
    /// Requests that are being answered.
    pub open: TaskTracker,
    /// Compressed streams that may be read at once.
    pub inflaters: Arc<Semaphore>,
    /// The document of the API as served.
    pub openapi: std::sync::OnceLock<bytes::Bytes>,
    turn: AtomicU16,
}

impl App {
    pub(crate) fn new(store: Arc<dyn Store>, options: GatewayOptions, draining: CancellationToken) -> Self {
        let inflaters = Arc::new(Semaphore::new(options.limits.compressed_streams));
        let hub = Arc::new(FeedHub::new(store.caps().partitions, options.limits.waiters));
        Self {
            store,
            signature_limits: options.limits.signature(),
            options,
            hub,
            directory: Directory::default(),
            types: TypeCache::default(),
            draining,
            open: TaskTracker::new(),
            inflaters,
            openapi: std::sync::OnceLock::new(),
            turn: AtomicU16::new(0),
        }
    }

    pub(crate) fn now(&self) -> Millis {
        self.store.clock().now()
    }

    pub(crate) fn random(&self) -> u64 {
        self.options.random.next()
    }

    pub(crate) fn partitions(&self) -> u16 {
        self.store.caps().partitions
    }

    pub(crate) fn all_partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.partitions()).map(Partition)
    }

    pub(crate) fn partition(&self, key: &TaskKey) -> Partition {
        key.slot().partition(self.partitions())
    }

    /// A slot for new tasks: partitions take turns, so that a request or a chunk stays one batch.
    pub(crate) fn next_slot(&self) -> Slot {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.partitions().max(1);
        Slot::in_partition(Partition(turn), self.partitions(), self.random() as u16)
    }

    /// The key of a task that a path names; `None`: no task can have this id.
    pub(crate) fn key(ns: Ns, id: &str) -> Option<TaskKey> {
        lovage_core::TaskId::parse(id).ok().map(|id| TaskKey::new(ns, id))
    }
}
