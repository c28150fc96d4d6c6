//! Tells by metrics how much room the store and its tasks take.

use std::sync::Arc;
use std::time::Duration;

use lovage_store::Footprint;
use lovage_store::moving::Inside;

/// Looks from time to time, for ever.
pub(crate) async fn watch(store: Arc<dyn Inside>, every: Duration) {
    let mut ticks = tokio::time::interval(every.max(Duration::from_secs(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match store.footprint().await {
            Ok(footprint) => show(&footprint),
            // The next look may succeed; that the store is away others tell.
            Err(error) => error.log("weigh the store"),
        }
    }
}

fn show(footprint: &Footprint) {
    metrics::gauge!("lovage_store_bytes").set(footprint.bytes as f64);
    for (state, bytes) in &footprint.tasks {
        metrics::gauge!("lovage_store_task_bytes", "state" => state.as_str()).set(*bytes);
    }
}
