//! What a worker may report to the URL of its attempt, verb by verb.

use std::time::{Duration, Instant};

use lovage_core::Millis;
use lovage_tests::{Answer, Answered, Call, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::contract::site::{PATIENCE, Site, Store, slow_retry};

on_both_stores!(
    a_heartbeat_renews_the_lease,
    progress_is_shown_while_it_lasts,
    the_body_of_a_completion_is_the_result,
    a_failure_is_for_good_unless_it_may_be_retried,
    a_snoozed_task_comes_back,
    a_reporting_parent_waits_for_its_children,
    a_reporting_parent_starts_detached_children_once,
    a_reported_replacement_keeps_the_id,
    a_replacement_keeps_who_waits_and_what_is_hidden,
    logs_are_kept_with_the_attempt,
    a_report_over_an_open_connection_counts,
    a_worker_learns_of_its_limits_and_cancels,
    an_accepted_task_frees_its_slot,
    what_is_no_report_changes_nothing,
);

/// Posts a report.
pub async fn report(site: &Site, url: &str, verb: &str, body: impl Into<String>) -> Answer {
    let path = url.strip_prefix(site.url()).expect("the URL is that of the server");
    let request = site.request(Method::POST, &format!("{path}/{verb}"));
    site.send(request.header("content-type", "application/json").body(body.into())).await
}

/// Waits until an attempt of a task is accepted; where it reports.
pub async fn accepted(site: &Site, id: &str, attempt: u32) -> String {
    site.until(id, "accepted", |record| record["reason"] == "accepted" && record["attempt"] == json!(attempt)).await;
    attempt_url(site, id, attempt)
}

fn attempt_url(site: &Site, id: &str, attempt: u32) -> String {
    let calls = site.worker.received_for(id);
    calls.iter().rfind(|call| call.attempt == attempt).expect("it was called").header("lovage-attempt-url").to_owned()
}

/// A new task of a worker that accepts it for an hour, and where it reports.
pub async fn accepted_task(site: &Site, signature: &Value) -> (String, String) {
    let id = site.submit(signature).await;
    let url = accepted(site, &id, 1).await;
    (id, url)
}

/// A site whose worker accepts every task for an hour.
pub async fn accepting(store: Store) -> Site {
    let site = store.dev().await;
    site.worker.on("*", Reply::accepted("1h"));
    site.serves(&["*"]).await;
    site
}

fn instant(value: &Value) -> Millis {
    Millis::parse_rfc3339(value.as_str().unwrap()).unwrap()
}

fn told<'a>(record: &'a Value, names: &[&str]) -> Vec<&'a Value> {
    names.iter().map(|name| &record[*name]).collect()
}

