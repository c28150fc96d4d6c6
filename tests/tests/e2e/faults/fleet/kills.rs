//! `kill -9` of dispatchers in turn: nothing is lost, no task runs twice at once, and the other one goes on.

use std::time::{Duration, Instant};

use lovage_tests::{Answered, Client, Fleet, Redis, Reply, Worker};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::kills::{AHEAD, CLIENTS, RESUME, check, spare_the_unlucky, submit};
use super::super::{insist, size};
use super::PATIENCE;

/// Tasks that show after a kill that work goes on in every partition.
const PROBES: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dispatchers_killed_in_turn_lose_nothing() {
    let (tasks, kills) = (size(3_000, 100_000), size(5, 50));
    let redis = Redis::start();
    let mut fleet = super::leases(Fleet::of(2, 2)).start(&redis).await;
    let worker = Worker::start();
    let reply = |call: &lovage_tests::Call| Reply::json(&json!({"by": call.id, "attempt": call.attempt}));
    worker.on_call("kills.*", move |call| reply(call).after(Duration::from_millis(100)));
    worker.on("probe", Reply::status(204));
    let client = fleet.client().clone();
    client.register_worker("kills", &worker.url(), &["kills.*", "probe"]).await;

    // Work is handed out ahead of the kills, so that each one strikes while tasks come in and run.
    let share = tasks / (kills + AHEAD);
    let allowed = watch::Sender::new(share * AHEAD);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (client, allowed) = (fleet.gateways[number % 2].client().clone(), allowed.subscribe());
        clients.spawn(async move { submit(&client, number, tasks, allowed).await });
    }

    let (mut live, mut longest) = (0, Duration::ZERO);
    super::all_have_shares(&fleet).await;
    for kill in 0..kills {
        let started = |calls: &[lovage_tests::Call]| calls.iter().filter(|call| call.task != "probe").count();
        worker.wait_until("the next share of the work", PATIENCE, |calls| started(calls) >= share * (kill + 1)).await;
        spare_the_unlucky(&client).await;
        allowed.send_replace(share * (kill + 1 + AHEAD));
        live += kill_one(&mut fleet, kill % 2, &client).await;
        longest = longest.max(work_goes_on(&fleet.clients(), kill).await);
        fleet.dispatchers[kill % 2].restart().await;
    }
    allowed.send_replace(tasks);

    let mut ids: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), tasks, "two tasks got one id");
    let records = super::super::all_final(&client, Duration::from_secs(120)).await;
    let lost: Vec<&String> = ids.iter().filter(|id| !records.contains_key(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert_eq!(records.len(), tasks + kills * PROBES, "there are tasks that nobody was told of");
    let overlaps = worker.overlaps();
    assert!(overlaps.is_empty(), "{} pairs of live attempts, such as {:?}", overlaps.len(), overlaps[0]);
    let calls = worker.by_task();
    let records = super::super::details(&client, ids.iter()).await;
    let mut twice = 0;
    for id in &ids {
        check(id, &records[id], &calls[id]);
        twice += calls[id].iter().filter(|call| call.answered == Answered::Status(200)).count() - 1;
    }
    println!(
        "{tasks} tasks, {kills} kills: {live} attempts live at them, {twice} answers given twice, work went on after {longest:?}"
    );
    assert!(live > kills, "the kills struck at idle dispatchers");
    assert!(twice <= live);
}

/// Kills a dispatcher at an instant at which it is known how many attempts are live: both are halted for the count.
async fn kill_one(fleet: &mut Fleet, number: usize, client: &Client) -> usize {
    fleet.dispatchers.iter().for_each(lovage_tests::Lovage::pause);
    let live = client.list("/v1/tasks?limit=1000&state=running").await.len();
    fleet.dispatchers[number].kill9();
    fleet.dispatchers[1 - number].unpause();
    live
}

/// How long it takes after a kill until tasks of all partitions have run.
async fn work_goes_on(gateways: &[Client], kill: usize) -> Duration {
    let killed = Instant::now();
    let probe = |number: usize| json!({"task": "probe", "id": format!("probe-{kill}-{number}")});
    let probes: Vec<Value> = (0..PROBES).map(probe).collect();
    let answer = insist(&gateways[0], || gateways[0].request(Method::POST, "/v1/tasks:batch").json(&probes)).await;
    let ids = answer.ids();
    assert_eq!(ids.len(), PROBES, "{answer:?}");
    gateways[1].wait_all_final(&ids, RESUME).await;
    let passed = killed.elapsed();
    assert!(passed <= RESUME, "work went on {passed:?} after kill {kill}");
    passed
}
