//! A cancel that goes on to what a task has started: children, links, and what those have started.
//!
//! The task itself is canceled first, so that its children cannot wake it. Then its tree is walked until a walk finds nothing
//! that is left to cancel: what ran meanwhile may have started something new, but a task that is canceled or asked to stop
//! starts nothing but the links of a success. Callbacks tell how it went; they are left alone.

use std::collections::HashMap;
use std::time::Duration;

use lovage_core::problem::{Code, Problem};
use lovage_core::worker::{DEFAULT_CANCEL_GRACE, WorkerConfig};
use lovage_core::{Event, Flags, Head, Ns, Partition, Reason, SessionId, Spec, TaskId, TaskKey, decide};
use lovage_store::{Commit, Committed, Cursor, DocKind, Index, Mode, Sync};

use crate::app::App;
use crate::documents::content;
use crate::problem::Refusal;
use crate::view::read_body;

/// Walks over a tree before its cancel is given up: each finds only what was started during the one before.
const WALKS: usize = 16;
/// Records that one call of the store reads or changes.
const PAGE: usize = 200;

/// A descendant that may have to be canceled.
struct Member {
    key: TaskKey,
    head: Head,
    spec: Spec,
}

impl App {
    /// Cancels what the task `top` has started, and answers how many of them it canceled or asked to stop.
    pub(crate) async fn cascade(&self, top: &TaskKey, spec: &Spec, hard: bool) -> Result<usize, Refusal> {
        let root = TaskKey::new(top.ns, spec.root.clone().unwrap_or_else(|| top.id.clone()));
        let p = self.home(&root).await?;
        let mut canceled = 0;
        for _ in 0..WALKS {
            let open = self.open_below(p, &root, top, hard).await?;
            if open.is_empty() {
                return Ok(canceled);
            }
            for members in open.chunks(PAGE.min(self.store.caps().max_batch.max(1))) {
                canceled += self.cancel_all(p, members, hard).await?;
            }
        }
        Err(Problem::new(Code::Overloaded, "the task starts others as fast as they are canceled; try again").into())
    }

    /// Those of the tree that come from `top` and are neither final nor asked to stop.
    async fn open_below(&self, p: Partition, root: &TaskKey, top: &TaskKey, hard: bool) -> Result<Vec<Member>, Refusal> {
        let (mut parents, mut open) = (HashMap::<TaskId, TaskId>::new(), Vec::new());
        let (index, mut from) = (Index::Members { root: root.clone() }, Cursor::default());
        let whole = root == top;
        loop {
            let page = self.store.scan(p, &index, from, PAGE).await?;
            // In the tree of a root all are its descendants, and what is over need not be read.
            let items: Vec<_> = page.items.into_iter().filter(|(_, head)| !whole || is_open(head, hard)).collect();
            let keys: Vec<TaskKey> = items.iter().map(|(key, _)| key.clone()).collect();
            let bodies = if keys.is_empty() { Vec::new() } else { self.store.bodies(p, &keys).await? };
            for ((key, head), body) in items.into_iter().zip(bodies) {
                // Gone meanwhile, or damaged: its own route tells.
                let Some((spec, _)) = read_body(body.as_ref()) else { continue };
                if let Some(parent) = spec.parent.clone().filter(|_| !whole) {
                    parents.insert(key.id.clone(), parent);
                }
                if is_open(&head, hard) && spec.callback.is_none() {
                    open.push(Member { key, head, spec });
                }
            }
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        open.retain(|member| whole || is_below(&parents, &member.key.id, &top.id));
        Ok(open)
    }

    /// Cancels these. One that moved meanwhile is left to the next walk.
    async fn cancel_all(&self, p: Partition, members: &[Member], hard: bool) -> Result<usize, Refusal> {
        let now = self.now();
        let (mut commits, mut graces) = (Vec::with_capacity(members.len()), Graces::default());
        for Member { key, head, spec } in members {
            let grace = graces.of(self, key.ns, head).await?;
            let event = Event::Cancel { hard, reason: Reason::Upstream, grace };
            if let Ok(transition) = decide(key, head, spec, event, now, self.random()) {
                let queue = spec.queue().into();
                commits.push(Commit::of(key, head.clone(), transition, spec, queue, None, now, || self.random()));
            }
        }
        if commits.is_empty() {
            return Ok(0);
        }
        let done = self.store.commit(p, SessionId(0), commits, Mode::Each, Sync::Durable).await?;
        Ok(done.iter().filter(|done| **done == Committed::Ok).count())
    }

    /// How long the attempt that is open in `head` may go on after a soft cancel. Of a pushed one the dispatcher takes care,
    /// so only of an accepted one the worker is looked up.
    pub(crate) async fn cancel_grace(&self, ns: Ns, head: &Head) -> Result<Duration, Refusal> {
        let Some(name) = self.directory.worker(ns, head.worker).filter(|_| head.is_accepted()) else {
            return Ok(DEFAULT_CANCEL_GRACE);
        };
        let worker = self.store.doc(DocKind::Worker, ns, &name).await?;
        let config = worker.as_ref().map(content::<WorkerConfig>).transpose()?;
        Ok(config.map_or(DEFAULT_CANCEL_GRACE, |config| config.cancel_grace()))
    }
}

/// The graces of workers that were looked up, for cancels of many.
#[derive(Default)]
pub(crate) struct Graces(HashMap<u32, Duration>);

impl Graces {
    /// As [`App::cancel_grace`]; each worker is looked up once.
    pub(crate) async fn of(&mut self, app: &App, ns: Ns, head: &Head) -> Result<Duration, Refusal> {
        if !head.is_accepted() {
            return Ok(DEFAULT_CANCEL_GRACE);
        }
        if let Some(grace) = self.0.get(&head.worker) {
            return Ok(*grace);
        }
        let grace = app.cancel_grace(ns, head).await?;
        self.0.insert(head.worker, grace);
        Ok(grace)
    }
}

fn is_open(head: &Head, hard: bool) -> bool {
    let asked = if hard { Flags::CANCEL.with(Flags::HARD) } else { Flags::CANCEL };
    !head.state.is_final() && !head.flags.has(asked)
}

/// Whether `top` is among the ancestors of `id`. There are at most as many as there are links between parent and child.
fn is_below(parents: &HashMap<TaskId, TaskId>, id: &TaskId, top: &TaskId) -> bool {
    let mut ancestors = std::iter::successors(parents.get(id), |parent| parents.get(*parent)).take(parents.len());
    ancestors.any(|ancestor| ancestor == top)
}
