//! `/v1/limits` over the memory store.

use std::time::Duration;

use axum::http::Method;
use lovage_core::problem::Code;
use lovage_core::{LimitRule, Millis, Ns, SessionId};
use lovage_store::{Hold, Holder, LimitRequest, Store, TokenWish};
use serde_json::{Value, json};

use crate::harness::{Harness, Reply, options};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn call(h: &Harness, method: Method, key: &str, body: &Value) -> Reply {
    h.call(method, &format!("/v1/limits/{key}"), &[JSON], body.to_string()).await
}

/// Plays a dispatcher that starts tasks of a key: so many run now, and so many starts were taken.
pub async fn used(h: &Harness, key: &str, rule: LimitRule, running: u32, starts: u32) {
    let hold = Hold { holder: Holder::Session(SessionId(7)), count: running, lease: Duration::from_secs(15) };
    let tokens = TokenWish { least: 1, most: starts, ahead: Duration::from_secs(60) };
    let look = LimitRequest::look(Ns::DEFAULT, key, rule);
    let submitted = Some((Millis(1), rule));
    h.store.limit(vec![LimitRequest { holds: vec![hold], tokens: Some(tokens), submitted, ..look }]).await.unwrap();
}

async fn shown(h: &Harness, key: &str) -> Value {
    let reply = h.get(&format!("/v1/limits/{key}")).await;
    assert_eq!(reply.status, 200, "{:?}", reply.bytes);
    reply.json()
}

#[tokio::test]
async fn a_limit_is_a_document() {
    let h = Harness::new();
    let made = call(&h, Method::PUT, "customer%3A42", &json!({"rate": "10/s", "burst": 3})).await;
    assert_eq!((made.status.as_u16(), made.header("etag")), (201, "\"1\""));
    assert_eq!(
        made.json(),
        json!({"key": "customer:42", "rate": "10/s", "burst": 3, "concurrency": null, "paused": false, "paused_until": null,
            "in_force": {"rate": "10/s", "burst": 3, "concurrency": null}, "in_use": 0, "waiting": 0, "waiting_more": false,
            "tokens": 3, "next_at": null, "version": 1})
    );
    assert_eq!(h.get("/v1/limits/customer:42").await.json(), made.json());
    let changed = call(&h, Method::PATCH, "customer:42", &json!({"burst": null, "concurrency": 0})).await.json();
    assert_eq!((&changed["rate"], &changed["burst"], &changed["concurrency"]), (&json!("10/s"), &Value::Null, &json!(0)));
    let replaced = call(&h, Method::PUT, "customer:42", &json!({"paused_until": "2030-01-01T00:00:00Z"})).await;
    assert_eq!((replaced.status.as_u16(), &replaced.json()["rate"]), (200, &Value::Null));
    assert_eq!(replaced.json()["next_at"], "2030-01-01T00:00:00.000Z");
    let stale = h.call(Method::PUT, "/v1/limits/customer:42", &[JSON, ("if-match", "\"1\"")], "{}").await;
    stale.is_problem(Code::VersionMismatch);
    call(&h, Method::PUT, "a%2Fb%20%E2%9C%93", &json!({})).await;
    let page = h.get("/v1/limits?limit=1").await.json();
    assert_eq!((&page["items"][0]["key"], &page["items"][0]["waiting"]), (&json!("a/b ✓"), &Value::Null));
    let next = h.get(&format!("/v1/limits?cursor={}", page["next_cursor"].as_str().unwrap())).await.json();
    assert_eq!((&next["items"][0]["key"], &next["next_cursor"]), (&json!("customer:42"), &Value::Null));
    assert_eq!(h.call(Method::DELETE, "/v1/limits/customer:42", &[], "").await.status, 204);
    for (method, path, body) in
        [(Method::GET, "", ""), (Method::PATCH, "", "{}"), (Method::DELETE, "", ""), (Method::POST, "/resume", "")]
    {
        h.call(method, &format!("/v1/limits/customer:42{path}"), &[JSON], body).await.is_problem(Code::LimitUnknown);
    }
}

