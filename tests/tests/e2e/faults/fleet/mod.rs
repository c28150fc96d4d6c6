//! What must hold when several processes share a Redis and some of them die, halt, or are renewed.

mod by_partition;
mod failover;
mod frozen;
mod instances;
mod kills;
mod limits;
mod rolling;
mod store;

use std::time::Duration;

use lovage_tests::{Client, Fleet, FleetSetup, Lovage, eventually};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// The leases of the defaults if the demands are tested in full, else short ones.
fn leases(fleet: FleetSetup) -> FleetSetup {
    if super::is_full() { fleet } else { fleet.short_leases() }
}

/// The sum of a metric of a process over all its labels.
async fn metric(process: &Lovage, name: &str) -> f64 {
    let client: &Client = process.client();
    // A process that was halted closes the connections that it kept.
    let question = client.request(reqwest::Method::GET, "/metrics").header("connection", "close");
    let text = String::from_utf8(client.send(question).await.body.to_vec()).unwrap();
    let rows = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    rows.map(|row| row.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Waits until every dispatcher has partitions of its own.
async fn all_have_shares(fleet: &Fleet) {
    eventually("shares of all dispatchers", PATIENCE, async || {
        for dispatcher in &fleet.dispatchers {
            if metric(dispatcher, "lovage_partition_owned").await == 0.0 {
                return None;
            }
        }
        Some(())
    })
    .await;
}
