//! The workers of all namespaces as this process knows them: a snapshot of the stored documents, exchanged when they
//! change, with gates that outlive the snapshots.

mod worker;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use arc_swap::ArcSwap;
use http::HeaderMap;
use lovage_core::classify::{Preset, StatusMap};
use lovage_core::instance::Recycling;
use lovage_core::rest::Rest;
use lovage_core::task_type::{Library, StoredType};
use lovage_core::worker::{DEFAULT_CONCURRENCY, InstanceConfig, SigningKey, SigningSecret, WorkerConfig, route};
use lovage_core::{
    LimitRule, Millis, Ns, Pause, QueueConfig, QueueLibrary, Queues, StoredLimit, TaskType, TaskTypes, worker_mark,
};
use lovage_store::{DocKind, Document, Store};
use metrics::{gauge, histogram};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::egress::{AddressPolicy, Target, sendable};
use crate::gate::Gate;
use crate::instances::InstanceState;
use crate::signing::Signer;

pub use self::worker::{Admission, Instance, Worker};

const PAGE: usize = 500;
const RETRY: Duration = Duration::from_millis(500);
/// The longest one call waits for a change of the documents.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What nothing uses any more is looked for whenever origins have doubled, from this number on.
const PRUNE_FROM: usize = 1_000;

#[derive(Default)]
struct Snapshot {
    workers: AHashMap<Ns, Vec<Arc<Worker>>>,
    signers: AHashMap<Ns, Signer>,
    types: Library,
    /// Tells whether anything that may start a task is another than before.
    print: u64,
    queues: QueueLibrary,
    limits: AHashMap<Ns, AHashMap<Box<str>, StoredLimit>>,
    /// Some rule says how many tasks may run at once.
    counts: bool,
    /// The documents have been read.
    loaded: bool,
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
        let in_use =
            |worker: &Arc<Worker>| Arc::strong_count(worker) > 1 || worker.instances.iter().any(|i| i.state.slots.open() > 0);
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
    states: Mutex<AHashMap<(Ns, String, Arc<str>), Arc<InstanceState>>>,
    /// Counts the turns of all instances.
    turns: Arc<AtomicU64>,
    next_gate: AtomicU64,
    freed: watch::Sender<u64>,
    changed: watch::Sender<u64>,
    errands: watch::Sender<Arc<Vec<Document>>>,
}

