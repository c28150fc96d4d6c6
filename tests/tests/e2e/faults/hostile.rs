//! Workers that misbehave in every way at once: each of their tasks ends with an error that says so, the server's memory stays
//! bounded, and a well-behaved worker beside them gets its tasks as if they were not there.

mod behaviour;
mod villain;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use lovage_tests::clock::now_ns;
use lovage_tests::{Client, Lovage, Redis, Reply, Setup, Worker};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use behaviour::{Act, Behaviour};
use villain::Villain;

/// How much more memory than before the server may hold at its worst instant.
const MEMORY: u64 = 128 << 20;

/// Calls of a worker with endless answers that are open at once: each holds a mebibyte and more, so this bounds the memory.
const AT_ONCE: usize = 16;

/// Between two tasks for the worker that does its work.
const PACE: Duration = Duration::from_millis(10);

/// The fewest of them, also if the misbehaviour is over sooner.
const GOOD_TASKS: usize = 200;

/// How long tasks of misbehaving workers may take in all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tasks of a worker that always says "not now": it is asked less and less often.
const AFTER_NO: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_workers_harm_nobody_else_embedded() {
    hostile_workers_harm_nobody_else(Lovage::dev()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_workers_harm_nobody_else_redis() {
    let redis = Redis::start();
    hostile_workers_harm_nobody_else(Lovage::dev().redis(&redis)).await;
}

async fn hostile_workers_harm_nobody_else(setup: Setup) {
    let good = Worker::start();
    good.on_call("good", |call| Reply::json(&json!({"by": call.id})));
    let lovage = setup.start().await;
    let client = lovage.client();
    client.register_worker("good", &good.url(), &["good"]).await;
    let mut villains = Vec::new();
    for mut behaviour in behaviour::all() {
        let act = std::mem::replace(&mut behaviour.act, Act::Answer(Vec::new()));
        let villain = Villain::start(act).await;
        // Redirects and the like are to be met again and again, not to be left alone by the breaker.
        let mut settings = json!({"url": villain.url(), "tasks": [behaviour.name], "breaker": {"failures": 1000}});
        if behaviour.errors == ["ResultTooLarge"] {
            settings["concurrency"] = json!(AT_ONCE);
        }
        client.register_worker_with(behaviour.name, &settings).await;
        villains.push((behaviour, villain));
    }
    // Connections, threads and caches that any work needs are there before the memory is measured.
    let warm = Steady::start(client).end().await;
    client.wait_all_final(&warm.into_keys().collect::<Vec<_>>(), PATIENCE).await;
    let before = lovage.resident_bytes();

    let start = Instant::now();
    let steady = Steady::start(client);
    let each = super::size(24, 100);
    let count = |behaviour: &Behaviour| if behaviour.name == "junk-retry-after" { AFTER_NO } else { each };
    let submits = stream::iter(&villains).map(async |(behaviour, _)| submit(client, behaviour, count(behaviour)).await);
    let ids: Vec<Vec<String>> = submits.buffered(villains.len()).collect().await;
    for ((behaviour, villain), ids) in villains.iter().zip(&ids) {
        let (records, each) = (client.wait_all_final(ids, PATIENCE).await, count(behaviour));
        assert_eq!(records.len(), each);
        let attempts: Vec<usize> = stream::iter(records.values())
            .map(async |record| check(client, behaviour, record).await)
            .buffer_unordered(16)
            .collect()
            .await;
        let attempts: usize = attempts.iter().sum();
        // Fewer, if a connection was given up before the request was on it; but nobody follows a redirect.
        assert!(villain.calls() <= attempts, "{}: {} calls in {attempts} attempts", behaviour.name, villain.calls());
        assert!(villain.calls() >= each, "{}: only {} calls of {each} tasks", behaviour.name, villain.calls());
    }
    let took = start.elapsed();
    let sent = steady.end().await;
    check_good(client, &good, &sent).await;

    let (peak, after) = (lovage.peak_resident_bytes(), lovage.resident_bytes());
    let mib = |bytes: u64| bytes >> 20;
    println!("{} behaviours, {each} tasks each, ended after {took:?}", villains.len());
    println!("resident memory in MiB: {} before, {} at most, {} after", mib(before), mib(peak), mib(after));
    assert!(peak < before + MEMORY, "{} MiB before, {} MiB at most", mib(before), mib(peak));
}

/// Submits the tasks of one worker, in a queue of their own.
async fn submit(client: &Client, behaviour: &Behaviour, count: usize) -> Vec<String> {
    let mut retry = json!({"max_attempts": 2, "backoff": "fixed", "min": "20ms", "jitter": "none"});
    if behaviour.attempts.is_none() {
        retry["max_age"] = json!("1500ms");
    }
    let signature = json!({
        "task": behaviour.name,
        "queue": behaviour.name,
        "time_limit": behaviour.time_limit,
        "max_run": behaviour.time_limit,
        "retry": retry,
    });
    let answer = client.submit_batch(&vec![signature; count]).await;
    assert_eq!((answer.status, answer.ids().len()), (200, count), "{answer:?}");
    answer.ids()
}

/// A task of a misbehaving worker: it ended as it must, and each attempt says why. Answers how many there were.
async fn check(client: &Client, behaviour: &Behaviour, record: &Value) -> usize {
    let attempts = client.list(&format!("/v1/tasks/{}/attempts", record["id"].as_str().unwrap())).await;
    let story = || format!("{}: the record is {record}, the attempts are {attempts:?}", behaviour.name);
    assert_eq!((&record["state"], &record["reason"]), (&json!("failed"), &json!(behaviour.reason)), "{}", story());
    assert_eq!(record["attempt"], json!(attempts.len()), "{}", story());
    // On a machine that is overloaded a connection may take all of a short time limit. That is not charged.
    let reached: Vec<&Value> = attempts.iter().filter(|attempt| attempt["error"]["type"] != "ConnectTimeout").collect();
    let known = |attempt: &&Value| behaviour.errors.iter().any(|error| attempt["error"]["type"] == *error);
    assert!(reached.iter().all(known), "{}", story());
    match behaviour.attempts {
        Some(count) => assert_eq!(reached.len(), count, "{}", story()),
        None => assert!(!reached.is_empty(), "{}", story()),
    }
    attempts.len()
}

/// Every good task was done, once. Prints how long they took to start.
async fn check_good(client: &Client, good: &Worker, sent: &HashMap<String, u64>) {
    let ids: Vec<String> = sent.keys().cloned().collect();
    let records = client.wait_all_final(&ids, Duration::from_secs(30)).await;
    let mut calls = good.by_task();
    let mut latencies: Vec<u64> = Vec::new();
    for (id, sent_ns) in sent {
        let (record, calls) = (&records[id], calls.remove(id).unwrap());
        assert_eq!((&record["state"], &record["result"]), (&json!("succeeded"), &json!({"by": id})), "{record}");
        assert_eq!(calls.len(), 1, "task {id}: the worker had {}", super::shown(&calls));
        latencies.push(calls[0].started_ns - sent_ns);
    }
    latencies.sort_unstable();
    let at = |percent: usize| Duration::from_nanos(latencies[(latencies.len() - 1) * percent / 100]);
    println!("{} good tasks, from submit to start: p50 {:?}, p99 {:?}, at most {:?}", latencies.len(), at(50), at(99), at(100));
}

/// Tasks for the worker that does its work, one every [`PACE`] whether earlier ones are done or not.
struct Steady {
    over: watch::Sender<bool>,
    tasks: JoinHandle<HashMap<String, u64>>,
}

impl Steady {
    fn start(client: &Client) -> Self {
        let (over, seen) = watch::channel(false);
        let client = client.clone();
        let tasks = tokio::spawn(async move {
            let (mut sent, mut submits) = (HashMap::new(), JoinSet::new());
            let mut pace = tokio::time::interval(PACE);
            while sent.len() + submits.len() < GOOD_TASKS || !*seen.borrow() {
                pace.tick().await;
                let client = client.clone();
                submits.spawn(async move {
                    let sent_ns = now_ns();
                    (client.submit(&json!({"task": "good", "queue": "good"})).await, sent_ns)
                });
                while let Some(submitted) = submits.try_join_next() {
                    sent.extend([submitted.unwrap()]);
                }
            }
            sent.extend(submits.join_all().await);
            sent
        });
        Self { over, tasks }
    }

    /// Ends it, not before there were [`GOOD_TASKS`]. Answers the ids and when each was submitted.
    async fn end(self) -> HashMap<String, u64> {
        self.over.send_replace(true);
        self.tasks.await.unwrap()
    }
}
