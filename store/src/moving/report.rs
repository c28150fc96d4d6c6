//! What a move has done.

use lovage_core::{State, TaskKey};

/// Refusals that are told one by one; the others are counted.
const TOLD: usize = 100;

/// A task that stays in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The task.
    pub key: TaskKey,
    /// Why.
    pub why: String,
}

/// Something that is moved or is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Moved or copied.
    pub moved: u64,
    /// In the destination already.
    pub there: u64,
}

/// What a move has found and done. Tasks are counted by `State as usize`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tasks in the source at the start of the run.
    pub found: [u64; 9],
    /// Tasks moved.
    pub moved: [u64; 9],
    /// Tasks that the destination had already: moved by an earlier run, and gone on since.
    pub there: [u64; 9],
    /// Tasks that stay in the source.
    pub refused: [u64; 9],
    /// Who they are, the first of them.
    pub refusals: Vec<Refused>,
    /// Documents.
    pub documents: Tally,
    /// Names of the documents that stay as the destination has them, though the source has others.
    pub kept: Vec<String>,
    /// Idempotency keys and directory entries.
    pub keys: Tally,
}

impl Report {
    pub(super) fn refuse(&mut self, key: &TaskKey, state: State, why: String) {
        self.refused[state as usize] += 1;
        if self.refusals.len() < TOLD {
            self.refusals.push(Refused { key: key.clone(), why });
        }
    }

    /// Tasks that the run is done with.
    pub fn done(&self) -> u64 {
        [self.moved, self.there, self.refused].iter().flatten().sum()
    }
}
