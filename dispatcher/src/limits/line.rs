//! Who waits for a limit, in order of arrival.
//!
//! A lane stands in line once and is known here by its partition alone: which of its lanes goes first is the partition's matter,
//! so that a wake costs no more than what it wakes. What is handed out is promised to the partition for a moment: whoever comes in
//! between and was not waiting leaves it alone.

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

/// For how long something is promised to whoever was woken for it.
const PROMISE: Duration = Duration::from_millis(20);

/// Lanes of one partition that came one after another.
#[derive(Debug)]
struct Run {
    partition: u16,
    lanes: u32,
    /// What each of them needs.
    cost: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Line {
    runs: VecDeque<Run>,
    lanes: u32,
    /// How much all of their tasks that are at hand could use.
    wanted: u64,
    promised: SmallVec<[(u16, u32); 2]>,
    promised_in_all: u32,
    promised_until: Option<Instant>,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes == 0
    }

    /// Those whose lanes stand in it, some of them more than once.
    pub(super) fn partitions(&self) -> impl Iterator<Item = u16> {
        self.runs.iter().map(|run| run.partition)
    }

    /// Lanes that stand in it.
    pub(super) fn lanes(&self) -> u32 {
        self.lanes
    }

    /// How much could be used by those who wait.
    pub(super) fn wanted(&self) -> u32 {
        u32::try_from(self.wanted).unwrap_or(u32::MAX)
    }

    /// What the first one needs.
    pub(super) fn first_cost(&self) -> u32 {
        self.runs.front().map_or(1, |run| run.cost)
    }

    /// How much is promised.
    pub(super) fn promised(&self) -> u32 {
        self.promised_in_all
    }

    /// When promises end.
    pub(super) fn promised_until(&self) -> Option<Instant> {
        self.promised_until
    }

    /// One more lane waits, with so many tasks at hand.
    pub(super) fn join(&mut self, partition: u16, cost: u32, tasks: u32) {
        self.lanes += 1;
        self.wanted += u64::from(cost) * u64::from(tasks.max(1));
        match self.runs.back_mut() {
            Some(run) if run.partition == partition && run.cost == cost => run.lanes += 1,
            _ => self.runs.push_back(Run { partition, lanes: 1, cost }),
        }
    }

    /// Whether this partition may take so much of what is free.
    pub(super) fn leaves(&self, partition: u16, free: u32, cost: u32) -> bool {
        let own = self.promised.iter().find(|(p, _)| *p == partition).map_or(0, |(_, n)| *n);
        free >= (self.promised_in_all - own).saturating_add(cost)
    }

    /// What was promised to this partition is used, or not needed.
    pub(super) fn settle(&mut self, partition: u16, cost: u32) {
        let Some(at) = self.promised.iter().position(|(p, _)| *p == partition) else { return };
        let settled = self.promised[at].1.min(cost);
        self.promised[at].1 -= settled;
        self.promised_in_all -= settled;
        if self.promised[at].1 == 0 {
            self.promised.swap_remove(at);
        }
    }

    /// Nothing that was handed out is kept for anybody.
    pub(super) fn settle_all(&mut self) {
        self.promised.clear();
        (self.promised_in_all, self.promised_until) = (0, None);
    }

    /// Promises that nobody came for are over.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.promised_until.is_some_and(|until| until <= now) {
            self.settle_all();
        }
    }

    /// Hands out what is free to those who have waited longest; `wake` is told of each partition and its number of lanes.
    pub(super) fn serve(&mut self, free: u32, now: Instant, mut wake: impl FnMut(u16, u32)) {
        let mut left = free.saturating_sub(self.promised_in_all);
        while let Some(run) = self.runs.front_mut() {
            let lanes = (left / run.cost.max(1)).min(run.lanes);
            if lanes == 0 {
                return;
            }
            let (partition, given) = (run.partition, lanes * run.cost);
            self.wanted = self.wanted - self.wanted * u64::from(lanes) / u64::from(self.lanes);
            self.lanes -= lanes;
            left -= given;
            run.lanes -= lanes;
            if run.lanes == 0 {
                self.runs.pop_front();
            }
            self.promised_in_all += given;
            match self.promised.iter_mut().find(|(p, _)| *p == partition) {
                Some((_, n)) => *n += given,
                None => self.promised.push((partition, given)),
            }
            self.promised_until = Some(now + PROMISE);
            wake(partition, lanes);
        }
    }

    /// Sends all of them away: what they wait for has changed.
    pub(super) fn dissolve(&mut self, mut wake: impl FnMut(u16, u32)) {
        for run in std::mem::take(self).runs {
            wake(run.partition, run.lanes);
        }
    }

    /// The lanes of a partition are forgotten.
    pub(super) fn forget(&mut self, partition: u16) {
        let gone: u32 = self.runs.iter().filter(|run| run.partition == partition).map(|run| run.lanes).sum();
        if gone > 0 {
            self.runs.retain(|run| run.partition != partition);
            self.wanted = self.wanted - self.wanted * u64::from(gone) / u64::from(self.lanes);
            self.lanes -= gone;
        }
        self.settle(partition, u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn served(line: &mut Line, free: u32) -> Vec<(u16, u32)> {
        let mut woken = Vec::new();
        line.serve(free, Instant::now(), |p, lanes| woken.push((p, lanes)));
        woken
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_came_first_are_served_first_and_what_is_theirs_is_left_to_them() {
        let mut line = Line::default();
        for partition in [1, 1, 2, 1] {
            line.join(partition, 1, 10);
        }
        assert_eq!((line.lanes(), line.wanted()), (4, 40));
        assert_eq!(served(&mut line, 3), [(1, 2), (2, 1)]);
        assert!(line.leaves(1, 3, 2) && !line.leaves(1, 3, 3) && line.leaves(2, 3, 1) && !line.leaves(3, 3, 1));
        assert_eq!((line.lanes(), line.wanted(), line.promised()), (1, 10, 3));
        // What is promised is not promised again.
        assert_eq!(served(&mut line, 3), []);
        line.settle(1, 1);
        assert_eq!(served(&mut line, 3), [(1, 1)]);
        line.settle(2, 1);
        tokio::time::advance(PROMISE).await;
        line.expire(Instant::now());
        assert!(line.leaves(3, 3, 3) && line.promised() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_needs_much_is_not_overtaken_by_those_who_need_little() {
        let mut line = Line::default();
        line.join(1, 5, 1);
        line.join(2, 1, 1);
        assert_eq!((line.first_cost(), line.wanted()), (5, 6));
        assert_eq!(served(&mut line, 4), []);
        assert_eq!(served(&mut line, 6), [(1, 1), (2, 1)]);
        line.join(1, 1, 3);
        line.join(2, 1, 3);
        line.forget(1);
        assert_eq!((line.lanes(), line.wanted(), line.promised()), (1, 3, 1));
        assert_eq!(served(&mut line, 9), [(2, 1)]);
    }
}
