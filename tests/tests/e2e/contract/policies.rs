//! What a signature may say of failures and of what is kept: `retry`, `time_limit`, `ignore_result`, `result_ttl`, `labels`.

use std::time::Duration;

use lovage_tests::{Answered, Call, Reply};
use serde_json::{Value, json};

use super::site::{Site, Store, quick_retry};

on_both_stores!(
    attempts_are_counted_and_bounded,
    delays_grow_as_the_policy_says,
    a_list_of_delays_is_taken_as_it_is,
    jitter_stays_within_its_bounds,
    max_age_ends_a_series,
    an_attempt_has_a_time_limit,
    the_time_limit_counts_a_trickling_answer,
    an_ignored_result_is_not_kept,
    a_result_lives_as_long_as_its_ttl,
    a_record_lives_as_long_as_its_retention,
    labels_are_shown_and_sent,
);

/// Submits a task that fails with 500 until its policy gives up; the record and the calls.
async fn fails_until_the_end(site: &Site, retry: Value) -> (Value, Vec<Call>) {
    let id = site.submit(&json!({"task": "bad", "retry": retry})).await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("failed"), &json!("exhausted")));
    (record, site.worker.received_for(&id))
}

/// The pauses between the calls, in milliseconds.
fn pauses(calls: &[Call]) -> Vec<f64> {
    calls.windows(2).map(|pair| (pair[1].started_ns - pair[0].ended_ns.unwrap()) as f64 / 1e6).collect()
}

async fn bad_site(store: Store) -> Site {
    let site = store.dev().await;
    site.worker.on("bad", Reply::status(500));
    site.serves(&["bad"]).await;
    site
}

/// Each pause is at least what it should be, as far as clocks agree, and not absurdly longer.
fn assert_pauses(site: &Site, calls: &[Call], expected: &[f64]) {
    let skew = site.skew.as_secs_f64() * 1e3;
    let pauses = pauses(calls);
    assert_eq!(pauses.len(), expected.len(), "{pauses:?}");
    for (pause, expected) in pauses.iter().zip(expected) {
        assert!((expected - skew..expected + 1_500.0).contains(pause), "{pauses:?} instead of {expected:?}");
    }
}

async fn attempts_are_counted_and_bounded(store: Store) {
    let site = bad_site(store).await;
    for max in [1_u32, 2, 4] {
        let (record, calls) = fails_until_the_end(&site, quick_retry(max)).await;
        assert_eq!((&record["attempt"], &record["attempts_left"]), (&json!(max), &json!(0)));
        assert_eq!(calls.iter().map(|call| call.attempt).collect::<Vec<_>>(), (1..=max).collect::<Vec<_>>());
        assert!(calls.iter().all(|call| call.header("lovage-max-attempts") == max.to_string()));
    }
    assert!(site.worker.overlaps().is_empty());
}

async fn delays_grow_as_the_policy_says(store: Store) {
    let site = bad_site(store).await;
    let none = |backoff: &str, min: &str| json!({"max_attempts": 4, "backoff": backoff, "min": min, "jitter": "none"});
    let (_, calls) = fails_until_the_end(&site, none("fixed", "60ms")).await;
    assert_pauses(&site, &calls, &[60.0, 60.0, 60.0]);
    let (_, calls) = fails_until_the_end(&site, none("linear", "50ms")).await;
    assert_pauses(&site, &calls, &[50.0, 100.0, 150.0]);
    let (_, calls) = fails_until_the_end(&site, none("exponential", "40ms")).await;
    assert_pauses(&site, &calls, &[40.0, 80.0, 160.0]);
    let mut capped = none("exponential", "40ms");
    (capped["factor"], capped["max"]) = (json!(3), json!("100ms"));
    let (_, calls) = fails_until_the_end(&site, capped).await;
    assert_pauses(&site, &calls, &[40.0, 100.0, 100.0]);
}

async fn a_list_of_delays_is_taken_as_it_is(store: Store) {
    let site = bad_site(store).await;
    let policy = json!({"max_attempts": 5, "backoff": "list", "delays": ["100ms", "20ms", 0.05]});
    let (_, calls) = fails_until_the_end(&site, policy).await;
    assert_pauses(&site, &calls, &[100.0, 20.0, 50.0, 50.0]);
}

async fn jitter_stays_within_its_bounds(store: Store) {
    let site = bad_site(store).await;
    for (jitter, least) in [("equal", 100.0), ("full", 0.0)] {
        let policy = json!({"max_attempts": 4, "backoff": "fixed", "min": "200ms", "jitter": jitter});
        let (_, calls) = fails_until_the_end(&site, policy).await;
        for pause in pauses(&calls) {
            assert!((least - site.skew.as_secs_f64() * 1e3..1_700.0).contains(&pause), "{jitter}: {pause}");
        }
    }
}

