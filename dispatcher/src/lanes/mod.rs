//! The owner's view of its lanes: which tasks may start next. Disposable: the store's guard decides.
//!
//! Of each lane only a window of heads is held, so a backlog of millions costs the store and not this process. A
//! window that runs low is filled from the store; what the feed brings meanwhile is kept aside until the page is there,
//! because it may or may not be on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use lovage_core::{Head, LaneDef, LaneId, Millis, Score, TaskKey};

/// A task that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its key.
    pub key: TaskKey,
    /// Its head as last seen.
    pub head: Head,
    /// What it has to pass, if its lane does not say: the tasks of such a lane differ.
    pub gates: Option<Arc<LaneDef>>,
}

impl Waiting {
    /// As a store shows it.
    pub fn new(key: TaskKey, head: Head) -> Self {
        Self { key, head, gates: None }
    }
}

/// Whose turn it is.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The lane that it waits in.
    pub lane: LaneId,
    /// What its task has to pass. The lane's own definition is no substitute: it may leave that to each of its tasks.
    pub gates: Arc<LaneDef>,
}

/// Why no task of a lane may start now.
#[allow(dead_code)] // Queues are paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// No worker serves it.
    NoWorker,
    /// It is paused until somebody says otherwise: [`Lanes::open_all`].
    Paused,
    /// The gate with this number has no free slot.
    Busy(u64),
    /// The limit with this number has nothing left.
    Limit(u64),
    /// The worker or the store wants to be left alone until then.
    Until(Millis),
    /// Its tasks wait for company until then.
    Gathering(Millis),
}

/// For how many of its tasks a lane waits, and until when at the latest.
#[derive(Clone, Copy, Debug)]
struct Gather {
    enough: usize,
    until: Millis,
}

#[derive(Debug)]
struct Lane {
    def: Arc<LaneDef>,
    window: BTreeMap<Score, Waiting>,
    /// The store may hold tasks behind the window.
    more: bool,
    /// Set while a page is being read: what the feed brought meanwhile.
    aside: Option<Vec<Waiting>>,
    closed: Option<Closed>,
    /// Its tasks are delivered together; kept until none is left.
    gather: Option<Gather>,
    /// Where it stands in `Lanes::ready`.
    place: Option<(u8, u64)>,
    /// Whether it stands in `Lanes::hungry`.
    hungry: bool,
}

/// All lanes of a partition.
#[derive(Debug)]
pub struct Lanes {
    window: usize,
    known: AHashMap<LaneId, Lane>,
    /// Open lanes that hold tasks: best priority first, then the one served longest ago.
    ready: BTreeSet<(u8, u64, LaneId)>,
    /// Lanes whose windows run low although the store may hold more.
    hungry: BTreeSet<LaneId>,
    /// Lanes that wait for a gate.
    busy: AHashMap<u64, VecDeque<LaneId>>,
    /// Lanes that wait for a limit.
    limited: AHashMap<u64, VecDeque<LaneId>>,
    until: BTreeSet<(Millis, LaneId)>,
    turn: u64,
    /// Rises when everything is forgotten: a page that was asked for before is of no use afterwards.
    life: u64,
}

