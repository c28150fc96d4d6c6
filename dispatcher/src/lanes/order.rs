//! Tasks with an order key: one at a time, in order of acceptance.
//!
//! The store keeps such a task in its lane until it is final, and so does the window: whatever is first there and does not
//! wait for a start (it runs, is scheduled, waits to be tried again, is held or waits for its children) keeps the others from
//! starting. Lanes of several queues that have the same key are a group and share one order. As long as it is not known what
//! is first in one of them, none of them starts anything.

use lovage_core::{Flags, LaneDef, LaneId, Score, State};

use lovage_store::FeedPos;

use super::fill::News;
use super::turns::mark;
use super::{Lane, Lanes, Waiting};

/// The group of lanes with this order key.
pub(super) fn group(def: &LaneDef) -> Option<u64> {
    let key = def.order_key.as_ref()?;
    let mut name = def.ns.0.to_be_bytes().to_vec();
    name.extend_from_slice(key.as_bytes());
    Some(mark(&name))
}

/// Whether the order lets this task start once it is first.
pub(super) fn waits_for_start(task: &Waiting) -> bool {
    task.head.state == State::Queued && !task.head.flags.has(Flags::HELD) && !task.taken
}

impl Lanes {
    /// Whether a page of this lane has to be followed by [`Lanes::ahead_of_feed`].
    pub fn is_ordered(&self, id: LaneId) -> bool {
        self.known.get(&id).is_some_and(|lane| lane.is_ordered())
    }

    /// The page of this lane that comes now may show what the feed tells only until then, and of other lanes nothing is known
    /// that is as new: an older task may have been accepted or moved there. So the lane waits for the feed.
    pub fn ahead_of_feed(&mut self, life: u64, id: LaneId, tail: FeedPos) {
        if life == self.life
            && tail > self.told_to
            && let Some(lane) = self.known.get_mut(&id)
        {
            lane.ahead = true;
            self.ahead.insert((tail, id));
        }
    }

    /// The feed has told all until then.
    pub fn follow(&mut self, feed: FeedPos) {
        self.told_to = feed;
        while let Some((at, id)) = self.ahead.first().copied().filter(|(at, _)| *at <= feed) {
            self.ahead.remove(&(at, id));
            if let Some(lane) = self.known.get_mut(&id) {
                lane.ahead = self.ahead.iter().any(|(_, other)| *other == id);
                self.place(id);
            }
        }
    }

    /// Whether the first task of an ordered lane is the one of its order that may start.
    pub(super) fn is_first(&self, id: LaneId, lane: &Lane, first: &Waiting) -> bool {
        if !waits_for_start(first) || !lane.shows_first() || !self.hold.knows_orders() {
            return false;
        }
        let siblings = lane.group.and_then(|group| self.groups.get(&group)).into_iter().flatten().filter(|other| **other != id);
        siblings.filter_map(|other| self.known.get(other)).all(|other| {
            let later = other.window.first().is_none_or(|task| task.head.score() > first.head.score());
            later && other.shows_first()
        })
    }

    /// Whether a lane of the same order shows a later version of this task: it was moved there. Earlier ones go.
    pub(super) fn is_elsewhere(&mut self, id: LaneId, task: &Waiting) -> bool {
        let (score, version) = (task.head.score(), task.head.version);
        let group = self.known.get(&id).and_then(|lane| lane.group);
        let Some(lanes) = group.and_then(|group| self.groups.get(&group)) else { return false };
        for other in lanes.iter().filter(|other| **other != id) {
            let Some(lane) = self.known.get_mut(other) else { continue };
            if lane.window.version(score).is_some_and(|known| known > version) {
                return true;
            }
            lane.gone(score, version);
        }
        false
    }

    /// The task has ended, in this lane or in one of the same order from which it was moved a moment ago.
    pub(super) fn gone_from_group(&mut self, group: u64, score: Score, version: u64) {
        for id in self.groups.get(&group).cloned().unwrap_or_default() {
            if let Some(lane) = self.known.get_mut(&id) {
                lane.gone(score, version);
            }
        }
    }

    /// The task has ended in a lane that is not known: it was moved there from one that is, and that is told nothing else.
    pub(super) fn gone_from_all(&mut self, score: Score, version: u64) {
        let groups: Vec<u64> = self.groups.keys().copied().collect();
        for group in groups {
            self.gone_from_group(group, score, version);
            self.place_group(group);
        }
    }

    /// It is known which lanes there are: orders may go on.
    pub(super) fn place_groups(&mut self) {
        let groups: Vec<u64> = self.groups.keys().copied().collect();
        for group in groups {
            self.place_group(group);
        }
    }

    fn place_group(&mut self, group: u64) {
        if let Some(id) = self.groups.get(&group).and_then(|lanes| lanes.first().copied()) {
            self.place(id);
        }
    }
}

impl Lane {
    /// Whether it is certain what is first in it, and nothing of it runs.
    fn shows_first(&self) -> bool {
        let unknown = self.ahead || self.aside.is_some() || (self.window.is_empty() && self.more);
        !unknown && self.window.open() == 0
    }

    fn gone(&mut self, score: Score, version: u64) {
        if let Some(aside) = &mut self.aside {
            aside.push(News::Gone(score, version));
        }
        self.window.remove(score, version);
    }
}
