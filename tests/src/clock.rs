//! One clock for everything a crash test compares.
//!
//! The monotonic clock of the kernel is the same for all processes of a machine, so the instant at which a client had its
//! acknowledgement, the start of a call at the worker and the end of an `fsync` inside the server can be put in order.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
