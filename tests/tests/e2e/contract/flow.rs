//! Limits that tasks name and limits that are stored: what they let start, what they show, and how soon a change holds.

use std::time::Duration;

use lovage_core::Millis;
use lovage_tests::{Gate, Lovage, Reply, eventually};
use serde_json::{Value, json};

use super::site::{PATIENCE, Site, Store};

on_both_stores!(
    a_concurrency_holds_and_is_shown,
    a_stored_limit_goes_before_and_may_be_deleted_while_tasks_hold_it,
    a_changed_limit_is_in_force_within_a_second,
    a_paused_limit_holds_its_tasks_alone,
    a_task_type_limits_each_name_and_names_the_worker,
    a_task_that_waits_because_too_many_keys_are_in_use_says_so,
);

/// The most calls of a task name that were open at the same moment.
pub(super) fn most_at_once(site: &Site, task: &str) -> usize {
    let calls: Vec<_> = site.worker.received().into_iter().filter(|call| call.task == task).collect();
    let open_at = |at: u64| calls.iter().filter(|call| call.started_ns <= at && call.ended_ns.is_none_or(|end| end > at)).count();
    calls.iter().map(|call| open_at(call.started_ns)).max().unwrap_or_default()
}

pub(super) async fn until_limit(site: &Site, key: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/v1/limits/{key}");
    eventually(&format!("{key} to have {what}"), PATIENCE, async || {
        let answer = site.get(&path).await;
        Some(answer.json).filter(|limit| answer.status == 200 && condition(limit))
    })
    .await
}

async fn a_concurrency_holds_and_is_shown(store: Store) {
    let site = store.dev().await;
    site.serves(&["slow"]).await;
    let gate = site.worker.hold("slow", Reply::json(&json!(1)));
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(site.submit(&json!({"task": "slow", "limits": [{"key": "customer:42", "concurrency": 2}]})).await);
    }
    let limit = until_limit(&site, "customer%3A42", "two in use", |limit| limit["in_use"] == 2 && limit["waiting"] == 3).await;
    assert_eq!((&limit["in_force"]["concurrency"], &limit["version"]), (&json!(2), &Value::Null));
    // What is granted is pushed a moment later.
    eventually("two calls", PATIENCE, async || (site.worker.open() == 2).then_some(())).await;
    let waiting = eventually("a task to say what holds it", PATIENCE, async || {
        let said = site.get(&format!("/v1/tasks/{}/explain", ids[4])).await.json;
        Some(said).filter(|said| said["reason"] == "concurrency")
    })
    .await;
    let cause = &waiting["causes"][0];
    assert_eq!((&cause["key"], &cause["in_use"], &cause["limit"]), (&json!("customer:42"), &json!(2), &json!(2)), "{waiting}");
    gate.open();
    site.wait_all_final(&ids, PATIENCE).await;
    assert_eq!(most_at_once(&site, "slow"), 2);
    // Of a key that nobody uses nothing is kept.
    eventually("the key to be forgotten", PATIENCE, async || {
        (site.get("/v1/limits/customer%3A42").await.code() == "limit_unknown").then_some(())
    })
    .await;
}

async fn a_stored_limit_goes_before_and_may_be_deleted_while_tasks_hold_it(store: Store) {
    let site = store.dev().await;
    site.serves(&["slow"]).await;
    let gate = site.worker.hold("slow", Reply::json(&json!(1)));
    assert_eq!(site.put("/v1/limits/k", &json!({"concurrency": 1})).await.status, 201);
    site.in_force().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(site.submit(&json!({"task": "slow", "limits": [{"key": "k", "concurrency": 3}]})).await);
    }
    until_limit(&site, "k", "one in use", |limit| limit["in_use"] == 1 && limit["waiting"] == 3).await;
    assert_eq!(site.delete("/v1/limits/k").await.status, 204);
    let limit = until_limit(&site, "k", "three in use", |limit| limit["in_use"] == 3).await;
    assert_eq!(limit["in_force"]["concurrency"], 3);
    // What is granted is pushed a moment later.
    eventually("three calls", PATIENCE, async || (site.worker.open() == 3).then_some(())).await;
    gate.open();
    site.wait_all_final(&ids, PATIENCE).await;
}

async fn a_changed_limit_is_in_force_within_a_second(store: Store) {
    let site = store.dev().await;
    site.serves(&["slow"]).await;
    let gate = site.worker.hold("slow", Reply::json(&json!(1)));
    site.put("/v1/limits/k", &json!({"concurrency": 0})).await;
    site.in_force().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(site.submit(&json!({"task": "slow", "limits": [{"key": "k"}]})).await);
    }
    for most in 1..=3 {
        site.patch("/v1/limits/k", &json!({"concurrency": most})).await;
        let changed = std::time::Instant::now();
        eventually("another start", PATIENCE, async || (site.worker.open() == most).then_some(())).await;
        assert!(changed.elapsed() < Duration::from_millis(1_500), "{:?}", changed.elapsed());
    }
    gate.open();
    site.wait_all_final(&ids, PATIENCE).await;
}

