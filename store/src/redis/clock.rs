//! The store's clock: Redis's time, sampled now and then and carried on by a monotonic clock in between.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use lovage_core::Millis;

use crate::StoreClock;

/// Redis's time. Jumps of the local wall clock do not touch it.
#[derive(Debug)]
pub(super) struct RedisClock {
    anchor: Instant,
    /// Redis's time at `anchor` in microseconds.
    offset: AtomicI64,
}

impl RedisClock {
    pub(super) fn new() -> Self {
        Self { anchor: Instant::now(), offset: AtomicI64::new(0) }
    }

    /// Takes over a time that was read between `sent` and now: most likely in the middle.
    pub(super) fn sample(&self, sent: Instant, micros: u64) {
        let middle = sent + sent.elapsed() / 2;
        self.offset.store(micros as i64 - middle.duration_since(self.anchor).as_micros() as i64, Ordering::Relaxed);
    }
}

impl StoreClock for RedisClock {
    fn now(&self) -> Millis {
        let micros = self.offset.load(Ordering::Relaxed) + self.anchor.elapsed().as_micros() as i64;
        Millis((micros / 1_000).max(0) as u64)
    }
}
