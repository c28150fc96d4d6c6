//! Whose turn it is among lanes: strict priority, and within it even shares.
//!
//! ```text
//! rank 0 ─┬─ namespace ─┬─ queue ─┬─ fair key ─┬─ lane
//!   …     │             │         │            └─ lane
//! rank 9  └─ …          └─ …      └─ fair key ─┬─ rank ─── lane      (a queue that is fair: its priorities count
//!                                              └─ rank ─── lane       within a key only)
//! ```
//!
//! Below a rank, each node counts the starts beneath it, and the child with the fewest goes next. A new one goes to the end
//! of the round, and one that comes back goes on where the others are: idling earns nothing. So a key with a thousand lanes gets no more than one with a single
//! lane. All nodes are in one sorted set: every step takes logarithmic time, and a node costs some tens of bytes.

use std::collections::BTreeSet;

use ahash::AHashMap;
use lovage_core::{LaneDef, LaneId, Ns};

/// Ranks of the priorities: 0 goes first.
pub(super) const RANKS: usize = 10;
/// Bits of a stamp below the number of starts: the order in which equal ones got there. The highest of them: it comes after those
/// that had their turn before and were kept from using it.
const TICK_BITS: u32 = 24;
const ORDINARY: u64 = 1 << (TICK_BITS - 1);
/// So many of those that left are remembered.
const REMEMBERED: usize = 4_096;

/// Whom a lane shares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kin {
    ns: Ns,
    queue: u64,
    key: u64,
}

impl Kin {
    pub(super) fn of(def: &LaneDef) -> Self {
        let key = def.fair_key.as_ref().map_or(0, |key| mark(key.as_bytes()));
        Self { ns: def.ns, queue: mark(def.queue.as_bytes()), key }
    }
}

/// Where a lane takes its turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rank {
    /// Among all.
    pub(super) rank: u8,
    /// Among those of its fair key.
    pub(super) within: Option<u8>,
}

