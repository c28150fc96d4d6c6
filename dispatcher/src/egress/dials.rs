//! How many connections to one origin are opened at the same time.
//!
//! A listening socket keeps a short queue of connections that its program has not accepted yet (5 in Python's `http.server`,
//! 128 in much else). The kernel drops what comes beyond it, and a dropped connect is repeated after a second: so a burst of
//! pushes without this bound left some of them waiting for a second while the others were long done. Because a connection is
//! open before the program accepts it, its turn lasts a moment longer.

use std::sync::{Arc, Weak};
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::fault::{FaultKind, PushFault};
use super::target::Origin;

/// How long a new connection is given to be accepted.
const ACCEPT: Duration = Duration::from_millis(1);

/// Who may connect now, by origin.
pub(crate) struct Dials {
    per_origin: usize,
    origins: Mutex<AHashMap<Arc<Origin>, Weak<Semaphore>>>,
}

/// The right to open one connection, until dropped.
pub(crate) struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    /// Others were first: one of them may have left a connection meanwhile.
    pub(crate) waited: bool,
}

impl Turn {
    /// The connection is open: the next turn comes when it had time to be accepted.
    pub(crate) fn opened(self) {
        if let Some(permit) = self.permit {
            tokio::spawn(async move {
                tokio::time::sleep(ACCEPT).await;
                drop(permit);
            });
        }
    }
}

impl Dials {
    pub(crate) fn new(per_origin: usize) -> Self {
        Self { per_origin: per_origin.max(1), origins: Mutex::default() }
    }

    /// Waits for a turn, in the order of arrival, until `by`.
    pub(crate) async fn turn(&self, origin: &Arc<Origin>, by: Instant) -> Result<Turn, PushFault> {
        let turns = self.turns(origin);
        if let Ok(permit) = Arc::clone(&turns).try_acquire_owned() {
            return Ok(Turn { permit: Some(permit), waited: false });
        }
        let late = |_| PushFault::explained(FaultKind::ConnectTimeout, "too many connections to it were being opened");
        let permit = timeout_at(by, turns.acquire_owned()).await.map_err(late)?;
        // Nobody closes it, so there always is a permit.
        Ok(Turn { permit: permit.ok(), waited: true })
    }

    fn turns(&self, origin: &Arc<Origin>) -> Arc<Semaphore> {
        let mut origins = self.origins.lock();
        if let Some(turns) = origins.get(origin).and_then(Weak::upgrade) {
            return turns;
        }
        // Only origins that are being connected to are remembered.
        origins.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(self.per_origin));
        origins.insert(Arc::clone(origin), Arc::downgrade(&turns));
        turns
    }
}
