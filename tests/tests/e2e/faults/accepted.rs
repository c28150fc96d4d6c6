//! `kill -9` while workers have accepted tasks and report to their attempt URLs: each task ends once, with the report that was
//! taken, and the tokens of attempts that were given up are refused.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage_tests::{Call, Client, Lovage, Redis, Reply, Setup, Worker};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::size;

const KILLS: usize = 3;

/// Reports under way at once.
const REPORTERS: usize = 16;

/// Of so many tasks one has a worker that forgets it the first time.
const FORGOTTEN: usize = 10;

/// How long the others may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_tasks_survive_kills_embedded() {
    survive(Lovage::dev(), size(400, 1_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_tasks_survive_kills_redis() {
    let redis = Redis::start();
    // Short leases: each restart waits for the end of the lease of the process that was killed.
    let setup = Lovage::dev().redis(&redis).option("--set", "dispatcher.lease=2s");
    let setup = setup.option("--set", "dispatcher.close_after=1500ms").option("--set", "dispatcher.renew_every=300ms");
    survive(setup, size(400, 1_000)).await;
}

/// An attempt that a worker has accepted.
#[derive(Clone)]
struct Accepted {
    id: String,
    attempt: u32,
    /// Path of the attempt URL.
    path: String,
}

impl Accepted {
    fn of(call: &Call, server: &str) -> Self {
        let path = call.header("lovage-attempt-url").strip_prefix(server).expect("the URL is that of the server");
        Self { id: call.id.clone(), attempt: call.attempt, path: path.to_owned() }
    }

    fn result(&self) -> Value {
        json!({"by": self.id, "attempt": self.attempt})
    }

    /// Reports the end until there is an answer. Whether it was taken; else the attempt was given up.
    async fn complete(&self, client: &Client) -> bool {
        let start = Instant::now();
        loop {
            let request = client.request(Method::POST, &format!("{}/complete", self.path)).json(&self.result());
            if let Ok(answer) = client.try_send(request).await {
                match (answer.status, answer.code()) {
                    (200, _) => return true,
                    (410, "attempt_superseded") => return false,
                    _ => super::assert_honest_503(&answer),
                }
            }
            assert!(start.elapsed() < PATIENCE, "no answer to the report of {}", self.id);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The callbacks come to the same worker.
fn is_task(call: &Call) -> bool {
    call.task == "accepted.one"
}

fn is_forgotten(call: &Call) -> bool {
    let number: usize = call.id.rsplit('-').next().unwrap().parse().unwrap();
    call.attempt == 1 && number.is_multiple_of(FORGOTTEN)
}

async fn survive(setup: Setup, tasks: usize) {
    let worker = Arc::new(Worker::start());
    worker.on_call("accepted.*", |call| {
        Reply::accepted(if is_forgotten(call) { "2s" } else { "10m" }).after(Duration::from_millis(5))
    });
    worker.on("/ended", Reply::status(204));
    let mut lovage = setup.start().await;
    let client = lovage.client().clone();
    client.register_worker("accepts", &worker.url(), &["accepted.*"]).await;
    let done = watch::Sender::new(0);
    let reporting = tokio::spawn(report_all(worker.clone(), client.clone(), done.clone(), tasks));

    // Each life of the server gets a share and dies when half of it is called, or reported: the rest is waiting, called and not
    // answered, or accepted.
    let share = tasks.div_ceil(KILLS + 1);
    let numbers: Vec<usize> = (0..tasks).collect();
    let ended = worker.url_of("/ended");
    for (life, share) in numbers.chunks(share).enumerate() {
        let task =
            |n: &usize| json!({"task": "accepted.one", "id": format!("accepted-{n}"), "callbacks": {"on_terminal": ended}});
        let batch: Vec<Value> = share.iter().map(task).collect();
        let answer = super::insist(&client, || client.request(Method::POST, "/v1/tasks:batch").json(&batch)).await;
        assert_eq!(answer.ids().len(), share.len());
        if life == KILLS {
            break;
        }
        if life.is_multiple_of(2) {
            let called = |calls: &[Call]| calls.iter().filter(|call| is_task(call)).count() >= share[0] + share.len() / 2;
            worker.wait_until("half of the calls", PATIENCE, called).await;
        } else {
            let half = share[0] * (FORGOTTEN - 1) / FORGOTTEN + share.len() / 2;
            let mut reached = done.subscribe();
            tokio::time::timeout(PATIENCE, reached.wait_for(|done| *done >= half)).await.expect("the work goes on").unwrap();
        }
        lovage.kill9();
        lovage.restart().await;
    }
    let (taken, refused) = tokio::time::timeout(PATIENCE, reporting).await.expect("all reports are answered").unwrap();
    let records = super::all_final(&client, PATIENCE).await;

    // Every end was told once: its callback is made in the step that ends the task.
    let callbacks = records.values().filter(|record| record["callback"].is_string()).count();
    assert_eq!((callbacks, records.len()), (tasks, 2 * tasks));
    let details = super::details(&client, taken.keys()).await;
    assert_eq!(details.len(), tasks);
    for (id, by) in &taken {
        let record = &details[id];
        let told = (&record["state"], &record["attempt"], &record["result"]);
        assert_eq!(told, (&json!("succeeded"), &json!(by.attempt), &by.result()), "{record}");
        let attempts = client.list(&format!("/v1/tasks/{id}/attempts")).await;
        assert_eq!(attempts.iter().filter(|attempt| attempt["outcome"] == "succeeded").count(), 1, "{attempts:?}");
        assert!(by.complete(&client).await, "the report of {id} that was taken is not known again");
    }
    // Whatever the worker was called for besides is over, reported before or not.
    let mut superseded = 0;
    for call in worker.received().iter().filter(|call| is_task(call)) {
        if taken[&call.id].attempt != call.attempt {
            assert!(!Accepted::of(call, lovage.url()).complete(&client).await, "attempt {} of {}", call.attempt, call.id);
            superseded += 1;
        }
    }
    // A kill may spare one of those that would be forgotten: its attempt ends before it is called.
    assert!(superseded >= tasks / FORGOTTEN / 2, "only {superseded} attempts were superseded");
    println!("{tasks} tasks, {KILLS} kills: {superseded} superseded tokens refused, {refused} of them while the tasks ran");
}

/// Reports the end of every attempt that the worker accepts and does not forget, until so many tasks have ended. The reports
/// that were taken, by task, and the number of those that were refused.
async fn report_all(
    worker: Arc<Worker>,
    client: Client,
    done: watch::Sender<usize>,
    tasks: usize,
) -> (HashMap<String, Accepted>, usize) {
    let (mut taken, mut refused) = (HashMap::new(), 0);
    let mut known: HashSet<(String, u32)> = HashSet::new();
    let mut reports: JoinSet<(Accepted, bool)> = JoinSet::new();
    let room = Arc::new(Semaphore::new(REPORTERS));
    while taken.len() < tasks {
        for call in worker.received().iter().filter(|call| is_task(call) && !is_forgotten(call)) {
            if known.insert((call.id.clone(), call.attempt)) {
                let (accepted, client, room) = (Accepted::of(call, client.url()), client.clone(), room.clone());
                reports.spawn(async move {
                    let _room = room.acquire().await.unwrap();
                    let is_taken = accepted.complete(&client).await;
                    (accepted, is_taken)
                });
            }
        }
        while let Some(ended) = reports.try_join_next() {
            let (accepted, is_taken) = ended.unwrap();
            if !is_taken {
                refused += 1;
            } else if let Some(before) = taken.insert(accepted.id.clone(), accepted) {
                panic!("two attempts of {} were taken", before.id);
            }
        }
        done.send_replace(taken.len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while let Some(ended) = reports.join_next().await {
        let (accepted, is_taken) = ended.unwrap();
        assert!(!is_taken, "two attempts of {} were taken", accepted.id);
        refused += 1;
    }
    (taken, refused)
}
