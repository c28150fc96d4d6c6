//! The scenarios: each starts its subject fresh, drives it through one situation and answers figures.

use std::path::PathBuf;

use anyhow::bail;
use clap::ValueEnum;

use crate::clock::seconds_between;
use crate::load::Report;
use crate::results::Figures;
use crate::subject::{BenchWorker, BullmqPlan, BullmqReport, Fsync, Lovage, Redis, Setup, bullmq};
use crate::watch;
use crate::{fleet, flow, tenants};

/// One situation to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Throughput with JSON arrays of 100.
    Array,
    /// Throughput with NDJSON streams.
    Ndjson,
    /// Throughput with single submits, 16 in flight.
    Single,
    /// Latency at 200 tasks a second.
    Rate,
    /// Resident memory with 100 000 tasks queued.
    Memory,
    /// From start to ready on an empty store.
    Start,
    /// Restart with 10 000 and with 1 000 000 tasks queued, then the rate at which the first 10 000 leave.
    Backlog,
    /// Throughput with JSON arrays while 10 000 or 1 000 000 other tasks stand queued for a worker that does not exist.
    Standing,
    /// Throughput with JSON arrays, one task per request to the worker and then 100; with a worker that costs nothing, and with
    /// one that takes 16 requests at a time and 2 ms for each.
    Batch,
    /// Throughput with JSON arrays of two servers on one Redis, and how they share it; only with `--redis`.
    Fleet,
    /// Throughput with JSON arrays, without a limit and with three that every task names.
    Limits,
    /// Latency at 200 tasks a second of one key while 100 000 tasks of another wait for its limit, and while none does.
    Crowd,
    /// Resident memory before and after a million tasks, each with a limit key of its own.
    Keys,
    /// How long a tenant's tasks wait while another floods the queue, with and without fair keys; draws a plot.
    Tenants,
}

/// Numbers of tasks; smaller ones make a quick run.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Tasks of `array` and `ndjson`.
    pub bulk: usize,
    /// Tasks of `single`.
    pub single: usize,
    /// Tasks of each pass of `rate`.
    pub rate: usize,
    /// Tasks queued in `memory`.
    pub queued: usize,
    /// The larger backlog.
    pub large_backlog: usize,
    /// Jobs BullMQ gets in `array` and `single`.
    pub bullmq: usize,
    /// Jobs BullMQ gets before the clock starts, for V8 to compile what is hot.
    pub bullmq_warm_up: usize,
}

/// How tasks get to the worker.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// So many in one request.
    pub together: Option<usize>,
    /// Further fields of their signatures: members of a JSON object without its braces.
    pub fields: Option<String>,
    /// What the worker waits before it answers a request.
    pub delay_ms: u64,
    /// Requests that it takes at once; none: as many as all workers of the bench.
    pub concurrency: Option<usize>,
}

/// Tasks per request in `batch`.
const TOGETHER: usize = 100;
const SMALL_BACKLOG: usize = 10_000;

