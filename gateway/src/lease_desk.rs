//! Tells requests that wait for tasks of a pulling worker where to look, one of them for each new task.
//!
//! The requests of a worker stand in a line. What is told to the line is that a partition may hold something to take; the
//! first request that is free takes that news, and gives back what it did not look at to the end: also when its client
//! goes away in the middle. So no task waits while somebody waits for it, and one new task does not wake a hundred.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::AHashMap;
use lovage_core::{Flags, Head, LaneId, Ns, Partition, State};
use lovage_store::FeedRow;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Lanes whose worker is remembered.
const REMEMBERED: usize = 100_000;

/// The lines of all workers.
#[derive(Default)]
pub(crate) struct Desk(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    lines: AHashMap<Ns, Vec<Arc<Line>>>,
    /// Which worker the tasks of a lane go to; `None`: no one who stands in a line.
    routes: AHashMap<LaneId, Option<Arc<str>>>,
    /// Rises when the workers change: routes found before are worth nothing.
    edition: u64,
}

/// The requests that wait for tasks of one worker.
pub(crate) struct Line {
    pub ns: Ns,
    pub worker: Arc<str>,
    state: Mutex<LineState>,
    news: Notify,
}

#[derive(Default)]
struct LineState {
    requests: usize,
    partitions: BTreeSet<Partition>,
}

/// Partitions to look at; those that are left when it is dropped are told to the next one in the line.
pub(crate) struct News {
    line: Arc<Line>,
    partitions: BTreeSet<Partition>,
}

impl Desk {
    /// Enters the line of a worker; [`Desk::leave`] it once.
    pub(crate) fn enter(&self, ns: Ns, worker: &str) -> Arc<Line> {
        let mut inner = self.0.lock();
        let lines = inner.lines.entry(ns).or_default();
        let line = if let Some(line) = lines.iter().find(|line| &*line.worker == worker) {
            line.clone()
        } else {
            let line = Arc::new(Line { ns, worker: worker.into(), state: Mutex::default(), news: Notify::new() });
            lines.push(line.clone());
            line
        };
        line.state.lock().requests += 1;
        line
    }

    /// Leaves the line.
    pub(crate) fn leave(&self, line: &Arc<Line>) {
        let mut inner = self.0.lock();
        let mut state = line.state.lock();
        state.requests -= 1;
        if state.requests > 0 {
            return;
        }
        if let Some(lines) = inner.lines.get_mut(&line.ns) {
            lines.retain(|other| !Arc::ptr_eq(other, line));
            if lines.is_empty() {
                inner.lines.remove(&line.ns);
            }
        }
    }

    /// A task changed. If it may be taken now, or lets the next one of its order go, the line of its worker is told; every
    /// line, while nobody knows the worker.
    pub(crate) fn note(&self, p: Partition, row: &FeedRow) {
        let Some(head) = row.head.as_ref().filter(|head| is_news(head)) else { return };
        let inner = self.0.lock();
        let Some(lines) = inner.lines.get(&row.key.ns) else { return };
        let route = inner.routes.get(&head.lane);
        let fits = |line: &&Arc<Line>| route.is_none_or(|worker| worker.as_ref() == Some(&line.worker));
        lines.iter().filter(fits).for_each(|line| line.tell(p));
    }

    /// Something may have been missed in this partition: every line looks.
    pub(crate) fn look_at(&self, p: Partition) {
        self.0.lock().lines.values().flatten().for_each(|line| line.tell(p));
    }

    /// The workers changed: every line looks everywhere.
    pub(crate) fn rerouted(&self, partitions: impl Iterator<Item = Partition>) {
        let mut inner = self.0.lock();
        inner.edition += 1;
        inner.routes.clear();
        for p in partitions {
            inner.lines.values().flatten().for_each(|line| line.tell(p));
        }
    }

    /// What [`Desk::learn`] has to be given with routes that are found from now on.
    pub(crate) fn edition(&self) -> u64 {
        self.0.lock().edition
    }

    /// The tasks of these lanes go to these workers.
    pub(crate) fn learn(&self, edition: u64, routes: impl Iterator<Item = (LaneId, Option<Arc<str>>)>) {
        let mut inner = self.0.lock();
        if inner.edition != edition {
            return;
        }
        if inner.routes.len() >= REMEMBERED {
            inner.routes.clear();
        }
        inner.routes.extend(routes);
    }
}

