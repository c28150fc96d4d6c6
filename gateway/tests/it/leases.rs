//! Tasks taken by workers that cannot be called.

use std::collections::HashSet;
use std::time::Duration;

use axum::http::Method;
use lovage_core::problem::Code;
use lovage_core::{AttemptUrls, Event, TokenKey};
use serde_json::{Value, json};

use crate::harness::{Harness, settle, until};

/// A gateway with a worker `p` that pulls the tasks `t` and `u-*`.
async fn harness() -> Harness {
    let h = Harness::new();
    register(&h, "p", &json!({"pull": true, "tasks": ["t", "u-*"]})).await;
    h
}

async fn register(h: &Harness, name: &str, settings: &Value) {
    let path = format!("/v1/workers/{name}");
    let reply = h.call(Method::PUT, &path, &[("content-type", "application/json")], settings.to_string()).await;
    assert!(reply.status.is_success(), "{:?}", reply.bytes);
}

async fn lease(h: &Harness, wish: &Value) -> Vec<Value> {
    let reply = h.post("/v1/leases", wish.to_string()).await;
    assert_eq!(reply.status, 200, "{:?}", reply.bytes);
    reply.json()["items"].as_array().unwrap().clone()
}

/// As soon as the gateway knows the worker.
async fn lease_one(h: &Harness) -> Value {
    lease(h, &json!({"worker": "p", "wait": "20s"})).await.pop().expect("there is a task")
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_task_is_taken_with_all_that_its_worker_needs() {
    let h = harness().await;
    let id = h
        .submit(r#"{"task":"t","args":[1.50],"kwargs":{"a":"b"},"labels":{"k":"v"},"soft_time_limit":"10s","retry":{"max_attempts":3}}"#)
        .await;
    let item = lease_one(&h).await;
    let url = item["attempt_url"].as_str().unwrap();
    let token = AttemptUrls::new("http://localhost", TokenKey::new(&[7; 32])).read(url.rsplit('/').next().unwrap()).unwrap();
    assert_eq!((token.key.id.to_string(), token.attempt.number), (id.clone(), 1));
    let expected = json!({
        "id": id, "task": "t", "queue": "default", "args": [1.50], "kwargs": {"a": "b"}, "attempt": 1, "max_attempts": 3,
        "attempt_url": url, "deadline": "2027-01-15T08:05:00.000Z", "soft_deadline": "2027-01-15T08:00:10.000Z",
        "parent": null, "root": null, "labels": {"k": "v"},
    });
    assert_eq!(item, expected);
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("content-type", "application/json"), ("traceparent", parent)];
    assert_eq!(h.call(Method::POST, "/v1/tasks", &headers, r#"{"task":"t"}"#).await.status, 202);
    let traced = lease_one(&h).await;
    assert_eq!((&traced["traceparent"], traced.get("tracestate")), (&json!(parent), None));
    let record = h.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!((&record["state"], &record["reason"], &record["attempt"]), (&json!("running"), &json!("accepted"), &json!(1)));
    assert_eq!(record["worker"], "p");
    assert!(lease(&h, &json!({"worker": "p"})).await.is_empty(), "nobody gets it twice");
    // Its report is taken as that of any accepted attempt.
    let outcome = lovage_core::Outcome::Success { content_type: None, body: None };
    h.happen(&id, Event::Answered { attempt: token.attempt, outcome }).await;
    assert_eq!(h.get(&format!("/v1/tasks/{id}/attempts")).await.json()["items"][0]["outcome"], "succeeded");
}

#[tokio::test]
async fn payloads_come_as_what_they_are() {
    let h = harness().await;
    for (content_type, payload, expected) in [
        ("application/json", &b"[1, 2]"[..], json!({"payload": [1, 2], "content_type": "application/json"})),
        ("text/plain", b"x\"y", json!({"payload": "x\"y", "content_type": "text/plain"})),
        ("image/png", b"\xff\xfe", json!({"payload_base64": "//4=", "content_type": "image/png"})),
    ] {
        let headers = [("lovage-task", "t"), ("content-type", content_type)];
        assert_eq!(h.call(Method::POST, "/v1/tasks", &headers, payload).await.status, 202);
        let item = lease_one(&h).await;
        for name in ["payload", "payload_base64", "content_type", "args"] {
            assert_eq!(item.get(name), expected.get(name), "{content_type} {name}");
        }
    }
}

#[tokio::test]
async fn whoever_waits_is_woken() {
    let h = harness().await;
    let wish = json!({"worker": "p", "wait": "20s", "max": 5, "lease": "1m"});
    let (items, id) = tokio::join!(lease(&h, &wish), async {
        settle().await;
        h.submit(r#"{"task":"t"}"#).await
    });
    assert_eq!(ids(&items), [id]);
    assert_eq!(items[0]["deadline"], "2027-01-15T08:01:00.000Z");
    // A task that becomes another's while somebody waits.
    let id = h.submit(r#"{"task":"later"}"#).await;
    let (items, ()) = tokio::join!(lease(&h, &wish), async {
        settle().await;
        register(&h, "p", &json!({"pull": true, "tasks": ["later"]})).await;
    });
    assert_eq!(ids(&items), [id]);
    // A feed that has forgotten.
    let (items, id) = tokio::join!(lease(&h, &wish), async {
        settle().await;
        let id = h.submit(r#"{"task":"later"}"#).await;
        h.store.forget_feed();
        id
    });
    assert_eq!(ids(&items), [id]);
    assert!(lease(&h, &json!({"worker": "p", "wait": "20ms"})).await.is_empty());
}

#[tokio::test]
async fn a_wait_ends_when_its_worker_is_gone() {
    let json = &[("content-type", "application/json")];
    let wish = json!({"worker": "p", "wait": "20s"}).to_string();
    for (method, body, code) in
        [(Method::PATCH, r#"{"pull":false}"#, Code::InvalidField), (Method::DELETE, "", Code::WorkerUnknown)]
    {
        let h = harness().await;
        h.submit(r#"{"task":"t"}"#).await;
        lease_one(&h).await;
        let (one, other, id) = tokio::join!(h.post("/v1/leases", wish.clone()), h.post("/v1/leases", wish.clone()), async {
            settle().await;
            let headers = if body.is_empty() { &[][..] } else { json };
            assert!(h.call(method, "/v1/workers/p", headers, body).await.status.is_success());
            // Nobody gets it any more.
            h.submit(r#"{"task":"t"}"#).await
        });
        for reply in [one, other] {
            reply.is_problem(code);
        }
        assert_eq!(h.get(&format!("/v1/tasks/{id}")).await.json()["state"], "queued");
    }
}

#[tokio::test]
async fn many_share_the_work() {
    let h = harness().await;
    let wish = json!({"worker": "p", "wait": "20s", "max": 3});
    let take = async || {
        let mut mine = Vec::new();
        while let items = lease(&h, &wish).await
            && !items.iter().any(|item| item["task"] == "u-end")
        {
            mine.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        }
        mine
    };
    let takers = futures_util::future::join_all((0..8).map(|_| take()));
    let (taken, all) = tokio::join!(takers, async {
        let mut all = HashSet::new();
        for n in 0..60 {
            all.insert(h.submit(&format!(r#"{{"task":"u-{}"}}"#, n % 7)).await);
        }
        until("all are taken", async || h.get("/v1/tasks?state=queued").await.json()["items"] == json!([])).await;
        for _ in 0..8 {
            // One for each: with a shorter list nobody takes two.
            h.submit(r#"{"task":"u-end"}"#).await;
            until("it is taken", async || h.get("/v1/tasks?state=queued").await.json()["items"] == json!([])).await;
        }
        all
    });
    let taken: Vec<String> = taken.into_iter().flatten().collect();
    assert_eq!(taken.len(), 60, "none twice");
    assert_eq!(taken.into_iter().collect::<HashSet<_>>(), all);
}

#[tokio::test]
async fn order_and_what_may_not_start_are_respected() {
    let h = Harness::with(crate::harness::options(), |memory| memory.partitions = 1);
    register(&h, "p", &json!({"pull": true, "tasks": ["t", "u-*"]})).await;
    let low = h.submit(r#"{"task":"t","priority":1}"#).await;
    let first = h.submit(r#"{"task":"t"}"#).await;
    let second = h.submit(r#"{"task":"t"}"#).await;
    let high = h.submit(r#"{"task":"t","priority":9}"#).await;
    let held = h.submit(r#"{"task":"t","priority":9}"#).await;
    h.happen(&held, Event::Hold).await;
    h.submit(r#"{"task":"t","priority":9,"delay":"1h"}"#).await;
    let brief = h.submit(r#"{"task":"t","priority":9,"expires_in":"1s"}"#).await;
    h.clock.advance(Duration::from_secs(2));
    let mut order = vec![lease_one(&h).await["id"].as_str().unwrap().to_owned()];
    for most in [1, 10] {
        let items = lease(&h, &json!({"worker": "p", "max": most})).await;
        order.extend(ids(&items).into_iter().map(str::to_owned));
    }
    assert_eq!(order, [high, first, second, low]);
    let wish = json!({"worker": "p", "wait": "20s"});
    let (items, ()) = tokio::join!(lease(&h, &wish), async {
        settle().await;
        h.happen(&held, Event::Release).await;
    });
    assert_eq!(ids(&items), [held]);
    assert_eq!(h.get(&format!("/v1/tasks/{brief}")).await.json()["attempt"], 0);
    // Lanes take turns.
    for n in 0..12 {
        h.submit(&format!(r#"{{"task":"u-{}"}}"#, n / 4)).await;
    }
    let items = lease(&h, &json!({"worker": "p", "max": 6})).await;
    let count = |task: &str| items.iter().filter(|item| item["task"] == task).count();
    assert_eq!([count("u-0"), count("u-1"), count("u-2")], [2, 2, 2]);
}

#[tokio::test]
async fn only_its_own_tasks() {
    let h = harness().await;
    register(&h, "pushed", &json!({"url": "http://localhost/w", "tasks": ["u-exact"]})).await;
    register(&h, "fast", &json!({"pull": true, "tasks": ["u-fast"], "queues": ["fast"]})).await;
    for body in [r#"{"task":"u-exact"}"#, r#"{"url":"http://localhost/x","task":"t"}"#, r#"{"task":"u-fast","queue":"fast"}"#] {
        h.submit(body).await;
    }
    let mine = h.submit(r#"{"task":"u-fast"}"#).await;
    // The worker that was registered last is known, and so are the others.
    assert_eq!(lease(&h, &json!({"worker": "fast", "max": 10, "wait": "20s"})).await.len(), 1);
    assert_eq!(ids(&lease(&h, &json!({"worker": "p", "max": 10})).await), [mine]);
}

#[tokio::test]
async fn large_bodies_come_one_by_one() {
    let mut options = crate::harness::options();
    options.limits.array_bytes = 1_000;
    let h = Harness::with(options, |memory| memory.partitions = 1);
    register(&h, "p", &json!({"pull": true, "tasks": ["t"]})).await;
    for _ in 0..3 {
        h.submit(&json!({"task": "t", "args": ["x".repeat(400)]}).to_string()).await;
    }
    h.submit(&json!({"task": "t", "args": ["x".repeat(4_000)]}).to_string()).await;
    let mut counts = vec![lease(&h, &json!({"worker": "p", "max": 10, "wait": "20s"})).await.len()];
    for _ in 0..3 {
        counts.push(lease(&h, &json!({"worker": "p", "max": 10})).await.len());
    }
    assert_eq!(counts, [2, 1, 1, 0]);
}

#[tokio::test]
async fn wrong_wishes_are_refused() {
    let h = harness().await;
    register(&h, "pushed", &json!({"url": "http://localhost/w", "tasks": ["x"]})).await;
    for (body, code, pointer) in [
        (json!({}), Code::InvalidField, "/worker"),
        (json!({"worker": "pushed"}), Code::InvalidField, "/worker"),
        (json!({"worker": "p", "max": 101}), Code::InvalidField, "/max"),
        (json!({"worker": "p", "lease": "25h"}), Code::InvalidField, "/lease"),
        (json!({"worker": "p", "wait": "soon"}), Code::InvalidField, "/wait"),
        (json!({"worker": "p", "more": 1}), Code::UnknownField, "/more"),
    ] {
        let problem = h.post("/v1/leases", body.to_string()).await.is_problem(code);
        assert_eq!(problem["errors"][0]["pointer"], pointer);
    }
    h.post("/v1/leases", r#"{"worker":"nobody"}"#).await.is_problem(Code::WorkerUnknown);
    let put = async |path: &str, body: Value| {
        h.call(Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await.is_problem(Code::InvalidField)
    };
    put("/v1/workers/x", json!({"pull": true, "url": "http://localhost/w", "tasks": ["t"]})).await;
    put("/v1/workers/p/instances/i", json!({"url": "http://localhost/w"})).await;
    h.faulty.set_away(true);
    h.post("/v1/leases", r#"{"worker":"p"}"#).await.is_problem(Code::StoreUnavailable);
}

#[tokio::test]
async fn tasks_are_taken_only_under_their_limits() {
    let h = harness().await;
    let held = |limit: &Value| json!({"task": "t", "limits": [limit]}).to_string();
    for (limit, allowed) in
        [(json!({"key": "one", "concurrency": 1}), 1), (json!({"key": "seldom", "rate": "2/h", "burst": 2}), 2)]
    {
        let mut submitted = Vec::new();
        for _ in 0..3 {
            submitted.push(h.submit(&held(&limit)).await);
        }
        // The first look comes as soon as the gateway knows the worker.
        assert_eq!(lease(&h, &json!({"worker": "p", "max": 10, "wait": "20s"})).await.len(), allowed, "{limit}");
        assert_eq!(lease(&h, &json!({"worker": "p", "max": 10})).await.len(), 0, "{limit}");
        for id in &submitted {
            h.post(&format!("/v1/tasks/{id}/cancel"), r#"{"mode":"hard"}"#).await;
        }
    }
    // What the latest accepted task says holds for all of the key, whichever is taken; so it does for one that says nothing.
    let task = |limit: Value, priority: u8| json!({"task": "t", "limits": [limit], "priority": priority}).to_string();
    let mut submitted = Vec::new();
    for limit in [json!({"key": "all", "concurrency": 9}), json!({"key": "all", "concurrency": 2}), json!({"key": "all"})] {
        submitted.push(h.submit(&task(limit, 4)).await);
        h.clock.advance(Duration::from_millis(5));
    }
    assert_eq!(lease(&h, &json!({"worker": "p", "max": 10})).await.len(), 2);
    assert_eq!(lease(&h, &json!({"worker": "p", "max": 10})).await.len(), 0);
    // Later ones say otherwise, from the moment that anybody has looked at one.
    submitted.push(h.submit(&task(json!({"key": "all", "concurrency": 3}), 9)).await);
    assert_eq!(lease(&h, &json!({"worker": "p", "max": 1})).await.len(), 1, "three at once");
    h.post(&format!("/v1/tasks/{}/cancel", submitted[3]), r#"{"mode":"hard"}"#).await;
    for id in &submitted {
        h.post(&format!("/v1/tasks/{id}/cancel"), r#"{"mode":"hard"}"#).await;
    }
    // What waits for a limit is looked at again although nothing tells.
    let stored = h.call(Method::PUT, "/v1/limits/k", &[("content-type", "application/json")], r#"{"concurrency":0}"#).await;
    assert_eq!(stored.status, 201);
    let id = h.submit(r#"{"task":"t","limits":[{"key":"k"}]}"#).await;
    let wish = json!({"worker": "p", "wait": "20s"});
    let opened = h.call(Method::PUT, "/v1/limits/k", &[("content-type", "application/json")], r#"{"concurrency":1}"#);
    let (taken, opened) = tokio::join!(lease(&h, &wish), opened);
    assert_eq!((ids(&taken), opened.status.as_u16()), (vec![id.as_str()], 200));
}

/// Takes what there is now.
async fn lease_now(h: &Harness) -> Vec<String> {
    let items = lease(h, &json!({"worker": "p", "max": 5})).await;
    ids(&items).into_iter().map(str::to_owned).collect()
}

async fn succeed(h: &Harness, id: &str, number: u32) {
    let attempt = lovage_core::Attempt { session: lovage_core::SessionId(0), generation: 0, number };
    h.happen(id, Event::Answered { attempt, outcome: lovage_core::Outcome::Success { content_type: None, body: None } }).await;
}

#[tokio::test]
async fn tasks_of_an_order_key_are_taken_one_after_the_other() {
    let h = harness().await;
    let mut expected = Vec::new();
    for (queue, priority, task) in [("a", 1, "t"), ("b", 9, "u-1"), ("a", 5, "t"), ("b", 5, "t")] {
        let task = json!({"task": task, "queue": queue, "priority": priority, "order_key": "k"});
        expected.push(h.submit(&task.to_string()).await);
    }
    let other = h.submit(r#"{"task":"t","order_key":"other"}"#).await;
    let first = lease_one(&h).await["id"].as_str().unwrap().to_owned();
    let mut taken = lease_now(&h).await;
    taken.push(first);
    taken.sort();
    let mut both = vec![expected[0].clone(), other];
    both.sort();
    assert_eq!(taken, both, "the first of each key");
    for n in 0..3 {
        assert!(lease_now(&h).await.is_empty());
        // Whoever waits is told of the end.
        let (next, ()) = tokio::join!(lease_one(&h), async {
            settle().await;
            succeed(&h, &expected[n], 1).await;
        });
        assert_eq!(next["id"], expected[n + 1].as_str());
    }
}

#[tokio::test]
async fn what_was_started_anew_waits_for_what_runs() {
    let h = harness().await;
    let (first, second) = (h.submit(r#"{"task":"t","order_key":"k"}"#).await, h.submit(r#"{"task":"t","order_key":"k"}"#).await);
    assert_eq!(lease_one(&h).await["id"], first.as_str());
    let error = lovage_core::TaskError::new("Broken", "broken");
    let attempt = lovage_core::Attempt { session: lovage_core::SessionId(0), generation: 0, number: 1 };
    h.happen(&first, Event::Answered { attempt, outcome: lovage_core::Outcome::Permanent { error } }).await;
    assert_eq!(lease_one(&h).await["id"], second.as_str());
    h.happen(&first, Event::Retry).await;
    assert!(lease_now(&h).await.is_empty());
    succeed(&h, &second, 1).await;
    assert_eq!(lease_now(&h).await, [first]);
}

#[tokio::test]
async fn a_fifo_queue_is_taken_in_order_of_acceptance() {
    let h = harness().await;
    let headers = [("content-type", "application/json")];
    assert_eq!(h.call(Method::PUT, "/v1/queues/q", &headers, r#"{"order":"fifo"}"#).await.status, 201);
    let mut expected = Vec::new();
    for (n, task) in ["u-1", "t", "others", "t"].into_iter().enumerate() {
        expected.push(h.submit(&json!({"task": task, "queue": "q", "priority": n}).to_string()).await);
    }
    assert_eq!(lease_one(&h).await["id"], expected[0].as_str());
    assert_eq!(lease_now(&h).await, [expected[1].clone()], "also while the first one runs");
    assert!(lease_now(&h).await.is_empty(), "the next one goes to another worker");
    let (last, ()) = tokio::join!(lease_one(&h), async {
        settle().await;
        assert_eq!(h.post(&format!("/v1/tasks/{}/cancel", expected[2]), "{}").await.status, 200);
    });
    assert_eq!(last["id"], expected[3].as_str());
}
