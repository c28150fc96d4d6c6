//! The first tasks of a lane, in their order.
//!
//! Nearly all of them come at the end and leave at the beginning, so they are kept in a row; one that holds nothing costs
//! nothing.

use std::collections::VecDeque;

use lovage_core::{Score, State};

use super::Waiting;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Window {
    // Boxed, so that a task that comes in the middle moves little, and a row of one is small.
    #[allow(clippy::vec_box)]
    tasks: VecDeque<Box<Waiting>>,
    /// How many of them keep others of their order from starting.
    open: u32,
    /// Of how many it is known what they have to pass.
    read: u32,
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn first(&self) -> Option<&Waiting> {
        self.tasks.front().map(|task| &**task)
    }

    pub(super) fn last(&self) -> Option<Score> {
        self.tasks.back().map(|task| task.head.score())
    }

    /// How many are running or on their way to it.
    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// Of how many it is known what they have to pass.
    pub(super) fn read(&self) -> usize {
        self.read as usize
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.tasks.iter_mut().map(|task| &mut **task)
    }

    /// The version of the task with this place.
    pub(super) fn version(&self, score: Score) -> Option<u64> {
        self.find(score).ok().map(|at| self.tasks[at].head.version)
    }

    fn find(&self, score: Score) -> Result<usize, usize> {
        match self.tasks.back() {
            Some(last) if last.head.score() >= score => self.tasks.binary_search_by_key(&score, |task| task.head.score()),
            _ => Err(self.tasks.len()),
        }
    }

    /// Puts a task at its place, of an older version of it only: what is known from elsewhere may be newer.
    pub(super) fn put(&mut self, mut task: Waiting) {
        match self.find(task.head.score()) {
            Ok(at) => {
                let known = &mut self.tasks[at];
                if known.head.version > task.head.version {
                    return;
                }
                if known.head.version == task.head.version && task.gates.is_none() {
                    task.gates = known.gates.take();
                    self.read -= u32::from(task.gates.is_some());
                }
                let was = std::mem::replace(&mut **known, task);
                self.count_out(&was);
                self.count_in(at);
            }
            Err(at) => {
                if self.tasks.capacity() == 0 {
                    // A row grows to four at once; many never hold more than one.
                    self.tasks.reserve_exact(1);
                }
                self.tasks.insert(at, Box::new(task));
                self.count_in(at);
            }
        }
    }

    /// Takes away the task with this place, unless it is of a later version.
    pub(super) fn remove(&mut self, score: Score, version: u64) -> bool {
        let Ok(at) = self.find(score) else { return false };
        if self.tasks[at].head.version > version {
            return false;
        }
        if let Some(task) = self.tasks.remove(at) {
            self.count_out(&task);
        }
        self.shrink();
        true
    }

    /// Takes the first one away.
    pub(super) fn pop_first(&mut self) -> Option<Waiting> {
        let task = self.tasks.pop_front()?;
        self.count_out(&task);
        self.shrink();
        Some(*task)
    }

    /// Notes that the first one is on its way to running: it keeps its place.
    pub(super) fn take_first(&mut self) -> Option<Waiting> {
        let first = self.tasks.front_mut()?;
        let task = Waiting::clone(first);
        self.open += u32::from(!is_open(first));
        first.taken = true;
        Some(task)
    }

    /// Takes the last one away, unless others wait for its end.
    pub(super) fn pop_last(&mut self) -> bool {
        if self.tasks.back().is_none_or(|task| is_open(task)) {
            return false;
        }
        let Some(task) = self.tasks.pop_back() else { return false };
        self.count_out(&task);
        true
    }

    /// Notes what a task has to pass; false: it is not here in this version.
    pub(super) fn tell(&mut self, score: Score, version: u64, gates: std::sync::Arc<lovage_core::LaneDef>) -> bool {
        let Ok(at) = self.find(score) else { return false };
        let task = &mut self.tasks[at];
        if task.head.version != version {
            return false;
        }
        self.read += u32::from(task.gates.replace(gates).is_none());
        true
    }

    fn count_in(&mut self, at: usize) {
        let task = &self.tasks[at];
        self.open += u32::from(is_open(task));
        self.read += u32::from(task.gates.is_some());
    }

    fn count_out(&mut self, task: &Waiting) {
        self.open -= u32::from(is_open(task));
        self.read -= u32::from(task.gates.is_some());
    }

    fn shrink(&mut self) {
        if self.tasks.is_empty() && self.tasks.capacity() > 16 {
            self.tasks = VecDeque::new();
        }
    }
}

fn is_open(task: &Waiting) -> bool {
    task.taken || task.head.state == State::Running
}
