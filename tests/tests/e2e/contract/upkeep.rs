//! Whose turn it is among the instances of a worker, which of them are well, and how they start anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lovage_tests::{Call, Reply, Worker, eventually};
use serde_json::{Value, json};

use super::site::{PATIENCE, Site, Store};

on_both_stores!(
    round_robin_is_even,
    a_broadcast_reaches_all_once,
    an_unhealthy_instance_leaves_and_returns,
    pings_and_tests_tell_the_status_alone,
    an_instance_starts_anew_when_it_is_asked_to,
    an_instance_starts_anew_after_its_tasks,
    an_instance_starts_anew_when_a_heartbeat_says_what_memory_it_has,
);

fn several<const N: usize>() -> ([Worker; N], Vec<String>) {
    let workers = [(); N].map(|()| Worker::start());
    let urls = workers.iter().map(Worker::url).collect();
    (workers, urls)
}

/// Calls that delivered a task.
fn tasks(worker: &Worker) -> Vec<Call> {
    worker.received().into_iter().filter(|call| !call.task.is_empty()).collect()
}

async fn round_robin_is_even(store: Store) {
    let site = store.dev().await;
    let (workers, urls) = several::<3>();
    for worker in &workers {
        worker.on("work", Reply::status(204));
    }
    site.register_worker_with("w", &json!({"urls": urls, "tasks": ["work"], "balance": "round_robin"})).await;
    let ids = site.submit_batch(&vec![json!({"task": "work"}); 31]).await.ids();
    site.wait_all_final(&ids, PATIENCE).await;
    let mut counts = workers.each_ref().map(Worker::count);
    counts.sort_unstable();
    assert_eq!(counts, [10, 10, 11]);
}

async fn a_broadcast_reaches_all_once(store: Store) {
    let site = store.dev().await;
    let (workers, urls) = several::<3>();
    for (n, worker) in workers.iter().enumerate() {
        worker.on("work", Reply::json(&json!({"n": n})));
    }
    workers[1].on("work", [Reply::status(500), Reply::json(&json!({"n": 1}))]);
    let settings = json!({"urls": urls, "tasks": ["work"], "balance": "broadcast"});
    site.register_worker_with("w", &settings).await;
    let id = site.submit(&json!({"task": "work", "retry": super::site::quick_retry(3)})).await;
    let record = site.wait_final(&id).await;
    let listed: Vec<Value> =
        urls.iter().enumerate().map(|(n, url)| json!({"instance": url, "status": 200, "result": {"n": n}})).collect();
    // One failed, so all were called again.
    assert_eq!((&record["state"], &record["attempt"], &record["result"]), (&json!("succeeded"), &json!(2), &json!(listed)));
    for worker in &workers {
        let attempts: Vec<u32> = worker.received_for(&id).iter().map(|call| call.attempt).collect();
        assert_eq!(attempts, [1, 2]);
    }
    let first = &site.attempts(&id).await[0];
    assert_eq!((&first["status"], &first["instance"]), (&json!(500), &json!(urls[1])));
}

