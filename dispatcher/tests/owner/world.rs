//! A world for dispatchers: a store, a clock that follows paused time, workers made of closures.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, StatusCode};
use lovage_core::worker::{WorkerBatch, WorkerConfig};
use lovage_core::{
    Body, Event, Head, IdRun, Millis, NewTask, NodeInfo, Ns, Partition, Reason, SessionId, Slot, Spec, State, TaskKey, decide,
};
use lovage_dispatcher::egress::{
    AddressPolicy, AnswerSink, FaultKind, PushFault, PushRequest, Pushed, Response, SinkVerdict, Transport,
};
use lovage_dispatcher::{Dispatcher, Options, Pulse, Registry, Uptime};
use lovage_store::{
    Commit, Committed, DocGuard, DocKind, DocPut, Insert, MemoryClock, MemoryOptions, MemoryStore, Mode, OnExists, Parts, Store,
    Stored,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub const EPOCH: Millis = Millis(1_800_000_000_000);

/// What a worker does with a push.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16, &'static str),
    Header(u16, &'static str, &'static str),
    /// … after so long.
    HeaderAfter(Duration, u16, &'static str, &'static str),
    /// 200 with a document of this content type.
    Document(&'static str, String),
    Fault(FaultKind),
    /// 200 with these pieces of NDJSON, each after its pause; then the end, or this fault.
    Stream(Vec<(Duration, String)>, Option<FaultKind>),
    /// Answers 200 only after this long.
    Slow(Duration),
    /// 200 with these headers.
    Headers(Vec<(&'static str, String)>),
}

/// A push as a worker saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: String,
    /// Scheme, host and port that it went to.
    pub origin: String,
    pub path: String,
    pub attempt: u32,
    pub session_order: u64,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub start: Instant,
    pub end: Option<Instant>,
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// Records every push and answers by script.
pub struct Scripted {
    script: Box<Script>,
    pub seen: Mutex<Vec<Seen>>,
    /// The tasks of the requests that delivered several.
    pub parts: Mutex<Vec<Seen>>,
    order: AtomicU64,
}

struct Closing<'a>(&'a Scripted, usize, std::ops::Range<usize>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let end = Some(Instant::now());
        self.0.seen.lock()[self.1].end = end;
        self.0.parts.lock()[self.2.clone()].iter_mut().for_each(|part| part.end = end);
    }
}

impl Seen {
    /// How many tasks it delivered together; 0: one alone.
    pub fn batch(&self) -> usize {
        self.headers.get("lovage-batch").map_or(0, |n| n.to_str().unwrap().parse().unwrap())
    }

    /// The tasks that it delivered together.
    pub fn items(&self) -> Vec<serde_json::Value> {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn parts(&self) -> Vec<Self> {
        if self.batch() == 0 {
            return Vec::new();
        }
        let items = self.items();
        assert_eq!(items.len(), self.batch());
        let part = |item: &serde_json::Value| Self {
            id: item["id"].as_str().unwrap().to_owned(),
            attempt: item["attempt"].as_u64().unwrap() as u32,
            ..self.clone()
        };
        items.iter().map(part).collect()
    }
}

impl Transport for Scripted {
    fn push(&self, mut request: PushRequest) -> BoxFuture<'_, Pushed> {
        Box::pin(async move {
            let headers = request.headers.to_map();
            let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            let seen = Seen {
                id: text("webhook-id"),
                origin: request.target.origin().to_string(),
                path: request.target.path().to_string(),
                attempt: headers.get("lovage-attempt").map_or(0, |n| n.to_str().unwrap().parse().unwrap()),
                session_order: self.order.fetch_add(1, Ordering::Relaxed),
                headers: headers.clone(),
                body: request.body.clone(),
                start: Instant::now(),
                end: None,
            };
            let reply = (self.script)(&seen);
            let parts = {
                let (mut all, new) = (self.parts.lock(), seen.parts());
                let first = all.len();
                all.extend(new);
                first..all.len()
            };
            let index = {
                let mut all = self.seen.lock();
                all.push(seen);
                all.len() - 1
            };
            let _closing = Closing(self, index, parts);
            let mut headers = HeaderMap::new();
            let outcome = match reply {
                Reply::Status(status, body) => Ok((status, body.to_owned())),
                Reply::Header(status, name, value) => {
                    headers.insert(name, value.parse().unwrap());
                    Ok((status, String::new()))
                }
                Reply::HeaderAfter(time, status, name, value) => {
                    tokio::time::sleep(time).await;
                    headers.insert(name, value.parse().unwrap());
                    Ok((status, String::new()))
                }
                Reply::Headers(pairs) => {
                    headers.extend(
                        pairs.into_iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())),
                    );
                    Ok((200, String::new()))
                }
                Reply::Document(content_type, body) => {
                    headers.insert("content-type", content_type.parse().unwrap());
                    Ok((200, body))
                }
                Reply::Fault(kind) => Err(PushFault::new(kind)),
                Reply::Stream(pieces, fault) => {
                    headers.insert("content-type", "application/x-ndjson".parse().unwrap());
                    let mut sink = request.sink.take().unwrap();
                    assert!(sink.head(StatusCode::OK, &headers));
                    stream(&mut *sink, pieces, fault, request.timeout).await.map(|()| (200, String::new()))
                }
                Reply::Slow(time) => {
                    if tokio::time::timeout(request.timeout, tokio::time::sleep(time)).await.is_ok() {
                        Ok((200, "\"slow\"".to_owned()))
                    } else {
                        Err(PushFault::new(FaultKind::TimedOut))
                    }
                }
            };
            let outcome = outcome.map(|(status, body)| Response {
                status: StatusCode::from_u16(status).unwrap(),
                headers,
                body: Bytes::from(body),
                truncated: false,
            });
            Pushed { outcome, sent: 0, received: 0, reused: false, elapsed: Duration::ZERO }
        })
    }
}

