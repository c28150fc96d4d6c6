//! Who may report, and when: the token of an attempt is good for this attempt, once, and for nothing else.

use lovage_tests::{Lovage, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use super::reports::{accepted, accepted_task, accepting, report};
use crate::contract::site::{Site, Store, quick_retry};

on_both_stores!(
    every_report_counts_once,
    a_forged_token_is_unknown,
    a_token_reaches_its_own_task_only,
    a_token_does_not_reach_the_next_task_with_its_id,
    a_lost_attempt_is_superseded,
    a_task_that_ended_otherwise_takes_no_report,
    a_second_attempt_supersedes_the_first,
    the_first_of_many_reports_wins,
    the_token_is_the_only_credential,
);

/// A verb, two different reports of it, and the state of the task after one that ends its attempt.
const REPORTS: [(&str, &str, &str, Option<&str>); 8] = [
    ("heartbeat", r#"{"lease": "1h"}"#, r#"{"lease": "2h"}"#, None),
    ("progress", "1", "2", None),
    ("complete", "1", "2", Some("succeeded")),
    ("fail", r#"{"type": "One"}"#, r#"{"type": "Two"}"#, Some("failed")),
    ("snooze", r#"{"after": "1h"}"#, r#"{"after": "2h"}"#, Some("retrying")),
    (
        "spawn",
        r#"{"tasks": [{"url": "http://127.0.0.1:9/", "delay": "1h"}]}"#,
        r#"{"tasks": [{"url": "http://127.0.0.1:9/", "delay": "2h"}]}"#,
        Some("blocked"),
    ),
    (
        "replace",
        r#"{"replacement": {"task": "t", "delay": "1h"}}"#,
        r#"{"replacement": {"task": "t", "delay": "2h"}}"#,
        Some("scheduled"),
    ),
    ("logs", r#"{"lines": ["one"]}"#, r#"{"lines": ["two"]}"#, None),
];

/// What is answered once an attempt is over.
fn over() -> Value {
    json!({"continue": false, "cancel_requested": false, "soft_deadline_passed": false, "deadline": null})
}

/// Every verb is refused like this, and the task stays as it is.
async fn all_refused(site: &Site, id: &str, url: &str, status: u16, code: &str) {
    let version = async || site.get(&format!("/v1/tasks/{id}")).await.json["version"].clone();
    let before = version().await;
    for (verb, body, ..) in REPORTS {
        let answer = report(site, url, verb, body).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{verb}: {answer:?}");
    }
    assert_eq!(version().await, before);
}

async fn every_report_counts_once(store: Store) {
    let site = accepting(store).await;
    for (verb, one, other, state) in REPORTS {
        let (id, url) = accepted_task(&site, &json!({"task": "t"})).await;
        let first = report(&site, &url, verb, one).await;
        assert_eq!(first.status, 200, "{verb}: {first:?}");
        let record = site.task(&id).await;
        let Some(state) = state else {
            for body in [one, other] {
                let answer = report(&site, &url, verb, body).await;
                assert_eq!((answer.status, &answer.json["continue"]), (200, &json!(true)), "{verb}: {answer:?}");
            }
            assert!(first.json["deadline"].is_string(), "{verb}: {first:?}");
            assert_eq!(site.task(&id).await["state"], "running");
            continue;
        };
        assert_eq!((&record["state"], &first.json), (&json!(state), &over()), "{verb}");
        let again = report(&site, &url, verb, one).await;
        assert_eq!((again.status, &again.json), (200, &over()), "{verb}: {again:?}");
        let second = report(&site, &url, verb, other).await;
        let told = (second.status, second.code(), &second.json["state"]);
        assert_eq!(told, (409, "wrong_state", &json!(state)), "{verb}: {second:?}");
        for (another, body, ..) in REPORTS.iter().filter(|row| row.0 != verb) {
            let answer = report(&site, &url, another, *body).await;
            assert_eq!((answer.status, answer.code()), (409, "wrong_state"), "{another} after {verb}: {answer:?}");
        }
        assert_eq!(site.task(&id).await, record, "{verb}");
    }
}

async fn a_forged_token_is_unknown(store: Store) {
    let site = accepting(store).await;
    let (id, url) = accepted_task(&site, &json!({"task": "t"})).await;
    let (base, token) = url.rsplit_once('/').unwrap();
    let changed = |at: usize| {
        let with = if token[at..].starts_with('A') { "B" } else { "A" };
        format!("{base}/{}{with}{}", &token[..at], &token[at + 1..])
    };
    let forged =
        [changed(3), changed(token.len() / 2), changed(token.len() - 1), format!("{base}/{}", &token[1..]), format!("{base}/x")];
    for url in forged {
        all_refused(&site, &id, &url, 404, "token_unknown").await;
    }
    // The token of another system for a task of the same name.
    let elsewhere = accepting(store).await;
    let (_, theirs) = accepted_task(&elsewhere, &json!({"task": "t", "id": id})).await;
    let theirs = theirs.rsplit_once('/').unwrap().1;
    all_refused(&site, &id, &format!("{base}/{theirs}"), 404, "token_unknown").await;
}

async fn a_token_reaches_its_own_task_only(store: Store) {
    let site = accepting(store).await;
    let (bystander, _) = accepted_task(&site, &json!({"task": "t"})).await;
    let before = site.task(&bystander).await;
    for (verb, body, ..) in REPORTS {
        let (_, url) = accepted_task(&site, &json!({"task": "t"})).await;
        assert_eq!(report(&site, &url, verb, body).await.status, 200, "{verb}");
    }
    assert_eq!(site.task(&bystander).await, before);
}

async fn a_token_does_not_reach_the_next_task_with_its_id(store: Store) {
    let site = accepting(store).await;
    let (id, old) = accepted_task(&site, &json!({"task": "t", "id": "order-1"})).await;
    assert_eq!(site.post(&format!("/v1/tasks/{id}/cancel"), &json!({"mode": "hard"})).await.status, 200);
    site.wait_final(&id).await;
    assert_eq!(site.delete(&format!("/v1/tasks/{id}")).await.status, 204);
    let (_, new) = accepted_task(&site, &json!({"task": "t", "id": "order-1"})).await;
    assert_ne!(old, new);
    all_refused(&site, &id, &old, 410, "attempt_superseded").await;
    assert_eq!(report(&site, &new, "complete", "1").await.status, 200);
}

async fn a_lost_attempt_is_superseded(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", [Reply::accepted("300ms"), Reply::accepted("1h")]);
    site.serves(&["t"]).await;
    let id = site.submit_plain("t").await;
    let second = accepted(&site, &id, 2).await;
    let first = site.worker.received_for(&id)[0].header("lovage-attempt-url").to_owned();
    assert_ne!(first, second);
    let lost = &site.attempts(&id).await[0];
    assert_eq!((&lost["outcome"], &lost["error"]["type"]), (&json!("lost"), &json!("LeaseExpired")));
    all_refused(&site, &id, &first, 410, "attempt_superseded").await;
    assert_eq!(report(&site, &second, "complete", "\"second\"").await.status, 200);
    assert_eq!(site.task(&id).await["result"], "second");
    all_refused(&site, &id, &first, 410, "attempt_superseded").await;
}

async fn a_task_that_ended_otherwise_takes_no_report(store: Store) {
    let site = accepting(store).await;
    let (id, url) = accepted_task(&site, &json!({"task": "t"})).await;
    assert_eq!(site.post(&format!("/v1/tasks/{id}/cancel"), &json!({"mode": "hard"})).await.status, 200);
    all_refused(&site, &id, &url, 410, "attempt_superseded").await;
    // Nor does one that is not there any more.
    assert_eq!(site.delete(&format!("/v1/tasks/{id}")).await.status, 204);
    all_refused(&site, &id, &url, 410, "attempt_superseded").await;
    // Nor one that ended with the answer of its connection.
    site.worker.on("quick", Reply::json(&json!(1)));
    let id = site.submit_plain("quick").await;
    site.wait_final(&id).await;
    let url = site.worker.received_for(&id)[0].header("lovage-attempt-url").to_owned();
    all_refused(&site, &id, &url, 410, "attempt_superseded").await;
}

async fn a_second_attempt_supersedes_the_first(store: Store) {
    let site = accepting(store).await;
    let (id, first) = accepted_task(&site, &json!({"task": "t", "retry": quick_retry(3)})).await;
    let failure = r#"{"type": "E", "retry": true}"#;
    assert_eq!(report(&site, &first, "fail", failure).await.status, 200);
    let second = accepted(&site, &id, 2).await;
    all_refused(&site, &id, &first, 410, "attempt_superseded").await;
    // The answer that got lost can still be had.
    let again = report(&site, &first, "fail", failure).await;
    assert_eq!((again.status, &again.json), (200, &over()));
    assert_eq!(report(&site, &second, "complete", "2").await.status, 200);
    assert_eq!(site.task(&id).await["result"], 2);
}

async fn the_first_of_many_reports_wins(store: Store) {
    let site = accepting(store).await;
    let (id, url) = accepted_task(&site, &json!({"task": "t"})).await;
    let reports = (0..16).map(|number: u32| report(&site, &url, "complete", number.to_string()));
    let answers = futures_util::future::join_all(reports).await;
    let won: Vec<usize> = (0..16).filter(|number| answers[*number].status == 200).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 409)), "{answers:?}");
    assert_eq!(site.task(&id).await["result"], json!(won[0]));
}

async fn the_token_is_the_only_credential(store: Store) {
    let site = store.start(Lovage::serve().option("--allow-network", "127.0.0.0/8")).await;
    site.worker.on("*", Reply::accepted("1h"));
    site.serves(&["t"]).await;
    let (id, url) = accepted_task(&site, &json!({"task": "t"})).await;
    let path = url.strip_prefix(site.url()).unwrap();
    // A worker's client may send the key of something else along.
    for key in [None, Some("lvg_wrong")] {
        let client = site.with_key(key);
        let answer = client.send(client.request(Method::POST, &format!("{path}/heartbeat"))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        // It opens nothing else.
        let token = path.trim_start_matches("/v1/attempts/");
        assert_eq!(client.with_key(Some(token)).get(&format!("/v1/tasks/{id}")).await.status, 401);
        assert_eq!(client.post("/v1/attempts/x/complete", &json!(1)).await.code(), "token_unknown");
    }
}
