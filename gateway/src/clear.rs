//! Calling off the tasks that wait in a queue: all of them, or the oldest.
//!
//! Each is canceled by `decide` and a guarded commit of its own, so that links, callbacks, unique keys and parents fare as with
//! any other cancel. What has started meanwhile is left alone.

use std::time::Duration;

use futures_util::future::try_join_all;
use lovage_core::problem::{Code, Problem};
use lovage_core::{Event, Head, LaneId, Millis, Ns, Partition, Reason, SessionId, State, TaskKey, decide};
use lovage_store::{Committed, Cursor, Index, Mode, Result as StoreResult, Sync};

use crate::app::App;
use crate::change::Changed;
use crate::filter::Filter;
use crate::problem::Refusal;
use crate::view::read_body;
use crate::walk::{Place, Walk};

/// Records that one call of the store reads or changes.
const PAGE: usize = 200;
/// Lanes of a partition that are looked at for the oldest tasks of a queue.
const MOST_LANES: usize = 256;

impl App {
    /// The lanes of a queue in a partition.
    pub(crate) async fn lanes_of_queue(&self, p: Partition, ns: Ns, queue: &str) -> StoreResult<Vec<LaneId>> {
        let lanes = lovage_store::all_lanes(&*self.store, p).await?;
        Ok(lanes.into_iter().filter(|(_, lane)| lane.ns == ns && lane.queue == queue).map(|(id, _)| id).collect())
    }

