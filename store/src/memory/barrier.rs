//! Barriers: who has arrived at the tasks that wait for members.

use std::collections::{BTreeMap, BTreeSet};

use lovage_core::TaskKey;

use crate::moving;

/// One barrier.
#[derive(Clone, Debug)]
struct Barrier {
    members: u32,
    arrived: BTreeSet<u32>,
}

/// The barriers of a partition, by the task that waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Barriers(BTreeMap<TaskKey, Barrier>);

impl Barriers {
    /// Makes a barrier in place of the one before. `true`: there is nobody to wait for, and it is gone again.
    pub(super) fn make(&mut self, task: &TaskKey, members: u32) -> bool {
        self.0.insert(task.clone(), Barrier { members, arrived: BTreeSet::new() });
        self.complete(task)
    }

    /// Notes an arrival. `true`: it was the last one, and the barrier is gone.
    pub(super) fn arrive(&mut self, task: &TaskKey, index: u32) -> bool {
        let Some(barrier) = self.0.get_mut(task) else { return false };
        index < barrier.members && barrier.arrived.insert(index) && self.complete(task)
    }

    /// The barrier of a task.
    pub(super) fn get(&self, task: &TaskKey) -> Option<moving::Barrier> {
        let barrier = self.0.get(task)?;
        Some(moving::Barrier { members: barrier.members, arrived: barrier.arrived.iter().copied().collect() })
    }

    /// Forgets the barrier of a task.
    pub(super) fn remove(&mut self, task: &TaskKey) {
        self.0.remove(task);
    }

    fn complete(&mut self, task: &TaskKey) -> bool {
        let complete = self.0.get(task).is_some_and(|barrier| barrier.arrived.len() == barrier.members as usize);
        if complete {
            self.0.remove(task);
        }
        complete
    }
}
