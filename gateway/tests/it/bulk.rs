//! Verbs for many tasks, and dead letters.

use std::collections::BTreeSet;

use axum::http::Method;
use lovage_core::problem::Code;
use lovage_core::{Event, Outcome, TaskError};
use lovage_store::wrap::{Fault, Verb};
use serde_json::{Value, json};

use crate::harness::{Harness, options};

fn permanent(kind: &str) -> Outcome {
    Outcome::Permanent { error: TaskError::new(kind, "it broke") }
}

/// `count` tasks with the ids `PREFIX-0` and so on.
async fn submit_many(h: &Harness, prefix: &str, rest: &str, count: usize) -> Vec<String> {
    let ids: Vec<String> = (0..count).map(|n| format!("{prefix}-{n}")).collect();
    for ids in ids.chunks(1_000) {
        let items: Vec<String> = ids.iter().map(|id| format!(r#"{{"id":"{id}",{rest}}}"#)).collect();
        let reply = h.post("/v1/tasks:batch", format!("[{}]", items.join(","))).await;
        assert_eq!(reply.status, 200, "{:?}", reply.bytes);
    }
    ids
}

async fn dead(h: &Harness, ids: &[&str], kind: &str) {
    for id in ids {
        h.submit(&format!(r#"{{"task":"a","id":"{id}","queue":"dead"}}"#)).await;
        h.finish(id, permanent(kind)).await;
    }
}

async fn bulk(h: &Harness, path: &str, body: &Value) -> Value {
    let reply = h.post(path, body.to_string()).await;
    assert_eq!(reply.status, 200, "{path} {body}: {:?}", reply.bytes);
    reply.json()
}

fn counts(tally: &Value) -> (u64, u64, u64) {
    let count = |name: &str| tally[name].as_u64().unwrap();
    (count("matched"), count("changed"), count("failed"))
}

async fn state(h: &Harness, id: &str) -> String {
    let reply = h.get(&format!("/v1/tasks/{id}")).await;
    reply.json()["state"].as_str().unwrap_or("none").to_owned()
}

#[tokio::test]
async fn ten_thousand_tasks_are_canceled_a_bounded_number_at_a_time() {
    const ALL: usize = 10_000;
    let h = Harness::new();
    submit_many(&h, "t", r#""task":"a","queue":"many""#, ALL).await;
    submit_many(&h, "other", r#""task":"a""#, 5).await;
    let counted = bulk(&h, "/v1/tasks:cancel", &json!({"filter": {"queue": "many"}, "dry_run": true})).await;
    let (matched, changed, failed) = counts(&counted);
    assert!((900..=1_000).contains(&matched) && (changed, failed) == (0, 0), "{counted}");
    assert!(counted["next_cursor"].is_string(), "{counted}");

    let mut body = json!({"filter": {"queue": "many", "task": "a"}});
    let (mut changed, mut calls) = (0, 0);
    loop {
        let tally = bulk(&h, "/v1/tasks:cancel", &body).await;
        assert!(counts(&tally).1 <= 1_000, "{tally}");
        assert_eq!((counts(&tally).0, counts(&tally).2), (counts(&tally).1, 0), "{tally}");
        changed += counts(&tally).1;
        calls += 1;
        // Tasks that come meanwhile are later than the first call and not meant.
        if calls == 2 {
            h.clock.advance(std::time::Duration::from_secs(1));
            submit_many(&h, "late", r#""task":"a","queue":"many""#, 10).await;
        }
        match tally["next_cursor"].as_str() {
            Some(cursor) => body["cursor"] = json!(cursor),
            None => break,
        }
    }
    assert_eq!(changed, ALL as u64);
    assert!((10..=20).contains(&calls), "{calls}");
    let left: BTreeSet<String> = ["other-0", "late-0", "late-9"].map(str::to_owned).into();
    for id in left {
        assert_eq!(state(&h, &id).await, "queued", "{id}");
    }
    assert_eq!(state(&h, "t-9999").await, "canceled");
}

#[tokio::test]
async fn a_call_that_broke_off_is_repeated() {
    let h = Harness::new();
    submit_many(&h, "t", r#""task":"a""#, 300).await;
    let body = json!({"filter": {"task": "a"}});
    h.faulty.script(Verb::Commit, [None, Some(Fault::After)]);
    h.post("/v1/tasks:cancel", body.to_string()).await.is_problem(Code::StoreUnavailable);
    let done = h.get("/v1/tasks?state=canceled&limit=1000").await.json()["items"].as_array().unwrap().len() as u64;
    assert!(done > 100 && done < 300, "{done}");
    let tally = bulk(&h, "/v1/tasks:cancel", &body).await;
    assert_eq!((counts(&tally), &tally["next_cursor"]), ((300 - done, 300 - done, 0), &Value::Null));
    assert_eq!(counts(&bulk(&h, "/v1/tasks:cancel", &body).await), (0, 0, 0), "final ones are not meant");
}

#[tokio::test]
async fn ids_are_done_in_one_call_and_say_what_failed() {
    let h = Harness::new();
    submit_many(&h, "t", r#""task":"a""#, 3).await;
    dead(&h, &["bad"], "ValueError").await;
    h.submit(r#"{"task":"a","id":"r"}"#).await;
    h.start("r").await;
    let ids = json!({"ids": ["t-0", "t-1", "t-1", "bad", "none", "no such id", "r"]});
    let tally = bulk(&h, "/v1/tasks:cancel", &ids).await;
    assert_eq!((counts(&tally), &tally["next_cursor"]), ((4, 3, 3), &Value::Null), "{tally}");
    let errors: BTreeSet<(&str, &str)> = tally["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["id"].as_str().unwrap(), error["code"].as_str().unwrap()))
        .collect();
    let expected = [("bad", "wrong_state"), ("no such id", "task_unknown"), ("none", "task_unknown")];
    assert_eq!(errors, expected.into());
    assert_eq!(h.get("/v1/tasks/r").await.json()["cancel_requested"], true);
    // It is being canceled already, which is no failure.
    assert_eq!(counts(&bulk(&h, "/v1/tasks:cancel", &json!({"ids": ["r"]})).await), (1, 0, 0));
    assert_eq!(counts(&bulk(&h, "/v1/tasks:cancel", &json!({"ids": ["r"], "mode": "hard"})).await), (1, 1, 0));
    assert_eq!(state(&h, "t-2").await, "queued");
}

#[tokio::test]
async fn dead_letters_are_listed_retried_and_deleted() {
    let h = Harness::new();
    dead(&h, &["d1", "d2"], "ValueError").await;
    dead(&h, &["d3"], "KeyError").await;
    h.submit(r#"{"task":"a","id":"fine","queue":"dead"}"#).await;
    let listed = h.get("/v1/dead-letters?queue=dead").await.json();
    let ids: BTreeSet<&str> = listed["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["d1", "d2", "d3"].into());
    assert_eq!(listed["items"][0]["error"]["message"], "it broke");
    let listed = h.get("/v1/dead-letters?error_type=KeyError").await.json();
    assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["id"]), (1, &json!("d3")));
    assert_eq!(h.get("/v1/dead-letters?state=queued").await.json(), json!({"items": [], "next_cursor": null}));

    let filter = json!({"filter": {"error_type": "ValueError", "label": []}});
    let problem = h.post("/v1/dead-letters:retry", filter.to_string()).await.is_problem(Code::InvalidField);
    assert_eq!(problem["errors"][0]["pointer"], "/filter/label");
    let retry = |dry_run: bool| json!({"filter": {"error_type": "ValueError"}, "dry_run": dry_run});
    assert_eq!(counts(&bulk(&h, "/v1/dead-letters:retry", &retry(true)).await), (2, 0, 0));
    assert_eq!(state(&h, "d1").await, "failed");
    assert_eq!(counts(&bulk(&h, "/v1/dead-letters:retry", &retry(false)).await), (2, 2, 0));
    let record = h.get("/v1/tasks/d1").await.json();
    assert_eq!((&record["state"], &record["generation"], &record["error"]), (&json!("queued"), &json!(1), &Value::Null));

    // Only dead letters are meant, also where ids are given.
    let tally = bulk(&h, "/v1/dead-letters:delete", &json!({"ids": ["d1", "d3"]})).await;
    assert_eq!((counts(&tally), &tally["errors"][0]["code"]), ((2, 1, 1), &json!("wrong_state")));
    h.get("/v1/tasks/d3").await.is_problem(Code::TaskUnknown);
    // A final task can be neither canceled nor changed.
    dead(&h, &["d4"], "ValueError").await;
    let tally = bulk(&h, "/v1/dead-letters:cancel", &json!({"filter": {}, "dry_run": true})).await;
    assert_eq!((counts(&tally), &tally["errors"][0]["code"]), ((1, 0, 1), &json!("wrong_state")));
    let tally = bulk(&h, "/v1/dead-letters:patch", &json!({"filter": {}, "patch": {"priority": 1}})).await;
    assert_eq!(counts(&tally), (1, 0, 1));
}

#[tokio::test]
async fn many_tasks_are_changed_and_deleted() {
    let h = Harness::new();
    submit_many(&h, "t", r#""task":"a","labels":{"team":"x"}"#, 5).await;
    h.succeed("t-0", "1").await;
    let patch = json!({"filter": {"label": ["team:x"]}, "patch": {"priority": 9, "labels": {"team": "y"}}});
    assert_eq!(counts(&bulk(&h, "/v1/tasks:patch", &patch).await), (4, 4, 0));
    let record = h.get("/v1/tasks/t-3").await.json();
    assert_eq!((&record["priority"], &record["labels"]), (&json!(9), &json!({"team": "y"})));
    assert_eq!(counts(&bulk(&h, "/v1/tasks:delete", &json!({"filter": {"task": "a"}})).await), (1, 1, 0));
    assert_eq!(counts(&bulk(&h, "/v1/tasks:delete", &json!({"filter": {"task": "a", "state": "queued"}})).await), (4, 0, 4));
    assert_eq!((state(&h, "t-0").await, state(&h, "t-1").await), ("none".to_owned(), "queued".to_owned()));
}

#[tokio::test]
async fn replays_are_new_tasks_and_not_replayed_again() {
    let h = Harness::new();
    dead(&h, &["d1", "d2"], "ValueError").await;
    let with_key = r#"{"task":"a","id":"keyed","queue":"dead","unique":{"key":"k"}}"#;
    h.submit(with_key).await;
    h.finish("keyed", permanent("ValueError")).await;
    h.submit(r#"{"task":"b","id":"done","queue":"dead","payload":{"x": 1.50},"priority":7,"delay":"5s","labels":{"a":"b"}}"#)
        .await;
    h.happen("done", Event::RunNow).await;
    h.succeed("done", "1").await;
    let everything = json!({"filter": {"queue": "dead"}});
    let count = |dry_run: bool| json!({"filter": {"queue": "dead"}, "dry_run": dry_run});
    assert_eq!(counts(&bulk(&h, "/v1/tasks:replay", &count(true)).await), (4, 0, 1));
    let tally = bulk(&h, "/v1/tasks:replay", &everything).await;
    assert_eq!((counts(&tally), &tally["errors"][0]["id"]), ((4, 3, 1), &json!("keyed")), "{tally}");
    let made = h.get("/v1/tasks?queue=dead&state=queued").await.json()["items"].as_array().unwrap().clone();
    assert_eq!(made.len(), 3);
    let again = made.iter().find(|record| record["task"] == "b").unwrap();
    assert_eq!((&again["priority"], &again["labels"], &again["attempt"]), (&json!(7), &json!({"a": "b"}), &json!(0)));
    let payload = h.get(&format!("/v1/tasks/{}/payload", again["id"].as_str().unwrap())).await;
    assert_eq!(&payload.bytes[..], br#"{"x": 1.50}"#);
    assert_eq!(state(&h, "d1").await, "failed", "the old one stays");
    let edited = json!({"ids": ["keyed"], "edits": {"unique": null, "queue": "other"}});
    assert_eq!(counts(&bulk(&h, "/v1/dead-letters:replay", &edited).await), (1, 1, 0));
    assert_eq!(h.get("/v1/tasks?queue=other").await.json()["items"].as_array().unwrap().len(), 1);
    let tally = bulk(&h, "/v1/tasks:replay", &json!({"ids": ["d1"], "edits": {"queue": "no good"}})).await;
    assert_eq!((counts(&tally), &tally["errors"][0]["code"]), ((1, 0, 1), &json!("invalid_field")));
    assert_eq!(counts(&bulk(&h, "/v1/dead-letters:replay", &json!({"ids": ["d1", "done"]})).await), (2, 1, 1));
}

#[tokio::test]
async fn bulk_requests_are_checked() {
    let mut options = options();
    options.limits.bulk_tasks = 2;
    let h = Harness::with(options, |_| ());
    submit_many(&h, "t", r#""task":"a""#, 5).await;
    let refused = [
        ("cancel", json!({}), ""),
        ("cancel", json!({"dry_run": true}), ""),
        ("cancel", json!({"filter": {}, "ids": ["t-0"]}), "/ids"),
        ("cancel", json!({"ids": []}), "/ids"),
        ("cancel", json!({"ids": ["a", "b", "c"]}), "/ids"),
        ("cancel", json!({"ids": "t-0"}), "/ids"),
        ("cancel", json!({"ids": ["t-0"], "cursor": "x"}), "/cursor"),
        ("cancel", json!({"filter": [1]}), "/filter"),
        ("cancel", json!({"filter": {"state": "asleep"}}), "/filter/state"),
        ("cancel", json!({"filter": {"queue": 1}}), "/filter/queue"),
        ("delete", json!({"filter": {"queue": null}}), "/filter/queue"),
        ("delete", json!({"filter": {"label": null, "state": "failed"}}), "/filter/label"),
        ("cancel", json!({"filter": {"dead": "perhaps"}}), "/filter/dead"),
        ("cancel", json!({"filter": {"created_after": "soon"}}), "/filter/created_after"),
        ("cancel", json!({"filter": {"label": ["team"]}}), "/filter/label"),
        ("cancel", json!({"filter": {}, "mode": "gently"}), "/mode"),
        ("cancel", json!({"filter": {}, "dry_run": 1}), "/dry_run"),
        ("replay", json!({"filter": {}, "edits": {"id": "x"}}), "/edits/id"),
        ("replay", json!({"filter": {}, "edits": [1]}), "/edits"),
        ("cancel", json!({"filter": {}, "cascade": 1}), "/cascade"),
        ("patch", json!({"filter": {}}), "/patch"),
        ("patch", json!({"filter": {}, "patch": {"priority": 11}}), "/patch/priority"),
        ("patch", json!({"filter": {}, "patch": 1}), "/patch"),
    ];
    for (verb, body, pointer) in refused {
        let problem = h.post(&format!("/v1/tasks:{verb}"), body.to_string()).await.is_problem(Code::InvalidField);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
    for (verb, body, pointer) in [
        ("retry", json!({"filter": {}, "mode": "hard"}), "/mode"),
        ("cancel", json!({"filter": {"queues": "a"}}), "/filter/queues"),
        ("cancel", json!({"filter": {"workflow": "a"}}), "/filter/workflow"),
        ("patch", json!({"filter": {}, "patch": {"task": "b"}}), "/patch/task"),
    ] {
        let problem = h.post(&format!("/v1/tasks:{verb}"), body.to_string()).await.is_problem(Code::UnknownField);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
    let keyed = h.post_with("/v1/tasks:replay", &[("idempotency-key", "k")], r#"{"ids":["t-0"]}"#).await;
    assert_eq!(keyed.is_problem(Code::InvalidField)["errors"][0]["pointer"], "/idempotency_key");
    h.post("/v1/tasks:cancel", "{").await.is_problem(Code::Malformed);
    h.call(Method::POST, "/v1/tasks:cancel", &[("content-type", "text/plain")], "{}").await.is_problem(Code::ContentTypeRefused);
    h.call(Method::PUT, "/v1/tasks:cancel", &[], "").await.is_problem(Code::MethodNotAllowed);

    // A cursor goes on with what it was given for.
    let first = bulk(&h, "/v1/tasks:cancel", &json!({"filter": {"task": "a"}, "dry_run": true})).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    for (path, filter) in [
        ("/v1/tasks:cancel", json!({"task": "b"})),
        ("/v1/tasks:delete", json!({"task": "a"})),
        ("/v1/dead-letters:cancel", json!({"task": "a"})),
    ] {
        h.post(path, json!({"filter": filter, "cursor": cursor}).to_string()).await.is_problem(Code::BadCursor);
    }
    h.post("/v1/tasks:cancel", json!({"filter": {}, "cursor": "nonsense"}).to_string()).await.is_problem(Code::BadCursor);
    let tally = bulk(&h, "/v1/tasks:cancel", &json!({"filter": {"task": "a"}, "cursor": cursor})).await;
    assert_eq!(counts(&tally), (2, 2, 0));
}
