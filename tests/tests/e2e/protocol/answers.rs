//! Answers that are more than a status.

use std::time::Duration;

use lovage_tests::{Call, Reply};
use serde_json::{Value, json};

use crate::contract::site::{Site, Store, quick_retry};

on_both_stores!(
    silence_after_acceptance_is_a_loss,
    every_202_of_an_async_worker_is_an_acceptance,
    a_stream_shows_progress_and_ends_with_its_result,
    a_stream_that_fails,
    an_answer_that_is_too_large_fails_for_good,
    what_was_wrong_with_an_answer_is_named,
    a_result_that_not_every_reader_can_read_stays_out_of_documents,
    a_parent_waits_for_its_children,
    a_parent_detaches_its_children,
    a_replacement_keeps_the_id,
    a_task_that_always_replaces_itself_ends,
    a_document_says_the_outcome,
);

fn document(value: &Value) -> Reply {
    Reply::bytes("application/vnd.lovage.outcome+json", value.to_string())
}

async fn silence_after_acceptance_is_a_loss(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", [Reply::accepted("500ms"), Reply::json(&json!(1))]);
    site.serves(&["t"]).await;
    let id = site.submit_plain("t").await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["attempt"], &record["result"]), (&json!("succeeded"), &json!(2), &json!(1)));
    let lost = &site.attempts(&id).await[0];
    assert_eq!((&lost["outcome"], &lost["error"]["type"]), (&json!("lost"), &json!("LeaseExpired")));
}

async fn every_202_of_an_async_worker_is_an_acceptance(store: Store) {
    let site = store.dev().await;
    site.worker.on("*", Reply::status(202));
    let settings = json!({"url": site.worker.url(), "tasks": ["later"], "async": true});
    assert_eq!(site.register_worker_with("a", &settings).await["async"], true);
    site.serves(&["now"]).await;
    let later = site.submit_plain("later").await;
    site.until(&later, "accepted", |record| record["reason"] == "accepted").await;
    let now = site.submit_plain("now").await;
    assert_eq!(site.wait_final(&now).await["state"], "succeeded");
    let call = &site.worker.received_for(&later)[0];
    let url = call.header("lovage-attempt-url");
    assert!(url.starts_with(&format!("{}/v1/attempts/", site.url())), "{url}");
}

async fn a_stream_shows_progress_and_ends_with_its_result(store: Store) {
    let site = store.dev().await;
    let lines = [json!({"log": "begins"}), json!({"progress": {"done": 1}}), json!({"heartbeat": true}), json!({"result": [2]})];
    site.worker.on("t", Reply::ndjson(Duration::from_millis(700), &lines));
    site.serves(&["t"]).await;
    // Every line extends the limit, and all of them together take longer.
    let id = site.submit(&json!({"task": "t", "time_limit": "2s"})).await;
    let record = site.until(&id, "further", |record| record["progress"] == json!({"done": 1})).await;
    assert_eq!(record["state"], "running");
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["result"], &record["attempt"]), (&json!("succeeded"), &json!([2]), &json!(1)));
}

async fn a_stream_that_fails(store: Store) {
    let site = store.dev().await;
    let error = |permanent| json!({"error": {"type": "E", "message": "m", "permanent": permanent}});
    let rows = [
        (Reply::ndjson(Duration::ZERO, &[error(true)]), "failed", "permanent", "E"),
        (Reply::ndjson(Duration::ZERO, &[error(false)]), "failed", "exhausted", "E"),
        (Reply::ndjson(Duration::ZERO, &[json!({"progress": 1})]), "failed", "exhausted", "ConnectionReset"),
        (Reply::ndjson(Duration::ZERO, &[json!({"progress": 1})]).then_reset(), "failed", "exhausted", "ConnectionReset"),
        (Reply::ndjson(Duration::ZERO, &[json!({"what": 1})]), "failed", "exhausted", "BadOutcome"),
    ];
    site.serves(&["row-*"]).await;
    for (n, (reply, state, reason, kind)) in rows.into_iter().enumerate() {
        let task = format!("row-{n}");
        site.worker.on(&task, reply);
        let id = site.submit(&json!({"task": task, "retry": quick_retry(1)})).await;
        let record = site.wait_final(&id).await;
        let told = (&record["state"], &record["reason"], &record["error"]["type"]);
        assert_eq!(told, (&json!(state), &json!(reason), &json!(kind)), "{task}");
    }
}