async fn max_age_ends_a_series(store: Store) {
    let site = bad_site(store).await;
    let policy = json!({"max_attempts": 1000, "backoff": "fixed", "min": "40ms", "jitter": "none", "max_age": "300ms"});
    let (record, calls) = fails_until_the_end(&site, policy).await;
    assert!((2..=8).contains(&calls.len()), "{} attempts", calls.len());
    let span = Duration::from_nanos(calls.last().unwrap().started_ns - calls[0].started_ns);
    // The claim is judged by the age, and the worker sees the request a little later.
    assert!(span < Duration::from_millis(500), "the last attempt started {span:?} after the first");
    assert_eq!(record["error"]["status"], 500);
}

async fn an_attempt_has_a_time_limit(store: Store) {
    let site = store.dev().await;
    site.worker.on("slow", [Reply::never(), Reply::json(&json!("done"))]);
    site.worker.on("dead", Reply::never());
    site.serves(&["slow", "dead"]).await;
    let id = site.submit(&json!({"task": "slow", "time_limit": "150ms", "retry": quick_retry(5)})).await;
    assert_eq!(site.wait_final(&id).await["result"], "done");
    let call = &site.worker.received_for(&id)[0];
    let open = Duration::from_nanos(call.ended_ns.unwrap() - call.started_ns);
    // The limit counts from the start of the attempt, which is before the request has arrived.
    assert!((Duration::from_millis(50)..Duration::from_secs(3)).contains(&open), "{open:?}");
    assert_eq!(call.answered, Answered::ClientLeft);

    let id = site.submit(&json!({"task": "dead", "time_limit": 0.1, "retry": quick_retry(2)})).await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["reason"], &record["attempt"]), (&json!("failed"), &json!("timeout"), &json!(2)));
    assert_eq!(record["error"]["type"], "TimedOut");
}

async fn the_time_limit_counts_a_trickling_answer(store: Store) {
    let site = store.dev().await;
    let piece = (Duration::from_millis(40), bytes::Bytes::from_static(b"x"));
    site.worker.on("drip", Reply::stream(vec![piece; 200]).header("content-type", "text/plain"));
    site.serves(&["drip"]).await;
    let id = site.submit(&json!({"task": "drip", "time_limit": "250ms", "retry": quick_retry(1)})).await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("failed"), &json!("timeout")));
}

async fn an_ignored_result_is_not_kept(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::json(&json!("secret"))).on("bad", Reply::status(400));
    site.serves(&["work", "bad"]).await;
    let id = site.submit(&json!({"task": "work", "ignore_result": true})).await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["result"]), (&json!("succeeded"), &json!(null)));
    let result = site.get(&format!("/v1/tasks/{id}/result")).await;
    assert_eq!((result.status, result.body.len()), (204, 0));
    // An error is not a result.
    let id = site.submit(&json!({"task": "bad", "ignore_result": true})).await;
    assert_eq!(site.wait_final(&id).await["error"]["status"], 400);
}

async fn a_result_lives_as_long_as_its_ttl(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::json(&json!(1)));
    site.serves(&["work"]).await;
    let id = site.submit(&json!({"task": "work", "result_ttl": "400ms"})).await;
    site.wait_final(&id).await;
    let path = format!("/v1/tasks/{id}/result");
    let gone = lovage_tests::eventually("the result to be gone", super::site::PATIENCE, async || {
        Some(site.get(&path).await).filter(|answer| answer.status != 200)
    });
    let gone = gone.await;
    assert_eq!((gone.status, gone.code()), (410, "result_expired"));
    // The record stays, and does not show what the result's own route hides.
    let record = site.task(&id).await;
    assert_eq!((&record["state"], &record["result"]), (&json!("succeeded"), &json!(null)));
}

async fn a_record_lives_as_long_as_its_retention(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::json(&json!(1))).on("bad", Reply::status(400));
    site.serves(&["work", "bad"]).await;
    let kept = site.submit(&json!({"task": "work"})).await;
    for task in ["work", "bad"] {
        let id = site.submit(&json!({"task": task, "id": format!("short-{task}"), "retention": "300ms"})).await;
        lovage_tests::eventually("the record to be gone", super::site::PATIENCE, async || {
            (site.get(&format!("/v1/tasks/{id}")).await.status == 404).then_some(())
        })
        .await;
    }
    assert_eq!(site.wait_final(&kept).await["result"], 1);
    // Its id is free again.
    assert_eq!(site.post_task(&json!({"task": "work", "id": "short-work", "args": [2]})).await.status, 202);
}

async fn labels_are_shown_and_sent(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    site.serves(&["work"]).await;
    let labels: serde_json::Map<String, Value> = (0..32).map(|n| (format!("key-{n}"), json!(format!("value {n}")))).collect();
    let id = site.submit(&json!({"task": "work", "labels": labels})).await;
    assert_eq!(site.wait_final(&id).await["labels"], json!(labels));
    let call = &site.worker.received_for(&id)[0];
    for n in 0..32 {
        assert_eq!(call.header(&format!("lovage-label-key-{n}")), format!("value {n}"));
    }
    // A header cannot carry every value; the task comes all the same.
    let id = site.submit(&json!({"task": "work", "labels": {"city": "Zürich – 東京"}})).await;
    assert_eq!(site.wait_final(&id).await["labels"], json!({"city": "Zürich – 東京"}));
}
