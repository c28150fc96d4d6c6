//! Requests that meet: a cancel and a start, a submit and itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use lovage_tests::{Client, Lovage, Redis, Reply, Setup, Worker};
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use super::size;

/// Cancels under way at once.
const AT_ONCE: usize = 16;

/// Clients that use the same keys, and the keys.
const CLIENTS: usize = 16;
const KEYS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_after_a_confirmed_cancel_embedded() {
    cancel_while_it_starts(Lovage::dev(), 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_after_a_confirmed_cancel_redis() {
    let redis = Redis::start();
    cancel_while_it_starts(Lovage::dev().redis(&redis), size(300, 1_000)).await;
}

async fn cancel_while_it_starts(setup: Setup, tasks: usize) {
    let worker = Worker::start();
    worker.on("race.*", Reply::status(204));
    let lovage = setup.start().await;
    let client = lovage.client();
    client.register_worker("race", &worker.url(), &["race.*"]).await;
    let cancel = async |number: usize| {
        // Due at about the instant at which the cancel arrives; a little earlier or later each time.
        let delay = format!("{}ms", number % 8);
        let id = client.submit(&json!({"task": "race.run", "delay": delay})).await;
        let answer = client.send(client.request(Method::POST, &format!("/v1/tasks/{id}/cancel"))).await;
        (id, answer)
    };
    let answers: Vec<_> = stream::iter(0..tasks).map(cancel).buffer_unordered(AT_ONCE).collect().await;
    let records = super::all_final(client, Duration::from_secs(60)).await;
    let calls = worker.by_task();
    let mut outcomes: HashMap<u16, usize> = HashMap::new();
    for (id, answer) in answers {
        let (state, started) = (&records[&id]["state"], calls.contains_key(&id));
        match answer.status {
            200 => {
                assert_eq!((&answer.json["state"], state), (&json!("canceled"), &json!("canceled")), "{answer:?}");
                assert!(!started, "task {id} started although its cancel was confirmed");
            }
            // It was running: it ended as the worker said, or was cut.
            202 => assert!(matches!(state.as_str(), Some("succeeded" | "canceled")), "{}", records[&id]),
            409 => assert_eq!((answer.code(), state), ("wrong_state", &json!("succeeded"))),
            _ => panic!("{answer:?}"),
        }
        *outcomes.entry(answer.status).or_default() += 1;
    }
    println!("{tasks} cancels, answers by status: {outcomes:?}");
    assert!(outcomes.len() > 1, "there was no race: {outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_task_embedded() {
    let lovage = Lovage::dev().start().await;
    one_task_per_key(&[lovage.client()]).await;
}

/// Two servers on one Redis: nothing that a process remembers could tell the repetitions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_task_redis() {
    let redis = Redis::start();
    let one = Lovage::dev().redis(&redis).start().await;
    let other = Lovage::dev().redis(&redis).start().await;
    one_task_per_key(&[one.client(), other.client()]).await;
}

async fn one_task_per_key(servers: &[&Client]) {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Arc::new(servers[number % servers.len()].clone());
        clients.spawn(async move {
            let mut ids = Vec::new();
            // All begin at about the same key and then drift apart.
            for key in 0..KEYS {
                let request = client.request(Method::POST, "/v1/tasks").header("idempotency-key", format!("key-{key}"));
                let answer = client.send(request.json(&json!({"task": "nobody.serves", "args": [key]}))).await;
                assert!(matches!(answer.status, 200 | 202), "{answer:?}");
                assert_eq!(answer.status == 200, answer.header("idempotency-replayed") == "true", "{answer:?}");
                ids.push((key, answer.status == 202, answer.id()));
            }
            ids
        });
    }
    let answers: Vec<(usize, bool, String)> = clients.join_all().await.into_iter().flatten().collect();
    let ids: HashSet<(usize, &String)> = answers.iter().map(|(key, _, id)| (*key, id)).collect();
    assert_eq!(ids.len(), KEYS, "a key made several tasks");
    assert_eq!(answers.iter().filter(|(_, new, _)| *new).count(), KEYS, "a key was new several times");
    assert_eq!(super::records(servers[0]).await.len(), KEYS);

    let request = servers[0].request(Method::POST, "/v1/tasks").header("idempotency-key", "key-1");
    let other = servers[0].send(request.json(&json!({"task": "nobody.serves", "args": ["other"]}))).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_mismatch"));
}
