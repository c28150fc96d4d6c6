//! The recorder of metrics. It is installed before anything makes a metric: handles made earlier would count for nobody.

use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// From a fast read of the store to a slow worker.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// For everything else: items of a batch.
const ITEMS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0];
/// How often recorded values are put into their buckets. In between they take memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    let builder =
        PrometheusBuilder::new().set_buckets(ITEMS)?.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?;
    builder.install_recorder().context("cannot install the recorder of metrics")
}

/// Keeps the recorder small, for ever.
pub(crate) async fn upkeep(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}