/// The state of each instance as the server sees it.
async fn states(site: &Site) -> Vec<String> {
    let worker = site.get("/v1/workers/w").await.json;
    let instances = worker["instances"].as_array().cloned().unwrap_or_default();
    instances.iter().map(|instance| instance["state"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn until_states(site: &Site, wanted: [&str; 2]) {
    eventually(&format!("the instances to be {wanted:?}"), PATIENCE, async || (states(site).await == wanted).then_some(())).await;
}

async fn an_unhealthy_instance_leaves_and_returns(store: Store) {
    let site = store.dev().await;
    let (workers, urls) = several::<2>();
    let well = Arc::new(AtomicBool::new(false));
    for (n, worker) in workers.iter().enumerate() {
        let well = Arc::clone(&well);
        worker.on("work", Reply::status(204));
        worker.on_call("/up", move |_| Reply::status(if n == 0 || well.load(Ordering::Relaxed) { 200 } else { 503 }));
    }
    let health = json!({"path": "/up", "interval": "1s"});
    let settings = json!({"urls": urls, "tasks": ["work"], "balance": "round_robin", "health": health});
    site.register_worker_with("w", &settings).await;
    until_states(&site, ["ready", "unhealthy"]).await;
    // Also the only one of a worker: what is for it waits, and says why.
    site.register_worker_with("alone", &json!({"url": urls[1], "tasks": ["alone"], "health": health})).await;
    eventually("the other worker to be unhealthy", PATIENCE, async || {
        let worker = site.get("/v1/workers/alone").await.json;
        (worker["instances"][0]["state"] == "unhealthy").then_some(())
    })
    .await;
    workers[1].on("alone", Reply::status(204));
    let alone = site.submit_plain("alone").await;
    let explained = site.get(&format!("/v1/tasks/{alone}/explain")).await.json;
    assert_eq!((&explained["state"], &explained["reason"]), (&json!("queued"), &json!("unhealthy")), "{explained}");
    let before = [tasks(&workers[0]).len(), tasks(&workers[1]).len()];
    let ids = site.submit_batch(&vec![json!({"task": "work"}); 10]).await.ids();
    site.wait_all_final(&ids, PATIENCE).await;
    assert_eq!((tasks(&workers[0]).len(), tasks(&workers[1]).len()), (before[0] + 10, before[1]));
    well.store(true, Ordering::Relaxed);
    until_states(&site, ["ready", "ready"]).await;
    let ids = site.submit_batch(&vec![json!({"task": "work"}); 10]).await.ids();
    site.wait_all_final(&ids, PATIENCE).await;
    assert!(tasks(&workers[1]).len() >= before[1] + 5);
    assert_eq!(site.wait_final(&alone).await["state"], "succeeded");
}

async fn pings_and_tests_tell_the_status_alone(store: Store) {
    let site = store.dev().await;
    site.worker.on("/", Reply::json(&json!("a secret"))).on("lovage.test", Reply::bytes("text/plain", "a secret"));
    let gone = {
        let mut gone = Worker::start();
        gone.stop();
        gone.url()
    };
    let settings = json!({"urls": [site.worker.url(), gone], "tasks": ["work"]});
    let secret = site.register_worker_with("w", &settings).await["signing"].as_str().unwrap().to_owned();
    for verb in ["ping", "test"] {
        let answer = eventually("the instances to be known", PATIENCE, async || {
            let answer = site.post(&format!("/v1/workers/w/{verb}"), &json!({})).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            (answer.items().len() == 2).then_some(answer)
        })
        .await;
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"), "{answer:?}");
        let items = answer.items();
        assert_eq!(
            (&items[0]["id"], &items[0]["status"], &items[0]["error"]),
            (&json!(site.worker.url()), &json!(200), &Value::Null)
        );
        assert_eq!((&items[1]["status"], &items[1]["error"]), (&Value::Null, &json!("ConnectionRefused")));
        assert!(items[0]["latency_ms"].is_u64());
    }
    let one = site.post("/v1/workers/w/test", &json!({"instance": site.worker.url()})).await;
    assert_eq!(one.items().len(), 1);
    let calls = site.worker.received();
    assert!(calls.iter().any(|call| call.method == "GET" && call.path == "/"));
    let tests: Vec<&Call> = calls.iter().filter(|call| call.task == "lovage.test").collect();
    assert!(!tests.is_empty() && tests.iter().all(|call| call.is_signed_with(&secret)), "{tests:?}");
    // It is no task.
    assert_eq!(site.get(&format!("/v1/tasks/{}", tests[0].id)).await.status, 404);
    assert_eq!(site.post("/v1/workers/w/ping", &json!({"instance": "nobody"})).await.status, 422);
}

async fn an_instance_starts_anew_when_it_is_asked_to(store: Store) {
    let site = store.dev().await;
    let (workers, urls) = several::<2>();
    let gate = workers[0].hold("work", Reply::status(204));
    workers[1].on("work", Reply::status(204));
    site.worker.on("/control", Reply::status(204));
    let settings =
        json!({"urls": urls, "tasks": ["work"], "balance": "round_robin", "control_url": site.worker.url_of("/control")});
    let secret = site.register_worker_with("w", &settings).await["signing"].as_str().unwrap().to_owned();
    let ids = site.submit_batch(&vec![json!({"task": "work"}); 2]).await.ids();
    workers[0].wait_for(1).await;
    let asked = site.post("/v1/workers/w/recycle", &json!({"instance": urls[0]})).await;
    assert_eq!((asked.status, &asked.json), (202, &json!({"instances": [urls[0]]})));
    until_states(&site, ["recycling", "ready"]).await;
    // It gets nothing new and ends what it has.
    let more = site.submit_batch(&vec![json!({"task": "work"}); 6]).await.ids();
    site.wait_all_final(&more, PATIENCE).await;
    assert_eq!((workers[0].count(), site.worker.count()), (1, 0));
    gate.open();
    let post = site.worker.wait_for(1).await.remove(0);
    site.wait_all_final(&ids, PATIENCE).await;
    assert!(post.is_signed_with(&secret));
    let told = post.json();
    let wanted = (&json!("instance.recycle"), &json!("w"), &json!(urls[0]), &json!("requested"));
    assert_eq!((&told["type"], &told["worker"], &told["instance"], &told["reason"]), wanted);
    until_states(&site, ["ready", "ready"]).await;
    let last = site.submit_batch(&vec![json!({"task": "work"}); 4]).await.ids();
    site.wait_all_final(&last, PATIENCE).await;
    assert!(workers[0].count() > 1, "it is used again");
}

async fn an_instance_starts_anew_after_its_tasks(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204).header("lovage-memory-rss", "90MiB")).on("/control", Reply::status(204));
    let settings = json!({"url": site.worker.url(), "tasks": ["work"], "control_url": site.worker.url_of("/control"),
        "recycle": {"max_tasks": 3, "max_memory": "1GiB"}});
    site.register_worker_with("w", &settings).await;
    let ids = site.submit_batch(&vec![json!({"task": "work"}); 2]).await.ids();
    site.wait_all_final(&ids, PATIENCE).await;
    let instance = site.get("/v1/workers/w").await.json["instances"][0].clone();
    assert_eq!((&instance["counters"]["tasks"], &instance["counters"]["memory"]), (&json!(2), &json!(90 << 20)));
    site.wait_final(&site.submit_plain("work").await).await;
    let is_control = |call: &&Call| call.path == "/control";
    let calls = site.worker.wait_until("a control post", PATIENCE, |calls| calls.iter().any(|call| is_control(&call))).await;
    let told = calls.iter().find(is_control).unwrap().json();
    assert_eq!((&told["reason"], &told["counters"]["tasks"]), (&json!("max_tasks"), &json!(3)));
    eventually("its counters to begin anew", PATIENCE, async || {
        let instance = site.get("/v1/workers/w").await.json["instances"][0].clone();
        (instance["state"] == "ready" && instance["counters"]["tasks"] == 0).then_some(())
    })
    .await;
    assert_eq!(site.wait_final(&site.submit_plain("work").await).await["state"], "succeeded");
}

async fn an_instance_starts_anew_when_a_heartbeat_says_what_memory_it_has(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::accepted("1h")).on("/control", Reply::status(204));
    let settings = json!({"url": site.worker.url(), "tasks": ["work"], "control_url": site.worker.url_of("/control"),
        "recycle": {"max_memory": "1GiB"}});
    site.register_worker_with("w", &settings).await;
    let id = site.submit_plain("work").await;
    site.until(&id, "accepted", |record| record["reason"] == "accepted").await;
    let url = site.worker.received()[0].header("lovage-attempt-url").to_owned();
    let beat = async |memory: &str| {
        let path = format!("{}/heartbeat", url.strip_prefix(site.url()).unwrap());
        assert_eq!(site.post(&path, &json!({"memory_rss": memory})).await.status, 200);
    };
    beat("1000MiB").await;
    beat("1100MiB").await;
    let is_control = |call: &&Call| call.path == "/control";
    let calls = site.worker.wait_until("a control post", PATIENCE, |calls| calls.iter().any(|call| is_control(&call))).await;
    let told = calls.iter().find(is_control).unwrap().json();
    assert_eq!((&told["reason"], &told["counters"]["memory"]), (&json!("max_memory"), &json!(1100 << 20)));
    let again = site.submit_plain("work").await;
    site.until(&again, "accepted again", |record| record["reason"] == "accepted").await;
    assert_eq!(site.worker.received().iter().filter(|call| call.path == "/control").count(), 1);
}
