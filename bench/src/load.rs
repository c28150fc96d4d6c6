//! Closed-loop load: a number of connections, each with one request in flight, until all tasks are submitted.
//!
//! Bodies are built before the clock starts. What is timed runs from the first byte sent to the last acknowledgement,
//! to the worker's last receipt and to the moment the server counts every task as final.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use crate::client::{Connection, Origin, invalid, read_more};
use crate::clock::{monotonic_ns, own_cpu_seconds, seconds_between};
use crate::latency::Latency;
use crate::payload;
use crate::watch;
use crate::wire::{ChunkDecoder, parse_head};

/// How tasks are submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// `POST /v1/tasks:batch` with JSON arrays.
    Array,
    /// `POST /v1/tasks:batch`, one NDJSON stream per connection.
    Ndjson,
    /// `POST /v1/tasks`, one task each.
    Single,
    /// `POST /v1/tasks` at fixed times, whatever the answers do.
    Rate,
}

/// What to submit, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server under test.
    pub server: Origin,
    /// The bench worker that serves the tasks; without one the run ends with the last acknowledgement.
    pub worker: Option<Origin>,
    /// How to submit.
    pub mode: Mode,
    /// How many tasks.
    pub tasks: usize,
    /// Tasks per array, or lines per write of a stream.
    pub batch: usize,
    /// Connections, each with one request in flight.
    pub connections: usize,
    /// Tasks per second in mode `rate`.
    pub rate: f64,
    /// Size of each payload.
    pub payload_bytes: usize,
    /// Name of the tasks.
    pub task: String,
    /// Further fields of their signatures: members of a JSON object without its braces.
    pub fields: Option<String>,
    /// Milliseconds that the worker waits before it answers a request.
    pub worker_delay_ms: u64,
    /// How long to wait for the far ends.
    pub limit: Duration,
}

/// What a run measured. Rates are per second from the first submit; those of a missing worker are 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How tasks were submitted.
    pub mode: Mode,
    /// How many were submitted.
    pub tasks: usize,
    /// How many the server refused.
    pub refused: usize,
    /// Tasks acknowledged per second.
    pub acked_per_second: f64,
    /// Tasks received by the worker per second: end-to-end throughput.
    pub received_per_second: f64,
    /// Tasks final per second, as counted by the server.
    pub final_per_second: f64,
    /// Requests the worker received beyond one per task.
    pub surplus_receipts: usize,
    /// From sending a request to its acknowledgement.
    pub ack: Latency,
    /// From the planned submit to the worker's receipt (mode `rate`).
    pub receipt: Latency,
    /// From the planned submit to the result in the client's hands (mode `rate`).
    pub result: Latency,
    /// How late the generator itself sent (mode `rate`); contained in the other three.
    pub lateness: Latency,
    /// Processor seconds of the generator.
    pub generator_cpu_seconds: f64,
    /// Processor seconds of the worker.
    pub worker_cpu_seconds: f64,
}

/// Acknowledgements of a run.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    accepted: usize,
    refused: usize,
    latencies: Vec<u64>,
}

/// Runs a closed-loop plan (any mode but `rate`).
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    let payload = payload::payload(plan.payload_bytes);
    let signature = payload::signature(&plan.task, &payload, plan.fields.as_deref());
    // Tasks that were open before are not this run's business.
    let (worker_cpu, standing) = match &plan.worker {
        Some(worker) => {
            watch::reset_worker(worker, false, plan.worker_delay_ms).await?;
            (watch::worker_stats(worker, 0).await?.cpu_seconds, watch::open_tasks(&plan.server).await?)
        }
        None => (0.0, 0),
    };
    let cpu = own_cpu_seconds();
    let start = monotonic_ns();
    let acks = match plan.mode {
        Mode::Array => {
            closed_loop(plan, plan.batch, |count| {
                plan.server.json_request("POST", "/v1/tasks:batch", &payload::array(&signature, count))
            })
            .await?
        }
        Mode::Single => closed_loop(plan, 1, |_| plan.server.json_request("POST", "/v1/tasks", &signature)).await?,
        Mode::Ndjson => streams(plan, &signature).await?,
        Mode::Rate => bail!("mode rate is run by the module of that name"),
    };
    let acked = monotonic_ns();
    let generator_cpu_seconds = own_cpu_seconds() - cpu;
    if acks.accepted == 0 {
        bail!("the server refused all {} tasks", acks.refused);
    }
    let per_second = |tasks: usize, end: u64| tasks as f64 / seconds_between(start, end).max(1e-9);
    let mut report = Report {
        mode: plan.mode,
        tasks: plan.tasks,
        refused: acks.refused,
        acked_per_second: per_second(acks.accepted, acked),
        received_per_second: 0.0,
        final_per_second: 0.0,
        surplus_receipts: 0,
        ack: Latency::from_nanoseconds(acks.latencies),
        receipt: Latency::default(),
        result: Latency::default(),
        lateness: Latency::default(),
        generator_cpu_seconds,
        worker_cpu_seconds: 0.0,
    };
    if let Some(worker) = &plan.worker {
        let received = watch::until_received(worker, acks.accepted, plan.limit).await?;
        let last_final = watch::until_final(&plan.server, standing, plan.limit).await?;
        let stats = watch::worker_stats(worker, 0).await?;
        report.received_per_second = per_second(acks.accepted, received.nth_ns);
        report.final_per_second = per_second(acks.accepted, last_final);
        report.surplus_receipts = stats.count - acks.accepted;
        report.worker_cpu_seconds = stats.cpu_seconds - worker_cpu;
    }
    Ok(report)
}

