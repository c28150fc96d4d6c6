//! What the view of the lanes needs from the store: which lanes there are, their first tasks, and what these have to pass.

use std::sync::Arc;

use lovage_core::{Body, Flags, LaneDef, LaneId, Spec, State};
use lovage_store::{Cursor, Error, FeedPos, Index, LanePage, Result};

use super::calls::Done;
use super::{Owner, STORE_PAUSE, background};
use crate::lanes::{Unread, Waiting};

/// Lanes whose windows are read at the same time.
const LOADS: usize = 8;
/// Definitions read at once.
const DEFS: usize = 1_000;
/// Tasks of which is read at once what they have to pass.
const SPECS: usize = 200;
/// … and so many at the same time: their payloads come with them.
const BODIES: usize = 25;

/// What was read for the lanes.
pub(super) enum Seen {
    /// A page of definitions.
    Page(Result<LanePage>),
    /// The definitions of these lanes.
    Defs(Vec<LaneId>, Result<Vec<Option<LaneDef>>>),
    /// The first tasks of a lane, and whether there are more.
    Window(LaneId, Option<WindowPage>),
    /// What these tasks have to pass.
    Specs(Vec<(Unread, Option<LaneDef>)>),
}

/// Tasks of a lane.
pub(super) struct WindowPage {
    tasks: Vec<Waiting>,
    more: bool,
    /// The end of the feed after they were read, if they keep an order.
    tail: Option<FeedPos>,
}

impl Owner {
    /// Reads what the lanes lack.
    pub(super) fn read_lanes(&mut self) {
        if self.token.is_none() {
            return;
        }
        let (life, p) = (self.lanes.life(), self.partition);
        if let Some((from, limit)) = self.lanes.take_page() {
            let shared = Arc::clone(&self.shared);
            self.calls.push(Box::pin(async move { Done::Seen(life, Seen::Page(shared.store.lanes(p, from, limit).await)) }));
        }
        if !self.learning {
            let lanes = self.lanes.take_unknown(DEFS);
            if !lanes.is_empty() {
                self.learning = true;
                let shared = Arc::clone(&self.shared);
                self.calls.push(Box::pin(async move {
                    let defs = shared.store.lane_defs(p, &lanes).await;
                    Done::Seen(life, Seen::Defs(lanes, defs))
                }));
            }
        }
        if !self.reading_specs {
            let unread = self.lanes.take_unread(SPECS);
            if !unread.is_empty() {
                self.reading_specs = true;
                let shared = Arc::clone(&self.shared);
                self.calls.push(Box::pin(async move { Done::Seen(life, Seen::Specs(gates(&shared, p, unread).await)) }));
            }
        }
        self.load_windows();
    }

    pub(super) fn on_seen(&mut self, life: u64, seen: Seen) {
        match seen {
            Seen::Page(Ok(page)) => {
                let next = page.next.filter(|next| *next != Cursor::default());
                let defs: Vec<LaneDef> = page.items.into_iter().map(|(_, def)| def).collect();
                self.shared.limits.hear_of(&defs);
                self.lanes.paged(life, Some((defs, next)));
            }
            Seen::Page(Err(error)) => {
                self.store_failed("read the lanes", &error);
                self.lanes.paged(life, None);
            }
            Seen::Defs(lanes, Ok(defs)) => {
                self.shared.limits.hear_of(defs.iter().flatten());
                self.learning = false;
                self.lanes.learned(life, lanes.into_iter().zip(defs).collect());
            }
            Seen::Defs(lanes, Err(error)) => {
                self.learning = false;
                self.store_failed("read the definitions of lanes", &error);
                self.lanes.not_learned(life, lanes);
            }
            Seen::Window(lane, page) => {
                self.loading -= 1;
                let page = page.map(|page| {
                    if let Some(tail) = page.tail {
                        self.lanes.ahead_of_feed(life, lane, tail);
                    }
                    (self.not_mine(page.tasks), page.more)
                });
                self.lanes.loaded(life, lane, page);
            }
            Seen::Specs(found) => {
                self.shared.limits.hear_of(found.iter().filter_map(|(_, gates)| gates.as_ref()));
                self.reading_specs = false;
                self.lanes.told(life, found);
            }
        }
    }

    /// Fills windows that run low.
    fn load_windows(&mut self) {
        let (life, page) = (self.lanes.life(), self.lanes.page());
        for (lane, after) in self.lanes.take_hungry(LOADS.saturating_sub(self.loading)) {
            self.loading += 1;
            let (shared, p, is_ordered) = (Arc::clone(&self.shared), self.partition, self.lanes.is_ordered(lane));
            self.calls.push(Box::pin(async move {
                let read = async {
                    let (found, more) = background::first(&shared, p, &Index::Lane { lane, after }, page).await?;
                    let tasks = found.into_iter().map(|(key, head)| Waiting::new(key, head)).collect();
                    let tail = if is_ordered { Some(shared.store.tail(p).await?) } else { None };
                    Ok::<_, Error>(WindowPage { tasks, more, tail })
                };
                let page = read.await.inspect_err(|error| error.log("read a lane")).ok();
                if page.is_none() {
                    tokio::time::sleep(STORE_PAUSE).await;
                }
                Done::Seen(life, Seen::Window(lane, page))
            }));
        }
    }

    /// A page may be older than a claim of ours: those tasks are not waiting any more. One that is newer waits again, although
    /// the answer that tells the end of our attempt is still on its way. What keeps its place while it runs is shown as it is.
    fn not_mine(&self, tasks: Vec<Waiting>) -> Vec<Waiting> {
        let mine = |mut task: Waiting| {
            let ordered = task.head.flags.has(Flags::ORDERED);
            if self.claiming.get(&task.key).is_some_and(|claim| task.head.version <= claim.version) {
                task.taken = true;
                return ordered.then_some(task);
            }
            if let Some(running) = self.running.get(&task.key).filter(|running| task.head.version < running.head.version) {
                task.head = running.head.clone();
                return ordered.then_some(task);
            }
            (ordered || task.head.state == State::Queued).then_some(task)
        };
        tasks.into_iter().filter_map(mine).collect()
    }
}

/// What these tasks have to pass.
async fn gates(shared: &super::Shared, p: lovage_core::Partition, mut unread: Vec<Unread>) -> Vec<(Unread, Option<LaneDef>)> {
    let mut found = Vec::with_capacity(unread.len());
    while !unread.is_empty() {
        let part: Vec<Unread> = unread.drain(..unread.len().min(BODIES)).collect();
        let keys: Vec<_> = part.iter().map(|task| task.key.clone()).collect();
        match shared.store.bodies(p, &keys).await {
            Ok(bodies) => {
                // Nobody serves a task without a readable signature; if it is gone the feed says so.
                let spec = |body: Option<bytes::Bytes>| body.and_then(|body| Spec::decode(&Body::decode(&body)?.spec));
                let gates = bodies.into_iter().map(|body| spec(body).unwrap_or_default());
                found.extend(part.into_iter().zip(gates).map(|(task, spec)| {
                    let gates = spec.gates(task.key.ns);
                    (task, Some(gates))
                }));
            }
            Err(error) => {
                error.log("read what tasks have to pass");
                tokio::time::sleep(STORE_PAUSE).await;
                found.extend(part.into_iter().map(|task| (task, None)));
            }
        }
    }
    found
}
