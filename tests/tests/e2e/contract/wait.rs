//! `?wait=`: an answer as soon as the task is final, or the current state at the time-out.

use std::time::{Duration, Instant};

use lovage_tests::Reply;
use serde_json::json;

use super::site::Store;

on_both_stores!(
    creating_waits_for_the_result,
    a_failed_task_is_an_answer_too,
    getting_and_result_wait,
    a_time_out_answers_the_current_state,
    waiters_are_woken_at_once,
    a_stored_result_wakes_its_waiters_at_once,
    a_final_task_does_not_wait,
    waits_end_when_the_server_stops,
    a_canceled_task_wakes_its_waiters,
);

async fn creating_waits_for_the_result(store: Store) {
    let site = store.dev().await;
    site.worker.on("sum", Reply::json(&json!(5)).after(Duration::from_millis(50)));
    site.serves(&["sum"]).await;
    let answer = site.post("/v1/tasks?wait=20s", &json!({"task": "sum"})).await;
    assert_eq!((answer.status, &answer.json["state"], &answer.json["result"]), (200, &json!("succeeded"), &json!(5)));
    // A repeated request waits for the task that exists.
    site.worker.on("slow", Reply::json(&json!(6)).after(Duration::from_millis(150)));
    site.register_worker("w", &site.worker.url(), &["sum", "slow"]).await;
    let signature = json!({"task": "slow", "id": "once"});
    site.submit(&signature).await;
    let answer = site.post("/v1/tasks?wait=20s", &signature).await;
    assert_eq!((answer.status, &answer.json["result"]), (200, &json!(6)));
    // More than a minute is a minute, no mistake; other forms of a duration are fine.
    for wait in ["1h", "20", "20000ms"] {
        assert_eq!(site.post(&format!("/v1/tasks?wait={wait}"), &json!({"task": "sum"})).await.status, 200);
    }
}

async fn a_failed_task_is_an_answer_too(store: Store) {
    let site = store.dev().await;
    site.worker.on("bad", Reply::json(&json!({"type": "ValueError", "message": "no such image"})).with_status(400));
    site.serves(&["bad"]).await;
    let answer = site.post("/v1/tasks?wait=20s", &json!({"task": "bad"})).await;
    assert_eq!((answer.status, &answer.json["state"], &answer.json["reason"]), (200, &json!("failed"), &json!("permanent")));
    assert_eq!(answer.json["error"], json!({"type": "ValueError", "message": "no such image", "status": 400}));
    let answer = site.post("/v1/tasks?wait=20s", &json!({"task": "nobody", "expires_in": "100ms"})).await;
    assert_eq!((answer.status, &answer.json["state"]), (200, &json!("expired")));
}

async fn getting_and_result_wait(store: Store) {
    let site = store.dev().await;
    let gate = site.worker.hold("sum", Reply::json(&json!(5)));
    site.serves(&["sum"]).await;
    let id = site.submit_plain("sum").await;
    let (record, result) = (format!("/v1/tasks/{id}?wait=20s"), format!("/v1/tasks/{id}/result?wait=20s"));
    let (record, result, ()) = tokio::join!(site.get(&record), site.get(&result), async {
        site.worker.wait_for(1).await;
        gate.open();
    });
    assert_eq!((record.status, &record.json["state"]), (200, &json!("succeeded")));
    assert_eq!((result.status, &result.json), (200, &json!(5)));
}

async fn a_time_out_answers_the_current_state(store: Store) {
    let site = store.dev().await;
    let _gate = site.worker.hold("held", Reply::status(204));
    site.serves(&["held"]).await;
    let start = Instant::now();
    let created = site.post("/v1/tasks?wait=200ms", &json!({"task": "nobody"})).await;
    assert_eq!((created.status, &created.json["state"]), (202, &json!("queued")));
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    let id = site.submit_plain("held").await;
    site.worker.wait_for(1).await;
    let start = Instant::now();
    let record = site.get(&format!("/v1/tasks/{id}?wait=200ms")).await;
    assert_eq!((record.status, &record.json["state"]), (200, &json!("running")));
    let result = site.get(&format!("/v1/tasks/{id}/result?wait=200ms")).await;
    assert_eq!((result.status, &result.json["state"]), (202, &json!("running")));
    assert!(!result.header("retry-after").is_empty());
    let waited = start.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_secs(5)).contains(&waited), "{waited:?}");
}

