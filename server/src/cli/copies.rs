//! `lovage backup` and `lovage restore`: copies of the embedded store.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use lovage_store::embedded::{Copied, backup, restore};
use lovage_store::{Error, Result};
use serde_json::json;

use super::Failure;

/// Copy a data directory into one file, also while a server runs on it.
#[derive(Clone, Debug, Args)]
pub(crate) struct BackupArgs {
    /// The data directory of the server.
    #[arg(long, value_name = "DIR", env = "LOVAGE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// The file to make. It must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Print what was copied as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Make a data directory from a backup.
#[derive(Clone, Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The file that `lovage backup` has made.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// The data directory to make. It must not be there yet, or be empty.
    #[arg(long, value_name = "DIR", env = "LOVAGE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Print what was restored as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `lovage backup`.
pub(crate) fn run_backup(args: &BackupArgs) -> std::result::Result<(), Failure> {
    let place = args.to.display().to_string();
    shown(args.json, "copied", &place, |told| backup(&args.data_dir, &args.to, told))
}

/// `lovage restore`.
pub(crate) fn run_restore(args: &RestoreArgs) -> std::result::Result<(), Failure> {
    let place = args.data_dir.display().to_string();
    shown(args.json, "restored", &place, |told| restore(&args.from, &args.data_dir, told))?;
    if !args.json {
        eprintln!("tasks that were running at the moment of the copy are started again, also those that have been done since");
    }
    Ok(())
}

/// A bar for people who watch; nothing where standard error is no terminal.
pub(super) fn bar(unit: &str) -> ProgressBar {
    let template = format!("{{bar:20}} {{human_pos}}/{{human_len}} {unit}  {{rate}}/s  {{eta}} left");
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(&template) {
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // The terminal's text takes everything.
            let _ = write!(out, "{:.0}", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar
}

fn shown(
    as_json: bool,
    done: &str,
    place: &str,
    copy: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<Copied>,
) -> std::result::Result<(), Failure> {
    let (bar, start) = (bar("pages"), Instant::now());
    let copied = copy(&mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let copied = copied.map_err(|error| Failure::Refused(explained(error)))?;
    let taken = Duration::from_millis(start.elapsed().as_millis() as u64);
    if as_json {
        let answer = json!({"to": place, "tasks": copied.tasks, "bytes": copied.bytes, "seconds": taken.as_secs_f64()});
        super::show::line(&answer.to_string());
    } else {
        let tasks = super::show::count(&copied.tasks.into(), "task");
        super::show::line(&format!("{done} {tasks}, {} bytes, to {place} in {taken:?}", copied.bytes));
    }
    Ok(())
}

fn explained(error: Error) -> String {
    match error {
        Error::Invalid(why) | Error::Unavailable(why) => why,
        Error::Locked(dir) => format!("{dir} is in use by a server"),
        other => other.to_string(),
    }
}