/// Runs `scenario` once against Lovage; answers the figures under the name of the (sub-)scenario.
pub async fn lovage(setup: &Setup, sizes: Sizes, scenario: Scenario, over_redis: bool) -> anyhow::Result<Vec<(String, Figures)>> {
    let bed = Bed { setup, over_redis };
    let mut named = Vec::new();
    match scenario {
        Scenario::Array => named.push(("array".to_owned(), throughput(&bed, "array", sizes.bulk, 0, Way::default()).await?)),
        Scenario::Ndjson => named.push(("ndjson".to_owned(), throughput(&bed, "ndjson", sizes.bulk, 0, Way::default()).await?)),
        Scenario::Single => named.push(("single".to_owned(), throughput(&bed, "single", sizes.single, 0, Way::default()).await?)),
        Scenario::Rate => named.push(("rate".to_owned(), rate(&bed, sizes.rate).await?)),
        Scenario::Memory => named.push(("memory".to_owned(), memory(&bed, sizes.queued).await?)),
        Scenario::Start => named.push(("start".to_owned(), start(&bed).await?)),
        Scenario::Backlog => {
            for tasks in [SMALL_BACKLOG, sizes.large_backlog] {
                named.push((format!("backlog-{tasks}"), backlog(&bed, tasks).await?));
            }
        }
        Scenario::Standing => {
            for tasks in [SMALL_BACKLOG, sizes.large_backlog] {
                named.push((format!("standing-{tasks}"), throughput(&bed, "array", sizes.bulk, tasks, Way::default()).await?));
            }
        }
        Scenario::Fleet if over_redis => {
            named.push(("fleet".to_owned(), fleet::throughput(setup, sizes.bulk).await?));
        }
        Scenario::Fleet => {}
        Scenario::Limits => named.extend(flow::limits(&bed, sizes.bulk).await?),
        Scenario::Crowd => named.extend(flow::crowd(&bed, sizes.rate, sizes.queued).await?),
        Scenario::Keys => named.push(("keys".to_owned(), flow::keys(&bed, sizes.large_backlog).await?)),
        Scenario::Tenants => named.extend(tenants::measure(&bed).await?),
        Scenario::Batch => {
            for together in [1, TOGETHER] {
                let way = Way { together: Some(together).filter(|n| *n > 1), ..Way::default() };
                named.push((format!("batch-{together}"), throughput(&bed, "array", sizes.bulk, 0, way.clone()).await?));
                let slow = Way { delay_ms: 2, concurrency: Some(16), ..way.clone() };
                named.push((format!("batch-slow-{together}"), throughput(&bed, "array", sizes.bulk, 0, slow).await?));
            }
        }
    }
    Ok(named)
}

/// Where a subject stands: a fresh folder and, if asked for, a fresh Redis.
pub(crate) struct Bed<'a> {
    pub setup: &'a Setup,
    pub over_redis: bool,
}

pub(crate) struct Made {
    // Dropped, and with it deleted, after the processes that use it.
    pub lovage: Lovage,
    pub redis: Option<Redis>,
    data: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bed<'_> {
    pub async fn make(&self) -> anyhow::Result<Made> {
        let folder = tempfile::tempdir_in(&self.setup.work)?;
        let redis = if self.over_redis { Some(Redis::start(&folder.path().join("redis"), Fsync::Always).await?) } else { None };
        let data = folder.path().join("data");
        let lovage = Lovage::start(self.setup, &data, redis.as_ref()).await?;
        Ok(Made { lovage, redis, data, _folder: folder })
    }

    /// Queues tasks that nobody takes.
    fn fill(&self, made: &Made, task: &str, tasks: usize) -> anyhow::Result<Report> {
        let report = made.lovage.load(self.setup, &self.arguments("array", tasks, &["--task", task]))?;
        if report.refused > 0 {
            bail!("{} of {tasks} tasks were refused", report.refused);
        }
        Ok(report)
    }

    pub fn arguments(&self, mode: &str, tasks: usize, more: &[&str]) -> Vec<String> {
        let mut arguments = vec![mode.to_owned(), "--tasks".to_owned(), tasks.to_string()];
        if matches!(mode, "array" | "ndjson") {
            arguments.extend(["--connections".to_owned(), self.setup.connections.to_string()]);
        }
        arguments.extend(more.iter().map(ToString::to_string));
        arguments
    }
}