async fn a_heartbeat_renews_the_lease(store: Store) {
    let site = store.dev().await;
    site.worker.on("kept", Reply::accepted("4s")).on("silent", [Reply::accepted("4s"), Reply::json(&json!(1))]);
    site.serves(&["*"]).await;
    let (kept, url) = accepted_task(&site, &json!({"task": "kept"})).await;
    let first = report(&site, &url, "heartbeat", "").await;
    assert_eq!((first.status, &first.json["continue"]), (200, &json!(true)), "{first:?}");
    let longer = report(&site, &url, "heartbeat", r#"{"lease": "1h", "memory_rss": "90MiB"}"#).await;
    let gained = instant(&longer.json["deadline"]).since(instant(&first.json["deadline"]));
    assert!(gained > Duration::from_secs(3_500), "{gained:?}");
    // This one is accepted later, with the lease that the first one had.
    let silent = site.submit_plain("silent").await;
    assert_eq!(site.wait_final(&silent).await["attempt"], 2);
    assert_eq!(told(&site.task(&kept).await, &["state", "attempt"]), [&json!("running"), &json!(1)]);
}

async fn progress_is_shown_while_it_lasts(store: Store) {
    let site = accepting(store).await;
    let (id, url) = accepted_task(&site, &json!({"task": "t"})).await;
    for value in [json!({"done": 1}), json!(0.5), json!(null), json!("nearly")] {
        let answer = report(&site, &url, "progress", value.to_string()).await;
        assert_eq!((answer.status, &answer.json["continue"]), (200, &json!(true)), "{answer:?}");
        assert_eq!(told(&site.task(&id).await, &["state", "progress"]), [&json!("running"), &value]);
    }
    assert_eq!(report(&site, &url, "complete", "1").await.status, 200);
    assert_eq!(told(&site.task(&id).await, &["state", "result", "progress"]), [&json!("succeeded"), &json!(1), &json!(null)]);
}

async fn the_body_of_a_completion_is_the_result(store: Store) {
    let site = accepting(store).await;
    for (content_type, body) in [("application/json", r#"{"a": 1.0}"#), ("text/plain", "größer"), ("image/png", "\0"), ("", "")]
    {
        let (id, url) = accepted_task(&site, &json!({"task": "t"})).await;
        let mut request = site.request(Method::POST, &format!("{}/complete", url.strip_prefix(site.url()).unwrap()));
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        assert_eq!(site.send(request.body(body)).await.status, 200);
        assert_eq!(told(&site.task(&id).await, &["state", "attempt"]), [&json!("succeeded"), &json!(1)]);
        let result = site.get(&format!("/v1/tasks/{id}/result")).await;
        assert_eq!((result.header("content-type"), &result.body[..]), (content_type, body.as_bytes()), "{result:?}");
        assert_eq!(site.attempts(&id).await[0]["outcome"], "succeeded");
    }
}

async fn a_failure_is_for_good_unless_it_may_be_retried(store: Store) {
    let site = accepting(store).await;
    let signature = json!({"task": "t", "retry": slow_retry()});
    for (retry, state, reason) in [("", "failed", "permanent"), (r#", "retry": true"#, "retrying", "backoff")] {
        let (id, url) = accepted_task(&site, &signature).await;
        let body = format!(r#"{{"type": "E", "message": "m", "stack": "s"{retry}}}"#);
        assert_eq!(report(&site, &url, "fail", body).await.status, 200);
        let record = site.task(&id).await;
        assert_eq!(told(&record, &["state", "reason"]), [&json!(state), &json!(reason)], "{record}");
        assert_eq!(told(&record["error"], &["type", "message", "stack"]), [&json!("E"), &json!("m"), &json!("s")]);
    }
}

async fn a_snoozed_task_comes_back(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", [Reply::accepted("1h"), Reply::json(&json!("done"))]);
    site.serves(&["t"]).await;
    let (id, url) = accepted_task(&site, &json!({"task": "t", "retry": {"max_attempts": 1}})).await;
    let start = Instant::now();
    assert_eq!(report(&site, &url, "snooze", r#"{"after": "0s"}"#).await.status, 200);
    // It was not charged: else it would have no attempt left.
    let record = site.wait_final(&id).await;
    assert_eq!(told(&record, &["state", "attempt", "result"]), [&json!("succeeded"), &json!(2), &json!("done")]);
    // However short the nap is to be, a worker cannot make it a loop without a pause.
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(site.attempts(&id).await[0]["outcome"], "snoozed");
}

/// A site whose worker accepts `parent`, accepts it again when it is resumed, and answers the children.
async fn family(store: Store) -> Site {
    let site = accepting(store).await;
    site.worker.on("child", Reply::json(&json!(7)));
    site.worker.on("bad", Reply::bytes("application/json", r#"{"type":"Bad","message":"no"}"#).with_status(422));
    site
}

async fn a_reporting_parent_waits_for_its_children(store: Store) {
    let site = family(store).await;
    let (id, url) = accepted_task(&site, &json!({"task": "parent", "args": [1]})).await;
    let spawn = r#"{"tasks": [{"task": "child", "queue": "young"}, {"task": "bad"}], "then": "wait"}"#;
    for _ in 0..2 {
        let answer = report(&site, &url, "spawn", spawn).await;
        assert_eq!((answer.status, &answer.json["continue"]), (200, &json!(false)), "{answer:?}");
    }
    let again = accepted(&site, &id, 2).await;
    let call = site.worker.received_for(&id).pop().unwrap();
    assert_eq!(call.header("lovage-resume"), "1");
    let body = call.json();
    let states: Vec<&Value> = body["children"].as_array().unwrap().iter().map(|child| &child["state"]).collect();
    assert_eq!(states, ["succeeded", "failed"], "{body}");
    assert_eq!((&body["children"][0]["result"], &body["children"][1]["error"]["type"]), (&json!(7), &json!("Bad")));
    let sum = body["children"][0]["result"].as_u64().unwrap() + body["args"][0].as_u64().unwrap();
    assert_eq!(report(&site, &again, "complete", sum.to_string()).await.status, 200);
    assert_eq!(told(&site.task(&id).await, &["state", "result"]), [&json!("succeeded"), &json!(8)]);
    let children: Vec<Call> = site.worker.received().into_iter().filter(|call| call.task != "parent").collect();
    assert_eq!(children.len(), 2, "the second report made no children of its own");
    assert_eq!(children[0].header("lovage-parent"), id);
}

async fn a_reporting_parent_starts_detached_children_once(store: Store) {
    let site = family(store).await;
    let (id, url) = accepted_task(&site, &json!({"task": "parent"})).await;
    let spawn = |args: u32| format!(r#"{{"tasks": [{{"task": "child", "args": [{args}]}}], "then": "detach"}}"#);
    for args in [1, 1, 2, 1] {
        let answer = report(&site, &url, "spawn", spawn(args)).await;
        assert_eq!((answer.status, &answer.json["continue"]), (200, &json!(true)), "{answer:?}");
    }
    let is_child = |call: &&Call| call.task == "child";
    let calls = site.worker.wait_until("the children", PATIENCE, |calls| calls.iter().filter(is_child).count() == 2).await;
    let mut args: Vec<String> = calls.iter().filter(is_child).map(|call| call.json()["args"].to_string()).collect();
    args.sort();
    assert_eq!(args, ["[1]", "[2]"]);
    assert_eq!(report(&site, &url, "complete", "").await.status, 200);
    assert_eq!(told(&site.task(&id).await, &["state", "attempt"]), [&json!("succeeded"), &json!(1)]);
    assert_eq!(site.attempts(&id).await[0]["children"].as_array().unwrap().len(), 2);
    for child in calls.iter().filter(is_child) {
        assert_eq!(site.wait_final(&child.id).await["parent"], json!(id));
    }
    assert_eq!(site.worker.received().iter().filter(is_child).count(), 2);
}

async fn a_reported_replacement_keeps_the_id(store: Store) {
    let site = accepting(store).await;
    site.worker.on("other", Reply::json(&json!("done")));
    let (id, url) = accepted_task(&site, &json!({"task": "t", "args": ["old"]})).await;
    let body = r#"{"replacement": {"task": "other", "args": ["new"], "queue": "slow", "labels": {"a": "b"}}}"#;
    assert_eq!(report(&site, &url, "replace", body).await.status, 200);
    let record = site.wait_final(&id).await;
    assert_eq!(told(&record, &["state", "generation", "result"]), [&json!("succeeded"), &json!(1), &json!("done")]);
    let signature = [json!("other"), json!("slow"), json!(["new"]), json!({"a": "b"})];
    assert_eq!(told(&record, &["task", "queue", "args", "labels"]), signature.iter().collect::<Vec<_>>());
}

async fn a_replacement_keeps_who_waits_and_what_is_hidden(store: Store) {
    let site = accepting(store).await;
    site.worker.on("other", Reply::json(&json!("done"))).on("after", Reply::json(&json!(null)));
    let signature = json!({"task": "t", "kwargs": {"password": "secret"}, "redact": ["/kwargs/password"],
        "link": {"task": "after"}});
    let (id, url) = accepted_task(&site, &signature).await;
    let body = r#"{"replacement": {"task": "other", "kwargs": {"password": "secret"}}}"#;
    assert_eq!(report(&site, &url, "replace", body).await.status, 200);
    let record = site.wait_final(&id).await;
    assert_eq!(told(&record, &["state", "kwargs"]), [&json!("succeeded"), &json!({"password": "[redacted]"})]);
    let linked = |call: &Call| call.task == "after";
    let calls = site.worker.wait_until("the call of the link", PATIENCE, |calls| calls.iter().any(linked)).await;
    assert_eq!(calls.iter().find(|call| linked(call)).unwrap().json()["args"], json!(["done"]));
}

async fn logs_are_kept_with_the_attempt(store: Store) {
    let site = accepting(store).await;
    let (id, url) = accepted_task(&site, &json!({"task": "t"})).await;
    assert_eq!(report(&site, &url, "logs", r#"{"lines": ["one", "two"]}"#).await.status, 200);
    assert_eq!(report(&site, &url, "logs", r#"{"lines": ["three"]}"#).await.status, 200);
    let open = &site.attempts(&id).await[0];
    assert_eq!(told(open, &["outcome", "logs"]), [&json!("running"), &json!(["one", "two", "three"])]);
    // Talking much is no failure; only so much is kept.
    for _ in 0..4 {
        let answer = report(&site, &url, "logs", json!({"lines": ["x".repeat(5_000)]}).to_string()).await;
        assert_eq!((answer.status, &answer.json["continue"]), (200, &json!(true)));
    }
    assert_eq!(report(&site, &url, "fail", "{}").await.status, 200);
    let [entry] = &site.attempts(&id).await[..] else { panic!("one attempt") };
    let lines: Vec<&str> = entry["logs"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!((&lines[..3], &entry["outcome"]), (&["one", "two", "three"][..], &json!("failed")));
    let bytes: usize = lines.iter().map(|line| line.len()).sum();
    assert!((5_000..=8_192).contains(&bytes), "{bytes}");
}

async fn a_report_over_an_open_connection_counts(store: Store) {
    let site = store.dev().await;
    let gate = site.worker.hold("answers", Reply::json(&json!("late")));
    site.worker.on("hangs", Reply::never());
    site.serves(&["*"]).await;
    let ids = [site.submit_plain("answers").await, site.submit_plain("hangs").await];
    site.worker.wait_for(2).await;
    for id in &ids {
        let url = attempt_url(&site, id, 1);
        // Nothing to renew, and no reason to complain: the connection tells that the worker lives.
        let beat = report(&site, &url, "heartbeat", "").await;
        assert_eq!((beat.status, beat.json["deadline"].is_string()), (200, true), "{beat:?}");
        assert_eq!(report(&site, &url, "progress", "1").await.status, 200);
        assert_eq!(report(&site, &url, "complete", "\"early\"").await.status, 200);
        assert_eq!(told(&site.task(id).await, &["state", "result"]), [&json!("succeeded"), &json!("early")]);
    }
    gate.open();
    // One may answer although nobody listens to it; the other is cut.
    let ended = |calls: &[Call]| {
        let end = |id: &String| calls.iter().find(|call| call.id == *id).unwrap().answered;
        end(&ids[0]) == Answered::Status(200) && end(&ids[1]) == Answered::ClientLeft
    };
    site.worker.wait_until("both connections to end", PATIENCE, ended).await;
    for id in &ids {
        assert_eq!(told(&site.task(id).await, &["result", "attempt"]), [&json!("early"), &json!(1)]);
        assert_eq!(site.worker.received_for(id).len(), 1);
    }
}

async fn a_worker_learns_of_its_limits_and_cancels(store: Store) {
    let site = accepting(store).await;
    let (id, url) = accepted_task(&site, &json!({"task": "t", "soft_time_limit": "700ms"})).await;
    let passed = async || Some(report(&site, &url, "heartbeat", "").await).filter(|a| a.json["soft_deadline_passed"] == true);
    let answer = lovage_tests::eventually("the soft limit to pass", PATIENCE, passed).await;
    assert_eq!(told(&answer.json, &["continue", "cancel_requested"]), [&json!(true), &json!(false)]);
    let (other, other_url) = accepted_task(&site, &json!({"task": "t"})).await;
    for (id, url) in [(&id, &url), (&other, &other_url)] {
        assert_eq!(site.post(&format!("/v1/tasks/{id}/cancel"), &json!({})).await.status, 202);
        let answer = report(&site, url, "heartbeat", "{}").await;
        assert_eq!(told(&answer.json, &["continue", "cancel_requested"]), [&json!(false), &json!(true)]);
    }
    // What is being called off starts nothing; its success still counts, its failure does not.
    let spawn = report(&site, &url, "spawn", r#"{"tasks": [{"task": "t"}], "then": "detach"}"#).await;
    assert_eq!((spawn.status, spawn.code()), (409, "wrong_state"));
    assert_eq!(report(&site, &url, "complete", "1").await.status, 200);
    assert_eq!(report(&site, &other_url, "fail", "{}").await.status, 200);
    assert_eq!((&site.task(&id).await["state"], &site.task(&other).await["state"]), (&json!("succeeded"), &json!("canceled")));
}

async fn an_accepted_task_frees_its_slot(store: Store) {
    let site = store.dev().await;
    site.worker.on("*", Reply::accepted("1h"));
    site.register_worker_with("w", &json!({"url": site.worker.url(), "tasks": ["t"], "concurrency": 1})).await;
    for _ in 0..3 {
        accepted_task(&site, &json!({"task": "t"})).await;
    }
}

async fn what_is_no_report_changes_nothing(store: Store) {
    let site = accepting(store).await;
    let (id, url) = accepted_task(&site, &json!({"task": "t"})).await;
    let version = site.task(&id).await["version"].clone();
    let long = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    for (verb, body, status, code, pointer) in [
        ("heartbeat", r#"{"lease": "soon"}"#.to_owned(), 422, "invalid_field", "/lease"),
        ("heartbeat", r#"{"leese": "1h"}"#.to_owned(), 422, "unknown_field", "/leese"),
        ("heartbeat", r#"{"lease": "25h"}"#.to_owned(), 422, "invalid_field", "/lease"),
        ("heartbeat", r#"{"lease": "50ms"}"#.to_owned(), 422, "invalid_field", "/lease"),
        ("progress", "{".to_owned(), 400, "malformed", ""),
        ("progress", "NaN".to_owned(), 400, "malformed", ""),
        ("progress", "-1e999".to_owned(), 422, "invalid_field", ""),
        ("progress", r#"{"a/b": ["\ud800"]}"#.to_owned(), 422, "invalid_field", "/a~1b/0"),
        ("progress", format!("{}{}", "[".repeat(8_000), "]".repeat(8_000)), 422, "invalid_field", ""),
        ("progress", long(16 << 10), 413, "payload_too_large", ""),
        ("complete", long(1 << 20), 413, "payload_too_large", ""),
        ("fail", r#"{"retry": "no"}"#.to_owned(), 422, "invalid_field", "/retry"),
        ("snooze", "{}".to_owned(), 422, "invalid_field", "/after"),
        ("spawn", r#"{"tasks": []}"#.to_owned(), 422, "invalid_field", "/tasks"),
        ("spawn", r#"{"tasks": [{"task": "a", "id": "b"}]}"#.to_owned(), 422, "invalid_field", "/tasks/0/id"),
        (
            "replace",
            r#"{"replacement": {"task": "a", "priority": 10}}"#.to_owned(),
            422,
            "invalid_field",
            "/replacement/priority",
        ),
        ("logs", r#"{"lines": "a"}"#.to_owned(), 422, "invalid_field", "/lines"),
        ("logs", long(256 << 10), 413, "payload_too_large", ""),
        ("explode", "{}".to_owned(), 404, "route_unknown", ""),
        ("complete?result=1", "1".to_owned(), 422, "unknown_field", "/result"),
    ] {
        let answer = report(&site, &url, verb, body).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{verb}: {answer:?}");
        assert_eq!(answer.pointers().first().copied().unwrap_or_default(), pointer, "{verb}");
    }
    let path = url.strip_prefix(site.url()).unwrap();
    assert_eq!(site.get(&format!("{path}/complete")).await.code(), "method_not_allowed");
    assert_eq!(site.task(&id).await["version"], version);
}