/// Hands the pieces to the sink, within the time limit that it moves.
async fn stream(
    sink: &mut dyn AnswerSink,
    pieces: Vec<(Duration, String)>,
    fault: Option<FaultKind>,
    timeout: Duration,
) -> Result<(), PushFault> {
    let mut deadline = Instant::now() + timeout;
    for (pause, piece) in pieces {
        if tokio::time::timeout_at(deadline, tokio::time::sleep(pause)).await.is_err() {
            return Err(PushFault::new(FaultKind::TimedOut));
        }
        match sink.chunk(piece.into()) {
            SinkVerdict::Continue => {}
            SinkVerdict::Extend(by) => deadline = Instant::now() + by,
            SinkVerdict::Stop => return Ok(()),
        }
    }
    fault.map_or(Ok(()), |kind| Err(PushFault::new(kind)))
}

pub struct World {
    pub store: Arc<dyn Store>,
    pub transport: Arc<Scripted>,
    partitions: u16,
    next_id: AtomicU64,
    sessions: AtomicU64,
}

/// A dispatcher that runs.
pub struct Node {
    pub session: SessionId,
    pub pulse: Pulse,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Node {
    /// A clean stop.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) {
        self.task.await.unwrap();
    }

    /// As `kill -9`: everything it holds is gone at once.
    pub fn kill(self) {
        self.task.abort();
    }
}

/// A memory store whose clock follows the (paused) time of the runtime.
pub fn memory(partitions: u16) -> Arc<dyn Store> {
    memory_with(partitions, None)
}

/// … that keeps this many feed entries when its owner renews.
pub fn memory_with(partitions: u16, feed_keep: Option<usize>) -> Arc<dyn Store> {
    let start = Instant::now();
    let clock = MemoryClock::following(move || EPOCH.after(start.elapsed()));
    Arc::new(MemoryStore::new(MemoryOptions { partitions, feed_keep, ..MemoryOptions::new(clock) }))
}

impl World {
    pub fn new(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::over(memory(1), script)
    }

    pub fn over(store: Arc<dyn Store>, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let partitions = store.caps().partitions;
        let transport =
            Scripted { script: Box::new(script), seen: Mutex::default(), parts: Mutex::default(), order: AtomicU64::new(0) };
        Self { store, transport: Arc::new(transport), partitions, next_id: AtomicU64::new(1), sessions: AtomicU64::new(1) }
    }

    /// Starts a dispatcher with a session of its own.
    pub fn start(&self) -> Node {
        self.start_over(Arc::clone(&self.store))
    }

    /// … that sees the store through this one.
    pub fn start_over(&self, store: Arc<dyn Store>) -> Node {
        self.start_with(store, Options::default())
    }

    /// … with these settings.
    pub fn start_with(&self, store: Arc<dyn Store>, options: Options) -> Node {
        self.start_on(store, options, None)
    }