/// How a lane comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    New,
    /// From where it had to wait although it was its turn.
    Back,
    /// From a turn that it could not use.
    Unserved,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u64,
    stamp: u64,
    children: u32,
    /// Its children are ranks: these are there.
    ranks: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Band {
    lanes: u32,
    served: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// (parent, stamp, child).
    order: BTreeSet<(u64, u64, u64)>,
    nodes: AHashMap<u64, Node>,
    bands: [Band; RANKS],
    /// How many starts those had that left lately: whoever comes back at once goes on where it was.
    left: AHashMap<u64, u64>,
    /// The most starts that any of them has.
    most: u64,
    tick: u64,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// How many lanes there are.
    pub(super) fn lanes(&self) -> usize {
        self.bands.iter().map(|band| band.lanes as usize).sum()
    }

    /// Puts a lane at the end of its turn, or before the others if it is `back` from where it had to wait although it was its
    /// turn; answers its stamp.
    pub(super) fn insert(&mut self, lane: LaneId, rank: Rank, kin: &Kin, back: bool) -> u64 {
        self.put(lane, rank, kin, if back { Comes::Back } else { Comes::New })
    }

    /// A lane comes back that was served although it did not start anything: all is as if it had not been; answers its stamp.
    pub(super) fn unserve(&mut self, lane: LaneId, rank: Rank, kin: &Kin) -> u64 {
        let stamp = self.put(lane, rank, kin, Comes::Unserved);
        let path = Path::of(rank, kin);
        let moved = self.uncount(path.leaf(), stamp, lane.0);
        for (node, _) in path.nodes() {
            let Some(Node { parent, stamp, .. }) = self.nodes.get(&node).copied() else { continue };
            let stamp = self.uncount(parent, stamp, node);
            if let Some(known) = self.nodes.get_mut(&node) {
                known.stamp = stamp;
            }
        }
        moved
    }

    fn put(&mut self, lane: LaneId, rank: Rank, kin: &Kin, comes: Comes) -> u64 {
        let path = Path::of(rank, kin);
        let mut parent = path.root();
        for (node, of_rank) in path.nodes() {
            if !self.nodes.contains_key(&node) {
                let stamp = self.append(parent, node, if comes == Comes::Back { Comes::New } else { comes });
                self.nodes.insert(node, Node { parent, stamp, children: 0, ranks: 0 });
                if let Some(above) = self.nodes.get_mut(&parent) {
                    above.children += 1;
                    above.ranks |= of_rank.map_or(0, |rank| 1 << rank);
                }
            }
            parent = node;
        }
        if let Some(leaf) = self.nodes.get_mut(&parent) {
            leaf.children += 1;
        }
        self.bands[band(rank.rank)].lanes += 1;
        self.append(parent, lane.0, comes)
    }

    /// Takes out a lane with its stamp.
    pub(super) fn remove(&mut self, lane: LaneId, stamp: u64, rank: Rank, kin: &Kin) {
        let path = Path::of(rank, kin);
        self.take_out(path.leaf(), stamp, lane.0);
        self.bands[band(rank.rank)].lanes -= 1;
        let mut gone = None;
        for (node, of_rank) in path.nodes().rev() {
            let Some(known) = self.nodes.get_mut(&node) else { return };
            known.children -= 1;
            known.ranks &= !gone.map_or(0, |rank| 1u16 << rank);
            if known.children > 0 {
                return;
            }
            let Node { parent, stamp, .. } = *known;
            self.nodes.remove(&node);
            self.take_out(parent, stamp, node);
            gone = of_rank;
        }
    }

    /// Counts a start; answers the lane's new stamp.
    pub(super) fn serve(&mut self, lane: LaneId, stamp: u64, rank: Rank, kin: &Kin) -> u64 {
        let path = Path::of(rank, kin);
        self.tick += 1;
        self.bands[band(rank.rank)].served = self.tick;
        let stamp = self.count(path.leaf(), stamp, lane.0);
        for (node, _) in path.nodes() {
            let Some(Node { parent, stamp, .. }) = self.nodes.get(&node).copied() else { continue };
            let stamp = self.count(parent, stamp, node);
            if let Some(known) = self.nodes.get_mut(&node) {
                known.stamp = stamp;
            }
        }
        stamp
    }

    /// The lane whose turn it is. `effective`: the rank of a lane after what it has waited.
    pub(super) fn first(&self, effective: impl Fn(u8, LaneId) -> i64) -> Option<LaneId> {
        let (mut best, mut is_alone) = (None, self.bands.iter().filter(|band| band.lanes > 0).count() == 1);
        for (rank, band) in (0u8..).zip(&self.bands).filter(|(_, band)| band.lanes > 0) {
            let lane = self.descend(u64::from(rank), &effective)?;
            if std::mem::take(&mut is_alone) {
                return Some(lane);
            }
            let place = (effective(rank, lane), band.served);
            if best.is_none_or(|(known, _)| place < known) {
                best = Some((place, lane));
            }
        }
        best.map(|(_, lane)| lane)
    }

    fn descend(&self, rank: u64, effective: &impl Fn(u8, LaneId) -> i64) -> Option<LaneId> {
        // Namespace, queue, fair key.
        let mut node = rank;
        for _ in 0..3 {
            node = self.child(node)?.1;
        }
        let ranks = self.nodes.get(&node)?.ranks;
        if ranks == 0 {
            return self.child(node).map(|(_, lane)| LaneId(lane));
        }
        let inside = (0..RANKS as u8).filter(|rank| ranks & (1 << rank) != 0).filter_map(|rank| {
            let inner = within(node, rank);
            let lane = LaneId(self.child(inner)?.1);
            Some(((effective(rank, lane), self.nodes.get(&inner)?.stamp), lane))
        });
        inside.min_by_key(|(place, _)| *place).map(|(_, lane)| lane)
    }

    /// The child whose turn it is, with its stamp.
    fn child(&self, parent: u64) -> Option<(u64, u64)> {
        let (of, stamp, child) = *self.order.range((parent, 0, 0)..).next()?;
        (of == parent).then_some((stamp, child))
    }

    /// Puts a child where it was, or else behind those that are there: new ones without end keep nobody waiting.
    fn append(&mut self, parent: u64, child: u64, comes: Comes) -> u64 {
        let back = comes == Comes::Back;
        let least = self.child(parent).map(|(stamp, _)| stamp >> TICK_BITS);
        let starts = match (least, self.left.remove(&child)) {
            // It was not idle, so that nothing is taken from it.
            (_, Some(had)) if comes == Comes::Unserved => had,
            // Alone: no lower than what anybody may come back with.
            (None, _) => self.most,
            (Some(least), Some(had)) => least.max(had),
            (Some(least), None) if back => least,
            (Some(least), None) => least + 1,
        };
        let stamp = self.stamp(starts) & if back { !ORDINARY } else { u64::MAX };
        self.order.insert((parent, stamp, child));
        stamp
    }

    fn take_out(&mut self, parent: u64, stamp: u64, child: u64) {
        self.order.remove(&(parent, stamp, child));
        if self.left.len() >= REMEMBERED {
            self.left.clear();
        }
        self.left.insert(child, stamp >> TICK_BITS);
    }

    /// Counts a start of a child; one without others need not count.
    fn count(&mut self, parent: u64, stamp: u64, child: u64) -> u64 {
        if self.nodes.get(&parent).is_some_and(|node| node.children == 1) {
            return stamp;
        }
        self.move_to(parent, stamp, child, (stamp >> TICK_BITS) + 1)
    }

    /// Takes back what was counted.
    fn uncount(&mut self, parent: u64, stamp: u64, child: u64) -> u64 {
        if self.nodes.get(&parent).is_some_and(|node| node.children == 1) {
            return stamp;
        }
        self.move_to(parent, stamp, child, (stamp >> TICK_BITS).saturating_sub(1))
    }

    fn move_to(&mut self, parent: u64, stamp: u64, child: u64, starts: u64) -> u64 {
        self.order.remove(&(parent, stamp, child));
        let stamp = self.stamp(starts);
        self.order.insert((parent, stamp, child));
        stamp
    }

    fn stamp(&mut self, starts: u64) -> u64 {
        self.tick += 1;
        self.most = self.most.max(starts);
        (starts << TICK_BITS) | ORDINARY | (self.tick & (ORDINARY - 1))
    }

    /// Gives back memory that is not needed any more.
    pub(super) fn shrink(&mut self) {
        if self.nodes.capacity() > 4 * self.nodes.len().max(256) {
            let wanted = self.nodes.len() * 2;
            self.nodes.shrink_to(wanted);
        }
    }
}

