//! Processes that a run starts: they say where they listen, are asked what they cost, and end with the run.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::Origin;

/// Longer than a drain takes when nothing hangs.
const STOP_LIMIT: Duration = Duration::from_secs(40);
const LISTENING: &str = "listening on http://";

/// A process of this run. Dropping it kills it, so that a failed scenario leaves nothing behind.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command`; what it writes to standard error goes to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(log)?)
            .spawn()
            .with_context(|| format!("{name} does not start: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Waits for the line `listening on http://ADDRESS` on standard output. Later lines are read and dropped, so that a
    /// full pipe never stops the process.
    pub fn listening(&mut self, limit: Duration) -> anyhow::Result<Origin> {
        let stdout = self.child.stdout.take().context("standard output is already taken")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once(LISTENING) {
                    // Nobody listens any more after the first such line.
                    let _ = sender.send(rest.split_whitespace().next().unwrap_or("").to_owned());
                }
            }
        });
        match receiver.recv_timeout(limit) {
            Ok(address) => Origin::parse(&format!("http://{address}")),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("{} did not listen within {limit:?}", self.name),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                bail!("{} ended before it listened; see its log", self.name)
            }
        }
    }

    /// Processor seconds (user and system) of all its threads so far.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        // Linux reports these two in hundredths of a second on every architecture it is built for today.
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in parentheses may hold spaces: fields are counted after it.
        let (_, fields) = stat.rsplit_once(')').context("broken /proc/PID/stat")?;
        let ticks: f64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        Ok(ticks / TICKS_PER_SECOND)
    }

    /// Resident memory now, in MiB.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        self.memory_mib("VmRSS:")
    }

    /// The most memory that was ever resident, in MiB.
    pub fn peak_mib(&self) -> anyhow::Result<f64> {
        self.memory_mib("VmHWM:")
    }

    fn memory_mib(&self, field: &str) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib: f64 = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|value| value.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("no {field} in /proc/PID/status"))?;
        Ok(kib / 1024.0)
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + STOP_LIMIT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("{} did not end within {STOP_LIMIT:?} of SIGTERM", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