async fn an_answer_that_is_too_large_fails_for_good(store: Store) {
    let site = store.dev().await;
    let long = "x".repeat(1 << 20);
    let result = json!({"result": long});
    let rows = [
        Reply::json(&json!(long)),
        document(&json!({"outcome": "success", "result": long})),
        Reply::ndjson(Duration::ZERO, &[json!({"progress": 1}), result]),
        Reply::bytes("application/x-ndjson", "x".repeat(2 << 20)),
    ];
    site.serves(&["row-*"]).await;
    for (n, reply) in rows.into_iter().enumerate() {
        let task = format!("row-{n}");
        site.worker.on(&task, reply);
        let id = site.submit(&json!({"task": task, "retry": quick_retry(3)})).await;
        let record = site.wait_final(&id).await;
        let told = (&record["state"], &record["reason"], &record["attempt"], &record["error"]["type"]);
        assert_eq!(told, (&json!("failed"), &json!("permanent"), &json!(1), &json!("ResultTooLarge")), "{task}");
        assert!(record["error"]["message"].as_str().unwrap().contains("1048576 bytes"), "{task}: {}", record["error"]);
    }
}

async fn what_was_wrong_with_an_answer_is_named(store: Store) {
    let site = store.dev().await;
    let raw = |rest: &str| Reply::raw(format!("HTTP/1.1 200 OK\r\n{rest}"));
    let chunks = "transfer-encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n";
    let rows = [
        (
            raw("a: b\r\nbad header: x\r\n\r\n"),
            "MalformedAnswer",
            r#"line 3 of the answer's head cannot be read: the header "bad header""#,
        ),
        (raw("content-length: -5\r\n\r\n"), "MalformedAnswer", "Content-Length"),
        (raw("content-encoding: gzip\r\ncontent-length: 2\r\n\r\nno"), "MalformedAnswer", "Content-Encoding"),
        (raw(chunks), "MalformedAnswer", "chunk 2"),
        (
            raw("lovage-outcome: success\r\nlovage-outcome: fail\r\ncontent-length: 0\r\n\r\n"),
            "UnknownOutcome",
            r#"Lovage-Outcome "success, fail""#,
        ),
        (document(&json!({"outcome": "retry", "after": "soon"})), "BadOutcome", "/after: "),
        (document(&json!({"outcome": "spawn", "tasks": [{"task": "a"}, {"task": 5}]})), "BadOutcome", "/tasks/1/task: "),
        (
            Reply::bytes("application/x-ndjson", "{\"progress\":1}\n\n{\"progress\":[1e999]}\n"),
            "BadOutcome",
            "line 3: /progress/0: ",
        ),
        (Reply::bytes("application/x-ndjson", "{\"log\":1}\njunk\n"), "BadOutcome", "line 2: is not JSON"),
    ];
    site.serves(&["row-*"]).await;
    for (n, (reply, kind, why)) in rows.into_iter().enumerate() {
        let task = format!("row-{n}");
        site.worker.on(&task, reply);
        let id = site.submit(&json!({"task": task, "retry": quick_retry(1)})).await;
        site.wait_final(&id).await;
        let error = &site.attempts(&id).await[0]["error"];
        assert_eq!(error["type"], kind, "{task}: {error}");
        assert!(error["message"].as_str().unwrap().contains(why), "{task}: {error}");
    }
}

async fn a_result_that_not_every_reader_can_read_stays_out_of_documents(store: Store) {
    let site = store.dev().await;
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    site.serves(&["odd-*", "next", "parent"]).await;
    site.worker.on_call("next", |call: &Call| Reply::json(&call.json()["args"]));
    for (n, odd) in ["1e999", r#""\ud800""#, &deep].into_iter().enumerate() {
        let task = format!("odd-{n}");
        site.worker.on(&task, Reply::bytes("application/json", odd.to_owned()));
        let id = site.submit(&json!({"task": task, "link": {"task": "next", "labels": {"of": task}}})).await;
        let record = site.wait_final(&id).await;
        assert_eq!((&record["state"], record.get("result")), (&json!("succeeded"), None), "{record}");
        assert_eq!(site.get(&format!("/v1/tasks/{id}/result")).await.body, odd.as_bytes());
        let links = site.list(&format!("/v1/tasks?label=of:{task}")).await;
        assert_eq!(site.wait_final(links[0]["id"].as_str().unwrap()).await["result"], json!([null]));
        // A parent can read what it is called with.
        site.worker.on_call("parent", move |call: &Call| {
            if call.header("lovage-resume") == "1" {
                return Reply::json(&call.json()["children"]);
            }
            document(&json!({"outcome": "spawn", "tasks": [{"task": task}]}))
        });
        let record = site.wait_final(&site.submit_plain("parent").await).await;
        let child = &record["result"][0];
        assert_eq!(
            (&child["state"], &child["result"], &child["result_omitted"]),
            (&json!("succeeded"), &json!(null), &json!(true))
        );
    }
}

