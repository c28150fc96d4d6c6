//! The board of this process: how its workers are doing, for the gateways of all processes to show.
//!
//! It is published every second if something changed, else often enough that it does not vanish. Nobody depends on it: if the store
//! is away it is simply missing.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::Millis;
use lovage_core::board::{Board, WorkerBoard};
use lovage_store::MAX_BOARD;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::owner::Shared;
use crate::registry::Registry;
use crate::standing::board;

const EVERY: Duration = Duration::from_secs(1);
/// A board that says the same is shown again after this: before the old one vanishes.
const AGAIN: Duration = Duration::from_secs(3);
/// The longest that one call of the store may take.
const LIMIT: Duration = Duration::from_secs(2);
/// More workers than fit are not even looked at in detail.
const MOST_WORKERS: usize = 2_000;

/// Shows the board until `stop`, then takes it away.
pub(crate) async fn publish(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<(Board, Instant)> = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        let now = shared.store.clock().now();
        let board = Board { at: Millis(0), ..of(&shared, now) };
        if last.as_ref().is_some_and(|(same, at)| *same == board && at.elapsed() < AGAIN) {
            continue;
        }
        let bytes = Board { at: now, ..board.clone() }.encode(MAX_BOARD).into();
        let shown = timeout(LIMIT, shared.store.publish(shared.session, Some(bytes))).await;
        last = matches!(shown, Ok(Ok(()))).then(|| (board, Instant::now()));
        if last.is_none() {
            tracing::debug!("the board of this process could not be shown");
        }
    }
    // If the store is away it vanishes by itself.
    let _ = timeout(LIMIT, shared.store.publish(shared.session, None)).await;
}

fn of(shared: &Shared, now: Millis) -> Board {
    let most = shared.options.max_in_flight.min(tokio::sync::Semaphore::MAX_PERMITS);
    let open = most.saturating_sub(shared.room.available_permits()) as u64;
    let (workers, cut) = workers(&shared.registry, now);
    Board { node: shared.session.0, at: now, open, workers, queues: shared.queues.board(now), cut }
}

/// The busiest first. Of those that take their tasks themselves nothing is known here.
fn workers(registry: &Registry, now: Millis) -> (Vec<WorkerBoard>, bool) {
    let mut all = registry.all();
    all.retain(|(_, worker)| !worker.config.pull);
    let cut = all.len() > MOST_WORKERS;
    if cut {
        all.sort_by_key(|(_, worker)| std::cmp::Reverse(worker.load(now).0));
        all.truncate(MOST_WORKERS);
    }
    let mut boards: Vec<_> = all.iter().map(|(ns, worker)| board(*ns, worker, now)).collect();
    let open = |worker: &WorkerBoard| worker.instances.iter().map(|i| u64::from(i.open)).sum::<u64>();
    boards.sort_by(|a, b| {
        let busy = open(b).cmp(&open(a)).then(b.out_rate.total_cmp(&a.out_rate));
        busy.then_with(|| (a.ns, &a.name).cmp(&(b.ns, &b.name)))
    });
    (boards, cut)
}
