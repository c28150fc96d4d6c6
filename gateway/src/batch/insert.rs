//! Inserting items each on its own: generated ids go to one partition, client-chosen ones where they belong.

use futures_util::future::join_all;
use lovage_core::problem::Problem;
use lovage_core::{IdRun, Millis, Ns, Partition, TaskKey};
use lovage_store::{Insert, Inserted, Mode};

use super::Answer;
use crate::app::App;
use crate::intake::odd_answer;
use crate::lane_cache::LaneCache;
use crate::problem::store_problem;
use lovage_core::Draft;

/// An item as read: a task or why it is refused.
pub(crate) type Item = Result<Draft, Problem>;

/// Items of one partition with their places in the batch.
struct Group {
    partition: Partition,
    places: Vec<usize>,
    inserts: Vec<Insert>,
}

/// What became of the items, in order.
pub(crate) struct Done {
    pub answers: Vec<Answer>,
    /// Set if the store failed and nothing at all was stored.
    pub failed: Option<Problem>,
}

impl App {
    /// Stores what can be stored; every item gets an answer.
    pub(crate) async fn insert_each(&self, ns: Ns, now: Millis, items: Vec<Item>) -> Done {
        let run = IdRun::new(now, self.next_slot(items.len()), self.random());
        if let Err(error) = self.ensure_queues(ns, items.iter().flatten().map(|draft| &draft.spec)).await {
            let problem = store_problem(&error);
            let refuse = |item: Item| Answer::Refused(item.err().unwrap_or_else(|| problem.clone()));
            return Done { answers: items.into_iter().map(refuse).collect(), failed: Some(problem) };
        }
        let mut answers: Vec<Option<Answer>> = Vec::new();
        answers.resize_with(items.len(), || None);
        let mut groups: Vec<Group> = Vec::new();
        let mut keys: Vec<Option<(TaskKey, Option<u64>)>> = Vec::with_capacity(items.len());
        let mut lanes = LaneCache::default();
        let max = self.store.caps().max_batch.max(1);
        for (place, item) in items.into_iter().enumerate() {
            let draft = match item {
                Ok(draft) => draft,
                Err(problem) => {
                    answers[place] = Some(Answer::Refused(problem));
                    keys.push(None);
                    continue;
                }
            };
            let key = TaskKey::new(ns, draft.id.clone().unwrap_or_else(|| run.nth(place as u32)));
            let insert = lanes.insert(&draft, key.clone(), now);
            keys.push(Some((key, draft.spec.request_hash)));
            let partition = self.partition(&insert.key);
            let open = groups.iter_mut().rev().find(|group| group.partition == partition && group.inserts.len() < max);
            match open {
                Some(group) => {
                    group.places.push(place);
                    group.inserts.push(insert);
                }
                None => groups.push(Group { partition, places: vec![place], inserts: vec![insert] }),
            }
        }
        let calls = groups.into_iter().map(|group| async move {
            let answer = self.store.insert(group.partition, group.inserts, Mode::Each).await;
            (group.places, answer)
        });
        let mut failed = None;
        let mut reached = false;
        let mut taken = Vec::new();
        for (places, answer) in join_all(calls).await {
            match answer {
                Ok(inserted) => {
                    reached = true;
                    for (place, inserted) in places.into_iter().zip(inserted) {
                        let Some((key, _)) = &keys[place] else { continue };
                        answers[place] = Some(match inserted {
                            Inserted::Ok { .. } => Answer::Stored(key.id.clone()),
                            Inserted::Exists(_) => {
                                taken.push(place);
                                continue;
                            }
                            odd => Answer::Refused(odd_answer(&odd)),
                        });
                    }
                }
                Err(error) => {
                    let problem = store_problem(&error);
                    for place in places {
                        answers[place] = Some(Answer::Refused(problem.clone()));
                    }
                    failed = Some(problem);
                }
            }
        }
        self.tell_repetitions(&taken, &keys, &mut answers).await;
        let missing = || Answer::Refused(odd_answer(&Inserted::Aborted));
        let answers = answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect();
        Done { answers, failed: failed.filter(|_| !reached) }
    }

    /// Answers the items whose id is taken.
    async fn tell_repetitions(&self, taken: &[usize], keys: &[Option<(TaskKey, Option<u64>)>], answers: &mut [Option<Answer>]) {
        if taken.is_empty() {
            return;
        }
        let pairs: Vec<_> = taken.iter().filter_map(|place| keys[*place].clone()).collect();
        let told = self.repeated(&pairs).await;
        for (n, place) in taken.iter().enumerate() {
            answers[*place] = Some(match &told {
                Ok(told) => match &told[n] {
                    Ok(()) => Answer::Existing(pairs[n].0.id.clone()),
                    Err(problem) => Answer::Refused(problem.clone()),
                },
                Err(error) => Answer::Refused(store_problem(error)),
            });
        }
    }
}
