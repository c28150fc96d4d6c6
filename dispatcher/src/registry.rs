//! The workers of all namespaces as this process knows them: a snapshot of the stored documents, exchanged when they
//! change, with gates that outlive the snapshots.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use arc_swap::ArcSwap;
use http::HeaderMap;
use lovage_core::board::InstanceBoard;
use lovage_core::classify::{Preset, StatusMap};
use lovage_core::task_type::{Library, StoredType};
use lovage_core::worker::{DEFAULT_CONCURRENCY, InstanceConfig, SigningKey, SigningSecret, WorkerConfig, route};
use lovage_core::{
    LimitRule, Millis, Ns, Pause, QueueConfig, QueueLibrary, Queues, StoredLimit, TaskType, TaskTypes, worker_mark,
};
use lovage_store::{DocKind, Document, Store};
use metrics::gauge;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::egress::{AddressPolicy, Target, sendable};
use crate::gate::{Gate, Held, Slot, Slots};
use crate::signing::Signer;

const PAGE: usize = 500;
const RETRY: Duration = Duration::from_millis(500);
/// The longest one call waits for a change of the documents.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What nothing uses any more is looked for whenever origins have doubled, from this number on.
const PRUNE_FROM: usize = 1_000;

/// Where a task can be pushed to.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Its name; for a bare URL the origin.
    pub name: Arc<str>,
    /// `worker_mark` of the name; 0 for a bare URL.
    pub mark: u32,
    /// What it was registered with.
    pub config: WorkerConfig,
    /// What its statuses mean.
    pub status_map: StatusMap,
    /// Signs deliveries; `None` if there is no usable secret.
    pub signer: Option<Signer>,
    /// Headers added to every delivery.
    pub headers: HeaderMap,
    /// Its gate.
    pub gate: Arc<Gate>,
    instances: Vec<Instance>,
}

/// One place where a worker is called.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its URL as registered.
    pub url: Arc<str>,
    /// The parsed URL, judged by the address policy; `None`: it may not be called.
    pub target: Option<Arc<Target>>,
    capacity: u32,
    until: Option<Millis>,
    slots: Arc<Slots>,
}

/// What the admission of a task found.
pub enum Admission {
    /// This slot of this instance.
    Slot(Slot, Instance),
    /// All instances are busy.
    Busy,
    /// It wants to be left alone until then.
    Paused(Millis),
    /// There is no live instance.
    NoInstance,
}

impl Worker {
    /// A slot of the instance with the fewest open pushes. Askers that wait for the worker's pace take turns.
    pub fn admit(&self, now: Millis, asker: u64) -> Admission {
        if let Some(pause) = self.config.paused(now) {
            // The end of one without an end is a change of the document, which opens all lanes.
            return Admission::Paused(pause.until.unwrap_or(Millis::MAX));
        }
        if self.live(now).next().is_none() {
            return Admission::NoInstance;
        }
        for asked in [false, true] {
            match self.gate.admit(now, asker, || self.load(now), || self.place(now)) {
                Ok((slot, instance)) => return Admission::Slot(slot, instance),
                Err(Held::Until(until)) => return Admission::Paused(until),
                // A slot that is freed between looking and asking would be missed: ask, then look once more.
                Err(Held::Busy) if !asked => self.gate.want(),
                Err(Held::Busy) => {}
            }
        }
        Admission::Busy
    }

    fn live(&self, now: Millis) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(move |i| i.until.is_none_or(|until| until > now))
    }

    fn place(&self, now: Millis) -> Option<(Slot, Instance)> {
        let mut free: Vec<&Instance> = self.live(now).filter(|i| i.slots.open() < i.capacity).collect();
        free.sort_by_key(|i| i.slots.open());
        free.into_iter().find_map(|i| Some((i.slots.take(i.capacity)?, i.clone())))
    }

    /// Open pushes, and how many there may be.
    fn load(&self, now: Millis) -> (u32, u32) {
        self.live(now).fold((0, 0), |(open, slots), i| (open + i.slots.open(), slots.saturating_add(i.capacity)))
    }

    /// Open pushes.
    pub fn open(&self, now: Millis) -> u32 {
        self.load(now).0
    }

    /// Slots that are free now.
    pub fn free(&self, now: Millis) -> u32 {
        self.live(now).map(|i| i.capacity.saturating_sub(i.slots.open())).sum()
    }

    /// Live instances.
    pub fn board(&self, now: Millis) -> Vec<InstanceBoard> {
        let shown = |i: &Instance| InstanceBoard {
            url: i.url.to_string(),
            open: i.slots.open(),
            slots: i.capacity,
            ..InstanceBoard::default()
        };
        self.live(now).map(shown).collect()
    }
}

