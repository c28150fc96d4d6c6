//! The workers of all namespaces as this process knows them: a snapshot of the stored documents, exchanged when they
//! change, with gates that outlive the snapshots.

mod load;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use http::HeaderMap;
use lovage_core::classify::{Preset, StatusMap};
use lovage_core::instance::Recycling;
use lovage_core::task_type::Library;
use lovage_core::worker::{DEFAULT_CONCURRENCY, WorkerConfig, route};
use lovage_core::{LimitRule, Millis, Ns, Pause, QueueConfig, QueueLibrary, Queues, StoredLimit, TaskType, TaskTypes};
use lovage_store::Document;
use metrics::gauge;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::egress::{AddressPolicy, Target};
use crate::gate::Gate;
use crate::instances::InstanceState;
use crate::signing::Signer;

pub use self::worker::{Admission, Instance, Worker};

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
}

#[cfg(test)]
mod tests;
