//! A worker that fails now and then: every task ends, within its policy, and both sides tell the same story.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use lovage_tests::{Answered, Call, Client, Flaky, Lovage, Redis, Reply, Setup, Worker};
use serde_json::{Value, json};

const MAX_ATTEMPTS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_agree_on_every_attempt_embedded() {
    both_sides_agree(Lovage::dev(), 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_agree_on_every_attempt_redis() {
    let redis = Redis::start();
    both_sides_agree(Lovage::dev().redis(&redis), 2_000).await;
}

async fn both_sides_agree(setup: Setup, tasks: usize) {
    let worker = Worker::start();
    worker.on_call("flaky.*", |call| Reply::json(&json!({"by": call.id, "attempt": call.attempt})));
    worker.flaky(Flaky { seed: 1, error: 0.05, reset: 0.05 });
    let lovage = setup.start().await;
    let client = lovage.client();
    client.register_worker("flaky", &worker.url(), &["flaky.*"]).await;

    // Chosen ids make the failures the same in every run.
    let task = |number: usize| {
        json!({
            "task": "flaky.work",
            "id": format!("flaky-{number}"),
            "args": [number],
            "retry": {"max_attempts": MAX_ATTEMPTS, "backoff": "fixed", "min": "20ms", "jitter": "none"},
        })
    };
    let signatures: Vec<Value> = (0..tasks).map(task).collect();
    for batch in signatures.chunks(500) {
        let answer = client.submit_batch(batch).await;
        assert_eq!((answer.status, answer.ids().len()), (200, batch.len()));
    }
    let records = super::all_final(client, Duration::from_secs(120)).await;
    assert_eq!(records.len(), tasks);
    let records = super::details(client, records.keys()).await;

    let calls = worker.by_task();
    assert_eq!(calls.len(), tasks, "the worker was called for tasks that nobody submitted, or for too few");
    assert!(worker.overlaps().is_empty());
    let mut states: HashMap<&str, usize> = HashMap::new();
    for (id, record) in &records {
        check(id, record, &calls[id]);
        *states.entry(record["state"].as_str().unwrap()).or_default() += 1;
    }
    // One in a thousand fails three times in a row: both ends were seen.
    assert!(states["succeeded"] > tasks * 99 / 100 && states["failed"] > 0 && states.len() == 2, "{states:?}");
    let again: Vec<&str> = records.iter().filter(|(_, record)| record["attempt"] != json!(1)).map(|(id, _)| &**id).collect();
    assert!(again.len() > tasks / 20, "only {} tasks had a second attempt", again.len());
    stream::iter(again).for_each_concurrent(8, |id| check_attempts(client, id, &calls[id])).await;
}

/// The record of a task against the worker's memory of it.
fn check(id: &str, record: &Value, calls: &[Call]) {
    let story = || format!("task {id}: the worker had {}, the record is {record}", super::shown(calls));
    let numbers: Vec<usize> = calls.iter().map(|call| call.attempt as usize).collect();
    assert_eq!(numbers, (1..=calls.len()).collect::<Vec<_>>(), "{}", story());
    assert!(calls.len() <= MAX_ATTEMPTS, "{}", story());
    assert_eq!(record["attempt"], json!(calls.len()), "{}", story());
    let (last, earlier) = calls.split_last().unwrap();
    assert!(earlier.iter().all(|call| call.answered != Answered::Status(200)), "{}", story());
    if last.answered == Answered::Status(200) {
        assert_eq!(record["state"], json!("succeeded"), "{}", story());
        assert_eq!(record["result"], json!({"by": id, "attempt": last.attempt}), "{}", story());
    } else {
        assert_eq!((&record["state"], &record["reason"]), (&json!("failed"), &json!("exhausted")), "{}", story());
        assert_eq!(calls.len(), MAX_ATTEMPTS, "{}", story());
    }
}

/// The list of a task's attempts against the worker's memory of them.
async fn check_attempts(client: &Client, id: &str, calls: &[Call]) {
    let attempts = client.list(&format!("/v1/tasks/{id}/attempts")).await;
    assert_eq!(attempts.len(), calls.len(), "task {id}: {attempts:?}");
    for (attempt, call) in attempts.iter().zip(calls) {
        let story = || format!("task {id}: the worker had {}, the attempts are {attempts:?}", super::shown(calls));
        assert_eq!(attempt["attempt"], json!(call.attempt), "{}", story());
        match call.answered {
            Answered::Status(200) => assert_eq!(attempt["outcome"], json!("succeeded"), "{}", story()),
            Answered::Status(500) => assert_eq!(attempt["status"], json!(500), "{}", story()),
            Answered::Reset => assert!(attempt["status"].is_null() && attempt["error"].is_object(), "{}", story()),
            other => panic!("{other:?} was not in the script; {}", story()),
        }
    }
}
