//! What the gateway knows of queues and workers without asking: kept fresh by the store's document version.
//!
//! A queue is created on first use; the hot path only looks into a set.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use lovage_core::spec::DEFAULT_QUEUE;
use lovage_core::worker::{WorkerConfig, route};
use lovage_core::{Ns, QueueLibrary, Queues, worker_mark};
use lovage_store::{DocGuard, DocKind, DocPut, Result, Store, all_docs, follow_docs};
use parking_lot::RwLock;
use tokio::sync::Mutex;

use crate::app::App;
use crate::documents::content;
use crate::problem::Refusal;
use crate::types::TypeCache;

/// Queue names that are remembered; beyond it the store is asked again.
const REMEMBERED: usize = 100_000;

/// Names known from documents.
#[derive(Default)]
pub(crate) struct Directory {
    /// What queues say; `None`: not read yet.
    library: ArcSwapOption<QueueLibrary>,
    /// Held while queues are read, so that no reader undoes a later one.
    reading: Mutex<()>,
    queues: RwLock<AHashMap<Ns, AHashSet<String>>>,
    workers: ArcSwap<Workers>,
}

/// The workers of all namespaces.
#[derive(Default, PartialEq)]
struct Workers {
    names: AHashMap<(Ns, u32), Arc<str>>,
    /// By name, with what decides whose a task is and how it gets there.
    routes: AHashMap<Ns, Vec<(Arc<str>, WorkerConfig)>>,
}

