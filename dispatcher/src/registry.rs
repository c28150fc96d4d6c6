//! The workers of all namespaces as this process knows them: a snapshot of the stored documents, exchanged when they
//! change, with gates that outlive the snapshots.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use arc_swap::ArcSwap;
use http::HeaderMap;
use lovage_core::classify::{Preset, StatusMap};
use lovage_core::worker::{DEFAULT_CONCURRENCY, InstanceConfig, SigningKey, SigningSecret, WorkerConfig, route};
use lovage_core::{Millis, Ns, worker_mark};
use lovage_store::{DocKind, Document, Store};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::egress::{AddressPolicy, Target, check_user_headers};
use crate::gate::{Gate, Slot, Slots};
use crate::signing::Signer;

const PAGE: usize = 500;
const RETRY: Duration = Duration::from_millis(500);

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
    /// A slot of the instance with the fewest open pushes.
    pub fn admit(&self, now: Millis) -> Admission {
        if let Some(until) = self.gate.paused(now) {
            return Admission::Paused(until);
        }
        let live = || self.instances.iter().filter(|i| i.until.is_none_or(|until| until > now));
        if live().next().is_none() {
            return Admission::NoInstance;
        }
        for asked in [false, true] {
            let mut free: Vec<&Instance> = live().filter(|i| i.slots.open() < i.capacity).collect();
            free.sort_by_key(|i| i.slots.open());
            if let Some((slot, instance)) = free.iter().find_map(|i| Some((i.slots.take(i.capacity)?, (*i).clone()))) {
                return Admission::Slot(slot, instance);
            }
            // A slot that is freed between looking and asking would be missed: ask, then look once more.
            if !asked {
                self.gate.want();
            }
        }
        Admission::Busy
    }

    /// Slots that are free now.
    pub fn free(&self, now: Millis) -> u32 {
        let live = self.instances.iter().filter(|i| i.until.is_none_or(|until| until > now));
        live.map(|i| i.capacity.saturating_sub(i.slots.open())).sum()
    }
}

#[derive(Default)]
struct Snapshot {
    workers: AHashMap<Ns, Vec<Arc<Worker>>>,
    signers: AHashMap<Ns, Signer>,
}

/// See the module.
pub struct Registry {
    policy: AddressPolicy,
    snapshot: ArcSwap<Snapshot>,
    origins: Mutex<AHashMap<(Ns, String), Arc<Worker>>>,
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

    /// The worker that serves this task.
    pub fn worker(&self, ns: Ns, queue: &str, task: &str) -> Option<Arc<Worker>> {
        let snapshot = self.snapshot.load();
        let workers = snapshot.workers.get(&ns)?;
        route(workers.iter().map(|w| (&*w.name, &w.config, w)), queue, task).cloned()
    }

    /// The stand-in for a worker of an origin of bare URLs.
    pub fn origin(&self, ns: Ns, origin: &str) -> Arc<Worker> {
        let mut origins = self.origins.lock();
        if let Some(worker) = origins.get(&(ns, origin.to_owned())) {
            return Arc::clone(worker);
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
        origins.insert((ns, origin.to_owned()), Arc::clone(&worker));
        worker
    }

    /// Parses and judges a URL.
    pub fn target(&self, url: &str) -> Option<Arc<Target>> {
        Target::parse(url, &self.policy).ok().map(Arc::new)
    }

    /// How many slots are free at each of these gates now; of later ones their [`Registry::freed`] tells.
    pub fn free(&self, gates: &[u64], now: Millis) -> Vec<(u64, usize)> {
        let snapshot = self.snapshot.load();
        let origins = self.origins.lock();
        let all = snapshot.workers.values().flatten().chain(origins.values());
        let asked = all.filter(|w| gates.contains(&w.gate.number));
        asked
            .map(|w| {
                // Asked for before they are counted: a slot freed in between is told.
                w.gate.want();
                (w.gate.number, w.free(now) as usize)
            })
            .collect()
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

    /// Reads all documents and shows them to the owners.
    pub async fn load(&self, store: &dyn Store) -> lovage_store::Result<()> {
        let now = store.clock().now();
        let mut instances: AHashMap<(Ns, String), Vec<InstanceConfig>> = AHashMap::new();
        for doc in all(store, DocKind::Instance).await? {
            let (Some((worker, _)), Some(config)) = (doc.name.split_once('/'), read::<InstanceConfig>(&doc)) else { continue };
            instances.entry((doc.ns, worker.to_owned())).or_default().push(config);
        }
        let mut snapshot = Snapshot::default();
        for doc in all(store, DocKind::SigningKey).await? {
            if let Some(signer) = read::<SigningKey>(&doc).and_then(|key| signer(&key.secrets, now)) {
                snapshot.signers.insert(doc.ns, signer);
            }
        }
        for doc in all(store, DocKind::Worker).await? {
            let Some(config) = read::<WorkerConfig>(&doc) else { continue };
            let registered = instances.remove(&(doc.ns, doc.name.clone())).unwrap_or_default();
            snapshot.workers.entry(doc.ns).or_default().push(Arc::new(self.build(&doc, config, registered, now)));
        }
        // Idle origins are made anew when they are needed; busy ones keep their counts and take the keys of now.
        self.origins.lock().retain(|(ns, _), worker| {
            let in_use = worker.instances.iter().any(|i| Arc::strong_count(&i.slots) > 1);
            let busy = in_use || Arc::strong_count(worker) > 1;
            if busy {
                *worker = Arc::new(Worker { signer: snapshot.signers.get(ns).cloned(), ..Worker::clone(worker) });
            }
            busy
        });
        self.snapshot.store(Arc::new(snapshot));
        self.changed.send_modify(|n| *n += 1);
        Ok(())
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
        instances.extend(registered.iter().filter(|i| i.until > now).map(|i| place(&i.url, i.capacity, Some(i.until))));
        Worker {
            mark: worker_mark(&doc.name),
            status_map: config.status_map.clone().unwrap_or_default(),
            signer: signer(&config.signing, now),
            headers: check_user_headers(config.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()))).unwrap_or_default(),
            name: doc.name.as_str().into(),
            gate,
            instances,
            config,
        }
    }

    /// Keeps the snapshot fresh until `stop`.
    pub async fn watch(self: Arc<Self>, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut seen = None;
        while !stop.is_cancelled() {
            let step = async {
                // The number is read before the documents: a change in between is seen at the next turn.
                let version = store.doc_version(seen.unwrap_or(u64::MAX), Duration::from_secs(30)).await?;
                if seen != Some(version) {
                    self.load(&*store).await?;
                }
                Ok::<u64, lovage_store::Error>(version)
            };
            let outcome = tokio::select! { () = stop.cancelled() => return, outcome = step => outcome };
            match outcome {
                Ok(version) => seen = Some(version),
                Err(error) => {
                    tracing::warn!(%error, "cannot read the workers; trying again");
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