async fn a_paused_limit_holds_its_tasks_alone(store: Store) {
    let site = store.dev().await;
    site.serves(&["quick"]).await;
    site.worker.on("quick", Reply::json(&json!(1)));
    assert_eq!(site.post("/v1/limits/k/pause", &json!({})).await.status, 200);
    site.in_force().await;
    let held = site.submit(&json!({"task": "quick", "limits": [{"key": "k"}]})).await;
    let free = site.submit(&json!({"task": "quick"})).await;
    site.wait_final(&free).await;
    assert_eq!(site.task(&held).await["state"], "queued");
    let said = site.get(&format!("/v1/tasks/{held}/explain")).await.json;
    assert_eq!((&said["reason"], &said["causes"][0]["key"]), (&json!("paused"), &json!("k")), "{said}");
    assert_eq!(site.post("/v1/limits/k/resume", &json!({})).await.status, 200);
    assert_eq!(site.wait_final(&held).await["state"], "succeeded");
}

async fn a_task_that_waits_because_too_many_keys_are_in_use_says_so(store: Store) {
    // As few as may be: a task with eight of its own leaves none for those of another.
    let site = store.start(Lovage::dev().option("--set", "dispatcher.limits=11")).await;
    site.serves(&["t"]).await;
    let gate = site.worker.hold("t", Reply::json(&json!(1)));
    let of = |tenant: usize| {
        let limits: Vec<Value> = (0..8).map(|n| json!({"key": format!("{tenant}:{n}"), "concurrency": 1})).collect();
        json!({"task": "t", "limits": limits})
    };
    let runs = site.submit(&of(1)).await;
    site.until_state(&runs, "running").await;
    let waits = site.submit(&of(2)).await;
    let said = eventually("the lack of keys to be said", PATIENCE, async || {
        let said = site.get(&format!("/v1/tasks/{waits}/explain")).await.json;
        (said["reason"] == "limit_keys").then_some(said)
    })
    .await;
    assert!(said["text"].as_str().unwrap().contains("`dispatcher.limits`"), "{said}");
    assert_eq!((&said["causes"].as_array().unwrap().len(), &said["estimated_start"]), (&1, &Value::Null), "{said}");
    gate.open();
    site.wait_all_final(&[runs, waits], PATIENCE).await;
}

/// In one partition, where the place is exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_behind_a_rate_starts_when_it_was_said_to() {
    let site = Store::Embedded.dev().await;
    site.worker.on("t", Reply::status(204));
    site.serves(&["t"]).await;
    // Others of the queue go before, and not through the limit.
    site.submit_batch(&vec![json!({"task": "nobody", "priority": 9}); 30]).await;
    let task = json!({"task": "t", "limits": [{"key": "k", "rate": "60/m"}]});
    let ids = site.submit_batch(&vec![task; 5]).await.ids();
    let last = format!("/v1/tasks/{}/explain", ids[4]);
    let said = eventually("a task to say that its rate holds it", PATIENCE, async || {
        Some(site.get(&last).await.json).filter(|said| said["reason"] == "rate" && said["lane"]["ahead"] == 3)
    })
    .await;
    assert!(said["text"].as_str().unwrap().contains("to judge by its place and the rate of `k`"), "{said}");
    site.wait_all_final(&ids, PATIENCE).await;
    let time = |value: &Value| Millis::parse_rfc3339(value.as_str().unwrap()).unwrap().0;
    let (told, started) = (time(&said["estimated_start"]), time(&site.task(&ids[4]).await["started_at"]));
    assert!((told - 100..told + 1_500).contains(&started), "said {told}, started {started}");
}

async fn a_task_type_limits_each_name_and_names_the_worker(store: Store) {
    let site = store.dev().await;
    site.serves(&["nothing"]).await;
    let gate = Gate::new();
    site.put("/v1/task-types/slow.*", &json!({"concurrency": 1, "worker": "w"})).await;
    let mut ids = Vec::new();
    for name in ["slow.a", "slow.a", "slow.b", "slow.b"] {
        site.worker.on(name, Reply::json(&json!(1)).behind(&gate));
        ids.push(site.submit(&json!({"task": name})).await);
    }
    for name in ["slow.a", "slow.b"] {
        until_limit(&site, &format!("task:{name}"), "one in use", |limit| limit["in_use"] == 1 && limit["waiting"] == 1).await;
    }
    gate.open();
    site.wait_all_final(&ids, PATIENCE).await;
    assert_eq!((most_at_once(&site, "slow.a"), most_at_once(&site, "slow.b")), (1, 1));
}
