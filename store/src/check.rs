//! What every store checks before it looks at its data, so that a caller's bug has the same answer everywhere.

use lovage_core::{Partition, TaskKey};

use crate::{Caps, Error, Result};

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

    /// Refuses a task whose slot lives in another partition as [`Error::Invalid`]: nobody would find it again.
    pub fn check_home(&self, p: Partition, key: &TaskKey) -> Result<()> {
        let home = key.slot().partition(self.partitions);
        if home == p {
            Ok(())
        } else {
            Err(Error::Invalid(format!("task {} lives in partition {}, not {}", key.id, home.0, p.0)))
        }
    }
}
