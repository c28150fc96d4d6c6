//! The worker protocol beyond simple answers: acceptance, reports, children, replacements.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::attempt::KEPT_ENTRIES;
use lovage_core::{AttemptEntry, Event, Flags, Head, Outcome, Reason, ResultValue, Spec, State, TaskError, TaskKey};
use lovage_dispatcher::Options;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::world::{EPOCH, Reply, Seen, World, call};

const OUTCOME: &str = "application/vnd.lovage.outcome+json";

fn outcome(document: &Value) -> Reply {
    Reply::Document(OUTCOME, document.to_string())
}

async fn result(world: &World, key: &TaskKey) -> Value {
    match ResultValue::decode(&world.stored(key).await.result.unwrap()).unwrap() {
        ResultValue::Value { bytes, .. } | ResultValue::Error(bytes) | ResultValue::Progress(bytes) => {
            serde_json::from_slice(&bytes).unwrap()
        }
    }
}

async fn entries(world: &World, key: &TaskKey) -> Vec<AttemptEntry> {
    world.stored(key).await.attempts.iter().map(|entry| AttemptEntry::decode(entry).unwrap()).collect()
}

fn complete(value: &'static str) -> impl Fn(&Head) -> Event {
    move |head| Event::Answered {
        attempt: head.open_attempt(),
        outcome: Outcome::Success { content_type: Some("application/json".into()), body: Some(value.into()) },
    }
}

fn accepted(head: &Head) -> bool {
    head.reason == Reason::Accepted
}

