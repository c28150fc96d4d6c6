//! A cancel that goes on to what a task has started: children, links, and what those have started.
//!
//! The task itself is canceled first, so that its children cannot wake it. Then its tree is walked in order of acceptance: what
//! runs meanwhile may start something new, which comes at the end of the tree and is still met, but a task that is canceled or
//! asked to stop starts nothing but the links of a success. Callbacks tell how it went; they are left alone.
//!
//! What belongs to an order lives in the partition of that, so all partitions are walked, in rounds: each begins with what is on its
//! way from one to another, which is stored where it goes so that the walk meets it, and the last round finds nothing. What
//! was started before its parent was canceled is met by then, wherever it was.
//!
//! A request looks at a limited number of tasks; the rest of a larger tree follows behind the answer. If the server dies before
//! it is through, the cancel can be repeated.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lovage_core::problem::{Code, Problem};
use lovage_core::worker::{DEFAULT_CANCEL_GRACE, WorkerConfig};
use lovage_core::{Event, Flags, Head, Ns, Partition, Reason, SessionId, Spec, TaskId, TaskKey, decide};
use lovage_store::{Committed, Cursor, DocKind, FeedPos, Index, Message, Mode, Sync};

use crate::app::App;
use crate::change::TRIES;
use crate::documents::content;
use crate::problem::Refusal;
use crate::view::read_body;

/// Records that one call of the store reads or changes.
const PAGE: usize = 200;
/// Between two tries of a walk behind its answer while the store is away.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// Messages that may be on their way in one partition for a cancel to look through them.
const MOST_SENT: u64 = 10_000;
/// Tasks that a cancel from within a tree remembers: whatever comes of them is canceled too.
const MOST_BELOW: usize = 1_000_000;

/// A descendant that may have to be canceled.
struct Member {
    key: TaskKey,
    head: Head,
    spec: Spec,
}

/// A cancel on its way through a tree.
struct Walk {
    root: TaskKey,
    /// Where the walk is; `None`: a round is to begin.
    place: Option<(Partition, Cursor)>,
    /// This round has found something: it is not the last one.
    found: bool,
    top: TaskKey,
    /// What comes of `top`, as far as it is known; `None`: the whole tree does.
    below: Option<HashSet<TaskId>>,
    hard: bool,
    canceled: usize,
}

