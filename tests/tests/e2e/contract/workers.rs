//! Which worker gets a task, at which address, and how many at a time.

use std::collections::HashSet;
use std::time::Duration;

use lovage_tests::{Reply, Worker};
use serde_json::{Value, json};

use super::site::Store;

on_both_stores!(
    the_most_specific_pattern_wins,
    a_worker_may_serve_some_queues_only,
    the_url_may_name_the_task,
    all_urls_are_used,
    a_task_waits_for_its_worker,
    a_task_of_a_deleted_worker_waits_again,
    concurrency_is_respected,
    a_raised_concurrency_is_used_at_once,
    an_address_of_bare_urls_has_a_concurrency_too,
    a_workers_headers_are_sent,
);

async fn the_most_specific_pattern_wins(store: Store) {
    let site = store.dev().await;
    let patterns = ["*", "images.*", "images.resize", "images.re*", "*.mail"];
    for (n, pattern) in patterns.iter().enumerate() {
        let path = format!("/{n}");
        site.worker.on(&path, Reply::json(&json!(pattern)));
        site.register_worker(&format!("w{n}"), &site.worker.url_of(&path), &[pattern]).await;
    }
    site.in_force().await;
    let table = [
        ("images.resize", "images.resize"),
        ("images.rename", "images.re*"),
        ("images.crop", "images.*"),
        ("images", "*"),
        ("videos.cut", "*"),
        ("send.mail", "*.mail"),
    ];
    for (task, pattern) in table {
        let id = site.submit_plain(task).await;
        assert_eq!(site.wait_final(&id).await["result"], json!(pattern), "{task}");
    }
}

async fn a_worker_may_serve_some_queues_only(store: Store) {
    let site = store.dev().await;
    for (name, queues) in [("fast", json!(["urgent"])), ("slow", json!(["bulk", "night"]))] {
        let path = format!("/{name}");
        site.worker.on(&path, Reply::json(&json!(name)));
        let settings = json!({"url": site.worker.url_of(&path), "tasks": ["work"], "queues": queues});
        site.register_worker_with(name, &settings).await;
    }
    for (queue, name) in [("urgent", "fast"), ("bulk", "slow"), ("night", "slow")] {
        let id = site.submit(&json!({"task": "work", "queue": queue})).await;
        let record = site.wait_final(&id).await;
        assert_eq!((&record["result"], &record["worker"]), (&json!(name), &json!(name)), "{queue}");
    }
    let id = site.submit_plain("work").await;
    let waited = site.get(&format!("/v1/tasks/{id}?wait=300ms")).await;
    assert_eq!((&waited.json["state"], &waited.json["attempt"]), (&json!("queued"), &json!(0)));
}

async fn the_url_may_name_the_task(store: Store) {
    let site = store.dev().await;
    site.worker.on("*", Reply::status(204));
    site.register_worker("w", &format!("{}/run/{{task}}?v=1", site.worker.url()), &["*"]).await;
    for (task, path) in [("images.resize", "/run/images.resize?v=1"), ("a/b?c", "/run/a%2Fb%3Fc?v=1")] {
        let id = site.submit_plain(task).await;
        site.wait_final(&id).await;
        assert_eq!(site.worker.received_for(&id)[0].path, path);
    }
}

async fn all_urls_are_used(store: Store) {
    let site = store.dev().await;
    let workers: Vec<Worker> = (0..3).map(|_| Worker::start()).collect();
    for worker in &workers {
        worker.on("*", Reply::status(204).after(Duration::from_millis(5)));
    }
    let urls: Vec<String> = workers.iter().map(Worker::url).collect();
    site.register_worker_with("w", &json!({"urls": urls, "tasks": ["work"]})).await;
    let ids = site.submit_batch(&vec![json!({"task": "work"}); 90]).await.ids();
    site.wait_all_final(&ids, Duration::from_secs(30)).await;
    let counts: Vec<usize> = workers.iter().map(Worker::count).collect();
    assert_eq!(counts.iter().sum::<usize>(), 90);
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
}

async fn a_task_waits_for_its_worker(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    let ids = site.submit_batch(&vec![json!({"task": "work"}); 20]).await.ids();
    let record = site.get(&format!("/v1/tasks/{}?wait=200ms", ids[0])).await.json;
    assert_eq!((&record["state"], &record["attempt"]), (&json!("queued"), &json!(0)));
    site.serves(&["work"]).await;
    for record in site.wait_all_final(&ids, Duration::from_secs(30)).await.values() {
        assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(1)));
    }
}

