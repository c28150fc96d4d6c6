//! How a worker is doing now, as the dispatchers see it together. It is no part of its document.

use lovage_core::Millis;
use lovage_core::board::WorkerBoard;
use lovage_core::worker::WorkerConfig;
use serde::Serialize;

use crate::boards::rounded;

#[derive(Serialize)]
pub(super) struct Live {
    open: u32,
    slots: u32,
    breaker: &'static str,
    effective_rate: Option<f64>,
    out_rate: f64,
}

impl Live {
    pub(super) fn new(board: &WorkerBoard) -> Self {
        let standing = board.standing();
        Self {
            open: standing.open,
            slots: standing.slots,
            breaker: standing.breaker.as_str(),
            effective_rate: standing.effective_rate.map(rounded),
            out_rate: rounded(board.out_rate),
        }
    }
}

/// Whether it gets tasks, as somebody wants it to: `active`, `paused`, `draining`, `drained`.
pub(super) fn state(config: &WorkerConfig, board: Option<&WorkerBoard>, now: Millis) -> &'static str {
    match config.paused(now) {
        None => "active",
        Some(pause) if !pause.drain => "paused",
        Some(_) if board.is_some_and(|board| board.standing().open > 0) => "draining",
        Some(_) => "drained",
    }
}

/// Until when nothing is sent to it, and why: somebody paused it, its breaker is open, or it asked for that.
pub(super) fn pause(config: &WorkerConfig, board: Option<&WorkerBoard>, now: Millis) -> (Option<Millis>, Option<&'static str>) {
    match config.paused(now) {
        Some(pause) => (pause.until, Some(if pause.drain { "draining" } else { "paused" })),
        None => board.and_then(|board| board.standing().pause()).unzip(),
    }
}
