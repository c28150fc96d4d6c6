//! Trees and explanations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use lovage_core::board::{Board, InstanceBoard, WorkerBoard};
use lovage_core::problem::Code;
use lovage_core::standing::{BreakerState, Standing, Standings};
use lovage_core::{Event, Millis, Ns, Outcome, Partition, Reason, SessionId, TaskError};
use lovage_store::{OwnRequest, Store, Want};
use serde_json::{Value, json};

use crate::harness::{Harness, options};

const START: u64 = 1_800_000_000_000;

fn at(seconds: u64) -> String {
    Millis(START + seconds * 1_000).rfc3339()
}

/// Workers that are as the test says.
struct Scripted(BTreeMap<&'static str, Standing>);

impl Standings for Scripted {
    fn worker(&self, ns: Ns, name: &str, origin: bool, _: Millis) -> Option<WorkerBoard> {
        let standing = self.0.get(name)?;
        let of = |n| InstanceBoard {
            url: format!("http://a.example/{n}"),
            open: if n == 0 { standing.open } else { 0 },
            slots: if n == 0 { standing.slots } else { 0 },
            ..InstanceBoard::default()
        };
        Some(WorkerBoard {
            ns,
            name: name.to_owned(),
            origin,
            instances: (0..standing.instances).map(of).collect(),
            breaker: standing.breaker,
            paused_until: standing.paused_until,
            ..WorkerBoard::default()
        })
    }
}

const FREE: Standing =
    Standing { instances: 2, open: 1, slots: 200, breaker: BreakerState::Closed, paused_until: None, effective_rate: None };

fn knowing(standings: &[(&'static str, Standing)]) -> Harness {
    let mut options = options();
    options.standings = Some(Arc::new(Scripted(standings.iter().copied().collect())));
    Harness::with(options, |_| ())
}

async fn worker(h: &Harness, name: &str, tasks: &str) {
    let body = format!(r#"{{"url":"http://a.example/{name}","tasks":["{tasks}"]}}"#);
    let reply = h.call(Method::PUT, &format!("/v1/workers/{name}"), &[("content-type", "application/json")], body).await;
    assert_eq!(reply.status, 201, "{:?}", reply.bytes);
}

/// As a dispatcher does.
async fn own(h: &Harness, want: Want) {
    for p in (0..h.store.caps().partitions).map(Partition) {
        let lease = Duration::from_secs(3_600);
        h.store.own(p, OwnRequest { session: SessionId(1), want, lease, drop: Vec::new() }).await.unwrap();
    }
}

/// Where a dispatcher is at work.
async fn explained(h: &Harness, id: &str) -> Value {
    own(h, Want::Own).await;
    explained_as_is(h, id).await
}

async fn explained_as_is(h: &Harness, id: &str) -> Value {
    let reply = h.get(&format!("/v1/tasks/{id}/explain")).await;
    assert_eq!(reply.status, 200, "{:?}", reply.bytes);
    reply.json()
}

/// Codes of the causes.
fn codes(explanation: &Value) -> Vec<&str> {
    explanation["causes"].as_array().unwrap().iter().map(|cause| cause["code"].as_str().unwrap()).collect()
}

fn says(explanation: &Value, words: &str) {
    let text = explanation["text"].as_str().unwrap();
    assert!(text.contains(words), "{text:?} does not say {words:?}");
}

#[tokio::test]
async fn waiting_tasks_say_until_when() {
    let h = Harness::new();
    let later = h.submit(r#"{"task":"a","delay":"60s","expires_in":"120s"}"#).await;
    let said = explained(&h, &later).await;
    assert_eq!((codes(&said), &said["next_at"], &said["state"]), (vec!["scheduled"], &json!(at(60)), &json!("scheduled")));
    says(&said, &at(60));
    says(&said, &format!("expires at {}", at(120)));
    h.happen(&later, Event::Hold).await;
    let said = explained(&h, &later).await;
    assert_eq!((codes(&said), &said["next_at"]), (vec!["held", "scheduled"], &Value::Null));

    let retry = r#"{"task":"a","retry":{"backoff":"fixed","min":"30s","jitter":"none","max_attempts":3}}"#;
    for (outcome, reason, seconds) in [
        (Outcome::Retry { after: None, error: TaskError::new("Flaky", "try again.") }, "backoff", 30),
        (Outcome::Snooze { after: Duration::from_secs(5) }, "snoozed", 5),
    ] {
        let id = h.submit(retry).await;
        h.finish(&id, outcome).await;
        let said = explained(&h, &id).await;
        assert_eq!((codes(&said), &said["reason"], &said["next_at"]), (vec![reason], &json!(reason), &json!(at(seconds))));
        says(&said, &format!("attempt 2 is due at {}", at(seconds)));
        says(&said, "of 3 charged attempts are left");
        assert_eq!(said["text"].as_str().unwrap().contains("Flaky: try again."), reason == "backoff");
    }
    h.get("/v1/tasks/none/explain").await.is_problem(Code::TaskUnknown);
    h.get(&format!("/v1/tasks/{later}/explain?deep=1")).await.is_problem(Code::UnknownField);
}

#[tokio::test]
async fn queued_tasks_say_who_would_get_them_and_what_keeps_them() {
    let standing = |name, standing| (name, standing);
    let until = Some(Millis(START + 20_000));
    let h = knowing(&[
        standing("fine", FREE),
        standing("busy", Standing { open: 200, ..FREE }),
        standing("broken", Standing { breaker: BreakerState::Open, paused_until: until, ..FREE }),
        standing("trying", Standing { breaker: BreakerState::HalfOpen, ..FREE }),
        standing("slow", Standing { paused_until: until, ..FREE }),
        standing("empty", Standing { instances: 0, open: 0, slots: 0, ..FREE }),
        standing("http://bare.example", Standing { breaker: BreakerState::Open, paused_until: until, ..FREE }),
    ]);
    for name in ["fine", "busy", "broken", "trying", "slow", "empty"] {
        worker(&h, name, &format!("{name}.*")).await;
    }
    let table: [(&str, &[&str], Option<u64>); 7] = [
        ("fine", &[], None),
        ("busy", &["concurrency"], None),
        ("broken", &["breaker"], Some(20)),
        ("trying", &["breaker"], None),
        ("slow", &["throttled"], Some(20)),
        ("empty", &["no_worker"], None),
        ("nobody", &["no_worker"], None),
    ];
    for (name, causes, seconds) in table {
        let id = h.submit(&format!(r#"{{"task":"{name}.x"}}"#)).await;
        let said = explained(&h, &id).await;
        assert_eq!(codes(&said), causes, "{said}");
        assert_eq!(said["reason"], causes.first().copied().unwrap_or("ready"), "{said}");
        assert_eq!(said["next_at"], seconds.map_or(Value::Null, |seconds| json!(at(seconds))), "{said}");
        let named = if name == "nobody" { Value::Null } else { json!(name) };
        assert_eq!(said["worker"]["name"], named, "{said}");
        assert_eq!(
            said["lane"],
            json!({"queue": "default", "task": format!("{name}.x"), "origin": null, "ahead": 0, "more": false, "higher": 0, "higher_more": false})
        );
    }
    let id = h.submit(r#"{"url":"http://bare.example/x"}"#).await;
    let said = explained(&h, &id).await;
    assert_eq!((codes(&said), &said["lane"]["origin"]), (vec!["breaker"], &json!("http://bare.example")));
    let batched = h.submit(r#"{"task":"fine.y","batch":{"key":"k","max_wait":"70ms"}}"#).await;
    assert_eq!(explained(&h, &batched).await["reason"], "ready", "the worker takes them one by one");
    let json = [("content-type", "application/json")];
    h.call(Method::PATCH, "/v1/workers/fine", &json, r#"{"batch":{"max":2}}"#).await;
    let said = explained(&h, &batched).await;
    assert_eq!(said["reason"], "batching");
    says(&said, "70ms");
}

#[tokio::test]
async fn a_worker_that_pulls_is_waited_for_by_nobody() {
    // What a dispatcher says of it does not count.
    let h = knowing(&[("gpu", Standing { instances: 0, open: 0, slots: 0, ..FREE })]);
    let json = [("content-type", "application/json")];
    h.call(Method::PUT, "/v1/workers/gpu", &json, r#"{"pull":true,"tasks":["render.*"]}"#).await;
    let id = h.submit(r#"{"task":"render.a","batch":{"key":"k"}}"#).await;
    let said = explained(&h, &id).await;
    assert_eq!((codes(&said), &said["reason"]), (vec![], &json!("ready")));
    assert_eq!((&said["worker"]["name"], &said["worker"]["instances"]), (&json!("gpu"), &Value::Null));
    says(&said, "Worker `gpu` takes its tasks itself and gets it when it asks");
    let taken = h.post("/v1/leases", r#"{"worker":"gpu","lease":"30s","wait":"5s"}"#).await.json();
    assert_eq!(taken["items"][0]["id"], json!(id));
    let said = explained(&h, &id).await;
    assert_eq!((codes(&said), &said["next_at"]), (vec!["accepted"], &json!(at(30))));
}

#[tokio::test]
async fn a_worker_shows_until_when_and_why_it_is_left_alone() {
    let until = Some(Millis(START + 20_000));
    let broken = Standing { breaker: BreakerState::Open, paused_until: until, ..FREE };
    let h = knowing(&[("slow", Standing { paused_until: until, ..FREE }), ("broken", broken), ("fine", FREE)]);
    for (name, shown) in [
        ("slow", (json!(at(20)), json!("throttled"))),
        ("broken", (json!(at(20)), json!("breaker"))),
        ("fine", (Value::Null, Value::Null)),
        ("unseen", (Value::Null, Value::Null)),
    ] {
        worker(&h, name, &format!("{name}.*")).await;
        let again = format!(r#"{{"url":"http://b.example","tasks":["{name}.*"]}}"#);
        let path = format!("/v1/workers/{name}");
        let put = h.call(Method::PUT, &path, &[("content-type", "application/json")], again).await.json();
        for seen in [put, h.get(&path).await.json()] {
            assert_eq!((&seen["paused_until"], &seen["paused_because"]), (&shown.0, &shown.1), "{name}");
        }
    }
    assert_eq!(h.get("/v1/workers").await.json()["items"][0]["paused_because"], "breaker");
}

#[tokio::test]
async fn the_place_in_the_lane_is_counted_up_to_a_thousand() {
    let h = Harness::with(options(), |memory| memory.partitions = 1);
    let mut ids: Vec<String> = Vec::new();
    for count in [1_000, 2] {
        let items = vec![r#"{"task":"a"}"#; count].join(",");
        let reply = h.post("/v1/tasks:batch", format!("[{items}]")).await.json();
        ids.extend(reply["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
    }
    h.happen(&ids[3], Event::Hold).await;
    let place = |said: &Value| (said["lane"]["ahead"].as_u64().unwrap(), said["lane"]["more"] == true);
    assert_eq!(place(&explained(&h, &ids[0]).await), (0, false));
    let said = explained(&h, &ids[1]).await;
    assert_eq!(place(&said), (1, false));
    says(&said, "One task of its lane is before it.");
    // One that is held lets others pass.
    assert_eq!(place(&explained(&h, &ids[10]).await), (9, false));
    assert_eq!(place(&explained(&h, &ids[1_000]).await), (999, false));
    let said = explained(&h, &ids[1_001]).await;
    assert_eq!(place(&said), (999, true));
    says(&said, "More than 999 tasks of its lane are before it.");
    assert_eq!(codes(&explained(&h, &ids[3]).await), ["held", "no_worker"]);
}

#[tokio::test]
async fn running_and_final_tasks_say_since_when_and_how() {
    let h = Harness::new();
    worker(&h, "w", "a").await;
    crate::harness::until("the worker is known", async || {
        let id = h.submit(r#"{"task":"a"}"#).await;
        h.start(&id).await;
        h.get(&format!("/v1/tasks/{id}")).await.json()["worker"] == "w"
    })
    .await;
    let id = h.submit(r#"{"task":"a","time_limit":"40s"}"#).await;
    h.start(&id).await;
    let said = explained(&h, &id).await;
    assert_eq!((codes(&said), &said["next_at"], &said["worker"]["name"]), (vec!["dispatched"], &json!(at(40)), &json!("w")));
    says(&said, &format!("Attempt 1 has been running at worker `w` since {}", at(0)));
    h.happen(&id, Event::Cancel { hard: false, reason: Reason::Requested, grace: Duration::ZERO }).await;
    says(&explained(&h, &id).await, "A soft cancel was asked for");

    let accepted = h.submit(r#"{"task":"a"}"#).await;
    h.finish(&accepted, Outcome::Accepted { lease: Some(Duration::from_secs(300)) }).await;
    let said = explained(&h, &accepted).await;
    assert_eq!((codes(&said), &said["next_at"]), (vec!["accepted"], &json!(at(300))));

    let done = h.submit(r#"{"task":"a"}"#).await;
    h.succeed(&done, "1").await;
    let said = explained(&h, &done).await;
    assert_eq!((codes(&said).len(), &said["next_at"]), (0, &Value::Null));
    says(&said, &format!("It succeeded at {}, at attempt 1: its worker said so.", at(0)));
    let failed = h.submit(r#"{"task":"a"}"#).await;
    h.finish(&failed, Outcome::Permanent { error: TaskError::new("ValueError", "no good") }).await;
    says(&explained(&h, &failed).await, "another attempt is useless. The error was ValueError: no good.");
    let off = h.submit(r#"{"task":"a"}"#).await;
    h.happen(&off, Event::Cancel { hard: false, reason: Reason::Requested, grace: Duration::ZERO }).await;
    says(&explained(&h, &off).await, "It was canceled at");
    says(&explained(&h, &off).await, "without an attempt: somebody asked for it.");
}

#[tokio::test]
async fn a_tree_of_one_is_its_root() {
    let h = Harness::new();
    h.submit(r#"{"task":"a","id":"alone","name":"my \"task\""}"#).await;
    let tree = h.get("/v1/tasks/alone/tree").await.json();
    assert_eq!((&tree["root"], &tree["truncated"], tree["nodes"].as_array().unwrap().len()), (&json!("alone"), &json!(false), 1));
    let node = &tree["nodes"][0];
    assert_eq!((&node["kind"], &node["parent"], &node["state"]), (&json!("root"), &Value::Null, &json!("queued")));
    for (format, kind, words) in [
        ("dot", "text/vnd.graphviz; charset=utf-8", r#"label="my \"task\"\nqueued""#),
        ("mermaid", "text/vnd.mermaid; charset=utf-8", "my #34;task#34;"),
    ] {
        let reply = h.get(&format!("/v1/tasks/alone/tree?format={format}")).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, kind));
        let text = String::from_utf8(reply.bytes.to_vec()).unwrap();
        assert!(text.contains(words), "{text}");
    }
    h.get("/v1/tasks/alone/tree?format=png").await.is_problem(Code::InvalidField);
    h.get("/v1/tasks/none/tree").await.is_problem(Code::TaskUnknown);
}

#[tokio::test]
async fn a_tree_shows_callbacks_and_is_bounded() {
    let mut options = options();
    options.limits.tree_tasks = 2;
    let h = Harness::with(options, |_| ());
    let callbacks = r#""callbacks":{"on_success":"http://a.example/1","on_terminal":"http://a.example/2"}"#;
    h.submit(&format!(r#"{{"task":"a","id":"p",{callbacks}}}"#)).await;
    h.call(Method::POST, "/v1/tasks/p/cancel", &[], "").await;
    let tree = h.get("/v1/tasks/p/tree").await.json();
    let nodes = tree["nodes"].as_array().unwrap();
    assert_eq!((nodes.len(), &tree["truncated"]), (2, &json!(false)));
    assert_eq!(
        (&nodes[1]["kind"], &nodes[1]["callback"], &nodes[1]["parent"]),
        (&json!("callback"), &json!("terminal"), &json!("p"))
    );
    // Asked of any of its tasks, the tree is the same.
    let member = nodes[1]["id"].as_str().unwrap();
    assert_eq!(h.get(&format!("/v1/tasks/{member}/tree")).await.json(), tree);
    h.call(Method::DELETE, "/v1/tasks/p", &[], "").await;
    let orphaned = h.get(&format!("/v1/tasks/{member}/tree")).await.json();
    assert_eq!((&orphaned["root"], orphaned["nodes"].as_array().unwrap().len()), (&json!("p"), 1));
}

#[tokio::test]
async fn a_task_without_a_dispatcher_says_so() {
    let h = Harness::new();
    worker(&h, "fine", "fine.*").await;
    let id = h.submit(r#"{"task":"fine.x"}"#).await;
    let said = explained_as_is(&h, &id).await;
    assert_eq!((codes(&said), &said["reason"]), (vec!["no_dispatcher"], &json!("no_dispatcher")));
    says(&said, "No dispatcher looks after its partition");
    assert_eq!(explained(&h, &id).await["reason"], "ready");
    own(&h, Want::Release).await;
    assert_eq!(explained_as_is(&h, &id).await["reason"], "no_dispatcher");
}

#[tokio::test]
async fn a_task_that_may_wait_for_room_among_the_keys_of_limits_says_so() {
    // Its partition is owned by the first session.
    for (session, reason) in [(1, "limit_keys"), (2, "ready")] {
        let h = Harness::new();
        let board = Board { node: session, lacks_keys: true, ..Board::default() };
        h.store.publish(SessionId(session), Some(board.encode(10_000).into())).await.unwrap();
        worker(&h, "fine", "fine.*").await;
        let id = h.submit(r#"{"task":"fine.x"}"#).await;
        let other = h.submit(r#"{"task":"nobody"}"#).await;
        let said = explained(&h, &id).await;
        assert_eq!((&said["reason"], said["estimated_start"].is_null()), (&json!(reason), session == 1));
        assert_eq!(said["text"].as_str().unwrap().contains("`dispatcher.limits`"), session == 1, "{said}");
        assert_eq!(codes(&explained(&h, &other).await), ["no_worker"], "what holds it is known");
    }
}
