//! Which lanes are held at all.
//!
//! A walk over the definitions in the store makes the lanes known that are there; afterwards a lane that the feed names and
//! that is not known is new, or was empty when it was forgotten: only its definition is read. If there are more than may be
//! held, the walk goes on in circles: lanes that have not started anything for the longest time, closed ones first, make room for
//! the next page, and what the feed brings for others is left to the store until their turn comes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use lovage_core::{Flags, Head, LaneDef, LaneId, Score};
use lovage_store::{Cursor, FeedPos};

use super::{Lane, Lanes, Waiting};

/// Where the walk over the definitions stands.
#[derive(Debug, Default)]
enum Walk {
    /// It must not begin yet.
    #[default]
    Not,
    /// For the first time: what was not read yet may hold tasks.
    First(Cursor),
    /// In circles, because not all fit in.
    Round(Cursor),
    /// All that hold tasks are known.
    Done,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hold {
    walk: Walk,
    reading: bool,
    /// Lanes that the next pages of a round may bring.
    quota: usize,
    /// Something was left to the store since the walk began.
    left_out: bool,
    /// Lanes that were empty when they were last looked at.
    empty: VecDeque<LaneId>,
    /// Tasks of lanes that are not known.
    pub(super) strangers: AHashMap<LaneId, Vec<Waiting>>,
    unasked: Vec<LaneId>,
    /// Those of them that keep an order: one of them may come before what is known of it.
    ordered: BTreeSet<(Score, LaneId)>,
    /// Lanes that wait until these are known.
    held_up: AHashSet<LaneId>,
}

/// Definitions read at once.
const PAGE: usize = 1_000;
/// Empty lanes are forgotten above this number.
const KEEP: usize = 1_000;

impl Lanes {
    /// What is read from now on holds all that the feed does not tell after this place.
    pub fn begin(&mut self, feed: FeedPos) {
        self.told_to = feed;
        self.hold.walk = Walk::First(Cursor::default());
    }

    /// Makes a lane known; `more`: the store may hold tasks of it that were not offered.
    pub fn add(&mut self, def: LaneDef, more: bool) {
        let id = def.id();
        if self.known.contains_key(&id) {
            return;
        }
        self.tick += 1;
        let lane = Lane::new(Arc::new(def), more, self.tick);
        if let Some(group) = lane.group {
            self.groups.entry(group).or_default().push(id);
        }
        self.known.insert(id, Box::new(lane));
        for task in self.hold.take_strangers(id) {
            self.offer(task);
        }
        self.place(id);
    }

    /// The page of definitions to be read now, and how many; then call [`Lanes::paged`].
    pub fn take_page(&mut self) -> Option<(Cursor, usize)> {
        let room = self.bounds.lanes.saturating_sub(self.known.len());
        let hold = &mut self.hold;
        let (from, most) = match &hold.walk {
            Walk::First(from) => (from, PAGE),
            Walk::Round(from) => (from, hold.quota.min(room).min(PAGE)),
            Walk::Not | Walk::Done => return None,
        };
        if most == 0 || std::mem::replace(&mut hold.reading, true) {
            return None;
        }
        Some((from.clone(), most))
    }

    /// The page that was asked for in this `life`, and where the next one begins. `None`: it could not be read.
    pub fn paged(&mut self, life: u64, page: Option<(Vec<LaneDef>, Option<Cursor>)>) {
        if life != self.life {
            return;
        }
        self.hold.reading = false;
        let Some((defs, next)) = page else { return };
        self.hold.quota = self.hold.quota.saturating_sub(defs.len());
        for def in defs {
            let id = def.id();
            if !self.known.contains_key(&id) && !self.make_room() {
                self.hold.left_out = true;
            } else {
                self.add(def, true);
            }
        }
        let first = matches!(self.hold.walk, Walk::First(_));
        let (next, end) = next.map_or_else(|| (Cursor::default(), true), |next| (next, false));
        self.hold.walk = match (end, self.hold.left_out) {
            (true, false) => Walk::Done,
            (false, false) if first => Walk::First(next),
            _ => Walk::Round(next),
        };
        if end {
            (self.hold.left_out, self.hold.quota) = (false, 0);
        }
        if first && self.hold.knows_orders() {
            self.place_groups();
        }
    }

