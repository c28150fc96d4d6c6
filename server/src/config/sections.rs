//! The tables of the configuration and what the parts of the server make of them. Defaults are those of the parts.

use std::time::Duration;

use lovage_core::units::{Dur, Size};
use lovage_dispatcher::egress::EgressOptions;
use lovage_gateway::{Limits, Times};
use lovage_store::{EmbeddedOptions, RedisOptions};
use serde::{Deserialize, Serialize};

fn dur(duration: Duration) -> Dur {
    Dur::from_millis(duration.as_millis() as u64)
}

fn size(bytes: usize) -> Size {
    Size(bytes as u64)
}

/// `[runtime]`: threads. One is enough for a gateway or a dispatcher that keeps a core of the machine busy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RuntimeSection {
    /// Threads that answer requests.
    pub gateway_threads: usize,
    /// Threads that deliver tasks.
    pub dispatcher_threads: usize,
}

impl Default for RuntimeSection {
    fn default() -> Self {
        Self { gateway_threads: 1, dispatcher_threads: 1 }
    }
}

/// `[limits]`: sizes of what is accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LimitsSection {
    pub task_bytes: Size,
    pub array_bytes: Size,
    pub array_items: usize,
    pub document_bytes: Size,
    pub headers: usize,
    pub header_bytes: Size,
    pub json_depth: usize,
    pub labels: usize,
    pub label_bytes: Size,
    pub forwarded_headers: usize,
    pub forwarded_header_bytes: Size,
    pub connections: usize,
    pub streams: u32,
    pub waiters: usize,
    pub event_streams: usize,
    pub compressed_streams: usize,
    pub expansion: usize,
    pub list_scan: usize,
    pub bulk_tasks: usize,
    pub tree_tasks: usize,
    pub cascade_tasks: usize,
    pub cascades: usize,
    pub task_types: usize,
    pub broadcast_instances: usize,
    pub stored_limits: usize,
}

impl Default for LimitsSection {
    fn default() -> Self {
        let it = Limits::default();
        Self {
            task_bytes: size(it.task_bytes),
            array_bytes: size(it.array_bytes),
            array_items: it.array_items,
            document_bytes: size(it.document_bytes),
            headers: it.headers,
            header_bytes: size(it.header_bytes),
            json_depth: it.json_depth,
            labels: it.labels,
            label_bytes: size(it.label_bytes),
            forwarded_headers: it.forwarded_headers,
            forwarded_header_bytes: size(it.forwarded_header_bytes),
            connections: it.connections,
            streams: it.streams,
            waiters: it.waiters,
            event_streams: it.event_streams,
            compressed_streams: it.compressed_streams,
            expansion: it.expansion,
            list_scan: it.list_scan,
            bulk_tasks: it.bulk_tasks,
            tree_tasks: it.tree_tasks,
            cascade_tasks: it.cascade_tasks,
            cascades: it.cascades,
            task_types: it.task_types,
            broadcast_instances: it.broadcast_instances,
            stored_limits: it.stored_limits,
        }
    }
}

impl LimitsSection {
    /// As the gateway wants them.
    pub fn options(&self) -> Limits {
        Limits {
            task_bytes: self.task_bytes.as_len(),
            array_bytes: self.array_bytes.as_len(),
            array_items: self.array_items,
            document_bytes: self.document_bytes.as_len(),
            headers: self.headers,
            header_bytes: self.header_bytes.as_len(),
            json_depth: self.json_depth,
            labels: self.labels,
            label_bytes: self.label_bytes.as_len(),
            forwarded_headers: self.forwarded_headers,
            forwarded_header_bytes: self.forwarded_header_bytes.as_len(),
            connections: self.connections,
            streams: self.streams,
            waiters: self.waiters,
            event_streams: self.event_streams,
            compressed_streams: self.compressed_streams,
            expansion: self.expansion,
            list_scan: self.list_scan,
            bulk_tasks: self.bulk_tasks,
            tree_tasks: self.tree_tasks,
            cascade_tasks: self.cascade_tasks,
            cascades: self.cascades,
            task_types: self.task_types,
            broadcast_instances: self.broadcast_instances,
            stored_limits: self.stored_limits,
        }
    }
}

/// `[times]`: how long clients may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TimesSection {
    pub head: Dur,
    pub body_idle: Dur,
    pub body: Dur,
    pub stream: Dur,
    pub request: Dur,
    pub write_idle: Dur,
    pub wait: Dur,
    pub keep_alive: Dur,
    pub ping: Dur,
    pub idempotency: Dur,
}

impl Default for TimesSection {
    fn default() -> Self {
        let it = Times::default();
        Self {
            head: dur(it.head),
            body_idle: dur(it.body_idle),
            body: dur(it.body),
            stream: dur(it.stream),
            request: dur(it.request),
            write_idle: dur(it.write_idle),
            wait: dur(it.wait),
            keep_alive: dur(it.keep_alive),
            ping: dur(it.ping),
            idempotency: dur(it.idempotency),
        }
    }
}

impl TimesSection {
    /// As the gateway wants them. The grace is one for the whole server.
    pub fn options(&self, grace: Dur) -> Times {
        Times {
            head: self.head.get(),
            body_idle: self.body_idle.get(),
            body: self.body.get(),
            stream: self.stream.get(),
            request: self.request.get(),
            write_idle: self.write_idle.get(),
            wait: self.wait.get(),
            keep_alive: self.keep_alive.get(),
            ping: self.ping.get(),
            grace: grace.get(),
            idempotency: self.idempotency.get(),
        }
    }
}

