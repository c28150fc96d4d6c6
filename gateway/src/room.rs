//! Room for new tasks in queues with a `max_length`.

use std::sync::Arc;

use lovage_core::problem::{Code, Problem};
use lovage_core::{Draft, Ns, OnFull, QueueConfig};
use lovage_store::Result as StoreResult;
use metrics::counter;

use crate::app::App;
use crate::batch::Answer;
use crate::batch::insert::Item;
use crate::intake::Idempotency;
use crate::keys::{Settled, Stop};
use crate::lengths::Room;
use crate::problem::Refusal;

/// The places of the items of a request.
#[derive(Default)]
pub(crate) struct Rooms(Vec<(Vec<usize>, Room)>);

impl Rooms {
    /// Gives back what was not needed.
    pub(crate) fn settle(self, answers: &[Answer]) {
        for (places, mut room) in self.0 {
            // After a failure of the store nobody knows whether it was stored.
            let unused = |place: &&usize| match &answers[**place] {
                Answer::Stored(_) => false,
                Answer::Existing(_) => true,
                Answer::Refused(problem) => problem.code.status() < 500,
            };
            room.give_back(places.iter().filter(unused).count() as u64);
        }
    }

    /// None was needed.
    pub(crate) fn give_back(self) {
        for (_, mut room) in self.0 {
            room.give_back(room.places());
        }
    }
}

fn full(queue: &str, bound: u64) -> Problem {
    counter!("lovage_tasks_refused_total", "reason" => "queue_full").increment(1);
    Problem::new(Code::QueueFull, format!("queue `{queue}` is full: at most {bound} may wait in it"))
}

/// The items of one queue with a bound.
struct Bounded {
    queue: String,
    config: Arc<QueueConfig>,
    places: Vec<usize>,
}

impl App {
    /// Takes room for those of these tasks whose queues have a bound; those without become `queue_full`, unless they were
    /// stored before.
    pub(crate) async fn rooms(&self, ns: Ns, items: &mut [Item]) -> Result<Rooms, Refusal> {
        let mut rooms = Rooms::default();
        for Bounded { queue, config, places } in self.bounded(ns, items.iter().map(|item| item.as_ref().ok())).await? {
            let bound = config.max_length.unwrap_or(u64::MAX);
            let room = self.lengths.reserve(&*self.store, ns, &queue, bound, places.len() as u64).await?;
            let (fit, over) = places.split_at(room.places() as usize);
            rooms.0.push((fit.to_vec(), room));
            let mut new = Vec::new();
            for place in over {
                if let Ok(draft) = &items[*place]
                    && !self.is_known(ns, draft, None).await?
                {
                    new.push(*place);
                }
            }
            let made = self.make_room(ns, &queue, &config, new.len() as u64).await?;
            let fit = made.as_ref().map_or(0, Room::places) as usize;
            for place in new.drain(fit..) {
                items[place] = Err(full(&queue, bound));
            }
            rooms.0.extend(made.map(|room| (new, room)));
        }
        Ok(rooms)
    }

    /// Takes room for all of these tasks, or for none.
    pub(crate) async fn rooms_for_all(&self, ns: Ns, drafts: &[Draft]) -> Result<Rooms, Problem> {
        if self.types(ns).await.map_err(Stop::from)?.has_no_queues() {
            return Ok(Rooms::default());
        }
        let mut items: Vec<Item> = drafts.iter().cloned().map(Ok).collect();
        let rooms = self.rooms(ns, &mut items).await.map_err(|Refusal(problem)| problem)?;
        match items.into_iter().enumerate().find_map(|(n, item)| Some((n, item.err()?))) {
            None => Ok(rooms),
            Some((n, problem)) => {
                rooms.give_back();
                Err(problem.at_index(n))
            }
        }
    }

    /// Takes room for a task, if its queue has a bound.
    pub(crate) async fn room(&self, ns: Ns, draft: &Draft, idempotency: Option<&Idempotency>) -> Result<Option<Room>, Refusal> {
        let Some(Bounded { queue, config, .. }) = self.bounded(ns, std::iter::once(Some(draft))).await?.pop() else {
            return Ok(None);
        };
        let bound = config.max_length.unwrap_or(u64::MAX);
        let room = self.lengths.reserve(&*self.store, ns, &queue, bound, 1).await?;
        if room.places() == 1 || self.is_known(ns, draft, idempotency).await? {
            return Ok(Some(room));
        }
        match self.make_room(ns, &queue, &config, 1).await?.filter(|room| room.places() == 1) {
            Some(room) => Ok(Some(room)),
            None => Err(full(&queue, bound).into()),
        }
    }

    async fn bounded<'d>(&self, ns: Ns, drafts: impl Iterator<Item = Option<&'d Draft>>) -> StoreResult<Vec<Bounded>> {
        let types = self.types(ns).await?;
        let mut all: Vec<Bounded> = Vec::new();
        if types.has_no_queues() {
            return Ok(all);
        }
        for (place, draft) in drafts.enumerate() {
            let Some(queue) = draft.map(|draft| draft.spec.queue()) else { continue };
            let Some(config) = types.queue(queue).filter(|config| config.max_length.is_some()) else { continue };
            match all.iter_mut().find(|bounded| bounded.queue == queue) {
                Some(bounded) => bounded.places.push(place),
                None => all.push(Bounded { queue: queue.to_owned(), config: config.clone(), places: vec![place] }),
            }
        }
        Ok(all)
    }

    /// Calls off the oldest tasks of a full queue that drops them; takes as much room as there is then.
    async fn make_room(&self, ns: Ns, queue: &str, config: &QueueConfig, want: u64) -> Result<Option<Room>, Refusal> {
        let Some(bound) = config.max_length.filter(|_| want > 0 && config.on_full == Some(OnFull::DropOldest)) else {
            return Ok(None);
        };
        let want = want.min(bound);
        let wanted = self.lengths.want(ns, queue, want);
        let alone = self.lengths.dropping.lock().await;
        // Somebody before may have made room for this one as well.
        let mut room = self.lengths.reserve(&*self.store, ns, queue, bound, want).await?;
        if room.places() < want {
            room.give_back(room.places());
            let missing = self.lengths.missing(&wanted, bound);
            self.drop_oldest(ns, queue, missing as usize).await?;
            self.lengths.is_stale();
            room = self.lengths.reserve(&*self.store, ns, queue, bound, want).await?;
        }
        drop(wanted);
        drop(alone);
        Ok(Some(room))
    }
}

impl Room {
    /// Gives the place of one task back, if it was not needed.
    pub(crate) fn settle_one(mut self, settled: &Result<Settled, Stop>) {
        match settled {
            Ok(Settled::Stored(_)) | Err(Stop::Store(_)) => {}
            Ok(Settled::Existing(_) | Settled::Replayed(_)) | Err(Stop::Problem(_)) => self.give_back(1),
        }
    }
}