#[tokio::test]
async fn what_is_refused_names_its_place() {
    let h = Harness::new();
    for (body, pointer) in [
        (json!({"rate": "0/s"}), "/rate"),
        (json!({"rate": "1e99/s"}), "/rate"),
        (json!({"rate": "-1/s"}), "/rate"),
        (json!({"concurrency": -1}), "/concurrency"),
        (json!({"burst": 0}), "/burst"),
        (json!({"paused_until": 5}), "/paused_until"),
    ] {
        for method in [Method::PUT, Method::PATCH] {
            call(&h, Method::PUT, "k", &json!({})).await;
            let problem = call(&h, method, "k", &body).await.is_problem(Code::InvalidField);
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
        }
    }
    call(&h, Method::PUT, "k", &json!({"cost": 1})).await.is_problem(Code::UnknownField);
    for (key, place) in [("queue:mail", "/v1/queues/mail"), ("task:a.b", "/v1/task-types/a.b"), ("worker:w", "/v1/workers/w")] {
        for (method, verb) in [(Method::PUT, ""), (Method::PATCH, ""), (Method::DELETE, ""), (Method::POST, "/pause")] {
            let problem = call(&h, method, &format!("{key}{verb}"), &json!({})).await.is_problem(Code::InvalidField);
            assert!(problem["errors"][0]["message"].as_str().unwrap().contains(place), "{problem}");
        }
    }
    let long = "x".repeat(256);
    assert_eq!(call(&h, Method::PUT, &long, &json!({})).await.is_problem(Code::InvalidField)["errors"][0]["pointer"], "/key");
    for key in ["a%0Ab", "%2E", "%2E%2E"] {
        call(&h, Method::PUT, key, &json!({})).await.is_problem(Code::InvalidField);
    }
    let bad = call(&h, Method::POST, "k/pause", &json!({"until": "soon"})).await.is_problem(Code::InvalidField);
    assert_eq!(bad["errors"][0]["pointer"], "/until");
}

#[tokio::test]
async fn a_key_in_use_shows_what_is_used() {
    let h = Harness::new();
    h.get("/v1/limits/k").await.is_problem(Code::LimitUnknown);
    for n in 0..3 {
        h.submit(&json!({"task": "a", "limits": [{"key": "k", "rate": "1/s"}], "priority": n}).to_string()).await;
    }
    let waits = h.get("/v1/limits/k").await.json();
    assert_eq!((&waits["waiting"], &waits["version"], &waits["rate"]), (&json!(3), &Value::Null, &Value::Null));
    let rule = LimitRule { rate: Some("1/s".parse().unwrap()), burst: None, concurrency: Some(2) };
    used(&h, "k", rule, 2, 1).await;
    let seen = h.get("/v1/limits/k").await.json();
    assert_eq!((&seen["in_use"], &seen["tokens"]), (&json!(2), &json!(0)));
    assert_eq!(seen["in_force"], json!({"rate": "1/s", "burst": 1, "concurrency": 2}));
    assert_eq!(seen["next_at"], Millis(1_800_000_001_000).rfc3339());
    // What is stored goes before what tasks say; without it their values rule again, whatever they hold.
    let put = call(&h, Method::PUT, "k", &json!({"rate": "100/m", "burst": 10})).await.json();
    assert_eq!(put["in_force"], json!({"rate": "100/m", "burst": 10, "concurrency": 2}));
    assert_eq!(h.call(Method::DELETE, "/v1/limits/k", &[], "").await.status, 204);
    let seen = h.get("/v1/limits/k").await.json();
    assert_eq!((&seen["in_force"]["rate"], &seen["in_use"]), (&json!("1/s"), &json!(2)));
}

