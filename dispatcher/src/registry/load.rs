//! Reading the stored documents into the snapshot that all owners look at.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use ahash::AHashMap;
use lovage_core::instance::Recycling;
use lovage_core::task_type::StoredType;
use lovage_core::worker::{InstanceConfig, SigningKey, SigningSecret, WorkerConfig};
use lovage_core::{LimitRule, Millis, Ns, QueueLibrary, StoredLimit, worker_mark};
use lovage_store::{DocKind, Document, Store, all_docs, follow_docs};
use metrics::{gauge, histogram};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Instance, Registry, Snapshot, Worker};
use crate::egress::sendable;
use crate::signing::Signer;

impl Registry {
    /// Keeps the snapshot fresh until `stop`.
    pub async fn watch(self: Arc<Self>, store: Arc<dyn Store>, stop: CancellationToken) {
        let read = || async {
            let started = Instant::now();
            let end = self.load(&*store).await?;
            histogram!("lovage_registry_load_seconds").record(started.elapsed().as_secs_f64());
            Ok(end)
        };
        stop.run_until_cancelled(follow_docs(&*store, "read the workers", read)).await;
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
    let documents = all_docs(store, kind, None).await?;
    if kind != DocKind::Instance {
        for doc in &documents {
            print.document(doc);
        }
    }
    Ok(documents)
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
