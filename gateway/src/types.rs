//! The task types as this gateway knows them, kept fresh by the store's document version.
//!
//! A submit reads them with one atomic load. Before they were read for the first time nobody knows that there are none, so
//! the first submit after a start waits for them.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use lovage_core::task_type::{Library, StoredType};
use lovage_core::{Ns, Patch, Rules, Spec, TaskTypes};
use lovage_store::{DocKind, Result, Store};
use tokio::sync::Mutex;

use crate::app::App;
use crate::directory::all_docs;

/// The task types of a namespace, if it has any.
pub(crate) type Types = Option<Arc<TaskTypes>>;

/// All task types, as last read.
#[derive(Default)]
pub(crate) struct TypeCache {
    /// `None`: not read yet.
    library: ArcSwapOption<Library>,
    /// Held while reading, so that no reader undoes a later one.
    reading: Mutex<()>,
}

impl TypeCache {
    /// Reads them anew; answers whether other workers may get tasks now.
    pub(crate) async fn load(&self, store: &dyn Store) -> Result<bool> {
        let _reading = self.reading.lock().await;
        let documents = all_docs(store, DocKind::TaskType, None).await?;
        let stored = documents.iter().map(|document| StoredType {
            ns: document.ns,
            pattern: &document.name,
            version: document.version,
            bytes: document.bytes.as_deref().unwrap_or_default(),
        });
        let known = self.library.load_full().unwrap_or_default();
        let now = known.next(stored, |document, problem| {
            tracing::error!(
                namespace = document.ns.0,
                pattern = document.pattern,
                %problem,
                "a stored task type cannot be used"
            );
        });
        let rerouted = known.routes() != now.routes();
        self.library.store(Some(Arc::new(now)));
        Ok(rerouted)
    }

    /// The types of a namespace, as far as they were read.
    pub(crate) fn known(&self, ns: Ns) -> Types {
        self.library.load().as_ref().and_then(|library| library.of(ns).cloned())
    }
}

impl App {
    /// The task types of a namespace.
    pub(crate) async fn types(&self, ns: Ns) -> Result<Types> {
        if let Some(library) = &*self.types.library.load() {
            return Ok(library.of(ns).cloned());
        }
        self.types.load(&*self.store).await?;
        Ok(self.types.known(ns))
    }

    /// These changes for a task with this signature: where they say null, as its type says. `keep`: they will be
    /// stored, so their queue is made.
    pub(crate) async fn changes_of(&self, ns: Ns, patch: &Patch, spec: &Spec, keep: bool) -> Result<Patch> {
        let types = self.types(ns).await?;
        let changes = Rules { types: types.as_deref(), ..self.rules() }.reset(patch, spec.task.as_deref());
        if keep {
            self.directory.ensure_queues(self, ns, changes.queue.as_deref().into_iter()).await?;
        }
        Ok(changes)
    }
}
