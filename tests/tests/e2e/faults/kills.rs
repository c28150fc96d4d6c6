//! `kill -9` again and again: nothing acknowledged is lost, attempts are numbered upwards, a deadly task is stopped.

use std::time::Duration;

use lovage_tests::{Answered, Call, Client, Gate, Lovage, Redis, Reply, Setup, Worker, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::size;

/// Clients that submit at once.
pub(super) const CLIENTS: usize = 4;

/// Tasks of one request; every fourth batch of a client is sent as single tasks instead.
const BATCH: usize = 50;

/// Shares of the work, of which every life of the server gets one, that are handed out in advance.
pub(super) const AHEAD: usize = 4;

/// Attempts that one kill can hit: those open at the worker (its concurrency), and as many again whose end is not stored yet.
const LIVE: usize = 200;

/// Deaths of its dispatcher that a task survives.
const DEATHS: usize = 3;

/// Tasks that are open at each of their deaths: the last attempt of each is kept apart for up to half a minute.
const DEADLY: usize = 2;

/// From the start of a server to the first call of the worker; in Redis the lease of the dead has to run out first.
pub(super) const RESUME: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_nothing_embedded() {
    survive(Lovage::dev(), size(20_000, 20_000), 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_redis() {
    let redis = Redis::start();
    // Short leases: each restart waits for the end of the lease of the process that was killed.
    let setup = Lovage::dev().redis(&redis).option("--set", "dispatcher.lease=2s");
    let setup = setup.option("--set", "dispatcher.close_after=1500ms").option("--set", "dispatcher.renew_every=300ms");
    survive(setup, size(4_000, 20_000), size(6, 20)).await;
}

async fn survive(setup: Setup, tasks: usize, kills: usize) {
    let worker = Worker::start();
    worker
        .on_call("kills.*", |call| Reply::json(&json!({"by": call.id, "attempt": call.attempt})).after(Duration::from_millis(3)));
    // Its attempt is open whenever the server dies, for nobody ever answers.
    worker.on("poison.*", Reply::json(&json!("never")).behind(&Gate::new()));
    let mut lovage = setup.start().await;
    let client = lovage.client().clone();
    client.register_worker("kills", &worker.url(), &["kills.*", "poison.*"]).await;

    // Work is handed out ahead of the kills, so that each one strikes a server that is both accepting and delivering.
    let share = tasks / (kills + AHEAD);
    let allowed = watch::Sender::new(share * AHEAD);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (client, allowed) = (client.clone(), allowed.subscribe());
        clients.spawn(async move { submit(&client, number, tasks, allowed).await });
    }

    let mut poisoned = Vec::new();
    let mut before = 0;
    for kill in 0..kills {
        if kill % DEATHS == 0 && kill + DEATHS <= kills && poisoned.len() < DEADLY {
            let id = format!("poison-{kill}");
            submit_one(&client, &id, &json!({"task": "poison.held", "id": id})).await;
            poisoned.push(id);
        }
        worker.wait_for((share * (kill + 1)).max(before + share / 3)).await;
        if let Some(id) = poisoned.last().filter(|_| kill < poisoned.len() * DEATHS) {
            let open = |calls: &[Call]| calls.iter().filter(|call| call.id == *id).count() == kill % DEATHS + 1;
            worker.wait_until("the deadly task's next attempt", Duration::from_secs(60), open).await;
        }
        spare_the_unlucky(&client).await;
        before = worker.count();
        lovage.kill9();
        allowed.send_replace(share * (kill + 1 + AHEAD));
        lovage.restart().await;
        worker.wait_until("the first call after a kill", RESUME, |calls| calls.len() > before).await;
    }
    allowed.send_replace(tasks);

    let mut ids: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), tasks, "two tasks got one id");
    let records = super::all_final(&client, Duration::from_secs(120)).await;
    let lost: Vec<&String> = ids.iter().chain(&poisoned).filter(|id| !records.contains_key(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert_eq!(records.len(), tasks + poisoned.len(), "there are tasks that nobody was told of: a retry made a second one");

    let overlaps = worker.overlaps();
    assert!(overlaps.is_empty(), "{} pairs of live attempts, such as {:?}", overlaps.len(), overlaps[0]);
    let calls = worker.by_task();
    let records = super::details(&client, records.keys()).await;
    let mut twice = 0;
    for id in &ids {
        check(id, &records[id], &calls[id]);
        twice += calls[id].iter().filter(|call| call.answered == Answered::Status(200)).count() - 1;
    }
    for id in &poisoned {
        check_poison(id, &records[id], &calls[id]);
    }
    assert!(twice <= kills * LIVE, "{twice} answers were given twice, more than were live at the kills");
    println!("{tasks} tasks, {kills} kills: {twice} answers were given twice");
}

/// Waits until no innocent task stands before its third death: it would rightly end as poison.
pub(super) async fn spare_the_unlucky(client: &Client) {
    eventually("the end of tasks that died twice", Duration::from_secs(60), async || {
        let waiting = client.list("/v1/tasks?limit=1000&state=queued&state=running&state=retrying").await;
        let innocent = |record: &&Value| record["task"] != json!("poison.held");
        waiting.iter().filter(innocent).all(|record| record["attempt"].as_u64() < Some(DEATHS as u64)).then_some(())
    })
    .await;
}

/// Submits a client's part of the tasks as far as it is allowed, alone and in batches, and repeats each request until it is
/// answered. Returns the ids.
pub(super) async fn submit(client: &Client, number: usize, tasks: usize, mut allowed: watch::Receiver<usize>) -> Vec<String> {
    let mut ids = Vec::new();
    let numbers: Vec<usize> = (0..tasks).collect();
    for (place, batch) in numbers.chunks(BATCH).enumerate().skip(number).step_by(CLIENTS) {
        allowed.wait_for(|allowed| batch.last().unwrap() < allowed).await.unwrap();
        if place / CLIENTS % 4 == 3 {
            // Repeated under a key: the server chooses the id, and must choose it once.
            for number in batch {
                ids.push(submit_one(client, &format!("key-{number}"), &json!({"task": "kills.one", "args": [number]})).await);
            }
        } else {
            ids.extend(submit_batch(client, batch).await);
        }
    }
    ids
}

async fn submit_one(client: &Client, key: &str, task: &Value) -> String {
    super::insist(client, || client.request(Method::POST, "/v1/tasks").header("idempotency-key", key).json(task)).await.id()
}

async fn submit_batch(client: &Client, numbers: &[usize]) -> Vec<String> {
    let task = |number: &usize| json!({"task": "kills.many", "id": format!("kills-{number}"), "args": [number]});
    let tasks: Vec<Value> = numbers.iter().map(task).collect();
    loop {
        let answer = super::insist(client, || client.request(Method::POST, "/v1/tasks:batch").json(&tasks)).await;
        // Over several partitions a part may be stored and another not: the same request again completes it.
        if answer.items().iter().all(|item| matches!(item["status"].as_u64(), Some(200 | 202))) {
            return answer.ids();
        }
    }
}

pub(super) fn check(id: &str, record: &Value, calls: &[Call]) {
    let story = || format!("task {id}: the worker had {}, the record is {record}", super::shown(calls));
    assert_eq!(record["state"], json!("succeeded"), "{}", story());
    super::assert_rising(calls, &story);
    let attempt = record["attempt"].as_u64().unwrap() as usize;
    // An attempt may die before its request leaves; none may come from nowhere.
    assert!(calls.iter().all(|call| call.attempt as usize <= attempt), "{}", story());
    let last = calls.last().unwrap();
    assert_eq!((last.attempt as usize, last.answered), (attempt, Answered::Status(200)), "{}", story());
    assert_eq!(record["result"], json!({"by": id, "attempt": attempt}), "{}", story());
}

fn check_poison(id: &str, record: &Value, calls: &[Call]) {
    let story = || format!("task {id}: the worker had {}, the record is {record}", super::shown(calls));
    assert_eq!((&record["state"], &record["reason"]), (&json!("failed"), &json!("poison")), "{}", story());
    assert_eq!(record["attempt"], json!(DEATHS), "{}", story());
    assert_eq!(calls.len(), DEATHS, "{}", story());
    super::assert_rising(calls, &story);
}
