//! What must hold when several processes share a Redis and some of them die, halt, or are renewed.

mod frozen;
mod kills;
mod rolling;
mod store;

use lovage_tests::{Client, FleetSetup, Lovage};

/// The leases of the defaults if the demands are tested in full, else short ones.
fn leases(fleet: FleetSetup) -> FleetSetup {
    if super::is_full() { fleet } else { fleet.short_leases() }
}

/// The sum of a metric of a process over all its labels.
async fn metric(process: &Lovage, name: &str) -> f64 {
    let client: &Client = process.client();
    let text = String::from_utf8(client.get("/metrics").await.body.to_vec()).unwrap();
    let rows = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    rows.map(|row| row.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}
