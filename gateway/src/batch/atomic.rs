//! All items or none: one call of the store, so all of one partition.

use lovage_core::problem::{Code, Problem};
use lovage_core::{IdRun, Millis, Ns, Partition, Slot, TaskKey};
use lovage_store::{Insert, Inserted, Mode};

use super::Answer;
use super::array::Answers;
use crate::app::App;
use crate::intake::{Idempotency, odd_answer};
use crate::lane_cache::LaneCache;
use crate::problem::store_problem;
use lovage_core::Draft;

/// Items that belong together.
pub(crate) struct Whole {
    pub drafts: Vec<Draft>,
    pub idempotency: Option<Idempotency>,
}

impl App {
    /// Stores all items, or answers why none was stored; pointers start with the index of the item.
    pub(crate) async fn insert_atomic(&self, ns: Ns, now: Millis, whole: Whole) -> Result<Answers, Problem> {
        let Whole { drafts, idempotency } = whole;
        if drafts.is_empty() {
            return Ok(Answers { items: Vec::new(), replayed: false });
        }
        let (partition, slot) = self.one_home(ns, &drafts, idempotency.as_ref())?;
        self.ensure_queues(ns, drafts.iter().map(|draft| &draft.spec)).await.map_err(|error| store_problem(&error))?;
        let run = IdRun::new(now, slot, self.random());
        let mut lanes = LaneCache::default();
        let mut inserts: Vec<Insert> = Vec::with_capacity(drafts.len());
        let mut made = 0;
        let mut first_made = 0;
        for (n, draft) in drafts.iter().enumerate() {
            let id = draft.id.clone().unwrap_or_else(|| {
                first_made = if made == 0 { n } else { first_made };
                made += 1;
                run.nth(made - 1)
            });
            inserts.push(lanes.insert(draft, TaskKey::new(ns, id), now));
        }
        // The key names the first generated id, and as the start of a run that names them all.
        inserts[first_made].keys.extend(idempotency.as_ref().map(|key| key.put(self, now, made)));

        let mut answers: Vec<Option<Answer>> = Vec::new();
        answers.resize_with(drafts.len(), || None);
        // What exists already and is the same request is fine as it is; the rest is tried again without it. Each round
        // takes at least one item out, and a second round is needed only for requests that were made before.
        loop {
            let open: Vec<usize> = (0..drafts.len()).filter(|n| answers[*n].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let batch: Vec<Insert> = open.iter().map(|n| inserts[*n].clone()).collect();
            let inserted = self.store.insert(partition, batch, Mode::Atomic).await.map_err(|error| store_problem(&error))?;
            let mut taken = Vec::new();
            for (place, inserted) in open.into_iter().zip(inserted) {
                match inserted {
                    Inserted::Ok { .. } => answers[place] = Some(Answer::Stored(inserts[place].key.id.clone())),
                    Inserted::Exists(_) => taken.push(place),
                    Inserted::Aborted => {}
                    Inserted::Conflict { ref entry, .. } => {
                        let Some(idempotency) = &idempotency else { return Err(odd_answer(&inserted)) };
                        let first = idempotency.replay(entry)?;
                        return Ok(Answers { items: Self::repeat(&first, &drafts), replayed: true });
                    }
                    Inserted::Late => return Err(odd_answer(&Inserted::Late)),
                }
            }
            if taken.is_empty() && answers.iter().any(Option::is_none) {
                return Err(odd_answer(&Inserted::Aborted));
            }
            let pairs: Vec<_> = taken.iter().map(|n| (inserts[*n].key.clone(), drafts[*n].spec.request_hash)).collect();
            let told = self.repeated(&pairs).await.map_err(|error| store_problem(&error))?;
            for (place, told) in taken.into_iter().zip(told) {
                told.map_err(|problem| problem.at_index(place))?;
                answers[place] = Some(Answer::Existing(inserts[place].key.id.clone()));
            }
        }
        Ok(Answers { items: answers.into_iter().flatten().collect(), replayed: false })
    }

    /// The answers of the request that took the key: its ids are the clients', and those of the run that `first` began.
    fn repeat(first: &TaskKey, drafts: &[Draft]) -> Vec<Answer> {
        let run = IdRun::starting_at(&first.id);
        let mut made = 0;
        let ids = drafts.iter().filter_map(|draft| {
            draft.id.clone().or_else(|| {
                made += 1;
                run.as_ref().map(|run| run.nth(made - 1))
            })
        });
        ids.map(Answer::Existing).collect()
    }

    /// The one partition of all items, and the slot for generated ids.
    fn one_home(&self, ns: Ns, drafts: &[Draft], idempotency: Option<&Idempotency>) -> Result<(Partition, Slot), Problem> {
        let most = self.store.caps().max_batch.max(1);
        if drafts.len() > most {
            return Err(Problem::invalid("", format!("at most {most} items can be stored together")));
        }
        let first = drafts.iter().find_map(|draft| Some(draft.id.as_ref()?.slot(ns)));
        let partitions = self.partitions();
        let wanted = idempotency.map(|key| key.slot(ns));
        let slot = match (first, wanted) {
            (Some(first), Some(wanted)) if first.partition(partitions) != wanted.partition(partitions) => first,
            (_, Some(wanted)) => wanted,
            (Some(first), None) => first,
            (None, None) => self.next_slot(drafts.len()),
        };
        let partition = slot.partition(partitions);
        for (index, draft) in drafts.iter().enumerate() {
            let elsewhere = draft.id.as_ref().is_some_and(|id| id.slot(ns).partition(partitions) != partition);
            if elsewhere {
                let message = "lives in another partition than an item before; such items cannot be stored together";
                return Err(Problem::new(Code::InvalidField, message).field(format!("/{index}/id"), message));
            }
        }
        Ok((partition, slot))
    }
}
