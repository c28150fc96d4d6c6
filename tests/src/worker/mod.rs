//! A scriptable HTTP worker on a loopback port.
//!
//! ```no_run
//! # use lovage_tests::{Worker, Reply};
//! # use serde_json::json;
//! # async fn example() {
//! let worker = Worker::start();
//! worker.on("demo.add", Reply::json(&json!(5)));
//! worker.on("demo.flaky", [Reply::status(500), Reply::status(500), Reply::json(&json!("done"))]);
//! // … submit two tasks …
//! let calls = worker.wait_for(4).await;
//! assert!(worker.overlaps().is_empty());
//! # }
//! ```
//!
//! It speaks HTTP/1.1 over a plain socket rather than through a framework, because it has to misbehave: reset the connection,
//! close it half-way, answer bytes that are no HTTP. It runs on threads of its own, so that a test which blocks (to restart a
//! database, say) does not delay the worker and spoil its time stamps.

mod connection;
mod record;
mod reply;
mod script;
mod wire;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, JoinSet};

use lovage_testkit::Port;

pub use record::{Answered, Call};
pub use reply::{Gate, Reply};
pub use script::{Flaky, Script};

use connection::serve;
use record::Record;
use script::Scripts;

/// How long the `wait_…` methods wait unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running worker. Dropping it closes its port and its connections.
pub struct Worker {
    shared: Arc<Shared>,
    port: Port,
    listening: Option<AbortHandle>,
}

/// What all connections of a worker share.
pub(crate) struct Shared {
    pub(crate) scripts: Scripts,
    pub(crate) record: Record,
}

impl Worker {
    /// Starts a worker that has no scripts yet: until one is given it answers every call with 422, a permanent failure.
    pub fn start() -> Self {
        let shared = Arc::new(Shared { scripts: Scripts::default(), record: Record::default() });
        let mut worker = Self { shared, port: Port::reserve(), listening: None };
        worker.listen();
        worker
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// `http://127.0.0.1:PORT/path`; a script under the same `/path` answers it.
    pub fn url_of(&self, path: &str) -> String {
        format!("{}{path}", self.url())
    }

    /// The address, the same after [`Worker::resume`].
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    /// Sets the script of a task name, of a pattern (`demo.*`, `*`) or of a path (`/hook`); the longest match wins and a later
    /// script replaces an earlier one. A sequence advances with every call of the same task id and then repeats its last reply.
    pub fn on(&self, name: &str, script: impl Into<Script>) -> &Self {
        self.shared.scripts.set(name, script.into());
        self
    }

    /// Lets a function decide: it sees the call with its headers and body.
    pub fn on_call(&self, name: &str, reply: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> &Self {
        self.on(name, Script::function(reply))
    }

    /// Holds every call of `name` until the returned gate is opened, then gives `reply`.
    pub fn hold(&self, name: &str, reply: Reply) -> Gate {
        let gate = Gate::new();
        self.on(name, reply.behind(&gate));
        gate
    }

    /// Makes a share of all calls fail, whatever their script says. The seed, the task id and the number of the call decide.
    pub fn flaky(&self, flaky: Flaky) -> &Self {
        self.shared.scripts.set_flaky(flaky);
        self
    }

    /// Every call so far, in order of arrival.
    pub fn received(&self) -> Vec<Call> {
        self.shared.record.with(<[Call]>::to_vec)
    }

    /// The calls of one task, in order of arrival.
    pub fn received_for(&self, id: &str) -> Vec<Call> {
        self.shared.record.with(|calls| calls.iter().filter(|call| call.id == id).cloned().collect())
    }

    /// Number of calls so far.
    pub fn count(&self) -> usize {
        self.shared.record.count()
    }

    /// Calls that have been neither answered nor cut.
    pub fn open(&self) -> usize {
        self.shared.record.open()
    }

    /// Waits until `count` calls have arrived and returns all; panics after 30 s.
    pub async fn wait_for(&self, count: usize) -> Vec<Call> {
        self.wait(&format!("{count} calls"), PATIENCE, || self.count() >= count).await
    }

    /// Waits until `count` calls have been answered or cut and returns all; panics after 30 s.
    pub async fn wait_answered(&self, count: usize) -> Vec<Call> {
        self.wait(&format!("{count} answered calls"), PATIENCE, || self.count() >= count + self.open()).await
    }

    /// Waits until the calls satisfy `condition` and returns them; panics with `what` and the last calls after `timeout`.
    pub async fn wait_until(&self, what: &str, timeout: Duration, condition: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        self.wait(what, timeout, || self.shared.record.with(&condition)).await
    }

    async fn wait(&self, what: &str, timeout: Duration, condition: impl Fn() -> bool) -> Vec<Call> {
        let mut changes = self.shared.record.changes();
        let search = async {
            // Marks the change as seen before looking, so that one that comes while looking wakes again.
            while {
                changes.borrow_and_update();
                !condition()
            } {
                changes.changed().await.expect("the record lives as long as the worker");
            }
        };
        let in_time = tokio::time::timeout(timeout, search).await.is_ok();
        assert!(in_time, "the worker waited {timeout:?} in vain for {what}; it has {}", record::describe(&self.received()));
        self.received()
    }

    /// Pairs of calls of the same task that were open at the same time. Two live attempts of one task are what a task queue
    /// must never show while its store is reachable.
    pub fn overlaps(&self) -> Vec<(Call, Call)> {
        self.shared.record.with(record::overlaps)
    }

    /// Calls by task id, each list in order of arrival.
    pub fn by_task(&self) -> HashMap<String, Vec<Call>> {
        let mut calls: HashMap<String, Vec<Call>> = HashMap::new();
        for call in self.received() {
            calls.entry(call.id.clone()).or_default().push(call);
        }
        calls
    }

    /// Forgets all calls. Sequences and flakiness go on counting.
    pub fn forget(&self) {
        self.shared.record.clear();
    }

    /// Closes the port and cuts every connection: from now on the worker is not reachable.
    pub fn stop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            // The port is free once the task has really ended, not when it was told to.
            lovage_testkit::wait_until("the worker's end", PATIENCE, || listening.is_finished());
        }
    }

    /// Listens again on the same port after [`Worker::stop`].
    pub fn resume(&mut self) {
        self.stop();
        self.listen();
    }

    fn listen(&mut self) {
        let mut bound = None;
        // A process that another test is just starting has, until it is that program, a copy of every socket of this one:
        // also of the socket that tried whether this port is free.
        lovage_testkit::wait_until("the worker's port", PATIENCE, || {
            bound = TcpListener::bind(self.address()).ok();
            bound.is_some()
        });
        let listener = bound.expect("the wait has ended");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let shared = Arc::clone(&self.shared);
        let task = runtime().spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener can be handed to the runtime");
            // Dropping the set when this task is aborted cuts every connection.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((stream, _)) = listener.accept() => { connections.spawn(serve(stream, Arc::clone(&shared))); }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        self.listening = Some(task.abort_handle());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("test-worker")
            .enable_all()
            .build()
            .expect("a runtime for workers can be built")
    })
}
