//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lovage_core::decide::Transition;
use lovage_core::{Head, Millis, Ns, Partition, SignatureLimits, Slot, Spec, TaskKey};
use lovage_store::{Commit, Store};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::boards::Boards;
use crate::directory::Directory;
use crate::feed_hub::FeedHub;
use crate::lengths::Lengths;
use crate::options::GatewayOptions;
use crate::places::Places;
use crate::types::TypeCache;

pub(crate) type Shared = Arc<App>;

/// New tasks that go to one partition before the next one has its turn: what arrives together is stored, claimed and
/// settled together, which is what a task costs a store behind a network.
const STAY: u64 = 1_000;

pub(crate) struct App {
    pub store: Arc<dyn Store>,
    pub options: GatewayOptions,
    /// What of the limits is about signatures.
    pub signature_limits: SignatureLimits,
    pub hub: Arc<FeedHub>,
    pub directory: Directory,
    pub types: TypeCache,
    pub lengths: Arc<Lengths>,
    /// Cancelled when the server shuts down: waits end, `/readyz` says so.
    pub draining: CancellationToken,
    /// Requests that are being answered.
    pub open: TaskTracker,
    /// Compressed streams that may be read at once.
    pub inflaters: Arc<Semaphore>,
    /// Cancels that go on behind their answers.
    pub cascades: Arc<Places>,
    /// What dispatchers say of themselves.
    pub boards: Boards,
    /// The document of the API as served.
    pub openapi: std::sync::OnceLock<bytes::Bytes>,
    /// New tasks so far.
    turn: AtomicU64,
}

impl App {
    pub(crate) fn new(store: Arc<dyn Store>, options: GatewayOptions, draining: CancellationToken) -> Self {
        let inflaters = Arc::new(Semaphore::new(options.limits.compressed_streams));
        let cascades = Places::of_cascades(options.limits.cascades);
        let hub = Arc::new(FeedHub::new(store.caps().partitions, options.limits.waiters, options.limits.event_streams));
        // Gateways of one store do not go from partition to partition in step.
        let turn = AtomicU64::new(options.random.next() >> 32);
        Self {
            store,
            signature_limits: options.limits.signature(),
            options,
            hub,
            directory: Directory::default(),
            types: TypeCache::default(),
            lengths: Arc::default(),
            draining,
            open: TaskTracker::new(),
            inflaters,
            cascades,
            boards: Boards::default(),
            openapi: std::sync::OnceLock::new(),
            turn,
        }
    }

    pub(crate) fn now(&self) -> Millis {
        self.store.clock().now()
    }

    pub(crate) fn random(&self) -> u64 {
        self.options.random.next()
    }

    /// The change of a task that this process has judged.
    pub(crate) fn commit(
        &self,
        key: &TaskKey,
        was: Head,
        transition: Transition,
        spec: &Spec,
        worker: Option<&str>,
        now: Millis,
    ) -> Commit {
        let queue = spec.queue().into();
        Commit::of(key, was, transition, spec, queue, worker, now, || self.random(), self.partitions())
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

    /// A slot for this many new tasks: they stay one batch, and partitions take turns.
    pub(crate) fn next_slot(&self, tasks: usize) -> Slot {
        let turn = self.turn.fetch_add(tasks as u64, Ordering::Relaxed) / STAY % u64::from(self.partitions().max(1));
        Slot::in_partition(Partition(turn as u16), self.partitions(), self.random() as u16)
    }

    /// The key of a task that a path names; `None`: no task can have this id.
    pub(crate) fn key(ns: Ns, id: &str) -> Option<TaskKey> {
        lovage_core::TaskId::parse(id).ok().map(|id| TaskKey::new(ns, id))
    }
}
