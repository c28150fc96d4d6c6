//! The board of this process: how its workers are doing, for the gateways of all processes to show.

use std::sync::Arc;

use lovage_core::Millis;
use lovage_core::board::{Board, WorkerBoard};
use lovage_store::show;
use tokio_util::sync::CancellationToken;

use crate::owner::Shared;
use crate::registry::Registry;
use crate::standing::board;

/// More workers than fit are not even looked at in detail.
const MOST_WORKERS: usize = 2_000;

/// Shows the board until `stop`, then takes it away.
pub(crate) async fn publish(shared: Arc<Shared>, stop: CancellationToken) {
    show(&*shared.store, shared.session, stop.cancelled(), |now| of(&shared, now)).await;
}

fn of(shared: &Shared, now: Millis) -> Board {
    let most = shared.options.max_in_flight.min(tokio::sync::Semaphore::MAX_PERMITS);
    let open = most.saturating_sub(shared.room.available_permits()) as u64;
    let (workers, cut) = workers(&shared.registry, now);
    let (queues, more) = shared.store.traffic().map(|traffic| traffic.board(now)).unwrap_or_default();
    let lacks_keys = shared.limits.lacks_keys();
    Board { open: Some(open), workers, queues, lacks_keys, cut: cut || more, ..Board::default() }
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
