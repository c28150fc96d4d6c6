//! The command line of the server and the list of all commands.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cli::{
    BackupArgs, CancelArgs, ControlCommand, DeadCommand, ExplainArgs, GetArgs, InspectCommand, LimitsCommand, MigrateArgs,
    NodesArgs, QueuesCommand, ReplayArgs, RestoreArgs, ResultArgs, SubmitArgs, TreeArgs, VerbArgs, WaitArgs, WorkersCommand,
};
use crate::config::Flags;

/// A task queue for HTTP: submit a task, Lovage calls your HTTP worker until it is done, and keeps the result.
#[derive(Debug, Parser)]
#[command(name = "lovage", version, propagate_version = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything in one process for development: no credentials, this machine only, a demo worker.
    Dev(ServerArgs),
    /// Everything in one process, with credentials.
    Serve(ServerArgs),
    /// Only take requests, beside other processes on the same Redis.
    Gateway(ServerArgs),
    /// Only deliver tasks, beside other processes on the same Redis.
    Dispatcher(ServerArgs),
    /// Submit a task.
    Submit(SubmitArgs),
    /// Show a task.
    Get(GetArgs),
    /// Write the result of a task to standard output, as the worker gave it.
    Result(ResultArgs),
    /// Wait until a task is final.
    Wait(WaitArgs),
    /// Cancel a task, and what it has started.
    Cancel(CancelArgs),
    /// Try a failed task again from the start, or a retrying one at once.
    Retry(VerbArgs),
    /// Start a task now that waits for its time or its next attempt.
    RunNow(VerbArgs),
    /// Keep a task from starting.
    Hold(VerbArgs),
    /// Let a held task start again.
    Release(VerbArgs),
    /// Submit a task again as a new one, with changes.
    Replay(ReplayArgs),
    /// Say why a task does not go on, or how it ended.
    Explain(ExplainArgs),
    /// Show a task with all that came of it: spawned tasks, links and callbacks.
    Tree(TreeArgs),
    /// Show the processes of the cluster; drain or fence one.
    Nodes(NodesArgs),
    /// Look after workers and their instances.
    #[command(subcommand)]
    Workers(WorkersCommand),
    /// Look after queues: settings, pauses, what is in them.
    #[command(subcommand)]
    Queues(QueuesCommand),
    /// Look after limits: how often and how many at once tasks of a key start.
    #[command(subcommand)]
    Limits(LimitsCommand),
    /// Show what there is now, in Celery's words.
    #[command(subcommand)]
    Inspect(InspectCommand),
    /// Change what holds while everything runs, in Celery's words.
    #[command(subcommand)]
    Control(ControlCommand),
    /// Look after tasks that failed.
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Copy a data directory into one file, also while a server runs on it.
    Backup(BackupArgs),
    /// Make a data directory from a backup.
    Restore(RestoreArgs),
    /// Move everything from one store to another.
    Migrate(MigrateArgs),
    /// Print the configuration in force, and where each value came from.
    Config(ServerArgs),
    /// Print the description of the API (OpenAPI 3.1).
    Openapi,
}

/// Settings of a server. Each is also a key of `lovage.toml` and a variable `LOVAGE_*`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServerArgs {
    /// Read this file instead of ./lovage.toml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take requests here [default: 127.0.0.1:8275].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where others reach this server; of a dispatcher: where they reach the gateways.
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Keep the data in this folder [dev: .lovage].
    #[arg(long, value_name = "DIR", conflicts_with = "redis_url")]
    pub data_dir: Option<PathBuf>,
    /// Keep the data in this Redis: redis://, redis+cluster:// or redis+sentinel://, rediss… for TLS.
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<String>,
    /// What every key in Redis begins with [default: lv].
    #[arg(long, value_name = "TEXT")]
    pub redis_prefix: Option<String>,
    /// Answer a write when this many replicas of Redis have it too [default: 0].
    #[arg(long, value_name = "N")]
    pub redis_wait: Option<u32>,
    /// Partitions of a new store in Redis [default: 16].
    #[arg(long, value_name = "P")]
    pub partitions: Option<u16>,
    /// What an acknowledgement means: synced to disk, or handed to the operating system [default: strict].
    #[arg(long, value_name = "strict|relaxed")]
    pub durability: Option<String>,
    /// Refuse new tasks when the disk has less free space [default: 64MiB].
    #[arg(long, value_name = "SIZE")]
    pub min_free: Option<String>,
    /// Deliver tasks to this private network too; may be repeated.
    #[arg(long, value_name = "CIDR")]
    pub allow_network: Vec<String>,
    /// What `lovage nodes` calls this process [default: the name of the machine].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The administrator's key: read if the file exists, else made and written there.
    #[arg(long, value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
    /// How long open attempts may take to end after SIGTERM [default: 30s].
    #[arg(long, value_name = "DURATION")]
    pub grace: Option<String>,
    /// Which log lines are written: error, warn, info, debug, trace, or a filter [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// How log lines are written [default: text].
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<String>,
    /// Set any key of the configuration, such as `limits.task_bytes=2MiB`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ServerArgs {
    /// The flags that were given, by key.
    pub fn flags(&self) -> anyhow::Result<Flags> {
        let mut flags = Flags::new(self.config.clone(), &self.set)?;
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        flags.set("listen", self.listen);
        flags.set("public_url", self.public_url.as_ref());
        flags.set("data_dir", path(&self.data_dir));
        flags.set("redis_url", self.redis_url.as_ref());
        flags.set("redis_prefix", self.redis_prefix.as_ref());
        flags.set("redis_wait", self.redis_wait);
        flags.set("partitions", self.partitions);
        flags.set("durability", self.durability.as_ref());
        flags.set("min_free", self.min_free.as_ref());
        flags.set("allow_network", (!self.allow_network.is_empty()).then(|| self.allow_network.join(",")));
        flags.set("node_name", self.node_name.as_ref());
        flags.set("admin_key_file", path(&self.admin_key_file));
        flags.set("grace", self.grace.as_ref());
        flags.set("log", self.log.as_ref());
        flags.set("log_format", self.log_format.as_ref());
        Ok(flags)
    }
}
