//! The port through which those who show tasks learn how a worker is doing right now.
//!
//! Only a dispatcher knows, and what it knows is its own: another process may see the same worker in another state. So this
//! explains what is seen and decides nothing.

use serde::{Deserialize, Serialize};

use crate::board::WorkerBoard;
use crate::id::Ns;
use crate::time::Millis;

/// Whether a worker is left alone because its endpoint fails, the better state first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// It is called.
    #[default]
    Closed,
    /// The next attempt decides.
    HalfOpen,
    /// It is not called.
    Open,
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

/// How a worker, or an origin of bare URLs, is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// Requests a second that it is sent at most, because it asked for less.
    pub effective_rate: Option<f64>,
}

impl Standing {
    /// Until when nothing is sent to it, and why: `breaker` or `throttled`.
    pub fn pause(&self) -> Option<(Millis, &'static str)> {
        let why = if self.breaker == BreakerState::Open { "breaker" } else { "throttled" };
        self.paused_until.map(|until| (until, why))
    }
}

/// Who knows how workers are doing: a dispatcher in this process. What others know is on their boards.
pub trait Standings: Send + Sync {
    /// The worker with this name, or the origin (`https://host:port`) of bare URLs; `None`: not known, or nobody calls it.
    fn worker(&self, ns: Ns, name: &str, origin: bool, now: Millis) -> Option<WorkerBoard>;
}