#[tokio::test(start_paused = true)]
async fn an_accepted_task_frees_its_slot_and_ends_by_a_report() {
    let world = World::new(|_| Reply::Header(202, "lovage-lease", "5m"));
    world.worker("w", "*", 1).await;
    let node = world.start();
    let keys = [world.submit(call("t")).await, world.submit(call("t")).await];
    for key in &keys {
        let head = world.until(key, "accepted", accepted).await;
        assert!(head.is_accepted() && head.deadline.since(EPOCH) >= Duration::from_secs(300));
    }
    for key in &keys {
        world.happen(key, complete("7")).await;
        assert_eq!(world.head(key).await.state, State::Succeeded);
        assert_eq!(result(&world, key).await, json!(7));
    }
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn silence_after_acceptance_is_a_loss_and_heartbeats_are_not_silence() {
    let world =
        World::new(|seen| if seen.attempt == 1 { Reply::Header(202, "lovage-lease", "10") } else { Reply::Status(200, "1") });
    world.worker("w", "*", 1).await;
    let node = world.start();
    let key = world.submit(call("t")).await;
    world.until(&key, "accepted", accepted).await;
    let start = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        world.happen(&key, |head| Event::Heartbeat { attempt: head.open_attempt(), lease: None }).await;
    }
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.lost), (State::Succeeded, 2, 1));
    assert!(start.elapsed() >= Duration::from_secs(34));
    let entries = entries(&world, &key).await;
    assert_eq!((entries[0].outcome.as_str(), entries[0].error.as_ref().unwrap().kind.as_str()), ("lost", "LeaseExpired"));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_accepted_attempt_outlives_its_dispatcher() {
    let world = World::new(|_| Reply::Header(202, "lovage-lease", "1h"));
    world.worker("w", "*", 1).await;
    let first = world.start();
    let key = world.submit(call("t")).await;
    world.until(&key, "accepted", accepted).await;
    first.kill();
    let second = world.start();
    tokio::time::sleep(Duration::from_secs(120)).await;
    world.happen(&key, complete("1")).await;
    let head = world.head(&key).await;
    assert_eq!((head.state, head.attempt), (State::Succeeded, 1));
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn max_run_ends_an_accepted_attempt_whatever_its_heartbeats() {
    let world = World::new(|_| Reply::Header(202, "lovage-lease", "10"));
    world.worker("w", "*", 1).await;
    let node = world.start();
    let retry = Some(lovage_core::retry::RetryPolicy { max_attempts: 1, ..Default::default() });
    let key = world.submit(Spec { max_run: Some("30s".parse().unwrap()), retry, ..call("t") }).await;
    world.until(&key, "accepted", accepted).await;
    while world.head(&key).await.state == State::Running {
        world.happen(&key, |head| Event::Heartbeat { attempt: head.open_attempt(), lease: None }).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    let head = world.head(&key).await;
    assert_eq!((head.state, head.reason), (State::Failed, Reason::Timeout));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_parent_is_called_again_with_what_became_of_its_children() {
    let world = World::new(|seen| match (seen.headers["lovage-task"].to_str().unwrap(), seen.headers.get("lovage-resume")) {
        ("parent", None) => outcome(&json!({"outcome": "spawn", "tasks": [
            {"task": "child", "args": [1]}, {"task": "bad"}, {"task": "child", "args": [2]}
        ]})),
        ("parent", Some(_)) => {
            let body: Value = serde_json::from_slice(&seen.body).unwrap();
            Reply::Document("application/json", body.to_string())
        }
        ("bad", _) => Reply::Status(400, r#"{"type":"Bad","message":"no"}"#),
        _ => Reply::Status(200, "\"done\""),
    });
    world.worker("w", "*", 1).await;
    let node = world.start();
    let key = world.submit(Spec { labels: [("a".to_owned(), "b".to_owned())].into(), ..call("parent") }).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.budget), (State::Succeeded, 2, 0));
    let body = result(&world, &key).await;
    let spawned = entries(&world, &key).await[0].children.clone();
    assert_eq!(spawned.len(), 3);
    let told: Vec<(&Value, &Value, &Value)> =
        body["children"].as_array().unwrap().iter().map(|c| (&c["id"], &c["state"], &c["result"])).collect();
    let ids: Vec<Value> = spawned.iter().map(|id| json!(id.to_string())).collect();
    assert_eq!(
        told,
        [
            (&ids[0], &json!("succeeded"), &json!("done")),
            (&ids[1], &json!("failed"), &json!(null)),
            (&ids[2], &json!("succeeded"), &json!("done"))
        ]
    );
    assert_eq!(body["children"][1]["error"]["type"], "Bad");
    assert_eq!((&body["task"], &body["args"], &body["kwargs"]), (&json!("parent"), &json!([]), &json!({})));
    let child = &world.pushes()[&spawned[0].to_string()][0];
    for name in ["lovage-parent", "lovage-root"] {
        assert_eq!(child.headers[name], key.id.to_string());
    }
    assert_eq!(child.headers["lovage-label-a"], "b");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_parent_may_spawn_again_and_sees_only_the_last_children() {
    let spawn = |seen: &Seen| {
        let args: Value = serde_json::from_slice(&seen.body).unwrap();
        let round = args["children"].as_array().map_or(0, |children| children[0]["result"].as_u64().unwrap());
        if round == 3 {
            return Reply::Status(200, "\"end\"");
        }
        outcome(&json!({"outcome": "spawn", "tasks": [{"task": "child", "args": [round]}]}))
    };
    let world = World::new(move |seen| {
        if seen.headers["lovage-task"] == "parent" {
            return spawn(seen);
        }
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        Reply::Document("application/json", (body["args"][0].as_u64().unwrap() + 1).to_string())
    });
    world.worker("w", "*", 4).await;
    let node = world.start();
    let key = world.submit(call("parent")).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt), (State::Succeeded, 4));
    assert_eq!(result(&world, &key).await, json!("end"));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_parent_that_is_snoozed_without_end_still_knows_its_children() {
    const LAST: u32 = 2 * KEPT_ENTRIES as u32 + 100;
    let world = World::new(|seen| match (seen.headers["lovage-task"].to_str().unwrap(), seen.headers.get("lovage-resume")) {
        ("parent", None) => outcome(&json!({"outcome": "spawn", "tasks": [{"task": "child"}, {"task": "child"}]})),
        ("parent", Some(_)) if seen.attempt < LAST => outcome(&json!({"outcome": "snooze", "after": "0s"})),
        ("parent", Some(_)) => Reply::Document("application/json", String::from_utf8(seen.body.to_vec()).unwrap()),
        _ => Reply::Status(200, "1"),
    });
    world.worker("w", "*", 4).await;
    let node = world.start();
    let key = world.submit(call("parent")).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt), (State::Succeeded, LAST));
    let children = result(&world, &key).await["children"].clone();
    let states: Vec<&Value> = children.as_array().unwrap().iter().map(|child| &child["state"]).collect();
    assert_eq!(states, ["succeeded", "succeeded"]);
    let entries = entries(&world, &key).await;
    assert_eq!((entries.len(), entries.last().unwrap().number), (KEPT_ENTRIES, LAST));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_parent_that_detaches_has_succeeded_and_its_children_run() {
    let world = World::new(|seen| {
        if seen.headers["lovage-task"] == "parent" {
            return outcome(&json!({"outcome": "spawn", "then": "detach", "result": {"n": 1}, "tasks": [{"task": "child"}]}));
        }
        Reply::Slow(Duration::from_secs(5))
    });
    world.worker("w", "*", 4).await;
    let node = world.start();
    let key = world.submit(call("parent")).await;
    assert_eq!(world.until_final(&key).await.state, State::Succeeded);
    assert_eq!(result(&world, &key).await, json!({"n": 1}));
    let child = entries(&world, &key).await[0].children[0].clone();
    let child = TaskKey::new(key.ns, child);
    assert_eq!(world.until_final(&child).await.state, State::Succeeded);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replacement_starts_from_the_beginning_under_the_same_id() {
    let world = World::new(|seen| {
        if seen.attempt == 1 {
            return outcome(&json!({"outcome": "replace", "replacement": {"task": "t", "args": ["new"], "labels": {"x": "y"}}}));
        }
        Reply::Status(200, "\"replaced\"")
    });
    world.worker("w", "*", 4).await;
    let node = world.start();
    let key = world.submit(call("t")).await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt, head.generation), (State::Succeeded, 2, 1));
    let second = &world.pushes()[&key.id.to_string()][1];
    let body: Value = serde_json::from_slice(&second.body).unwrap();
    assert_eq!((&body["args"], &second.headers["lovage-label-x"]), (&json!(["new"]), &"y".parse().unwrap()));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn documents_say_what_headers_say() {
    let world = World::new(|seen| match (seen.headers["lovage-task"].to_str().unwrap(), seen.attempt) {
        ("retry", 1) => outcome(&json!({"outcome": "retry", "after": "100s", "error": {"type": "Busy", "message": "m"}})),
        ("snooze", 1) => outcome(&json!({"outcome": "snooze", "after": "2h"})),
        ("cancel", _) => outcome(&json!({"outcome": "cancel"})),
        ("fail", _) => outcome(&json!({"outcome": "fail", "error": {"type": "Gone", "message": "for good"}})),
        ("junk", 1) => outcome(&json!({"outcome": "spawn", "tasks": [{"task": "x", "id": "mine"}]})),
        _ => Reply::Status(200, "1"),
    });
    world.worker("w", "*", 4).await;
    let node = world.start();
    let mut rows = Vec::new();
    for (task, state, attempts, budget, least) in [
        ("retry", State::Succeeded, 2, 1, 100),
        ("snooze", State::Succeeded, 2, 0, 7_200),
        ("cancel", State::Canceled, 1, 0, 0),
        ("fail", State::Failed, 1, 0, 0),
        ("junk", State::Succeeded, 2, 1, 0),
    ] {
        rows.push((task, world.submit(call(task)).await, state, attempts, budget, least));
    }
    for (task, key, state, attempts, budget, least) in rows {
        let head = world.until_final(&key).await;
        assert_eq!((head.state, head.attempt, head.budget), (state, attempts, budget), "{task}");
        assert!(head.ended.since(EPOCH) >= Duration::from_secs(least), "{task}");
    }
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_may_report_the_end_and_then_answer() {
    for (then, closed_after) in [(Duration::from_millis(500), 500), (Duration::from_secs(50), 2_000)] {
        let world = World::new(move |_| Reply::Slow(Duration::from_secs(1) + then));
        world.worker("w", "*", 1).await;
        let node = world.start();
        let key = world.submit(call("t")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let reported = Instant::now();
        world.happen(&key, complete("\"reported\"")).await;
        // The worker's only slot is free again when its connection is.
        let other = world.submit(call("t")).await;
        world.until(&other, "started", |head| head.state == State::Running).await;
        let closed = world.pushes()[&key.id.to_string()][0].end.unwrap().duration_since(reported);
        assert!(closed.abs_diff(Duration::from_millis(closed_after)) < Duration::from_millis(100), "{closed:?}");
        let head = world.head(&key).await;
        assert_eq!((head.state, head.attempt, head.version), (State::Succeeded, 1, 3));
        assert_eq!(result(&world, &key).await, json!("reported"));
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_reported_is_tried_again_although_the_connection_is_open() {
    let world = World::new(|seen| if seen.attempt == 1 { Reply::Slow(Duration::from_secs(50)) } else { Reply::Status(200, "2") });
    world.worker("w", "*", 1).await;
    let node = world.start();
    let retry = Some(lovage_core::retry::RetryPolicy {
        min: "10ms".parse().unwrap(),
        max: "10ms".parse().unwrap(),
        ..Default::default()
    });
    let key = world.submit(Spec { retry, ..call("t") }).await;
    world.until_state(&key, State::Running).await;
    world
        .happen(&key, |head| Event::Answered {
            attempt: head.open_attempt(),
            outcome: Outcome::Retry { after: None, error: TaskError::new("E", "m") },
        })
        .await;
    let head = world.until_final(&key).await;
    assert_eq!((head.state, head.attempt), (State::Succeeded, 2));
    assert!(head.ended.since(EPOCH) < Duration::from_secs(5));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_request_says_where_to_report_and_until_when() {
    let world = World::new(|_| Reply::Status(200, "1"));
    world.worker("w", "*", 1).await;
    let urls = lovage_core::AttemptUrls::new("https://lovage.example.com", lovage_core::TokenKey::new(&[3; 32]));
    let options = Options { attempt_urls: Some(urls.clone()), ..Options::default() };
    let node = world.start_with(Arc::clone(&world.store), options);
    let key = world.submit(Spec { soft_time_limit: Some("20s".parse().unwrap()), ..call("t") }).await;
    world.until_final(&key).await;
    let seen = &world.pushes()[&key.id.to_string()][0];
    let url = seen.headers["lovage-attempt-url"].to_str().unwrap();
    let token = urls.read(url.strip_prefix("https://lovage.example.com/v1/attempts/").unwrap()).unwrap();
    assert_eq!((token.key, token.attempt.number), (key.clone(), 1));
    assert_eq!(seen.headers["lovage-soft-deadline"], EPOCH.after(Duration::from_secs(20)).rfc3339());
    assert!(!seen.headers.contains_key("lovage-resume"));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_told_of_cancels_and_time_limits() {
    let world = World::new(|seen| {
        if seen.headers.contains_key("lovage-task") {
            if seen.headers["lovage-task"] == "accepts" {
                return Reply::Header(202, "lovage-lease", "1h");
            }
            if seen.headers["lovage-task"] == "silent" {
                return Reply::Header(202, "lovage-lease", "10s");
            }
            return Reply::Slow(Duration::from_secs(3_600));
        }
        Reply::Status(204, "")
    });
    let config = lovage_core::worker::WorkerConfig {
        urls: vec!["http://127.0.0.1:9/".into()],
        tasks: vec!["*".into()],
        control_url: Some("http://127.0.0.1:9/control".into()),
        ..Default::default()
    };
    world.put(lovage_store::DocKind::Worker, "w", &config).await;
    let node = world.start();
    let once = || Some(lovage_core::retry::RetryPolicy { max_attempts: 1, ..Default::default() });
    let limits = |task: &str| Spec {
        soft_time_limit: Some("20s".parse().unwrap()),
        time_limit: Some("30s".parse().unwrap()),
        retry: once(),
        ..call(task)
    };
    let [slow, accepts] = [world.submit(limits("slow")).await, world.submit(limits("accepts")).await];
    let [stopped, called_off] = [world.submit(call("slow")).await, world.submit(call("accepts")).await];
    let overrun = world.submit(Spec { max_run: Some("40s".parse().unwrap()), retry: once(), ..call("accepts") }).await;
    let silent = world.submit(Spec { retry: once(), ..call("silent") }).await;
    world.until_state(&stopped, State::Running).await;
    world.until(&called_off, "accepted", accepted).await;
    world.cancel(&stopped, true).await;
    world.cancel(&called_off, false).await;
    for key in [&slow, &stopped, &called_off, &overrun, &silent] {
        world.until_final(key).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut told = Vec::new();
    for seen in world.transport.seen.lock().iter().filter(|seen| !seen.headers.contains_key("lovage-task")) {
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!((&body["attempt"], seen.attempt), (&json!(1), 1));
        told.push((body["type"].as_str().unwrap().to_owned(), body["id"].as_str().unwrap().to_owned()));
    }
    told.sort();
    let mut expected = vec![
        ("task.cancel".to_owned(), stopped.id.to_string()),
        ("task.cancel".to_owned(), called_off.id.to_string()),
        ("task.soft_timeout".to_owned(), slow.id.to_string()),
        ("task.soft_timeout".to_owned(), accepts.id.to_string()),
        ("task.hard_timeout".to_owned(), slow.id.to_string()),
        // A lease that runs out is a silence, no time limit.
        ("task.hard_timeout".to_owned(), overrun.id.to_string()),
    ];
    expected.sort();
    assert_eq!(told, expected);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_is_left_alone_and_then_tried_once() {
    let works_at = Instant::now() + Duration::from_secs(25);
    let world = World::new(move |_| {
        if Instant::now() < works_at {
            Reply::Fault(lovage_dispatcher::egress::FaultKind::Refused)
        } else {
            Reply::Status(200, "1")
        }
    });
    world.worker("w", "*", 10).await;
    let node = world.start();
    let mut keys = Vec::new();
    for _ in 0..20 {
        keys.push(world.submit(call("t")).await);
    }
    for key in &keys {
        assert_eq!(world.until_final(key).await.state, State::Succeeded);
    }
    let starts: Vec<u64> =
        world.transport.seen.lock().iter().map(|s| (s.start + Duration::from_secs(25) - works_at).as_secs()).collect();
    let at = |second: u64| starts.iter().filter(|start| **start == second).count();
    // Those that were open together, a trial after ten seconds, and the one after twenty more, which works.
    assert!((5..=10).contains(&at(0)), "{starts:?}");
    assert_eq!((at(10), starts.iter().filter(|start| (1..30).contains(*start)).count()), (1, 1), "{starts:?}");
    assert_eq!(starts.iter().filter(|start| **start >= 30).count(), 20, "{starts:?}");
    assert!(starts.iter().all(|start| *start < 32), "{starts:?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_accepted_task_is_canceled_after_its_grace_or_at_once() {
    let world = World::new(|_| Reply::Header(202, "lovage-lease", "1h"));
    world.worker("w", "*", 4).await;
    let node = world.start();
    for (hard, after) in [(false, 10), (true, 0)] {
        let key = world.submit(call("t")).await;
        world.until(&key, "accepted", accepted).await;
        let asked = world.store.clock().now();
        world.cancel(&key, hard).await;
        let head = world.until_final(&key).await;
        assert_eq!((head.state, head.reason), (State::Canceled, Reason::Requested));
        let took = head.ended.since(asked);
        assert!(took >= Duration::from_secs(after) && took < Duration::from_millis(after * 1000 + 200), "{took:?}");
        assert!(head.flags.has(Flags::CANCEL) || hard);
    }
    node.stop().await;
}
