//! Replays: new tasks with the signatures and payloads of those that were found.

use lovage_core::problem::Problem;
use lovage_core::{Draft, IdRun, Ns, Rules, TaskKey};
use lovage_store::{Inserted, Mode};

use super::Tally;
use crate::app::App;
use crate::batch::insert::Item;
use crate::intake::odd_answer;
use crate::lane_cache::LaneCache;
use crate::problem::Refusal;
use crate::walk::Found;

impl App {
    /// Submits these tasks again, each under a new id.
    pub(super) async fn replay_all(
        &self,
        ns: Ns,
        (edits, dry_run): (&str, bool),
        found: Vec<Found>,
        tally: &mut Tally,
    ) -> Result<(), Refusal> {
        let types = self.types(ns).await?;
        let (rules, now) = (types.rules(self.rules()), self.now());
        let mut drafts = Vec::with_capacity(found.len());
        for found in found {
            match again(&rules, &found, edits).and_then(|draft| types.refusal(&draft, now).map_or(Ok(draft), Err)) {
                Ok(draft) => drafts.push((found.key, draft)),
                Err(problem) => tally.fail(found.key.id.to_string(), problem),
            }
        }
        if dry_run || drafts.is_empty() {
            return Ok(());
        }
        let (keys, mut items): (Vec<TaskKey>, Vec<Item>) = drafts.into_iter().map(|(key, draft)| (key, Ok(draft))).unzip();
        let rooms = self.rooms(ns, &mut items).await?;
        let mut drafts = Vec::with_capacity(items.len());
        for (key, item) in keys.into_iter().zip(items) {
            match item {
                Ok(draft) => drafts.push((key, draft)),
                Err(problem) => tally.fail(key.id.to_string(), problem),
            }
        }
        self.ensure_queues(ns, drafts.iter().map(|(_, draft)| &draft.spec)).await?;
        // One slot, so that they are one batch.
        let slot = self.next_slot(drafts.len());
        let run = IdRun::new(now, slot, self.random());
        let mut lanes = LaneCache::default();
        let insert = |(n, (_, draft)): (u32, &(TaskKey, Draft))| lanes.insert(draft, TaskKey::new(ns, run.nth(n)), now);
        let inserts = (0..).zip(&drafts).map(insert).collect();
        let done = self.store.insert(slot.partition(self.partitions()), inserts, Mode::Each).await?;
        for ((key, _), done) in drafts.into_iter().zip(done) {
            match done {
                Inserted::Ok { .. } => tally.changed += 1,
                odd => tally.fail(key.id.to_string(), odd_answer(&odd)),
            }
        }
        // Ids are new, so all that had room are stored.
        drop(rooms);
        Ok(())
    }
}

/// The task that the edits make of a stored one.
fn again(rules: &Rules<'_>, found: &Found, edits: &str) -> Result<Draft, Problem> {
    let draft = rules.replay(&found.spec, found.head.priority, &found.body, edits, "/edits")?;
    for (name, held) in [("unique", draft.spec.unique.is_some()), ("debounce", draft.spec.debounce.is_some())] {
        if held {
            return Err(Problem::invalid(format!("/{name}"), "tasks with a key of their own are replayed one by one"));
        }
    }
    Ok(draft)
}