pub(crate) async fn throughput(bed: &Bed<'_>, mode: &str, tasks: usize, standing: usize, way: Way) -> anyhow::Result<Figures> {
    let made = bed.make().await?;
    if standing > 0 {
        bed.fill(&made, "idle.push", standing)?;
    }
    let worker = BenchWorker::start(bed.setup)?;
    made.lovage.register_for(bed.setup, &worker, &way).await?;
    let cpu = made.lovage.process.cpu_seconds()?;
    let redis_before = redis_cpu(&made)?;
    let url = format!("http://{}", worker.origin.address);
    let together = way.together.map(|max| format!(r#""batch":{{"key":"bench","max":{max}}}"#));
    let (fields, delay) = (way.fields.or(together), way.delay_ms.to_string());
    let mut more = vec!["--worker", &url, "--worker-delay-ms", &delay];
    more.extend(fields.iter().flat_map(|fields| ["--fields", fields]));
    let report = made.lovage.load(bed.setup, &bed.arguments(mode, tasks, &more))?;
    let per_1000 = |seconds: f64| seconds * 1000.0 / tasks as f64;
    let mut figures = figures([
        ("acked_per_second", report.acked_per_second),
        ("received_per_second", report.received_per_second),
        ("final_per_second", report.final_per_second),
        ("cpu_seconds_per_1000", per_1000(made.lovage.process.cpu_seconds()? - cpu)),
        ("generator_cpu_per_1000", per_1000(report.generator_cpu_seconds)),
        ("worker_cpu_per_1000", per_1000(report.worker_cpu_seconds)),
        ("resident_mib", made.lovage.process.resident_mib()?),
        ("surplus_receipts", report.surplus_receipts as f64),
        ("refused", report.refused as f64),
    ]);
    if report.ack.samples > 0 {
        figures.insert("ack_p50_ms".to_owned(), report.ack.p50);
        figures.insert("ack_p99_ms".to_owned(), report.ack.p99);
    }
    if made.redis.is_some() {
        figures.insert("redis_cpu_per_1000".to_owned(), per_1000(redis_cpu(&made)? - redis_before));
    }
    made.lovage.process.stop()?;
    Ok(figures)
}

fn redis_cpu(made: &Made) -> anyhow::Result<f64> {
    made.redis.as_ref().map_or(Ok(0.0), |redis| redis.process.cpu_seconds())
}

async fn rate(bed: &Bed<'_>, tasks: usize) -> anyhow::Result<Figures> {
    let made = bed.make().await?;
    let worker = BenchWorker::start(bed.setup)?;
    made.lovage.register(bed.setup, &worker).await?;
    let cpu = made.lovage.process.cpu_seconds()?;
    let url = format!("http://{}", worker.origin.address);
    let report = made.lovage.load(bed.setup, &bed.arguments("rate", tasks, &["--worker", &url]))?;
    let cpu = made.lovage.process.cpu_seconds()? - cpu;
    let mut figures = figures([("cpu_seconds_per_1000", cpu * 1000.0 / report.tasks as f64)]);
    let named = [("ack", report.ack), ("receipt", report.receipt), ("result", report.result), ("lateness", report.lateness)];
    for (name, latency) in named {
        let percentiles = [("p50", latency.p50), ("p90", latency.p90), ("p99", latency.p99), ("max", latency.max)];
        for (percentile, value) in percentiles {
            figures.insert(format!("{name}_{percentile}_ms"), value);
        }
    }
    made.lovage.process.stop()?;
    Ok(figures)
}

async fn memory(bed: &Bed<'_>, tasks: usize) -> anyhow::Result<Figures> {
    let made = bed.make().await?;
    let empty = made.lovage.process.resident_mib()?;
    let report = bed.fill(&made, "bench.push", tasks)?;
    let mut figures = figures([
        ("empty_mib", empty),
        ("resident_mib", made.lovage.process.resident_mib()?),
        ("peak_mib", made.lovage.process.peak_mib()?),
        ("acked_per_second", report.acked_per_second),
    ]);
    if let Some(redis) = &made.redis {
        figures.insert("redis_resident_mib".to_owned(), redis.process.resident_mib()?);
    }
    made.lovage.process.stop()?;
    Ok(figures)
}

async fn start(bed: &Bed<'_>) -> anyhow::Result<Figures> {
    let made = bed.make().await?;
    let figures = figures([("ready_ms", made.lovage.ready_after.as_secs_f64() * 1e3)]);
    made.lovage.process.stop()?;
    Ok(figures)
}

/// Fills without a worker, restarts on the same data, then registers the worker and times the first
/// [`SMALL_BACKLOG`] receipts: the same window whatever the backlog.
async fn backlog(bed: &Bed<'_>, tasks: usize) -> anyhow::Result<Figures> {
    let made = bed.make().await?;
    let report = bed.fill(&made, "bench.push", tasks)?;
    made.lovage.process.stop()?;
    let lovage = Lovage::start(bed.setup, &made.data, made.redis.as_ref()).await?;
    let worker = BenchWorker::start(bed.setup)?;
    let resident = lovage.process.resident_mib()?;
    lovage.register(bed.setup, &worker).await?;
    let limit = std::time::Duration::from_secs(120);
    let stats = watch::until_received(&worker.origin, SMALL_BACKLOG, limit).await?;
    let seconds = seconds_between(stats.first_ns, stats.nth_ns);
    let figures = figures([
        ("acked_per_second", report.acked_per_second),
        ("ready_ms", lovage.ready_after.as_secs_f64() * 1e3),
        ("resident_mib", resident),
        ("drained_per_second", SMALL_BACKLOG as f64 / seconds.max(1e-9)),
    ]);
    // Nobody waits for the rest of the backlog: the process is killed when dropped.
    Ok(figures)
}

/// BullMQ's variant that was fastest on this machine.
#[derive(Clone, Debug)]
pub struct BullmqChoice {
    /// Jobs in flight.
    pub concurrency: usize,
    /// Producer and worker in one process.
    pub inline: bool,
    /// Jobs removed when done.
    pub remove: bool,
}

impl std::fmt::Display for BullmqChoice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let producer = if self.inline { "in the worker's process" } else { "in a process of its own" };
        let finished = if self.remove { "removed" } else { "kept" };
        write!(formatter, "concurrency {}, producer {producer}, finished jobs {finished}", self.concurrency)
    }
}

