//! The turn of one instance: drained, idle, asked to start anew, used again.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::board::Board;
use lovage_core::instance::{Mark, Recycling, Turn};
use lovage_core::{Millis, Ns};
use metrics::counter;
use tokio::time::sleep;

use super::{boards, edit, seen};
use crate::owner::Shared;
use crate::registry::{Instance, Worker};

/// How often boards are looked at while requests are open.
const LOOK: Duration = Duration::from_millis(200);
/// The first pause before the control URL is asked again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What became of a turn.
enum End {
    /// It has started anew at this time, or is about to.
    Anew(Millis),
    /// It is gone.
    Gone,
    /// It did not answer in time.
    Silent,
}

/// Sees to it until it has ended.
pub(super) async fn run(shared: Arc<Shared>, ns: Ns, worker: Arc<str>, turn: Turn) {
    let end = end_of(&shared, ns, &worker, &turn).await;
    let (instance, reason) = (&*turn.instance, turn.reason.as_str());
    let now = shared.store.clock().now();
    let (outcome, mark) = match end {
        End::Anew(at) => {
            tracing::info!(worker = &*worker, instance, reason, "an instance starts anew");
            ("anew", Mark { born: at, rest: Millis(0) })
        }
        End::Gone => ("gone", Mark { born: now, rest: Millis(0) }),
        End::Silent => {
            tracing::error!(worker = &*worker, instance, reason, "an instance could not be started anew; it is used again");
            ("silent", Mark { born: Millis(0), rest: now.after(shared.options.recycle_wait) })
        }
    };
    counter!("lovage_instances_recycled_total", "outcome" => outcome).increment(1);
    loop {
        let ended = |state: &mut Recycling| {
            let same = state.turn.as_ref().is_some_and(|stored| stored.since == turn.since && stored.instance == turn.instance);
            if same {
                state.end(mark);
            }
            same
        };
        match edit(&shared, ns, &worker, ended).await {
            Ok(true) => break,
            Ok(false) => {
                // Somebody changed it meanwhile, or removed the worker with all that is about it.
                let stored = shared.registry.named(ns, &worker).and_then(|worker| worker.recycling.turn.clone());
                if stored.is_none_or(|stored| stored.since != turn.since) {
                    break;
                }
            }
            Err(error) => error.log("end the turn of an instance"),
        }
        sleep(LOOK).await;
    }
}

async fn end_of(shared: &Shared, ns: Ns, name: &str, turn: &Turn) -> End {
    let (mut pause, mut asked) = (PAUSES.0, None);
    loop {
        let now = shared.store.clock().now();
        let Some(worker) = shared.registry.named(ns, name) else { return End::Gone };
        let Some(instance) = worker.live_instances(now).find(|instance| *instance.name == *turn.instance) else {
            return End::Gone;
        };
        if instance.since > turn.since {
            return End::Anew(instance.since);
        }
        if now.since(turn.since) >= shared.options.recycle_wait {
            return End::Silent;
        }
        if is_idle(shared, ns, &worker, instance, turn).await && asked.is_none_or(|at: Millis| at <= now) {
            if shared.control.recycle(&shared.registry, &worker, instance, turn, now).await {
                return End::Anew(shared.store.clock().now());
            }
            asked = Some(shared.store.clock().now().after(pause));
            pause = (pause * 2).min(PAUSES.1);
        }
        sleep(LOOK).await;
    }
}

/// Whether nobody has a request open there, and all know that they must not open one.
async fn is_idle(shared: &Shared, ns: Ns, worker: &Worker, instance: &Instance, turn: &Turn) -> bool {
    // Drained first: what is taken from then on is given back.
    if instance.state.drained() != turn.since || instance.state.slots.open() > 0 {
        return false;
    }
    let idle = |board: &Board| match seen(board, ns, &worker.name, &turn.instance) {
        Some(seen) => seen.drained == turn.since && seen.open == 0,
        // One that has never heard of it calls it not; of one that shows only a part it is not known.
        None => !board.cut,
    };
    match boards(shared).await {
        Ok(boards) => boards.iter().all(idle),
        Err(error) => {
            error.log("read the boards");
            false
        }
    }
}