/// A parent that spawns two children, one of which fails, and answers what it is called again with.
async fn family(site: &Site, then: &'static str) -> String {
    site.worker.on("child", Reply::json(&json!(7)));
    site.worker.on("bad", Reply::bytes("application/json", r#"{"type":"Bad","message":"no"}"#).with_status(422));
    site.worker.on_call("parent", move |call: &Call| {
        if call.header("lovage-resume") == "1" {
            return Reply::json(&call.json());
        }
        document(&json!({"outcome": "spawn", "then": then, "tasks": [{"task": "child", "queue": "young"}, {"task": "bad"}], "result": "gone"}))
    });
    site.serves(&["parent", "child", "bad"]).await;
    site.submit(&json!({"task": "parent", "args": [1], "labels": {"a": "b"}})).await
}

async fn a_parent_waits_for_its_children(store: Store) {
    let site = store.dev().await;
    let id = family(&site, "wait").await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(2)), "{record}");
    let body = &record["result"];
    assert_eq!((&body["args"], &body["id"]), (&json!([1]), &json!(id)));
    let states: Vec<&Value> = body["children"].as_array().unwrap().iter().map(|child| &child["state"]).collect();
    assert_eq!(states, ["succeeded", "failed"]);
    assert_eq!((&body["children"][0]["result"], &body["children"][1]["error"]["type"]), (&json!(7), &json!("Bad")));
    let child = site.task(body["children"][0]["id"].as_str().unwrap()).await;
    assert_eq!((&child["parent"], &child["root"], &child["labels"]), (&json!(id), &json!(id), &json!({"a": "b"})));
}

async fn a_parent_detaches_its_children(store: Store) {
    let site = store.dev().await;
    let id = family(&site, "detach").await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["result"], &record["attempt"]), (&json!("succeeded"), &json!("gone"), &json!(1)));
    site.worker.wait_until("the children", Duration::from_secs(20), |calls| calls.len() == 3).await;
}

async fn a_replacement_keeps_the_id(store: Store) {
    let site = store.dev().await;
    let replacement = json!({"task": "t", "args": ["new"]});
    site.worker.on("t", [document(&json!({"outcome": "replace", "replacement": replacement})), Reply::json(&json!("done"))]);
    site.serves(&["t"]).await;
    let id = site.submit(&json!({"task": "t", "args": ["old"]})).await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["generation"], &record["args"]), (&json!("succeeded"), &json!(1), &json!(["new"])));
}

async fn a_task_that_always_replaces_itself_ends(store: Store) {
    let site = store.dev().await;
    site.worker.on("t", document(&json!({"outcome": "replace", "replacement": {"task": "t"}})));
    site.serves(&["t"]).await;
    let id = site.submit_plain("t").await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("failed"), &json!("permanent")));
    assert_eq!((&record["generation"], &record["attempt"]), (&json!(255), &json!(256)));
    assert_eq!(record["error"]["type"], "TooOftenReplaced");
}

async fn a_document_says_the_outcome(store: Store) {
    let site = store.dev().await;
    let rows = [
        (json!({"outcome": "success", "result": 5}), "succeeded", json!(null)),
        (json!({"outcome": "fail", "error": {"type": "E"}}), "failed", json!("permanent")),
        (json!({"outcome": "retry", "after": "1h"}), "retrying", json!("backoff")),
        (json!({"outcome": "snooze", "after": "1h"}), "retrying", json!("snoozed")),
        (json!({"outcome": "cancel"}), "canceled", json!("requested")),
        (json!({"outcome": "spawn", "tasks": []}), "retrying", json!("backoff")),
        (json!({"outcome": "what"}), "retrying", json!("backoff")),
    ];
    site.serves(&["row-*"]).await;
    for (n, (value, state, reason)) in rows.into_iter().enumerate() {
        let task = format!("row-{n}");
        site.worker.on(&task, document(&value));
        let retry = json!({"backoff": "fixed", "min": "1h", "jitter": "none"});
        let id = site.submit(&json!({"task": task, "retry": retry})).await;
        let record = site.judged(&id).await;
        assert_eq!((&record["state"], &record["reason"]), (&json!(state), &reason), "{value}");
    }
}
