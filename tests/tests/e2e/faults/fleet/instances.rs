//! Several dispatchers start the instances of a worker anew: one at a time, when none of them has anything open there.

use std::collections::HashMap;
use std::time::Duration;

use lovage_tests::{Answered, Call, Fleet, Redis, Reply, Worker};
use serde_json::{Value, json};

const TASKS: usize = 240;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_start_anew_one_at_a_time_and_no_task_is_lost_or_repeated() {
    let redis = Redis::start();
    let fleet = Fleet::of(1, 2).set("dispatcher.rebalance_after", "1s").start(&redis).await;
    super::all_have_shares(&fleet).await;
    let (workers, control) = ([(); 3].map(|()| Worker::start()), Worker::start());
    let urls: Vec<String> = workers.iter().map(Worker::url).collect();
    for worker in &workers {
        worker.on("work", Reply::status(204).after(Duration::from_millis(100)));
    }
    control.on("/control", Reply::status(204).after(Duration::from_millis(300)));
    let settings = json!({"urls": urls, "tasks": ["work"], "concurrency": 2, "balance": "round_robin",
        "control_url": control.url_of("/control"), "recycle": {"max_tasks": 25}});
    fleet.client().register_worker_with("w", &settings).await;
    let ids = fleet.client().submit_batch(&vec![json!({"task": "work"}); TASKS]).await.ids();
    for record in fleet.client().wait_all_final(&ids, Duration::from_secs(120)).await.values() {
        assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(1)));
    }
    let posts: Vec<Call> =
        control.wait_until("three new starts", Duration::from_secs(60), |calls| calls.len() >= 3 && all_answered(calls)).await;
    let calls: Vec<Vec<Call>> = workers.iter().map(Worker::received).collect();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for call in calls.iter().flatten() {
        *seen.entry(&call.id).or_default() += 1;
    }
    assert!(seen.len() == TASKS && seen.values().all(|count| *count == 1), "each was delivered once");
    let end = |call: &Call| call.ended_ns.unwrap();
    for pair in posts.windows(2) {
        assert!(end(&pair[0]) <= pair[1].started_ns, "two at a time");
    }
    for post in &posts {
        let told: Value = post.json();
        assert!(told["counters"]["tasks"].as_u64().unwrap() >= 25, "what both dispatchers counted: {told}");
        let at = urls.iter().position(|url| *url == told["instance"]).unwrap();
        let overlap = calls[at].iter().find(|call| call.started_ns < end(post) && post.started_ns < end(call));
        assert!(overlap.is_none(), "{overlap:?} was open while its instance started anew");
    }
}

fn all_answered(calls: &[Call]) -> bool {
    calls.iter().all(|call| call.answered != Answered::Open)
}
