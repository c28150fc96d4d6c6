//! Starts instances anew: sees when one has reached a bound, keeps new tasks from it, waits for what it has open, and asks its
//! worker's control URL to start it again.
//!
//! Any dispatcher may see to it. A document has room for one instance of a worker, so there is never a second at a time; all
//! dispatchers follow it. Who wrote it goes on, and if that one is gone another takes its place. An instance that does not start
//! anew is used again after a while: late tasks are better than none.

mod turn;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lovage_core::board::{Board, InstanceBoard};
use lovage_core::instance::{Counters, RecycleReason, Recycling, Turn};
use lovage_core::{Millis, Ns};
use lovage_store::{DocGuard, DocKind, DocOutcome, DocPut, Result};
use metrics::counter;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::owner::Shared;
use crate::registry::Worker;

/// How often counters are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A turn whose session shows nothing for so long is another's to go on with.
const ABANDONED: Duration = Duration::from_secs(10);

/// Watches until `stop`.
pub(crate) async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    let mut changed = shared.registry.changed();
    let mut watcher =
        Watcher { shared, turns: JoinSet::new(), mine: HashSet::new(), told: HashMap::new(), silent: HashMap::new() };
    loop {
        let busy = match watcher.look().await {
            Ok(busy) => busy,
            Err(error) => {
                error.log("look after instances");
                true
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = changed.changed() => {}
            Some(_) = watcher.turns.join_next() => {}
            () = tokio::time::sleep(LOOK), if busy => {}
        }
    }
}

/// A turn, told from all others.
type Key = (Ns, Arc<str>, Millis);

struct Watcher {
    shared: Arc<Shared>,
    turns: JoinSet<()>,
    /// Turns that are or were seen to here: one that has ended is shown for a moment longer.
    mine: HashSet<Key>,
    /// Bounds that were reached where nobody can be asked for a new start: told once.
    told: HashMap<(Ns, Arc<str>, String), (Millis, RecycleReason)>,
    /// Since when nothing is heard of whoever sees to a turn.
    silent: HashMap<Key, Millis>,
}

impl Watcher {
    /// Looks at all workers; whether there is anything to look at.
    async fn look(&mut self) -> Result<bool> {
        let watched = |worker: &Worker| {
            worker.config.recycle.is_some() || worker.recycling.turn.is_some() || !worker.recycling.asked.is_empty()
        };
        let workers: Vec<_> = self.shared.registry.called().into_iter().filter(|(_, worker)| watched(worker)).collect();
        if workers.is_empty() {
            self.mine.clear();
            return Ok(false);
        }
        let shown: HashSet<Key> = workers
            .iter()
            .filter_map(|(ns, worker)| Some((*ns, Arc::clone(&worker.name), worker.recycling.turn.as_ref()?.since)))
            .collect();
        self.mine.retain(|key| shown.contains(key));
        let boards = boards(&self.shared).await?;
        for (ns, worker) in workers {
            match worker.recycling.turn.clone() {
                Some(turn) => self.follow(ns, &worker, turn, &boards).await?,
                None => self.choose(ns, &worker, &boards).await?,
            }
        }
        Ok(true)
    }

    /// Sees to a turn of this session, and to one that its session has left.
    async fn follow(&mut self, ns: Ns, worker: &Arc<Worker>, turn: Turn, boards: &[Board]) -> Result<()> {
        let (session, now) = (self.shared.session, self.shared.store.clock().now());
        let key = (ns, Arc::clone(&worker.name), turn.since);
        if turn.session() == session {
            if self.mine.insert(key) {
                self.turns.spawn(turn::run(Arc::clone(&self.shared), ns, Arc::clone(&worker.name), turn));
            }
            return Ok(());
        }
        if boards.iter().any(|board| board.node == turn.session) {
            self.silent.remove(&key);
            return Ok(());
        }
        let since = *self.silent.entry(key).or_insert(now);
        if now.since(since) >= ABANDONED {
            let taken = |state: &mut Recycling| match &mut state.turn {
                Some(theirs) if *theirs == turn => {
                    theirs.session = session.0;
                    true
                }
                _ => false,
            };
            edit(&self.shared, ns, &worker.name, taken).await?;
        }
        Ok(())
    }