impl Registry {
    /// No workers yet.
    pub fn new(policy: AddressPolicy) -> Arc<Self> {
        Arc::new(Self {
            policy,
            snapshot: ArcSwap::default(),
            origins: Mutex::default(),
            gates: Mutex::default(),
            states: Mutex::default(),
            turns: Arc::default(),
            next_gate: AtomicU64::new(1),
            freed: watch::Sender::default(),
            changed: watch::channel(0).0,
            errands: watch::Sender::default(),
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

    /// Rises with every snapshot that [`Registry::changed`] tells of, after it is there.
    pub fn edition(&self) -> u64 {
        *self.changed.borrow()
    }

    /// What users want of workers now.
    pub fn errands(&self) -> watch::Receiver<Arc<Vec<Document>>> {
        self.errands.subscribe()
    }

    /// Whether the documents have been read: before that nothing is known of any rule.
    pub fn is_loaded(&self) -> bool {
        self.snapshot.load().loaded
    }

    /// Whether any queue, task type or key of a user's own has a stored rule of how many tasks may run at once.
    pub fn counts(&self) -> bool {
        self.snapshot.load().counts
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
        let state = Arc::new(InstanceState::new(Arc::clone(&gate), Arc::clone(&self.turns), now));
        let (name, capacity) = (Arc::clone(&url), DEFAULT_CONCURRENCY);
        let worker = Arc::new(Worker {
            name: origin.into(),
            mark: 0,
            config: WorkerConfig::default(),
            status_map: StatusMap::from(Preset::Qstash),
            signer: self.snapshot.load().signers.get(&ns).cloned(),
            headers: HeaderMap::new(),
            gate,
            instances: vec![Instance {
                name,
                url,
                target: None,
                state,
                others: Vec::new(),
                since: Millis(0),
                capacity,
                until: None,
            }],
            recycling: Recycling::default(),
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

    fn state(&self, ns: Ns, worker: &str, url: &Arc<str>, gate: &Arc<Gate>, now: Millis) -> Arc<InstanceState> {
        let mut states = self.states.lock();
        let entry = states.entry((ns, worker.to_owned(), Arc::clone(url)));
        let new = || Arc::new(InstanceState::new(Arc::clone(gate), Arc::clone(&self.turns), now));
        Arc::clone(entry.or_insert_with(new))
    }

    /// Reads all documents and shows them to the owners. Answers when a secret of now runs out: then they must be read anew.
    pub async fn load(&self, store: &dyn Store) -> lovage_store::Result<Option<Millis>> {
        let now = store.clock().now();
        let mut print = Print::default();
        // Workers first: whoever finds a worker here finds all that was stored before it too.
        let workers = all(store, DocKind::Worker, &mut print).await?;
        let mut instances: AHashMap<(Ns, String), Vec<(String, InstanceConfig)>> = AHashMap::new();
        for doc in all(store, DocKind::Instance, &mut print).await? {
            let (Some((worker, name)), Some(config)) = (doc.name.split_once('/'), read::<InstanceConfig>(&doc)) else { continue };
            print.instance(&doc, &config, now);
            instances.entry((doc.ns, worker.to_owned())).or_default().push((name.to_owned(), config));
        }
        let mut recycling: AHashMap<(Ns, String), Recycling> = AHashMap::new();
        for doc in all(store, DocKind::Recycling, &mut print).await? {
            let Some(state) = read::<Recycling>(&doc) else { continue };
            recycling.insert((doc.ns, doc.name), state);
        }
        let types = all(store, DocKind::TaskType, &mut print).await?;
        let counts = types.iter().any(says_concurrency);
        let stored = types.iter().map(|doc| StoredType {
            ns: doc.ns,
            pattern: &doc.name,
            version: doc.version,
            bytes: doc.bytes.as_deref().unwrap_or_default(),
        });
        let types = self.snapshot.load().types.next(stored, |doc, problem| {
            tracing::error!(namespace = doc.ns.0, pattern = doc.pattern, %problem, "a stored task type cannot be used");
        });
        let queue_docs = all(store, DocKind::Queue, &mut print).await?;
        let stored = queue_docs.iter().map(|doc| (doc.ns, &*doc.name, doc.bytes.as_deref().unwrap_or_default()));
        let queues = QueueLibrary::read(stored, |ns, queue, error| {
            tracing::error!(namespace = ns.0, queue, %error, "a stored queue cannot be used");
        });
        let counts = counts || queue_docs.iter().any(says_concurrency);
        let mut snapshot = Snapshot { types, queues, counts, loaded: true, ..Snapshot::default() };
        for doc in all(store, DocKind::Limit, &mut print).await? {
            let Some(limit) = read::<StoredLimit>(&doc) else { continue };
            snapshot.counts |= limit.rule.concurrency.is_some();
            snapshot.limits.entry(doc.ns).or_default().insert(doc.name.into(), limit);
        }
        let mut ends = Vec::new();
        for doc in all(store, DocKind::SigningKey, &mut print).await? {
            let Some(key) = read::<SigningKey>(&doc) else { continue };
            ends.extend(key.secrets.iter().filter_map(|secret| secret.until));
            if let Some(signer) = signer(&key.secrets, now) {
                snapshot.signers.insert(doc.ns, signer);
            }
        }
        // After the workers that they are about.
        let errands = all(store, DocKind::Errand, &mut Print::default()).await?;
        for doc in workers {
            let Some(config) = read::<WorkerConfig>(&doc) else { continue };
            ends.extend(config.signing.iter().filter_map(|secret| secret.until));
            let key = (doc.ns, doc.name.clone());
            let registered = instances.remove(&key).unwrap_or_default();
            let recycling = recycling.remove(&key).unwrap_or_default();
            snapshot.workers.entry(doc.ns).or_default().push(Arc::new(self.build(&doc, config, registered, recycling, now)));
        }
        let mut origins = self.origins.lock();
        origins.prune();
        // Those in use keep their counts and take the keys of now.
        for ((ns, _), worker) in &mut origins.workers {
            *worker = Arc::new(Worker { signer: snapshot.signers.get(ns).cloned(), ..Worker::clone(worker) });
        }
        gauge!("lovage_registry_entries", "kind" => "origins").set(origins.workers.len() as f64);
        drop(origins);
        snapshot.print = print.0.finish();
        let before = self.snapshot.swap(Arc::new(snapshot));
        // One that lapsed and came back is new to whoever found nobody meanwhile.
        let lapsed = before.workers.values().flatten().any(|worker| worker.instances.iter().any(|i| !i.is_live(now)));
        self.errands.send_if_modified(|shown| {
            let other = **shown != errands;
            if other {
                *shown = Arc::new(errands);
            }
            other
        });
        let is_other = lapsed || !before.loaded || before.print != self.snapshot.load().print;
        // What only that one held is of no use any more.
        drop(before);
        self.forget_unused(now);
        if is_other {
            self.tell_changed();
        }
        Ok(ends.into_iter().filter(|end| *end > now).min())
    }

    /// A lane that found no instance may find one now.
    pub fn tell_changed(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// The registered workers that are called.
    pub fn called(&self) -> Vec<(Ns, Arc<Worker>)> {
        let snapshot = self.snapshot.load();
        let called = |ns: &Ns, worker: &Arc<Worker>| (!worker.config.pull).then(|| (*ns, Arc::clone(worker)));
        snapshot.workers.iter().flat_map(|(ns, workers)| workers.iter().filter_map(|worker| called(ns, worker))).collect()
    }

    /// Forgets the slots and gates of workers that are gone, once nothing is open there and their pause is over.
    fn forget_unused(&self, now: Millis) {
        let mut states = self.states.lock();
        // An open push holds the slots and no more.
        states.retain(|_, state| Arc::strong_count(state) > 1 || state.slots.open() > 0);
        gauge!("lovage_registry_entries", "kind" => "instances").set(states.len() as f64);
        drop(states);
        let mut gates = self.gates.lock();
        gates.retain(|_, gate| Arc::strong_count(gate) > 1 || gate.remembers(now));
        gauge!("lovage_registry_entries", "kind" => "gates").set(gates.len() as f64);
    }

    fn build(
        &self,
        doc: &Document,
        config: WorkerConfig,
        registered: Vec<(String, InstanceConfig)>,
        recycling: Recycling,
        now: Millis,
    ) -> Worker {
        let gate = self.gate(doc.ns, &doc.name);
        let place = |name: &str, url: &str, (capacity, until, since): (Option<u32>, Option<Millis>, Millis)| {
            let url: Arc<str> = url.into();
            let state = self.state(doc.ns, &doc.name, &url, &gate, now);
            state.begin(recycling.born(name, since));
            state.drain(recycling.turn.as_ref().filter(|turn| turn.instance == name).map_or(Millis(0), |turn| turn.since));
            if config.health.is_none() {
                state.forget_probes();
            }
            let capacity = capacity.unwrap_or_else(|| config.concurrency());
            Instance { name: name.into(), target: self.target(&url), url, state, others: Vec::new(), since, capacity, until }
        };
        let mut instances: Vec<Instance> = config.urls.iter().map(|url| place(url, url, (None, None, Millis(0)))).collect();
        // Whoever pulls is never called, whatever instances it had before.
        let registered = if config.pull { Vec::new() } else { registered };
        for (name, it) in registered.iter().filter(|(_, it)| it.until > now) {
            // What starts anew may come under another name while the old one is not over: it is one place all the same.
            let same = instances.iter().position(|known| *known.url == *it.url);
            let later = same.is_none_or(|at| instances[at].until.is_some_and(|until| until < it.until));
            if later {
                let place = place(name, &it.url, (it.capacity, Some(it.until), it.since));
                match same {
                    Some(at) => instances[at] = place,
                    None => instances.push(place),
                }
            }
        }
        Worker {
            mark: worker_mark(&doc.name),
            status_map: config.status_map.clone().unwrap_or_default(),
            signer: signer(&config.signing, now),
            headers: sendable(&config.headers),
            name: doc.name.as_str().into(),
            gate,
            recycling,
            instances,
            config,
        }
    }

    /// Keeps the snapshot fresh until `stop`.
    pub async fn watch(self: Arc<Self>, store: Arc<dyn Store>, stop: CancellationToken) {
        let (mut seen, mut stale) = (None, None);
        let (mut rest, mut ended) = (Rest::default(), Instant::now());
        while !stop.is_cancelled() {
            let step = async {
                let now = || store.clock().now();
                let wait = stale.map_or(LOOK_AGAIN, |end: Millis| end.since(now()).min(LOOK_AGAIN));
                // The number is read before the documents: a change in between is seen at the next turn.
                let version = store.doc_version(seen.unwrap_or(u64::MAX), wait).await?;
                if seen == Some(version) && stale.is_none_or(|end| end > now()) {
                    return Ok((version, stale));
                }
                let started = Instant::now();
                let end = self.load(&*store).await?;
                let took = started.elapsed();
                histogram!("lovage_registry_load_seconds").record(took.as_secs_f64());
                // However often instances renew their leases: most of the time is left for other work.
                tokio::time::sleep(rest.after(took, started.duration_since(ended))).await;
                ended = Instant::now();
                Ok::<_, lovage_store::Error>((version, end))
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

/// What was read, as one number.
#[derive(Default)]
struct Print(DefaultHasher);

impl Print {
    fn document(&mut self, doc: &Document) {
        (doc.kind as u8, doc.ns, &doc.name, doc.version).hash(&mut self.0);
    }

    /// Without the end of its lease: as long as it is renewed in time, nothing has changed.
    fn instance(&mut self, doc: &Document, it: &InstanceConfig, now: Millis) {
        (doc.ns, &doc.name, &it.url, it.capacity, &it.version, it.until > now).hash(&mut self.0);
    }
}

async fn all(store: &dyn Store, kind: DocKind, print: &mut Print) -> lovage_store::Result<Vec<Document>> {
    let (mut out, mut after) = (Vec::new(), None);
    loop {
        let page = store.docs(kind, None, after, PAGE).await?;
        if kind != DocKind::Instance {
            page.items.iter().for_each(|doc| print.document(doc));
        }
        out.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(out),
        }
    }
}

/// Whether a document of a queue or a task type says how many of its tasks may run at once.
fn says_concurrency(doc: &Document) -> bool {
    let rule = serde_json::from_slice::<LimitRule>(doc.bytes.as_deref().unwrap_or_default());
    rule.is_ok_and(|rule| rule.concurrency.is_some())
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
mod tests;
