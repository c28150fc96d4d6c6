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

    /// Takes over a time that was read between `sent` and now: most likely in the middle. A slow answer leaves much open;
    /// what it does not contradict stays, so that the clock does not shake with the load of the machine.
    pub(super) fn sample(&self, sent: Instant, micros: u64) {
        let open = sent.elapsed() / 2;
        let offset = micros as i64 - (sent + open).duration_since(self.anchor).as_micros() as i64;
        if self.offset.load(Ordering::Relaxed).abs_diff(offset) > open.as_micros() as u64 {
            self.offset.store(offset, Ordering::Relaxed);
        }
    }
}

impl StoreClock for RedisClock {
    fn now(&self) -> Millis {
        let micros = self.offset.load(Ordering::Relaxed) + self.anchor.elapsed().as_micros() as i64;
        Millis((micros / 1_000).max(0) as u64)
    }
}