impl Directory {
    /// Makes sure that each of these queues has a document.
    pub(crate) async fn ensure_queues<'q>(&self, app: &App, ns: Ns, queues: impl Iterator<Item = &'q str>) -> Result<()> {
        let mut missing: Vec<&str> = Vec::new();
        for queue in queues {
            let known = queue == DEFAULT_QUEUE || missing.contains(&queue) || self.knows_queue(ns, queue);
            if !known {
                missing.push(queue);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let content = serde_json::json!({ "created_at": app.now().rfc3339() }).to_string();
        let put = |name: &&str| DocPut {
            kind: DocKind::Queue,
            ns,
            name: (*name).to_owned(),
            guard: DocGuard::Absent,
            bytes: Some(Bytes::from(content.clone())),
        };
        // A refusal means that somebody else made it at the same moment.
        app.store.put_docs(missing.iter().map(put).collect()).await?;
        let mut queues = self.queues.write();
        let known = queues.entry(ns).or_default();
        if known.len() > REMEMBERED {
            known.clear();
        }
        known.extend(missing.into_iter().map(ToOwned::to_owned));
        Ok(())
    }

    fn knows_queue(&self, ns: Ns, queue: &str) -> bool {
        self.queues.read().get(&ns).is_some_and(|queues| queues.contains(queue))
    }

    /// The name of the worker with this mark, if it still exists.
    pub(crate) fn worker(&self, ns: Ns, mark: u32) -> Option<Arc<str>> {
        self.workers.load().names.get(&(ns, mark)).cloned()
    }

    /// What the queues of a namespace say; `None`: none says anything.
    pub(crate) async fn queues(&self, store: &dyn Store, ns: Ns) -> Result<Option<Arc<Queues>>> {
        if let Some(library) = &*self.library.load() {
            return Ok(library.of(ns).cloned());
        }
        self.load_queues(store).await?;
        Ok(self.known_queues(ns))
    }

    /// What the queues of a namespace say, as far as they were read.
    pub(crate) fn known_queues(&self, ns: Ns) -> Option<Arc<Queues>> {
        self.library.load().as_ref()?.of(ns).cloned()
    }

    /// Reads the queues anew. Answers whether any says something else than before.
    pub(crate) async fn load_queues(&self, store: &dyn Store) -> Result<bool> {
        let _reading = self.reading.lock().await;
        let documents = all_docs(store, DocKind::Queue, None).await?;
        let stored = documents.iter().map(|doc| (doc.ns, &*doc.name, doc.bytes.as_deref().unwrap_or_default()));
        let library = QueueLibrary::read(stored, |ns, queue, error| {
            tracing::error!(namespace = ns.0, queue, %error, "a stored queue cannot be used");
        });
        let mut queues: AHashMap<Ns, AHashSet<String>> = AHashMap::new();
        for document in documents {
            queues.entry(document.ns).or_default().insert(document.name);
        }
        *self.queues.write() = queues;
        let changed = self.library.load().as_deref() != Some(&library);
        if changed {
            self.library.store(Some(Arc::new(library)));
        }
        Ok(changed)
    }

    /// The name of the worker whose patterns serve this task.
    fn by_pattern(&self, ns: Ns, queue: &str, task: &str) -> Option<Arc<str>> {
        let workers = self.workers.load();
        let workers = workers.routes.get(&ns)?;
        route(workers.iter().map(|(name, config)| (&**name, config, name)), queue, task).cloned()
    }

    /// The worker with this name.
    fn named(&self, ns: Ns, name: &str) -> Option<Arc<str>> {
        let workers = self.workers.load();
        workers.routes.get(&ns)?.iter().find(|(own, _)| &**own == name).map(|(own, _)| own.clone())
    }

    /// Follows the documents for ever; tells when tasks may have become another worker's, or may start again.
    pub(crate) async fn watch(&self, store: &dyn Store, types: &TypeCache, rerouted: impl Fn()) {
        let read = || async {
            let workers = self.load(store).await?;
            let queues = self.load_queues(store).await?;
            if types.load(store).await? || queues || workers {
                rerouted();
            }
            Ok(None)
        };
        follow_docs(store, "read queues, workers and task types", read).await;
    }

    /// Answers whether the workers changed.
    async fn load(&self, store: &dyn Store) -> Result<bool> {
        let mut workers = Workers::default();
        for document in all_docs(store, DocKind::Worker, None).await? {
            let name: Arc<str> = document.name.as_str().into();
            workers.names.insert((document.ns, worker_mark(&name)), name.clone());
            // One that cannot be read serves nothing; whoever asks for it is told.
            let Ok(config) = content::<WorkerConfig>(&document) else { continue };
            let WorkerConfig { tasks, queues, pull, paused, .. } = config;
            let config = WorkerConfig { tasks, queues, pull, paused, ..WorkerConfig::default() };
            workers.routes.entry(document.ns).or_default().push((name, config));
        }
        let changed = **self.workers.load() != workers;
        if changed {
            self.workers.store(Arc::new(workers));
        }
        Ok(changed)
    }
}

impl App {
    /// The name of the worker that serves this task: the one that its type or its queue names, else the one with the
    /// closest pattern.
    pub(crate) fn route(&self, ns: Ns, queue: &str, task: &str) -> Option<Arc<str>> {
        match self.known_types(ns).worker_of(queue, task) {
            Some(name) => self.directory.named(ns, name),
            None => self.directory.by_pattern(ns, queue, task),
        }
    }

    /// The same with its configuration, read anew: the directory may be a moment behind.
    pub(crate) async fn serving(&self, ns: Ns, queue: &str, task: &str) -> Result<Option<(String, WorkerConfig)>, Refusal> {
        let documents = all_docs(&*self.store, DocKind::Worker, Some(ns)).await?;
        let mut workers = Vec::with_capacity(documents.len());
        for document in documents {
            workers.push((content::<WorkerConfig>(&document)?, document.name));
        }
        let types = self.types(ns).await?;
        if let Some(named) = types.worker_of(queue, task) {
            return Ok(workers.into_iter().find(|(_, name)| name == named).map(|(config, name)| (name, config)));
        }
        let all = workers.iter().map(|(config, name)| (name.as_str(), config, (name, config)));
        Ok(route(all, queue, task).map(|(name, config)| (name.clone(), config.clone())))
    }
}
