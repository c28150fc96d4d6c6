//! The clock of a memory store: a given source of time that tests push forward by hand.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lovage_core::Millis;

use crate::StoreClock;

/// Time from a given function plus whatever it was advanced by. Clones share the same time.
#[derive(Clone)]
pub struct MemoryClock {
    base: Arc<dyn Fn() -> Millis + Send + std::marker::Sync>,
    ahead: Arc<AtomicU64>,
}

impl MemoryClock {
    /// Stands still at `start` until it is advanced.
    pub fn manual(start: Millis) -> Self {
        Self::following(move || start)
    }

    /// Follows `base`, for instance the wall clock or the clock of another store.
    pub fn following(base: impl Fn() -> Millis + Send + std::marker::Sync + 'static) -> Self {
        Self { base: Arc::new(base), ahead: Arc::new(AtomicU64::new(0)) }
    }

    /// Moves the time forward, rounded down to milliseconds.
    pub fn advance(&self, by: Duration) {
        self.ahead.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl StoreClock for MemoryClock {
    fn now(&self) -> Millis {
        (self.base)().after(Duration::from_millis(self.ahead.load(Ordering::SeqCst)))
    }
}

impl fmt::Debug for MemoryClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryClock").field(&self.now()).finish()
    }
}
