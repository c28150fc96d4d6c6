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
    /// Which instance gets the next task: `least_loaded` (the one with the fewest open requests), `round_robin` (in turn) or
    /// `broadcast` (all of them).
    #[schema(example = "least_loaded")]
    pub balance: Option<String>,
    /// Requests that one dispatcher may have open at one instance (100).
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
    /// How its instances are asked whether they are well; without it they are not asked.
    pub health: Option<Health>,
    /// When its instances are to be started anew; without it never.
    pub recycle: Option<Recycle>,
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

/// How instances are asked whether they are well. Three bad answers in a row take one out of use, a good one brings it back.
#[derive(ToSchema, Serialize)]
pub(crate) struct Health {
    /// Asked for with GET at the origin of each instance; any 2xx is a good answer.
    #[schema(example = "/healthz")]
    pub path: String,
    /// How often (10 s; 1 s to 1 h).
    pub interval: Option<Duration>,
}

/// When an instance is to be started anew: at the first of these that is reached.
#[derive(ToSchema, Serialize)]
pub(crate) struct Recycle {
    /// After so many tasks.
    #[schema(minimum = 1)]
    pub max_tasks: Option<u64>,
    /// When it says, in `Lovage-Memory-Rss`, that it has so much memory.
    #[schema(example = "800MiB")]
    pub max_memory: Option<String>,
    /// After so long.
    pub max_age: Option<Duration>,
    /// After so many attempts that failed.
    #[schema(minimum = 1)]
    pub max_errors: Option<u64>,
}

/// One instance of a worker.
#[derive(ToSchema, Serialize)]
pub(crate) struct OneInstance {
    /// Its id, or its URL if it is one of `urls`; all instances if not given.
    pub instance: Option<String>,
}

/// Instances that are to be started anew.
#[derive(ToSchema, Serialize)]
pub(crate) struct RecycleAsked {
    /// One after the other, in this order.
    pub instances: Vec<String>,
}

/// What instances answered.
#[derive(ToSchema, Serialize)]
pub(crate) struct CalledInstances {
    /// One for each that was called.
    pub items: Vec<CalledInstance>,
}

/// What an instance answered.
#[derive(ToSchema, Serialize)]
pub(crate) struct CalledInstance {
    /// Its id, or its URL if it is one of `urls`.
    pub id: String,
    /// Where it is.
    pub url: String,
    /// Its status; null if there was no answer.
    pub status: Option<u16>,
    /// Why there was none: `ConnectionRefused`, `DnsFailed`, `TlsFailed`, `DestinationForbidden`, `ConnectTimeout`,
    /// `ConnectionReset`, `TimedOut` or `MalformedAnswer`.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
}

/// An instance as the dispatchers see it now.
#[derive(ToSchema, Serialize)]
pub(crate) struct SeenInstance {
    /// Its id, or its URL if it is one of `urls`.
    pub id: String,
    /// Where it is.
    pub url: String,
    /// How it is doing.
    #[serde(flatten)]
    pub status: InstanceStatus,
}

/// How an instance is doing, as the dispatchers see it now.
#[derive(ToSchema, Serialize)]
pub(crate) struct InstanceStatus {
    /// `ready`, `unhealthy` (it does not answer its health probes), `unreachable` (no connection to it came about; it is passed
    /// over) or `recycling` (it gets no tasks until it has started anew).
    pub state: String,
    /// Requests that are open.
    pub open: u32,
    /// Requests that may be open at once.
    pub slots: u32,
    /// What its probes found; null without `health`.
    pub health: Option<Probed>,
    /// What was counted for `recycle`; null without it.
    pub counters: Option<Counted>,
    /// When it is tried again if it is `unreachable`: at this time or with the next task after it.
    #[schema(format = DateTime)]
    pub unreachable_until: Option<String>,
    /// Since when it is to be started anew.
    #[schema(format = DateTime)]
    pub recycling_since: Option<String>,
}

/// What the probes of an instance found.
#[derive(ToSchema, Serialize)]
pub(crate) struct Probed {
    /// Bad answers in a row.
    pub failures: u8,
    /// When it was asked last.
    #[schema(format = DateTime)]
    pub checked_at: Option<String>,
}

/// What an instance has done since it started.
#[derive(ToSchema, Serialize)]
pub(crate) struct Counted {
    /// Since when this is counted.
    #[schema(format = DateTime)]
    pub since: Option<String>,
    /// Tasks that it answered.
    pub tasks: u64,
    /// Attempts of those that failed.
    pub errors: u64,
    /// The memory that it said it has, in bytes.
    pub memory: Option<u64>,
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
    /// Which instance gets the next task.
    pub balance: String,
    /// Requests that one dispatcher may have open at one instance.
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
    /// How its instances are asked whether they are well.
    pub health: Option<Health>,
    /// When its instances are to be started anew.
    pub recycle: Option<Recycle>,
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
    /// Why: `paused` or `draining` (somebody wants it), `throttled` (it asked to be left alone) or `breaker` (its endpoint failed).
    pub paused_because: Option<String>,
    /// Its instances as the dispatchers see them now, the first 200; only in the answer that shows one worker, and if a dispatcher
    /// knows it.
    pub instances: Option<Vec<SeenInstance>>,
    /// Whether it gets tasks: `active`, `paused`, `draining` (something is open), `drained`.
    pub state: String,
    /// How it is doing now, as the dispatchers see it together; null: none of them knows it.
    pub live: Option<WorkerLive>,
    /// Also the `ETag`.
    pub version: u64,
}

/// How a worker is doing now; it is about a second old.
#[derive(ToSchema, Serialize)]
pub(crate) struct WorkerLive {
    /// Requests that are open.
    pub open: u32,
    /// Requests that may be open at once; fewer while it starts again after a pause or an outage.
    pub slots: u32,
    /// `closed`, `open` (it is left alone because its endpoint fails) or `half_open` (the next attempt decides).
    pub breaker: String,
    /// Requests a second that it is sent at most, because it asked for less; null: as many as it has slots for.
    pub effective_rate: Option<f64>,
    /// Requests a second that it was sent in the last ten seconds.
    pub out_rate: f64,
}

/// How long a worker is to be paused.
#[derive(ToSchema, Serialize)]
pub(crate) struct WorkerPauseIn {
    /// Over by itself at this time; until somebody ends it if not given.
    #[schema(format = DateTime)]
    pub until: Option<String>,
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
    /// Requests that one dispatcher may have open there; the worker's `concurrency` if not given.
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
    /// Requests that one dispatcher may have open there.
    pub capacity: Option<u32>,
    /// What it says of itself.
    pub version: Option<String>,
    /// How it is doing, as the dispatchers see it now; null if none knows it.
    pub status: Option<InstanceStatus>,
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
