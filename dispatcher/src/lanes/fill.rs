//! How windows are filled: pages from the store, and what the first tasks of a lane have to pass.
//!
//! What the feed brings while a page is read is kept aside until the page is there, because it may or may not be on it.

use std::sync::Arc;

use lovage_core::{LaneDef, LaneId, Score, TaskKey};

use super::doors::Closed;
use super::order::waits_for_start;
use super::{Lane, Lanes, Waiting};

/// What the feed brought of a lane.
#[derive(Debug)]
pub(super) enum News {
    Here(Waiting),
    /// The task with this place has ended, with this version.
    Gone(Score, u64),
}

/// A task of which it is to be read what it has to pass.
#[derive(Clone, Debug)]
pub struct Unread {
    /// Its key.
    pub key: TaskKey,
    lane: LaneId,
    score: Score,
    version: u64,
}

/// Lanes whose windows are held in full; with more of them each holds less.
const FULL_WINDOWS: usize = 100;
/// The least that is held of a lane.
const LEAST_WINDOW: usize = 4;
/// Of so many tasks of a lane it should be known what they have to pass.
const READ_AHEAD: usize = 16;
/// Copies of what tasks have to pass that are kept for others.
const PASSES: usize = 1_000;

impl Lanes {
    /// How many tasks of a lane are held.
    pub(super) fn window(&self) -> usize {
        let most = self.bounds.window;
        (most * FULL_WINDOWS / self.known.len().max(1)).clamp(LEAST_WINDOW.min(most), most)
    }

    /// How many tasks of a lane are read at once.
    pub fn page(&self) -> usize {
        (self.window() / 2).max(1)
    }

    /// Notes what a lane lacks.
    pub(super) fn feed(&mut self, id: LaneId) {
        self.look_at_door(id);
        self.note_empty(id);
        let window = self.window();
        let Some(lane) = self.known.get_mut(&id) else { return };
        if lane.is_empty() {
            lane.gather = None;
            if matches!(lane.why(), Some(Closed::Gathering(_))) {
                lane.closed = None;
            }
        }
        // What is not enough to go together is too little.
        let low = lane.gather.as_ref().map_or(window / 4, |gather| (window / 4).max(gather.enough - 1));
        let open = matches!(lane.why(), None | Some(Closed::Gathering(_)));
        let hungry = lane.more && lane.aside.is_none() && lane.window.len() <= low && (open || lane.window.is_empty());
        if hungry && !lane.hungry {
            self.hungry.push_back(id);
        }
        lane.hungry = hungry;
        if !lane.asks && lane.wants_reading() {
            lane.asks = true;
            self.unread.push_back(id);
        }
    }

    /// Up to `most` lanes whose windows run low: read them behind the given score, then call [`Lanes::loaded`]. A closed
    /// lane is filled once and then left alone.
    pub fn take_hungry(&mut self, most: usize) -> Vec<(LaneId, Option<Score>)> {
        let mut out = Vec::new();
        while out.len() < most {
            let Some(id) = self.hungry.pop_front() else { break };
            if let Some(lane) = self.known.get_mut(&id).filter(|lane| lane.hungry) {
                lane.hungry = false;
                lane.aside = Some(Vec::new());
                out.push((id, lane.window.last()));
                self.place(id);
            }
        }
        out
    }

    /// A page that was asked for by [`Lanes::take_hungry`] in this `life`; `more`: the store holds tasks behind it. `None`: it
    /// could not be read.
    pub fn loaded(&mut self, life: u64, id: LaneId, page: Option<(Vec<Waiting>, bool)>) {
        let window = self.window();
        if life != self.life {
            return;
        }
        let Some(lane) = self.known.get_mut(&id) else { return };
        let aside = lane.aside.take().unwrap_or_default();
        let is_ordered = lane.is_ordered();
        if let Some((tasks, more)) = page {
            lane.more = more;
            for task in tasks {
                if is_ordered && self.is_elsewhere(id, &task) {
                    continue;
                }
                if let Some(lane) = self.known.get_mut(&id) {
                    lane.window.put(task);
                }
            }
        }
        for news in aside {
            let moved = matches!(&news, News::Here(task) if is_ordered && self.is_elsewhere(id, task));
            let Some(lane) = self.known.get_mut(&id).filter(|_| !moved) else { continue };
            match news {
                News::Here(task) => lane.hold(task, window),
                News::Gone(score, version) => drop(lane.window.remove(score, version)),
            }
        }
        self.place(id);
        self.open_gathered(id);
    }

    /// Up to `most` tasks of which it is to be read what they have to pass; then call [`Lanes::told`].
    pub fn take_unread(&mut self, most: usize) -> Vec<Unread> {
        let mut out = Vec::new();
        while out.len() + READ_AHEAD <= most {
            let Some(id) = self.unread.pop_front() else { break };
            let Some(lane) = self.known.get_mut(&id).filter(|lane| lane.asks) else { continue };
            let ahead = if lane.is_ordered() { 1 } else { READ_AHEAD };
            let before = out.len();
            let unread = lane.window.iter_mut().take(2 * READ_AHEAD).filter(|task| task.gates.is_none()).take(ahead);
            out.extend(unread.map(|task| Unread {
                key: task.key.clone(),
                lane: id,
                score: task.head.score(),
                version: task.head.version,
            }));
            lane.asks = out.len() > before;
        }
        out
    }

    /// What was asked for by [`Lanes::take_unread`] in this `life`; `None`: it could not be read.
    pub fn told(&mut self, life: u64, found: Vec<(Unread, Option<LaneDef>)>) {
        if life != self.life {
            return;
        }
        for (asked, gates) in found {
            let gates = gates.map(|gates| self.share(gates));
            let Some(lane) = self.known.get_mut(&asked.lane) else { continue };
            lane.asks = false;
            if let Some(gates) = gates
                && lane.window.tell(asked.score, asked.version, gates)
                && lane.window.first().is_some_and(|task| task.head.score() == asked.score)
            {
                // It was closed for what an earlier version had to pass.
                lane.closed = None;
            }
            self.place(asked.lane);
        }
    }

    /// One copy for all tasks that have to pass the same.
    fn share(&mut self, gates: LaneDef) -> Arc<LaneDef> {
        // Those that keep an order are not delivered together.
        let gates = LaneDef { batch: None, ..gates };
        let id = gates.id();
        if let Some(known) = self.passes.get(&id).filter(|known| ***known == gates) {
            return Arc::clone(known);
        }
        if self.passes.len() >= PASSES {
            self.passes.clear();
        }
        let gates = Arc::new(gates);
        self.passes.insert(id, Arc::clone(&gates));
        gates
    }
}

impl Lane {
    fn wants_reading(&self) -> bool {
        let Some(first) = self.window.first().filter(|_| self.is_mixed()) else { return false };
        if self.is_ordered() {
            return first.gates.is_none() && waits_for_start(first);
        }
        first.gates.is_none() || self.window.read() < self.window.len().min(READ_AHEAD / 2)
    }
}
