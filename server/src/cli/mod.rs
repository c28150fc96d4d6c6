//! The command line client: a thin user of the public API.
//!
//! Exit codes: 0 done, 1 the task or the server said no, 2 wrong use, 3 not reachable, 124 timed out. Results and records
//! go to standard output, everything said about them to standard error, so that output can be piped.

mod client;
mod control;
mod copies;
mod dead;
mod insight;
mod inspect;
mod limits;
mod migrate;
mod nodes;
mod patch;
mod place;
mod queues;
mod show;
mod submit;
mod tasks;
mod verbs;
mod workers;

use std::process::ExitCode;

use clap::Args;

use crate::style::plain;

pub(crate) use client::Client;
pub(crate) use control::{ControlCommand, control};
pub(crate) use copies::{BackupArgs, RestoreArgs, run_backup, run_restore};
pub(crate) use dead::{DeadCommand, dead};
pub(crate) use insight::{ExplainArgs, TreeArgs, explain, tree};
pub(crate) use inspect::{InspectCommand, inspect};
pub(crate) use limits::{LimitsCommand, limits};
pub(crate) use migrate::{MigrateArgs, run as migrate};
pub(crate) use nodes::{NodesArgs, nodes};
pub(crate) use queues::{QueuesCommand, queues};
pub(crate) use submit::{SubmitArgs, submit};
pub(crate) use tasks::{CancelArgs, GetArgs, ResultArgs, WaitArgs, cancel, get, result, wait};
pub(crate) use verbs::{ReplayArgs, VerbArgs, replay, verb};
pub(crate) use workers::{WorkersCommand, workers};

/// Where the server is and how to speak to it.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClientArgs {
    /// The server's address.
    #[arg(long, env = "LOVAGE_URL", default_value = "http://127.0.0.1:8275", value_name = "URL")]
    pub url: String,
    /// The key to call it with.
    #[arg(long, env = "LOVAGE_KEY", hide_env_values = true, value_name = "KEY")]
    pub key: Option<String>,
    /// Print the server's JSON instead of text for people.
    #[arg(long)]
    pub json: bool,
}

/// How a command ended when it did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The task failed; everything has been said.
    #[error("")]
    Task,
    /// The server refused.
    #[error("{0}")]
    Refused(String),
    /// The command makes no sense.
    #[error("{0}")]
    Usage(String),
    /// There is no server, or the connection broke.
    #[error("{0}")]
    Unreachable(String),
    /// The task was not final in time.
    #[error("{0}")]
    TimedOut(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Task | Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::TimedOut(_) => 124,
        }
    }
}

/// Runs a command of the client.
pub(crate) fn run(args: ClientArgs, command: impl AsyncFnOnce(&Client) -> Result<(), Failure>) -> ExitCode {
    let runtime = match crate::dispatch::runtime("client", 1) {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(Failure::Unreachable(format!("{error:#}")))),
    };
    ended(runtime.block_on(async { command(&Client::new(args)?).await }))
}

/// Runs a command that works on stores, without a server.
pub(crate) fn run_local(command: impl AsyncFnOnce() -> Result<(), Failure>) -> ExitCode {
    // The stores have tasks of their own, which must go on while the command waits.
    match crate::dispatch::runtime("stores", 2) {
        Ok(runtime) => ended(runtime.block_on(command())),
        Err(error) => ended(Err(Failure::Unreachable(format!("{error:#}")))),
    }
}

/// The exit code of a command, after what there is to say.
pub(crate) fn ended(outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    let text = failure.to_string();
    if !text.is_empty() {
        eprintln!("lovage: {}", plain(&text));
    }
    ExitCode::from(failure.code())
}
