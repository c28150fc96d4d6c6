//! Who waits for a limit, in order of arrival.
//!
//! A lane stands in line once and is known here by its partition alone: which of its lanes goes first is the partition's matter,
//! so that a wake costs no more than what it wakes. What is handed out is promised to the partition for a moment: whoever comes in
//! between and was not waiting leaves it alone.

use std::collections::VecDeque;
use std::time::Duration;

use lovage_core::LaneId;
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

/// What a lane was woken for, while it waits for something else.
#[derive(Debug)]
struct Kept {
    partition: u16,
    lane: LaneId,
    amount: u32,
    until: Instant,
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
    kept: Vec<Kept>,
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
        // Those who leave take an average with them, and the first may need more than what is left of that.
        let first = self.runs.front().map_or(0, |run| run.cost);
        u32::try_from(self.wanted).unwrap_or(u32::MAX).max(first)
    }

    /// What the first one needs.
    pub(super) fn first_cost(&self) -> u32 {
        self.runs.front().map_or(1, |run| run.cost)
    }

    /// How much is promised, or kept.
    pub(super) fn promised(&self) -> u32 {
        self.promised_in_all + self.kept.iter().map(|kept| kept.amount).sum::<u32>()
    }

    /// When the first promises end.
    pub(super) fn promised_until(&self) -> Option<Instant> {
        self.kept.iter().map(|kept| kept.until).chain(self.promised_until).min()
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

    /// Whether this lane may take so much of what is free.
    pub(super) fn leaves(&self, partition: u16, lane: LaneId, free: u32, cost: u32) -> bool {
        let own = self.promised.iter().find(|(p, _)| *p == partition).map_or(0, |(_, n)| *n);
        let kept = self.kept.iter().find(|kept| kept.is_of(partition, lane)).map_or(0, |kept| kept.amount);
        free >= (self.promised() - own - kept).saturating_add(cost)
    }

    /// What was promised to this partition is kept for one of its lanes until then, while that waits for something else. Whether
    /// anything was.
    pub(super) fn keep(&mut self, partition: u16, lane: LaneId, cost: u32, until: Instant) -> bool {
        let known = self.kept.iter().position(|kept| kept.is_of(partition, lane));
        let had = known.map_or(0, |at| self.kept[at].amount);
        let moved = self.settle_any(partition, cost.saturating_sub(had));
        match known {
            Some(at) => self.kept[at].amount += moved,
            None if moved > 0 => self.kept.push(Kept { partition, lane, amount: moved, until }),
            None => {}
        }
        moved > 0
    }

    /// A lane does not use what it was woken for now: it is kept for it until then, or others may have it. Whether anything changed.
    pub(super) fn release(&mut self, partition: u16, lane: LaneId, cost: u32, keep: Option<Instant>) -> bool {
        let Some(until) = keep else {
            let before = self.promised();
            self.settle(partition, lane, cost);
            return self.promised() != before;
        };
        self.keep(partition, lane, cost, until)
    }

    /// What was promised to this partition, or kept for this lane, is used or not needed.
    pub(super) fn settle(&mut self, partition: u16, lane: LaneId, cost: u32) {
        let kept = match self.kept.iter().position(|kept| kept.is_of(partition, lane)) {
            Some(at) => self.kept.swap_remove(at).amount,
            None => 0,
        };
        self.settle_any(partition, cost.saturating_sub(kept));
    }

    /// What was promised to this partition is used, or not needed, by any of its lanes; answers how much that was.
    pub(super) fn settle_any(&mut self, partition: u16, cost: u32) -> u32 {
        let Some(at) = self.promised.iter().position(|(p, _)| *p == partition) else { return 0 };
        let settled = self.promised[at].1.min(cost);
        self.promised[at].1 -= settled;
        self.promised_in_all -= settled;
        if self.promised[at].1 == 0 {
            self.promised.swap_remove(at);
        }
        settled
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
        self.kept.retain(|kept| kept.until > now);
    }

    /// Hands out what is free to those who have waited longest; `wake` is told of each partition and its number of lanes.
    pub(super) fn serve(&mut self, free: u32, now: Instant, mut wake: impl FnMut(u16, u32)) {
        let mut left = free.saturating_sub(self.promised());
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
        self.settle_any(partition, u32::MAX);
        self.kept.retain(|kept| kept.partition != partition);
    }
}

impl Kept {
    fn is_of(&self, partition: u16, lane: LaneId) -> bool {
        self.partition == partition && self.lane == lane
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
        assert!(
            line.leaves(1, LaneId(1), 3, 2)
                && !line.leaves(1, LaneId(1), 3, 3)
                && line.leaves(2, LaneId(1), 3, 1)
                && !line.leaves(3, LaneId(1), 3, 1)
        );
        assert_eq!((line.lanes(), line.wanted(), line.promised()), (1, 10, 3));
        // What is promised is not promised again.
        assert_eq!(served(&mut line, 3), []);
        line.settle_any(1, 1);
        assert_eq!(served(&mut line, 3), [(1, 1)]);
        line.settle_any(2, 1);
        tokio::time::advance(PROMISE).await;
        line.expire(Instant::now());
        assert!(line.leaves(3, LaneId(1), 3, 3) && line.promised() == 0);
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
        // What goes with the one is never missing to the other.
        let mut line = Line::default();
        line.join(1, 1, 1);
        line.join(2, 3, 1);
        assert_eq!((served(&mut line, 2), line.wanted()), (vec![(1, 1)], 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_lane_was_woken_for_is_kept_while_it_waits_for_something_else() {
        let (one, two, second) = (LaneId(1), LaneId(2), Duration::from_secs(1));
        let mut line = Line::default();
        line.join(1, 1, 1);
        line.join(1, 1, 1);
        assert_eq!(served(&mut line, 1), [(1, 1)]);
        line.keep(1, one, 1, Instant::now() + second);
        // Others of its partition leave it alone as well, and nothing is handed out twice.
        assert!(line.leaves(1, one, 1, 1) && !line.leaves(1, two, 1, 1) && line.promised() == 1);
        assert_eq!((served(&mut line, 1), served(&mut line, 2)), (vec![], vec![(1, 1)]));
        tokio::time::advance(PROMISE).await;
        line.expire(Instant::now());
        assert_eq!((line.promised(), line.promised_until().is_some()), (1, true));
        line.settle(1, one, 1);
        assert_eq!(line.promised(), 0);
        line.join(1, 1, 1);
        served(&mut line, 1);
        line.keep(1, one, 1, Instant::now() + second);
        tokio::time::advance(second).await;
        line.expire(Instant::now());
        assert_eq!((line.promised(), line.promised_until()), (0, None));
    }
}