    /// … on a machine with this clock.
    pub fn start_on(&self, store: Arc<dyn Store>, options: Options, uptime: Option<Uptime>) -> Node {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let rng = Mutex::new(fastrand::Rng::with_seed(session));
        let mut dispatcher = Dispatcher::new(
            store,
            Arc::clone(&self.transport) as Arc<dyn Transport>,
            Registry::new(AddressPolicy::development()),
            SessionId(session),
            Arc::new(move || rng.lock().u64(..)),
            options,
        );
        if let Some(uptime) = uptime {
            dispatcher = dispatcher.with_uptime(uptime);
        }
        let (stop, pulse) = (CancellationToken::new(), dispatcher.pulse());
        let task = tokio::spawn(dispatcher.run(stop.clone(), Duration::from_secs(30)));
        Node { session: SessionId(session), pulse, stop, task }
    }

    pub async fn worker(&self, name: &str, pattern: &str, concurrency: u32) {
        let config = WorkerConfig {
            urls: vec!["http://127.0.0.1:9/".into()],
            tasks: vec![pattern.into()],
            concurrency: Some(concurrency),
            ..WorkerConfig::default()
        };
        self.put(DocKind::Worker, name, &config).await;
    }

    /// … that takes up to `most` tasks together.
    pub async fn batch_worker(&self, name: &str, pattern: &str, concurrency: u32, most: u16) {
        let config = WorkerConfig {
            urls: vec!["http://127.0.0.1:9/".into()],
            tasks: vec![pattern.into()],
            concurrency: Some(concurrency),
            batch: Some(WorkerBatch { max: most }),
            ..WorkerConfig::default()
        };
        self.put(DocKind::Worker, name, &config).await;
    }

    pub async fn put(&self, kind: DocKind, name: &str, content: &impl serde::Serialize) {
        let bytes = Some(serde_json::to_vec(content).unwrap().into());
        let put = DocPut { kind, ns: Ns::DEFAULT, name: name.into(), guard: DocGuard::Any, bytes };
        self.store.put_docs(vec![put]).await.unwrap();
    }

    /// A task with this signature.
    pub async fn submit(&self, spec: Spec) -> TaskKey {
        self.submit_with(spec, 4, None, None).await
    }

    pub async fn submit_with(&self, spec: Spec, priority: u8, due: Option<Millis>, expires: Option<Millis>) -> TaskKey {
        let n = self.next_id.load(Ordering::Relaxed);
        let slot = spec.bound(Ns::DEFAULT).unwrap_or(Slot::new((n * 1_237 % 4096) as u16));
        self.submit_at(slot, spec, priority, due, expires).await
    }

    /// … that lives there.
    pub async fn submit_at(&self, slot: Slot, spec: Spec, priority: u8, due: Option<Millis>, expires: Option<Millis>) -> TaskKey {
        let now = self.store.clock().now();
        let n = self.next_id.fetch_add(1, Ordering::Relaxed);
        let key = TaskKey::new(Ns::DEFAULT, IdRun::new(now, slot, n << 20).nth(0));
        let lane = spec.lane(Ns::DEFAULT, priority);
        let head = NewTask::first_head(&lane, priority, due, expires, now);
        let body = Body::encode(&spec.encode(), "", b"{\"args\":[],\"kwargs\":{}}");
        let task = NewTask { key: key.clone(), head, body, lane, root: None };
        let p = slot.partition(self.partitions);
        self.store.insert(p, vec![Insert::new(task, OnExists::Generated)], Mode::Each).await.unwrap();
        key
    }

    /// Asks a node to take nothing new, or to work again.
    pub async fn drain(&self, node: &Node, drain: bool) {
        let info = NodeInfo {
            name: "n".into(),
            roles: vec!["dispatcher".into()],
            version: "1".into(),
            pid: 1,
            url: None,
            started_at: EPOCH,
            drain,
        };
        self.put(DocKind::Node, &node.session.0.to_string(), &info).await;
    }

    /// How many partitions each of these owns.
    pub async fn owned(&self, nodes: &[&Node]) -> Vec<usize> {
        let mut owned = vec![0; nodes.len()];
        for p in 0..self.partitions {
            let owner = self.store.ownership(Partition(p)).await.unwrap().owner;
            if let Some(place) = nodes.iter().position(|node| owner.is_some_and(|(session, _)| session == node.session)) {
                owned[place] += 1;
            }
        }
        owned
    }

