//! Where a task lives: what its id says, or for a client-chosen id what the directory says.

use std::time::Duration;

use lovage_core::{Partition, Slot, Spec, TaskKey};
use lovage_store::directory::{self, INSERT_WITHIN, Residence};
use lovage_store::{KeyEntry, Result};

use super::Coming;
use crate::app::App;

/// Between two looks for a task that is about to be stored by another request: at first, and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// What is behind a directory entry.
pub(super) enum Behind {
    /// The task, in this partition.
    Task(Partition),
    /// Nothing, and nothing will come.
    Nothing,
    /// The entry is another one now.
    Changed,
}

impl App {
    /// The partition in which this task lives if there is one.
    pub(crate) async fn home(&self, key: &TaskKey) -> Result<Partition> {
        let own = self.partition(key);
        if !self.may_be_away(key) {
            return Ok(own);
        }
        let entry = directory::find(&*self.store, key).await?;
        Ok(entry.and_then(|entry| Residence::read(&entry)).map_or(own, |residence| self.partition_of(residence.slot)))
    }

    /// The partition elsewhere in which this task may live, after it was not found where its id says.
    pub(crate) async fn away(&self, key: &TaskKey) -> Result<Option<Partition>> {
        if !self.may_be_away(key) {
            return Ok(None);
        }
        let home = self.home(key).await?;
        Ok((home != self.partition(key)).then_some(home))
    }

    /// The partition in which the task with this signature lives.
    pub(crate) fn lives_in(&self, key: &TaskKey, spec: &Spec) -> Partition {
        self.partition_of(spec.slot(key))
    }

    fn partition_of(&self, slot: Slot) -> Partition {
        slot.partition(self.partitions())
    }

    /// Enters a task that comes away from home into the directory. `Some`: there is a task with its id, in this partition.
    pub(super) async fn enter(&self, coming: &mut Coming) -> Result<Option<Partition>> {
        let own = self.partition(&coming.key);
        let mut seen: Option<KeyEntry> = None;
        loop {
            let now = self.now();
            let slot = coming.draft.spec.slot(&coming.key);
            let entry = Residence::new(slot, now, self.random()).entry(&coming.key);
            let Some(other) = directory::enter(&*self.store, entry.clone(), seen.take()).await? else {
                coming.entered = Some((entry, now.after(INSERT_WITHIN)));
                // A task at home has no entry, and after this one none is stored there.
                let at_home = self.store.heads(own, std::slice::from_ref(&coming.key)).await?;
                return Ok(at_home.into_iter().flatten().next().map(|_| own));
            };
            match self.behind(&coming.key, &other).await? {
                Behind::Task(p) => return Ok(Some(p)),
                Behind::Nothing => seen = Some(other),
                Behind::Changed => {}
            }
        }
    }

    /// Waits until it is known what is behind an entry: another request may be about to store its task.
    pub(super) async fn behind(&self, key: &TaskKey, entry: &KeyEntry) -> Result<Behind> {
        let Some(residence) = Residence::read(entry) else { return Ok(Behind::Nothing) };
        let p = self.partition_of(residence.slot);
        let (mut pause, longest) = LOOKS;
        loop {
            // Before the look: what is not there afterwards does not come any more.
            let settled = self.now() > residence.settled_by;
            if self.store.heads(p, std::slice::from_ref(key)).await?.into_iter().flatten().next().is_some() {
                return Ok(Behind::Task(p));
            }
            if settled {
                return Ok(Behind::Nothing);
            }
            if directory::find(&*self.store, key).await?.as_ref() != Some(entry) {
                return Ok(Behind::Changed);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Takes the entry of a task back that was not stored. What fails here is found and taken over by whoever comes next.
    pub(super) async fn leave(&self, coming: &mut Coming) {
        if let Some((entry, _)) = coming.entered.take()
            && let Err(error) = directory::strike(&*self.store, entry).await
        {
            error.log("strike out a directory entry");
        }
    }
}
