//! Malformed requests: each has its status, its code, and the place in the document that is to blame.

use lovage_tests::Answer;
use reqwest::Method;
use serde_json::{Value, json};

use super::site::{Site, Store};

on_both_stores!(
    every_malformed_signature_is_refused_at_its_place,
    every_malformed_worker_is_refused_at_its_place,
    wrong_routes_methods_and_types,
    a_problem_is_complete,
    a_misspelt_field_comes_with_a_hint,
    all_mistakes_are_told_at_once,
    request_ids_are_kept_or_made,
    every_code_has_a_page,
);

async fn send(site: &Site, method: Method, path: &str, body: &str) -> Answer {
    let request = site.request(method, path).header("content-type", "application/json").body(body.to_owned());
    site.send(request).await
}

/// Field, value, pointer.
type Row = (&'static str, &'static str, &'static str);

/// A signature with a good task and this field.
const FIELDS: &[Row] = &[
    ("url", r#""nonsense""#, "/url"),
    ("url", r#""ftp://a.example/""#, "/url"),
    ("url", r#""http://""#, "/url"),
    ("url", "3", "/url"),
    ("args", "{}", "/args"),
    ("args", r#""x""#, "/args"),
    ("kwargs", "[]", "/kwargs"),
    ("kwargs", "1", "/kwargs"),
    ("method", r#""FETCH""#, "/method"),
    ("method", r#""post""#, "/method"),
    ("method", "1", "/method"),
    ("headers", "[]", "/headers"),
    ("headers", r#"{"X-A": 1}"#, "/headers/X-A"),
    ("headers", r#"{"Host": "x"}"#, "/headers/Host"),
    ("headers", r#"{"Webhook-Id": "x"}"#, "/headers/Webhook-Id"),
    ("headers", r#"{"Lovage-Attempt": "9"}"#, "/headers/Lovage-Attempt"),
    ("headers", r#"{"Transfer-Encoding": "chunked"}"#, "/headers/Transfer-Encoding"),
    ("headers", r#"{"Content-Length": "1"}"#, "/headers/Content-Length"),
    ("headers", r#"{"X-Forwarded-For": "127.0.0.1"}"#, "/headers/X-Forwarded-For"),
    ("headers", r#"{"X-A": "a\r\nHost: b"}"#, "/headers/X-A"),
    ("headers", r#"{"X A": "a"}"#, "/headers/X A"),
    ("headers", r#"{"a/b": "x"}"#, "/headers/a~1b"),
    ("id", r#""""#, "/id"),
    ("id", r#""a/b""#, "/id"),
    ("id", "7", "/id"),
    ("name", r#""""#, "/name"),
    ("name", r#""a\nb""#, "/name"),
    ("name", "[]", "/name"),
    ("queue", r#""""#, "/queue"),
    ("queue", r#""no good""#, "/queue"),
    ("queue", r#"["x"]"#, "/queue"),
    ("priority", "10", "/priority"),
    ("priority", "-1", "/priority"),
    ("priority", "1.5", "/priority"),
    ("priority", r#""4""#, "/priority"),
    ("priority", "true", "/priority"),
    ("delay", r#""soon""#, "/delay"),
    ("delay", r#""""#, "/delay"),
    ("delay", r#""1x""#, "/delay"),
    ("delay", r#""-1s""#, "/delay"),
    ("delay", r#""1s1h""#, "/delay"),
    ("delay", "-1", "/delay"),
    ("delay", "1e300", "/delay"),
    ("delay", r#""99999d""#, "/delay"),
    ("delay", "{}", "/delay"),
    ("eta", r#""tomorrow""#, "/eta"),
    ("eta", r#""2026-02-30T00:00:00Z""#, "/eta"),
    ("eta", r#""2026-01-01""#, "/eta"),
    ("eta", "12", "/eta"),
    ("expires_in", "0", "/expires_in"),
    ("expires_in", r#""x""#, "/expires_in"),
    ("expires_at", r#""never""#, "/expires_at"),
    ("time_limit", r#""0s""#, "/time_limit"),
    ("time_limit", "[]", "/time_limit"),
    ("retry", "[]", "/retry"),
    ("retry", "3", "/retry"),
    ("retry", r#"{"max_attempts": 0}"#, "/retry/max_attempts"),
    ("retry", r#"{"max_attempts": 65536}"#, "/retry/max_attempts"),
    ("retry", r#"{"max_attempts": "3"}"#, "/retry/max_attempts"),
    ("retry", r#"{"max": "x"}"#, "/retry/max"),
    ("retry", r#"{"min": "2h"}"#, "/retry/min"),
    ("retry", r#"{"min": 0}"#, "/retry/min"),
    ("retry", r#"{"factor": 0.5}"#, "/retry/factor"),
    ("retry", r#"{"backoff": "fixed", "factor": 3}"#, "/retry/factor"),
    ("retry", r#"{"backoff": "quadratic"}"#, "/retry/backoff"),
    ("retry", r#"{"jitter": "some"}"#, "/retry/jitter"),
    ("retry", r#"{"max_age": 0}"#, "/retry/max_age"),
    ("retry", r#"{"delays": ["1s"]}"#, "/retry/delays"),
    ("retry", r#"{"backoff": "list"}"#, "/retry/delays"),
    ("retry", r#"{"backoff": "list", "delays": []}"#, "/retry/delays"),
    ("retry", r#"{"backoff": "list", "delays": ["x"]}"#, "/retry/delays"),
    ("retry", r#"{"backoff": "list", "delays": ["2h"], "max_age": "1h"}"#, "/retry/delays"),
    ("callbacks", r#""http://a.example""#, "/callbacks"),
    ("callbacks", r#"{"on_success": 3}"#, "/callbacks/on_success"),
    ("callbacks", r#"{"on_success": {}}"#, "/callbacks/on_success/url"),
    ("callbacks", r#"{"on_success": "nope"}"#, "/callbacks/on_success/url"),
    ("callbacks", r#"{"on_retry": {"url": "http://a.example", "time_limit": 0}}"#, "/callbacks/on_retry/time_limit"),
    ("callbacks", r#"{"on_retry": {"url": "http://a.example", "retry": {"factor": 0}}}"#, "/callbacks/on_retry/retry/factor"),
    ("callbacks", r#"{"on_retry": {"url": "http://a.example", "headers": {"Host": "x"}}}"#, "/callbacks/on_retry/headers/Host"),
    ("ignore_result", r#""yes""#, "/ignore_result"),
    ("ignore_result", "1", "/ignore_result"),
    ("result_ttl", r#""x""#, "/result_ttl"),
    ("retention", "true", "/retention"),
    ("labels", r#"["x"]"#, "/labels"),
    ("labels", r#"{"a": 1}"#, "/labels/a"),
    ("labels", r#"{"a": null}"#, "/labels/a"),
    ("labels", r#"{"a:b": "c"}"#, "/labels/a:b"),
    ("labels", r#"{"a/b~c": "c"}"#, "/labels/a~1b~0c"),
    ("labels", r#"{"": "c"}"#, "/labels/"),
    ("labels", r#"{"a": "b\u0000"}"#, "/labels/a"),
];

/// Whole bodies: status, code, pointers.
const BODIES: &[(&str, u16, &str, &[&str])] = &[
    ("", 400, "malformed", &[]),
    ("{", 400, "malformed", &[]),
    (r#"{"task": "a"} x"#, 400, "malformed", &[]),
    (r#"{"task": "a",}"#, 400, "malformed", &[]),
    ("{'task': 'a'}", 400, "malformed", &[]),
    ("NaN", 400, "malformed", &[]),
    ("[]", 422, "invalid_field", &[""]),
    ("3", 422, "invalid_field", &[""]),
    ("null", 422, "invalid_field", &[""]),
    ("{}", 422, "invalid_field", &[""]),
    (r#"{"task": null}"#, 422, "invalid_field", &[""]),
    (r#"{"task": "a", "task": "b"}"#, 422, "invalid_field", &[""]),
    (r#"{"task": 3}"#, 422, "invalid_field", &["/task"]),
    (r#"{"task": ""}"#, 422, "invalid_field", &["/task"]),
    (r#"{"task": "a b"}"#, 422, "invalid_field", &["/task"]),
    (r#"{"task": "a*"}"#, 422, "invalid_field", &["/task"]),
    (r#"{"task": "\ud800"}"#, 422, "invalid_field", &["/task"]),
    (r#"{"task": "a", "payload": 1, "args": []}"#, 422, "invalid_field", &["/payload"]),
    (r#"{"task": "a", "payload": null, "kwargs": {}}"#, 422, "invalid_field", &["/payload"]),
    (r#"{"task": "a", "delay": 1, "eta": "2027-01-01T00:00:00Z"}"#, 422, "invalid_field", &["/eta"]),
    (r#"{"task": "a", "expires_in": 1, "expires_at": "2027-01-01T00:00:00Z"}"#, 422, "invalid_field", &["/expires_at"]),
    (r#"{"tsk": "a"}"#, 422, "unknown_field", &["/tsk"]),
    (r#"{"task": "a", "retry": {"tries": 3}}"#, 422, "unknown_field", &["/retry/tries"]),
    (r#"{"task": "a", "callbacks": {"on_succes": "http://a.example"}}"#, 422, "unknown_field", &["/callbacks/on_succes"]),
    (r#"{"task": "a", "Queue": "x"}"#, 422, "unknown_field", &["/Queue"]),
    (r#"{"task": "a", "a/b": 1}"#, 422, "unknown_field", &["/a~1b"]),
];

async fn every_malformed_signature_is_refused_at_its_place(store: Store) {
    let site = store.dev().await;
    for (field, value, pointer) in FIELDS {
        let body = format!(r#"{{"task": "a", "{field}": {value}}}"#);
        let refused = send(&site, Method::POST, "/v1/tasks", &body).await;
        assert_eq!((refused.status, refused.code(), refused.pointers()), (422, "invalid_field", vec![*pointer]), "{body}");
    }
    for (body, status, code, pointers) in BODIES {
        let refused = send(&site, Method::POST, "/v1/tasks", body).await;
        assert_eq!((refused.status, refused.code(), refused.pointers()), (*status, *code, pointers.to_vec()), "{body}");
        // The same as an item of a batch, unless it is no JSON: then there are no items.
        if *status == 422 {
            let item = send(&site, Method::POST, "/v1/tasks:batch", &format!("[{body}]")).await.items().remove(0);
            assert_eq!((&item["status"], &item["problem"]["code"]), (&json!(status), &json!(code)), "{body}");
        }
    }
    let latin1 = site.request(Method::POST, "/v1/tasks").header("content-type", "application/json");
    let refused = site.send(latin1.body(b"{\"task\": \"\xfc\"}".to_vec())).await;
    assert_eq!((refused.status, refused.code()), (400, "malformed"));
    assert!(site.list("/v1/tasks").await.is_empty(), "nothing was stored");
}

const WORKERS: &[(&str, &str, &str)] = &[
    ("{}", "invalid_field", "/tasks"),
    (r#"{"tasks": []}"#, "invalid_field", "/tasks"),
    (r#"{"tasks": "a"}"#, "invalid_field", "/tasks"),
    (r#"{"tasks": [""]}"#, "invalid_field", "/tasks/0"),
    (r#"{"tasks": ["a", "b c"]}"#, "invalid_field", "/tasks/1"),
    (r#"{"tasks": ["a"], "url": "nonsense"}"#, "invalid_field", "/url"),
    (r#"{"tasks": ["a"], "url": 3}"#, "invalid_field", "/url"),
    (r#"{"tasks": ["a"], "urls": "http://a.example"}"#, "invalid_field", "/urls"),
    (r#"{"tasks": ["a"], "urls": ["http://a.example", "x"]}"#, "invalid_field", "/urls/1"),
    (r#"{"tasks": ["a"], "url": "http://a.example", "urls": ["http://b.example"]}"#, "invalid_field", "/urls"),
    (r#"{"tasks": ["a"], "queues": ["no good"]}"#, "invalid_field", "/queues/0"),
    (r#"{"tasks": ["a"], "concurrency": 0}"#, "invalid_field", "/concurrency"),
    (r#"{"tasks": ["a"], "concurrency": "5"}"#, "invalid_field", "/concurrency"),
    (r#"{"tasks": ["a"], "cancel_grace": "x"}"#, "invalid_field", "/cancel_grace"),
    (r#"{"tasks": ["a"], "headers": {"Host": "x"}}"#, "invalid_field", "/headers/Host"),
    (r#"{"tasks": ["a"], "headers": {"X": 1}}"#, "invalid_field", "/headers/X"),
    (r#"{"tasks": ["a"], "status_map": "mine"}"#, "invalid_field", "/status_map"),
    (r#"{"tasks": ["a"], "status_map": {"retry": [200]}}"#, "invalid_field", "/status_map/retry/0"),
    (r#"{"tasks": ["a"], "status_map": {"retry": [404], "permanent": [404]}}"#, "invalid_field", "/status_map/permanent/0"),
    (r#"{"tasks": ["a"], "signing": "secret"}"#, "invalid_field", "/signing"),
    (r#"{"tasks": ["a"], "taks": 1}"#, "unknown_field", "/taks"),
    ("[]", "invalid_field", ""),
];

async fn every_malformed_worker_is_refused_at_its_place(store: Store) {
    let site = store.dev().await;
    for (body, code, pointer) in WORKERS {
        let refused = send(&site, Method::PUT, "/v1/workers/w", body).await;
        assert_eq!((refused.status, refused.code(), refused.pointers()), (422, *code, vec![*pointer]), "{body}");
    }
    assert_eq!(send(&site, Method::PUT, "/v1/workers/w", "{").await.code(), "malformed");
    assert_eq!(site.get("/v1/workers/w").await.status, 404);
}

async fn wrong_routes_methods_and_types(store: Store) {
    let site = store.dev().await;
    for path in ["/v1/nothing", "/v1", "/nothing", "/v1/tasks/a/b/c", "/v2/tasks", "/v1/tasks:nothing", "//", "/v1/tasks/"] {
        let refused = site.get(path).await;
        assert_eq!((refused.status, refused.code()), (404, "route_unknown"), "{path}");
    }
    for (method, path, allowed) in [
        (Method::PUT, "/v1/tasks", "POST"),
        (Method::DELETE, "/v1/tasks", "GET"),
        (Method::PUT, "/v1/tasks/a", "DELETE"),
        (Method::GET, "/v1/tasks:batch", "POST"),
        (Method::POST, "/v1/workers/w", "PUT"),
        (Method::POST, "/healthz", "GET"),
        (Method::OPTIONS, "/v1/queues", "GET"),
    ] {
        let refused = site.send(site.request(method.clone(), path)).await;
        assert_eq!((refused.status, refused.code()), (405, "method_not_allowed"), "{method} {path}");
        assert!(refused.header("allow").contains(allowed), "{method} {path}: {:?}", refused.headers);
    }
    let types = ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"];
    for (method, path) in [
        (Method::POST, "/v1/tasks"),
        (Method::POST, "/v1/tasks:batch"),
        (Method::PUT, "/v1/workers/w"),
        (Method::PATCH, "/v1/workers/w"),
    ] {
        for content_type in types {
            let request = site.request(method.clone(), path).header("content-type", content_type).body("{}");
            let refused = site.send(request).await;
            assert_eq!((refused.status, refused.code()), (415, "content_type_refused"), "{method} {path} {content_type}");
        }
        let plain = site.send(site.request(method.clone(), path).body("{}")).await;
        assert_eq!(plain.status, 415, "{method} {path} without a type");
    }
    for content_type in ["application/json; charset=utf-8", "APPLICATION/JSON"] {
        let request = site.request(Method::POST, "/v1/tasks").header("content-type", content_type);
        assert_eq!(site.send(request.body(r#"{"task": "a"}"#)).await.status, 202, "{content_type}");
    }
}

async fn a_problem_is_complete(store: Store) {
    let site = store.dev().await;
    let problems = [
        site.get("/v1/nothing").await,
        site.send(site.request(Method::PUT, "/v1/tasks")).await,
        site.get("/v1/tasks/unknown").await,
        site.get("/v1/tasks?cursor=x").await,
        site.get("/v1/tasks?limit=0").await,
        site.post_task(&json!({"task": "a", "priority": 10})).await,
        site.post_task(&json!({"bad": 1})).await,
        send(&site, Method::POST, "/v1/tasks", "{").await,
        site.send(site.request(Method::POST, "/v1/tasks").body("x")).await,
        site.put("/v1/workers/a%20b", &json!({})).await,
    ];
    for answer in problems {
        let problem = answer.json.clone();
        assert_eq!(answer.header("content-type"), "application/problem+json", "{problem}");
        assert_eq!(problem["status"], answer.status, "{problem}");
        assert_eq!(problem["request_id"], answer.header("x-request-id"), "{problem}");
        for member in ["type", "title", "detail", "code"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {problem}");
        }
        let page = site.get(problem["type"].as_str().unwrap()).await;
        assert_eq!(page.status, 200, "the type of a problem is the address of its page: {problem}");
        for error in problem["errors"].as_array().into_iter().flatten() {
            assert!(error["pointer"].is_string() && error["message"].is_string(), "{problem}");
        }
    }
}

async fn a_misspelt_field_comes_with_a_hint(store: Store) {
    let site = store.dev().await;
    for (body, near) in [
        (json!({"tsk": "a"}), "`task`"),
        (json!({"task": "a", "prioritty": 3}), "`priority`"),
        (json!({"task": "a", "retry": {"max_atempts": 3}}), "`max_attempts`"),
        (json!({"task": "a", "callbacks": {"on_sucess": "http://a.example"}}), "`on_success`"),
    ] {
        let refused = site.post_task(&body).await;
        assert_eq!((refused.status, refused.code()), (422, "unknown_field"));
        let message = refused.json["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains("did you mean") && message.contains(near), "{message}");
    }
    let far = site.post_task(&json!({"task": "a", "banana": 3})).await;
    assert!(!far.json["errors"][0]["message"].as_str().unwrap().contains("did you mean"), "{}", far.json);
    // What the contract has and this version has not is told as that.
    for field in ["auth", "chain", "dag"] {
        let refused = site.post_task(&json!({"task": "a", field: 1})).await;
        assert_eq!((refused.status, refused.code()), (422, "unknown_field"), "{field}");
        assert!(refused.json["errors"][0]["message"].as_str().unwrap().contains("not supported"), "{}", refused.json);
    }
}

async fn all_mistakes_are_told_at_once(store: Store) {
    let site = store.dev().await;
    let body = json!({"task": "", "priority": 10, "delay": "x", "retry": {"min": "x", "tries": 1}, "labels": {"a": 1}, "zzz": 1});
    let refused = site.post_task(&body).await;
    let mut pointers = refused.pointers();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/delay", "/labels/a", "/priority", "/retry/min", "/retry/tries", "/task", "/zzz"]);
    // Inside payload, arguments, labels and results every name is fine.
    let free = json!({"task": "a", "args": [{"tsk": 1}], "kwargs": {"zzz": {"priority": 99}}, "labels": {"zzz": "1"}});
    assert_eq!(site.post_task(&free).await.status, 202);
}

async fn request_ids_are_kept_or_made(store: Store) {
    let site = store.dev().await;
    let ask = async |id: &str| {
        let answer = site.send(site.request(Method::GET, "/v1/tasks/unknown").header("x-request-id", id)).await;
        (answer.header("x-request-id").to_owned(), answer.json["request_id"].clone())
    };
    assert_eq!(ask("my-request.1").await, ("my-request.1".to_owned(), json!("my-request.1")));
    for odd in ["", "two words", "<script>", &"x".repeat(65)] {
        let (header, body) = ask(odd).await;
        assert!(header != odd && header.len() >= 8 && body == header.as_str(), "{odd:?}: {header}");
    }
    let (one, two) = (site.get("/healthz").await, site.get("/healthz").await);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
}

async fn every_code_has_a_page(store: Store) {
    let site = store.dev().await;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    let mut pages = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let code = name.trim_end_matches(".md");
        if code == "README" {
            continue;
        }
        let page = site.get(&format!("/docs/errors/{code}")).await;
        assert_eq!(page.status, 200, "{code}");
        assert!(page.header("content-type").starts_with("text/markdown") && page.json == Value::Null, "{code}");
        pages += 1;
    }
    assert!(pages > 40, "{pages}");
    assert_eq!(site.get("/docs/errors/nothing").await.code(), "route_unknown");
}
