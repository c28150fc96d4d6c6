//! Workers that cannot be called and take their tasks themselves.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use lovage_tests::Reply;
use serde_json::{Value, json};

use crate::contract::site::{Site, Store};

on_both_stores!(
    a_lease_that_runs_out_is_a_loss,
    a_limit_that_only_tasks_tell_of_is_free_as_soon_as_one_ends,
    a_worker_that_pulls_is_never_called,
    a_task_for_a_worker_that_pulls_is_explained,
    pollers_share_the_work,
    reports_renew_and_end_what_was_taken,
    waits_for_tasks_end_when_the_server_stops,
);

async fn site(store: Store) -> Site {
    let site = store.dev().await;
    let worker = site.register_worker_with("p", &json!({"pull": true, "tasks": ["t"]})).await;
    assert_eq!((&worker["pull"], &worker["urls"]), (&json!(true), &json!([])));
    site
}

async fn lease(site: &Site, wish: &Value) -> Vec<Value> {
    let answer = site.post("/v1/leases", wish).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.items()
}

async fn a_lease_that_runs_out_is_a_loss(store: Store) {
    let site = site(store).await;
    let id = site.submit(&json!({"task": "t", "args": [1]})).await;
    let first = lease(&site, &json!({"worker": "p", "wait": "20s", "lease": "400ms"})).await;
    assert_eq!((&first[0]["id"], &first[0]["attempt"], &first[0]["args"]), (&json!(id), &json!(1), &json!([1])));
    // The next one waits for it, and is woken when the first has been silent for too long.
    let second = lease(&site, &json!({"worker": "p", "wait": "20s"})).await;
    assert_eq!((&second[0]["id"], &second[0]["attempt"]), (&json!(id), &json!(2)));
    assert_ne!(first[0]["attempt_url"], second[0]["attempt_url"]);
    let lost = &site.attempts(&id).await[0];
    assert_eq!(
        (&lost["outcome"], &lost["error"]["type"], &lost["worker"]),
        (&json!("lost"), &json!("LeaseExpired"), &json!("p"))
    );
}

async fn a_task_for_a_worker_that_pulls_is_explained(store: Store) {
    let site = site(store).await;
    let id = site.submit_plain("t").await;
    let path = format!("/v1/tasks/{id}/explain");
    let said = site.get(&path).await.json;
    assert_eq!((&said["reason"], &said["causes"], &said["worker"]["name"]), (&json!("ready"), &json!([]), &json!("p")));
    assert!(said["text"].as_str().unwrap().contains("takes its tasks itself"), "{said}");
    assert_eq!(lease(&site, &json!({"worker": "p", "wait": "20s"})).await.len(), 1);
    let said = site.get(&path).await.json;
    assert_eq!((&said["reason"], &said["causes"][0]["code"]), (&json!("accepted"), &json!("accepted")));
    assert_eq!(
        said["worker"],
        json!({"name": "p", "instances": null, "open": null, "slots": null, "breaker": null, "paused_until": null})
    );
}

async fn a_limit_that_only_tasks_tell_of_is_free_as_soon_as_one_ends(store: Store) {
    let site = site(store).await;
    for _ in 0..4 {
        site.submit(&json!({"task": "t", "limits": [{"key": "k", "concurrency": 1}]})).await;
    }
    for _ in 0..4 {
        // By itself a slot comes back only when what holds it has not been told of for longer than this.
        let taken = lease(&site, &json!({"worker": "p", "max": 4, "wait": "10s"})).await;
        assert_eq!(taken.len(), 1, "{taken:?}");
        let url = taken[0]["attempt_url"].as_str().unwrap();
        let path = url.strip_prefix(site.url()).expect("it leads to this server");
        assert_eq!(site.post(&format!("{path}/complete"), &json!(1)).await.status, 200);
    }
}