async fn waiters_are_woken_at_once(store: Store) {
    let site = store.dev().await;
    site.worker.on("quick", Reply::json(&json!("ok")));
    site.serves(&["quick"]).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let answer = site.post("/v1/tasks?wait=20s", &json!({"task": "quick"})).await;
        assert_eq!((answer.status, &answer.json["result"]), (200, &json!("ok")));
        times.push(start.elapsed());
    }
    times.sort();
    // A debug build beside other tests; a waiter that polled would need its interval each time.
    assert!(times[10] < Duration::from_millis(150), "median {:?} of {times:?}", times[10]);
}

/// From the report of a result to the answer of whoever waits for it: everything in between is the server's. Prints it, for a
/// run against a release build (`LOVAGE_BIN`).
async fn a_stored_result_wakes_its_waiters_at_once(store: Store) {
    let site = store.dev().await;
    site.worker.on("later", Reply::accepted("1h"));
    site.serves(&["later"]).await;
    let (mut since_sent, mut since_stored) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let id = site.submit_plain("later").await;
        site.until(&id, "accepted", |record| record["reason"] == "accepted").await;
        let url = site.worker.received_for(&id)[0].header("lovage-attempt-url").to_owned();
        let report = format!("{}/complete", url.strip_prefix(site.url()).unwrap());
        let wait = format!("/v1/tasks/{id}?wait=20s");
        let waiting = async {
            let answer = site.get(&wait).await;
            assert_eq!((answer.status, &answer.json["result"]), (200, &json!(1)));
            Instant::now()
        };
        let reporting = async {
            lovage_tests::eventually("a waiter", super::site::PATIENCE, async || {
                let metrics = site.get("/metrics").await;
                String::from_utf8_lossy(&metrics.body).lines().any(|line| line == "lovage_waiters 1").then_some(())
            })
            .await;
            let sent = Instant::now();
            assert_eq!(site.post(&report, &json!(1)).await.status, 200);
            (sent, Instant::now())
        };
        let (woken, (sent, stored)) = tokio::join!(waiting, reporting);
        since_sent.push(woken.saturating_duration_since(sent));
        since_stored.push(woken.saturating_duration_since(stored));
    }
    for (what, times) in [("sent", &mut since_sent), ("known to be stored", &mut since_stored)] {
        times.sort();
        println!("an answer after its result was {what}: p50 {:?}, p99 {:?}, at most {:?}", times[25], times[48], times[49]);
    }
    // A debug build beside other tests; a waiter that polled would need its interval each time.
    assert!(since_stored[25] < Duration::from_millis(150), "median {:?}", since_stored[25]);
}

async fn a_final_task_does_not_wait(store: Store) {
    let site = store.dev().await;
    site.worker.on("quick", Reply::json(&json!("ok")));
    site.serves(&["quick"]).await;
    let id = site.submit_plain("quick").await;
    site.wait_final(&id).await;
    let start = Instant::now();
    assert_eq!(site.get(&format!("/v1/tasks/{id}?wait=30s")).await.status, 200);
    assert_eq!(site.get(&format!("/v1/tasks/{id}/result?wait=30s")).await.status, 200);
    assert_eq!(site.get("/v1/tasks/unknown?wait=30s").await.code(), "task_unknown");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

async fn waits_end_when_the_server_stops(store: Store) {
    let mut site = store.dev().await;
    let id = site.submit_plain("nobody").await;
    let client = site.lovage.client().clone();
    let waiting = tokio::spawn(async move { client.get(&format!("/v1/tasks/{id}?wait=50s")).await });
    let busy = lovage_tests::eventually("a waiter", super::site::PATIENCE, async || {
        let metrics = site.get("/metrics").await;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        // This request itself and the one that waits.
        text.lines().any(|line| line == "lovage_http_in_flight 2").then_some(())
    });
    busy.await;
    let start = Instant::now();
    assert!(site.lovage.stop().await.success());
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status, &answer.json["state"]), (200, &json!("queued")));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

async fn a_canceled_task_wakes_its_waiters(store: Store) {
    let site = store.dev().await;
    let id = site.submit_plain("nobody").await;
    let (path, cancel) = (format!("/v1/tasks/{id}?wait=20s"), format!("/v1/tasks/{id}/cancel"));
    let start = Instant::now();
    let (record, ()) = tokio::join!(site.get(&path), async {
        tokio::task::yield_now().await;
        assert_eq!(site.post(&cancel, &json!({})).await.status, 200);
    });
    assert_eq!(record.json["state"], "canceled");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
