//! Why a lane may not start anything, and who opens it again.
//!
//! Lanes that wait for the same gate or the same limit wait in one room, where turns are taken as among all: whoever has the
//! most lanes there gets no more than the others, and a higher priority that comes later goes first.

use std::time::Duration;

use ahash::AHashMap;
use lovage_core::{LaneId, Millis, Score};

use super::turns::{Kin, Rank, Turns};
use super::{Lane, Lanes};
use crate::limits::NO_ROOM;

/// Why no task of a lane may start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

#[derive(Clone, Copy, Debug)]
pub(super) struct Shut {
    pub(super) why: Closed,
    /// The task that could not start. Where each has to pass something else, another one may.
    first: Option<Score>,
}

/// For how many of its tasks a lane waits, and until when at the latest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gather {
    pub(super) enough: usize,
    until: Millis,
}

/// Where lanes wait for their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Ready,
    Gate(u64),
    Limit(u64),
}

/// The place of a lane in a room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) room: Room,
    pub(super) rank: Rank,
    pub(super) kin: Kin,
    pub(super) stamp: u64,
}

/// Who waits in a room. With a lane for each key of a limit, nearly all are alone.
#[derive(Debug)]
pub(super) enum Crowd {
    One(LaneId),
    Many {
        turns: Box<Turns>,
        /// How many more may start; of a limit: how many more it counts on to try until they are told to wait.
        starts: usize,
        /// Who is out for a start.
        guest: Option<LaneId>,
    },
}

/// Lanes opened in one go when all are to be opened.
const OPENED_AT_ONCE: usize = 512;

impl Lanes {
    /// No task of this lane may start until it is opened.
    pub fn close(&mut self, id: LaneId, why: Closed) {
        let Some(lane) = self.known.get_mut(&id) else { return };
        if let Closed::Until(at) | Closed::Gathering(at) = why {
            self.until.insert((at, id));
        }
        lane.closed = Some(Shut { why, first: lane.first() });
        if let Some((room, starts)) = self.host(id)
            && room.why() == Some(why)
        {
            // Fewer may start than was said.
            let left = std::mem::take(starts);
            if let Room::Limit(limit) = room {
                self.open_each(limit, left.saturating_sub(1));
            }
        }
        self.place(id);
    }

    /// Whether tasks of this lane may go together: as many as are asked for are here, or the first of them has waited so long.
    /// Otherwise the lane is closed until one of the two is so.
    pub fn gather(&mut self, id: LaneId, most: usize, now: Millis, wait: Duration) -> bool {
        let window = self.bounds.window;
        let Some(lane) = self.known.get_mut(&id) else { return false };
        let until = lane.gather.as_ref().map_or(now.after(wait), |gather| gather.until);
        let enough = most.min(window);
        lane.gather = Some(Box::new(Gather { enough, until }));
        if lane.window.len() >= enough || until <= now {
            return true;
        }
        self.close(id, Closed::Gathering(until));
        false
    }

    /// Opens a lane that has gathered enough.
    pub(super) fn open_gathered(&mut self, id: LaneId) {
        let Some(lane) = self.known.get(&id) else { return };
        if let (Some(was @ Closed::Gathering(_)), Some(gather)) = (lane.why(), &lane.gather)
            && lane.window.len() >= gather.enough
        {
            self.open(id, was);
        }
    }

    /// Opens a lane that is closed for this reason.
    fn open(&mut self, id: LaneId, was: Closed) {
        if let Some(lane) = self.known.get_mut(&id).filter(|lane| lane.why() == Some(was)) {
            lane.closed = None;
            self.place(id);
        }
    }

    /// The gates that lanes wait for.
    pub fn busy_gates(&self) -> Vec<u64> {
        self.gates.keys().copied().collect()
    }

    /// How urgent the first task of a lane that waits for its turn is, after what it has waited: the less the more.
    pub fn urgency(&self, id: LaneId) -> i64 {
        let seat = self.known.get(&id).and_then(|lane| lane.seat.as_ref());
        seat.map_or(i64::MAX, |seat| self.effective(seat.rank.rank, id))
    }

    /// The same of the lane whose turn it is at this gate.
    pub fn urgency_at(&self, gate: u64) -> Option<i64> {
        let id = match self.gates.get(&gate)? {
            Crowd::One(id) => *id,
            Crowd::Many { turns, .. } => turns.first(|rank, id| self.effective(rank, id))?,
        };
        Some(self.urgency(id))
    }

    /// `slots` tasks of the lanes that wait for this gate may start, in turn.
    pub fn open_busy(&mut self, gate: u64, slots: usize) {
        self.open_room(Room::Gate(gate), slots);
    }

