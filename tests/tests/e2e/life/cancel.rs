//! Each state × soft and hard cancel.

use std::time::{Duration, Instant};

use lovage_tests::Answered;
use serde_json::json;

use super::states::{STATES, in_state, is_final, site};
use crate::contract::site::{Site, Store};

on_both_stores!(
    a_waiting_task_is_canceled_at_once,
    a_running_task_is_cut_after_its_grace_or_at_once,
    an_accepted_task_ends_after_its_grace_or_at_once,
    a_final_task_refuses_a_cancel,
);

/// Cancels a task and checks the answer's status and state; one that is running may be canceled before it is shown.
async fn cancel(site: &Site, id: &str, mode: &str, expected: (u16, &str)) {
    let answer = site.post(&format!("/v1/tasks/{id}/cancel"), &json!({"mode": mode})).await;
    let state = answer.json["state"].as_str().unwrap();
    let cut = expected.1 == "running" && mode == "hard" && state == "canceled";
    assert_eq!((answer.status, if cut { "running" } else { state }), expected, "{mode}: {}", answer.json);
}

async fn a_waiting_task_is_canceled_at_once(store: Store) {
    let site = site(store, "1h").await;
    for state in ["blocked", "scheduled", "queued", "retrying"] {
        for mode in ["soft", "hard"] {
            let id = in_state(&site, state).await;
            let before = site.worker.received_for(&id).len();
            cancel(&site, &id, mode, (200, "canceled")).await;
            let record = site.task(&id).await;
            assert_eq!((&record["reason"], &record["attempts_left"]), (&json!("requested"), &json!(0)), "{state}");
            assert!(record["finished_at"].is_string() && record["due_at"].is_null(), "{state}: {record}");
            assert_eq!(site.worker.received_for(&id).len(), before, "{state}");
        }
    }
}

async fn a_running_task_is_cut_after_its_grace_or_at_once(store: Store) {
    let site = site(store, "400ms").await;
    for (mode, least) in [("soft", 350), ("hard", 0)] {
        let id = in_state(&site, "running").await;
        site.worker.wait_until("the call", Duration::from_secs(20), |calls| calls.iter().any(|call| call.id == id)).await;
        let start = Instant::now();
        cancel(&site, &id, mode, (202, "running")).await;
        let record = site.wait_final(&id).await;
        assert_eq!((&record["state"], &record["reason"]), (&json!("canceled"), &json!("requested")), "{mode}");
        assert!(start.elapsed() >= Duration::from_millis(least), "{mode}: {:?}", start.elapsed());
        let cut = |calls: &[lovage_tests::Call]| calls.iter().any(|call| call.id == id && call.answered == Answered::ClientLeft);
        site.worker.wait_until("the connection to be closed", Duration::from_secs(20), cut).await;
    }
}

async fn an_accepted_task_ends_after_its_grace_or_at_once(store: Store) {
    let site = site(store, "400ms").await;
    let id = in_state(&site, "accepted").await;
    let start = Instant::now();
    cancel(&site, &id, "soft", (202, "running")).await;
    // Its lease is an hour; the worker's grace ends it, not the default one.
    assert_eq!(site.wait_final(&id).await["state"], "canceled");
    assert!((Duration::from_millis(350)..Duration::from_secs(8)).contains(&start.elapsed()), "{:?}", start.elapsed());
    let id = in_state(&site, "accepted").await;
    cancel(&site, &id, "hard", (200, "canceled")).await;
}

async fn a_final_task_refuses_a_cancel(store: Store) {
    let site = site(store, "1h").await;
    for state in STATES.into_iter().filter(|state| is_final(state)) {
        let id = in_state(&site, state).await;
        let before = site.task(&id).await;
        for mode in ["soft", "hard"] {
            let refused = site.post(&format!("/v1/tasks/{id}/cancel"), &json!({"mode": mode})).await;
            assert_eq!((refused.status, refused.code(), &refused.json["state"]), (409, "wrong_state", &json!(state)));
        }
        assert_eq!(site.task(&id).await, before);
    }
}
