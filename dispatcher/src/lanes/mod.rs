//! The owner's view of its lanes: which tasks may start next. Disposable: the store's guard decides.
//!
//! Of each lane only a window of heads is held, so a backlog of millions costs the store and not this process; of lanes
//! without number only so many are held at once, and they take turns. Everything that happens for a start takes logarithmic
//! time, whatever waits.
//!
//! `turns` says whose turn it is, `doors` why a lane may not start anything, `order` which tasks keep their place until they
//! are final, `fill` how windows are filled from the store, `hold` which lanes are held at all.

mod doors;
mod fill;
mod hold;
mod order;
#[cfg(test)]
mod tests;
mod turns;
mod window;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use lovage_core::{Head, LaneDef, LaneId, LaneOrder, Millis, Route, Score, TaskKey, placement};
use lovage_store::FeedPos;
use smallvec::SmallVec;

pub use self::doors::Closed;
use self::doors::{Crowd, Gather, Room, Seat, Shut};
use self::fill::News;
pub use self::fill::Unread;
use self::turns::{Kin, Rank, Turns};
use self::window::Window;

/// The rank of a task that does not go by its priority: that of the usual one.
const USUAL_RANK: u8 = 9 - lovage_core::spec::DEFAULT_PRIORITY;

/// A task that waits, or keeps its place in its order.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its key.
    pub key: TaskKey,
    /// Its head as last seen.
    pub head: Head,
    /// What it has to pass, if its lane does not say: the tasks of such a lane differ.
    pub gates: Option<Arc<LaneDef>>,
    /// It is on its way to running.
    pub taken: bool,
}

