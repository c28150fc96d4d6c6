//! Inserting items each on its own: generated ids go to one partition, client-chosen ones where they belong, those with an
//! order, unique, debounce or batch key where that key lives.
//!
//! Items that are kept in one order are stored in the order of the request.

use ahash::{AHashMap, AHashSet};
use futures_util::future::join_all;
use lovage_core::problem::Problem;
use lovage_core::{Draft, IdRun, Millis, Ns, Partition, TaskKey};
use lovage_store::{Insert, Inserted, KeyKind, Mode};

use super::Answer;
use crate::app::App;
use crate::intake::{Idempotency, odd_answer};
use crate::keys::{Coming, Settled, Stop};
use crate::lane_cache::LaneCache;
use crate::problem::{Refusal, store_problem};

/// An item as read: a task or why it is refused.
pub(crate) type Item = Result<Draft, Problem>;

/// Items of one partition with their places in the batch.
struct Group {
    partition: Partition,
    /// Some of them are kept in order: then groups of the partition are stored one after the other.
    ordered: bool,
    places: Vec<usize>,
    inserts: Vec<Insert>,
}

/// Items on their way.
#[derive(Default)]
struct Sorted {
    answers: Vec<Option<Answer>>,
    /// Those that go together.
    groups: Vec<Group>,
    /// Ids and hashes of the requests of those.
    keys: Vec<Option<(TaskKey, Option<u64>)>>,
    /// Those whose keys may be taken go their own way.
    apart: Vec<(usize, Coming)>,
    /// Those that go together unless a task of their id lives away from its home.
    drafts: AHashMap<usize, Draft>,
}

/// What became of the items, in order.
pub(crate) struct Done {
    pub answers: Vec<Answer>,
    /// Some were made by an earlier request with the same idempotency key.
    pub replayed: bool,
    /// Set if the store failed and nothing at all was stored.
    pub failed: Option<Problem>,
}

impl App {
    /// Stores what can be stored; every item gets an answer. `idempotency` is for those with a unique or debounce key, with
    /// the places of the items in their request.
    pub(crate) async fn insert_each(
        &self,
        ns: Ns,
        now: Millis,
        mut items: Vec<Item>,
        idempotency: Option<(&Idempotency, &[usize])>,
    ) -> Done {
        let ready = async {
            let rooms = self.rooms(ns, &mut items).await?;
            self.ensure_queues(ns, items.iter().flatten().map(|draft| &draft.spec)).await?;
            Ok::<_, Refusal>(rooms)
        };
        let rooms = match ready.await {
            Ok(rooms) => rooms,
            Err(Refusal(problem)) => {
                let refuse = |item: Item| Answer::Refused(item.err().unwrap_or_else(|| problem.clone()));
                return Done { answers: items.into_iter().map(refuse).collect(), replayed: false, failed: Some(problem) };
            }
        };
        let Sorted { mut answers, groups, keys, mut apart, mut drafts } = self.sort(ns, now, items, idempotency);
        let calls = in_lines(groups).into_iter().map(|line| async move {
            let mut answers = Vec::with_capacity(line.len());
            for group in line {
                answers.push((group.places, self.store.insert(group.partition, group.inserts, Mode::Each).await));
            }
            answers
        });
        let (mut failed, mut reached, mut replayed) = (None, false, false);
        let mut taken = Vec::new();
        for (places, answer) in join_all(calls).await.into_iter().flatten() {
            let inserted = match answer {
                Ok(inserted) => inserted,
                Err(error) => {
                    let problem = store_problem(&error);
                    for place in places {
                        answers[place] = Some(Answer::Refused(problem.clone()));
                    }
                    failed = Some(problem);
                    continue;
                }
            };
            reached = true;
            for (place, inserted) in places.into_iter().zip(inserted) {
                let Some((key, hash)) = &keys[place] else { continue };
                match (inserted, drafts.remove(&place)) {
                    (Inserted::Ok { .. }, _) => answers[place] = Some(Answer::Stored(key.id.clone())),
                    (Inserted::Exists(_), _) => taken.push((place, (key.clone(), *hash))),
                    (Inserted::Conflict { kind: KeyKind::Directory, .. }, Some(draft)) => {
                        apart.push((place, self.coming_as(key.clone(), draft, None)));
                    }
                    (odd, _) => answers[place] = Some(Answer::Refused(odd_answer(&odd))),
                }
            }
        }
        self.tell_repetitions(taken, &mut answers).await;
        for (place, key, settled) in self.settle_all(apart).await {
            reached |= !matches!(settled, Err(Stop::Store(_)));
            answers[place] = Some(match settled {
                Ok(Settled::Stored(_)) => Answer::Stored(key.id),
                Ok(Settled::Existing(key)) => Answer::Existing(key.id),
                Ok(Settled::Replayed(key)) => {
                    replayed = true;
                    Answer::Existing(key.id)
                }
                Err(Stop::Problem(problem)) => Answer::Refused(problem),
                Err(Stop::Store(error)) => {
                    let problem = store_problem(&error);
                    failed = Some(problem.clone());
                    Answer::Refused(problem)
                }
            });
        }
        let missing = || Answer::Refused(odd_answer(&Inserted::Aborted));
        let answers: Vec<Answer> = answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect();
        rooms.settle(&answers);
        Done { answers, replayed, failed: failed.filter(|_| !reached) }
    }

