//! What is measured: a Lovage server, and BullMQ doing the same work. Both start fresh for every repetition.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use crate::client::Origin;
use crate::load::Report;
use crate::process::Process;
use crate::scenarios::Way;

/// Where the programs are and what all scenarios share.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Folder of `bench-worker`, `bench-load` and, unless given elsewhere, `lovage`.
    pub programs: PathBuf,
    /// The server binary.
    pub lovage: PathBuf,
    /// Further arguments of `lovage dev`.
    pub lovage_arguments: Vec<String>,
    /// Folder of the BullMQ peer.
    pub bullmq: PathBuf,
    /// Folder for stores and logs, on the disk to be measured.
    pub work: PathBuf,
    /// Bytes of each payload.
    pub payload: usize,
    /// Concurrency registered with the worker, for Lovage.
    pub concurrency: usize,
    /// Connections of the generator in arrays and streams.
    pub connections: usize,
}

/// When Redis syncs its log: before the answer, or every second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before each answer: comparable with Lovage's default promise.
    Always,
    /// Once a second: up to a second may be lost with the power.
    EverySecond,
}

impl Fsync {
    /// Redis's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::EverySecond => "everysec",
        }
    }
}

/// A Redis server of this run, on a free loopback port, empty at the start.
#[derive(Debug)]
pub struct Redis {
    /// Its process, for cost and memory.
    pub process: Process,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Redis {
    /// Starts one with its files in `folder`, and waits until it accepts connections.
    pub async fn start(folder: &Path, fsync: Fsync) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // Freed before Redis takes it; nobody else on loopback is likely to be given it in between.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", fsync.word()]);
        // As docs/redis.md recommends: with the default, rewrites of the log would be part of what is measured.
        command.args(["--auto-aof-rewrite-min-size", "1gb"]);
        command.args(["--maxmemory-policy", "noeviction", "--dir"]).arg(folder);
        command.args(["--logfile", "redis.log"]);
        let process = Process::start("redis-server", &mut command, &folder.join("redis-errors.log"))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if Instant::now() > deadline {
                bail!("redis-server does not accept connections");
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { process, port })
    }
}

/// A running Lovage server.
#[derive(Debug)]
pub struct Lovage {
    /// Its process, for cost and memory.
    pub process: Process,
    /// Its address.
    pub origin: Origin,
    /// From the start of the process until `/readyz` answered 200.
    pub ready_after: Duration,
}

impl Lovage {
    /// Starts the server on what is stored in `folder` (nothing, the first time), or on `redis`.
    pub async fn start(setup: &Setup, folder: &Path, redis: Option<&Redis>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut command = Command::new(&setup.lovage);
        command.args(["dev", "--listen", "127.0.0.1:0"]);
        match redis {
            Some(redis) => command.args(["--redis-url", &format!("redis://127.0.0.1:{}", redis.port)]),
            None => command.arg("--data-dir").arg(folder),
        };
        command.args(&setup.lovage_arguments);
        let started = Instant::now();
        let mut process = Process::start("lovage", &mut command, &setup.work.join("lovage.log"))?;
        let origin = process.listening(Duration::from_secs(60))?;
        while !matches!(origin.call("GET", "/readyz", "").await, Ok((200, _))) {
            if started.elapsed() > Duration::from_secs(60) {
                bail!("lovage is not ready after a minute");
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(Self { process, origin, ready_after: started.elapsed() })
    }

    /// Registers the bench worker for `bench.*`.
    pub async fn register(&self, setup: &Setup, worker: &BenchWorker) -> anyhow::Result<()> {
        self.register_for(setup, worker, &Way::default()).await
    }

    /// The same, for tasks that get to it in this way.
    pub async fn register_for(&self, setup: &Setup, worker: &BenchWorker, way: &Way) -> anyhow::Result<()> {
        let document = json!({
            "url": worker.task_url(),
            "tasks": ["bench.*"],
            "concurrency": way.concurrency.unwrap_or(setup.concurrency),
            "batch": way.together.map(|max| json!({ "max": max })),
        });
        self.origin.expect("PUT", "/v1/workers/bench", &document.to_string()).await?;
        Ok(())
    }

    /// Runs `bench-load` with `arguments` against this server, as a process of its own.
    pub fn load(&self, setup: &Setup, arguments: &[String]) -> anyhow::Result<Report> {
        let output = Command::new(setup.programs.join("bench-load"))
            .args(arguments)
            .args(["--json", "--url", &format!("http://{}", self.origin.address)])
            .args(["--payload", &setup.payload.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            bail!("bench-load {} failed", arguments.join(" "));
        }
        serde_json::from_slice(&output.stdout).context("the report of bench-load is not understood")
    }
}

/// A running `bench-worker`.
#[derive(Debug)]
pub struct BenchWorker {
    /// Its process.
    pub process: Process,
    /// Its address.
    pub origin: Origin,
}

impl BenchWorker {
    /// Starts one on a free port.
    pub fn start(setup: &Setup) -> anyhow::Result<Self> {
        let mut command = Command::new(setup.programs.join("bench-worker"));
        let mut process = Process::start("bench-worker", &mut command, &setup.work.join("worker.log"))?;
        let origin = process.listening(Duration::from_secs(10))?;
        Ok(Self { process, origin })
    }

    /// Where tasks are pushed to.
    pub fn task_url(&self) -> String {
        format!("http://{}/task", self.origin.address)
    }
}

/// How BullMQ is driven.
#[derive(Clone, Debug)]
pub struct BullmqPlan {
    /// `array`, `single` or `rate`.
    pub mode: &'static str,
    /// How many jobs.
    pub tasks: usize,
    /// How many jobs come before the clock starts, for V8 to compile what is hot.
    pub warm_up: usize,
    /// Jobs the worker process has in flight.
    pub concurrency: usize,
    /// Producer in the worker's process instead of one of its own.
    pub inline: bool,
    /// Jobs are removed when done instead of kept.
    pub remove: bool,
}

/// What BullMQ's own processes report. Instants are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Debug, Deserialize)]
pub struct BullmqReport {
    /// Before the first add.
    pub first_submit_ns: u64,
    /// After the last add was answered.
    pub acked_ns: u64,
    /// After the last job was moved to its end.
    pub completed_ns: u64,
    /// Processor seconds of the producer and the worker process, the warm-up left out.
    pub cpu_seconds: f64,
    /// Milliseconds from add to its answer: p50, p90, p99, max.
    pub ack: [f64; 4],
    /// Milliseconds from add to the result in the producer's hands (mode `rate`).
    pub result: [f64; 4],
}

/// Runs BullMQ once over `redis`, pushing to `worker`.
pub fn bullmq(setup: &Setup, redis: &Redis, worker: &BenchWorker, plan: &BullmqPlan) -> anyhow::Result<BullmqReport> {
    let mut command = Command::new("node");
    command.arg(setup.bullmq.join("push.js"));
    command.args(["--redis-port", &redis.port.to_string(), "--target", &worker.task_url()]);
    command.args(["--mode", plan.mode, "--tasks", &plan.tasks.to_string()]);
    command.args(["--warm-up", &plan.warm_up.to_string()]);
    command.args(["--concurrency", &plan.concurrency.to_string()]);
    command.args(["--payload", &crate::payload::payload(setup.payload)]);
    if plan.inline {
        command.arg("--inline");
    }
    if plan.remove {
        command.arg("--remove");
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("push.js failed: {command:?}");
    }
    serde_json::from_slice(&output.stdout).context("the report of push.js is not understood")
}