    /// Takes the turn for an instance that is due.
    async fn choose(&mut self, ns: Ns, worker: &Worker, boards: &[Board]) -> Result<()> {
        let (session, now) = (self.shared.session, self.shared.store.clock().now());
        self.silent.retain(|(of, name, _), _| *of != ns || *name != worker.name);
        let Some((instance, reason, counters)) = due(ns, worker, boards, now) else {
            // Somebody asked for what is not there any more.
            if !worker.recycling.asked.is_empty() {
                let known = |name: &String| worker.live_instances(now).any(|instance| *instance.name == **name);
                let gone = |state: &mut Recycling| {
                    let before = state.asked.len();
                    state.asked.retain(|name| known(name));
                    state.asked.len() != before
                };
                edit(&self.shared, ns, &worker.name, gone).await?;
            }
            return Ok(());
        };
        if worker.config.control_url.is_none() {
            if reason == RecycleReason::Requested {
                let forgotten = |state: &mut Recycling| !std::mem::take(&mut state.asked).is_empty();
                edit(&self.shared, ns, &worker.name, forgotten).await?;
            }
            let key = (ns, Arc::clone(&worker.name), instance.clone());
            if self.told.insert(key, (counters.since, reason)) != Some((counters.since, reason)) {
                counter!("lovage_instances_recycled_total", "outcome" => "untold").increment(1);
                let (worker, reason) = (&*worker.name, reason.as_str());
                tracing::warn!(worker, instance, reason, "an instance is due for a new start, and its worker has no control URL");
            }
            return Ok(());
        }
        let turn = Turn { instance, reason, since: now, session: session.0, counters };
        let took = |state: &mut Recycling| {
            let free = state.turn.is_none();
            if free {
                state.turn = Some(turn.clone());
            }
            free
        };
        if edit(&self.shared, ns, &worker.name, took).await? {
            let (worker, instance, reason) = (&*worker.name, &*turn.instance, reason.as_str());
            tracing::info!(worker, instance, reason, "an instance gets no new task until it has started anew");
        }
        Ok(())
    }
}

/// The first instance that is to be started anew: one that somebody asked for, else one that has reached a bound.
fn due(ns: Ns, worker: &Worker, boards: &[Board], now: Millis) -> Option<(String, RecycleReason, Counters)> {
    let counters = |name: &str| {
        let own = worker.live_instances(now).find(|instance| *instance.name == *name).map(crate::registry::Instance::board)?;
        let theirs = boards.iter().filter_map(|board| seen(board, ns, &worker.name, name));
        let alike = theirs.filter(|theirs| theirs.born == own.born).map(InstanceBoard::counters);
        Some(worker.recycling.with_heard(name, alike.fold(own.counters(), Counters::with)))
    };
    let asked = worker.recycling.asked.iter().find_map(|name| Some((name.clone(), RecycleReason::Requested, counters(name)?)));
    asked.or_else(|| {
        let bounds = worker.config.recycle?;
        worker.live_instances(now).find_map(|instance| {
            let rests = worker.recycling.marks.get(&*instance.name).is_some_and(|mark| mark.rest > now);
            let counters = counters(&instance.name).filter(|_| !rests)?;
            Some((instance.name.to_string(), bounds.reached(&counters, now)?, counters))
        })
    })
}

/// An instance on the board of another.
fn seen<'b>(board: &'b Board, ns: Ns, worker: &str, instance: &str) -> Option<&'b InstanceBoard> {
    board.worker(ns, worker, false)?.instances.iter().find(|seen| seen.name() == instance)
}

/// The boards of the other dispatchers.
async fn boards(shared: &Shared) -> Result<Vec<Board>> {
    let own = shared.session;
    let boards = shared.store.boards().await?;
    Ok(boards.iter().filter(|(session, _)| *session != own).filter_map(|(_, bytes)| Board::decode(bytes)).collect())
}

/// Changes the document of a worker; whether it was changed. `false` of `change`: there is nothing to do.
async fn edit(shared: &Shared, ns: Ns, worker: &str, change: impl FnOnce(&mut Recycling) -> bool) -> Result<bool> {
    let stored = shared.store.doc(DocKind::Recycling, ns, worker).await?;
    let bytes = stored.as_ref().and_then(|document| document.bytes.as_deref());
    let mut state: Recycling = bytes.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    if !change(&mut state) {
        return Ok(false);
    }
    let guard = stored.map_or(DocGuard::Absent, |document| DocGuard::Version(document.version));
    let bytes = (state != Recycling::default()).then(|| serde_json::to_vec(&state).unwrap_or_default().into());
    let put = DocPut { kind: DocKind::Recycling, ns, name: worker.to_owned(), guard, bytes };
    let outcomes = shared.store.put_docs(vec![put]).await?;
    Ok(outcomes.iter().all(|outcome| matches!(outcome, DocOutcome::Ok { .. })))
}
