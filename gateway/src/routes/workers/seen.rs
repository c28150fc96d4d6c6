//! What the dispatchers see of the instances of a worker now. It is no part of any document.

use lovage_core::Millis;
use lovage_core::board::{InstanceBoard, WorkerBoard};
use lovage_core::worker::WorkerConfig;
use serde::Serialize;

/// Instances that one answer shows.
const SHOWN: usize = 200;

#[derive(Serialize)]
pub(super) struct SeenInstance {
    id: String,
    url: String,
    #[serde(flatten)]
    status: Status,
}

#[derive(Serialize)]
pub(super) struct Status {
    state: &'static str,
    open: u32,
    slots: u32,
    health: Option<Probed>,
    counters: Option<Counted>,
    unreachable_until: Option<String>,
    recycling_since: Option<String>,
}

#[derive(Serialize)]
struct Probed {
    failures: u8,
    checked_at: Option<String>,
}

#[derive(Serialize)]
struct Counted {
    since: Option<String>,
    tasks: u64,
    errors: u64,
    memory: Option<u64>,
}

fn time(at: Millis) -> Option<String> {
    (at.0 != 0).then(|| at.rfc3339())
}

impl Status {
    fn new(seen: &InstanceBoard, config: &WorkerConfig) -> Self {
        let state = match (seen.drained.0 != 0, seen.healthy) {
            (true, _) => "recycling",
            (false, false) => "unhealthy",
            (false, true) if seen.unreachable.0 != 0 => "unreachable",
            (false, true) => "ready",
        };
        let probed = Probed { failures: seen.failures, checked_at: time(seen.probed) };
        let counts = &seen.counts;
        let memory = Some(counts.memory).filter(|memory| *memory != 0);
        let counted = Counted { since: time(seen.since), tasks: counts.tasks, errors: counts.errors, memory };
        Self {
            state,
            open: seen.open,
            slots: seen.slots,
            health: config.health.is_some().then_some(probed),
            counters: config.recycle.is_some().then_some(counted),
            unreachable_until: time(seen.unreachable),
            recycling_since: time(seen.drained),
        }
    }
}

/// All instances of a worker as the dispatchers see them.
pub(super) fn all(board: &WorkerBoard, config: &WorkerConfig) -> Vec<SeenInstance> {
    let shown = |seen: &InstanceBoard| SeenInstance {
        id: seen.name().to_owned(),
        url: seen.url.clone(),
        status: Status::new(seen, config),
    };
    board.instances.iter().take(SHOWN).map(shown).collect()
}

/// One of them, by its name.
pub(super) fn one(board: Option<&WorkerBoard>, instance: &str, config: &WorkerConfig) -> Option<Status> {
    board?.instances.iter().find(|seen| seen.name() == instance).map(|seen| Status::new(seen, config))
}
