//! What this process changed lately, by queue: tasks that came in, started, and left.
//!
//! Every change of a task goes through the store, and each is made by one process. So each process counts its own, and the sum of
//! what all of them show on their boards is what happened. What nobody could be sure of (the answer got lost) is not counted.

use std::sync::Arc;

use ahash::AHashMap;
use lovage_core::board::{LATELY, QueueBoard, WINDOW};
use lovage_core::recent::Recent;
use lovage_core::{LaneDef, Millis, Ns, State};
use parking_lot::RwLock;

use crate::{Commit, Effect};

/// Queues that are counted at once. More are not looked at until others are quiet.
const MOST_QUEUES: usize = 10_000;

/// Counts by queue; those in which nothing happened lately are forgotten.
#[derive(Debug, Default)]
pub struct Traffic {
    known: RwLock<Known>,
    /// What was not counted.
    missed: Recent<{ WINDOW as usize }>,
}

#[derive(Debug, Default)]
struct Known {
    queues: AHashMap<Ns, AHashMap<Box<str>, Arc<Counts>>>,
    len: usize,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: Recent<{ WINDOW as usize }>,
    started: Recent<{ LATELY as usize }>,
    finished: Recent<{ WINDOW as usize }>,
}

/// What a commit does to queues.
pub(crate) struct Moves {
    ns: Ns,
    queue: Arc<str>,
    /// It was open in its queue before.
    leaves: bool,
    /// It is open after, in its queue …
    stays: bool,
    /// … or in that of this lane.
    lane: Option<Arc<LaneDef>>,
    starts: bool,
    spawned: Vec<Arc<LaneDef>>,
}

impl Moves {
    pub(crate) fn of(commit: &Commit) -> Self {
        let open = |state: State| !state.is_final();
        let spawned = |effect: &Effect| if let Effect::Spawn(child) = effect { Some(Arc::clone(&child.lane)) } else { None };
        let after = commit.head.as_ref().map(|head| head.state);
        Self {
            ns: commit.key.ns,
            queue: Arc::clone(&commit.queue),
            leaves: open(commit.was.state),
            stays: after.is_some_and(open),
            lane: commit.moves_to().filter(|lane| *lane.queue != *commit.queue).cloned(),
            starts: commit.was.state != State::Running && after == Some(State::Running),
            spawned: commit.effects.iter().filter_map(spawned).collect(),
        }
    }
}

impl Traffic {
    pub(crate) fn accepted(&self, lane: &LaneDef, now: Millis) {
        self.count(lane.ns, &lane.queue, now, |counts| counts.accepted.add(now));
    }

    pub(crate) fn started(&self, ns: Ns, queue: &str, now: Millis) {
        self.count(ns, queue, now, |counts| counts.started.add(now));
    }

    /// A commit was applied. A task that moves to another queue leaves the one and comes into the other.
    pub(crate) fn moved(&self, moves: &Moves, now: Millis) {
        let Moves { ns, queue, leaves, stays, lane, starts, spawned } = moves;
        let moved = lane.is_some();
        if *leaves && (!stays || moved) {
            self.count(*ns, queue, now, |counts| counts.finished.add(now));
        }
        if *stays && (!leaves || moved) {
            let into = lane.as_ref().map_or(&**queue, |lane| &lane.queue);
            self.count(*ns, into, now, |counts| counts.accepted.add(now));
        }
        if *starts {
            self.started(*ns, queue, now);
        }
        for lane in spawned {
            self.accepted(lane, now);
        }
    }

    fn count(&self, ns: Ns, queue: &str, now: Millis, add: impl FnOnce(&Counts)) {
        if let Some(counts) = self.known.read().queues.get(&ns).and_then(|queues| queues.get(queue)) {
            return add(counts);
        }
        let mut known = self.known.write();
        let Known { queues, len } = &mut *known;
        let queues = queues.entry(ns).or_default();
        if !queues.contains_key(queue) {
            if *len >= MOST_QUEUES {
                return self.missed.add(now);
            }
            *len += 1;
        }
        add(queues.entry(queue.into()).or_default());
    }