async fn a_worker_that_pulls_is_never_called(store: Store) {
    let site = site(store).await;
    // One that was called before, with an instance of its own.
    site.worker.on("*", Reply::json(&json!(1)));
    site.register_worker_with("was", &json!({"tasks": ["u"]})).await;
    let instance = json!({"url": site.worker.url(), "ttl": "1h"});
    assert_eq!(site.put("/v1/workers/was/instances/i", &instance).await.status, 201);
    let first = site.submit_plain("u").await;
    assert_eq!(site.wait_final(&first).await["state"], "succeeded");
    assert_eq!(site.patch("/v1/workers/was", &json!({"pull": true})).await.status, 200);
    let item = lease(&site, &json!({"worker": "was", "wait": "100ms"})).await;
    assert_eq!(item, [] as [Value; 0]);
    site.worker.forget();
    let (u, t) = (site.submit_plain("u").await, site.submit_plain("t").await);
    // What was submitted after them has been pushed: they were passed over.
    site.serves(&["v"]).await;
    let v = site.submit_plain("v").await;
    assert_eq!(site.wait_final(&v).await["state"], "succeeded");
    for (worker, id) in [("was", u), ("p", t)] {
        assert_eq!(site.task(&id).await["state"], "queued");
        let items = lease(&site, &json!({"worker": worker, "wait": "20s"})).await;
        assert_eq!(items[0]["id"], id);
    }
    assert_eq!(site.worker.received().len(), 1);
}

async fn pollers_share_the_work(store: Store) {
    let site = site(store).await;
    let submitted = async {
        let signatures: Vec<Value> = (0..200).map(|n| json!({"task": "t", "args": [n]})).collect();
        site.submit_batch(&signatures).await.ids()
    };
    let wish = json!({"worker": "p", "wait": "3s", "max": 7});
    let poller = async || {
        let mut mine = Vec::new();
        loop {
            let items = lease(&site, &wish).await;
            if items.is_empty() {
                return mine;
            }
            mine.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        }
    };
    let pollers = futures_util::future::join_all((0..6).map(|_| poller()));
    let (ids, taken) = tokio::join!(submitted, pollers);
    let taken: Vec<String> = taken.into_iter().flatten().collect();
    assert_eq!(taken.len(), ids.len(), "none twice");
    assert_eq!(taken.into_iter().collect::<HashSet<_>>(), ids.into_iter().collect());
}

async fn reports_renew_and_end_what_was_taken(store: Store) {
    let site = site(store).await;
    let id = site.submit(&json!({"task": "t", "args": [20, 22]})).await;
    let item = lease(&site, &json!({"worker": "p", "wait": "20s", "lease": "30s"})).await.remove(0);
    // The URL is all that the worker knows.
    let url = item["attempt_url"].as_str().unwrap();
    let path = url.strip_prefix(site.url()).expect("it leads to this server").to_owned();
    let told = site.post(&format!("{path}/heartbeat"), &json!({"lease": "10m"})).await;
    assert_eq!((told.status, &told.json["continue"]), (200, &json!(true)));
    assert!(told.json["deadline"].as_str() > item["deadline"].as_str(), "{told:?} after {item}");
    assert_eq!(site.post(&format!("{path}/complete"), &json!({"sum": 42})).await.status, 200);
    let record = site.wait_final(&id).await;
    let seen = (&record["state"], &record["result"], &record["attempt"], &record["worker"]);
    assert_eq!(seen, (&json!("succeeded"), &json!({"sum": 42}), &json!(1), &json!("p")));
    assert_eq!(lease(&site, &json!({"worker": "p"})).await, [] as [Value; 0]);
}

async fn waits_for_tasks_end_when_the_server_stops(store: Store) {
    let mut site = site(store).await;
    let client = site.lovage.client().clone();
    let waiting = tokio::spawn(async move { client.post("/v1/leases", &json!({"worker": "p", "wait": "50s"})).await });
    let waits = async || {
        let metrics = site.get("/metrics").await;
        String::from_utf8_lossy(&metrics.body).lines().any(|line| line == "lovage_waiters 1").then_some(())
    };
    lovage_tests::eventually("a waiter", crate::contract::site::PATIENCE, waits).await;
    let start = Instant::now();
    assert!(site.lovage.stop().await.success());
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status, &answer.json), (200, &json!({"items": []})));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