/// Sends requests of `per_request` tasks on every connection until all tasks are gone. `build` is called before the
/// first request, once for the full size and once for the remainder.
async fn closed_loop(plan: &Plan, per_request: usize, build: impl Fn(usize) -> Vec<u8>) -> anyhow::Result<Acks> {
    let full = build(per_request);
    let rest = build((plan.tasks % per_request).max(1));
    let left = Cell::new(plan.tasks);
    let workers = (0..plan.connections).map(|_| async {
        let mut acks = Acks::default();
        let mut connection = Connection::open(plan.server.address).await?;
        while left.get() > 0 {
            let count = left.get().min(per_request);
            left.set(left.get() - count);
            let sent = monotonic_ns();
            let answer = connection.request(if count == per_request { &full } else { &rest }).await?;
            acks.latencies.push(monotonic_ns() - sent);
            let accepted = match answer.status {
                200 if plan.mode == Mode::Array => accepted_items(answer.body)?,
                202 if plan.mode == Mode::Single => 1,
                _ if acks.accepted == 0 => {
                    bail!("the first submit was answered with {}: {}", answer.status, String::from_utf8_lossy(answer.body))
                }
                _ => 0,
            };
            acks.accepted += accepted;
            acks.refused += count - accepted.min(count);
        }
        Ok(acks)
    });
    Ok(merge(try_join_all(workers).await?))
}

fn merge(parts: Vec<Acks>) -> Acks {
    parts.into_iter().fold(Acks::default(), |mut sum, part| {
        sum.accepted += part.accepted;
        sum.refused += part.refused;
        sum.latencies.extend(part.latencies);
        sum
    })
}

#[derive(Deserialize)]
struct Item {
    status: u16,
}

impl Item {
    fn is_accepted(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

fn accepted_items(body: &[u8]) -> anyhow::Result<usize> {
    #[derive(Deserialize)]
    struct Items {
        items: Vec<Item>,
    }
    let answer: Items = serde_json::from_slice(body).context("the answer to an array is not understood")?;
    Ok(answer.items.iter().filter(|item| item.is_accepted()).count())
}

/// One chunked NDJSON request per connection; answers are read while lines are still being written.
async fn streams(plan: &Plan, signature: &str) -> anyhow::Result<Acks> {
    let lines = format!("{signature}\n").repeat(plan.batch);
    let line_length = signature.len() + 1;
    let mut head = plan.server.head("POST", "/v1/tasks:batch");
    head.push_str("Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n");
    let shares = (0..plan.connections).map(|index| {
        let extra = usize::from(index < plan.tasks % plan.connections);
        plan.tasks / plan.connections + extra
    });
    let streams = shares.filter(|share| *share > 0).map(|share| {
        let (lines, head) = (&lines, &head);
        async move {
            let (mut reader, mut writer) = Connection::open(plan.server.address).await?.into_halves();
            let write = async {
                writer.write_all(head.as_bytes()).await?;
                let mut left = share;
                while left > 0 {
                    let count = left.min(plan.batch);
                    let bytes = count * line_length;
                    let mut chunk = format!("{bytes:x}\r\n").into_bytes();
                    chunk.extend_from_slice(&lines.as_bytes()[..bytes]);
                    chunk.extend_from_slice(b"\r\n");
                    writer.write_all(&chunk).await?;
                    left -= count;
                }
                writer.write_all(b"0\r\n\r\n").await?;
                anyhow::Ok(())
            };
            let (accepted, ()) = futures_util::try_join!(read_stream(&mut reader), write)?;
            anyhow::Ok(Acks { accepted, refused: share.saturating_sub(accepted), latencies: Vec::new() })
        }
    });
    Ok(merge(try_join_all(streams).await?))
}

/// Counts the accepted items of a streamed answer.
async fn read_stream(reader: &mut tokio::net::tcp::OwnedReadHalf) -> anyhow::Result<usize> {
    let mut input = Vec::new();
    let (head_length, status) = loop {
        read_more(reader, &mut input).await?;
        if let Some(head) = parse_head(&input) {
            if !head.chunked {
                bail!("the answer to a stream is not streamed: {}", String::from_utf8_lossy(&input));
            }
            break (head.length, head.status().ok_or_else(|| invalid("broken status line"))?);
        }
    };
    if status != 200 {
        bail!("the stream was answered with {status}: {}", String::from_utf8_lossy(&input));
    }
    let (mut decoder, mut body, mut accepted) = (ChunkDecoder::default(), Vec::new(), 0);
    let mut done = decoder.decode(&input[head_length..], &mut body)?;
    loop {
        let whole = body.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in body[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let item: Item = serde_json::from_slice(line).context("a line of the answer is not understood")?;
            accepted += usize::from(item.is_accepted());
        }
        body.drain(..whole);
        if done {
            return Ok(accepted);
        }
        input.clear();
        read_more(reader, &mut input).await?;
        done = decoder.decode(&input, &mut body)?;
    }
}
