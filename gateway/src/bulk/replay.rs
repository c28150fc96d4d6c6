//! Replays: new tasks with the signatures and payloads of those that were found.

use lovage_core::problem::Problem;
use lovage_core::{Draft, IdRun, Ns, Spec, TaskKey};
use lovage_store::{Inserted, Mode};

use super::{Order, Tally};
use crate::app::App;
use crate::intake::odd_answer;
use crate::lane_cache::LaneCache;
use crate::problem::Refusal;
use crate::walk::Found;

impl App {
    /// Submits these tasks again, each under a new id.
    pub(super) async fn replay_all(&self, ns: Ns, order: &Order, found: Vec<Found>, tally: &mut Tally) -> Result<(), Refusal> {
        let mut drafts = Vec::with_capacity(found.len());
        for found in found {
            match again(&found) {
                Ok(draft) => drafts.push((found.key, draft)),
                Err(problem) => tally.fail(found.key.id.to_string(), problem),
            }
        }
        if order.dry_run || drafts.is_empty() {
            return Ok(());
        }
        self.ensure_queues(ns, drafts.iter().map(|(_, draft)| &draft.spec)).await?;
        let now = self.now();
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
        Ok(())
    }
}

/// What was asked for, without what belonged to that one task: its id, its times and its family.
fn again(found: &Found) -> Result<Draft, Problem> {
    let spec = &found.spec;
    for (name, held) in [("unique", spec.unique.is_some()), ("debounce", spec.debounce.is_some())] {
        if held {
            return Err(Problem::invalid(format!("/{name}"), "tasks with a key of their own are not replayed together"));
        }
    }
    let spec = Spec {
        eta: None,
        parent: None,
        root: None,
        arrives: None,
        callback: None,
        linked: None,
        request_hash: None,
        ..spec.clone()
    };
    Ok(Draft {
        spec,
        priority: Some(found.head.priority),
        content_type: String::from_utf8_lossy(&found.body.content_type).into_owned(),
        payload: found.body.payload.clone(),
        ..Draft::default()
    })
}
