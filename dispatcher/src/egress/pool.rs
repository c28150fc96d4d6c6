//! Kept connections, ready for the next push.
//!
//! The key holds the pinned address: when a name moves, connections to the old address are never used again.
//! Reuse takes the youngest connection first, so that the others can age out. They are kept for a shorter time
//! than servers usually keep theirs, because a push that meets a closing connection has an unknown outcome.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::conn::Conn;
use super::metrics::EgressMetrics;
use super::target::Origin;

/// What a connection may be reused for: the same origin at the same address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) origin: Arc<Origin>,
    pub(crate) address: SocketAddr,
}

/// Limits of the pool.
#[derive(Debug, Clone)]
pub(crate) struct PoolLimits {
    pub(crate) idle: Duration,
    pub(crate) per_key: usize,
    pub(crate) total: usize,
}

/// The kept connections of one transport.
pub(crate) struct Pool {
    limits: PoolLimits,
    metrics: Arc<EgressMetrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: AHashMap<PoolKey, Vec<Idle>>,
    total: usize,
    sweeping: bool,
}

struct Idle {
    conn: Conn,
    until: Instant,
}

impl Pool {
    pub(crate) fn new(limits: PoolLimits, metrics: Arc<EgressMetrics>) -> Arc<Self> {
        Arc::new(Self { limits, metrics, state: Mutex::default() })
    }

    /// The longest time a connection is kept.
    pub(crate) fn idle_time(&self) -> Duration {
        self.limits.idle
    }

    /// The youngest connection that is fit for use. Aged ones met on the way are dropped, and those that the peer closed or
    /// spoiled.
    pub(crate) fn take(&self, key: &PoolKey) -> Option<Conn> {
        let mut state = self.state.lock();
        let list = state.idle.get_mut(key)?;
        let mut removed = 0;
        let mut found = None;
        while let Some(mut candidate) = list.pop() {
            removed += 1;
            if candidate.until > Instant::now() && candidate.conn.is_quiet() {
                found = Some(candidate.conn);
                break;
            }
        }
        self.shrink(&mut state, removed);
        found
    }

    /// Keeps a connection whose last exchange went well, for at most `keep`.
    pub(crate) fn put(self: &Arc<Self>, key: PoolKey, conn: Conn, keep: Duration) {
        if keep.is_zero() {
            return;
        }
        let until = Instant::now() + keep.min(self.limits.idle);
        let mut state = self.state.lock();
        if state.total >= self.limits.total {
            return;
        }
        let idle = Idle { conn, until };
        match state.idle.get_mut(&key) {
            Some(list) if list.len() >= self.limits.per_key => return,
            Some(list) => list.push(idle),
            None => {
                state.idle.insert(key, vec![idle]);
            }
        }
        state.total += 1;
        self.metrics.idle.increment(1.0);
        if !state.sweeping {
            state.sweeping = true;
            tokio::spawn(sweep_until_empty(Sweeping { pool: Arc::downgrade(self), over: false }, self.sweep_interval()));
        }
    }

    /// How many connections are kept.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().total
    }

    fn shrink(&self, state: &mut State, removed: usize) {
        if removed > 0 {
            state.total -= removed;
            self.metrics.idle.decrement(removed as f64);
        }
    }

    fn sweep_interval(&self) -> Duration {
        (self.limits.idle / 4).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// Drops what is closed or aged. Returns whether nothing is left; the flag is lowered under the same lock, so
    /// that the next connection starts a new sweep.
    fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let mut removed = 0;
        state.idle.retain(|_, list| {
            let before = list.len();
            list.retain_mut(|idle| idle.until > now && idle.conn.is_quiet());
            removed += before - list.len();
            !list.is_empty()
        });
        self.shrink(&mut state, removed);
        let empty = state.total == 0;
        if empty {
            state.sweeping = false;
        }
        empty
    }
}

/// The right to sweep. If the runtime drops the task half-way, the flag is lowered all the same.
struct Sweeping {
    pool: Weak<Pool>,
    over: bool,
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        if !self.over
            && let Some(pool) = self.pool.upgrade()
        {
            pool.state.lock().sweeping = false;
        }
    }
}

/// Runs only while there is something to sweep, and does not keep the pool alive.
async fn sweep_until_empty(mut sweeping: Sweeping, interval: Duration) {
    while !sweeping.over {
        tokio::time::sleep(interval).await;
        sweeping.over = sweeping.pool.upgrade().is_none_or(|pool| pool.sweep());
    }
}
