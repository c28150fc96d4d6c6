//! What a dispatcher knows of one instance beside its document. It outlives the snapshots of the registry: whoever holds an
//! older one sees the same numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lovage_core::Millis;
use lovage_core::instance::{Counters, Health};
use parking_lot::Mutex;

use crate::gate::{Gate, Slots};

/// See the module.
#[derive(Debug)]
pub struct InstanceState {
    /// Its open pushes.
    pub slots: Arc<Slots>,
    /// Counts the turns of all instances.
    turns: Arc<AtomicU64>,
    /// When it had its last one.
    last_turn: AtomicU64,
    /// Too many probes failed in a row.
    unwell: AtomicBool,
    probes: Mutex<Probes>,
    /// Since when it gets no new task because it is to be started anew; 0: it gets tasks.
    drained: AtomicU64,
    counted: Mutex<Counted>,
}

/// What the probes found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// Bad answers in a row.
    pub failures: u8,
    /// When the last one was answered; zero: none was.
    pub last: Millis,
}

#[derive(Debug, Default)]
struct Counted {
    /// When all dispatchers began to count; zero: each when it first saw the instance.
    born: Millis,
    counters: Counters,
}

impl InstanceState {
    /// Of an instance that was not known before, seen `now`.
    pub fn new(gate: Arc<Gate>, turns: Arc<AtomicU64>, now: Millis) -> Self {
        Self {
            slots: Arc::new(Slots::new(gate)),
            turns,
            last_turn: AtomicU64::new(0),
            unwell: AtomicBool::new(false),
            probes: Mutex::default(),
            drained: AtomicU64::new(0),
            counted: Mutex::new(Counted { born: Millis(0), counters: Counters { since: now, ..Counters::default() } }),
        }
    }

    /// When it had its last turn, counted in turns.
    pub fn last_turn(&self) -> u64 {
        self.last_turn.load(Ordering::Relaxed)
    }

    /// It is its turn now.
    pub fn take_turn(&self) {
        self.last_turn.store(self.turns.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Whether it answered its probes.
    pub fn is_well(&self) -> bool {
        !self.unwell.load(Ordering::Relaxed)
    }

    /// What the probes found.
    pub fn probes(&self) -> Probes {
        *self.probes.lock()
    }

    /// A probe was answered. Whether this changed what is thought of it.
    pub fn probed(&self, well: bool, now: Millis) -> bool {
        let mut probes = self.probes.lock();
        probes.failures = if well { 0 } else { probes.failures.saturating_add(1) };
        probes.last = now;
        let unwell = probes.failures >= Health::FAILURES;
        let changed = self.unwell.swap(unwell, Ordering::Relaxed) != unwell;
        if changed && well {
            // Its tasks need not find that out once more.
            self.slots.forget_faults();
        }
        changed
    }

    /// It is not probed any more: it counts as well.
    pub fn forget_probes(&self) {
        *self.probes.lock() = Probes::default();
        self.unwell.store(false, Ordering::Relaxed);
    }

    /// Whether it gets no new task because it is to be started anew.
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::SeqCst) != 0
    }

    /// Since when.
    pub fn drained(&self) -> Millis {
        Millis(self.drained.load(Ordering::SeqCst))
    }

    /// From now on it gets no new task, or tasks again (zero).
    pub fn drain(&self, since: Millis) {
        self.drained.store(since.0, Ordering::SeqCst);
    }

    /// Its counters began then; what was counted before that is forgotten. Zero: it is not known when.
    pub fn begin(&self, born: Millis) {
        let mut counted = self.counted.lock();
        if counted.born != born {
            let since = if born.0 == 0 { counted.counters.since } else { born };
            *counted = Counted { born, counters: Counters { since, ..Counters::default() } };
        }
    }

    /// It answered so many tasks, of which so many attempts failed, and said what memory it has.
    pub fn count(&self, tasks: u64, errors: u64, memory: Option<u64>) {
        let counters = &mut self.counted.lock().counters;
        counters.tasks += tasks;
        counters.errors += errors;
        counters.memory = memory.unwrap_or(counters.memory);
    }

    /// What it has done for this dispatcher, and when all dispatchers began to count.
    pub fn counted(&self) -> (Millis, Counters) {
        let counted = self.counted.lock();
        (counted.born, counted.counters)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    fn state() -> InstanceState {
        InstanceState::new(Arc::new(Gate::new(1, watch::Sender::default())), Arc::default(), Millis(5))
    }

    #[test]
    fn three_bad_answers_in_a_row_and_one_good_one() {
        let state = state();
        let answers =
            [(false, false), (false, false), (true, false), (false, false), (false, false), (false, true), (false, false)];
        for (n, (well, changed)) in answers.into_iter().enumerate() {
            assert_eq!(state.probed(well, Millis(10)), changed, "{n}");
        }
        assert!(!state.is_well());
        assert_eq!(state.probes(), Probes { failures: 4, last: Millis(10) });
        assert!(state.probed(true, Millis(20)) && state.is_well());
        for _ in 0..3 {
            state.probed(false, Millis(30));
        }
        state.forget_probes();
        assert!(state.is_well());
    }

    #[test]
    fn counters_begin_anew_when_the_instance_does() {
        let state = state();
        state.count(2, 1, Some(100));
        state.count(1, 0, None);
        let counters = Counters { since: Millis(5), tasks: 3, errors: 1, memory: 100 };
        assert_eq!(state.counted(), (Millis(0), counters));
        state.begin(Millis(0));
        assert_eq!(state.counted().1, counters);
        state.begin(Millis(50));
        assert_eq!(state.counted(), (Millis(50), Counters { since: Millis(50), ..Counters::default() }));
    }
}
