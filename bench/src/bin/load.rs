//! `bench-load`: submits tasks to a Lovage server and reports what happened to them.

use std::time::Duration;

use clap::Parser;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use lovage_bench::client::Origin;
use lovage_bench::latency::Latency;
use lovage_bench::load::{Mode, Plan, Report};
use lovage_bench::{load, rate};
use tokio::task::LocalSet;

/// Load generator for Lovage: arrays, NDJSON streams, single submits, or a fixed rate.
#[derive(Parser)]
#[command(name = "bench-load", version)]
struct Arguments {
    /// How to submit.
    #[arg(value_enum)]
    mode: Mode,
    /// Address of the server.
    #[arg(long, default_value = "http://127.0.0.1:8275", env = "LOVAGE_URL")]
    url: String,
    /// API key, if the server asks for one.
    #[arg(long, env = "LOVAGE_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Address of the bench-worker that serves the tasks; without it the run ends with the last acknowledgement.
    #[arg(long)]
    worker: Option<String>,
    /// Number of tasks.
    #[arg(long, default_value_t = 50_000)]
    tasks: usize,
    /// Tasks per array, or lines per write of a stream.
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Connections, each with one request in flight. Default: 4 for array and ndjson, 16 for single and rate.
    #[arg(long)]
    connections: Option<usize>,
    /// Tasks per second in mode rate.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Bytes of each payload.
    #[arg(long, default_value_t = 640)]
    payload: usize,
    /// Name of the tasks.
    #[arg(long, default_value = "bench.push")]
    task: String,
    /// Further fields of the signatures: members of a JSON object without its braces.
    #[arg(long)]
    fields: Option<String>,
    /// Milliseconds that the worker waits before it answers a request.
    #[arg(long, default_value_t = 0)]
    worker_delay_ms: u64,
    /// Seconds to wait until everything is received and final.
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Print the report as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = LocalSet::new().block_on(&runtime, measure(&arguments))?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

async fn measure(arguments: &Arguments) -> anyhow::Result<Report> {
    let mut server = Origin::parse(&arguments.url)?;
    server.key.clone_from(&arguments.key);
    let single = matches!(arguments.mode, Mode::Single | Mode::Rate);
    let plan = Plan {
        server,
        worker: arguments.worker.as_deref().map(Origin::parse).transpose()?,
        mode: arguments.mode,
        tasks: arguments.tasks.max(1),
        batch: arguments.batch.max(1),
        connections: arguments.connections.unwrap_or(if single { 16 } else { 4 }).max(1),
        rate: arguments.rate,
        payload_bytes: arguments.payload,
        task: arguments.task.clone(),
        fields: arguments.fields.clone(),
        worker_delay_ms: arguments.worker_delay_ms,
        limit: Duration::from_secs(arguments.limit),
    };
    match plan.mode {
        Mode::Rate => rate::run(&plan).await,
        _ => load::run(&plan).await,
    }
}

fn print(report: &Report) {
    let mut rates = Table::new();
    rates.load_preset(UTF8_FULL_CONDENSED);
    rates.set_header(["tasks", "refused", "acked/s", "received/s", "final/s", "surplus", "generator CPU s", "worker CPU s"]);
    rates.add_row([
        report.tasks.to_string(),
        report.refused.to_string(),
        format!("{:.0}", report.acked_per_second),
        format!("{:.0}", report.received_per_second),
        format!("{:.0}", report.final_per_second),
        report.surplus_receipts.to_string(),
        format!("{:.2}", report.generator_cpu_seconds),
        format!("{:.2}", report.worker_cpu_seconds),
    ]);
    println!("{rates}");

    let mut latencies = Table::new();
    latencies.load_preset(UTF8_FULL_CONDENSED);
    latencies.set_header(["latency (ms)", "samples", "p50", "p90", "p99", "max"]);
    let named = [
        ("submit to ack", report.ack),
        ("submit to worker", report.receipt),
        ("submit to result", report.result),
        ("generator late by", report.lateness),
    ];
    for (name, latency) in named.iter().filter(|(_, latency)| latency.samples > 0) {
        latencies.add_row(row(name, latency));
    }
    println!("{latencies}");
}

fn row(name: &str, latency: &Latency) -> Vec<String> {
    let mut cells = vec![name.to_owned(), latency.samples.to_string()];
    cells.extend([latency.p50, latency.p90, latency.p99, latency.max].map(|ms| format!("{ms:.2}")));
    cells
}
