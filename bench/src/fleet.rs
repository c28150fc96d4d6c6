//! Two servers on one Redis: how they share the work that one gateway takes in.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::sleep;

use crate::client::{Connection, Origin};
use crate::results::Figures;
use crate::subject::{BenchWorker, Fsync, Lovage, Redis, Setup};

/// Partitions of a new store over Redis.
const PARTITIONS: u64 = 16;
/// The longest that the two may take to share them.
const SHARED_WITHIN: Duration = Duration::from_secs(60);
/// They have shared when nothing moved for so long.
const SETTLED_FOR: Duration = Duration::from_secs(3);

/// Throughput with arrays, submitted to the first server. `least_share` is what the one that called the worker less often did,
/// as a part of an even share; 1 is even.
pub async fn throughput(setup: &Setup, tasks: usize) -> anyhow::Result<Figures> {
    let folder = tempfile::tempdir_in(&setup.work)?;
    let redis = Redis::start(&folder.path().join("redis"), Fsync::Always).await?;
    let soon = ["--set", "dispatcher.rebalance_after=1s"].map(str::to_owned);
    let setup = Setup { lovage_arguments: [&setup.lovage_arguments[..], &soon].concat(), ..setup.clone() };
    let one = Lovage::start(&setup, Path::new(folder.path()), Some(&redis)).await?;
    let other = Lovage::start(&setup, Path::new(folder.path()), Some(&redis)).await?;
    let partitions = shared(&one.origin, &other.origin).await?;
    let worker = BenchWorker::start(&setup)?;
    one.register(&setup, &worker).await?;
    let cpu = one.process.cpu_seconds()? + other.process.cpu_seconds()?;
    let url = format!("http://{}", worker.origin.address);
    let connections = setup.connections.to_string();
    let arguments = ["array", "--tasks", &tasks.to_string(), "--connections", &connections, "--worker", &url];
    let report = one.load(&setup, &arguments.map(str::to_owned))?;
    let cpu = one.process.cpu_seconds()? + other.process.cpu_seconds()? - cpu;
    let attempts = [total(&one.origin, "lovage_attempts_total").await?, total(&other.origin, "lovage_attempts_total").await?];
    let figures = [
        ("received_per_second", report.received_per_second),
        ("acked_per_second", report.acked_per_second),
        ("surplus_receipts", report.surplus_receipts as f64),
        ("cpu_seconds_per_1000", cpu * 1000.0 / tasks as f64),
        ("least_partitions", partitions as f64),
        ("least_share", attempts[0].min(attempts[1]) * 2.0 / (attempts[0] + attempts[1])),
    ];
    other.process.stop()?;
    one.process.stop()?;
    Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Waits until the two have shared the partitions; how many the one with fewer has.
async fn shared(one: &Origin, other: &Origin) -> anyhow::Result<u64> {
    const OWNED: &str = "lovage_partition_owned";
    let start = Instant::now();
    let (mut known, mut since) = ([0; 2], Instant::now());
    loop {
        let owned = [total(one, OWNED).await? as u64, total(other, OWNED).await? as u64];
        if owned != known {
            (known, since) = (owned, Instant::now());
        }
        let both = owned[0] > 0 && owned[1] > 0 && owned[0] + owned[1] >= PARTITIONS;
        if both && since.elapsed() > SETTLED_FOR {
            return Ok(owned[0].min(owned[1]));
        }
        anyhow::ensure!(start.elapsed() < SHARED_WITHIN, "the two servers own {owned:?} of {PARTITIONS} partitions");
        sleep(Duration::from_millis(100)).await;
    }
}

/// The sum of a metric over all its labels.
async fn total(server: &Origin, metric: &str) -> anyhow::Result<f64> {
    let mut connection = Connection::open(server.address).await?;
    let answer = connection.request(&server.json_request("GET", "/metrics", "")).await?;
    let text = std::str::from_utf8(answer.body)?;
    let value = |line: &str| {
        let rest = line.strip_prefix(metric).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit(' ').next().map(|value| value.parse::<f64>().context("broken metric"))
    };
    text.lines().filter_map(value).sum()
}