impl Waiting {
    /// As a store shows it.
    pub fn new(key: TaskKey, head: Head) -> Self {
        Self { key, head, gates: None, taken: false }
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

#[derive(Debug)]
struct Lane {
    def: Arc<LaneDef>,
    kin: Kin,
    window: Window,
    /// The store may hold tasks behind the window.
    more: bool,
    /// Set while a page is being read: what the feed brought meanwhile.
    aside: Option<Vec<News>>,
    closed: Option<Shut>,
    /// Its tasks are delivered together; kept until none is left.
    gather: Option<Box<Gather>>,
    /// Where it waits for its turn.
    seat: Option<Seat>,
    /// Whether it stands in `Lanes::hungry`.
    hungry: bool,
    /// The feed has not told yet what a page of it showed.
    ahead: bool,
    /// What its first tasks have to pass is being read, or will be.
    asks: bool,
    /// Shares the order of its tasks with the lanes of this group.
    group: Option<u64>,
    /// It was let out of this room, for one start.
    guest_of: Option<Room>,
    /// … and did not start anything.
    owed: Option<Room>,
    /// What it waited for when it was its turn is there.
    back: bool,
    /// It stands among those that were empty.
    noted: bool,
    /// When it was last served, or was made known.
    served: u64,
}

/// How much is held.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Tasks of a lane.
    pub window: usize,
    /// Lanes.
    pub lanes: usize,
}

/// All lanes of a partition.
#[derive(Debug)]
pub struct Lanes {
    bounds: Bounds,
    /// A task improves its rank by one each time it has waited so long; zero: never.
    aging: Duration,
    now: Millis,
    known: AHashMap<LaneId, Box<Lane>>,
    /// Open lanes that have something to start.
    ready: Turns,
    /// Lanes that wait for a gate, and for a limit.
    gates: AHashMap<u64, Crowd>,
    limits: AHashMap<u64, Crowd>,
    until: BTreeSet<(Millis, LaneId)>,
    /// Lanes that are to be opened, a few at a time.
    opening: Vec<LaneId>,
    /// Lanes whose windows run low although the store may hold more.
    hungry: VecDeque<LaneId>,
    /// How far the feed has told, and lanes that wait until it has told more.
    told_to: FeedPos,
    ahead: BTreeSet<(FeedPos, LaneId)>,
    /// Lanes whose first tasks have to be read.
    unread: VecDeque<LaneId>,
    /// What tasks have to pass that share a lane for the sake of their order: one copy of each.
    passes: AHashMap<LaneId, Arc<LaneDef>>,
    /// Lanes of several queues that share an order.
    groups: AHashMap<u64, SmallVec<[LaneId; 1]>>,
    hold: hold::Hold,
    tick: u64,
    /// Rises when everything is forgotten: a page that was asked for before is of no use afterwards.
    life: u64,
}

impl Lanes {
    /// No lanes; of each, `bounds.window` tasks will be held.
    pub fn new(bounds: Bounds, aging: Duration) -> Self {
        let bounds = Bounds { window: bounds.window.max(2), lanes: bounds.lanes.max(2) };
        Self {
            bounds,
            aging,
            now: Millis(0),
            known: AHashMap::new(),
            ready: Turns::default(),
            gates: AHashMap::new(),
            limits: AHashMap::new(),
            until: BTreeSet::new(),
            opening: Vec::new(),
            hungry: VecDeque::new(),
            told_to: FeedPos::default(),
            ahead: BTreeSet::new(),
            unread: VecDeque::new(),
            passes: AHashMap::new(),
            groups: AHashMap::new(),
            hold: hold::Hold::default(),
            tick: 0,
            life: 0,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self { life: self.life + 1, now: self.now, ..Self::new(self.bounds, self.aging) };
    }

    /// What answers have to be given with that were asked for now.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Number of lanes.
    #[allow(clippy::len_without_is_empty)] // Nobody asks.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// A record of these lanes looks like this now.
    pub fn show(&mut self, key: &TaskKey, head: &Head) {
        if placement(head).lane.is_some() {
            self.offer(Waiting::new(key.clone(), head.clone()));
        } else {
            self.remove(head);
        }
    }

    /// A task waits, or keeps its place. If its lane is not known, its definition will be asked for.
    pub fn offer(&mut self, task: Waiting) {
        let id = task.head.lane;
        let window = self.window();
        let Some(lane) = self.known.get_mut(&id) else { return self.keep_stranger(task) };
        if let Some(aside) = &mut lane.aside {
            aside.push(News::Here(task));
            return self.place(id);
        }
        let group = lane.group;
        if group.is_some() {
            self.hold.outdate(task.head.score(), task.head.version);
            if self.is_elsewhere(id, &task) {
                return;
            }
        }
        if let Some(lane) = self.known.get_mut(&id) {
            lane.hold(task, window);
        }
        self.place(id);
        self.open_gathered(id);
    }

    /// The task with this head keeps no place any more.
    fn remove(&mut self, head: &Head) {
        let (id, score) = (head.lane, head.score());
        let Some(lane) = self.known.get_mut(&id) else { return self.remove_stranger(head) };
        if let Some(group) = lane.group {
            self.hold.outdate(score, head.version);
            self.gone_from_group(group, score, head.version);
            return self.place(id);
        }
        if let Some(aside) = &mut lane.aside {
            aside.push(News::Gone(score, head.version));
        }
        if lane.window.remove(score, head.version) {
            self.place(id);
        }
    }

    /// The open lane whose turn it is, and what its first task has to pass.
    pub fn next(&self) -> Option<Turn> {
        let id = self.ready.first(|rank, id| self.effective(rank, id))?;
        let lane = self.known.get(&id)?;
        let gates = lane.window.first().and_then(|task| task.gates.as_ref()).unwrap_or(&lane.def);
        Some(Turn { lane: id, gates: Arc::clone(gates) })
    }

    /// Whether any lane may start a task.
    pub fn is_any_open(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The first task of a lane, and how many of its tasks are at hand.
    pub fn first(&self, id: LaneId) -> Option<(&Waiting, usize)> {
        let window = &self.known.get(&id)?.window;
        Some((window.first()?, window.len()))
    }

    /// Takes the first task of a lane; the lane goes to the end of the turn.
    pub fn take(&mut self, id: LaneId) -> Option<Waiting> {
        self.tick += 1;
        let lane = self.known.get_mut(&id)?;
        let task = if lane.is_ordered() { lane.window.take_first() } else { lane.window.pop_first() }?;
        lane.served = self.tick;
        if let Some(seat) = &mut lane.seat
            && seat.room == Room::Ready
        {
            seat.stamp = self.ready.serve(id, seat.stamp, seat.rank, &seat.kin);
        }
        self.send_back(id);
        self.place(id);
        Some(task)
    }

    /// The rank of a lane after what its first task has waited: whatever its priority, some day its turn comes.
    fn effective(&self, rank: u8, id: LaneId) -> i64 {
        let aging = self.aging.as_millis() as i64;
        let since = |task: &Waiting| task.head.created.max(task.head.due);
        let waited = self
            .known
            .get(&id)
            .and_then(|lane| lane.window.first())
            .map_or(0, |task| i64::try_from(self.now.since(since(task)).as_millis()).unwrap_or(i64::MAX));
        i64::from(rank) - waited.checked_div(aging).unwrap_or(0)
    }

    /// Puts the lane, and those that share its order, where they belong.
    fn place(&mut self, id: LaneId) {
        let group = self.known.get(&id).and_then(|lane| lane.group);
        match group.and_then(|group| self.groups.get(&group)).filter(|lanes| lanes.len() > 1) {
            Some(lanes) => {
                for id in lanes.clone() {
                    self.place_one(id);
                }
            }
            None => self.place_one(id),
        }
    }

    fn place_one(&mut self, id: LaneId) {
        self.feed(id);
        let ordered = self.known.get(&id).filter(|lane| lane.is_ordered());
        let first = ordered.and_then(|lane| lane.window.first()).map(|task| task.head.score());
        let target = if first.is_some_and(|score| self.hold.holds_up(id, score)) { None } else { self.target(id) };
        let Some(lane) = self.known.get_mut(&id) else { return };
        if target.is_none() && lane.closed.is_some_and(|shut| matches!(shut.why, Closed::Busy(_) | Closed::Limit(_))) {
            // Nothing of it waits there any more: what comes next finds out for itself.
            lane.closed = None;
        }
        let same = |seat: &Seat| target == Some((seat.room, seat.rank, seat.kin));
        if lane.seat.as_ref().is_some_and(same) || (lane.seat.is_none() && target.is_none()) {
            return;
        }
        let host = self.stand_up(id);
        if let Some((room, rank, kin)) = target {
            self.sit_down(id, room, rank, kin);
        }
        if let Some(host) = host {
            self.let_out(host);
        }
    }

    /// Where a lane waits for its turn now.
    fn target(&self, id: LaneId) -> Option<(Room, Rank, Kin)> {
        let lane = self.known.get(&id)?;
        let first = self.may_start(id, lane)?;
        let room = match lane.closed.map(|shut| shut.why) {
            None => Room::Ready,
            Some(Closed::Busy(gate)) => Room::Gate(gate),
            Some(Closed::Limit(limit)) => Room::Limit(limit),
            Some(Closed::NoWorker | Closed::Paused | Closed::Until(_) | Closed::Gathering(_)) => return None,
        };
        let own = first.head.score().rank();
        let rank = match lane.def.order {
            // To others all of a fair queue is alike.
            LaneOrder::Fair => Rank { rank: USUAL_RANK, within: Some(own) },
            LaneOrder::Priority | LaneOrder::Fifo => Rank { rank: own, within: None },
        };
        Some((room, rank, first.gates.as_deref().map_or(lane.kin, Kin::of)))
    }

    /// The first task of a lane, if it may start for its order's sake and it is known what it has to pass.
    fn may_start<'a>(&self, id: LaneId, lane: &'a Lane) -> Option<&'a Waiting> {
        let first = lane.window.first()?;
        if lane.is_mixed() && first.gates.is_none() {
            return None;
        }
        (!lane.is_ordered() || self.is_first(id, lane, first)).then_some(first)
    }
}

impl Lane {
    fn new(def: Arc<LaneDef>, more: bool, served: u64) -> Self {
        Self {
            kin: Kin::of(&def),
            group: order::group(&def),
            def,
            window: Window::default(),
            more,
            aside: None,
            closed: None,
            gather: None,
            seat: None,
            hungry: false,
            ahead: false,
            asks: false,
            guest_of: None,
            owed: None,
            back: false,
            noted: false,
            served,
        }
    }

    /// Its tasks keep their places until they are final.
    fn is_ordered(&self) -> bool {
        self.group.is_some()
    }

    /// Each of its tasks says for itself what it has to pass.
    fn is_mixed(&self) -> bool {
        self.def.route == Route::Mixed
    }

    /// Nothing of it is here, and nothing in the store that is not on its way here.
    fn is_empty(&self) -> bool {
        self.window.is_empty() && !self.more && self.aside.is_none() && !self.ahead
    }

    /// Holds a task if it belongs into the window; otherwise the store keeps it until its turn.
    fn hold(&mut self, task: Waiting, window: usize) {
        let score: Score = task.head.score();
        let inside = !self.more || self.window.last().is_some_and(|last| score <= last);
        if !inside {
            return;
        }
        self.window.put(task);
        let window = self.gather.as_ref().map_or(window, |gather| window.max(gather.enough));
        if self.window.len() > window && self.window.pop_last() {
            self.more = true;
        }
    }
}