/// Whether after this change of a task something may be taken that could not be before.
fn is_news(head: &Head) -> bool {
    let is_free = head.state == State::Queued && !head.flags.has(Flags::HELD);
    // Of an order key the next one may go when this one has ended, of a queue in order when this one does not wait any more.
    let lets_go = head.flags.has(Flags::FIFO) || (head.flags.has(Flags::ORDERED) && head.state != State::Running);
    is_free || lets_go
}

impl Line {
    fn tell(&self, p: Partition) {
        self.state.lock().partitions.insert(p);
        self.news.notify_one();
    }

    /// Waits for news.
    pub(crate) async fn news(self: &Arc<Self>) -> News {
        loop {
            self.news.notified().await;
            let partitions = std::mem::take(&mut self.state.lock().partitions);
            if !partitions.is_empty() {
                return News { line: self.clone(), partitions };
            }
        }
    }
}

impl News {
    /// A partition that may hold something.
    pub(crate) fn first(&self) -> Option<Partition> {
        self.partitions.first().copied()
    }

    /// Nothing is left to take in this partition.
    pub(crate) fn is_empty_now(&mut self, p: Partition) {
        self.partitions.remove(&p);
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.partitions.iter().for_each(|p| self.line.tell(*p));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt;
    use lovage_core::{Millis, NewTask, Spec, TaskId, TaskKey};

    use super::*;

    const P: Partition = Partition(3);

    fn row(task: &str) -> FeedRow {
        let spec = Spec { task: Some(task.into()), ..Spec::default() };
        let head = NewTask::first_head(&spec.lane(Ns::DEFAULT, 4), 4, None, None, Millis(1));
        FeedRow { key: TaskKey::new(Ns::DEFAULT, TaskId::parse("t").unwrap()), head: Some(head) }
    }

    #[test]
    fn news_go_to_the_line_of_the_worker() {
        let desk = Desk::default();
        let (a, b) = (desk.enter(Ns::DEFAULT, "a"), desk.enter(Ns::DEFAULT, "b"));
        let elsewhere = desk.enter(Ns(7), "a");
        // Nobody knows yet whose it is: each worker of the namespace looks.
        desk.note(P, &row("x"));
        for line in [&a, &b] {
            line.news().now_or_never().unwrap().is_empty_now(P);
        }
        assert!(elsewhere.news().now_or_never().is_none());
        let of_b = || [(row("x").head.unwrap().lane, Some("b".into()))].into_iter();
        desk.learn(desk.edition(), of_b());
        desk.note(P, &row("x"));
        assert!(a.news().now_or_never().is_none());
        b.news().now_or_never().unwrap().is_empty_now(P);
        // A route that was found before the workers changed is not believed.
        let before = desk.edition();
        desk.rerouted([P].into_iter());
        desk.learn(before, of_b());
        a.news().now_or_never().unwrap().is_empty_now(P);
        desk.note(P, &row("x"));
        assert!(a.news().now_or_never().is_some());
    }

    #[test]
    fn what_was_not_looked_at_goes_to_the_next_one() {
        let desk = Desk::default();
        let line = desk.enter(Ns::DEFAULT, "a");
        desk.note(P, &row("x"));
        let news = line.news().now_or_never().unwrap();
        assert_eq!(news.first(), Some(P));
        assert!(line.news().now_or_never().is_none());
        drop(news);
        line.news().now_or_never().unwrap().is_empty_now(P);
        assert!(line.news().now_or_never().is_none());
        // A task that cannot be taken is no news.
        let mut held = row("x");
        held.head.as_mut().unwrap().flags = Flags::HELD;
        desk.note(P, &held);
        assert!(line.news().now_or_never().is_none());
    }

    #[test]
    fn a_line_is_gone_with_its_last_request() {
        let desk = Desk::default();
        let (one, two) = (desk.enter(Ns::DEFAULT, "a"), desk.enter(Ns::DEFAULT, "a"));
        assert!(Arc::ptr_eq(&one, &two));
        desk.leave(&one);
        assert!(Arc::ptr_eq(&one, &desk.enter(Ns::DEFAULT, "a")));
        desk.leave(&one);
        desk.leave(&two);
        assert!(desk.0.lock().lines.is_empty());
    }
}
