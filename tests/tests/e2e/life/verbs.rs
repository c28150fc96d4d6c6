//! Each verb × each state, and what the verbs do.

use lovage_tests::{Answer, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use super::states::{STATES, in_state, is_final, site};
use crate::contract::site::{Site, Store, quick_retry};

on_both_stores!(
    every_verb_in_every_state,
    run_starts_what_waits_for_its_time,
    a_held_task_does_not_start,
    a_retry_begins_anew,
    a_forgotten_result_is_gone,
    verbs_take_no_fields,
);

async fn ask(site: &Site, id: &str, verb: &str) -> Answer {
    let path = format!("/v1/tasks/{id}");
    match verb {
        "patch" => site.patch(&path, &json!({"priority": 7})).await,
        "forget" => site.delete(&format!("{path}/result")).await,
        "delete" => site.delete(&path).await,
        verb => site.send(site.request(Method::POST, &format!("{path}/{verb}"))).await,
    }
}

/// The table in `docs/tasks.md`.
fn expected(verb: &str, state: &str) -> u16 {
    let waits = matches!(state, "blocked" | "scheduled" | "queued" | "retrying");
    let (allowed, status) = match verb {
        "run" => (matches!(state, "scheduled" | "queued" | "retrying"), 200),
        "retry" => (matches!(state, "retrying" | "failed"), 200),
        "hold" | "release" => (!is_final(state), 200),
        "patch" => (waits, 200),
        "replay" => (true, 202),
        "forget" | "delete" => (is_final(state), 204),
        other => panic!("no verb {other}"),
    };
    if allowed { status } else { 409 }
}

async fn every_verb_in_every_state(store: Store) {
    let site = site(store, "1h").await;
    let table = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tasks.md")).unwrap();
    for verb in ["run", "retry", "hold", "release", "patch", "replay", "forget", "delete"] {
        let mut row = format!("| {verb} |");
        for state in STATES {
            let id = in_state(&site, state).await;
            let answer = ask(&site, &id, verb).await;
            assert_eq!(answer.status, expected(verb, state), "{verb} × {state}: {}", answer.json);
            if answer.status == 409 {
                let actual = if state == "accepted" { "running" } else { state };
                assert_eq!((answer.code(), &answer.json["state"]), ("wrong_state", &json!(actual)), "{verb} × {state}");
            }
            row = format!("{row} {} |", answer.status);
        }
        assert!(table.contains(&row), "docs/tasks.md has no row {row}");
        assert_eq!(ask(&site, "unknown", verb).await.code(), "task_unknown");
    }
}

async fn run_starts_what_waits_for_its_time(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::json(&json!(1))).on("again", [Reply::status(500), Reply::json(&json!(2))]);
    site.serves(&["t", "again"]).await;
    let id = site.submit(&json!({"task": "t", "delay": "1h"})).await;
    assert_eq!(ask(&site, &id, "run").await.status, 200);
    assert_eq!(site.wait_final(&id).await["result"], 1);
    let id = site.submit(&json!({"task": "again", "retry": {"backoff": "fixed", "min": "1h"}})).await;
    site.until_state(&id, "retrying").await;
    assert_eq!(ask(&site, &id, "run").await.status, 200);
    let record = site.wait_final(&id).await;
    assert_eq!((&record["result"], &record["attempt"], &record["generation"]), (&json!(2), &json!(2), &json!(0)));
}

async fn a_held_task_does_not_start(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::json(&json!(1)));
    site.serves(&["t"]).await;
    let id = site.submit(&json!({"task": "t", "delay": "1h"})).await;
    let held = ask(&site, &id, "hold").await;
    assert_eq!((held.status, &held.json["held"]), (200, &json!(true)));
    // Doing it twice changes nothing.
    assert_eq!(ask(&site, &id, "hold").await.json["version"], held.json["version"]);
    // Neither its time nor a run gets past a hold.
    let run = ask(&site, &id, "run").await;
    assert_eq!((&run.json["state"], &run.json["held"]), (&json!("queued"), &json!(true)));
    let other = site.submit_plain("t").await;
    site.wait_final(&other).await;
    assert_eq!((site.task(&id).await["state"].clone(), site.worker.received_for(&id).len()), (json!("queued"), 0));
    let released = ask(&site, &id, "release").await;
    assert_eq!((released.status, &released.json["held"]), (200, &Value::Null));
    assert_eq!(site.wait_final(&id).await["state"], "succeeded");
}

async fn a_retry_begins_anew(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", [Reply::status(500), Reply::status(500), Reply::status(500), Reply::json(&json!("at last"))]);
    site.serves(&["t"]).await;
    let id = site.submit(&json!({"task": "t", "retry": quick_retry(2)})).await;
    let failed = site.wait_final(&id).await;
    assert_eq!((&failed["state"], &failed["attempt"], &failed["reason"]), (&json!("failed"), &json!(2), &json!("exhausted")));
    assert_eq!(ask(&site, &id, "retry").await.status, 200);
    let record = site.wait_final(&id).await;
    // The same id, the whole budget again, and attempts that count on.
    let told = (&record["state"], &record["generation"], &record["attempt"], &record["error"]);
    assert_eq!(told, (&json!("succeeded"), &json!(1), &json!(4), &Value::Null));
    let generations: Vec<Value> = site.attempts(&id).await.iter().map(|attempt| attempt["generation"].clone()).collect();
    assert_eq!(generations, [0, 0, 1, 1]);
    let keys: Vec<String> = site.worker.received().iter().map(|call| call.header("idempotency-key").to_owned()).collect();
    assert!(keys.iter().all(|key| *key == id), "{keys:?}");
}

async fn a_forgotten_result_is_gone(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", Reply::json(&json!({"large": 1}))).on("bad", Reply::status(422));
    site.serves(&["t", "bad"]).await;
    let id = site.submit_plain("t").await;
    site.wait_final(&id).await;
    for _ in 0..2 {
        assert_eq!(ask(&site, &id, "forget").await.status, 204);
    }
    assert_eq!(site.get(&format!("/v1/tasks/{id}/result")).await.code(), "result_expired");
    let record = site.task(&id).await;
    assert_eq!((&record["state"], &record["result"]), (&json!("succeeded"), &Value::Null));
    // An error is a part of the record.
    let id = site.submit_plain("bad").await;
    site.wait_final(&id).await;
    assert_eq!(ask(&site, &id, "forget").await.status, 204);
    assert_eq!(site.task(&id).await["error"]["status"], 422);
}

async fn verbs_take_no_fields(store: Store) {
    let site = store.dev().await;
    let id = site.submit_plain("nobody").await;
    for verb in ["run", "retry", "hold", "release"] {
        let path = format!("/v1/tasks/{id}/{verb}");
        let refused = site.post(&path, &json!({"mode": 1})).await;
        assert_eq!((refused.status, refused.code(), refused.pointers()), (422, "unknown_field", vec!["/mode"]));
        let refused = site.post(&format!("{path}?wait=1s"), &json!({})).await;
        assert_eq!((refused.status, refused.code()), (422, "unknown_field"));
        assert_eq!(site.get(&path).await.status, 405);
    }
}