    /// What happened lately, the busiest queue first, and whether that is not all.
    pub fn board(&self, now: Millis) -> (Vec<QueueBoard>, bool) {
        let (mut rows, mut known) = (Vec::new(), self.known.write());
        known.queues.retain(|ns, queues| {
            queues.retain(|name, counts| {
                let (accepted, finished) = (counts.accepted.sum(now), counts.finished.sum(now));
                let started = counts.started.sum(now);
                let any = accepted + started + finished > 0;
                if any {
                    rows.push(QueueBoard { ns: *ns, name: name.to_string(), started, accepted, finished });
                }
                any
            });
            !queues.is_empty()
        });
        known.len = rows.len();
        drop(known);
        let busy = |row: &QueueBoard| row.accepted + row.started + row.finished;
        rows.sort_by(|a, b| busy(b).cmp(&busy(a)).then_with(|| (a.ns, &a.name).cmp(&(b.ns, &b.name))));
        (rows, self.missed.sum(now) > 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use lovage_core::Route;

    use super::*;
    use crate::conformance::Fixture;
    use crate::conformance::kit::{Kit, SESSION, ended, lane, running};
    use crate::memory::tests::Memory;
    use crate::wrap::{Fault, Faulty, Traced, Verb};
    use crate::{Committed, Inserted, OnExists};

    const KEEP: Duration = Duration::from_secs(60);

    /// Accepted, started and finished by queue.
    fn seen(kit: &Kit<'_>) -> Vec<(String, u64, u64, u64)> {
        let (mut rows, cut) = kit.store.traffic().unwrap().board(kit.now());
        assert!(!cut);
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows.into_iter().map(|row| (row.name, row.accepted, row.started, row.finished)).collect()
    }

    fn row(name: &str, accepted: u64, started: u64, finished: u64) -> (String, u64, u64, u64) {
        (name.into(), accepted, started, finished)
    }

    #[tokio::test]
    async fn what_comes_starts_and_leaves_is_counted_by_queue() {
        let fixture = Memory::new();
        let faulty = Arc::new(Faulty::new(fixture.fresh().await));
        let kit = Kit::over(&fixture, Arc::new(Traced::new(Arc::<Faulty>::clone(&faulty))));
        let (one, other) = (lane(Ns::DEFAULT, "one", "t"), lane(Ns::DEFAULT, "other", "t"));
        let tasks = kit.put_all((0..3).map(|_| kit.task_in(Arc::clone(&one))).collect()).await;
        assert_eq!(seen(&kit), [row("one", 3, 0, 0)]);
        // One that is there already is not new, and of one whose answer is lost nobody knows.
        let known = kit.client_task(0);
        kit.put(known.clone()).await;
        assert!(matches!(kit.insert(vec![known]).await[..], [Inserted::Exists(_)]));
        faulty.script(Verb::Insert, [Some(Fault::After)]);
        let lost = crate::Insert { exists: OnExists::Return, ..kit.task_in(Arc::clone(&one)) };
        kit.store.insert(kit.p, vec![lost], crate::Mode::Each).await.unwrap_err();
        assert_eq!(seen(&kit), [row("default", 1, 0, 0), row("one", 3, 0, 0)]);
        // A claim starts one, a worker that pulls another; what is tried again does not leave.
        let token = kit.token().await;
        let claimed = kit.claimed(&token, &tasks[0]).await;
        let pulled = kit.committed(&tasks[1], tasks[1].commit(Some(running(&tasks[1].head, SESSION)))).await;
        let again = kit.committed(&claimed, claimed.change(|head| head.state = State::Retrying)).await;
        assert_eq!(seen(&kit), [row("default", 1, 0, 0), row("one", 3, 2, 0)]);
        // An end with what it starts, and one that is refused.
        let end = pulled.commit(Some(ended(&pulled.head, State::Succeeded, kit.now(), KEEP)));
        let link = Effect::Spawn(Box::new(kit.task_in(Arc::clone(&other))));
        let done = kit.committed(&pulled, crate::Commit { effects: vec![link], ..end.clone() }).await;
        assert!(matches!(kit.commit(vec![end]).await[..], [Committed::Stale(_)]));
        assert_eq!(seen(&kit), [row("default", 1, 0, 0), row("one", 3, 2, 1), row("other", 1, 0, 0)]);
        // A task that moves leaves the one and comes into the other; one that was final comes back; what is deleted had left.
        let (moved, again) = again.moved(&other, |_| ());
        kit.committed(&again, moved).await;
        let back = kit.committed(&done, done.change(|head| head.state = State::Queued)).await;
        assert_eq!(seen(&kit), [row("default", 1, 0, 0), row("one", 4, 2, 2), row("other", 2, 0, 0)]);
        let end = back.commit(Some(ended(&back.head, State::Canceled, kit.now(), KEEP)));
        let gone = kit.committed(&back, end).await;
        kit.committed(&gone, gone.commit(None)).await;
        assert_eq!(seen(&kit), [row("default", 1, 0, 0), row("one", 4, 2, 3), row("other", 2, 0, 0)]);
        // Starts are forgotten after ten seconds, the rest after a minute.
        assert!(kit.pass_if_free(Duration::from_secs(15)));
        assert_eq!(seen(&kit)[1], row("one", 4, 0, 3));
        assert!(kit.pass_if_free(Duration::from_secs(60)));
        assert_eq!(seen(&kit), []);
    }

    #[test]
    fn no_more_queues_are_held_than_may_be() {
        let (traffic, now) = (Traffic::default(), Millis(1_800_000_000_000));
        let of = |n: usize| LaneDef::of(Ns::DEFAULT, format!("q{n}"), Route::Task("t".into()));
        (0..=MOST_QUEUES).for_each(|n| traffic.accepted(&of(n), now));
        traffic.accepted(&of(0), now);
        let (rows, cut) = traffic.board(now);
        assert!(rows.len() == MOST_QUEUES && cut);
        assert_eq!((&*rows[0].name, rows[0].accepted), ("q0", 2));
        // As soon as the others are quiet.
        let later = now.after(Duration::from_secs(WINDOW));
        assert!(traffic.board(later).0.is_empty());
        traffic.accepted(&of(MOST_QUEUES), later);
        assert_eq!(
            traffic.board(later),
            (vec![QueueBoard { ns: Ns::DEFAULT, name: format!("q{MOST_QUEUES}"), started: 0, accepted: 1, finished: 0 }], false)
        );
    }
}