impl App {
    /// Cancels what the task `top` has started. `room` is how many records this request may still look at, but for the first
    /// page. Answers how many tasks it canceled or asked to stop; `None`: there are so many that it goes on behind the answer.
    pub(crate) async fn cascade(
        self: &Arc<Self>,
        top: &TaskKey,
        spec: &Spec,
        hard: bool,
        room: &mut usize,
    ) -> Result<Option<usize>, Refusal> {
        let root = TaskKey::new(top.ns, spec.root.clone().unwrap_or_else(|| top.id.clone()));
        let below = (root != *top).then(HashSet::new);
        let mut walk = Walk { root, place: None, found: false, top: top.clone(), below, hard, canceled: 0 };
        loop {
            let Some(looked) = self.cancel_page(&mut walk).await? else { return Ok(Some(walk.canceled)) };
            *room = room.saturating_sub(looked);
            if *room == 0 {
                break;
            }
        }
        let (place, app) = (self.cascades.take()?, Arc::clone(self));
        self.open.spawn(async move {
            let _place = place;
            loop {
                match app.cancel_page(&mut walk).await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(Refusal(problem)) if problem.code == Code::StoreUnavailable && !app.draining.is_cancelled() => {
                        tokio::time::sleep(STORE_PAUSE).await;
                    }
                    Err(Refusal(problem)) => {
                        tracing::warn!(task.id = %walk.top.id, %problem.detail, "a cancel did not come to all that the task started");
                        break;
                    }
                }
            }
        });
        Ok(None)
    }

    fn cascade_page(&self) -> usize {
        PAGE.min(self.store.caps().max_batch.max(1))
    }

    /// Cancels what is to be canceled among the next members of the tree. Answers how many there were; `None`: that was all.
    async fn cancel_page(&self, walk: &mut Walk) -> Result<Option<usize>, Refusal> {
        if walk.place.is_none() {
            self.arrive_at_once(&walk.root).await?;
        }
        let (p, from) = walk.place.clone().unwrap_or((Partition(0), Cursor::default()));
        let index = Index::Members { root: walk.root.clone() };
        for _ in 0..TRIES {
            let page = self.store.scan(p, &index, from.clone(), self.cascade_page()).await?;
            let looked = page.items.len();
            let open = self.open_among(walk, p, page.items).await?;
            if open.is_empty() {
                let following = Partition(p.0 + 1);
                walk.place = match page.next {
                    Some(next) => Some((p, next)),
                    None => (following.0 < self.partitions()).then(|| (following, Cursor::default())),
                };
                let is_over = walk.place.is_none() && (!std::mem::take(&mut walk.found) || self.partitions() == 1);
                return Ok((!is_over).then_some(looked));
            }
            // What moved meanwhile is found again.
            walk.found = true;
            walk.canceled += self.cancel_all(p, &open, walk.hard).await?;
        }
        Err(Problem::new(Code::Overloaded, "the task starts others as fast as they are canceled; try again").into())
    }

    /// Stores the members of a tree that are on their way to another partition. Their delivery then finds them there.
    async fn arrive_at_once(&self, root: &TaskKey) -> Result<(), Refusal> {
        if self.partitions() == 1 {
            return Ok(());
        }
        for p in (0..self.partitions()).map(Partition) {
            let mut after = FeedPos::default();
            loop {
                let page = self.store.outbox(p, after, self.cascade_page()).await?;
                let Some(last) = page.messages.last() else { break };
                if page.waiting > MOST_SENT {
                    let detail =
                        "too much is on its way between partitions to look for what the task has started; try again later";
                    return Err(Problem::new(Code::Overloaded, detail).into());
                }
                after = last.pos;
                for (to, message) in page.messages.into_iter().filter_map(|sent| sent.content) {
                    if let Message::Insert(task) = message
                        && task.root.as_ref() == Some(root)
                    {
                        self.store.insert(to.partition(self.partitions()), vec![*task], Mode::Each).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Those of these members that come of the top and are neither final nor asked to stop.
    async fn open_among(&self, walk: &mut Walk, p: Partition, items: Vec<(TaskKey, Head)>) -> Result<Vec<Member>, Refusal> {
        // In the tree of a root all are its descendants, and what is over need not be read.
        let whole = walk.below.is_none();
        let items: Vec<_> = items.into_iter().filter(|(_, head)| !whole || is_open(head, walk.hard)).collect();
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<TaskKey> = items.iter().map(|(key, _)| key.clone()).collect();
        let bodies = self.store.bodies(p, &keys).await?;
        let mut open = Vec::new();
        for ((key, head), body) in items.into_iter().zip(bodies) {
            // Gone meanwhile, or damaged: its own route tells.
            let Some((spec, _)) = read_body(body.as_ref()) else { continue };
            if let Some(below) = &mut walk.below {
                // In one partition parents were accepted before their children; what is missed is met in the next round.
                if !spec.parent.as_ref().is_some_and(|parent| *parent == walk.top.id || below.contains(parent)) {
                    continue;
                }
                if below.len() >= MOST_BELOW {
                    let detail = "the task has started too many others to find them within its tree; cancel the root of the tree";
                    return Err(Problem::new(Code::Overloaded, detail).into());
                }
                walk.found |= below.insert(key.id.clone());
            }
            if is_open(&head, walk.hard) && spec.callback.is_none() {
                open.push(Member { key, head, spec });
            }
        }
        Ok(open)
    }

    /// Cancels these, but for those that moved meanwhile.
    async fn cancel_all(&self, p: Partition, members: &[Member], hard: bool) -> Result<usize, Refusal> {
        let now = self.now();
        let (mut commits, mut graces) = (Vec::with_capacity(members.len()), Graces::default());
        for Member { key, head, spec } in members {
            let grace = graces.of(self, key.ns, head).await?;
            let event = Event::Cancel { hard, reason: Reason::Upstream, grace };
            if let Ok(transition) = decide(key, head, spec, event, now, self.random()) {
                commits.push(self.commit(key, head.clone(), transition, spec, None, now));
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
