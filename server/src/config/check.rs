//! What must hold between settings, and what a value must be beyond its type.

use anyhow::{Context, bail, ensure};
use lovage_core::id::SLOTS;
use lovage_core::limit::BUILT_IN;
use lovage_core::signature::MAX_LIMITS;
use lovage_dispatcher::egress::{AddressPolicy, Cidr};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::{Config, Loaded};

/// More threads than any machine has use for.
const MAX_THREADS: usize = 256;
/// Keys of limits that a single task may need: its own and the built-in ones.
const KEYS_OF_A_TASK: usize = MAX_LIMITS + BUILT_IN.len();

/// Refuses settings that contradict each other or cannot work.
pub(super) fn check(loaded: &Loaded) -> anyhow::Result<()> {
    let config = &loaded.config;
    if config.data_dir.is_some() && config.redis_url.is_some() {
        let (folder, redis) = (loaded.source("data_dir"), loaded.source("redis_url"));
        bail!(
            "both data_dir (from {folder}) and redis_url (from {redis}) are set; the data is kept in one of them: remove the other"
        );
    }
    if let Some(url) = &config.public_url {
        let parsed = Url::parse(url).with_context(|| format!("public_url: `{url}` is not a URL"))?;
        ensure!(matches!(parsed.scheme(), "http" | "https"), "public_url: `{url}` must begin with http:// or https://");
    }
    if EnvFilter::try_new(&config.log).is_err() {
        bail!("log (from {}): `{}` is not a level or filter", loaded.source("log"), config.log);
    }
    ensure!((1..=SLOTS).contains(&config.partitions), "partitions (from {}): from 1 to {SLOTS}", loaded.source("partitions"));
    ensure!(
        !config.redis_prefix.is_empty() && !config.redis_prefix.contains(|c: char| matches!(c, '{' | '}') || c.is_control()),
        "redis_prefix (from {}): at least one character, and no braces or control characters",
        loaded.source("redis_prefix")
    );
    if let Some(name) = &config.node_name {
        let fits = (1..=64).contains(&name.chars().count()) && !name.contains(char::is_control) && !name.trim().is_empty();
        ensure!(fits, "node_name (from {}): 1 to 64 printable characters", loaded.source("node_name"));
    }
    for (name, value) in [("redis.timeout", config.redis.timeout), ("redis.wait_timeout", config.redis.wait_timeout)] {
        ensure!(!value.get().is_zero(), "{name} (from {}): it must be longer than nothing", loaded.source(name));
    }
    for (name, threads) in [
        ("runtime.gateway_threads", config.runtime.gateway_threads),
        ("runtime.dispatcher_threads", config.runtime.dispatcher_threads),
    ] {
        ensure!((1..=MAX_THREADS).contains(&threads), "{name} (from {}): from 1 to {MAX_THREADS}", loaded.source(name));
    }
    networks(config)?;
    ensure!(
        config.redis.cert_file.is_some() == config.redis.key_file.is_some(),
        "[redis] cert_file and key_file belong together: set both or none"
    );

    let dispatcher = &config.dispatcher;
    ensure!(
        dispatcher.renew_every < dispatcher.close_after && dispatcher.close_after < dispatcher.lease,
        "[dispatcher] renew_every ({}) must be shorter than close_after ({}), and that shorter than lease ({}): \
         a dispatcher must let go of its work before another one may take it",
        dispatcher.renew_every,
        dispatcher.close_after,
        dispatcher.lease
    );
    for (name, value) in [
        ("dispatcher.max_in_flight", dispatcher.max_in_flight),
        ("dispatcher.claim_batch", dispatcher.claim_batch),
        ("dispatcher.settle_batch", dispatcher.settle_batch),
        ("dispatcher.lane_window", dispatcher.lane_window),
        ("dispatcher.lanes", dispatcher.lanes),
        ("limits.connections", config.limits.connections),
        ("limits.list_scan", config.limits.list_scan),
        ("limits.bulk_tasks", config.limits.bulk_tasks),
    ] {
        ensure!(value > 0, "{name} (from {}): at least 1 is needed", loaded.source(name));
    }
    ensure!(
        dispatcher.limits >= KEYS_OF_A_TASK,
        "dispatcher.limits (from {}): at least {KEYS_OF_A_TASK} is needed: a task may have {MAX_LIMITS} limits, and those of its \
         queue, task type and worker, and with fewer it could never start",
        loaded.source("dispatcher.limits")
    );
    Ok(())
}

fn networks(config: &Config) -> anyhow::Result<Vec<Cidr>> {
    config.allow_network.iter().map(|text| text.parse().context("allow_network")).collect()
}

impl Config {
    /// Which addresses tasks may be delivered to.
    pub fn policy(&self, allow_private: bool) -> anyhow::Result<AddressPolicy> {
        Ok(AddressPolicy { allow_private, allow: networks(self)?, allow_metadata: self.egress.allow_metadata })
    }
}
