//! How much room tasks take in the store in use: an estimate from a sample, cheap enough to be made every minute.

use lovage_core::{Head, State, TaskKey};

/// Tasks of each state in a sample.
pub(crate) const SAMPLE: usize = 20;
/// Records that are looked at to find them.
pub(crate) const LOOKED_AT: usize = 1_000;

/// The room that a store takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Footprint {
    /// Bytes in use, of all that is stored; in Redis those of the whole server.
    pub bytes: u64,
    /// Bytes of a task with body, result, attempts and its share of the indexes, by state; only states of which tasks were
    /// found.
    pub tasks: Vec<(State, f64)>,
}

/// Gathers the sample of each state and the bytes of its tasks.
#[derive(Default)]
pub(crate) struct Samples([(u64, usize); 9]);

impl Samples {
    /// Those of these records that make up the sample.
    pub(crate) fn choose(found: Vec<(TaskKey, Head)>) -> Vec<(TaskKey, Head)> {
        let mut counts = [0; 9];
        let mut chosen = found;
        chosen.retain(|(_, head)| {
            counts[head.state as usize] += 1;
            counts[head.state as usize] <= SAMPLE
        });
        chosen
    }

    /// Adds a task.
    pub(crate) fn add(&mut self, state: State, bytes: u64) {
        let (sum, count) = &mut self.0[state as usize];
        *sum += bytes;
        *count += 1;
    }

    /// The means.
    pub(crate) fn means(&self) -> Vec<(State, f64)> {
        let mean = |state: &State| {
            let (sum, count) = self.0[*state as usize];
            (count > 0).then(|| (*state, sum as f64 / count as f64))
        };
        State::ALL.iter().filter_map(mean).collect()
    }
}
