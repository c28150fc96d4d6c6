//! Workers that ask for less, that come back from an outage, and that somebody pauses.

use std::time::{Duration, Instant};

use lovage_tests::{Call, Client, Reply, Worker, eventually};
use serde_json::{Value, json};

use super::site::{PATIENCE, Store};

on_both_stores!(
    a_worker_that_asks_for_less_is_slowed_alone,
    after_an_outage_a_worker_gets_few_at_first,
    a_paused_worker_gets_nothing_until_it_is_resumed,
);

const TASKS: usize = 300;

/// How many requests came in each second after the first.
fn seconds(calls: &[Call]) -> Vec<usize> {
    let first = calls.iter().map(|call| call.started_ns).min().unwrap_or_default();
    let mut rows = Vec::new();
    for call in calls {
        let second = ((call.started_ns - first) / 1_000_000_000) as usize;
        rows.resize(rows.len().max(second + 1), 0);
        rows[second] += 1;
    }
    rows
}

async fn submit(client: &Client, task: &str) -> Vec<String> {
    let retry = json!({"max_attempts": 1000, "backoff": "fixed", "min": "200ms", "jitter": "none"});
    let items: Vec<Value> = (0..TASKS).map(|_| json!({"task": task, "retry": retry})).collect();
    let answer = client.post("/v1/tasks:batch", &json!(items)).await;
    answer.items().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

async fn worker(client: &Client, name: &str) -> Value {
    client.get(&format!("/v1/workers/{name}")).await.json
}

async fn a_worker_that_asks_for_less_is_slowed_alone(store: Store) {
    let site = store.dev().await;
    let start = Instant::now();
    let sheds = Duration::from_millis(1_500);
    let answer = move |_: &Call| {
        if start.elapsed() < sheds { Reply::status(429) } else { Reply::status(204).after(Duration::from_millis(20)) }
    };
    site.worker.on_call("slow", answer).on("fine", Reply::status(204));
    site.register_worker("slow", &site.worker.url(), &["slow"]).await;
    site.register_worker("fine", &site.worker.url(), &["fine"]).await;
    let (slow, fine) = tokio::join!(submit(&site, "slow"), submit(&site, "fine"));
    let shown = eventually("an effective rate", PATIENCE, async || {
        let shown = worker(&site, "slow").await;
        shown["live"]["effective_rate"].as_f64().is_some().then_some(shown)
    });
    let shown = shown.await;
    assert!(shown["live"]["effective_rate"].as_f64().unwrap() >= 1.0, "{shown}");
    assert_eq!(shown["paused_because"], "throttled");
    for id in &fine {
        assert_eq!(site.wait_final(id).await["attempt"], 1);
    }
    let other = worker(&site, "fine").await;
    assert_eq!((&other["live"]["effective_rate"], &other["paused_until"]), (&Value::Null, &Value::Null));
    // What said "not now" is charged to nobody, and in the end everything is done.
    for id in &slow {
        assert_eq!(site.wait_final(id).await["state"], "succeeded");
    }
    let calls: Vec<Call> = site.worker.received().into_iter().filter(|call| call.task == "slow").collect();
    let rows = seconds(&calls);
    println!("requests a second: {rows:?}");
    assert!(rows[1..].windows(2).all(|pair| pair[1] <= pair[0] * 3 + 60), "gradually: {rows:?}");
    assert!(rows[0] <= 110 && rows[1] <= 20, "{rows:?}");
}

async fn after_an_outage_a_worker_gets_few_at_first(store: Store) {
    let site = store.dev().await;
    let mut other = Worker::start();
    other.on("t", Reply::status(204).after(Duration::from_millis(100)));
    let settings = json!({"url": other.url(), "tasks": ["t"], "breaker": {"failures": 2, "open_for": "500ms"}});
    site.register_worker_with("w", &settings).await;
    other.stop();
    let ids = submit(&site, "t").await;
    eventually("the breaker to open", PATIENCE, async || {
        let seen = worker(&site, "w").await;
        ["open", "half_open"].iter().any(|state| seen["live"]["breaker"] == *state).then_some(())
    })
    .await;
    other.resume();
    for id in &ids {
        assert_eq!(site.wait_final(id).await["state"], "succeeded");
    }
    let rows = seconds(&other.received());
    println!("requests a second after the outage: {rows:?}");
    // It could take a thousand. At first there are those that were on their way to it already, as many as it has slots at most.
    assert!(rows[0] <= 100 && rows[1] <= 40, "{rows:?}");
    assert_eq!(rows.iter().sum::<usize>(), TASKS);
}

async fn a_paused_worker_gets_nothing_until_it_is_resumed(store: Store) {
    let site = store.dev().await;
    let gate = site.worker.hold("t", Reply::status(204));
    site.serves(&["t"]).await;
    let name =
        site.get("/v1/workers").await.items().iter().map(|worker| worker["name"].clone()).find(|name| name != "demo").unwrap();
    let verb = |verb: &str| format!("/v1/workers/{}/{verb}", name.as_str().unwrap());
    let open = site.submit_plain("t").await;
    site.worker.wait_for(1).await;
    assert_eq!(site.post(&verb("drain"), &json!({})).await.json["paused_because"], "draining");
    site.in_force().await;
    let waits = site.submit_plain("t").await;
    let state = async || worker(&site, name.as_str().unwrap()).await["state"].clone();
    eventually("draining", PATIENCE, async || (state().await == "draining").then_some(())).await;
    gate.open();
    assert_eq!(site.wait_final(&open).await["attempt"], 1);
    eventually("drained", PATIENCE, async || (state().await == "drained").then_some(())).await;
    assert_eq!(site.task(&waits).await["state"], "queued");
    let said = site.get(&format!("/v1/tasks/{waits}/explain")).await.json;
    assert!(said["causes"].to_string().contains("paused"), "{said}");
    assert_eq!(site.post(&verb("resume"), &json!({})).await.json["state"], "active");
    assert_eq!(site.wait_final(&waits).await["state"], "succeeded");
}
