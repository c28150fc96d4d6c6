//! What flow control costs and keeps: limits on the hot path, a crowd behind one key, a million keys that are used once.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::time::sleep;

use crate::client::Connection;
use crate::payload;
use crate::results::Figures;
use crate::scenarios::{Bed, Way, figures, throughput};
use crate::subject::BenchWorker;
use crate::watch;

/// Limits that never hold a task of this bench up, so that what is measured is what asking costs.
const WIDE: &str = r#""limits":[{"key":"bench:everybody","rate":"1000000/s","burst":100000},{"key":"bench:customer","concurrency":100000},{"key":"bench:team","rate":"500000/s","burst":100000,"concurrency":100000}]"#;
/// A key whose tasks all but stand still.
const CLOSED: &str = r#""limits":[{"key":"bench:closed","rate":"1/h"}]"#;
const OPEN: &str = r#""limits":[{"key":"bench:open","rate":"100000/s","burst":1000,"concurrency":100}]"#;
/// Tasks per array in `keys`.
const ARRAY: usize = 1_000;
/// How long memory may take to be given back.
const GIVEN_BACK: Duration = Duration::from_secs(60);

/// Throughput with arrays without a limit and with three that every task names, one after the other.
pub(crate) async fn limits(bed: &Bed<'_>, tasks: usize) -> anyhow::Result<Vec<(String, Figures)>> {
    let without = throughput(bed, "array", tasks, 0, Way::default()).await?;
    let mut with = throughput(bed, "array", tasks, 0, Way { fields: Some(WIDE.to_owned()), ..Way::default() }).await?;
    let rate = |figures: &Figures| figures.get("received_per_second").copied().unwrap_or_default();
    let share = rate(&with) / rate(&without).max(1e-9);
    with.insert("share_of_unlimited".to_owned(), share);
    Ok(vec![("limits-0".to_owned(), without), ("limits-3".to_owned(), with)])
}

/// Latency at a fixed rate of tasks of one key while none or many of another wait for their limit.
pub(crate) async fn crowd(bed: &Bed<'_>, tasks: usize, waiting: usize) -> anyhow::Result<Vec<(String, Figures)>> {
    let mut named = Vec::new();
    for waiting in [0, waiting] {
        let made = bed.make().await?;
        let worker = BenchWorker::start(bed.setup)?;
        made.lovage.register(bed.setup, &worker).await?;
        if waiting > 0 {
            made.lovage.load(bed.setup, &bed.arguments("array", waiting, &["--fields", CLOSED]))?;
        }
        let url = format!("http://{}", worker.origin.address);
        let report = made.lovage.load(bed.setup, &bed.arguments("rate", tasks, &["--worker", &url, "--fields", OPEN]))?;
        let latencies = [("receipt_p50_ms", report.receipt.p50), ("receipt_p99_ms", report.receipt.p99)];
        let more = [("receipt_max_ms", report.receipt.max), ("result_p99_ms", report.result.p99)];
        named.push((format!("crowd-{waiting}"), latencies.into_iter().chain(more).map(|(n, v)| (n.to_owned(), v)).collect()));
        made.lovage.process.stop()?;
    }
    Ok(named)
}

/// Resident memory of the server before and after so many tasks, each with a limit key of its own, when all of them are done
/// and deleted.
pub(crate) async fn keys(bed: &Bed<'_>, keys: usize) -> anyhow::Result<Figures> {
    let made = bed.make().await?;
    let worker = BenchWorker::start(bed.setup)?;
    made.lovage.register(bed.setup, &worker).await?;
    watch::reset_worker(&worker.origin, false, 0).await?;
    let signature = |key: Option<usize>| {
        let limits = key.map(|key| format!(r#""limits":[{{"key":"customer:{key}","rate":"10/s","concurrency":1}}],"#));
        let fields = format!(r#"{}"retention":"1s""#, limits.unwrap_or_default());
        payload::signature("bench.push", r#"{"n":1}"#, Some(&fields))
    };
    // As many tasks without a key first, all of which wait at once as well: buffers and the store's cache have their size then.
    gather(bed, &made.lovage.origin, keys, |_| signature(None)).await?;
    settled(&made.lovage.origin).await?;
    let before = made.lovage.process.resident_mib()?;
    gather(bed, &made.lovage.origin, keys, |n| signature(Some(n))).await?;
    let started = Instant::now();
    watch::until_final(&made.lovage.origin, 0, Duration::from_secs(600)).await?;
    let rate = keys as f64 / started.elapsed().as_secs_f64();
    let full = made.lovage.process.resident_mib()?;
    let given_back = Instant::now();
    let mut after = full;
    while given_back.elapsed() < GIVEN_BACK && after > before * 1.1 {
        sleep(Duration::from_secs(1)).await;
        after = made.lovage.process.resident_mib()?;
    }
    let named = figures([
        ("before_mib", before),
        ("at_the_end_mib", full),
        ("after_mib", after),
        ("after_to_before", after / before.max(1e-9)),
        ("given_back_seconds", given_back.elapsed().as_secs_f64()),
        ("final_per_second", rate),
    ]);
    made.lovage.process.stop()?;
    Ok(named)
}

/// Submits tasks while none is delivered, then lets them go.
async fn gather(
    bed: &Bed<'_>,
    server: &crate::client::Origin,
    tasks: usize,
    signature: impl Fn(usize) -> String,
) -> anyhow::Result<()> {
    server.expect("POST", "/v1/queues/default/pause", "{}").await?;
    submit(bed, server, tasks, signature).await?;
    server.expect("POST", "/v1/queues/default/resume", "").await?;
    Ok(())
}

/// Submits tasks in arrays over the connections of the bench.
async fn submit(
    bed: &Bed<'_>,
    server: &crate::client::Origin,
    tasks: usize,
    signature: impl Fn(usize) -> String,
) -> anyhow::Result<()> {
    let arrays = tasks.div_ceil(ARRAY);
    let next = std::cell::Cell::new(0);
    let connections = (0..bed.setup.connections).map(|_| async {
        let mut connection = Connection::open(server.address).await?;
        while next.get() < arrays {
            let first = next.replace(next.get() + 1) * ARRAY;
            let items: Vec<String> = (first..tasks.min(first + ARRAY)).map(&signature).collect();
            let request = server.json_request("POST", "/v1/tasks:batch", &format!("[{}]", items.join(",")));
            let answer = connection.request(&request).await?;
            anyhow::ensure!(answer.status == 200, "an array was answered with {}", answer.status);
        }
        anyhow::Ok(())
    });
    try_join_all(connections).await.map(drop)
}

/// Waits until every task is final and what it left has been deleted.
async fn settled(server: &crate::client::Origin) -> anyhow::Result<()> {
    watch::until_final(server, 0, Duration::from_secs(600)).await?;
    sleep(Duration::from_secs(10)).await;
    Ok(())
}
