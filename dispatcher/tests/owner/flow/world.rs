//! Makes a scenario happen and notes what was seen of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lovage_core::retry::{Jitter, RetryPolicy};
use lovage_core::{Attempt, Event, Head, Outcome, Spec, State, TaskKey, TaskLimit};
use lovage_dispatcher::Options;
use lovage_store::DocKind;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{Happening, Job, KEYS, OWN, Push, QUEUE, Rule, Scenario};
use crate::world::{EPOCH, Node, Reply, Seen, World, call, memory};

const PARTITIONS: u16 = 3;
/// Dispatchers that die in one scenario: a task that was lost three times has failed.
const CRASHES: usize = 2;

/// An attempt as its worker saw it, in time since the beginning.
pub(super) struct Pushed {
    pub job: usize,
    pub attempt: u32,
    pub start: Duration,
    pub end: Duration,
}

/// What was seen.
#[derive(Default)]
pub(super) struct Record {
    /// In order.
    pub pushes: Vec<Pushed>,
    /// When each job was submitted.
    pub submitted: Vec<Duration>,
    /// When each job ended.
    pub ended: Vec<Duration>,
    /// Rules of keys and since when they are.
    pub rules: [Vec<(Duration, Rule)>; KEYS],
    /// Keys that were paused, from when and until when.
    pub pauses: Vec<(usize, Duration, Duration)>,
    pub crashes: Vec<Duration>,
    /// The most dispatchers that worked at once.
    pub dispatchers: usize,
}

/// An attempt that was accepted: its job, its number, and how long it takes. None: no more will be.
type Accept = Option<(usize, u32, u64)>;

struct Stage<'a> {
    scenario: &'a Scenario,
    world: Arc<World>,
    begin: Instant,
    nodes: Vec<Node>,
    keys: Arc<Mutex<Vec<TaskKey>>>,
    record: Record,
}

fn reply(jobs: &[Job], accepts: &mpsc::UnboundedSender<Accept>, seen: &Seen) -> Reply {
    let job = number(seen);
    match jobs[job].push(seen.attempt) {
        Push::Takes(time) => Reply::Slow(Duration::from_millis(time)),
        Push::Retry => Reply::Header(200, "lovage-outcome", "retry"),
        Push::TimesOut => Reply::Slow(Duration::from_secs(3600)),
        Push::Accepted(time) => {
            accepts.send(Some((job, seen.attempt, time))).unwrap();
            Reply::Header(202, "lovage-lease", "1h")
        }
    }
}

fn number(seen: &Seen) -> usize {
    seen.headers["x-job"].to_str().unwrap().parse().unwrap()
}

/// Reports the success of accepted attempts; answers when each of them ended.
async fn report(
    world: Arc<World>,
    keys: Arc<Mutex<Vec<TaskKey>>>,
    begin: Instant,
    mut accepts: mpsc::UnboundedReceiver<Accept>,
) -> HashMap<(usize, u32), Duration> {
    let mut reports = tokio::task::JoinSet::new();
    while let Some(Some((job, attempt, time))) = accepts.recv().await {
        let (world, keys) = (Arc::clone(&world), Arc::clone(&keys));
        reports.spawn(async move {
            sleep(Duration::from_millis(time)).await;
            let key = keys.lock()[job].clone();
            let outcome = || Outcome::Success { content_type: None, body: None };
            let of = |head: &Head| Attempt { number: attempt, ..head.open_attempt() };
            world.happen(&key, |head| Event::Answered { attempt: of(head), outcome: outcome() }).await;
            ((job, attempt), begin.elapsed())
        });
    }
    reports.join_all().await.into_iter().collect()
}

pub(super) async fn run(scenario: &Scenario) -> Record {
    let begin = Instant::now();
    let (accepts, accepted) = mpsc::unbounded_channel();
    let (jobs, no_more) = (scenario.jobs.clone(), accepts.clone());
    let world = Arc::new(World::over(memory(PARTITIONS), move |seen| reply(&jobs, &accepts, seen)));
    world.worker("w", "*", 10_000).await;
    let keys = Arc::default();
    let reports = tokio::spawn(report(Arc::clone(&world), Arc::clone(&keys), begin, accepted));
    let mut stage = Stage { scenario, world, begin, nodes: Vec::new(), keys, record: Record::default() };
    for key in 0..KEYS {
        stage.rule(key, scenario.rules[key], None).await;
    }
    for _ in 0..scenario.dispatchers {
        stage.join();
    }
    for (number, job) in scenario.jobs.iter().enumerate() {
        sleep(Duration::from_millis(job.gap)).await;
        stage.submit(number, job).await;
        for (_, happening) in scenario.happenings.iter().filter(|(after, _)| *after == number) {
            stage.happen(*happening).await;
        }
    }
    stage.finish(no_more, reports).await
}