impl Lanes {
    /// No lanes; of each, `window` tasks will be held.
    pub fn new(window: usize) -> Self {
        Self {
            window: window.max(2),
            known: AHashMap::new(),
            ready: BTreeSet::new(),
            hungry: BTreeSet::new(),
            busy: AHashMap::new(),
            limited: AHashMap::new(),
            until: BTreeSet::new(),
            turn: 0,
            life: 0,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self { life: self.life + 1, ..Self::new(self.window) };
    }

    /// What [`Lanes::loaded`] has to be given with a page that is asked for now.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Makes a lane known; `more`: the store may hold tasks of it that were not offered.
    pub fn add(&mut self, def: Arc<LaneDef>, more: bool) {
        let id = def.id();
        let lane =
            Lane { def, window: BTreeMap::new(), more, aside: None, closed: None, gather: None, place: None, hungry: false };
        self.known.entry(id).or_insert(lane);
        self.place(id);
    }

    /// Number of lanes.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// A task waits in a lane that is known; otherwise it is given back.
    pub fn offer(&mut self, task: Waiting) -> Option<Waiting> {
        let window = self.window;
        let id = task.head.lane;
        let Some(lane) = self.known.get_mut(&id) else { return Some(task) };
        if let Some(aside) = &mut lane.aside {
            aside.push(task);
            return None;
        }
        lane.hold(task, window);
        self.place(id);
        self.open_gathered(id);
        None
    }

    /// The task with this place is no longer waiting.
    pub fn remove(&mut self, id: LaneId, score: Score) {
        let Some(lane) = self.known.get_mut(&id) else { return };
        if let Some(aside) = &mut lane.aside {
            aside.retain(|task| task.head.score() != score);
        }
        if lane.window.remove(&score).is_some() {
            self.place(id);
        }
    }

    /// The open lane whose turn it is, and what its first task has to pass.
    pub fn next(&self) -> Option<Turn> {
        let (_, _, lane) = *self.ready.first()?;
        let gates = Arc::clone(&self.known.get(&lane)?.def);
        Some(Turn { lane, gates })
    }

    /// Whether any lane may start a task.
    pub fn is_any_open(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the first task of a lane; the lane goes to the end of the turn.
    pub fn take(&mut self, id: LaneId) -> Option<Waiting> {
        let lane = self.known.get_mut(&id)?;
        let (_, task) = lane.window.pop_first()?;
        self.turn += 1;
        if let Some((rank, turn)) = lane.place.take() {
            self.ready.remove(&(rank, turn, id));
        }
        self.place(id);
        Some(task)
    }

    /// No task of this lane may start until it is opened.
    pub fn close(&mut self, id: LaneId, why: Closed) {
        let Some(lane) = self.known.get_mut(&id) else { return };
        match why {
            Closed::Busy(gate) => self.busy.entry(gate).or_default().push_back(id),
            Closed::Limit(limit) => self.limited.entry(limit).or_default().push_back(id),
            Closed::Until(at) | Closed::Gathering(at) => {
                self.until.insert((at, id));
            }
            Closed::NoWorker | Closed::Paused => {}
        }
        lane.closed = Some(why);
        self.place(id);
    }

    /// Whether tasks of this lane may go together: as many as are asked for are here, or the first of them has waited so long.
    /// Otherwise the lane is closed until one of the two is so.
    pub fn gather(&mut self, id: LaneId, most: usize, now: Millis, wait: Duration) -> bool {
        let window = self.window;
        let Some(lane) = self.known.get_mut(&id) else { return false };
        let until = lane.gather.map_or(now.after(wait), |gather| gather.until);
        let gather = Gather { enough: most.min(window), until };
        lane.gather = Some(gather);
        if lane.window.len() >= gather.enough || until <= now {
            return true;
        }
        self.close(id, Closed::Gathering(until));
        false
    }

    /// Opens a lane that has gathered enough.
    fn open_gathered(&mut self, id: LaneId) {
        let Some(lane) = self.known.get(&id) else { return };
        if let (Some(was @ Closed::Gathering(_)), Some(gather)) = (lane.closed, lane.gather)
            && lane.window.len() >= gather.enough
        {
            self.open(id, was);
        }
    }

    /// Opens a lane that is closed for this reason; whether it has a task that may start now.
    fn open(&mut self, id: LaneId, was: Closed) -> bool {
        let Some(lane) = self.known.get_mut(&id).filter(|lane| lane.closed == Some(was)) else { return false };
        lane.closed = None;
        self.place(id);
        self.known.get(&id).is_some_and(|lane| lane.place.is_some())
    }

    /// The gates that lanes wait for.
    pub fn busy_gates(&self) -> Vec<u64> {
        self.busy.keys().copied().collect()
    }

    /// Opens up to `slots` lanes that wait for this gate, those that waited longest first. One that has nothing to start
    /// any more takes no slot from the next.
    pub fn open_busy(&mut self, gate: u64, slots: usize) {
        let mut left = slots;
        while left > 0 {
            let Some(queue) = self.busy.get_mut(&gate) else { return };
            match queue.pop_front() {
                Some(id) => left -= usize::from(self.open(id, Closed::Busy(gate))),
                None => {
                    self.busy.remove(&gate);
                }
            }
        }
    }

    /// How many of the lane's tasks are at hand.
    pub fn at_hand(&self, id: LaneId) -> usize {
        self.known.get(&id).map_or(0, |lane| lane.window.len())
    }

    /// How many lanes wait for this limit.
    #[allow(dead_code)] // Limits ask.
    pub fn waiting_for(&self, limit: u64) -> usize {
        self.limited.get(&limit).map_or(0, VecDeque::len)
    }

    /// Opens up to `most` lanes that wait for this limit; answers how many.
    pub fn open_limit(&mut self, limit: u64, most: usize) -> usize {
        let mut left = most;
        while left > 0 {
            let Some(queue) = self.limited.get_mut(&limit) else { break };
            match queue.pop_front() {
                Some(id) => left -= usize::from(self.open(id, Closed::Limit(limit))),
                None => {
                    self.limited.remove(&limit);
                }
            }
        }
        most - left
    }

    /// Opens lanes whose time has come.
    pub fn open_until(&mut self, now: Millis) {
        while let Some((at, id)) = self.until.first().copied().filter(|(at, _)| *at <= now) {
            self.until.remove(&(at, id));
            self.open(id, Closed::Until(at));
            self.open(id, Closed::Gathering(at));
        }
    }

    /// When the next lane opens by itself.
    pub fn next_opening(&self) -> Option<Millis> {
        self.until.first().map(|(at, _)| *at)
    }

    /// Opens every lane: the workers changed.
    pub fn open_all(&mut self) {
        self.busy.clear();
        self.until.clear();
        // Those that wait for a limit stand in its line: it tells them, also of a new rule.
        let waits = |lane: &Lane| matches!(lane.closed, Some(Closed::Limit(_)));
        let ids: Vec<LaneId> = self.known.iter().filter(|(_, lane)| !waits(lane)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(lane) = self.known.get_mut(&id) {
                lane.closed = None;
            }
            self.place(id);
        }
    }

    /// Up to `most` lanes whose windows run low: read them behind the given score, then call [`Lanes::loaded`]. A closed
    /// lane is filled once and then left alone.
    pub fn take_hungry(&mut self, most: usize) -> Vec<(LaneId, Option<Score>)> {
        let mut out = Vec::new();
        while out.len() < most {
            let Some(id) = self.hungry.pop_first() else { break };
            if let Some(lane) = self.known.get_mut(&id) {
                lane.hungry = false;
                lane.aside = Some(Vec::new());
                out.push((id, lane.window.last_key_value().map(|(score, _)| *score)));
            }
        }
        out
    }

    /// A page that was asked for by [`Lanes::take_hungry`] in this `life`; `more`: the store holds tasks behind it. `None`: it
    /// could not be read.
    pub fn loaded(&mut self, life: u64, id: LaneId, page: Option<(Vec<Waiting>, bool)>) {
        let window = self.window;
        if life != self.life {
            return;
        }
        let Some(lane) = self.known.get_mut(&id) else { return };
        let aside = lane.aside.take().unwrap_or_default();
        if let Some((tasks, more)) = page {
            lane.more = more;
            for task in tasks {
                lane.put(task.head.score(), task);
            }
        }
        for task in aside {
            lane.hold(task, window);
        }
        self.place(id);
        self.open_gathered(id);
    }

    /// Drops lanes that hold nothing, here or in the store, if there are more than `keep`.
    pub fn forget_empty(&mut self, keep: usize) {
        if self.known.len() > keep {
            self.known.retain(|_, lane| !lane.window.is_empty() || lane.more || lane.aside.is_some() || lane.closed.is_some());
        }
    }

    /// Puts the lane where it belongs in `ready` and `hungry`.
    fn place(&mut self, id: LaneId) {
        let low = self.window / 4;
        let Some(lane) = self.known.get_mut(&id) else { return };
        if lane.window.is_empty() && !lane.more && lane.aside.is_none() {
            lane.gather = None;
            if matches!(lane.closed, Some(Closed::Gathering(_))) {
                lane.closed = None;
            }
        }
        // What is not enough to go together is too little.
        let low = lane.gather.map_or(low, |gather| low.max(gather.enough - 1));
        let open = matches!(lane.closed, None | Some(Closed::Gathering(_)));
        let hungry = lane.more && lane.aside.is_none() && lane.window.len() <= low && (open || lane.window.is_empty());
        if hungry != lane.hungry {
            lane.hungry = hungry;
            if hungry {
                self.hungry.insert(id)
            } else {
                self.hungry.remove(&id)
            };
        }
        let rank = match (lane.closed, lane.window.first_key_value()) {
            (None, Some((score, _))) => Some(score.rank()),
            _ => None,
        };
        if lane.place.map(|(rank, _)| rank) == rank {
            return;
        }
        if let Some((rank, turn)) = lane.place.take() {
            self.ready.remove(&(rank, turn, id));
        }
        if let Some(rank) = rank {
            lane.place = Some((rank, self.turn));
            self.ready.insert((rank, self.turn, id));
        }
    }
}

impl Lane {
    /// Holds a task if it belongs into the window; otherwise the store keeps it until its turn.
    fn hold(&mut self, task: Waiting, window: usize) {
        let score = task.head.score();
        let inside = !self.more || self.window.last_key_value().is_some_and(|(last, _)| score <= *last);
        if !inside {
            return;
        }
        self.put(score, task);
        if self.window.len() > window {
            self.window.pop_last();
            self.more = true;
        }
    }

    /// Takes the place of an older version of the task only: what is known from elsewhere may be newer.
    fn put(&mut self, score: Score, task: Waiting) {
        if self.window.get(&score).is_none_or(|known| known.head.version <= task.head.version) {
            self.window.insert(score, task);
        }
    }
}

#[cfg(test)]
mod tests;
