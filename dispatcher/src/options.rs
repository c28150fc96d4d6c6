//! Settings of the dispatcher. Each has a name in the configuration and a default.

use std::time::Duration;

use lovage_core::{AttemptUrls, SignatureLimits};

/// How a dispatcher works. Defaults suit one machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Open attempts of this process at once, over all partitions and workers.
    pub max_in_flight: usize,
    /// Tasks moved to running by one call of the store.
    pub claim_batch: usize,
    /// Changes sent to the store in one call.
    pub settle_batch: usize,
    /// The longest an end of an attempt waits for company before it is sent to the store.
    pub settle_linger: Duration,
    /// The longest a freed slot waits for company before tasks are claimed for it.
    pub claim_linger: Duration,
    /// Tasks of a lane that are held in memory.
    pub lane_window: usize,
    /// Lanes of a partition that are held in memory; more of them take turns.
    pub lanes: usize,
    /// How long a task waits until it counts as of the next higher priority; zero: for ever.
    pub aging: Duration,
    /// Keys of limits that are held in memory.
    pub limits: usize,
    /// How often the partition and the session are renewed.
    pub renew_every: Duration,
    /// How long a renewal is good for. Longer than a failover of the store takes.
    pub lease: Duration,
    /// Without a renewal for this long, own pushes are closed: before anybody else may start them again.
    pub close_after: Duration,
    /// How long a partition stays where it is although another dispatcher should have it.
    pub rebalance_after: Duration,
    /// Bytes of an answer that are read.
    pub max_answer: usize,
    /// Bytes of a request that delivers several tasks, and of its answer.
    pub max_batch: usize,
    /// The part of an attempt that lookup, connect and TLS handshake may take together.
    pub connect_timeout: Duration,
    /// How long an instance may take to answer whether it is well.
    pub probe_timeout: Duration,
    /// Such questions under way at once.
    pub probes: usize,
    /// How long an instance that is to be started anew gets no task while it does not answer, and how long it is left alone then.
    pub recycle_wait: Duration,
    /// Where workers report; none: pushes do not say.
    pub attempt_urls: Option<AttemptUrls>,
    /// What signatures in answers are checked against.
    pub signatures: SignatureLimits,
    /// `User-Agent` of every push.
    pub user_agent: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_in_flight: 10_000,
            claim_batch: 200,
            settle_batch: 200,
            settle_linger: Duration::from_millis(2),
            claim_linger: Duration::from_millis(1),
            lane_window: 1024,
            lanes: 100_000,
            aging: Duration::from_secs(30),
            limits: 200_000,
            renew_every: Duration::from_secs(2),
            lease: Duration::from_secs(15),
            close_after: Duration::from_secs(12),
            rebalance_after: Duration::from_secs(10),
            max_answer: 1024 * 1024,
            max_batch: 8 * 1024 * 1024,
            connect_timeout: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(2),
            probes: 64,
            recycle_wait: Duration::from_secs(600),
            attempt_urls: None,
            signatures: SignatureLimits::default(),
            user_agent: concat!("Lovage/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}
