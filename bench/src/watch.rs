//! Waiting for the far ends: the worker has received everything, the server counts everything final.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::client::{Connection, Origin};
use crate::clock::monotonic_ns;
use crate::fast_worker::Stats;

/// How often the far ends are asked. Receipts carry their own instants, so this bounds only the error of "last final".
const INTERVAL: Duration = Duration::from_millis(10);

/// Starts a new count on the worker.
pub async fn reset_worker(worker: &Origin, record: bool, delay_ms: u64) -> anyhow::Result<()> {
    let record = if record { "record=true&" } else { "" };
    worker.expect("POST", &format!("/reset?{record}delay_ms={delay_ms}"), "").await?;
    Ok(())
}

/// What the worker has counted; `nth` asks for the instant of that receipt (0: not asked).
pub async fn worker_stats(worker: &Origin, nth: usize) -> anyhow::Result<Stats> {
    let answer = worker.expect("GET", &format!("/stats?nth={nth}"), "").await?;
    serde_json::from_value(answer).context("the worker's stats are not understood")
}

/// Instant of each receipt by task id; the first one counts if a task came more than once.
pub async fn worker_receipts(worker: &Origin) -> anyhow::Result<HashMap<String, u64>> {
    let mut connection = Connection::open(worker.address).await?;
    let request = worker.json_request("GET", "/receipts", "");
    let answer = connection.request(&request).await?;
    let mut receipts = HashMap::new();
    for line in std::str::from_utf8(answer.body)?.lines() {
        let (id, instant) = line.split_once(' ').context("broken receipt line")?;
        receipts.entry(id.to_owned()).or_insert(instant.parse()?);
    }
    Ok(receipts)
}

/// Waits until the worker has counted `tasks` requests.
pub async fn until_received(worker: &Origin, tasks: usize, limit: Duration) -> anyhow::Result<Stats> {
    let deadline = Instant::now() + limit;
    loop {
        let stats = worker_stats(worker, tasks).await?;
        if stats.count >= tasks {
            return Ok(stats);
        }
        if Instant::now() > deadline {
            bail!("the worker received {} of {tasks} tasks within {limit:?}", stats.count);
        }
        sleep(INTERVAL).await;
    }
}

/// Waits until at most `standing` tasks of the queue `default` are before their end, and answers the instant this was
/// seen.
pub async fn until_final(server: &Origin, standing: u64, limit: Duration) -> anyhow::Result<u64> {
    let deadline = Instant::now() + limit;
    loop {
        let open = open_tasks(server).await?;
        if open <= standing {
            return Ok(monotonic_ns());
        }
        if Instant::now() > deadline {
            bail!("{} tasks are not final after {limit:?}", open - standing);
        }
        sleep(INTERVAL).await;
    }
}

/// Tasks of the queue `default` that are in no final state; 0 if there is no such queue yet.
pub async fn open_tasks(server: &Origin) -> anyhow::Result<u64> {
    #[derive(Deserialize)]
    struct QueueStats {
        depth: HashMap<String, u64>,
    }
    let (status, answer) = server.call("GET", "/v1/queues/default/stats", "").await?;
    match status {
        200 => {}
        404 => return Ok(0),
        _ => bail!("the queue's stats were answered with {status}: {answer}"),
    }
    let stats: QueueStats = serde_json::from_value(answer).context("the queue's stats are not understood")?;
    let open = ["blocked", "scheduled", "queued", "running", "retrying"];
    Ok(open.iter().filter_map(|state| stats.depth.get(*state)).sum())
}
