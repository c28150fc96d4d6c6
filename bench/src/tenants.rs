//! Two tenants share a queue, and one of them floods it: how long the other's tasks wait, with and without fair keys.
//!
//! The worker takes a few thousand tasks a second. The modest tenant submits one task every 50 ms all the time; after a few
//! seconds the other submits tens of thousands at once.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use plotters::prelude::*;
use tokio::time::{Instant, sleep, sleep_until};

use crate::clock::monotonic_ns;
use crate::latency::Latency;
use crate::payload;
use crate::results::Figures;
use crate::scenarios::{Bed, Way};
use crate::subject::BenchWorker;
use crate::watch;

/// Requests that the worker takes at once, and how long each takes: 4 000 a second.
const SLOTS: usize = 20;
const DELAY_MS: u64 = 5;
/// The modest tenant's tasks come so far apart.
const EVERY: Duration = Duration::from_millis(50);
const TASKS: usize = 400;
/// When the flood comes, and how large it is.
const FLOOD_AT: Duration = Duration::from_secs(4);
const FLOOD: usize = 40_000;

/// One task of the modest tenant: seconds from the start, milliseconds until the worker had it.
type Wait = (f64, f64);

/// Runs both ways and draws them beside each other.
pub(crate) async fn measure(bed: &Bed<'_>) -> anyhow::Result<Vec<(String, Figures)>> {
    let mut named = Vec::new();
    let mut lines = Vec::new();
    for (name, fair) in [("tenants-mixed", false), ("tenants-fair", true)] {
        let waits = run(bed, fair).await?;
        let latency = Latency::from_nanoseconds(waits.iter().map(|(_, ms)| (ms * 1e6) as u64).collect());
        let figures = [("start_p50_ms", latency.p50), ("start_p99_ms", latency.p99), ("start_max_ms", latency.max)];
        named.push((name.to_owned(), figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()));
        lines.push(waits);
    }
    let store = if bed.over_redis { "redis" } else { "embedded" };
    let path = bed.setup.work.join(format!("tenants-{store}.svg"));
    draw(&path, &lines[0], &lines[1])?;
    eprintln!("drawn to {}", path.display());
    Ok(named)
}

async fn run(bed: &Bed<'_>, fair: bool) -> anyhow::Result<Vec<Wait>> {
    let made = bed.make().await?;
    let worker = BenchWorker::start(bed.setup)?;
    let way = Way { concurrency: Some(SLOTS), ..Way::default() };
    made.lovage.register_for(bed.setup, &worker, &way).await?;
    watch::reset_worker(&worker.origin, true, DELAY_MS).await?;
    let fields = |tenant: &str| fair.then(|| format!(r#""fair_key":"{tenant}""#));
    let task = payload::signature("bench.push", r#"{"n":1}"#, fields("modest").as_deref());
    let server = &made.lovage.origin;
    let start = Instant::now();
    let modest = async {
        let request = server.json_request("POST", "/v1/tasks", &task);
        let mut connection = crate::client::Connection::open(server.address).await?;
        let mut submitted = Vec::with_capacity(TASKS);
        for n in 0..TASKS {
            sleep_until(start + EVERY * n as u32).await;
            let sent = monotonic_ns();
            let answer = connection.request(&request).await?;
            let accepted: serde_json::Value = serde_json::from_slice(answer.body)?;
            let id = accepted["id"].as_str().context("a submit was refused")?.to_owned();
            submitted.push((start.elapsed().as_secs_f64(), sent, id));
        }
        anyhow::Ok(submitted)
    };
    let flood = async {
        sleep(FLOOD_AT).await;
        let signature = payload::signature("bench.push", r#"{"n":1}"#, fields("flood").as_deref());
        let request = server.json_request("POST", "/v1/tasks:batch", &payload::array(&signature, 1_000));
        let mut connection = crate::client::Connection::open(server.address).await?;
        for _ in 0..FLOOD / 1_000 {
            let answer = connection.request(&request).await?;
            anyhow::ensure!(answer.status == 200, "an array was answered with {}", answer.status);
        }
        anyhow::Ok(())
    };
    let (submitted, ()) = futures_util::try_join!(modest, flood)?;
    watch::until_received(&worker.origin, TASKS + FLOOD, Duration::from_secs(120)).await?;
    let receipts = watch::worker_receipts(&worker.origin).await?;
    made.lovage.process.stop()?;
    let wait = |(at, sent, id): (f64, u64, String)| {
        let received = receipts.get(&id).with_context(|| format!("the worker never received task {id}"))?;
        anyhow::Ok((at, received.saturating_sub(sent) as f64 / 1e6))
    };
    submitted.into_iter().map(wait).collect()
}

fn draw(path: &Path, mixed: &[Wait], fair: &[Wait]) -> anyhow::Result<()> {
    let root = SVGBackend::new(path, (900, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let end = mixed.iter().chain(fair).map(|(at, _)| *at).fold(1.0, f64::max);
    let longest = mixed.iter().chain(fair).map(|(_, ms)| *ms).fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption("One tenant floods the queue after 4 s: how long the other's tasks wait", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, (0.5..longest * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("milliseconds from submit to start")
        .light_line_style(WHITE)
        .y_label_formatter(&|ms| format!("{ms:.0}"))
        .draw()?;
    let lines = [(mixed, RED, "one queue, no fair keys"), (fair, BLUE, "a fair_key for each tenant")];
    for (waits, colour, label) in lines {
        let points = waits.iter().map(|(at, ms)| (*at, ms.max(0.5)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
