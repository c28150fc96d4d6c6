//! Where a queued task stands, and when it may be its turn.

use lovage_core::board::{Board, LATELY};
use lovage_core::{Flags, LaneDef, LaneId, LaneOrder, Millis, Route};
use lovage_store::{Cursor, Index};

use super::gates::Pace;
use super::{Case, Cause, LanePlace, Story};
use crate::limits::MOST_LANES;
use crate::problem::Refusal;

/// Tasks of a lane that are counted.
const COUNTED: u32 = 1_000;
/// Heads that are read at once.
const PAGE: usize = 250;
/// Lanes that are read at once.
const LANES: usize = 500;
/// Causes of which nobody knows when they pass.
const OPEN_END: [&str; 7] = ["held", "order", "no_worker", "no_dispatcher", "limit_keys", "unhealthy", "recycling"];

impl Case<'_> {
    /// How many tasks of its lane start before it, and how many of its queue have a higher priority; also those of any lane that
    /// its rates let start before it. Those that are held do not count in its lane.
    pub(super) async fn place(&self, lane: &LaneDef, paces: &mut [Pace]) -> Result<LanePlace, Refusal> {
        let (task, origin) = match &lane.route {
            Route::Task(task) => (Some(task.clone()), None),
            Route::Origin(origin) => (None, Some(self.shown_origin(origin))),
            Route::Mixed => (None, None),
        };
        let mut place = LanePlace { queue: lane.queue.clone(), task, origin, ..LanePlace::default() };
        self.count_before(&mut place).await?;
        self.count_others(lane, &mut place, paces).await?;
        Ok(place)
    }

    async fn count_before(&self, place: &mut LanePlace) -> Result<(), Refusal> {
        let mine = self.head.score();
        let index = Index::Lane { lane: self.head.lane, after: None };
        let p = self.app.lives_in(self.key, self.spec);
        let mut from = Cursor::default();
        let mut looked = 0;
        loop {
            let page = self.app.store.scan(p, &index, from, PAGE).await?;
            for (_, head) in page.items {
                if head.score() >= mine {
                    return Ok(());
                }
                if looked == COUNTED {
                    place.more = true;
                    return Ok(());
                }
                looked += 1;
                place.ahead += u32::from(!head.flags.has(Flags::HELD));
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// The tasks of its queue with a higher priority, those of the same lane in other partitions, and those that share its rates.
    /// Of lanes with its own priority about as many start before it as of its own.
    async fn count_others(&self, lane: &LaneDef, place: &mut LanePlace, paces: &mut [Pace]) -> Result<(), Refusal> {
        let Some(mine) = lane.priority else { return Ok(()) };
        let own = self.app.lives_in(self.key, self.spec);
        let mut looked = 0;
        for p in self.app.all_partitions() {
            let mut from = Cursor::default();
            loop {
                let page = self.app.store.lanes(p, from, LANES).await?;
                looked += page.items.len();
                let higher = |other: &LaneDef| other.priority.is_some_and(|priority| priority > mine);
                let ours = |id: LaneId, other: &LaneDef| id == self.head.lane || higher(other) && other.queue == lane.queue;
                let shares = |other: &LaneDef, pace: &Pace| {
                    other.priority.is_none_or(|priority| priority >= mine) && self.app.names(other, &pace.key)
                };
                let others = page.items.into_iter().filter(|(id, other)| {
                    let counts = ours(*id, other) || paces.iter().any(|pace| shares(other, pace));
                    other.ns == lane.ns && counts && (p != own || *id != self.head.lane)
                });
                let others: Vec<(LaneId, LaneDef)> = others.collect();
                let ids: Vec<LaneId> = others.iter().map(|(id, _)| *id).collect();
                let sizes = if ids.is_empty() { Vec::new() } else { self.app.store.lane_sizes(p, &ids).await? };
                for ((id, other), size) in others.iter().zip(sizes) {
                    let before = if higher(other) { size } else { size.min(place.ahead.into()) };
                    if *id == self.head.lane {
                        place.alike += before;
                    } else if ours(*id, other) {
                        place.higher += before;
                    }
                    paces.iter_mut().filter(|pace| shares(other, pace)).for_each(|pace| pace.others += before);
                }
                let Some(next) = page.next else { break };
                if looked >= MOST_LANES {
                    place.higher_more = true;
                    return Ok(());
                }
                from = next;
            }
        }
        Ok(())
    }

    /// When it may be its turn, and why one may think so; nothing if nothing is known that could tell.
    pub(super) async fn estimate(
        &self,
        place: &LanePlace,
        paces: &[Pace],
        story: &Story,
    ) -> Result<Option<(Millis, String)>, Refusal> {
        let queue_key = format!("queue:{}", self.spec.queue());
        let open_end = |(cause, end): &(Cause, Option<Millis>)| match (cause.code, &cause.key) {
            ("paused", _) => end.is_none(),
            // What a limit starts is counted for those of queues alone, and one of 0 starts nothing.
            ("concurrency", Some(key)) => *key != queue_key || cause.limit == Some(0),
            (code, _) => OPEN_END.contains(&code),
        };
        if place.more || place.higher_more || story.causes.iter().any(open_end) {
            return Ok(None);
        }
        let now = self.app.now();
        // What is known to keep it until then does so whatever stands before it.
        let closed = story.causes.iter().filter_map(|(_, end)| *end).max().unwrap_or(now).max(now);
        let before = u64::from(place.ahead) + place.higher + place.alike;
        let by_rate = |pace: &Pace| Some((pace.due(u64::from(place.ahead) + pace.others + 1)?, pace.words()));
        let by_rate = paces.iter().filter_map(by_rate).max_by_key(|(at, _)| *at);
        let is_open = story.causes.iter().any(|(_, end)| end.is_none());
        let waits_for_others = before > 0 || is_open;
        // If nothing but a rate is in its way, that says when, whatever else its queue does.
        let is_told = !is_open && by_rate.as_ref().is_some_and(|(at, _)| *at > now);
        let lately = if waits_for_others && !is_told { self.started_lately().await? } else { 0 };
        let by_pace = (lately > 0).then(|| {
            // As few starts as a slow rate makes may be one more in the next such span; the rate itself tells better.
            let starts = lately + u64::from(by_rate.is_some());
            let wait = (before + 1).saturating_mul(LATELY * 1_000) / starts;
            (Millis(now.0.saturating_add(wait)), format!("{lately} starts of its queue in the last {LATELY} s"))
        });
        Ok(match by_rate.into_iter().chain(by_pace).max_by_key(|(at, _)| *at) {
            Some((at, why)) => Some((at.max(closed), format!("its place and {why}"))),
            None if !waits_for_others => Some((closed, "what is known of its worker and its limits".to_owned())),
            None => None,
        })
    }

    /// Attempts of its queue that started lately, as the dispatchers say.
    async fn started_lately(&self) -> Result<u64, Refusal> {
        let boards = self.app.store.boards().await?;
        let boards = boards.iter().filter_map(|(_, bytes)| Board::decode(bytes));
        let ours = |queue: &lovage_core::board::QueueBoard| queue.ns == self.key.ns && queue.name == self.spec.queue();
        Ok(boards.map(|board| board.queues.into_iter().filter(ours).map(|queue| queue.started).sum::<u64>()).sum())
    }
}

impl LanePlace {
    /// In words.
    pub(super) fn words(&self, lane: &LaneDef) -> String {
        let what = match (&lane.order_key, lane.order) {
            (Some(_), _) => "order",
            (None, LaneOrder::Fifo) => "queue",
            (None, LaneOrder::Priority | LaneOrder::Fair) => "lane",
        };
        let words = match (self.ahead, self.more) {
            (0, false) => format!("It is the first of its {what}."),
            (1, false) => format!("One task of its {what} is before it."),
            (n, false) => format!("{n} tasks of its {what} are before it."),
            (n, true) => format!("More than {n} tasks of its {what} are before it."),
        };
        let more = if self.higher_more { "at least " } else { "" };
        match self.higher {
            0 => words,
            1 => format!("{words} {more}1 task of its queue has a higher priority."),
            n => format!("{words} {more}{n} tasks of its queue have a higher priority."),
        }
    }
}
