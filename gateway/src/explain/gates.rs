//! What holds a task back beside its worker: pauses, its order, limits.

use lovage_core::{Flags, Head, LaneDef, LaneId, Millis, Ns, State, TaskId, gcra};
use lovage_store::{Cursor, Index, LimitRequest};

use super::{Case, Cause, Story, words};
use crate::limits::{Counters, FOR_EVER, Gate, MOST_LANES};
use crate::problem::Refusal;

const LANES: usize = 500;

/// A rate that a task has to pass.
pub(super) struct Pace {
    pub key: String,
    rule: lovage_core::LimitRule,
    cost: u32,
    tat: u64,
    now: u64,
    /// Tasks of other lanes that the limit lets start before it.
    pub others: u64,
}

impl Pace {
    /// When the last of so many starts may be made, if all of them count for the same.
    pub(super) fn due(&self, starts: u64) -> Option<Millis> {
        let rate = self.rule.rate?;
        let starts = u32::try_from(starts.saturating_mul(u64::from(self.cost))).unwrap_or(u32::MAX);
        let tat = gcra::under(self.tat, self.now, rate, self.rule.burst());
        let even = tat.max(self.now).saturating_add(gcra::span(rate, starts));
        Some(Millis(even.saturating_sub(gcra::span(rate, self.rule.burst())).max(self.now).div_ceil(1_000)))
    }

    /// In words.
    pub(super) fn words(&self) -> String {
        let rate = self.rule.rate.map(|rate| rate.to_string()).unwrap_or_default();
        format!("the rate of `{}`, {rate}", self.key)
    }
}

impl Case<'_> {
    /// What is closed on purpose.
    pub(super) async fn paused(&self, story: &mut Story) -> Result<(), Refusal> {
        let (types, now) = (self.app.types(self.key.ns).await?, self.app.now());
        let queue = self.spec.queue();
        let of_queue = types.queue(queue).and_then(|config| Some((format!("Queue `{queue}`"), config.pause(now)?)));
        let task_type = self.spec.task.as_deref().filter(|_| self.spec.url.is_none()).and_then(|task| types.type_of(task));
        let of_type = task_type.and_then(|one| Some((format!("Task type `{}`", one.pattern()), one.pause(now)?)));
        for (what, pause) in of_queue.into_iter().chain(of_type).filter(|(_, pause)| pause.dispatch) {
            story.cause("paused", format!("{what} is paused {}.", until(pause.until)), pause.until);
        }
        Ok(())
    }

    /// Who is before it in its order.
    pub(super) async fn ordered(&self, lane: &LaneDef, story: &mut Story) -> Result<(), Refusal> {
        let Some(order) = &lane.order_key else { return Ok(()) };
        let Some((id, head)) = self.first_of(self.key.ns, order).await? else { return Ok(()) };
        if id == self.key.id {
            return Ok(());
        }
        let due = match head.state {
            State::Scheduled | State::Retrying => format!(", due at {}", head.due.rfc3339()),
            _ => String::new(),
        };
        let held = if head.flags.has(Flags::HELD) { " and held" } else { "" };
        let text = format!("Task {id} with the order key `{order}` is before it: it is {}{held}{due}.", head.state.as_str());
        story.cause("order", text, None);
        Ok(())
    }

    /// The task that all others of an order key wait for. Lanes of several queues may share it.
    async fn first_of(&self, ns: Ns, order: &str) -> Result<Option<(TaskId, Head)>, Refusal> {
        let p = self.app.lives_in(self.key, self.spec);
        let (mut from, mut looked) = (Cursor::default(), 0);
        let mut first: Option<(TaskId, Head)> = None;
        loop {
            let page = self.app.store.lanes(p, from, LANES).await?;
            looked += page.items.len();
            let same = page.items.iter().filter(|(_, lane)| lane.ns == ns && lane.order_key.as_deref() == Some(order));
            for lane in same.map(|(id, _)| *id).collect::<Vec<LaneId>>() {
                let index = Index::Lane { lane, after: None };
                let head = self.app.store.scan(p, &index, Cursor::default(), 1).await?.items.pop();
                let head = head.map(|(key, head)| (key.id, head));
                first = first.into_iter().chain(head).min_by_key(|(_, head)| head.seq);
            }
            match page.next {
                Some(next) if looked < MOST_LANES => from = next,
                _ => return Ok(first),
            }
        }
    }

    /// Which limits do not agree, and the rates that it has to pass.
    pub(super) async fn limited(&self, worker: Option<&str>, story: &mut Story) -> Result<Vec<Pace>, Refusal> {
        let gates = self.app.gates_of(self.key.ns, self.spec, worker).await?;
        let look = |gate: &Gate| LimitRequest::look(self.key.ns, gate.key.clone(), gate.rule());
        let requests: Vec<LimitRequest> = gates.iter().map(look).collect();
        let replies = if requests.is_empty() { Vec::new() } else { self.app.store.limit(requests).await? };
        let replies = replies.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut paces = Vec::new();
        for (gate, reply) in gates.into_iter().zip(replies) {
            let counters = Counters::of(gate.stored.rule, gate.own, &reply, gate.cost);
            let key = &gate.key;
            // What a queue has closed was said already.
            let paused = gate.stored.paused(self.app.now()).filter(|_| !key.starts_with("queue:"));
            if let Some(end) = paused {
                let end = Some(end).filter(|end| *end < FOR_EVER);
                let text = format!("Limit `{key}` is paused {}.", until(end));
                story.causes.push((Cause { key: Some(key.clone()), ..Cause::new("paused", text, end) }, end));
            }
            if self.head.flags.has(Flags::NOW) {
                continue;
            }
            if let Some(most) = counters.is_full() {
                let text = match (most, counters.in_use) {
                    (0, _) => format!("Limit `{key}` lets no task start: its concurrency is 0."),
                    (1, 1) => format!("Limit `{key}` lets 1 task run at once, and 1 does."),
                    (most, n) => format!("Limit `{key}` lets {} run at once, and {n} do.", words::count(most, "task")),
                };
                let cause = Cause::new("concurrency", text, None);
                let cause = Cause { key: Some(key.clone()), in_use: Some(counters.in_use), limit: Some(most), ..cause };
                story.causes.push((cause, None));
            }
            if let (Some(rate), Some(next)) = (counters.rule.rate, counters.next) {
                let text = format!("Limit `{key}` lets {rate} start; the next may at {}.", next.rfc3339());
                story.causes.push((Cause { key: Some(key.clone()), ..Cause::new("rate", text, Some(next)) }, Some(next)));
            }
            if counters.rule.rate.is_some() {
                let (rule, cost) = (counters.rule, gate.cost);
                paces.push(Pace { key: gate.key, rule, cost, tat: reply.tat, now: reply.now, others: 0 });
            }
        }
        Ok(paces)
    }
}

fn until(end: Option<Millis>) -> String {
    end.map_or_else(|| "until it is resumed".to_owned(), |end| format!("until {}", end.rfc3339()))
}
