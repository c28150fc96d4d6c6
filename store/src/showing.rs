//! Shows the board of a process to all others.
//!
//! It is published every second if something changed, else often enough that it does not vanish. Nobody depends on it: if the store
//! is away it is simply missing.

use std::time::Duration;

use lovage_core::board::Board;
use lovage_core::{Millis, SessionId};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::{MAX_BOARD, Store};

const EVERY: Duration = Duration::from_secs(1);
/// A board that says the same is shown again after this: before the old one vanishes.
const AGAIN: Duration = Duration::from_secs(3);
/// The longest that one call of the store may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Shows what `look` sees as the board of `session` until `stop`, then takes it away. `look` need not say when it was written.
pub async fn show(store: &dyn Store, session: SessionId, stop: impl Future<Output = ()>, mut look: impl FnMut(Millis) -> Board) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<(Board, Instant)> = None;
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            _ = tick.tick() => {}
        }
        let now = store.clock().now();
        let board = look(now);
        if last.as_ref().is_some_and(|(same, at)| *same == board && at.elapsed() < AGAIN) {
            continue;
        }
        let bytes = Board { node: session.0, at: now, ..board.clone() }.encode(MAX_BOARD).into();
        let shown = timeout(LIMIT, store.publish(session, Some(bytes))).await;
        last = matches!(shown, Ok(Ok(()))).then(|| (board, Instant::now()));
        if last.is_none() {
            tracing::debug!("the board of this process could not be shown");
        }
    }
    // If the store is away it vanishes by itself.
    let _ = timeout(LIMIT, store.publish(session, None)).await;
}