async fn a_task_of_a_deleted_worker_waits_again(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", [Reply::status(500), Reply::status(204)]);
    site.serves(&["work"]).await;
    let retry = json!({"backoff": "fixed", "min": "400ms", "jitter": "none"});
    let id = site.submit(&json!({"task": "work", "retry": retry})).await;
    site.until_state(&id, "retrying").await;
    assert_eq!(site.delete("/v1/workers/w").await.status, 204);
    site.until_state(&id, "queued").await;
    let record = site.get(&format!("/v1/tasks/{id}?wait=200ms")).await.json;
    assert_eq!((&record["state"], &record["attempt"]), (&json!("queued"), &json!(1)));
    site.register_worker("successor", &site.worker.url(), &["work"]).await;
    assert_eq!(site.wait_final(&id).await["worker"], "successor");
}

/// The most calls that were open at once.
fn most_open(worker: &Worker) -> usize {
    let calls = worker.received();
    let mut edges: Vec<(u64, i32)> = Vec::new();
    for call in &calls {
        edges.push((call.started_ns, 1));
        edges.extend(call.ended_ns.map(|end| (end, -1)));
    }
    edges.sort_unstable();
    let open = edges.iter().scan(0, |open, (_, step)| {
        *open += step;
        Some(*open)
    });
    open.max().unwrap_or(0) as usize
}

async fn concurrency_is_respected(store: Store) {
    let site = store.dev().await;
    for limit in [1_usize, 4] {
        let worker = Worker::start();
        let task = format!("work-{limit}");
        worker.on(&task, Reply::status(204).after(Duration::from_millis(8)));
        let settings = json!({"url": worker.url(), "tasks": [task], "concurrency": limit});
        site.register_worker_with(&task, &settings).await;
        let ids = site.submit_batch(&vec![json!({"task": task}); 30]).await.ids();
        site.wait_all_final(&ids, Duration::from_secs(30)).await;
        assert_eq!((most_open(&worker), worker.count()), (limit, 30));
    }
}

async fn a_raised_concurrency_is_used_at_once(store: Store) {
    let site = store.dev().await;
    let gate = site.worker.hold("work", Reply::status(204));
    let settings = |concurrency: u32| json!({"url": site.worker.url(), "tasks": ["work"], "concurrency": concurrency});
    site.register_worker_with("w", &settings(2)).await;
    let ids = site.submit_batch(&vec![json!({"task": "work"}); 12]).await.ids();
    site.worker.wait_for(2).await;
    site.register_worker_with("w", &settings(5)).await;
    site.worker.wait_for(5).await;
    gate.open();
    site.wait_all_final(&ids, Duration::from_secs(30)).await;
    assert_eq!(most_open(&site.worker), 5);
}

async fn an_address_of_bare_urls_has_a_concurrency_too(store: Store) {
    let site = store.dev().await;
    let gate = site.worker.hold("/hook", Reply::status(204));
    let items: Vec<Value> = vec![json!({"url": site.worker.url_of("/hook")}); 130];
    let ids = site.submit_batch(&items).await.ids();
    site.worker.wait_for(100).await;
    // Somebody else's address is not held up by that.
    let other = Worker::start();
    other.on("/", Reply::status(204));
    let free = site.submit(&json!({"url": other.url_of("/")})).await;
    assert_eq!(site.wait_final(&free).await["state"], "succeeded");
    assert_eq!(site.worker.count(), 100);
    gate.open();
    site.wait_all_final(&ids, Duration::from_secs(30)).await;
    let unique: HashSet<String> = site.worker.received().into_iter().map(|call| call.id).collect();
    assert_eq!((unique.len(), most_open(&site.worker)), (130, 100));
}

async fn a_workers_headers_are_sent(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    let headers = json!({"Authorization": "Bearer s3cret", "X-Common": "worker"});
    let settings = json!({"url": site.worker.url(), "tasks": ["work"], "headers": headers});
    site.register_worker_with("w", &settings).await;
    let id = site.submit(&json!({"task": "work", "headers": {"X-Own": "task"}})).await;
    site.wait_final(&id).await;
    let call = &site.worker.received_for(&id)[0];
    let sent = [call.header("authorization"), call.header("x-common"), call.header("x-own")];
    assert_eq!(sent, ["Bearer s3cret", "worker", "task"]);
}