    /// Lanes whose definitions are to be read, at most `most`; then call [`Lanes::learned`].
    pub fn take_unknown(&mut self, most: usize) -> Vec<LaneId> {
        let unasked = &mut self.hold.unasked;
        unasked.split_off(unasked.len().saturating_sub(most))
    }

    /// What was asked for by [`Lanes::take_unknown`] in this `life`.
    pub fn learned(&mut self, life: u64, lanes: Vec<(LaneId, Option<LaneDef>)>) {
        if life != self.life {
            return;
        }
        // The store may hold more of a lane than the task that made it known, unless all that do are known.
        let more = !matches!(self.hold.walk, Walk::Done);
        for (id, def) in lanes {
            match def {
                Some(def) => self.add(def, more),
                // It held tasks when the feed named it, and does not any more.
                None => drop(self.hold.take_strangers(id)),
            }
        }
        for id in std::mem::take(&mut self.hold.held_up) {
            self.place(id);
        }
    }

    /// The definitions of these lanes could not be read in this `life`: ask again.
    pub fn not_learned(&mut self, life: u64, lanes: Vec<LaneId>) {
        if life == self.life {
            self.hold.unasked.extend(lanes);
        }
    }

    /// Keeps a task until the definition of its lane is there.
    pub(super) fn keep_stranger(&mut self, task: Waiting) {
        let id = task.head.lane;
        if self.hold.strangers.contains_key(&id) || self.make_room() {
            // One that comes from another lane, or was final, may come before what is known; a new one is the last.
            let returns = task.head.flags.has(Flags::ORDERED) && task.head.version > 1;
            self.hold.add_stranger(task);
            if returns && matches!(self.hold.walk, Walk::Done) {
                self.place_groups();
            }
            return;
        }
        self.hold.left_out = true;
        if matches!(self.hold.walk, Walk::Done) {
            self.hold.walk = Walk::Round(Cursor::default());
        }
    }

    /// A task that has ended is not waited for in a lane that is not known.
    pub(super) fn remove_stranger(&mut self, head: &Head) {
        self.hold.remove_stranger(head);
        self.hold.outdate(head.score(), head.version);
        if head.flags.has(Flags::ORDERED) && matches!(self.hold.walk, Walk::Done) {
            self.gone_from_all(head.score(), head.version);
        }
    }

    /// Sees to it that one more lane fits in, if empty ones can be forgotten for it; false: there is no room.
    fn make_room(&mut self) -> bool {
        self.forget_empty(self.bounds.lanes.saturating_sub(self.hold.strangers.len() + 1));
        self.known.len() + self.hold.strangers.len() < self.bounds.lanes
    }

    /// Notes that a lane is empty: it may be forgotten.
    pub(super) fn note_empty(&mut self, id: LaneId) {
        if let Some(lane) = self.known.get_mut(&id).filter(|lane| lane.is_empty() && !lane.noted) {
            lane.noted = true;
            self.hold.empty.push_back(id);
        }
    }

