//! Limits as they are now: which rule holds for a key, how much of it is used, who waits.
//!
//! The state of a key is the store's; what is stored and what tasks say of it make the rule. Nothing is kept here.

use lovage_core::limit::{BUILT_IN, is_built_in};
use lovage_core::units::Rate;
use lovage_core::worker::WorkerConfig;
use lovage_core::{LaneDef, LaneId, LimitRule, Millis, Ns, Pause, QueueConfig, Route, Spec, StoredLimit, Version, gcra};
use lovage_store::{Cursor, DocKind, LimitReply, LimitRequest};
use serde::Serialize;

use crate::app::App;
use crate::documents::content;
use crate::problem::Refusal;

/// Lanes that are looked at for one answer, over all partitions, and how many at once.
pub(crate) const MOST_LANES: usize = 10_000;
const LANES: usize = 500;

/// A key as it is used now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// What is stored, completed by what the latest task says.
    pub rule: LimitRule,
    pub in_use: u32,
    /// Its lanes were counted: tasks that wait, and whether there are more.
    pub waiting: Option<(u64, bool)>,
    /// Starts that the rate allows now.
    pub tokens: Option<u32>,
    /// When the rate allows as many as were asked about.
    pub next: Option<Millis>,
    /// Nobody ever used it, as far as is known.
    unknown: bool,
}

impl Counters {
    /// Those of an answer of the store, for a task that counts for `cost` starts and says `own` of the key.
    pub(crate) fn of(stored: LimitRule, own: LimitRule, reply: &LimitReply, cost: u32) -> Self {
        let rule = stored.over(reply.submitted.map_or(own, |(_, rule)| rule));
        let reserve = |rate, least: u32, most| {
            let burst = rule.burst();
            let tat = gcra::under(reply.tat, reply.now, rate, burst);
            gcra::reserve(tat, reply.now, 0, rate, burst, least.min(burst), most)
        };
        Self {
            rule,
            in_use: reply.in_use,
            waiting: None,
            tokens: rule.rate.map(|rate| reserve(rate, 1, u32::MAX).lot.count),
            next: rule
                .rate
                .map(|rate| Millis(reserve(rate, cost, cost).retry_at.div_ceil(1_000)))
                .filter(|at| at.0 > reply.now / 1_000),
            unknown: reply.tat == 0 && reply.in_use == 0 && reply.submitted.is_none(),
        }
    }

    /// Whether no task that is or was lately there names the key.
    pub(crate) fn is_unused(&self) -> bool {
        self.unknown && self.waiting.is_none_or(|(waiting, _)| waiting == 0)
    }

    /// How many may run at once, if as many do.
    pub(crate) fn is_full(&self) -> Option<u32> {
        self.rule.concurrency.filter(|most| self.in_use >= *most)
    }
}

/// A limit as it is shown.
#[derive(Serialize)]
pub(crate) struct LimitView<'a> {
    key: &'a str,
    rate: Option<Rate>,
    burst: Option<u32>,
    concurrency: Option<u32>,
    paused: bool,
    paused_until: Option<String>,
    in_force: Rule,
    in_use: u32,
    waiting: Option<u64>,
    waiting_more: bool,
    tokens: Option<u32>,
    next_at: Option<String>,
    version: Option<Version>,
}

#[derive(Serialize)]
struct Rule {
    rate: Option<Rate>,
    burst: Option<u32>,
    concurrency: Option<u32>,
}

impl<'a> LimitView<'a> {
    pub(crate) fn of(key: &'a str, stored: &StoredLimit, version: Option<Version>, counters: Counters, now: Millis) -> Self {
        let LimitRule { rate, burst, concurrency } = stored.rule;
        let in_force = counters.rule;
        let pause = stored.paused(now);
        let ends = |at: &Millis| *at < FOR_EVER;
        Self {
            key,
            rate,
            burst,
            concurrency,
            paused: pause.is_some(),
            paused_until: stored.paused_until.filter(ends).map(Millis::rfc3339),
            in_force: Rule {
                rate: in_force.rate,
                burst: in_force.rate.map(|_| in_force.burst()),
                concurrency: in_force.concurrency,
            },
            in_use: counters.in_use,
            waiting: counters.waiting.map(|(waiting, _)| waiting),
            waiting_more: counters.waiting.is_some_and(|(_, more)| more),
            tokens: counters.tokens,
            next_at: pause.max(counters.next).filter(ends).map(Millis::rfc3339),
            version,
        }
    }
}

/// A limit that a task has to pass.
#[derive(Clone)]
pub(crate) struct Gate {
    pub key: String,
    pub stored: StoredLimit,
    /// What the task itself says of it.
    pub own: LimitRule,
    pub cost: u32,
}

impl Gate {
    /// What would hold if this task were the latest.
    pub(crate) fn rule(&self) -> LimitRule {
        self.stored.rule.over(self.own)
    }
}

