//! All processes are renewed one after the other while work goes on: nobody notices.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lovage_tests::clock::now_ns;
use lovage_tests::{Answered, Client, Fleet, Lovage, Redis, Reply, Worker};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Between two short tasks of a client.
const PACE: Duration = Duration::from_millis(20);

/// Pushes that are open at any time.
const LONG: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_repeats_nothing_and_stalls_nothing() {
    let full = super::super::is_full();
    let push = Duration::from_millis(if full { 5_000 } else { 2_000 });
    // What is demanded; a busy machine gets more.
    let longest_stall = Duration::from_secs(if full { 2 } else { 6 });
    let redis = Redis::start();
    // Nothing here waits for the end of a lease, and a machine that stands still for a while shall end none.
    let patient = Fleet::of(2, 2).set("dispatcher.lease", "1m").set("dispatcher.close_after", "50s");
    let mut fleet = patient.set("dispatcher.rebalance_after", "1s").start(&redis).await;
    super::all_have_shares(&fleet).await;
    let worker = Worker::start();
    worker.on("roll.*", Reply::json(&json!("short"))).on("roll.long", Reply::json(&json!("long")).after(push));
    fleet.client().register_worker_with("roll", &json!({"url": worker.url(), "tasks": ["roll.*"], "concurrency": 500})).await;

    let load = Load::start(&fleet.clients(), push);
    load.flows(100).await;
    for round in 0..super::super::size(1, 3) {
        for number in 0..2 {
            renew(&mut fleet.dispatchers[number], &load).await;
            super::all_have_shares(&fleet).await;
            renew(&mut fleet.gateways[number], &load).await;
        }
        println!("round {round}: {} tasks", load.count());
    }
    let (median, longest) = none_repeated(&fleet, &worker, load.end().await).await;
    println!("from submit to start: median {median:?}, longest {longest:?}");
    assert!(longest <= longest_stall, "a task waited {longest:?} for its start");
}

/// A gateway has nothing that would be lost with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_killed_in_turn_lose_and_repeat_nothing() {
    let redis = Redis::start();
    let mut fleet = Fleet::of(2, 1).start(&redis).await;
    let worker = Worker::start();
    worker.on("roll.*", Reply::json(&json!("short")));
    fleet.client().register_worker("roll", &worker.url(), &["roll.*"]).await;
    let load = Load::start(&fleet.clients(), Duration::from_secs(1));
    let mut slowest = Duration::ZERO;
    for kill in 0..super::super::size(6, 50) {
        load.flows(40).await;
        let gateway = &mut fleet.gateways[kill % 2];
        gateway.kill9();
        load.flows(10).await;
        gateway.restart().await;
        slowest = slowest.max(gateway.ready_after());
    }
    none_repeated(&fleet, &worker, load.end().await).await;
    println!("a gateway was ready after {slowest:?} at most");
    assert!(slowest <= Duration::from_secs(if super::super::is_full() { 2 } else { 10 }));
}

/// Every acknowledged task is done, in one attempt. Returns how long they waited for their start: half of them, and all.
async fn none_repeated(fleet: &Fleet, worker: &Worker, acknowledged: HashMap<String, u64>) -> (Duration, Duration) {
    let ids: Vec<String> = acknowledged.keys().cloned().collect();
    let records = fleet.client().wait_all_final(&ids, Duration::from_secs(60)).await;
    let calls = worker.by_task();
    let mut stalls = Vec::new();
    for (id, sent_ns) in &acknowledged {
        let (record, calls) = (&records[id], &calls[id]);
        let story = || format!("task {id}: the worker had {}, the record is {record}", super::super::shown(calls));
        assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(1)), "{}", story());
        assert_eq!(calls.iter().map(|call| call.answered).collect::<Vec<_>>(), [Answered::Status(200)], "{}", story());
        stalls.push(Duration::from_nanos(calls[0].started_ns.saturating_sub(*sent_ns)));
    }
    stalls.sort_unstable();
    println!("{} tasks, none lost and none repeated", ids.len());
    (stalls[stalls.len() / 2], stalls[stalls.len() - 1])
}

/// Stops a process in order and starts it anew.
async fn renew(process: &mut Lovage, load: &Load) {
    assert_eq!(process.stop().await.code(), Some(0));
    process.restart().await;
    load.flows(50).await;
}

/// Clients that submit for as long as they are let, each at whatever gateway answers.
struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<HashMap<String, u64>>,
}

struct Shared {
    gateways: Vec<Client>,
    count: AtomicUsize,
    over: AtomicBool,
}

impl Load {
    fn start(gateways: &[Client], push: Duration) -> Self {
        let shared = Arc::new(Shared { gateways: gateways.to_vec(), count: AtomicUsize::new(0), over: AtomicBool::new(false) });
        let mut clients = JoinSet::new();
        clients.spawn(Arc::clone(&shared).submits("/v1/tasks", "roll.short", PACE));
        clients.spawn(Arc::clone(&shared).submits("/v1/tasks?wait=10s", "roll.awaited", PACE));
        // One after the other, so that some are at their beginning and some near their end whenever a process stops.
        clients.spawn(Arc::clone(&shared).submits("/v1/tasks", "roll.long", push / LONG as u32));
        Self { shared, clients }
    }

    fn count(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Waits until tasks are acknowledged, this many more than now.
    async fn flows(&self, count: usize) {
        let goal = self.count() + count;
        lovage_tests::eventually("acknowledged tasks", Duration::from_secs(30), async || (self.count() >= goal).then_some(()))
            .await;
    }

    /// The acknowledged tasks and when each was sent.
    async fn end(self) -> HashMap<String, u64> {
        self.shared.over.store(true, Ordering::Relaxed);
        self.clients.join_all().await.into_iter().flatten().collect()
    }
}

impl Shared {
    async fn submits(self: Arc<Self>, path: &'static str, task: &'static str, pace: Duration) -> HashMap<String, u64> {
        let mut acknowledged = HashMap::new();
        let mut ticks = tokio::time::interval(pace);
        for number in 0.. {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            ticks.tick().await;
            let id = format!("{task}-{number}");
            let sent_ns = self.submit(path, &json!({"task": task, "id": id}), number).await;
            acknowledged.insert(id, sent_ns);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        acknowledged
    }

    /// Submits a task at one gateway or another until it is acknowledged: a connection may be refused or cut, and a gateway may
    /// say that it is about to end; nothing else may happen. Returns when the request was sent that was acknowledged.
    async fn submit(&self, path: &str, task: &Value, first: usize) -> u64 {
        let start = Instant::now();
        for turn in first.. {
            let gateway = &self.gateways[turn % self.gateways.len()];
            let sent_ns = now_ns();
            match gateway.try_send(gateway.request(Method::POST, path).json(task)).await {
                Ok(answer) if matches!(answer.status, 200 | 202) => return sent_ns,
                Ok(answer) => super::super::assert_honest_503(&answer),
                Err(error) => assert!(!error.is_timeout(), "{error:?}"),
            }
            assert!(start.elapsed() < Duration::from_secs(10), "no gateway takes {task}");
            tokio::task::yield_now().await;
        }
        unreachable!("turns do not end");
    }
}