    /// Forgets empty lanes until no more than `most` are known, those first that have been empty for the longest time.
    pub(super) fn forget_empty(&mut self, most: usize) {
        while self.known.len() > most
            && let Some(id) = self.hold.empty.pop_front()
        {
            let Some(lane) = self.known.get_mut(&id) else { continue };
            lane.noted = false;
            if lane.is_empty() {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: LaneId) {
        if let Some(host) = self.stand_up(id) {
            self.let_out(host);
        }
        let Some(lane) = self.known.remove(&id) else { return };
        if let Some(group) = lane.group
            && let Some(lanes) = self.groups.get_mut(&group)
        {
            lanes.retain(|other| *other != id);
            if lanes.is_empty() {
                self.groups.remove(&group);
            }
        }
    }

    /// Once in a while: forgets empty lanes, gives back memory, and lets lanes make room for those that are not held. Answers
    /// how many had to.
    pub fn tidy(&mut self) -> usize {
        if self.known.len() > KEEP {
            // All of them: a few that were kept would keep the memory of many.
            self.forget_empty(0);
        }
        if self.known.capacity() > 4 * self.known.len().max(KEEP) {
            let wanted = self.known.len() * 2;
            self.known.shrink_to(wanted);
            self.groups.shrink_to(wanted);
            self.gates.shrink_to(wanted);
            self.limits.shrink_to(wanted);
            self.hold.strangers.shrink_to(wanted);
            self.hold.empty.shrink_to(wanted);
            self.hungry.shrink_to(wanted);
            self.unread.shrink_to(wanted);
            self.ready.shrink();
        }
        if !matches!(self.hold.walk, Walk::Round(_)) {
            return 0;
        }
        // So a round takes at most ten times as long as these calls are apart for each time that all that may be held is in
        // the store.
        let (least, room) = ((self.bounds.lanes / 10).max(1), self.bounds.lanes.saturating_sub(self.known.len()));
        self.hold.quota = least.max(room);
        self.evict(least.saturating_sub(room))
    }

    /// Lets go of `most` lanes that have not started anything for the longest time, those that are closed first.
    fn evict(&mut self, most: usize) -> usize {
        let may = |lane: &Lane| {
            let shares = lane.group.and_then(|group| self.groups.get(&group)).is_some_and(|lanes| lanes.len() > 1);
            // What runs keeps others from starting, and is not always on the first page.
            lane.aside.is_none() && !lane.ahead && lane.window.open() == 0 && !shares
        };
        let rank = |lane: &Lane| (lane.closed.is_none(), lane.served);
        let mut lanes: Vec<_> = self.known.iter().filter(|(_, lane)| may(lane)).map(|(id, lane)| (rank(lane), *id)).collect();
        lanes.sort_unstable();
        lanes.truncate(most);
        for (_, id) in &lanes {
            self.forget(*id);
        }
        self.hold.left_out |= !lanes.is_empty();
        lanes.len()
    }
}

impl Hold {
    /// Whether it is known of each order which lanes have it.
    pub(super) fn knows_orders(&self) -> bool {
        matches!(self.walk, Walk::Round(_) | Walk::Done)
    }

    fn add_stranger(&mut self, task: Waiting) {
        if task.head.flags.has(Flags::ORDERED) {
            self.ordered.insert((task.head.score(), task.head.lane));
        }
        let tasks = self.strangers.entry(task.head.lane).or_default();
        if tasks.is_empty() {
            self.unasked.push(task.head.lane);
        }
        tasks.push(task);
    }

    fn take_strangers(&mut self, id: LaneId) -> Vec<Waiting> {
        let tasks = self.strangers.remove(&id).unwrap_or_default();
        for task in &tasks {
            self.ordered.remove(&(task.head.score(), id));
        }
        tasks
    }

    fn remove_stranger(&mut self, head: &Head) {
        let Some(tasks) = self.strangers.get_mut(&head.lane) else { return };
        tasks.retain(|task| task.head.score() != head.score() || task.head.version > head.version);
    }

    /// A later version of this task than what is waited for in a lane that is not known: it was moved from there.
    pub(super) fn outdate(&mut self, score: Score, version: u64) {
        let lanes: Vec<LaneId> =
            self.ordered.range((score, LaneId(0))..=(score, LaneId(u64::MAX))).map(|(_, lane)| *lane).collect();
        for lane in lanes {
            let Some(tasks) = self.strangers.get_mut(&lane) else { continue };
            tasks.retain(|task| task.head.score() != score || task.head.version > version);
            if !tasks.iter().any(|task| task.head.score() == score) {
                self.ordered.remove(&(score, lane));
            }
        }
    }

    /// Whether a task that is not known yet may come before this one; the lane is looked at again when it is known.
    pub(super) fn holds_up(&mut self, id: LaneId, score: Score) -> bool {
        let holds_up = self.ordered.first().is_some_and(|(first, _)| *first <= score);
        if holds_up {
            self.held_up.insert(id);
        }
        holds_up
    }
}