#[derive(Default)]
struct Snapshot {
    workers: AHashMap<Ns, Vec<Arc<Worker>>>,
    signers: AHashMap<Ns, Signer>,
    types: Library,
    queues: QueueLibrary,
    limits: AHashMap<Ns, AHashMap<Box<str>, StoredLimit>>,
}

#[derive(Default)]
struct Origins {
    workers: AHashMap<(Ns, String), Arc<Worker>>,
    /// How many there were when unused ones were last looked for.
    pruned: usize,
}

impl Origins {
    /// Forgets those that nobody pushes to: they are made anew when they are needed.
    fn prune(&mut self) {
        let in_use = |worker: &Arc<Worker>| {
            Arc::strong_count(worker) > 1 || worker.instances.iter().any(|i| Arc::strong_count(&i.slots) > 1)
        };
        self.workers.retain(|_, worker| in_use(worker));
        self.pruned = self.workers.len();
    }
}

/// See the module.
pub struct Registry {
    policy: AddressPolicy,
    snapshot: ArcSwap<Snapshot>,
    origins: Mutex<Origins>,
    gates: Mutex<AHashMap<(Ns, String), Arc<Gate>>>,
    slots: Mutex<AHashMap<(Ns, String, Arc<str>), Arc<Slots>>>,
    next_gate: AtomicU64,
    freed: watch::Sender<u64>,
    changed: watch::Sender<u64>,
}

impl Registry {
    /// No workers yet.
    pub fn new(policy: AddressPolicy) -> Arc<Self> {
        Arc::new(Self {
            policy,
            snapshot: ArcSwap::default(),
            origins: Mutex::default(),
            gates: Mutex::default(),
            slots: Mutex::default(),
            next_gate: AtomicU64::new(1),
            freed: watch::Sender::default(),
            changed: watch::channel(0).0,
        })
    }

    /// The rules for addresses.
    pub fn policy(&self) -> &AddressPolicy {
        &self.policy
    }

