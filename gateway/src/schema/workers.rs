//! Workers, instances, queues and signing keys.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::Duration;

/// Preconditions of a change.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct Preconditions {
    /// Only if the stored document has this `ETag`, or `*`: if there is one.
    #[param(rename = "If-Match")]
    pub if_match: Option<String>,
    /// `*`: only if there is none.
    #[param(rename = "If-None-Match")]
    pub if_none_match: Option<String>,
}

/// A worker to be registered.
#[derive(ToSchema, Serialize)]
pub(crate) struct WorkerIn {
    /// Where it is; `{task}` stands for the task's name.
    pub url: Option<String>,
    /// Where its instances are, instead of `url`.
    pub urls: Option<Vec<String>>,
    /// Patterns of the task names it serves; the most specific one of all workers wins.
    #[schema(example = json!(["images.*"]))]
    pub tasks: Option<Vec<String>>,
    /// Only tasks of these queues.
    pub queues: Option<Vec<String>>,
    /// Open requests per instance (100).
    #[schema(minimum = 1)]
    pub concurrency: Option<u32>,
    /// Starts of its tasks, over all instances and nodes: the limit `worker:NAME` (none).
    #[schema(example = "10/s")]
    pub rate: Option<String>,
    /// Starts that may come at once (1); needs a rate.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub burst: Option<u32>,
    /// How long a running attempt may go on after a soft cancel (10 s).
    pub cancel_grace: Option<Duration>,
    /// Every 202 that it answers is an acceptance, with a `Lovage-Lease` or without (false).
    pub r#async: Option<bool>,
    /// It cannot be called, has no URL, and takes its tasks itself with `POST /v1/leases` (false).
    pub pull: Option<bool>,
    /// Where it is told of cancels and time limits, by signed posts.
    pub control_url: Option<String>,
    /// When it is left alone because its endpoint fails.
    pub breaker: Option<Breaker>,
    /// It takes tasks that may be batched in one request.
    pub batch: Option<WorkerBatch>,
    /// Added to every delivery. Values are never shown; `null` keeps the stored value.
    pub headers: Option<BTreeMap<String, Option<String>>>,
    /// What its statuses mean.
    pub status_map: Option<StatusMap>,
    /// `whsec_…`, made if not given.
    pub signing: Option<String>,
}

/// When a worker is left alone because its endpoint fails.
#[derive(ToSchema, Serialize)]
pub(crate) struct Breaker {
    /// After so many faults of the endpoint in a row (5).
    #[schema(minimum = 1, maximum = 10_000)]
    pub failures: Option<u32>,
    /// For so long at first (10 s; 100 ms to 1 h), then one attempt is tried; twice as long after each that fails, up to eight
    /// times.
    pub open_for: Option<Duration>,
}

/// How a worker takes tasks together.
#[derive(ToSchema, Serialize)]
pub(crate) struct WorkerBatch {
    /// The most in one request (1000); the smaller one of this and the task's counts.
    #[schema(minimum = 1, maximum = 1000)]
    pub max: Option<u16>,
}

/// A preset's name, or a preset with exceptions.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub(crate) enum StatusMap {
    /// `lovage`, `cloud-tasks` or `qstash`.
    Preset(String),
    /// With exceptions.
    Object(StatusMapObject),
}

/// A preset with exceptions.
#[derive(ToSchema, Serialize)]
pub(crate) struct StatusMapObject {
    /// `lovage`, `cloud-tasks` or `qstash`.
    pub preset: Option<String>,
    /// Failed and charged.
    pub retry: Option<Vec<u16>>,
    /// Failed for good.
    pub permanent: Option<Vec<u16>>,
    /// The endpoint's fault.
    pub endpoint: Option<Vec<u16>>,
}

/// When a worker is left alone.
#[derive(ToSchema, Serialize)]
pub(crate) struct BreakerView {
    /// After so many faults of the endpoint in a row.
    pub failures: u32,
    /// For so long at first.
    pub open_for: String,
}

/// A registered worker.
#[derive(ToSchema, Serialize)]
pub(crate) struct Worker {
    /// Its name.
    pub name: String,
    /// Where its instances are.
    pub urls: Vec<String>,
    /// Patterns of the task names it serves.
    pub tasks: Vec<String>,
    /// Only tasks of these queues; empty: all.
    pub queues: Vec<String>,
    /// Open requests per instance.
    pub concurrency: u32,
    /// Starts of its tasks, over all instances and nodes.
    pub rate: Option<String>,
    /// Starts that may come at once.
    pub burst: Option<u32>,
    /// How long a running attempt may go on after a soft cancel.
    pub cancel_grace: String,
    /// Whether every 202 that it answers is an acceptance.
    pub r#async: bool,
    /// Whether it takes its tasks itself.
    pub pull: bool,
    /// Where it is told of cancels and time limits.
    pub control_url: Option<String>,
    /// When it is left alone because its endpoint fails.
    pub breaker: BreakerView,
    /// How it takes tasks together; null: one by one.
    pub batch: Option<WorkerBatch>,
    /// Names of the headers added to every delivery.
    pub headers: BTreeMap<String, Option<String>>,
    /// What its statuses mean.
    pub status_map: StatusMap,
    /// The secret, only in the answer to the request that made it.
    pub signing: Option<String>,
    /// Nothing is sent to it before this, as this server sees it now; a change of the document does not end it.
    #[schema(format = DateTime)]
    pub paused_until: Option<String>,
    /// Why: `throttled` (it asked to be left alone) or `breaker` (its endpoint failed).
    pub paused_because: Option<String>,
    /// Also the `ETag`.
    pub version: u64,
}

/// A page of workers.
#[derive(ToSchema, Serialize)]
pub(crate) struct Workers {
    /// By name.
    pub items: Vec<Worker>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// A secret that was made now; it is not shown again.
#[derive(ToSchema, Serialize)]
pub(crate) struct NewSecret {
    /// `whsec_…`
    pub signing: String,
}

/// An instance that registers itself.
#[derive(ToSchema, Serialize)]
pub(crate) struct InstanceIn {
    /// Where it is.
    pub url: String,
    /// Gone after this unless it registers again (60 s; at most 24 h).
    pub ttl: Option<Duration>,
    /// Open requests it takes; the worker's if not given.
    #[schema(minimum = 1)]
    pub capacity: Option<u32>,
    /// What it says of itself.
    pub version: Option<String>,
}

/// A registered instance.
#[derive(ToSchema, Serialize)]
pub(crate) struct Instance {
    /// Its name within the worker.
    pub id: String,
    /// The worker.
    pub worker: String,
    /// Where it is.
    pub url: String,
    /// Gone at this time unless it registers again.
    #[schema(format = DateTime)]
    pub expires_at: String,
    /// Open requests it takes.
    pub capacity: Option<u32>,
    /// What it says of itself.
    pub version: Option<String>,
}

/// A page of instances.
#[derive(ToSchema, Serialize)]
pub(crate) struct Instances {
    /// By name.
    pub items: Vec<Instance>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// A page of signing keys.
#[derive(ToSchema, Serialize)]
pub(crate) struct SigningKeys {
    /// The keys.
    pub items: Vec<SigningKey>,
    /// Always null.
    pub next_cursor: Option<String>,
}

/// A signing key without its secrets.
#[derive(ToSchema, Serialize)]
pub(crate) struct SigningKey {
    /// `default`.
    pub name: String,
    /// The secrets in use, newest first.
    pub secrets: Vec<SigningSecret>,
}

/// A secret without itself.
#[derive(ToSchema, Serialize)]
pub(crate) struct SigningSecret {
    /// Not used after this.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
}