/// The nodes above a lane.
struct Path {
    rank: u8,
    nodes: [u64; 4],
    within: Option<u8>,
}

impl Path {
    fn of(Rank { rank, within: inner }: Rank, kin: &Kin) -> Self {
        let ns = mix(band(rank) as u64, u64::from(kin.ns.0));
        let queue = mix(ns, kin.queue);
        // Of a queue that became fair lately, lanes of both kinds may be there.
        let key = mix(queue, if inner.is_some() { !kin.key } else { kin.key });
        Self { rank, nodes: [ns, queue, key, inner.map_or(key, |rank| within(key, rank))], within: inner }
    }

    fn root(&self) -> u64 {
        band(self.rank) as u64
    }

    fn leaf(&self) -> u64 {
        self.nodes[3]
    }

    /// From the top; with its rank, if a node is one within a key.
    fn nodes(&self) -> impl DoubleEndedIterator<Item = (u64, Option<u8>)> + use<> {
        let [ns, queue, key, inner] = self.nodes;
        let inner = self.within.map(|rank| (inner, Some(rank)));
        [ns, queue, key].into_iter().map(|node| (node, None)).chain(inner)
    }
}

fn band(rank: u8) -> usize {
    usize::from(rank).min(RANKS - 1)
}

fn within(key: u64, rank: u8) -> u64 {
    mix(key, 1 << 63 | u64::from(rank))
}

/// A number for a pair. Two nodes with one number would share a turn; with 64 bits they never meet.
fn mix(a: u64, b: u64) -> u64 {
    let mut hash = (a ^ b.rotate_left(32) ^ 0x2545_f491_4f6c_dd1d).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^= b.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 32)
}

/// A number for a name: 64-bit FNV-1a, finished by an avalanche step.
pub(super) fn mark(name: &[u8]) -> u64 {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    mix(hash, name.len() as u64).max(1)
}
