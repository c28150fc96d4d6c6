//! How long queues with a bound are, so that no task too many is taken.
//!
//! The store counts. In between, what this gateway stores itself is added: a place is reserved before a task is stored, and what
//! became of it is told afterwards, so that tasks which come at the same moment do not pass together. Tasks that start or end are
//! noticed with the next count; a queue that seems full is counted again before anything is refused. What other gateways
//! store is noticed after [`FRESH`] at the latest. Queues without a bound are never counted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use futures_util::future::try_join_all;
use lovage_core::{Ns, Partition, State};
use lovage_store::{Result, Store};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The oldest count that anything is taken on.
const FRESH: Duration = Duration::from_millis(250);
/// The oldest count that anything is refused on.
const FULL_FRESH: Duration = Duration::from_millis(20);

type Name = (Ns, Box<str>);

/// All queues with a bound.
#[derive(Default)]
pub(crate) struct Lengths {
    inner: Mutex<Inner>,
    /// Held while counting: what waits for it finds the count done.
    counting: tokio::sync::Mutex<()>,
    /// Held while room is made, so that no more is dropped than needed.
    pub dropping: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Inner {
    /// Waiting tasks by queue, and when their count began.
    counted: AHashMap<Name, u64>,
    at: Option<Instant>,
    queues: AHashMap<Name, Own>,
}

/// What this gateway does to a queue.
#[derive(Clone, Copy, Default)]
struct Own {
    /// Places that are reserved.
    reserved: u64,
    /// Stored since the last count began.
    stored: u64,
    /// Of those, since the count began that is going on.
    since: u64,
    /// Places that requests wait for which make room.
    wanted: u64,
}

/// Reserved places. What is not given back is taken for stored.
pub(crate) struct Room {
    lengths: Arc<Lengths>,
    name: Name,
    left: u64,
}

impl Room {
    /// How many places.
    pub(crate) fn places(&self) -> u64 {
        self.left
    }

    /// These were not needed.
    pub(crate) fn give_back(&mut self, places: u64) {
        let places = places.min(self.left);
        self.left -= places;
        self.lengths.own(&self.name, |own| own.reserved -= places);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let left = self.left;
        self.lengths.own(&self.name, |own| {
            own.reserved -= left;
            own.stored += left;
            own.since += left;
        });
    }
}

/// Places that a request waits for.
pub(crate) struct Wanted {
    lengths: Arc<Lengths>,
    name: Name,
    places: u64,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.lengths.own(&self.name, |own| own.wanted -= self.places);
    }
}

impl Lengths {
    /// Reserves as many of `want` places as there are below `bound`.
    pub(crate) async fn reserve(self: &Arc<Self>, store: &dyn Store, ns: Ns, queue: &str, bound: u64, want: u64) -> Result<Room> {
        let name: Name = (ns, queue.into());
        let asked = Instant::now();
        loop {
            {
                let mut inner = self.inner.lock();
                let age = inner.at.map_or(Duration::MAX, |at| at.elapsed());
                let free = bound.saturating_sub(inner.length(&name));
                let is_fresh = age < if free >= want { FRESH } else { FULL_FRESH };
                if is_fresh || inner.at.is_some_and(|at| at >= asked) {
                    let left = free.min(want);
                    inner.queues.entry(name.clone()).or_default().reserved += left;
                    return Ok(Room { lengths: self.clone(), name, left });
                }
            }
            self.count_all(store).await?;
        }
    }

    /// Notes that a request waits for these places.
    pub(crate) fn want(self: &Arc<Self>, ns: Ns, queue: &str, places: u64) -> Wanted {
        let name: Name = (ns, queue.into());
        self.own(&name, |own| own.wanted += places);
        Wanted { lengths: self.clone(), name, places }
    }

    /// How many tasks have to go for all places that are wanted now.
    pub(crate) fn missing(&self, wanted: &Wanted, bound: u64) -> u64 {
        let inner = self.inner.lock();
        let all = inner.queues.get(&wanted.name).map_or(0, |own| own.wanted).min(bound);
        (inner.length(&wanted.name) + all).saturating_sub(bound)
    }

    /// Nothing is reserved before it is counted again.
    pub(crate) fn is_stale(&self) {
        self.inner.lock().at = None;
    }

    /// Tasks of a queue by `State as usize`, counted now.
    pub(crate) async fn counts(&self, store: &dyn Store, ns: Ns, queue: &str) -> Result<[u64; 9]> {
        let mut sums = [0; 9];
        for row in read(store).await?.iter().filter(|row| row.ns == ns && row.queue == queue) {
            sums.iter_mut().zip(row.states).for_each(|(sum, n)| *sum += n);
        }
        Ok(sums)
    }

    /// Queues with tasks that are not final, counted now.
    pub(crate) async fn in_use(&self, store: &dyn Store, ns: Ns) -> Result<BTreeSet<String>> {
        let is_open = |states: &[u64; 9]| State::ALL.iter().any(|state| !state.is_final() && states[*state as usize] > 0);
        let rows = read(store).await?.into_iter().filter(|row| row.ns == ns && is_open(&row.states));
        Ok(rows.map(|row| row.queue).collect())
    }

    async fn count_all(&self, store: &dyn Store) -> Result<()> {
        let asked = Instant::now();
        let _counting = self.counting.lock().await;
        if self.inner.lock().at.is_some_and(|at| at >= asked) {
            return Ok(());
        }
        self.inner.lock().queues.values_mut().for_each(|own| own.since = 0);
        let at = Instant::now();
        let mut counted: AHashMap<Name, u64> = AHashMap::new();
        for row in read(store).await? {
            let waiting =
                State::ALL.iter().filter(|state| state.is_waiting()).map(|state| row.states[*state as usize]).sum::<u64>();
            *counted.entry((row.ns, row.queue.into())).or_default() += waiting;
        }
        let mut inner = self.inner.lock();
        inner.counted = counted;
        inner.at = Some(at);
        inner.queues.retain(|_, own| {
            own.stored = own.since;
            own.reserved + own.stored + own.wanted > 0
        });
        Ok(())
    }

    fn own(&self, name: &Name, change: impl FnOnce(&mut Own)) {
        change(self.inner.lock().queues.entry(name.clone()).or_default());
    }
}

impl Inner {
    /// How long a queue is at most.
    fn length(&self, name: &Name) -> u64 {
        let own = self.queues.get(name).copied().unwrap_or_default();
        self.counted.get(name).copied().unwrap_or_default() + own.reserved + own.stored
    }
}

/// The counts of all partitions.
async fn read(store: &dyn Store) -> Result<Vec<lovage_store::QueueCounts>> {
    let all = (0..store.caps().partitions).map(|p| store.counts(Partition(p)));
    Ok(try_join_all(all).await?.into_iter().flatten().collect())
}
