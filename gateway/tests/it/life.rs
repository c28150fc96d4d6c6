//! Verbs on one task where a real server is not needed: trees larger than a page, and a store that fails half-way.

use axum::http::Method;
use lovage_core::problem::Code;
use lovage_core::{AttemptToken, Draft, Event, Millis, Ns, Outcome, Partition, Spec, State, TaskError, TaskId, TaskKey, Then};
use lovage_store::wrap::{Fault, Verb};
use lovage_store::{FeedPos, Message, Mode, Store};
use serde_json::{Value, json};

use crate::harness::{Harness, options, until};

/// A task that waits for this many children.
async fn parent(h: &Harness, id: &str, children: usize) {
    let child = |_| Draft { spec: Spec { task: Some("child".into()), ..Spec::default() }, ..Draft::default() };
    h.finish(id, Outcome::Spawn { tasks: (0..children).map(child).collect(), then: Then::Wait, result: None }).await;
}

async fn members(h: &Harness, root: &str, state: &str) -> Vec<Value> {
    h.get(&format!("/v1/tasks?root={root}&state={state}&limit=1000")).await.json()["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_cancel_reaches_a_tree_of_many_pages() {
    let h = Harness::new();
    let top = h.submit(r#"{"task":"a","id":"top"}"#).await;
    parent(&h, &top, 450).await;
    let mid = members(&h, &top, "queued").await[7]["id"].as_str().unwrap().to_owned();
    parent(&h, &mid, 450).await;
    let canceled = h.post(&format!("/v1/tasks/{mid}/cancel"), "").await.json();
    assert_eq!((&canceled["state"], &canceled["reason"]), (&json!("canceled"), &json!("requested")));
    let below = members(&h, &top, "canceled").await;
    assert_eq!(below.len(), 451);
    assert!(below.iter().all(|task| task["id"] == json!(mid) || task["parent"] == json!(mid)));
    assert_eq!(members(&h, &top, "queued").await.len(), 449);
    assert_eq!(h.post(&format!("/v1/tasks/{top}/cancel"), "").await.status, 200);
    assert_eq!((members(&h, &top, "canceled").await.len(), members(&h, &top, "queued").await.len()), (900, 0));
}

/// Children with orders of their own live in other partitions, or are on their way there: nobody delivers here.
#[tokio::test]
async fn a_cancel_reaches_what_lives_elsewhere_or_is_on_its_way() {
    let h = Harness::with(options(), |memory| memory.partitions = 16);
    let key = |id: &str| TaskKey::new(Ns::DEFAULT, TaskId::parse(id).unwrap());
    let ordered = |key: String| Draft {
        spec: Spec { task: Some("child".into()), order_key: Some(key), ..Spec::default() },
        ..Draft::default()
    };
    let spawn = async |id: &str, keys: std::ops::Range<u32>, then| {
        let tasks = keys.map(|n| ordered(format!("{n}xyz"))).collect();
        h.finish(id, Outcome::Spawn { tasks, then, result: None }).await;
    };
    let on_their_way = async || {
        let mut waiting = 0;
        for p in 0..16 {
            let page = h.store.outbox(Partition(p), FeedPos::default(), 100).await.unwrap();
            waiting += page.messages.iter().filter(|sent| matches!(sent.content, Some((_, Message::Insert(_))))).count();
        }
        waiting
    };
    let deliver = async || {
        for p in 0..16 {
            for sent in h.store.outbox(Partition(p), FeedPos::default(), 100).await.unwrap().messages {
                if let Some((to, Message::Insert(task))) = sent.content {
                    h.store.insert(to.partition(16), vec![*task], Mode::Each).await.unwrap();
                }
                h.store.delivered(Partition(p), &[sent.pos]).await.unwrap();
            }
        }
    };
    let top = h.submit(r#"{"task":"a"}"#).await;
    spawn(&top, 0..20, Then::Wait).await;
    assert!(on_their_way().await > 15);
    deliver().await;
    let first = members(&h, &top, "queued").await;
    assert_eq!(first.len(), 20);
    let homes: std::collections::HashSet<_> =
        first.iter().map(|task| key(task["id"].as_str().unwrap()).slot().partition(16)).collect();
    assert!(homes.len() > 5, "{homes:?}");
    // One that is over has left some behind; below another there are grandchildren that are on their way.
    let (over, mid) = (first[3]["id"].as_str().unwrap(), first[11]["id"].as_str().unwrap());
    spawn(over, 20..40, Then::Detach).await;
    spawn(mid, 40..60, Then::Wait).await;
    let sent = on_their_way().await;
    assert!(sent > 30);
    let tree = h.get(&format!("/v1/tasks/{top}/tree")).await.json();
    let shown = tree["nodes"].as_array().unwrap();
    assert_eq!((shown[0]["id"].as_str(), shown.len()), (Some(&*top), 1 + 20 + 40 - sent));
    let only_mid = h.post(&format!("/v1/tasks/{mid}/cancel"), "").await;
    assert_eq!((only_mid.status.as_u16(), &only_mid.json()["state"]), (200, &json!("canceled")));
    let canceled = members(&h, &top, "canceled").await;
    assert_eq!(canceled.len(), 1 + 20, "it and what it has started");
    assert!(canceled.iter().all(|task| task["id"] == mid || task["parent"] == mid));
    assert_eq!(h.post(&format!("/v1/tasks/{top}/cancel"), "").await.status, 200);
    assert_eq!((members(&h, &top, "canceled").await.len(), members(&h, &top, "queued").await.len()), (19 + 40, 0));
    // What is delivered now is there already.
    deliver().await;
    assert_eq!((members(&h, &top, "canceled").await.len(), members(&h, &top, "queued").await.len()), (19 + 40, 0));
    assert_eq!(h.get(&format!("/v1/tasks/{top}/tree")).await.json()["nodes"].as_array().unwrap().len(), 1 + 20 + 40);
}

#[tokio::test]
async fn a_replacement_has_the_order_key_of_its_task() {
    let h = Harness::new();
    let id = h.submit(r#"{"task":"a","order_key":"k"}"#).await;
    h.start(&id).await;
    let key = TaskKey::new(Ns::DEFAULT, TaskId::parse(&id).unwrap());
    let head = h.store.heads(Partition(0), std::slice::from_ref(&key)).await.unwrap().remove(0).unwrap();
    let token = AttemptToken::of(&key, &head);
    let url = options().attempt_urls.write(&token);
    let path = url.strip_prefix("http://localhost").unwrap();
    let report = async |verb: &str, body: Value| h.post(&format!("{path}/{verb}"), body.to_string()).await;
    let refused =
        report("replace", json!({"replacement": {"task": "b", "order_key": "other"}})).await.is_problem(Code::InvalidField);
    assert_eq!(refused["errors"][0]["pointer"], "/replacement/order_key");
    let refused =
        report("spawn", json!({"tasks": [{"task": "b"}, {"task": "b", "order_key": "k"}]})).await.is_problem(Code::InvalidField);
    assert_eq!(refused["errors"][0]["pointer"], "/tasks/1/order_key");
    assert_eq!(in_state(&h, &id).await, "running");
    assert_eq!(report("replace", json!({"replacement": {"task": "b", "order_key": "k"}})).await.status, 200);
    let record = h.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!((&record["task"], &record["order_key"], &record["generation"]), (&json!("b"), &json!("k"), &json!(1)));
}

#[tokio::test]
async fn a_cancel_that_fails_half_way_can_be_repeated() {
    let h = Harness::new();
    let top = h.submit(r#"{"task":"a","id":"top"}"#).await;
    parent(&h, &top, 3).await;
    // The first commit is that of the task itself.
    h.faulty.script(Verb::Commit, [None, Some(Fault::Before)]);
    h.post("/v1/tasks/top/cancel", "").await.is_problem(Code::StoreUnavailable);
    assert_eq!(
        (h.get("/v1/tasks/top").await.json()["state"].clone(), members(&h, &top, "queued").await.len()),
        (json!("canceled"), 3)
    );
    assert_eq!(h.post("/v1/tasks/top/cancel", "").await.status, 200);
    assert_eq!(members(&h, &top, "canceled").await.len(), 3);
    h.post("/v1/tasks/top/cancel", "").await.is_problem(Code::WrongState);
}

#[tokio::test]
async fn verbs_are_503_when_the_store_is_away() {
    let h = Harness::new();
    h.submit(r#"{"task":"a","id":"t"}"#).await;
    h.faulty.set_away(true);
    for verb in ["run", "retry", "hold", "release", "replay", "cancel"] {
        h.post(&format!("/v1/tasks/t/{verb}"), "").await.is_problem(Code::StoreUnavailable);
    }
    let json = [("content-type", "application/json")];
    h.call(Method::PATCH, "/v1/tasks/t", &json, "{}").await.is_problem(Code::StoreUnavailable);
    h.call(Method::DELETE, "/v1/tasks/t/result", &[], "").await.is_problem(Code::StoreUnavailable);
}

async fn in_state(h: &Harness, id: &str) -> String {
    h.get(&format!("/v1/tasks/{id}")).await.json()["state"].as_str().unwrap_or("none").to_owned()
}

/// The ids of the children that are queued, in order.
async fn queued(h: &Harness, root: &str) -> Vec<String> {
    let mut ids: Vec<String> =
        members(h, root, "queued").await.iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect();
    ids.retain(|id| id != root);
    ids.sort();
    ids
}

fn permanent() -> Outcome {
    Outcome::Permanent { error: TaskError::new("Bad", "no") }
}

async fn is_refused(h: &Harness, method: Method, path: &str, words: &str) {
    let reply = h.call(method, path, &[], "").await;
    reply.is_problem(Code::WrongState);
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(words), "{path}: {detail}");
}

#[tokio::test]
async fn a_child_stays_as_it_ended_for_as_long_as_its_parent_needs_it() {
    let h = Harness::new();
    h.submit(r#"{"task":"a","id":"top"}"#).await;
    parent(&h, "top", 3).await;
    let [bad, good, last] = queued(&h, "top").await.try_into().unwrap();
    h.finish(&bad, permanent()).await;
    h.succeed(&good, "1").await;
    // While it waits, and while it is called again: that may happen more than once.
    for resumed in [false, true] {
        if resumed {
            h.succeed(&last, "2").await;
            h.happen("top", Event::Due).await;
            h.finish("top", Outcome::Retry { after: None, error: TaskError::new("Once", "more") }).await;
        }
        assert_eq!(in_state(&h, "top").await, if resumed { "retrying" } else { "blocked" });
        is_refused(&h, Method::POST, &format!("/v1/tasks/{bad}/retry"), "its parent top waits for it").await;
        is_refused(&h, Method::DELETE, &format!("/v1/tasks/{bad}"), "cannot be deleted").await;
        is_refused(&h, Method::DELETE, &format!("/v1/tasks/{good}/result"), "top").await;
        for (path, ids) in [
            ("/v1/tasks:retry", json!([bad])),
            ("/v1/dead-letters:retry", json!([bad])),
            ("/v1/tasks:delete", json!([bad, good])),
        ] {
            for dry_run in [true, false] {
                let tally = h.post(path, json!({"ids": ids, "dry_run": dry_run}).to_string()).await.json();
                assert_eq!((&tally["changed"], &tally["failed"]), (&json!(0), &json!(ids.as_array().unwrap().len())), "{tally}");
                assert_eq!(tally["errors"][0]["code"], "wrong_state");
            }
        }
    }
    h.happen("top", Event::RunNow).await;
    h.succeed("top", "3").await;
    assert_eq!(h.post(&format!("/v1/tasks/{bad}/retry"), "").await.status, 200);
    assert_eq!(h.call(Method::DELETE, &format!("/v1/tasks/{good}"), &[], "").await.status, 204);
}

#[tokio::test]
async fn children_of_an_earlier_round_are_free_and_arrive_nowhere() {
    let h = Harness::new();
    h.submit(r#"{"task":"a","id":"top"}"#).await;
    parent(&h, "top", 2).await;
    let first = queued(&h, "top").await;
    for child in &first {
        h.finish(child, permanent()).await;
    }
    h.happen("top", Event::Due).await;
    parent(&h, "top", 2).await;
    let second = queued(&h, "top").await;
    // They had the places in the first barrier that their younger siblings have in the second.
    for child in &first {
        assert_eq!(h.post(&format!("/v1/tasks/{child}/retry"), "").await.status, 200);
        h.succeed(child, "1").await;
    }
    let key = TaskKey::new(Ns::DEFAULT, TaskId::parse("top").unwrap());
    let head = async || {
        let p = key.slot().partition(h.store.caps().partitions);
        h.store.heads(p, std::slice::from_ref(&key)).await.unwrap().remove(0).unwrap()
    };
    assert_eq!((head().await.state, head().await.deadline), (State::Blocked, Millis(0)));
    for child in &second {
        h.succeed(child, "2").await;
    }
    assert_ne!(head().await.deadline, Millis(0));
}

#[tokio::test]
async fn a_task_is_retried_255_times_and_then_replayed() {
    let h = Harness::new();
    h.submit(r#"{"task":"a","id":"t"}"#).await;
    h.finish("t", permanent()).await;
    for generation in 1..=255 {
        let again = h.post("/v1/tasks/t/retry", "").await.json();
        assert_eq!((&again["state"], &again["generation"]), (&json!("queued"), &json!(generation)));
        h.finish("t", permanent()).await;
    }
    is_refused(&h, Method::POST, "/v1/tasks/t/retry", "255 times").await;
    let tally = h.post("/v1/dead-letters:retry", r#"{"ids":["t"]}"#).await.json();
    assert_eq!((&tally["failed"], &tally["errors"][0]["code"]), (&json!(1), &json!("wrong_state")));
    assert_eq!(h.post("/v1/tasks/t/replay", "").await.status, 202);
}

#[tokio::test]
async fn a_cancel_of_a_large_tree_goes_on_behind_its_answer() {
    for (cascades, within) in [(1, false), (1, true), (0, false)] {
        let mut options = options();
        (options.limits.cascade_tasks, options.limits.cascades) = (200, cascades);
        let h = Harness::with(options, |_| ());
        h.submit(r#"{"task":"a","id":"top"}"#).await;
        parent(&h, "top", 1).await;
        let mid = queued(&h, "top").await.remove(0);
        parent(&h, &mid, 700).await;
        let top = if within { mid.as_str() } else { "top" };
        let reply = h.post(&format!("/v1/tasks/{top}/cancel"), "").await;
        if cascades == 0 {
            reply.is_problem(Code::Overloaded);
            assert_eq!((in_state(&h, "top").await, members(&h, "top", "queued").await.len()), ("canceled".into(), 501));
            continue;
        }
        assert_eq!((reply.status.as_u16(), &reply.json()["state"]), (202, &json!("canceled")));
        until("the end of the cascade", async || members(&h, "top", "queued").await.is_empty()).await;
        assert_eq!(members(&h, "top", "canceled").await.len(), 701);
    }
}
