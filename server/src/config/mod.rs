//! Everything that can be set, in one structure, and where each value came from.
//!
//! A value is taken from the first of: flag, environment (`LOVAGE_*`), file (`lovage.toml`), default. The same key names
//! it everywhere: `limits.task_bytes` in the file's table `[limits]`, `LOVAGE_LIMITS_TASK_BYTES` in the environment and
//! `--set limits.task_bytes=2MiB` on the command line. Unknown names are errors: a slip must not go unnoticed.

mod check;
mod keys;
mod load;
mod sections;
mod show;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use lovage_core::units::{Dur, Size};
use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(crate) use load::load;
pub(crate) use load::{DEFAULT, Flags, Loaded, load_here};
pub(crate) use sections::{
    DispatcherSection, EgressSection, EmbeddedSection, LimitsSection, RedisSection, RuntimeSection, TimesSection,
};

/// The file that is read when none is named.
pub(crate) const FILE: &str = "lovage.toml";

/// What a server does and how. `docs/lovage.toml` describes every key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Where requests are taken.
    pub listen: SocketAddr,
    /// Where others reach this server.
    pub public_url: Option<String>,
    /// Where the embedded store keeps its data.
    pub data_dir: Option<PathBuf>,
    /// The Redis that keeps the data instead.
    pub redis_url: Option<String>,
    /// What every key in Redis begins with.
    pub redis_prefix: String,
    /// Replicas that have to confirm each write to Redis.
    pub redis_wait: u32,
    /// Partitions of a new store in Redis.
    pub partitions: u16,
    /// What an acknowledgement of the embedded store means.
    pub durability: Durability,
    /// New tasks are refused when the disk of `data_dir` has less free space.
    pub min_free: Size,
    /// Networks that tasks may be delivered to beside public addresses.
    pub allow_network: Vec<String>,
    /// What others call this process.
    pub node_name: Option<String>,
    /// Holds the key of the administrator.
    pub admin_key_file: Option<PathBuf>,
    /// How long open attempts and requests may take to end after SIGTERM.
    pub grace: Dur,
    /// How often the room that tasks take in the store is estimated.
    pub footprint_every: Dur,
    /// Which log lines are written: a level, or `tracing`'s filter syntax.
    pub log: String,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Threads.
    pub runtime: RuntimeSection,
    /// Sizes of what is accepted.
    pub limits: LimitsSection,
    /// How long clients may take.
    pub times: TimesSection,
    /// How tasks are delivered.
    pub dispatcher: DispatcherSection,
    /// Outgoing connections.
    pub egress: EgressSection,
    /// The embedded store.
    pub embedded: EmbeddedSection,
    /// The store in Redis.
    pub redis: RedisSection,
}

/// What an acknowledgement of the embedded store means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// Synced to disk.
    Strict,
    /// Handed to the operating system.
    Relaxed,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8275)),
            public_url: None,
            data_dir: None,
            redis_url: None,
            redis_prefix: "lv".to_owned(),
            redis_wait: 0,
            partitions: 16,
            durability: Durability::Strict,
            min_free: Size(64 << 20),
            allow_network: Vec::new(),
            node_name: None,
            admin_key_file: None,
            grace: Dur::from_secs(30),
            footprint_every: Dur::from_secs(60),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            runtime: RuntimeSection::default(),
            limits: LimitsSection::default(),
            times: TimesSection::default(),
            dispatcher: DispatcherSection::default(),
            egress: EgressSection::default(),
            embedded: EmbeddedSection::default(),
            redis: RedisSection::default(),
        }
    }
}
