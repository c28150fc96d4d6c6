//! The port through which those who show tasks learn how a worker is doing right now.
//!
//! Only a dispatcher knows, and what it knows is its own: another process may see the same worker in another state. So this
//! explains what is seen and decides nothing.

use crate::id::Ns;
use crate::time::Millis;

/// Whether a worker is left alone because its endpoint fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// It is called.
    Closed,
    /// It is not called.
    Open,
    /// The next attempt decides.
    HalfOpen,
}

impl BreakerState {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// How a worker, or an origin of bare URLs, is doing in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Instances that can be called.
    pub instances: u32,
    /// Requests that are open.
    pub open: u32,
    /// Requests that may be open at once.
    pub slots: u32,
    /// Whether it is left alone because its endpoint fails.
    pub breaker: BreakerState,
    /// Until when nothing is sent to it: its breaker is open, or it asked to be left alone.
    pub paused_until: Option<Millis>,
}

impl Standing {
    /// Until when nothing is sent to it, and why: `breaker` or `throttled`.
    pub fn pause(&self) -> Option<(Millis, &'static str)> {
        let why = if self.breaker == BreakerState::Open { "breaker" } else { "throttled" };
        self.paused_until.map(|until| (until, why))
    }
}

/// Who knows how workers are doing.
pub trait Standings: Send + Sync {
    /// The worker with this name; `None`: not known, or nobody calls it.
    fn worker(&self, ns: Ns, name: &str, now: Millis) -> Option<Standing>;

    /// The origin (`https://host:port`) of bare URLs; `None`: nothing was sent there lately.
    fn origin(&self, ns: Ns, origin: &str, now: Millis) -> Option<Standing>;
}
