//! How an embedded store is opened, and the clock it goes by.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, UNIX_EPOCH};

use lovage_core::Millis;

use crate::StoreClock;

/// What a durable answer means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It is synced to disk.
    #[default]
    Strict,
    /// It is written to the operating system; a power cut may lose the last 100 ms.
    Relaxed,
}

/// Where store time comes from.
pub type ReadClock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// How to open an [`EmbeddedStore`](super::EmbeddedStore).
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// The data directory; made if it is not there.
    pub dir: PathBuf,
    /// What a durable answer means.
    pub durability: Durability,
    /// Below this many free bytes on the disk inserts are answered `Full`; claims and commits go on.
    pub min_free: u64,
    /// Rows of changes that the feed keeps for its readers.
    pub feed_rows: usize,
    /// Bytes of database pages that the writer keeps in memory.
    pub page_cache: usize,
    /// Bytes of bodies of just inserted tasks kept in memory for their claim.
    pub body_cache: usize,
    /// The write-ahead log is moved into the database when it passes this many bytes.
    pub wal_bytes: u64,
    /// Store time; the wall clock unless a test steers it.
    pub clock: ReadClock,
    /// What leases are measured by; a clock that no adjustment of the wall clock moves, unless a test steers it.
    pub lease_clock: ReadClock,
}

impl EmbeddedOptions {
    /// The usual options for a data directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let start = Instant::now();
        Self {
            dir: dir.into(),
            durability: Durability::Strict,
            min_free: 64 << 20,
            feed_rows: 65_536,
            page_cache: 8 << 20,
            body_cache: 8 << 20,
            wal_bytes: 16 << 20,
            clock: Arc::new(wall_clock),
            lease_clock: Arc::new(move || Millis(start.elapsed().as_millis() as u64)),
        }
    }
}

impl std::fmt::Debug for EmbeddedOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedOptions").field("dir", &self.dir).field("durability", &self.durability).finish_non_exhaustive()
    }
}

#[allow(clippy::disallowed_methods)] // this is the one place of the store that reads the wall clock
pub(super) fn wall_clock() -> Millis {
    let elapsed = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(elapsed.as_millis() as u64)
}

/// Store time that never goes backwards while the process lives, whatever the wall clock does.
pub(super) struct Clock {
    read: ReadClock,
    latest: AtomicU64,
}

impl Clock {
    pub(super) fn new(read: ReadClock) -> Self {
        Self { read, latest: AtomicU64::new(0) }
    }
}

impl StoreClock for Clock {
    fn now(&self) -> Millis {
        let now = (self.read)().0;
        Millis(self.latest.fetch_max(now, Ordering::Relaxed).max(now))
    }
}
