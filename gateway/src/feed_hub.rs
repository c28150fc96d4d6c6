//! Wakes requests that wait for changes, from the store's feed. Nothing polls.
//!
//! Each partition has one reader. It sleeps while nobody waits, so that a gateway without waiters reads no feed. A waiter
//! is entered first; then the reader takes the end of the feed and says that it is live; only then the waiter looks at
//! the task. So a change is either seen by that look or comes through the feed.
//!
//! A waiter is told that something changed, not what: it looks when it is ready to, and then sees the newest state. So
//! one that is slow has no queue that grows.

use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use lovage_core::problem::Problem;
use lovage_core::{Ns, Partition, TaskKey};
use lovage_store::{FeedBatch, FeedPos, FeedRow, Store};
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::lease_desk::{Desk, Line};
use crate::places::{Place, Places};

/// How long one read of the feed waits; it bounds only how soon an idle reader goes to sleep.
const READ_WAIT: Duration = Duration::from_secs(5);
/// Between two tries while the store does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// All waiters of a gateway.
pub(crate) struct FeedHub {
    shards: Vec<Shard>,
    waiting: Arc<Places>,
    streams: Arc<Places>,
    /// Those who wait for tasks to take.
    pub desk: Desk,
}

struct Shard {
    state: Mutex<ShardState>,
    start: Notify,
    live: watch::Sender<bool>,
}

#[derive(Default)]
struct ShardState {
    waiters: AHashMap<TaskKey, Vec<Entry>>,
    /// Requests that wait for tasks to take, from any partition.
    pollers: usize,
}

struct Entry {
    notify: Arc<Notify>,
    wish: Wish,
}

/// What a waiter wants to be told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// That the task may be final.
    End,
    /// That the task may have changed, or that changes may have been missed.
    Change,
}

/// A place in the hub; leaves it when dropped.
pub(crate) struct Waiter {
    hub: Arc<FeedHub>,
    shard: usize,
    key: TaskKey,
    notify: Arc<Notify>,
    _place: Place,
}

/// A request that waits for tasks to take; leaves the hub when dropped.
pub(crate) struct Poller {
    hub: Arc<FeedHub>,
    pub line: Arc<Line>,
    _place: Place,
}

impl ShardState {
    fn is_idle(&self) -> bool {
        self.waiters.is_empty() && self.pollers == 0
    }

    fn tell_all(&self, fits: impl Fn(Wish) -> bool) {
        self.waiters.values().flatten().filter(|entry| fits(entry.wish)).for_each(|entry| entry.notify.notify_one());
    }

    fn tell(&self, row: &FeedRow) {
        let Some(entries) = self.waiters.get(&row.key) else { return };
        let over = row.head.as_ref().is_none_or(|head| head.state.is_final());
        entries.iter().filter(|entry| over || entry.wish == Wish::Change).for_each(|entry| entry.notify.notify_one());
    }
}

impl FeedHub {
    pub(crate) fn new(partitions: u16, waiters: usize, streams: usize) -> Self {
        let shard = || Shard { state: Mutex::default(), start: Notify::new(), live: watch::Sender::new(false) };
        Self {
            shards: (0..partitions).map(|_| shard()).collect(),
            waiting: Places::of_waiters(waiters),
            streams: Places::of_streams(streams),
            desk: Desk::default(),
        }
    }

    /// Enters a request that waits for the end of this task, which lives in this partition.
    pub(crate) fn subscribe(self: &Arc<Self>, key: &TaskKey, p: Partition) -> Result<Waiter, Problem> {
        Ok(self.enter(key, p, Wish::End, self.waiting.take()?))
    }

    /// Enters a stream of the changes of this task, which lives in this partition.
    pub(crate) fn follow_task(self: &Arc<Self>, key: &TaskKey, p: Partition) -> Result<Waiter, Problem> {
        Ok(self.enter(key, p, Wish::Change, self.streams.take()?))
    }