impl App {
    /// The limit of a key as it is written, where it is written; the version is that of a document under `/v1/limits`. `None`: it
    /// is not.
    pub(crate) async fn stored_limit(&self, ns: Ns, key: &str) -> Result<Option<(StoredLimit, Option<Version>)>, Refusal> {
        let built_in = BUILT_IN.iter().find_map(|prefix| Some((*prefix, key.strip_prefix(prefix)?)));
        let (rule, paused_until) = match built_in {
            None => {
                let Some(document) = self.store.doc(DocKind::Limit, ns, key).await? else { return Ok(None) };
                return Ok(Some((content(&document)?, Some(document.version))));
            }
            Some(("queue:", name)) => match self.queue_config(ns, name).await? {
                Some(queue) => (queue.rule(), queue.dispatch_closed(self.now()).map(end_of)),
                None => return Ok(None),
            },
            Some(("task:", name)) => match self.types(ns).await?.type_of(name).map(lovage_core::TaskType::rule) {
                Some(rule) => (rule, None),
                None => return Ok(None),
            },
            Some((_, name)) => match self.store.doc(DocKind::Worker, ns, name).await? {
                Some(document) => (content::<WorkerConfig>(&document)?.rule(), None),
                None => return Ok(None),
            },
        };
        Ok(Some((StoredLimit { rule, paused_until }, None)))
    }

    /// The settings of a queue; `None`: there is no such queue.
    pub(crate) async fn queue_config(&self, ns: Ns, name: &str) -> Result<Option<QueueConfig>, Refusal> {
        match self.store.doc(DocKind::Queue, ns, name).await? {
            Some(document) => Ok(Some(content(&document)?)),
            None => Ok((name == lovage_core::spec::DEFAULT_QUEUE).then(QueueConfig::default)),
        }
    }

    /// How these keys are used now.
    pub(crate) async fn look_at<'k>(
        &self,
        ns: Ns,
        keys: impl Iterator<Item = (&'k str, LimitRule)> + Clone,
    ) -> Result<Vec<Counters>, Refusal> {
        let requests: Vec<LimitRequest> = keys.clone().map(|(key, rule)| LimitRequest::look(ns, key, rule)).collect();
        let replies = if requests.is_empty() { Vec::new() } else { self.store.limit(requests).await? };
        let replies = replies.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(keys.zip(replies).map(|((_, rule), reply)| Counters::of(rule, LimitRule::default(), &reply, 1)).collect())
    }

    /// How a key is used now, with the tasks that wait for it.
    pub(crate) async fn counters(&self, ns: Ns, key: &str, rule: LimitRule) -> Result<Counters, Refusal> {
        let counters = self.look_at(ns, std::iter::once((key, rule))).await?.pop().unwrap_or_default();
        let waiting = self.waiting(ns, |lane| self.names(lane, key)).await?;
        Ok(Counters { waiting: Some(waiting), ..counters })
    }

    /// Whether tasks of this lane have to pass the limit of this key. Those of a lane that is kept in order say it one by one.
    pub(crate) fn names(&self, lane: &LaneDef, key: &str) -> bool {
        let task = if let Route::Task(task) = &lane.route { Some(task.as_str()) } else { None };
        match BUILT_IN.iter().find_map(|prefix| Some((*prefix, key.strip_prefix(prefix)?))) {
            None => lane.limits.iter().any(|limit| limit.key == key),
            Some(("queue:", name)) => lane.queue == name,
            Some(("task:", name)) => task == Some(name),
            Some((_, name)) => task.is_some_and(|task| self.route(lane.ns, &lane.queue, task).as_deref() == Some(name)),
        }
    }

    /// How many tasks wait in lanes of this kind, and whether there are more that were not counted.
    pub(crate) async fn waiting(&self, ns: Ns, counts: impl Fn(&LaneDef) -> bool) -> Result<(u64, bool), Refusal> {
        let (mut waiting, mut looked) = (0, 0);
        for p in self.all_partitions() {
            let mut from = Cursor::default();
            loop {
                let page = self.store.lanes(p, from, LANES).await?;
                looked += page.items.len();
                let lanes = page.items.into_iter().filter(|(_, lane)| lane.ns == ns && counts(lane));
                let lanes: Vec<LaneId> = lanes.map(|(id, _)| id).collect();
                if !lanes.is_empty() {
                    waiting += self.store.lane_sizes(p, &lanes).await?.into_iter().sum::<u64>();
                }
                let Some(next) = page.next else { break };
                if looked >= MOST_LANES {
                    return Ok((waiting, true));
                }
                from = next;
            }
        }
        Ok((waiting, false))
    }

    /// The limits that a task with this signature has to pass, if this worker gets it. Those that nothing says anything of are
    /// left out.
    pub(crate) async fn gates_of(&self, ns: Ns, spec: &Spec, worker: Option<&str>) -> Result<Vec<Gate>, Refusal> {
        let task = spec.task.as_ref().filter(|_| spec.url.is_none());
        let built_in = [Some(format!("queue:{}", spec.queue())), task.map(|task| format!("task:{task}"))];
        let built_in = built_in.into_iter().chain([worker.map(|worker| format!("worker:{worker}"))]).flatten();
        let built_in = built_in.map(|key| (key, LimitRule::default(), 1));
        let own = spec.limits.iter().map(|limit| (limit.key.clone(), limit.rule(), limit.cost));
        let mut gates = Vec::new();
        for (key, own, cost) in built_in.chain(own) {
            let stored = self.stored_limit(ns, &key).await?.map(|(stored, _)| stored).unwrap_or_default();
            let gate = Gate { key, stored, own, cost };
            if !gate.rule().is_free() || gate.stored.paused_until.is_some() || !is_built_in(&gate.key) {
                gates.push(gate);
            }
        }
        Ok(gates)
    }
}

/// When a pause ends; one without an end does so at the end of time.
pub(crate) fn end_of(pause: Pause) -> Millis {
    pause.until.unwrap_or(FOR_EVER)
}

/// The end of what has none, which is shown as none: the last midnight that times can name.
pub(crate) const FOR_EVER: Millis = Millis(253_402_128_000_000);