    /// The first `most` of each lane of a queue in a partition, the oldest first.
    pub(crate) async fn first_in_lanes(
        &self,
        p: Partition,
        ns: Ns,
        queue: &str,
        most: usize,
    ) -> StoreResult<Vec<(TaskKey, Head)>> {
        let mut found = Vec::new();
        for lane in self.lanes_of_queue(p, ns, queue).await?.into_iter().take(MOST_LANES) {
            let (mut from, mut left) = (Cursor::default(), most);
            while left > 0 {
                let page = self.store.scan(p, &Index::Lane { lane, after: None }, from, left.min(PAGE)).await?;
                left -= page.items.len().min(left);
                // A lane that is kept in order holds tasks that run as well.
                found.extend(page.items.into_iter().filter(|(_, head)| head.state.is_waiting()));
                match page.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        found.sort_by_key(|(_, head)| (head.created, head.seq));
        Ok(found)
    }

    /// Calls off the `most` oldest tasks that may start, and if there are fewer, the oldest that wait for a time. Answers how
    /// many.
    pub(crate) async fn drop_oldest(&self, ns: Ns, queue: &str, most: usize) -> Result<usize, Refusal> {
        let firsts = self.all_partitions().map(|p| async move {
            let found = self.first_in_lanes(p, ns, queue, most).await?;
            Ok::<_, lovage_store::Error>(found.into_iter().map(move |found| (p, found)))
        });
        let mut oldest: Vec<_> = try_join_all(firsts).await?.into_iter().flatten().collect();
        oldest.sort_by_key(|(_, (_, head))| (head.created, head.seq));
        oldest.truncate(most);
        let mut dropped = self.clear_everywhere(oldest, Reason::Dropped).await?;
        if dropped < most {
            let mut late = self.later_ones(ns, queue).await?;
            late.sort_by_key(|(_, (_, head))| (head.created, head.seq));
            late.truncate(most - dropped);
            dropped += self.clear_everywhere(late, Reason::Dropped).await?;
        }
        Ok(dropped)
    }

    /// The tasks of a queue that wait for a time.
    async fn later_ones(&self, ns: Ns, queue: &str) -> Result<Vec<(Partition, (TaskKey, Head))>, Refusal> {
        let filter = Filter::of_queue(queue, &[State::Scheduled, State::Retrying], Millis::MAX);
        let walk = Walk { app: self, ns, filter: &filter, errors: false };
        let (mut found, mut place) = (Vec::new(), Some(Place::start()));
        while let Some(here) = place {
            let step = walk.step(&here, PAGE).await?;
            let matching = walk.matching(here.partition, step.heads).await?;
            found.extend(matching.into_iter().map(|found| (here.partition, (found.key, found.head))));
            place = step.next;
        }
        Ok(found)
    }

    /// Calls off all tasks that wait in a queue since `start` or longer; answers how many.
    pub(crate) async fn purge(&self, ns: Ns, queue: &str, start: Millis) -> Result<usize, Refusal> {
        let mut count = 0;
        loop {
            let before = count;
            for p in self.all_partitions() {
                for lane in self.lanes_of_queue(p, ns, queue).await? {
                    count += self.purge_lane(p, lane, start).await?;
                }
            }
            let filter = Filter::of_queue(queue, &[State::Blocked, State::Scheduled, State::Queued, State::Retrying], start);
            let walk = Walk { app: self, ns, filter: &filter, errors: false };
            let mut place = Some(Place::start());
            while let Some(here) = place {
                let step = walk.step(&here, PAGE).await?;
                let found = walk.matching(here.partition, step.heads).await?;
                let found = found.into_iter().map(|found| (found.key, found.head)).collect();
                count += self.clear(here.partition, found, Reason::Purged).await?;
                place = step.next;
            }
            // What moved on the way, back into the queue from an attempt or to another time, is found by the next round.
            if count == before {
                return Ok(count);
            }
        }
    }

    async fn purge_lane(&self, p: Partition, lane: LaneId, start: Millis) -> Result<usize, Refusal> {
        let (mut count, mut from) = (0, Cursor::default());
        loop {
            let page = self.store.scan(p, &Index::Lane { lane, after: None }, from, PAGE).await?;
            let found = page.items.into_iter().filter(|(_, head)| head.created <= start && head.state.is_waiting()).collect();
            count += self.clear(p, found, Reason::Purged).await?;
            match page.next {
                Some(next) => from = next,
                None => return Ok(count),
            }
        }
    }

    async fn clear_everywhere(&self, all: Vec<(Partition, (TaskKey, Head))>, reason: Reason) -> Result<usize, Refusal> {
        let (mut count, mut rest) = (0, all);
        while let Some(p) = rest.first().map(|(p, _)| *p) {
            let (here, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(of, _)| *of == p);
            count += self.clear(p, here.into_iter().map(|(_, found)| found).collect(), reason).await?;
            rest = others;
        }
        Ok(count)
    }

    /// Calls off those of these waiting tasks that still wait; answers how many.
    async fn clear(&self, p: Partition, all: Vec<(TaskKey, Head)>, reason: Reason) -> Result<usize, Refusal> {
        let mut count = 0;
        for some in all.chunks(PAGE.min(self.store.caps().max_batch.max(1))) {
            let keys: Vec<TaskKey> = some.iter().map(|(key, _)| key.clone()).collect();
            let bodies = self.store.bodies(p, &keys).await?;
            let (now, cancel) = (self.now(), Event::Cancel { hard: false, reason, grace: Duration::ZERO });
            let (mut commits, mut asked) = (Vec::new(), Vec::new());
            for ((key, head), body) in some.iter().zip(bodies) {
                // Gone since it was found, or damaged: whoever starts it finds out.
                let Some((spec, _)) = read_body(body.as_ref()) else { continue };
                let Ok(transition) = decide(key, head, &spec, cancel.clone(), now, self.random()) else { continue };
                commits.push(self.commit(key, head.clone(), transition, &spec, None, now));
                asked.push(key);
            }
            if commits.is_empty() {
                continue;
            }
            let done = self.store.commit(p, SessionId(0), commits, Mode::Each, Sync::Durable).await?;
            for (key, done) in asked.into_iter().zip(done) {
                count += usize::from(done == Committed::Ok || self.clear_one(key, &cancel).await?);
            }
        }
        Ok(count)
    }

    /// Calls off a task that moved, if it still waits.
    async fn clear_one(&self, key: &TaskKey, cancel: &Event) -> Result<bool, Refusal> {
        let waits = |head: &Head| {
            let left = || Problem::new(Code::WrongState, "it does not wait any more");
            head.state.is_waiting().then(|| cancel.clone()).ok_or_else(left)
        };
        match self.change(key, |head, _| waits(head)).await {
            Ok(changed) => Ok(matches!(changed, Some(Changed::Applied(_)))),
            Err(Refusal(problem)) if problem.code == Code::WrongState => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }
}
