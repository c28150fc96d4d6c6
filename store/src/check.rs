//! What every store checks before it looks at its data, so that a caller's bug has the same answer everywhere.

use lovage_core::{Flags, Partition, TaskId};

use crate::{Caps, Commit, Effect, Error, Insert, KeyTake, MAX_KEYS, MAX_MEMBERS, Message, Result};

impl Caps {
    /// Refuses a partition that does not exist and a batch above [`Caps::max_batch`] as [`Error::Invalid`].
    pub fn check_call(&self, p: Partition, items: usize) -> Result<()> {
        if p.0 >= self.partitions {
            return Err(Error::Invalid(format!("there is no partition {} of {}", p.0, self.partitions)));
        }
        if items > self.max_batch {
            return Err(Error::Invalid(format!("{items} items in a call that may carry {}", self.max_batch)));
        }
        Ok(())
    }

    /// Refuses what no insert may ask for as [`Error::Invalid`]: too many keys, and a task whose slot lives in another
    /// partition, where nobody would find it again.
    pub fn check_inserts(&self, p: Partition, items: &[Insert]) -> Result<()> {
        items.iter().try_for_each(|item| {
            check_keys(item)?;
            let home = item.key.slot().partition(self.partitions);
            // A key or an order may bind a task whose client chose the id to another partition.
            let bound = item.keys.iter().any(|put| put.kind.ends_with_record()) || item.lane.flags() != Flags::default();
            if home == p || bound && matches!(item.key.id, TaskId::Client(_)) {
                Ok(())
            } else {
                Err(Error::Invalid(format!("task {} lives in partition {}, not {}", item.key.id, home.0, p.0)))
            }
        })
    }

    /// Refuses what no commit may ask for as [`Error::Invalid`]: too large a barrier, spawned tasks with too many keys,
    /// messages with a task that the other partition would refuse.
    pub fn check_commits(&self, items: &[Commit]) -> Result<()> {
        items.iter().flat_map(|item| &item.effects).try_for_each(|effect| match effect {
            Effect::Spawn(child) => check_keys(child),
            Effect::Barrier { members } if *members > MAX_MEMBERS => {
                Err(Error::Invalid(format!("a barrier of {members} members, at most {MAX_MEMBERS}")))
            }
            Effect::Send { to, message: Message::Insert(item) } => {
                self.check_inserts(to.partition(self.partitions), std::slice::from_ref(&**item))
            }
            Effect::Barrier { .. }
            | Effect::Arrive { .. }
            | Effect::TakeKey(_)
            | Effect::FreeKey { .. }
            | Effect::Send { .. } => Ok(()),
        })
    }

    /// Refuses a key that needs the record of its task as [`Error::Invalid`].
    pub fn check_take(&self, take: &KeyTake) -> Result<()> {
        if take.kind.ends_with_record() {
            return Err(Error::Invalid(format!("a {:?} key is taken with its task", take.kind)));
        }
        Ok(())
    }
}

fn check_keys(item: &Insert) -> Result<()> {
    if item.keys.len() > MAX_KEYS {
        return Err(Error::Invalid(format!("{} keys of a task that may have {MAX_KEYS}", item.keys.len())));
    }
    Ok(())
}