    fn enter(self: &Arc<Self>, key: &TaskKey, p: Partition, wish: Wish, place: Place) -> Waiter {
        let shard = usize::from(p.0);
        let notify = Arc::new(Notify::new());
        let entry = Entry { notify: notify.clone(), wish };
        self.shards[shard].state.lock().waiters.entry(key.clone()).or_default().push(entry);
        self.shards[shard].start.notify_one();
        Waiter { hub: self.clone(), shard, key: key.clone(), notify, _place: place }
    }

    /// Enters a request that waits for tasks of this worker, in any partition.
    pub(crate) fn poll(self: &Arc<Self>, ns: Ns, worker: &str) -> Result<Poller, Problem> {
        let place = self.waiting.take()?;
        for shard in &self.shards {
            shard.state.lock().pollers += 1;
            shard.start.notify_one();
        }
        Ok(Poller { hub: self.clone(), line: self.desk.enter(ns, worker), _place: place })
    }

    /// Reads the feed of one partition for ever.
    pub(crate) async fn read(self: Arc<Self>, store: Arc<dyn Store>, p: Partition) {
        let shard = &self.shards[usize::from(p.0)];
        loop {
            if shard.state.lock().is_idle() {
                shard.start.notified().await;
                continue;
            }
            match store.tail(p).await {
                Ok(at) => {
                    shard.live.send_replace(true);
                    // A stream that did not wait for this may have looked before it.
                    shard.state.lock().tell_all(|wish| wish == Wish::Change);
                    self.follow(&*store, p, at).await;
                }
                Err(error) => {
                    error.log("read the end of the feed");
                    shard.state.lock().tell_all(|wish| wish == Wish::Change);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Reads on from `at` until nobody waits any more.
    async fn follow(&self, store: &dyn Store, p: Partition, mut at: FeedPos) {
        let shard = &self.shards[usize::from(p.0)];
        loop {
            match store.feed(p, at, READ_WAIT).await {
                Ok(FeedBatch::Entries { entries, next }) => {
                    at = next;
                    let state = shard.state.lock();
                    for row in entries.iter().flat_map(|entry| &entry.rows) {
                        state.tell(row);
                        if state.pollers > 0 {
                            self.desk.note(p, row);
                        }
                    }
                }
                Ok(FeedBatch::Behind { tail }) => {
                    at = tail;
                    counter!("lovage_feed_behind_total").increment(1);
                    shard.state.lock().tell_all(|_| true);
                    self.desk.look_at(p);
                }
                Err(error) => {
                    error.log("read the feed");
                    // Streams look, find the store away as well, and end: their clients are not left with an old state.
                    shard.state.lock().tell_all(|wish| wish == Wish::Change);
                    tokio::time::sleep(PAUSE).await;
                }
            }
            // Under the lock: whoever enters after this finds the reader asleep and waits for the next life.
            let state = shard.state.lock();
            if state.is_idle() {
                shard.live.send_replace(false);
                return;
            }
        }
    }

    /// Waits until the changes of a partition are sure to be noticed, or `until`; whether they are.
    async fn live(&self, shard: usize, until: Instant) -> bool {
        let mut live = self.shards[shard].live.subscribe();
        // The sender lives as long as the hub.
        tokio::time::timeout_at(until, live.wait_for(|live| *live)).await.is_ok()
    }
}

impl Waiter {
    /// Waits until changes are sure to be noticed, or `until`: then the state is looked at as it is.
    pub(crate) async fn live(&self, until: Instant) {
        self.hub.live(self.shard, until).await;
    }

    /// Waits until the task may have changed, or become final, since the last call.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Poller {
    /// Waits until the changes of all partitions are sure to be noticed, or `until`; whether they are.
    pub(crate) async fn live(&self, until: Instant) -> bool {
        for shard in 0..self.hub.shards.len() {
            if !self.hub.live(shard, until).await {
                return false;
            }
        }
        true
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.hub.shards[self.shard].state.lock();
        if let Some(waiters) = state.waiters.get_mut(&self.key) {
            waiters.retain(|entry| !Arc::ptr_eq(&entry.notify, &self.notify));
            if waiters.is_empty() {
                state.waiters.remove(&self.key);
            }
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.hub.desk.leave(&self.line);
        for shard in &self.hub.shards {
            shard.state.lock().pollers -= 1;
        }
    }
}