/// `[dispatcher]`: how tasks are delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DispatcherSection {
    pub max_in_flight: usize,
    pub claim_batch: usize,
    pub settle_batch: usize,
    pub settle_linger: Dur,
    pub claim_linger: Dur,
    pub lane_window: usize,
    pub lanes: usize,
    pub aging: Dur,
    pub limits: usize,
    pub renew_every: Dur,
    pub lease: Dur,
    pub close_after: Dur,
    pub rebalance_after: Dur,
    pub max_answer: Size,
    pub max_batch: Size,
    pub connect_timeout: Dur,
    pub probe_timeout: Dur,
    pub probes: usize,
    pub recycle_wait: Dur,
}

impl Default for DispatcherSection {
    fn default() -> Self {
        let it = lovage_dispatcher::Options::default();
        Self {
            max_in_flight: it.max_in_flight,
            claim_batch: it.claim_batch,
            settle_batch: it.settle_batch,
            settle_linger: dur(it.settle_linger),
            claim_linger: dur(it.claim_linger),
            lane_window: it.lane_window,
            lanes: it.lanes,
            aging: dur(it.aging),
            limits: it.limits,
            renew_every: dur(it.renew_every),
            lease: dur(it.lease),
            close_after: dur(it.close_after),
            rebalance_after: dur(it.rebalance_after),
            max_answer: size(it.max_answer),
            max_batch: size(it.max_batch),
            connect_timeout: dur(it.connect_timeout),
            probe_timeout: dur(it.probe_timeout),
            probes: it.probes,
            recycle_wait: dur(it.recycle_wait),
        }
    }
}

impl DispatcherSection {
    /// As the dispatcher wants them.
    pub fn options(&self) -> lovage_dispatcher::Options {
        lovage_dispatcher::Options {
            max_in_flight: self.max_in_flight,
            claim_batch: self.claim_batch,
            settle_batch: self.settle_batch,
            settle_linger: self.settle_linger.get(),
            claim_linger: self.claim_linger.get(),
            lane_window: self.lane_window,
            lanes: self.lanes,
            aging: self.aging.get(),
            limits: self.limits,
            renew_every: self.renew_every.get(),
            lease: self.lease.get(),
            close_after: self.close_after.get(),
            rebalance_after: self.rebalance_after.get(),
            max_answer: self.max_answer.as_len(),
            max_batch: self.max_batch.as_len(),
            connect_timeout: self.connect_timeout.get(),
            probe_timeout: self.probe_timeout.get(),
            probes: self.probes,
            recycle_wait: self.recycle_wait.get(),
            ..lovage_dispatcher::Options::default()
        }
    }
}

/// `[egress]`: outgoing connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EgressSection {
    pub idle: Dur,
    pub idle_per_origin: usize,
    pub idle_total: usize,
    pub dials_per_origin: usize,
    pub dns_keep: Dur,
    pub dns_keep_failure: Dur,
    pub dns_concurrent: usize,
    pub dns_names: usize,
    /// A PEM file with further certificate authorities.
    pub extra_ca_file: Option<std::path::PathBuf>,
    /// Whether metadata services of clouds may be called.
    pub allow_metadata: bool,
}

impl Default for EgressSection {
    fn default() -> Self {
        let it = EgressOptions::default();
        Self {
            idle: dur(it.idle),
            idle_per_origin: it.idle_per_origin,
            idle_total: it.idle_total,
            dials_per_origin: it.dials_per_origin,
            dns_keep: dur(it.dns_keep),
            dns_keep_failure: dur(it.dns_keep_failure),
            dns_concurrent: it.dns_concurrent,
            dns_names: it.dns_names,
            extra_ca_file: None,
            allow_metadata: false,
        }
    }
}

impl EgressSection {
    /// As the egress wants them, but for the policy and the certificates.
    pub fn options(&self) -> EgressOptions {
        EgressOptions {
            idle: self.idle.get(),
            idle_per_origin: self.idle_per_origin,
            idle_total: self.idle_total,
            dials_per_origin: self.dials_per_origin,
            dns_keep: self.dns_keep.get(),
            dns_keep_failure: self.dns_keep_failure.get(),
            dns_concurrent: self.dns_concurrent,
            dns_names: self.dns_names,
            ..EgressOptions::default()
        }
    }
}

/// `[embedded]`: memory and log of the embedded store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EmbeddedSection {
    pub feed_rows: usize,
    pub page_cache: Size,
    pub body_cache: Size,
    pub wal_bytes: Size,
}

impl Default for EmbeddedSection {
    fn default() -> Self {
        let it = EmbeddedOptions::new("");
        Self {
            feed_rows: it.feed_rows,
            page_cache: size(it.page_cache),
            body_cache: size(it.body_cache),
            wal_bytes: Size(it.wal_bytes),
        }
    }
}

/// `[redis]`: commands and feed of the store in Redis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RedisSection {
    pub timeout: Dur,
    /// How long the replicas may take that `redis_wait` waits for.
    pub wait_timeout: Dur,
    /// A PEM file with the certificate authorities of the servers, instead of those of the operating system.
    pub ca_file: Option<std::path::PathBuf>,
    /// PEM files with the certificate that shows who we are, and its key.
    pub cert_file: Option<std::path::PathBuf>,
    pub key_file: Option<std::path::PathBuf>,
    pub feed_keep: Dur,
    pub feed_bytes: Size,
}

impl Default for RedisSection {
    fn default() -> Self {
        let it = RedisOptions::new("");
        Self {
            timeout: dur(it.timeout),
            wait_timeout: Dur::from_secs(1),
            ca_file: None,
            cert_file: None,
            key_file: None,
            feed_keep: dur(it.feed_keep),
            feed_bytes: Size(it.feed_bytes),
        }
    }
}
