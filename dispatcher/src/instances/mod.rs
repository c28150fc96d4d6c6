//! What a dispatcher knows and does about the instances of workers beside calling them.

mod errands;
mod health;
mod recycle;
mod state;

use std::sync::Arc;

use lovage_core::Outcome;
use tokio_util::sync::CancellationToken;

pub use state::InstanceState;

use crate::egress::Pushed;
use crate::owner::Shared;
use crate::registry::Worker;

/// Looks after instances until `stop`.
pub(crate) async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    tokio::join!(
        health::watch(Arc::clone(&shared), stop.clone()),
        recycle::watch(Arc::clone(&shared), stop.clone()),
        errands::watch(shared, stop)
    );
}

/// The header in which an instance says how much memory it has.
const MEMORY: &str = "lovage-memory-rss";

/// The memory in bytes that an answer tells of.
pub(crate) fn memory(pushed: &Pushed) -> Option<u64> {
    let told = pushed.outcome.as_ref().ok()?.headers.get(MEMORY)?;
    told.to_str().ok()?.trim().parse::<lovage_core::units::Size>().ok().map(|size| size.0)
}

/// Counts what an instance answered.
pub(crate) fn count<'a, S: 'a>(
    worker: &Worker,
    instance: &str,
    outcomes: impl IntoIterator<Item = &'a Outcome<S>>,
    memory: Option<u64>,
) {
    if worker.config.recycle.is_none() {
        return;
    }
    let Some(instance) = worker.instance(instance) else { return };
    let (mut tasks, mut errors) = (0, 0);
    for outcome in outcomes {
        tasks += 1;
        errors += u64::from(is_error(outcome));
    }
    instance.state.count(tasks, errors, memory);
}

/// Whether an attempt failed; "not now" and "later" are no failures.
fn is_error<S>(outcome: &Outcome<S>) -> bool {
    match outcome {
        Outcome::Retry { .. } | Outcome::TimedOut { .. } | Outcome::Endpoint { .. } | Outcome::Permanent { .. } => true,
        Outcome::Success { .. }
        | Outcome::Accepted { .. }
        | Outcome::Throttled { .. }
        | Outcome::Snooze { .. }
        | Outcome::Cancel
        | Outcome::Spawn { .. }
        | Outcome::Replace { .. } => false,
    }
}
