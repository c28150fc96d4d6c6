//! Wakes requests that wait for a task, from the store's feed. Nothing polls.
//!
//! Each partition has one reader. It sleeps while nobody waits, so that a gateway without waiters reads no feed. A waiter
//! is entered first; then the reader takes the end of the feed and says that it is live; only then the waiter looks at
//! the task. So a change is either seen by that look or comes through the feed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use lovage_core::problem::{Code, Problem};
use lovage_core::{Partition, TaskKey};
use lovage_store::{FeedBatch, FeedPos, Store};
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How long one read of the feed waits; it bounds only how soon an idle reader goes to sleep.
const READ_WAIT: Duration = Duration::from_secs(5);
/// Between two tries while the store does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// All waiters of a gateway.
pub(crate) struct FeedHub {
    shards: Vec<Shard>,
    count: AtomicUsize,
    limit: usize,
}

struct Shard {
    state: Mutex<ShardState>,
    start: Notify,
    live: watch::Sender<bool>,
}

#[derive(Default)]
struct ShardState {
    waiters: AHashMap<TaskKey, Vec<Arc<Notify>>>,
}

/// A place in the hub; leaves it when dropped.
pub(crate) struct Waiter {
    hub: Arc<FeedHub>,
    shard: usize,
    key: TaskKey,
    notify: Arc<Notify>,
}

impl FeedHub {
    pub(crate) fn new(partitions: u16, limit: usize) -> Self {
        let shard = || Shard { state: Mutex::default(), start: Notify::new(), live: watch::Sender::new(false) };
        Self { shards: (0..partitions).map(|_| shard()).collect(), count: AtomicUsize::new(0), limit }
    }

    /// Enters a waiter for this task.
    pub(crate) fn subscribe(self: &Arc<Self>, key: &TaskKey) -> Result<Waiter, Problem> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.count.fetch_sub(1, Ordering::Relaxed);
            counter!("lovage_waiters_refused_total").increment(1);
            return Err(Problem::new(Code::Overloaded, "too many requests wait for tasks; ask again without `wait`"));
        }
        gauge!("lovage_waiters").increment(1.0);
        let shard = usize::from(key.slot().partition(self.shards.len() as u16).0);
        let notify = Arc::new(Notify::new());
        self.shards[shard].state.lock().waiters.entry(key.clone()).or_default().push(notify.clone());
        self.shards[shard].start.notify_one();
        Ok(Waiter { hub: self.clone(), shard, key: key.clone(), notify })
    }

    /// Reads the feed of one partition for ever.
    pub(crate) async fn read(self: Arc<Self>, store: Arc<dyn Store>, p: Partition) {
        let shard = &self.shards[usize::from(p.0)];
        loop {
            if shard.state.lock().waiters.is_empty() {
                shard.start.notified().await;
                continue;
            }
            match store.tail(p).await {
                Ok(at) => {
                    shard.live.send_replace(true);
                    self.follow(&*store, p, at).await;
                }
                Err(error) => {
                    error.log("read the end of the feed");
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
                    let rows = entries.iter().flat_map(|entry| &entry.rows);
                    let ended = rows.filter(|row| row.head.as_ref().is_none_or(|head| head.state.is_final()));
                    let state = shard.state.lock();
                    ended.filter_map(|row| state.waiters.get(&row.key)).flatten().for_each(|waiter| waiter.notify_one());
                }
                Ok(FeedBatch::Behind { tail }) => {
                    at = tail;
                    counter!("lovage_feed_behind_total").increment(1);
                    let state = shard.state.lock();
                    state.waiters.values().flatten().for_each(|waiter| waiter.notify_one());
                }
                Err(error) => {
                    error.log("read the feed");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            // Under the lock: whoever enters after this finds the reader asleep and waits for the next life.
            let state = shard.state.lock();
            if state.waiters.is_empty() {
                shard.live.send_replace(false);
                return;
            }
        }
    }
}

impl Waiter {
    /// Waits until changes are sure to be noticed, or `until`.
    pub(crate) async fn live(&self, until: Instant) {
        let mut live = self.hub.shards[self.shard].live.subscribe();
        // The sender lives as long as the hub; a time-out only means that the state is looked at as it is.
        let _ = tokio::time::timeout_at(until, live.wait_for(|live| *live)).await;
    }

    /// Waits until the task may have become final since the last call.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.hub.shards[self.shard].state.lock();
        if let Some(waiters) = state.waiters.get_mut(&self.key) {
            waiters.retain(|waiter| !Arc::ptr_eq(waiter, &self.notify));
            if waiters.is_empty() {
                state.waiters.remove(&self.key);
            }
        }
        drop(state);
        self.hub.count.fetch_sub(1, Ordering::Relaxed);
        gauge!("lovage_waiters").decrement(1.0);
    }
}