#[tokio::test]
async fn built_in_keys_show_the_rules_of_their_documents() {
    let h = Harness::new();
    let put = async |path: &str, body: Value| {
        let reply = h.call(Method::PUT, path, &[JSON], body.to_string()).await;
        assert!(reply.status.is_success(), "{:?}", reply.bytes);
    };
    for key in ["queue:mail", "task:a.b", "worker:w"] {
        h.get(&format!("/v1/limits/{key}")).await.is_problem(Code::LimitUnknown);
    }
    put("/v1/workers/v", json!({"url": "http://v.example", "tasks": ["v.*"], "queues": ["some"]})).await;
    assert_eq!(shown(&h, "task:v.x").await["in_force"], json!({"rate": null, "burst": null, "concurrency": null}));
    h.get("/v1/limits/task:a.b").await.is_problem(Code::LimitUnknown);
    put("/v1/task-types/a.*", json!({"rate": "5/m", "concurrency": 3})).await;
    put("/v1/workers/w", json!({"url": "http://a.example", "tasks": ["a.*"], "rate": "7/s", "burst": 2})).await;
    h.submit(r#"{"task":"a.b","queue":"mail"}"#).await;
    h.submit(r#"{"task":"a.c","queue":"mail"}"#).await;
    used(&h, "task:a.b", LimitRule::default(), 1, 1).await;
    let shown = async |key: &str| shown(&h, key).await;
    let task = shown("task:a.b").await;
    assert_eq!(
        (&task["rate"], &task["concurrency"], &task["in_use"], &task["waiting"]),
        (&json!("5/m"), &json!(3), &json!(1), &json!(1))
    );
    assert_eq!((&shown("queue:mail").await["waiting"], &shown("task:a.c").await["in_use"]), (&json!(2), &json!(0)));
    crate::harness::until("the worker is known", async || shown("worker:w").await["waiting"] == 2).await;
    assert_eq!(shown("worker:w").await["in_force"], json!({"rate": "7/s", "burst": 2, "concurrency": null}));
    let worker = h.get("/v1/workers/w").await.json();
    assert_eq!((&worker["rate"], &worker["burst"]), (&json!("7/s"), &json!(2)));
}

#[tokio::test]
async fn a_pause_ends_by_itself_or_by_hand() {
    let h = Harness::new();
    let paused = call(&h, Method::POST, "k/pause", &json!({"until": "2030-01-01T00:00:00Z"})).await;
    assert_eq!((paused.status.as_u16(), &paused.json()["paused_until"]), (200, &json!("2030-01-01T00:00:00.000Z")));
    let for_ever = h.call(Method::POST, "/v1/limits/k/pause", &[], "").await.json();
    for shown in [for_ever, h.get("/v1/limits/k").await.json(), h.get("/v1/limits").await.json()["items"][0].clone()] {
        assert_eq!((&shown["paused"], &shown["paused_until"], &shown["next_at"]), (&json!(true), &Value::Null, &Value::Null));
    }
    let resumed = h.call(Method::POST, "/v1/limits/k/resume", &[], "").await;
    assert_eq!((resumed.status.as_u16(), &resumed.json()["paused"]), (200, &json!(false)));
    // As of everything else that can be paused.
    for (until, why) in [("2020-01-01T00:00:00Z", "is over already"), ("9999-12-31T23:59:59Z", "before 9999-12-30T22:00:00Z")] {
        for (method, path, field) in
            [(Method::POST, "k/pause", "until"), (Method::PUT, "k", "paused_until"), (Method::PATCH, "k", "paused_until")]
        {
            let refused = call(&h, method, path, &json!({field: until})).await.is_problem(Code::InvalidField);
            let error = &refused["errors"][0];
            assert!(error["message"].as_str().unwrap().contains(why) && error["pointer"] == format!("/{field}"), "{refused}");
        }
    }
}

#[tokio::test]
async fn the_number_of_stored_limits_is_bounded() {
    let mut options = options();
    options.limits.stored_limits = 2;
    let h = Harness::with(options, |_| ());
    for key in ["a", "b", "a"] {
        assert!(call(&h, Method::PUT, key, &json!({})).await.status.is_success());
    }
    call(&h, Method::PUT, "c", &json!({})).await.is_problem(Code::QuotaExceeded);
    call(&h, Method::POST, "c/pause", &json!({})).await.is_problem(Code::QuotaExceeded);
    h.call(Method::DELETE, "/v1/limits/a", &[], "").await;
    assert_eq!(call(&h, Method::PUT, "c", &json!({})).await.status, 201);
}

#[tokio::test]
async fn a_dry_run_shows_the_limits_in_force() {
    let h = Harness::new();
    h.call(Method::PUT, "/v1/task-types/a", &[JSON], r#"{"rate":"5/m","fair_key":"f"}"#).await;
    call(&h, Method::PUT, "k", &json!({"concurrency": 1})).await;
    let body = r#"{"task":"a","limits":[{"key":"k","rate":"10/s","burst":4,"cost":2},{"key":"l"}],"order_key":"o"}"#;
    let shown = h.post("/v1/tasks?dry_run=true", body).await.json();
    assert_eq!((&shown["order_key"], &shown["fair_key"]), (&json!("o"), &json!("f")));
    let limit = |key: &str, rate: Option<&str>, burst: Option<u32>, concurrency: Option<u32>, cost: u32| json!({"key": key, "rate": rate, "burst": burst, "concurrency": concurrency, "cost": cost});
    let expected = [
        limit("task:a", Some("5/m"), Some(1), None, 1),
        limit("k", Some("10/s"), Some(4), Some(1), 2),
        limit("l", None, None, None, 1),
    ];
    assert_eq!(shown["limits"], json!(expected));
}
