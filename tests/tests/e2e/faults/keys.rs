//! Many clients that want the same keys at once, while the server is killed: one task for each key.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lovage_tests::{Client, Lovage, Redis, Setup};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::size;

/// Clients that use the same keys, and the keys.
const CLIENTS: usize = 16;
const KEYS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unique_key_makes_one_task_embedded() {
    let lovage = Lovage::dev().start().await;
    one_task_per_key(&[lovage.client()]).await;
}

/// Two servers on one Redis in 16 partitions: neither knows what the other stores.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unique_key_makes_one_task_redis() {
    let redis = Redis::start();
    let one = Lovage::dev().redis(&redis).start().await;
    let other = Lovage::dev().redis(&redis).start().await;
    one_task_per_key(&[one.client(), other.client()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_make_no_second_task_embedded() {
    one_task_per_key_in_spite_of_kills(Lovage::dev()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_make_no_second_task_redis() {
    let redis = Redis::start();
    one_task_per_key_in_spite_of_kills(Lovage::dev().redis(&redis)).await;
}

/// What one of many clients submits for a key. A third of the keys each: ids that the server makes, an id for each client, the
/// same id from all of them, which in several partitions mostly live elsewhere than the key.
fn signature(client: usize, key: usize) -> Value {
    let unique = json!({"key": format!("key-{key}"), "scope": "ttl", "ttl": "1h"});
    match key % 3 {
        0 => json!({"task": "nobody.serves", "unique": unique, "args": [client]}),
        1 => json!({"task": "nobody.serves", "unique": unique, "id": format!("mine-{client}-{key}")}),
        _ => json!({"task": "nobody.serves", "unique": unique, "id": format!("ours-{key}")}),
    }
}

async fn submit_all(client: &Client, number: usize, done: &AtomicUsize) -> Vec<(usize, String)> {
    let mut ids = Vec::new();
    for key in 0..KEYS {
        let body = signature(number, key);
        let answer = super::insist(client, || client.request(Method::POST, "/v1/tasks").json(&body)).await;
        ids.push((key, answer.id()));
        done.fetch_add(1, Ordering::Relaxed);
    }
    ids
}

async fn one_task_per_key(servers: &[&Client]) {
    let (mut clients, done) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..CLIENTS {
        let (client, done) = (servers[number % servers.len()].clone(), done.clone());
        clients.spawn(async move { submit_all(&client, number, &done).await });
    }
    check(servers[0], clients.join_all().await).await;
}

async fn one_task_per_key_in_spite_of_kills(setup: Setup) {
    let kills = size(3, 10);
    let mut lovage = setup.start().await;
    let (mut clients, done) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..CLIENTS {
        let (client, done) = (lovage.client().clone(), done.clone());
        clients.spawn(async move { submit_all(&client, number, &done).await });
    }
    for kill in 1..=kills {
        let so_many = CLIENTS * KEYS * kill / (kills + 1);
        lovage_tests::eventually("the clients to go on", super::PATIENCE, async || {
            (done.load(Ordering::Relaxed) >= so_many).then_some(())
        })
        .await;
        lovage.kill9();
        lovage.restart().await;
    }
    check(lovage.client(), clients.join_all().await).await;
}

/// All clients were told of the same task for a key, and there is no other.
async fn check(client: &Client, answers: Vec<Vec<(usize, String)>>) {
    let mut ids: HashMap<usize, HashSet<String>> = HashMap::new();
    for (key, id) in answers.into_iter().flatten() {
        ids.entry(key).or_default().insert(id);
    }
    let torn: Vec<_> = ids.iter().filter(|(_, ids)| ids.len() != 1).collect();
    assert!(torn.is_empty(), "keys with several tasks: {torn:?}");
    let told: HashSet<String> = ids.into_values().flatten().collect();
    let stored: HashSet<String> = super::records(client).await.into_keys().collect();
    assert_eq!((told.len(), stored.len()), (KEYS, KEYS), "there are tasks that nobody was told of");
    for id in told {
        assert_eq!(client.task(&id).await["state"], "queued", "{id}");
    }
}