    /// Lets up to `most` of the lanes that wait for this limit try, in turn, until each is told to wait again; answers how many.
    /// The limit counts those that it told: none of them may fail to try.
    pub fn open_limit(&mut self, limit: u64, most: usize) -> usize {
        let room = Room::Limit(limit);
        if limit == NO_ROOM {
            // There is nothing to share: who has got in stays in.
            return self.open_each(limit, most);
        }
        match self.crowd(room) {
            None => 0,
            Some(Crowd::One(_)) => self.open_each(limit, most.min(1)),
            Some(Crowd::Many { turns, starts, guest }) => {
                let more = most.min((turns.lanes() + usize::from(guest.is_some())).saturating_sub(*starts));
                *starts += more;
                self.let_out(room);
                more
            }
        }
    }

    /// Opens up to `most` of the lanes that wait for this limit at once; answers how many.
    fn open_each(&mut self, limit: u64, most: usize) -> usize {
        for opened in 0..most {
            let id = match self.limits.get(&limit) {
                None => return opened,
                Some(Crowd::One(id)) => *id,
                Some(Crowd::Many { turns, .. }) => match turns.first(|rank, id| self.effective(rank, id)) {
                    Some(id) => id,
                    None => return opened,
                },
            };
            if let Some(lane) = self.known.get_mut(&id) {
                (lane.back, lane.owed) = (true, Some(Room::Limit(limit)));
            }
            self.open(id, Closed::Limit(limit));
        }
        most
    }

    fn open_room(&mut self, room: Room, most: usize) {
        match self.crowd(room) {
            Some(Crowd::One(id)) => {
                let id = *id;
                self.open_for(id, room);
            }
            Some(Crowd::Many { starts, .. }) => {
                *starts = most;
                self.let_out(room);
            }
            None => {}
        }
    }

    /// Of those that wait together one at a time is let out, and comes back with its start: so each start goes to the one whose
    /// turn it is, however many may start.
    pub(super) fn let_out(&mut self, room: Room) {
        let Some(Crowd::Many { turns, starts: 1.., guest: None }) = self.look(room) else { return };
        let Some(id) = turns.first(|rank, id| self.effective(rank, id)) else { return };
        if let Some(lane) = self.known.get_mut(&id) {
            (lane.guest_of, lane.owed) = (Some(room), Some(room));
            lane.back |= matches!(room, Room::Limit(_));
        }
        if let Some(Crowd::Many { guest, .. }) = self.crowd(room) {
            *guest = Some(id);
        }
        self.open_for(id, room);
    }

    /// A start of a lane that was let out for it: it goes back.
    pub(super) fn send_back(&mut self, id: LaneId) {
        let Some(lane) = self.known.get_mut(&id) else { return };
        lane.owed = None;
        let (first, is_mixed) = (lane.first(), lane.is_mixed());
        let Some((room, starts)) = self.host(id).filter(|_| !is_mixed) else { return };
        if matches!(room, Room::Gate(_)) {
            *starts = starts.saturating_sub(1);
        }
        if let (Some(lane), Some(why)) = (self.known.get_mut(&id), room.why()) {
            lane.closed = Some(Shut { why, first });
        }
    }

    /// The room that has let this lane out, and how many more may start of those there. What became of the room since then is not
    /// its matter if nobody was left there.
    fn host(&mut self, id: LaneId) -> Option<(Room, &mut usize)> {
        let room = self.known.get(&id)?.guest_of?;
        match self.crowd(room)? {
            Crowd::Many { starts, guest, .. } if *guest == Some(id) => Some((room, starts)),
            _ => None,
        }
    }

    fn open_for(&mut self, id: LaneId, room: Room) {
        if let Some(why) = room.why() {
            self.open(id, why);
        }
    }

    fn look(&self, room: Room) -> Option<&Crowd> {
        match room {
            Room::Ready => None,
            Room::Gate(number) => self.gates.get(&number),
            Room::Limit(number) => self.limits.get(&number),
        }
    }

    fn crowd(&mut self, room: Room) -> Option<&mut Crowd> {
        match room {
            Room::Ready => None,
            Room::Gate(number) => self.gates.get_mut(&number),
            Room::Limit(number) => self.limits.get_mut(&number),
        }
    }

    /// The time is this: opens lanes whose time has come, and the next of those that are to be opened.
    pub fn open_until(&mut self, now: Millis) {
        self.now = now;
        while let Some((at, id)) = self.until.first().copied().filter(|(at, _)| *at <= now) {
            self.until.remove(&(at, id));
            self.open(id, Closed::Until(at));
            self.open(id, Closed::Gathering(at));
        }
        for id in self.opening.split_off(self.opening.len().saturating_sub(OPENED_AT_ONCE)) {
            if let Some(lane) = self.known.get_mut(&id) {
                lane.closed = None;
                self.place(id);
            }
        }
    }

    /// When the next lane opens by itself.
    pub fn next_opening(&self) -> Option<Millis> {
        if self.opening.is_empty() { self.until.first().map(|(at, _)| *at) } else { Some(Millis(0)) }
    }