    /// Changes when a wanted slot is free.
    pub fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }

    /// Changes with every new snapshot.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether the documents have been read: before that nothing is known of any rule.
    pub fn is_loaded(&self) -> bool {
        *self.changed.borrow() > 0
    }

    /// The worker that serves this task.
    pub fn worker(&self, ns: Ns, queue: &str, task: &str) -> Option<Arc<Worker>> {
        let snapshot = self.snapshot.load();
        let workers = snapshot.workers.get(&ns)?;
        let by_type = snapshot.types.of(ns).and_then(|types| types.worker_of(task));
        let by_queue = || snapshot.queues.get(ns, queue)?.worker.as_deref();
        if let Some(name) = by_type.or_else(by_queue) {
            return workers.iter().find(|worker| &*worker.name == name).cloned();
        }
        route(workers.iter().map(|w| (&*w.name, &w.config, w)), queue, task).cloned()
    }

    /// The task types of a namespace, for the signatures that its workers answer.
    pub fn types(&self, ns: Ns) -> Option<Arc<TaskTypes>> {
        self.snapshot.load().types.of(ns).cloned()
    }

    /// What a queue says, if it says anything.
    pub fn queue(&self, ns: Ns, name: &str) -> Option<Arc<QueueConfig>> {
        self.snapshot.load().queues.get(ns, name).cloned()
    }

    /// The queues of a namespace that say anything.
    pub fn queues(&self, ns: Ns) -> Option<Arc<Queues>> {
        self.snapshot.load().queues.of(ns).cloned()
    }

    /// The pause of queue or task type that keeps tasks of this queue, and of this name if they have one, from starting.
    pub fn pause(&self, ns: Ns, queue: &str, task: Option<&str>, now: Millis) -> Option<Pause> {
        let snapshot = self.snapshot.load();
        let of_queue = snapshot.queues.get(ns, queue).and_then(|queue| queue.dispatch_closed(now));
        let of_type = || snapshot.types.of(ns)?.of(task?)?.pause(now).filter(|pause| pause.dispatch);
        of_queue.into_iter().chain(of_type()).reduce(Pause::later)
    }

    /// What is stored under a key of `limits`; in force until the next snapshot.
    pub fn limit(&self, ns: Ns, key: &str) -> Option<StoredLimit> {
        self.snapshot.load().limits.get(&ns)?.get(key).copied()
    }

    /// The rule of the key `task:NAME`, if the type of this task limits it.
    pub fn task_rule(&self, ns: Ns, task: &str) -> Option<LimitRule> {
        self.snapshot.load().types.of(ns)?.of(task).map(TaskType::rule).filter(|rule| !rule.is_free())
    }

    /// The worker with this mark.
    pub fn marked(&self, ns: Ns, mark: u32) -> Option<Arc<Worker>> {
        self.snapshot.load().workers.get(&ns)?.iter().find(|worker| worker.mark == mark).cloned()
    }

    /// The worker with this name.
    pub fn named(&self, ns: Ns, name: &str) -> Option<Arc<Worker>> {
        self.snapshot.load().workers.get(&ns)?.iter().find(|worker| &*worker.name == name).cloned()
    }

    /// All workers, and the origins that something is or was sent to lately.
    pub fn all(&self) -> Vec<(Ns, Arc<Worker>)> {
        let snapshot = self.snapshot.load();
        let workers = snapshot.workers.iter().flat_map(|(ns, workers)| workers.iter().map(|worker| (*ns, Arc::clone(worker))));
        let origins = self.origins.lock();
        workers.chain(origins.workers.iter().map(|((ns, _), worker)| (*ns, Arc::clone(worker)))).collect()
    }

    /// The stand-in for a worker of an origin, if something is or was sent there lately.
    pub fn known_origin(&self, ns: Ns, origin: &str) -> Option<Arc<Worker>> {
        self.origins.lock().workers.get(&(ns, origin.to_owned())).cloned()
    }

    /// The stand-in for a worker of an origin of bare URLs.
    pub fn origin(&self, ns: Ns, origin: &str, now: Millis) -> Arc<Worker> {
        let mut origins = self.origins.lock();
        if let Some(worker) = origins.workers.get(&(ns, origin.to_owned())) {
            return Arc::clone(worker);
        }
        if origins.workers.len() >= PRUNE_FROM.max(origins.pruned * 2) {
            origins.prune();
            self.forget_unused(now);
        }
        let gate = self.gate(ns, origin);
        let url: Arc<str> = origin.into();
        let slots = Arc::new(Slots::new(Arc::clone(&gate)));
        let worker = Arc::new(Worker {
            name: origin.into(),
            mark: 0,
            config: WorkerConfig::default(),
            status_map: StatusMap::from(Preset::Qstash),
            signer: self.snapshot.load().signers.get(&ns).cloned(),
            headers: HeaderMap::new(),
            gate,
            instances: vec![Instance { url, target: None, capacity: DEFAULT_CONCURRENCY, until: None, slots }],
        });
        origins.workers.insert((ns, origin.to_owned()), Arc::clone(&worker));
        gauge!("lovage_registry_entries", "kind" => "origins").set(origins.workers.len() as f64);
        worker
    }

    /// Parses and judges a URL.
    pub fn target(&self, url: &str) -> Option<Arc<Target>> {
        Target::parse(url, &self.policy).ok().map(Arc::new)
    }

    /// How many slots are free at each of these gates now; of later ones their [`Registry::freed`] tells. Any number at a gate
    /// that has been forgotten: whoever waits for it finds a new one.
    pub fn free(&self, gates: &[u64], now: Millis) -> Vec<(u64, usize)> {
        let snapshot = self.snapshot.load();
        let origins = self.origins.lock();
        let all = snapshot.workers.values().flatten().chain(origins.workers.values());
        let mut free: AHashMap<u64, usize> = gates.iter().map(|gate| (*gate, usize::MAX)).collect();
        for worker in all {
            if let Some(slots) = free.get_mut(&worker.gate.number) {
                // Asked for before they are counted: a slot freed in between is told.
                worker.gate.want();
                *slots = worker.free(now) as usize;
            }
        }
        free.into_iter().collect()
    }

    fn gate(&self, ns: Ns, name: &str) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        let gate = gates
            .entry((ns, name.to_owned()))
            .or_insert_with(|| Arc::new(Gate::new(self.next_gate.fetch_add(1, Ordering::Relaxed), self.freed.clone())));
        Arc::clone(gate)
    }

    fn slots(&self, ns: Ns, worker: &str, url: &Arc<str>, gate: &Arc<Gate>) -> Arc<Slots> {
        let mut slots = self.slots.lock();
        let entry = slots.entry((ns, worker.to_owned(), Arc::clone(url)));
        Arc::clone(entry.or_insert_with(|| Arc::new(Slots::new(Arc::clone(gate)))))
    }

    /// Reads all documents and shows them to the owners. Answers when a secret of now runs out: then they must be read anew.
    pub async fn load(&self, store: &dyn Store) -> lovage_store::Result<Option<Millis>> {
        let now = store.clock().now();
        // Workers first: whoever finds a worker here finds all that was stored before it too.
        let workers = all(store, DocKind::Worker).await?;
        let mut instances: AHashMap<(Ns, String), Vec<InstanceConfig>> = AHashMap::new();
        for doc in all(store, DocKind::Instance).await? {
            let (Some((worker, _)), Some(config)) = (doc.name.split_once('/'), read::<InstanceConfig>(&doc)) else { continue };
            instances.entry((doc.ns, worker.to_owned())).or_default().push(config);
        }
        let types = all(store, DocKind::TaskType).await?;
        let stored = types.iter().map(|doc| StoredType {
            ns: doc.ns,
            pattern: &doc.name,
            version: doc.version,
            bytes: doc.bytes.as_deref().unwrap_or_default(),
        });
        let types = self.snapshot.load().types.next(stored, |doc, problem| {
            tracing::error!(namespace = doc.ns.0, pattern = doc.pattern, %problem, "a stored task type cannot be used");
        });
        let queues = all(store, DocKind::Queue).await?;
        let stored = queues.iter().map(|doc| (doc.ns, &*doc.name, doc.bytes.as_deref().unwrap_or_default()));
        let queues = QueueLibrary::read(stored, |ns, queue, error| {
            tracing::error!(namespace = ns.0, queue, %error, "a stored queue cannot be used");
        });
        let mut snapshot = Snapshot { types, queues, ..Snapshot::default() };
        for doc in all(store, DocKind::Limit).await? {
            let Some(limit) = read::<StoredLimit>(&doc) else { continue };
            snapshot.limits.entry(doc.ns).or_default().insert(doc.name.into(), limit);
        }
        let mut ends = Vec::new();
        for doc in all(store, DocKind::SigningKey).await? {
            let Some(key) = read::<SigningKey>(&doc) else { continue };
            ends.extend(key.secrets.iter().filter_map(|secret| secret.until));
            if let Some(signer) = signer(&key.secrets, now) {
                snapshot.signers.insert(doc.ns, signer);
            }
        }
        for doc in workers {
            let Some(config) = read::<WorkerConfig>(&doc) else { continue };
            ends.extend(config.signing.iter().filter_map(|secret| secret.until));
            let registered = instances.remove(&(doc.ns, doc.name.clone())).unwrap_or_default();
            snapshot.workers.entry(doc.ns).or_default().push(Arc::new(self.build(&doc, config, registered, now)));
        }
        let mut origins = self.origins.lock();
        origins.prune();
        // Those in use keep their counts and take the keys of now.
        for ((ns, _), worker) in &mut origins.workers {
            *worker = Arc::new(Worker { signer: snapshot.signers.get(ns).cloned(), ..Worker::clone(worker) });
        }
        gauge!("lovage_registry_entries", "kind" => "origins").set(origins.workers.len() as f64);
        drop(origins);
        self.snapshot.store(Arc::new(snapshot));
        self.forget_unused(now);
        self.changed.send_modify(|n| *n += 1);
        Ok(ends.into_iter().filter(|end| *end > now).min())
    }

    /// Forgets the slots and gates of workers that are gone, once nothing is open there and their pause is over.
    fn forget_unused(&self, now: Millis) {
        let mut slots = self.slots.lock();
        slots.retain(|_, slots| Arc::strong_count(slots) > 1);
        gauge!("lovage_registry_entries", "kind" => "instances").set(slots.len() as f64);
        drop(slots);
        let mut gates = self.gates.lock();
        gates.retain(|_, gate| Arc::strong_count(gate) > 1 || gate.remembers(now));
        gauge!("lovage_registry_entries", "kind" => "gates").set(gates.len() as f64);
    }

    fn build(&self, doc: &Document, config: WorkerConfig, registered: Vec<InstanceConfig>, now: Millis) -> Worker {
        let gate = self.gate(doc.ns, &doc.name);
        let place = |url: &str, capacity: Option<u32>, until: Option<Millis>| {
            let url: Arc<str> = url.into();
            Instance {
                target: self.target(&url),
                capacity: capacity.unwrap_or_else(|| config.concurrency()),
                until,
                slots: self.slots(doc.ns, &doc.name, &url, &gate),
                url,
            }
        };
        let mut instances: Vec<Instance> = config.urls.iter().map(|url| place(url, None, None)).collect();
        // Whoever pulls is never called, whatever instances it had before.
        let registered = if config.pull { Vec::new() } else { registered };
        instances.extend(registered.iter().filter(|i| i.until > now).map(|i| place(&i.url, i.capacity, Some(i.until))));
        Worker {
            mark: worker_mark(&doc.name),
            status_map: config.status_map.clone().unwrap_or_default(),
            signer: signer(&config.signing, now),
            headers: sendable(&config.headers),
            name: doc.name.as_str().into(),
            gate,
            instances,
            config,
        }
    }

    /// Keeps the snapshot fresh until `stop`.
    pub async fn watch(self: Arc<Self>, store: Arc<dyn Store>, stop: CancellationToken) {
        let (mut seen, mut stale) = (None, None);
        while !stop.is_cancelled() {
            let step = async {
                let now = || store.clock().now();
                let wait = stale.map_or(LOOK_AGAIN, |end: Millis| end.since(now()).min(LOOK_AGAIN));
                // The number is read before the documents: a change in between is seen at the next turn.
                let version = store.doc_version(seen.unwrap_or(u64::MAX), wait).await?;
                let is_fresh = seen == Some(version) && stale.is_none_or(|end| end > now());
                Ok::<_, lovage_store::Error>((version, if is_fresh { stale } else { self.load(&*store).await? }))
            };
            let outcome = tokio::select! { () = stop.cancelled() => return, outcome = step => outcome };
            match outcome {
                Ok((version, end)) => (seen, stale) = (Some(version), end),
                Err(error) => {
                    error.log("read the workers");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

async fn all(store: &dyn Store, kind: DocKind) -> lovage_store::Result<Vec<Document>> {
    let (mut out, mut after) = (Vec::new(), None);
    loop {
        let page = store.docs(kind, None, after, PAGE).await?;
        out.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(out),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(doc: &Document) -> Option<T> {
    let parsed = serde_json::from_slice(doc.bytes.as_deref()?);
    parsed.map_err(|error| tracing::warn!(name = doc.name, %error, "a stored document cannot be read")).ok()
}

fn signer(secrets: &[SigningSecret], now: Millis) -> Option<Signer> {
    let live: Vec<&str> = secrets.iter().filter(|s| s.until.is_none_or(|until| until > now)).map(|s| s.secret.as_str()).collect();
    Signer::new(&live).ok()
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