    /// Gives the items their ids and finds those that can go together.
    fn sort(&self, ns: Ns, now: Millis, items: Vec<Item>, idempotency: Option<(&Idempotency, &[usize])>) -> Sorted {
        let run = IdRun::new(now, self.next_slot(items.len()), self.random());
        let mut sorted = Sorted::default();
        let mut lanes = LaneCache::default();
        let mut orders_apart = AHashSet::new();
        let max = self.store.caps().max_batch.max(1);
        for (place, item) in items.into_iter().enumerate() {
            let draft = match item {
                Ok(draft) => draft,
                Err(problem) => {
                    sorted.answers.push(Some(Answer::Refused(problem)));
                    sorted.keys.push(None);
                    continue;
                }
            };
            sorted.answers.push(None);
            let id = draft.id.clone().unwrap_or_else(|| match draft.spec.home(ns) {
                Some(slot) => run.nth_in(place as u32, slot),
                None => run.nth(place as u32),
            });
            let key = TaskKey::new(ns, id);
            let order = draft.spec.order_name().map(|(kind, name)| (kind, name.to_owned()));
            let is_alone =
                draft.spec.unique.is_some() || draft.spec.debounce.is_some() || draft.id.is_some() || idempotency.is_some();
            // Whoever comes after one that goes its own way follows it.
            let follows = order.as_ref().is_some_and(|order| orders_apart.contains(order));
            if draft.spec.bound(ns).is_some() && (is_alone || follows) {
                orders_apart.extend(order);
                let idempotency = idempotency.filter(|_| draft.id.is_none()).map(|(whole, places)| whole.of_item(places[place]));
                sorted.apart.push((place, self.coming_as(key, draft, idempotency)));
                sorted.keys.push(None);
                continue;
            }
            let mut insert = lanes.insert(&draft, key.clone(), now);
            insert.keys.extend(self.home_check(&key, now));
            let partition = self.partition(&key);
            sorted.keys.push(Some((key, draft.spec.request_hash)));
            if !insert.keys.is_empty() {
                sorted.drafts.insert(place, draft);
            }
            let last = sorted.groups.iter_mut().rev().find(|group| group.partition == partition);
            if let Some(group) = last.filter(|group| group.inserts.len() < max) {
                group.places.push(place);
                group.inserts.push(insert);
                group.ordered |= order.is_some();
            } else {
                let (places, inserts) = (vec![place], vec![insert]);
                sorted.groups.push(Group { partition, ordered: order.is_some(), places, inserts });
            }
        }
        sorted
    }

    /// Answers the items whose id is taken.
    async fn tell_repetitions(&self, taken: Vec<(usize, (TaskKey, Option<u64>))>, answers: &mut [Option<Answer>]) {
        if taken.is_empty() {
            return;
        }
        let (places, pairs): (Vec<usize>, Vec<_>) = taken.into_iter().unzip();
        let told = self.repeated(&pairs).await;
        for (n, place) in places.into_iter().enumerate() {
            answers[place] = Some(match &told {
                Ok(told) => match &told[n] {
                    Ok(()) => Answer::Existing(pairs[n].0.id.clone()),
                    Err(problem) => Answer::Refused(problem.clone()),
                },
                Err(error) => Answer::Refused(store_problem(error)),
            });
        }
    }
}

/// Groups that are stored one after the other: those of a partition, if one of them is kept in order.
fn in_lines(groups: Vec<Group>) -> Vec<Vec<Group>> {
    let ordered: AHashSet<Partition> = groups.iter().filter(|group| group.ordered).map(|group| group.partition).collect();
    let mut lines: Vec<Vec<Group>> = Vec::with_capacity(groups.len());
    for group in groups {
        let is_behind = |line: &&mut Vec<Group>| line.first().is_some_and(|first| first.partition == group.partition);
        match lines.iter_mut().find(is_behind).filter(|_| ordered.contains(&group.partition)) {
            Some(line) => line.push(group),
            None => lines.push(vec![group]),
        }
    }
    lines
}
