//! One clock for all programs: `CLOCK_MONOTONIC` is the same in every process of a machine, so an instant taken by the
//! worker can be subtracted from one taken by the generator (or by Node's `process.hrtime`).

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Processor seconds (user and system) this process has used so far.
pub fn own_cpu_seconds() -> f64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime)) as f64 / 1e9
}

/// Seconds from `start` to `end`; 0 if `end` is the earlier one.
pub fn seconds_between(start: u64, end: u64) -> f64 {
    end.saturating_sub(start) as f64 / 1e9
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
