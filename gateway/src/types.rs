//! The task types and queues as this gateway knows them, kept fresh by the store's document version.
//!
//! A submit reads them with one atomic load each. Before they were read for the first time nobody knows that there are none, so
//! the first submit after a start waits for them.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use lovage_core::problem::{Code, Problem};
use lovage_core::task_type::{Library, StoredType};
use lovage_core::{Draft, LaneOrder, Millis, Ns, Patch, Pause, QueueConfig, Queues, Rules, Spec, TaskType, TaskTypes};
use lovage_store::{DocKind, Result, Store, all_docs};
use metrics::counter;
use tokio::sync::Mutex;

use crate::app::App;
use crate::problem::Refusal;

/// When a client may look again whether a pause without an end is over.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What task types and queues of a namespace say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Types {
    types: Option<Arc<TaskTypes>>,
    queues: Option<Arc<Queues>>,
}

impl Types {
    /// The rules with what they say.
    pub(crate) fn rules<'a>(&'a self, rules: Rules<'a>) -> Rules<'a> {
        Rules { types: self.types.as_deref(), queues: self.queues.as_deref(), ..rules }
    }

    /// What a queue says, if it says anything.
    pub(crate) fn queue(&self, name: &str) -> Option<&Arc<QueueConfig>> {
        self.queues.as_ref()?.get(name)
    }

    /// Whether no queue says anything.
    pub(crate) fn has_no_queues(&self) -> bool {
        self.queues.is_none()
    }

    /// The worker that gets a task because its type or its queue says so.
    pub(crate) fn worker_of(&self, queue: &str, task: &str) -> Option<&str> {
        let by_type = self.types.as_ref().and_then(|types| types.worker_of(task));
        by_type.or_else(|| self.queue(queue)?.worker.as_deref())
    }

    /// The type of a task.
    pub(crate) fn type_of(&self, task: &str) -> Option<&TaskType> {
        self.types.as_ref()?.of(task)
    }

    /// How many task types there are.
    pub(crate) fn type_count(&self) -> usize {
        self.types.as_ref().map_or(0, |types| types.len())
    }

    /// The pauses of queue and task type that hold now and close what `closes` asks about: the one that is over later.
    fn pause(&self, queue: &str, task: Option<&str>, now: Millis, closes: impl Fn(&Pause) -> bool) -> Option<Pause> {
        let of_queue = || self.queue(queue)?.pause(now);
        let of_type = || self.type_of(task?)?.pause(now);
        of_queue().into_iter().chain(of_type()).filter(closes).reduce(Pause::later)
    }

    /// The pause that keeps waiting tasks from starting.
    pub(crate) fn dispatch_pause(&self, queue: &str, task: Option<&str>, now: Millis) -> Option<Pause> {
        self.pause(queue, task, now, |pause| pause.dispatch)
    }

    /// Why a task is not taken: `queue_paused`.
    pub(crate) fn refusal(&self, draft: &Draft, now: Millis) -> Option<Problem> {
        let queue = draft.spec.queue();
        let pause = self.pause(queue, draft.spec.task.as_deref(), now, |pause| pause.intake)?;
        let whose = match self.queue(queue).and_then(|config| config.intake_closed(now)) {
            Some(_) => format!("queue `{queue}`"),
            None => format!("the type of task `{}`", draft.spec.task.as_deref().unwrap_or_default()),
        };
        let until = pause.until.map(|until| format!(" before {}", until.rfc3339())).unwrap_or_default();
        counter!("lovage_tasks_refused_total", "reason" => "queue_paused").increment(1);
        let wait = pause.until.map_or(LOOK_AGAIN, |until| until.since(now));
        Some(Problem::new(Code::QueuePaused, format!("{whose} takes no new tasks{until}")).after(wait))
    }
}

/// All task types, as last read.
#[derive(Default)]
pub(crate) struct TypeCache {
    /// `None`: not read yet.
    library: ArcSwapOption<Library>,
    /// Held while reading, so that no reader undoes a later one.
    reading: Mutex<()>,
}

impl TypeCache {
    /// Reads them anew. Answers whether any changed.
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
        let changed = !now.is_same(&known);
        self.library.store(Some(Arc::new(now)));
        Ok(changed)
    }
}

impl App {
    /// What task types and queues of a namespace say.
    pub(crate) async fn types(&self, ns: Ns) -> Result<Types> {
        let queues = self.directory.queues(&*self.store, ns).await?;
        if let Some(library) = &*self.types.library.load() {
            return Ok(Types { types: library.of(ns).cloned(), queues });
        }
        self.types.load(&*self.store).await?;
        Ok(self.known_types(ns))
    }

    /// The same as far as they were read.
    pub(crate) fn known_types(&self, ns: Ns) -> Types {
        let types = self.types.library.load().as_ref().and_then(|library| library.of(ns).cloned());
        Types { types, queues: self.directory.known_queues(ns) }
    }

    /// These changes for a task with this signature: where they say null, as its type or queue says. `keep`: they will be
    /// stored, so their queue is made.
    pub(crate) async fn changes_of(&self, ns: Ns, patch: &Patch, spec: &Spec, keep: bool) -> Result<Patch, Refusal> {
        let types = self.types(ns).await?;
        let changes = types.rules(self.rules()).reset(patch, spec.task.as_deref(), spec.queue());
        if changes.order == Some(LaneOrder::Fifo) {
            // All tasks of such a queue live together, and a task does not move.
            let message = "keeps its tasks in order of acceptance: a task cannot be moved there; replay it with this queue";
            return Err(Problem::invalid("/queue", message).into());
        }
        if keep {
            self.directory.ensure_queues(self, ns, changes.queue.as_deref().into_iter()).await?;
        }
        Ok(changes)
    }
}
