//! What a script has to do besides guards: index commands and counts, gathered over all items of a call.
//!
//! One command per index and call, not per item: that is what makes a batch cheap. An item that is refused drops out of
//! all of them in the script.

use lovage_core::{Head, LaneId, Ns, State, count_delta, placement};

use super::keys::{PartitionKeys, at};
use super::pack::Packer;

/// One index command and its items.
#[derive(Debug)]
struct Group {
    /// Changes of the same task in one call come in waves, one after the other.
    wave: u8,
    command: &'static str,
    key: usize,
    items: Vec<u8>,
    scores: Vec<String>,
}

/// A number of a hash that items move.
#[derive(Debug)]
struct Tally {
    field: Vec<u8>,
    more: Vec<u8>,
    less: Vec<u8>,
}

/// The index commands and counts of a call, and the keys that it names itself.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    names: &'a PartitionKeys,
    /// The place of the first of `keys`.
    first: usize,
    /// Keys that this plan names by itself.
    pub(super) keys: Vec<Vec<u8>>,
    lanes: Vec<(LaneId, usize)>,
    groups: Vec<Group>,
    tallies: Vec<Tally>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(names: &'a PartitionKeys) -> Self {
        Self::behind(names, 0)
    }

    /// A second plan of the same call, whose keys come behind `others` of the first.
    pub(super) fn behind(names: &'a PartitionKeys, others: usize) -> Self {
        Self { names, first: at::FREE + others, keys: Vec::new(), lanes: Vec::new(), groups: Vec::new(), tallies: Vec::new() }
    }

    /// The keys of the partition.
    pub(super) fn names(&self) -> &'a PartitionKeys {
        self.names
    }

    /// Names a key and answers its place.
    pub(super) fn key(&mut self, name: Vec<u8>) -> usize {
        self.keys.push(name);
        self.first + self.keys.len() - 1
    }

    /// The place of a lane's key; named once a call.
    pub(super) fn lane(&mut self, lane: LaneId) -> usize {
        if let Some((_, place)) = self.lanes.iter().rev().find(|(known, _)| *known == lane) {
            return *place;
        }
        let place = self.key(self.names.lane(lane));
        self.lanes.push((lane, place));
        place
    }

    /// Moves an item from the indexes of `was` to those of `now`; the lane of a new task is the caller's.
    pub(super) fn moved(&mut self, item: u8, wave: u8, was: Option<&Head>, now: Option<&Head>) {
        let old = was.map(placement).unwrap_or_default();
        let new = now.map(placement).unwrap_or_default();
        if was.is_some() && old.lane != new.lane {
            if let Some((lane, _)) = old.lane.filter(|(lane, _)| new.lane.is_none_or(|(next, _)| next != *lane)) {
                let key = self.lane(lane);
                self.group(wave, "ZREM", key, item, None);
            }
            if let Some((lane, score)) = new.lane {
                let key = self.lane(lane);
                self.group(wave, "ZADD", key, item, Some(score.0));
            }
        }
        for (key, old, new) in [(at::TIMERS, old.timer, new.timer), (at::DONE, old.done, new.done)] {
            match (old, new) {
                (old, Some(time)) if old != new => self.group(wave, "ZADD", key, item, Some(time.0)),
                (Some(_), None) => self.group(wave, "ZREM", key, item, None),
                _ => {}
            }
        }
        match (old.running, new.running) {
            (false, true) => self.group(wave, "SADD", at::RUNNING, item, None),
            (true, false) => self.group(wave, "SREM", at::RUNNING, item, None),
            _ => {}
        }
    }

    /// Moves the counts by an item, from the first of `queues` to the second, which is mostly the same.
    pub(super) fn counted(&mut self, item: u8, ns: Ns, queues: (&str, &str), was: Option<&Head>, now: Option<&Head>) {
        if queues.0 == queues.1 && count_delta(was, now).is_none() {
            return;
        }
        if let Some(was) = was {
            self.tally(&count_field(ns, queues.0, was.state)).less.push(item);
        }
        if let Some(now) = now {
            self.tally(&count_field(ns, queues.1, now.state)).more.push(item);
        }
    }

    /// Writes the same for a plan of one item: `{command, key, score or '', …}` and `{field, 1 or -1, …}`.
    pub(super) fn write_alone(&self, out: &mut Packer) {
        out.array(self.groups.len() * 3);
        for group in &self.groups {
            let score = group.scores.first().map_or(&[][..], |score| score.as_bytes());
            out.bytes(group.command.as_bytes()).number(group.key as u64).bytes(score);
        }
        out.array(self.tallies.len() * 2);
        for tally in &self.tallies {
            out.bytes(&tally.field);
            if tally.more.is_empty() {
                out.minus_one()
            } else {
                out.number(1)
            };
        }
    }

    fn group(&mut self, wave: u8, command: &'static str, key: usize, item: u8, score: Option<u64>) {
        let same = |group: &Group| group.wave == wave && group.command == command && group.key == key;
        let place = self.groups.iter().rposition(same).unwrap_or_else(|| {
            self.groups.push(Group { wave, command, key, items: Vec::new(), scores: Vec::new() });
            self.groups.len() - 1
        });
        let group = &mut self.groups[place];
        group.items.push(item);
        group.scores.extend(score.map(|score| score.to_string()));
    }

    fn tally(&mut self, field: &[u8]) -> &mut Tally {
        let place = self.tallies.iter().rposition(|tally| tally.field == field).unwrap_or_else(|| {
            self.tallies.push(Tally { field: field.to_vec(), more: Vec::new(), less: Vec::new() });
            self.tallies.len() - 1
        });
        &mut self.tallies[place]
    }

    /// Writes the index commands and the counts: two values of the script's plan.
    pub(super) fn write(&mut self, out: &mut Packer) {
        self.groups.sort_by_key(|group| group.wave);
        out.array(self.groups.len());
        for group in &self.groups {
            out.array(4).bytes(group.command.as_bytes()).number(group.key as u64).bytes(&group.items);
            if group.scores.is_empty() {
                out.nothing();
            } else {
                out.array(group.scores.len());
                for score in &group.scores {
                    out.bytes(score.as_bytes());
                }
            }
        }
        out.array(self.tallies.len());
        for tally in &self.tallies {
            out.array(3).bytes(&tally.field).bytes(&tally.more).bytes(&tally.less);
        }
    }
}

/// The field of a count: namespace, state, queue.
fn count_field(ns: Ns, queue: &str, state: State) -> Vec<u8> {
    let mut field = ns.0.to_be_bytes().to_vec();
    field.push(state as u8);
    field.extend_from_slice(queue.as_bytes());
    field
}

/// Reads what a count is for.
pub(super) fn read_count_field(field: &[u8]) -> Option<(Ns, State, &str)> {
    let (ns, rest) = field.split_first_chunk::<4>()?;
    let (state, queue) = rest.split_first()?;
    Some((Ns(u32::from_be_bytes(*ns)), State::from_u8(*state)?, std::str::from_utf8(queue).ok()?))
}