/// All variants that are tried before BullMQ is measured; the fastest one is taken.
pub fn bullmq_choices() -> Vec<BullmqChoice> {
    let mut choices = Vec::new();
    for concurrency in [64, 256, 512] {
        for (inline, remove) in [(false, false), (false, true), (true, false), (true, true)] {
            choices.push(BullmqChoice { concurrency, inline, remove });
        }
    }
    choices
}

/// Runs `tasks` jobs through BullMQ in the way of `scenario`; `None` where there is nothing to compare.
pub async fn peer(
    setup: &Setup,
    scenario: Scenario,
    choice: &BullmqChoice,
    fsync: Fsync,
    tasks: usize,
    warm_up: usize,
) -> anyhow::Result<Option<Figures>> {
    let mode = match scenario {
        Scenario::Array => "array",
        Scenario::Single => "single",
        Scenario::Rate => "rate",
        _ => return Ok(None),
    };
    let folder = tempfile::tempdir_in(&setup.work)?;
    let redis = Redis::start(folder.path(), fsync).await?;
    let worker = BenchWorker::start(setup)?;
    let plan = BullmqPlan { mode, tasks, warm_up, concurrency: choice.concurrency, inline: choice.inline, remove: choice.remove };
    let report = bullmq(setup, &redis, &worker, &plan)?;
    let stats = watch::until_received(&worker.origin, warm_up + tasks, std::time::Duration::from_secs(1)).await?;
    // Redis and the bench worker cannot tell the warm-up from the rest; per job they cost the same.
    let per_1000 = |seconds: f64| seconds * 1000.0 / (warm_up + tasks) as f64;
    let mut figures = peer_figures(mode, tasks, &report, stats.nth_ns);
    figures.insert("redis_cpu_per_1000".to_owned(), per_1000(redis.process.cpu_seconds()?));
    figures.insert("worker_cpu_per_1000".to_owned(), per_1000(stats.cpu_seconds));
    redis.process.stop()?;
    Ok(Some(figures))
}

fn peer_figures(mode: &str, tasks: usize, report: &BullmqReport, last_receipt: u64) -> Figures {
    let per_second = |end: u64| tasks as f64 / seconds_between(report.first_submit_ns, end).max(1e-9);
    let mut figures = figures([
        ("cpu_seconds_per_1000", report.cpu_seconds * 1000.0 / tasks as f64),
        ("ack_p50_ms", report.ack[0]),
        ("ack_p99_ms", report.ack[2]),
    ]);
    if mode == "rate" {
        for (percentile, value) in ["p50", "p90", "p99", "max"].into_iter().zip(report.result) {
            figures.insert(format!("result_{percentile}_ms"), value);
        }
    } else {
        figures.insert("acked_per_second".to_owned(), per_second(report.acked_ns));
        figures.insert("received_per_second".to_owned(), per_second(last_receipt));
        figures.insert("final_per_second".to_owned(), per_second(report.completed_ns));
    }
    figures
}

pub(crate) fn figures<const N: usize>(named: [(&str, f64); N]) -> Figures {
    named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