impl Stage<'_> {
    fn join(&mut self) {
        let options = Options { limits: self.scenario.room.unwrap_or(200_000), ..Options::default() };
        self.nodes.push(self.world.start_with(Arc::clone(&self.world.store), options));
        self.record.dispatchers = self.record.dispatchers.max(self.nodes.len());
    }

    /// What holds for a key from now on.
    async fn rule(&mut self, key: usize, rule: Rule, paused: Option<Duration>) {
        self.record.rules[key].push((self.begin.elapsed(), rule));
        let mut document = json!({});
        let fields = document.as_object_mut().unwrap();
        if let Some(rate) = rule.rate {
            fields.insert("burst".into(), json!(rule.burst));
            fields.insert("rate".into(), json!(format!("{rate}/s")));
        }
        if let Some(concurrency) = rule.concurrency {
            fields.insert("concurrency".into(), json!(concurrency));
        }
        let until = paused.map(|until| EPOCH.after(until));
        if key < OWN {
            if let Some(until) = until {
                fields.insert("paused_until".into(), serde_json::to_value(until).unwrap());
            }
            if self.is_stored(key) {
                self.world.put(DocKind::Limit, &key.to_string(), &document).await;
            }
            return;
        }
        if let Some(until) = until {
            fields.insert("paused".into(), json!({ "intake": false, "dispatch": true, "until": until.rfc3339() }));
        }
        let (kind, name) = if key == QUEUE { (DocKind::Queue, "q") } else { (DocKind::TaskType, "t") };
        self.world.put(kind, name, &document).await;
    }

    fn is_stored(&self, key: usize) -> bool {
        key != 0 || !self.scenario.said
    }

    fn current(&self, key: usize) -> Rule {
        self.record.rules[key].last().unwrap().1
    }

    async fn submit(&mut self, number: usize, job: &Job) {
        let limit = |key: usize| {
            let cost = job.cost(key)?;
            let rule = self.scenario.rules[key];
            let free = TaskLimit { key: key.to_string(), rate: None, burst: None, concurrency: None, cost: cost.min(rule.burst) };
            let rate = rule.rate.map(|rate| format!("{rate}/s").parse().unwrap());
            Some(if self.is_stored(key) {
                free
            } else {
                TaskLimit { rate, burst: Some(rule.burst), concurrency: rule.concurrency, ..free }
            })
        };
        let second = "1s".parse().unwrap();
        let retry = RetryPolicy { max_attempts: 100, jitter: Jitter::None, min: second, max: second, ..RetryPolicy::default() };
        let spec = Spec {
            queue: if job.in_queue { "q" } else { "other" }.into(),
            headers: vec![("x-job".into(), number.to_string())],
            limits: (0..OWN).filter_map(limit).collect(),
            order_key: job.order.map(|key| key.to_string()),
            fair_key: Some(job.fair.to_string()),
            retry: Some(retry),
            time_limit: Some("2s".parse().unwrap()),
            ..call(if job.of_type { "t" } else { "u" })
        };
        let due = (job.delay > 0).then(|| self.world.store.clock().now().after(Duration::from_millis(job.delay)));
        let key = self.world.submit_with(spec, job.priority, due, None).await;
        self.keys.lock().push(key);
        self.record.submitted.push(self.begin.elapsed());
    }

    async fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Joins if self.nodes.len() < 3 => self.join(),
            Happening::Leaves(which) => {
                let node = self.nodes.swap_remove(which % self.nodes.len());
                tokio::spawn(node.stop());
            }
            Happening::Crashes(which) if self.record.crashes.len() < CRASHES => {
                self.nodes.swap_remove(which % self.nodes.len()).kill();
                self.record.crashes.push(self.begin.elapsed());
            }
            Happening::Rule(key, rule) if self.is_stored(key) => self.rule(key, rule, None).await,
            Happening::Pause(key, time) if self.is_stored(key) => {
                let (now, rule) = (self.begin.elapsed(), self.current(key));
                let until = now + Duration::from_millis(time);
                self.record.pauses.push((key, now, until));
                self.rule(key, rule, Some(until)).await;
            }
            Happening::Cancel(job) => {
                let key = self.keys.lock().get(job).cloned();
                if let Some(key) = key {
                    self.world.cancel(&key, true).await;
                }
            }
            _ => {}
        }
        if self.nodes.is_empty() {
            self.join();
        }
    }

    /// Waits for the ends of all tasks.
    async fn finish(
        mut self,
        no_more: mpsc::UnboundedSender<Accept>,
        reports: tokio::task::JoinHandle<HashMap<(usize, u32), Duration>>,
    ) -> Record {
        self.world.until_quiet().await;
        let keys = self.keys.lock().clone();
        let mut canceled = Vec::new();
        for key in &keys {
            let head = self.world.head(key).await;
            assert!(matches!(head.state, State::Succeeded | State::Canceled), "{head:?}");
            canceled.push(head.state == State::Canceled);
            self.record.ended.push(head.ended.since(EPOCH));
        }
        for node in std::mem::take(&mut self.nodes) {
            node.stop().await;
        }
        let begin = self.begin;
        let seen = std::mem::take(&mut *self.world.transport.seen.lock());
        no_more.send(None).unwrap();
        let mut pushes = Vec::new();
        let reported = reports.await.unwrap();
        for seen in seen {
            let (job, attempt) = (number(&seen), seen.attempt);
            let closed = seen.end.unwrap() - begin;
            let reported = reported.get(&(job, attempt)).copied();
            let end = reported.map_or(closed, |end| if canceled[job] { end.min(self.record.ended[job]) } else { end });
            pushes.push(Pushed { job, attempt, start: seen.start - begin, end: end.max(closed) });
        }
        Record { pushes, ..self.record }
    }
}