    /// Opens every lane but those that wait for a limit, which tells them of all that concerns it: the workers changed. With very many of them it takes a few turns of the loop, which others use too.
    pub fn open_all(&mut self) {
        let opens = |lane: &Lane| lane.why().is_some_and(|why| !matches!(why, Closed::Limit(_)));
        self.opening = self.known.iter().filter(|(_, lane)| opens(lane)).map(|(id, _)| *id).collect();
        self.open_until(self.now);
    }

    /// Notes that a lane that is closed for another task than its first may be open.
    pub(super) fn look_at_door(&mut self, id: LaneId) {
        if let Some(lane) = self.known.get_mut(&id)
            && lane.is_mixed()
            && lane.closed.is_some_and(|shut| shut.first != lane.first())
        {
            lane.closed = None;
        }
    }

    pub(super) fn sit_down(&mut self, id: LaneId, room: Room, rank: Rank, kin: Kin) {
        let back = self.known.get_mut(&id).is_some_and(|lane| std::mem::take(&mut lane.back));
        let rooms = match room {
            Room::Ready => None,
            Room::Gate(number) => Some((&mut self.gates, number)),
            Room::Limit(number) => Some((&mut self.limits, number)),
        };
        let stamp = match rooms {
            None => self.ready.insert(id, rank, &kin, back),
            Some((rooms, number)) => {
                let owed = self.known.get_mut(&id).and_then(|lane| lane.owed.take()).is_some_and(|owed| owed == room);
                match enter(&mut self.known, rooms, number, id) {
                    Some(turns) if owed => turns.unserve(id, rank, &kin),
                    Some(turns) => turns.insert(id, rank, &kin, false),
                    None => 0,
                }
            }
        };
        if let Some(lane) = self.known.get_mut(&id) {
            lane.seat = Some(Seat { room, rank, kin, stamp });
        }
    }

    /// Takes a lane from its seat; answers the room that may let out another one now.
    pub(super) fn stand_up(&mut self, id: LaneId) -> Option<Room> {
        let lane = self.known.get_mut(&id)?;
        let seat = lane.seat.take()?;
        match seat.room {
            Room::Ready => {
                let (host, why) = (lane.guest_of.take(), lane.why());
                self.ready.remove(id, seat.stamp, seat.rank, &seat.kin);
                let host = host?;
                if let Some(Crowd::Many { starts, guest, .. }) = self.crowd(host)
                    && *guest == Some(id)
                {
                    *guest = None;
                    if matches!(host, Room::Limit(_)) && host.why() != why {
                        // It will not be told to wait there.
                        *starts = starts.saturating_sub(1);
                    }
                }
                return Some(host);
            }
            Room::Gate(number) => leave(&mut self.gates, number, id, &seat),
            Room::Limit(number) => leave(&mut self.limits, number, id, &seat),
        }
        None
    }
}

impl Room {
    /// Why lanes are in it.
    fn why(self) -> Option<Closed> {
        match self {
            Self::Ready => None,
            Self::Gate(number) => Some(Closed::Busy(number)),
            Self::Limit(number) => Some(Closed::Limit(number)),
        }
    }
}

impl Lane {
    pub(super) fn why(&self) -> Option<Closed> {
        self.closed.map(|shut| shut.why)
    }

    fn first(&self) -> Option<Score> {
        self.window.first().map(|task| task.head.score())
    }
}

type Known = AHashMap<LaneId, Box<Lane>>;

/// Where a lane takes its turn with others of a room; `None`: it is alone there.
fn enter<'a>(known: &mut Known, rooms: &'a mut AHashMap<u64, Crowd>, number: u64, id: LaneId) -> Option<&'a mut Turns> {
    match rooms.entry(number).or_insert(Crowd::One(id)) {
        Crowd::One(only) if *only == id => None,
        crowd => {
            if let Crowd::One(only) = *crowd {
                let mut turns = Turns::default();
                if let Some(seat) = known.get_mut(&only).and_then(|lane| lane.seat.as_mut()) {
                    seat.stamp = turns.insert(only, seat.rank, &seat.kin, false);
                }
                *crowd = Crowd::Many { turns: Box::new(turns), starts: 0, guest: None };
            }
            match crowd {
                Crowd::Many { turns, .. } => Some(turns),
                Crowd::One(_) => None,
            }
        }
    }
}

fn leave(rooms: &mut AHashMap<u64, Crowd>, number: u64, id: LaneId, seat: &Seat) {
    let is_empty = match rooms.get_mut(&number) {
        Some(Crowd::Many { turns, .. }) => {
            // Whoever is let in has had its turn, and so have those that share with it.
            let stamp = turns.serve(id, seat.stamp, seat.rank, &seat.kin);
            turns.remove(id, stamp, seat.rank, &seat.kin);
            turns.is_empty()
        }
        _ => true,
    };
    if is_empty {
        rooms.remove(&number);
    }
}
