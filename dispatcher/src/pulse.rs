//! Signs of life of the owners' loops, for a look from outside: a loop that hangs renews nothing and so loses its partition, but
//! it cannot close its pushes either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lovage_core::Partition;

/// What stands for a loop that does not run.
const NONE: u64 = u64::MAX;

/// When each loop of a dispatcher last turned.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// As uptime in milliseconds, by partition.
    turned: Arc<[AtomicU64]>,
}

/// A loop that runs, until this is dropped.
pub(crate) struct Beating {
    pulse: Pulse,
    partition: usize,
}

impl Pulse {
    pub(crate) fn new(partitions: u16) -> Self {
        Self { turned: (0..partitions).map(|_| AtomicU64::new(NONE)).collect() }
    }

    pub(crate) fn start(&self, p: Partition, uptime: Duration) -> Beating {
        let beating = Beating { pulse: self.clone(), partition: usize::from(p.0) };
        beating.beat(uptime);
        beating
    }

    /// How long ago the loop that has been silent longest turned; zero if none runs. `uptime` is the dispatcher's own
    /// ([`Dispatcher::with_uptime`](crate::Dispatcher::with_uptime)).
    pub fn silent_for(&self, uptime: Duration) -> Duration {
        let oldest = self.turned.iter().map(|turned| turned.load(Ordering::Relaxed)).min().unwrap_or(NONE);
        uptime.saturating_sub(Duration::from_millis(oldest))
    }
}

impl Beating {
    /// The loop turns.
    pub(crate) fn beat(&self, uptime: Duration) {
        self.pulse.turned[self.partition].store(uptime.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.pulse.turned[self.partition].store(NONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_that_is_silent_longest_counts_and_one_that_ended_does_not() {
        let pulse = Pulse::new(3);
        let at = Duration::from_secs;
        assert_eq!(pulse.silent_for(at(100)), Duration::ZERO);
        let (first, second) = (pulse.start(Partition(0), at(10)), pulse.start(Partition(2), at(11)));
        assert_eq!(pulse.silent_for(at(15)), at(5));
        first.beat(at(14));
        assert_eq!(pulse.silent_for(at(15)), at(4));
        drop(second);
        assert_eq!(pulse.silent_for(at(15)), at(1));
        drop(first);
        assert_eq!(pulse.silent_for(at(15)), Duration::ZERO);
    }
}