    /// Waits until the partitions are shared like this; answers how long it took.
    pub async fn until_owned(&self, nodes: &[&Node], wanted: &[usize]) -> Duration {
        let start = Instant::now();
        loop {
            let owned = self.owned(nodes).await;
            if owned == wanted {
                return start.elapsed();
            }
            assert!(start.elapsed() < Duration::from_secs(120), "never {wanted:?}, but {owned:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn partition(&self, key: &TaskKey) -> Partition {
        key.slot().partition(self.partitions)
    }

    pub async fn stored(&self, key: &TaskKey) -> Stored {
        let parts = Parts { body: true, result: true, attempts: true };
        self.store.get(self.partition(key), key, parts).await.unwrap().unwrap()
    }

    pub async fn head(&self, key: &TaskKey) -> Head {
        self.stored(key).await.head
    }

    /// Asks for a cancel as a gateway does; what has ended or is being canceled already stays as it is.
    pub async fn cancel(&self, key: &TaskKey, hard: bool) {
        self.happen(key, |_| Event::Cancel { hard, reason: Reason::Requested, grace: Duration::from_secs(10) }).await;
    }

    /// What a gateway makes happen; nothing if the rules refuse it.
    pub async fn happen(&self, key: &TaskKey, event: impl Fn(&Head) -> Event) {
        loop {
            let stored = self.stored(key).await;
            let spec = Spec::decode(&Body::decode(&stored.body.unwrap()).unwrap().spec).unwrap();
            let now = self.store.clock().now();
            let Ok(next) = decide(key, &stored.head, &spec, event(&stored.head), now, 0) else { return };
            let random = || (1 << 60) | (self.next_id.fetch_add(1, Ordering::Relaxed) << 20);
            let queue = spec.queue().into();
            let commit = Commit::of(key, stored.head, next, &spec, queue, None, now, random, self.partitions);
            let p = self.partition(key);
            let done = self.store.commit(p, SessionId(0), vec![commit], Mode::Each, lovage_store::Sync::Durable).await.unwrap();
            if done == [Committed::Ok] {
                return;
            }
        }
    }

    /// Waits (in paused time) until the task looks like this.
    pub async fn until(&self, key: &TaskKey, what: &str, check: impl Fn(&Head) -> bool) -> Head {
        let start = Instant::now();
        let limit = start + Duration::from_secs(2 * 24 * 3600);
        loop {
            let head = self.head(key).await;
            if check(&head) {
                return head;
            }
            assert!(Instant::now() < limit, "never {what}: {head:?}");
            // Paused time: the longer it takes, the coarser the steps.
            tokio::time::sleep((start.elapsed() / 200).max(Duration::from_millis(5))).await;
        }
    }

    pub async fn until_final(&self, key: &TaskKey) -> Head {
        self.until(key, "final", |head| head.state.is_final()).await
    }

    pub async fn until_state(&self, key: &TaskKey, state: State) -> Head {
        self.until(key, state.as_str(), |head| head.state == state).await
    }

    /// Waits until no task of the store, callbacks included, has anything before it.
    pub async fn until_quiet(&self) {
        let limit = Instant::now() + Duration::from_secs(2 * 24 * 3600);
        loop {
            let mut open = 0;
            for p in 0..self.partitions {
                let counts = self.store.counts(Partition(p)).await.unwrap();
                open += counts.iter().flat_map(|queue| &queue.states[..State::Succeeded as usize]).sum::<u64>();
            }
            if open == 0 {
                return;
            }
            assert!(Instant::now() < limit, "{open} tasks never end");
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }

    /// The pushes by task id, in order, whether they delivered it alone or with others.
    pub fn pushes(&self) -> HashMap<String, Vec<Seen>> {
        let mut out: HashMap<String, Vec<Seen>> = HashMap::new();
        let alone = self.transport.seen.lock().iter().filter(|seen| seen.batch() == 0).cloned().collect::<Vec<_>>();
        for seen in alone.into_iter().chain(self.transport.parts.lock().iter().cloned()) {
            out.entry(seen.id.clone()).or_default().push(seen);
        }
        for pushes in out.values_mut() {
            pushes.sort_by_key(|seen| seen.session_order);
        }
        out
    }
}

/// A call of a task by name.
pub fn call(task: &str) -> Spec {
    Spec { task: Some(task.into()), ..Spec::default() }
}
