//! What a gateway can be told: sizes, times and who may call. Every limit has a name, a default and a metric.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use metrics::gauge;

use crate::auth::Auth;
use crate::ids::Random;
use lovage_core::standing::Standings;
use lovage_core::{AttemptUrls, Destinations, SessionId, SignatureLimits};

/// Sizes of what is accepted, in bytes or items (API: Conventions).
#[derive(Clone, Debug)]
pub struct Limits {
    /// A task: the body of a single submit, an item of an array, a line of NDJSON.
    pub task_bytes: usize,
    /// An array of tasks.
    pub array_bytes: usize,
    /// Items of an array of tasks.
    pub array_items: usize,
    /// Any other body.
    pub document_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Names and values of all headers of a request together.
    pub header_bytes: usize,
    /// Levels of arrays and objects in a task.
    pub json_depth: usize,
    /// Labels of a task.
    pub labels: usize,
    /// Key and value of one label together.
    pub label_bytes: usize,
    /// Headers forwarded with a delivery.
    pub forwarded_headers: usize,
    /// Names and values of all forwarded headers together.
    pub forwarded_header_bytes: usize,
    /// Open connections; more wait in the listener's backlog.
    pub connections: usize,
    /// Concurrent requests on one HTTP/2 connection.
    pub streams: u32,
    /// Requests that wait for a task to become final, or for tasks to take.
    pub waiters: usize,
    /// Open streams of events.
    pub event_streams: usize,
    /// Compressed NDJSON streams that are read at once; each may need a window of 16 MiB.
    pub compressed_streams: usize,
    /// Bytes that a compressed NDJSON stream may inflate to for each of its own, once it has given more than `array_bytes`.
    pub expansion: usize,
    /// Records that one call of a list looks at, whatever its filters leave of them.
    pub list_scan: usize,
    /// Tasks that one call of a bulk verb changes, and ids that it takes.
    pub bulk_tasks: usize,
    /// Tasks that a tree shows.
    pub tree_tasks: usize,
    /// Records of a tree that a cancel looks at before it is answered; the rest follows behind the answer.
    pub cascade_tasks: usize,
    /// Cancels that go on behind their answers.
    pub cascades: usize,
    /// Task types of a namespace.
    pub task_types: usize,
    /// Instances of a worker that sends every task to all of them.
    pub broadcast_instances: usize,
    /// Limits that are stored for a namespace; those that only tasks name are not counted.
    pub stored_limits: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            task_bytes: 1 << 20,
            array_bytes: 8 << 20,
            array_items: 1_000,
            document_bytes: 256 << 10,
            headers: 100,
            header_bytes: 16 << 10,
            json_depth: 128,
            labels: 32,
            label_bytes: 256,
            forwarded_headers: 32,
            forwarded_header_bytes: 8 << 10,
            connections: 10_000,
            streams: 200,
            waiters: 10_000,
            event_streams: 2_000,
            compressed_streams: 64,
            expansion: 200,
            list_scan: 2_000,
            bulk_tasks: 1_000,
            tree_tasks: 1_000,
            cascade_tasks: 10_000,
            cascades: 16,
            task_types: 500,
            broadcast_instances: 64,
            stored_limits: 10_000,
        }
    }
}

impl Limits {
    /// Those of signatures.
    pub fn signature(&self) -> SignatureLimits {
        SignatureLimits {
            json_depth: self.json_depth,
            labels: self.labels,
            label_bytes: self.label_bytes,
            forwarded_headers: self.forwarded_headers,
            forwarded_header_bytes: self.forwarded_header_bytes,
        }
    }

    /// Shows every limit as a gauge, so that a dashboard can put usage beside it.
    pub(crate) fn publish(&self) {
        let rows: [(&'static str, usize); 25] = [
            ("task_bytes", self.task_bytes),
            ("array_bytes", self.array_bytes),
            ("array_items", self.array_items),
            ("document_bytes", self.document_bytes),
            ("headers", self.headers),
            ("header_bytes", self.header_bytes),
            ("json_depth", self.json_depth),
            ("labels", self.labels),
            ("label_bytes", self.label_bytes),
            ("forwarded_headers", self.forwarded_headers),
            ("forwarded_header_bytes", self.forwarded_header_bytes),
            ("connections", self.connections),
            ("streams", self.streams as usize),
            ("waiters", self.waiters),
            ("event_streams", self.event_streams),
            ("compressed_streams", self.compressed_streams),
            ("expansion", self.expansion),
            ("list_scan", self.list_scan),
            ("bulk_tasks", self.bulk_tasks),
            ("tree_tasks", self.tree_tasks),
            ("cascade_tasks", self.cascade_tasks),
            ("cascades", self.cascades),
            ("task_types", self.task_types),
            ("broadcast_instances", self.broadcast_instances),
            ("stored_limits", self.stored_limits),
        ];
        for (name, value) in rows {
            gauge!("lovage_http_limit", "limit" => name).set(value as f64);
        }
    }
}

/// How long a client may take.
#[derive(Clone, Debug)]
pub struct Times {
    /// For the head of a request, from the first moment of the connection or the end of the answer before.
    pub head: Duration,
    /// Between two pieces of a body.
    pub body_idle: Duration,
    /// For a whole body that is not a stream.
    pub body: Duration,
    /// For a whole stream of lines or events.
    pub stream: Duration,
    /// For a request from its head to the head of its answer.
    pub request: Duration,
    /// For the client to take the next piece of an answer.
    pub write_idle: Duration,
    /// The longest `?wait=`; more is taken as this.
    pub wait: Duration,
    /// Of a stream of events without one, until the client is told that it lives.
    pub keep_alive: Duration,
    /// Between two keep-alive pings of HTTP/2, and for their answer.
    pub ping: Duration,
    /// For open requests after the stop signal.
    pub grace: Duration,
    /// How long an `Idempotency-Key` is remembered.
    pub idempotency: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body_idle: Duration::from_secs(10),
            body: Duration::from_secs(60),
            stream: Duration::from_secs(3_600),
            request: Duration::from_secs(150),
            write_idle: Duration::from_secs(30),
            wait: Duration::from_secs(60),
            keep_alive: Duration::from_secs(15),
            ping: Duration::from_secs(20),
            grace: Duration::from_secs(30),
            idempotency: Duration::from_secs(24 * 3_600),
        }
    }
}

/// What is shown on `/metrics`.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Everything a gateway is told at its start.
#[derive(Clone)]
pub struct GatewayOptions {
    /// Who may call.
    pub auth: Auth,
    /// The policy for addresses and headers that users name; `server` passes the dispatcher's.
    pub destinations: Arc<dyn Destinations>,
    /// Sizes.
    pub limits: Limits,
    /// Times.
    pub times: Times,
    /// Seeds ids, request ids and jitter.
    pub random: Random,
    /// Where others reach this server, for links on the start page; `None`: relative links only.
    pub public_url: Option<String>,
    /// Where workers report.
    pub attempt_urls: AttemptUrls,
    /// How workers are doing, for explanations; `None`: nobody knows here.
    pub standings: Option<Arc<dyn Standings>>,
    /// The text of `/metrics`; `None`: the route is 404.
    pub metrics: Option<RenderMetrics>,
    /// What it knows of the nodes.
    pub cluster: Cluster,
}

/// What a gateway knows of itself and other nodes beside what is stored.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// This node is to take nothing new: `/readyz` says so.
    pub drain: Arc<AtomicBool>,
    /// How long leases of nodes are good for.
    pub lease: Duration,
    /// The session of this process.
    pub session: SessionId,
}
