//! Lanes whose limit is being asked for: each keeps the slot of its worker meanwhile.
//!
//! With a limit key for every task nothing is at hand that a task could start with, and what is granted does not keep. So no more
//! is asked for than there are slots to use it: lanes beyond that wait for a slot, which costs nothing, however many they are.

use std::sync::Arc;

use ahash::AHashMap;

use crate::gate::Slot;

/// Lanes of a partition that may ask at once, whatever slots there are.
const MOST: usize = 1_000;

/// See the module.
#[derive(Default)]
pub(super) struct Asking {
    slots: AHashMap<u64, Vec<Arc<Slot>>>,
    lanes: usize,
}

impl Asking {
    /// More would not be answered sooner.
    pub(super) fn is_full(&self) -> bool {
        self.lanes >= MOST
    }

    /// A lane that may use this slot waits until the limit with this number has been asked for.
    pub(super) fn wait(&mut self, limit: u64, slot: Arc<Slot>) {
        self.slots.entry(limit).or_default().push(slot);
        self.lanes += 1;
    }

    /// The store has answered: whoever comes next may have the slots.
    pub(super) fn answered(&mut self, limit: u64) {
        self.lanes -= self.slots.remove(&limit).map_or(0, |slots| slots.len());
    }

    /// None of them waits any more, or for too long.
    pub(super) fn clear(&mut self) {
        self.slots = AHashMap::new();
        self.lanes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Gate, Slots};

    #[test]
    fn a_slot_is_free_again_when_the_answer_is_there() {
        let slots = Arc::new(Slots::new(Arc::new(Gate::new(1, tokio::sync::watch::channel(0).0))));
        let mut asking = Asking::default();
        for limit in [7, 7, 8] {
            asking.wait(limit, Arc::new(slots.take(9).unwrap_or_else(|| panic!("no slot"))));
        }
        assert_eq!(slots.open(), 3);
        asking.answered(7);
        assert_eq!((slots.open(), asking.lanes), (1, 1));
        asking.answered(7);
        asking.clear();
        assert_eq!((slots.open(), asking.lanes, asking.is_full()), (0, 0, false));
    }
}
