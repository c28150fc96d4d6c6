//! How a cluster is laid out, as its nodes tell it.
//!
//! Nodes disagree while a failover or a move goes on: one that was halted or cut off still names the old master. The
//! owner of a slot is the one with the highest epoch, the rule by which the nodes themselves come to agree.

use std::collections::{BTreeSet, HashMap};

use redis::Value;

use super::address::Endpoint;
use super::slot::SLOTS;
use super::value;
use crate::{Error, Result};

/// Slots that follow each other and have the same master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Endpoint,
    pub(super) epoch: u64,
}

/// Who serves which slots, in order, and who else belongs to the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) ranges: Vec<Range>,
    pub(super) replicas: BTreeSet<Endpoint>,
}

impl View {
    /// One server that serves everything.
    pub(super) fn of_one(master: Endpoint, epoch: u64) -> Self {
        Self { ranges: vec![Range { first: 0, last: SLOTS - 1, master, epoch }], replicas: BTreeSet::new() }
    }

    /// Everybody who can be asked.
    pub(super) fn everybody(&self) -> BTreeSet<Endpoint> {
        self.ranges.iter().map(|range| range.master.clone()).chain(self.replicas.iter().cloned()).collect()
    }

    /// Reads the answers of `asked` to CLUSTER SLOTS, which names each node as clients reach it, and to CLUSTER NODES, which
    /// tells the epochs. Without the latter all are taken for equal.
    pub(super) fn read(asked: &Endpoint, slots: Value, nodes: Value) -> Result<Self> {
        let epochs = read_epochs(nodes);
        let mut view = Self::default();
        for entry in value::list(slots)? {
            let mut parts = value::list(entry)?.into_iter();
            let mut number = || parts.next().map_or(Ok(0), value::number).map(|number| number as u16);
            let (first, last) = (number()?, number()?);
            let mut master = None;
            for node in parts {
                let mut facts = value::list(node)?.into_iter();
                let mut fact = || facts.next().unwrap_or_default();
                let (host, port, id) = (value::text(fact())?, value::number(fact())? as u16, value::text(fact())?);
                let endpoint = Endpoint::new(&host, port, asked);
                match master {
                    None => master = Some((endpoint, epochs.get(&id).copied().unwrap_or_default())),
                    Some(_) => drop(view.replicas.insert(endpoint)),
                }
            }
            let (master, epoch) = master.ok_or_else(|| Error::Corrupt("a range of slots without a node".into()))?;
            view.ranges.push(Range { first, last, master, epoch });
        }
        Ok(view)
    }

    /// What several views say together: for each slot the one with the highest epoch.
    pub(super) fn merge(views: &[Self]) -> Self {
        let mut owners: Vec<Option<&Range>> = vec![None; usize::from(SLOTS)];
        for range in views.iter().flat_map(|view| &view.ranges) {
            for owner in owners.iter_mut().take(usize::from(range.last) + 1).skip(usize::from(range.first)) {
                if owner.is_none_or(|known| known.epoch < range.epoch) {
                    *owner = Some(range);
                }
            }
        }
        let mut merged = Self::default();
        for (slot, owner) in (0u16..).zip(owners) {
            let Some(owner) = owner else { continue };
            match merged.ranges.last_mut() {
                Some(open) if open.last + 1 == slot && open.master == owner.master && open.epoch == owner.epoch => {
                    open.last = slot;
                }
                _ => merged.ranges.push(Range { first: slot, last: slot, ..owner.clone() }),
            }
        }
        let masters: BTreeSet<_> = merged.ranges.iter().map(|range| range.master.clone()).collect();
        let named = views.iter().flat_map(Self::everybody);
        merged.replicas = named.filter(|node| !masters.contains(node)).collect();
        merged
    }

    /// The master of a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Endpoint> {
        let place = self.ranges.partition_point(|range| range.last < slot);
        self.ranges.get(place).filter(|range| range.first <= slot).map(|range| &range.master)
    }
}

/// Reads `id address flags master ping pong epoch …` of every line.
fn read_epochs(nodes: Value) -> HashMap<String, u64> {
    let text = match nodes {
        Value::VerbatimString { text, .. } => text,
        other => value::text(other).unwrap_or_default(),
    };
    let epoch = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        Some(((*words.first()?).to_owned(), words.get(6)?.parse().ok()?))
    };
    text.lines().filter_map(epoch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16, port: u16, epoch: u64) -> Range {
        Range { first, last, master: Endpoint { host: "h".into(), port }, epoch }
    }

    fn view(ranges: &[Range]) -> View {
        View { ranges: ranges.to_vec(), replicas: BTreeSet::new() }
    }

    #[test]
    fn the_highest_epoch_is_believed_slot_by_slot() {
        let old = view(&[range(0, 99, 1, 1), range(100, 199, 2, 2)]);
        let new = view(&[range(0, 49, 1, 1), range(50, 99, 3, 7)]);
        for views in [[old.clone(), new.clone()], [new, old]] {
            let merged = View::merge(&views);
            assert_eq!(merged.ranges, [range(0, 49, 1, 1), range(50, 99, 3, 7), range(100, 199, 2, 2)]);
            let ports = [0, 49, 50, 99, 150].map(|slot| merged.owner(slot).unwrap().port);
            assert_eq!((ports, merged.owner(200)), ([1, 1, 3, 3, 2], None));
        }
    }

    #[test]
    fn who_lost_all_slots_can_still_be_asked() {
        let merged = View::merge(&[view(&[range(0, 99, 1, 1)]), view(&[range(0, 99, 2, 2)])]);
        assert_eq!(merged.ranges, [range(0, 99, 2, 2)]);
        assert_eq!(merged.everybody().into_iter().map(|node| node.port).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn answers_are_read() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node = |host, port, id: &str| Value::Array(vec![host, Value::Int(port), text(id), Value::Map(Vec::new())]);
        let entry = Value::Array(vec![Value::Int(5), Value::Int(9), node(Value::Nil, 7, "aa"), node(text("other"), 8, "bb")]);
        let nodes = "aa 10.0.0.1:7@17,h myself,master - 0 0 42 connected 5-9\nbb 10.0.0.2:8@18 slave aa 0 0 42 connected";
        let asked = Endpoint { host: "asked".into(), port: 1 };
        let read = View::read(&asked, Value::Array(vec![entry]), text(nodes)).unwrap();
        assert_eq!((read.ranges[0].first, read.ranges[0].last, read.ranges[0].epoch), (5, 9, 42));
        assert_eq!(read.ranges[0].master.to_string(), "asked:7");
        assert_eq!(read.replicas.iter().map(ToString::to_string).collect::<Vec<_>>(), ["other:8"]);
    }
}
