//! Finds the tasks of an order, a bounded number of them in one call.

use std::sync::Arc;

use lovage_core::problem::Problem;
use lovage_core::{Millis, Ns, Partition, State, TaskKey};
use lovage_store::Parts;

use super::{Order, Tally, Target};
use crate::app::App;
use crate::change::wrong_state;
use crate::cursor;
use crate::filter::Filter;
use crate::problem::Refusal;
use crate::view;
use crate::walk::{Found, Place, STEPS, Walk};

/// Records that one step looks at. Walks over Redis must be able to keep whole steps of its own cursor, which are about half of
/// this: a place inside one would be lost when tasks are deleted.
const STEP: usize = 500;
/// Tasks that are in memory, with their payloads, and in one commit at once.
const AT_ONCE: usize = 100;

impl App {
    pub(super) async fn carry_out(self: &Arc<Self>, ns: Ns, mut order: Order) -> Result<Tally, Refusal> {
        match std::mem::replace(&mut order.target, Target::Ids(Vec::new())) {
            Target::Filter(filter, from) => self.over_filter(ns, &order, *filter, from).await,
            Target::Ids(ids) => self.over_ids(ns, &order, ids).await,
        }
    }

    async fn over_filter(
        self: &Arc<Self>,
        ns: Ns,
        order: &Order,
        mut filter: Filter,
        from: Option<String>,
    ) -> Result<Tally, Refusal> {
        let mut tally = Tally { room: self.options.limits.cascade_tasks, ..Tally::default() };
        if filter.nothing {
            return Ok(tally);
        }
        // A cursor goes on with the same verb and filter only.
        let kind = format!("bulk {} {} {filter:?}", order.kind.as_str(), order.dead);
        let resumed = from.map(|text| Resume::decode(self, &kind, &text)).transpose()?;
        // What the calls make, such as replays, is not found by the later ones.
        let last = resumed.as_ref().map_or_else(|| self.now(), |resumed| resumed.last);
        filter.up_to(last);
        let walk = Walk { app: self, ns, filter: &filter, errors: false };
        let mut place = match resumed {
            Some(resumed) => resumed.place,
            None => Place::start(),
        };
        let limits = &self.options.limits;
        let want = STEP.min(limits.bulk_tasks).min(limits.list_scan);
        let mut looked = 0;
        for _ in 0..STEPS {
            if tally.matched + want > limits.bulk_tasks || looked + want > limits.list_scan {
                break;
            }
            let step = walk.step(&place, want).await?;
            looked += step.looked;
            let mut heads = step.heads;
            while !heads.is_empty() {
                let rest = heads.split_off(heads.len().min(AT_ONCE));
                let found = walk.matching(place.partition, heads).await?;
                tally.matched += found.len();
                self.apply(order, place.partition, found, &mut tally).await?;
                heads = rest;
            }
            match step.next {
                Some(next) => place = next,
                None => return Ok(tally),
            }
        }
        tally.next_cursor = Some(Resume { last, place }.encode(&kind));
        Ok(tally)
    }

    async fn over_ids(self: &Arc<Self>, ns: Ns, order: &Order, ids: Vec<String>) -> Result<Tally, Refusal> {
        let mut tally = Tally { room: self.options.limits.cascade_tasks, ..Tally::default() };
        let mut keys: Vec<TaskKey> = Vec::with_capacity(ids.len());
        for id in ids {
            match App::key(ns, &id) {
                Some(key) => keys.push(key),
                None => tally.fail(id.as_str(), unknown(&id)),
            }
        }
        keys.sort_by_key(|key| self.partition(key));
        let parts = keys.chunk_by(|a, b| self.partition(a) == self.partition(b));
        for keys in parts.flat_map(|part| part.chunks(AT_ONCE)) {
            let found = self.named(keys, order, &mut tally).await?;
            tally.matched += found.len();
            // Most live where their ids say, so this is one turn or few.
            let mut rest = found;
            while let Some(p) = rest.first().map(|(p, _)| *p) {
                let (here, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(of, _)| *of == p);
                self.apply(order, p, here.into_iter().map(|(_, found)| found).collect(), &mut tally).await?;
                rest = others;
            }
        }
        Ok(tally)
    }

    /// The tasks with these keys, and where they live.
    async fn named(&self, keys: &[TaskKey], order: &Order, tally: &mut Tally) -> Result<Vec<(Partition, Found)>, Refusal> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let parts = Parts { body: true, ..Parts::default() };
            let Some((p, stored)) = self.find(key, parts).await? else {
                tally.fail(key.id.to_string(), unknown(&key.id.to_string()));
                continue;
            };
            let (spec, body) = view::taken_apart(&stored)?;
            if order.dead && stored.head.state != State::Failed {
                let Refusal(problem) = wrong_state(stored.head.state, "treated as a dead letter");
                tally.matched += 1;
                tally.fail(key.id.to_string(), problem);
                continue;
            }
            found.push((p, Found { key: key.clone(), head: stored.head, spec, body, error: None }));
        }
        Ok(found)
    }
}

fn unknown(id: &str) -> Problem {
    Refusal::no_task(id).0
}

/// Where the next call goes on.
struct Resume {
    /// When the first call was made.
    last: Millis,
    place: Place,
}

impl Resume {
    fn encode(&self, kind: &str) -> String {
        let mut bytes = self.last.0.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.place.to_bytes());
        cursor::encode(kind, &bytes)
    }

    fn decode(app: &App, kind: &str, text: &str) -> Result<Self, Problem> {
        let bytes = cursor::decode(kind, text)?;
        let (last, place) = bytes.split_first_chunk::<8>().ok_or_else(cursor::refused)?;
        Ok(Self { last: Millis(u64::from_be_bytes(*last)), place: Place::from_bytes(app, place)? })
    }
}
