//! What a figure is worth without knowing the machine: nothing. Every result file begins with this.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::Serialize;

/// The machine and the moment of a run.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Start of the run, RFC 3339, UTC.
    pub date: String,
    /// Usable processors.
    pub processors: usize,
    /// Their model.
    pub processor_model: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Load average of the last minute at the start; well above 0 means that somebody else was working too.
    pub load_average: f64,
    /// Median time of an `fdatasync` after 4 KiB appended in the work folder, in microseconds.
    pub fdatasync_us: f64,
    /// The command line.
    pub command: String,
}

impl Machine {
    /// Describes this machine; `folder` is where the stores will be.
    pub fn describe(folder: &Path) -> anyhow::Result<Self> {
        let first_word = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().next().unwrap_or("").to_owned()
        };
        Ok(Self {
            date: output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])?,
            processors: std::thread::available_parallelism()?.get(),
            processor_model: field("/proc/cpuinfo", "model name"),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .split_whitespace()
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or(0)
                / 1024,
            kernel: first_word("/proc/sys/kernel/osrelease"),
            load_average: first_word("/proc/loadavg").parse().unwrap_or(0.0),
            fdatasync_us: fdatasync_us(folder)?,
            command: std::iter::once("bench/run".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" "),
        })
    }
}

/// What a command prints, trimmed.
fn output(command: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(command).args(arguments).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The value after `name` and a colon in a file of `/proc`; empty when there is none.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find(|line| line.starts_with(name))
        .and_then(|line| line.split_once(':'))
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

fn fdatasync_us(folder: &Path) -> anyhow::Result<f64> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut samples = Vec::new();
    for _ in 0..200 {
        file.write_all(&[7; 4096])?;
        let start = Instant::now();
        file.sync_data()?;
        samples.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(crate::latency::median(&samples))
}
