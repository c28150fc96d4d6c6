//! Whatever is wrong with a request, it is told exactly, and it is never a fault of the server.

use axum::http::Method;
use lovage_core::problem::Code;
use proptest::prelude::*;
use serde_json::Value;

use crate::harness::Harness;

pub const SIGNATURES: &[(&str, Code, &[&str])] = &[
    ("", Code::Malformed, &[]),
    ("{", Code::Malformed, &[]),
    (r#"{"task":"a"} x"#, Code::Malformed, &[]),
    (r#"{"task":"a",}"#, Code::Malformed, &[]),
    ("[]", Code::InvalidField, &[""]),
    ("3", Code::InvalidField, &[""]),
    ("null", Code::InvalidField, &[""]),
    ("{}", Code::InvalidField, &[""]),
    (r#"{"task":null}"#, Code::InvalidField, &[""]),
    (r#"{"task":"a","task":"b"}"#, Code::InvalidField, &[""]),
    (r#"{"task":3}"#, Code::InvalidField, &["/task"]),
    (r#"{"task":""}"#, Code::InvalidField, &["/task"]),
    (r#"{"task":"a b"}"#, Code::InvalidField, &["/task"]),
    (r#"{"task":"a*"}"#, Code::InvalidField, &["/task"]),
    (r#"{"task":"\ud800"}"#, Code::InvalidField, &["/task"]),
    (r#"{"url":"nonsense"}"#, Code::InvalidField, &["/url"]),
    (r#"{"url":"ftp://a.example/"}"#, Code::InvalidField, &["/url"]),
    (r#"{"url":"http://169.254.169.254/"}"#, Code::DestinationForbidden, &["/url"]),
    (r#"{"url":"http://169.254.169.254/","priority":10}"#, Code::InvalidField, &["/priority", "/url"]),
    (r#"{"task":"a","args":{}}"#, Code::InvalidField, &["/args"]),
    (r#"{"task":"a","args":"x"}"#, Code::InvalidField, &["/args"]),
    (r#"{"task":"a","kwargs":[]}"#, Code::InvalidField, &["/kwargs"]),
    (r#"{"task":"a","payload":null,"args":[]}"#, Code::InvalidField, &["/payload"]),
    (r#"{"task":"a","payload":1,"kwargs":{}}"#, Code::InvalidField, &["/payload"]),
    (r#"{"task":"a","method":"FETCH"}"#, Code::InvalidField, &["/method"]),
    (r#"{"task":"a","headers":{"X-A":1}}"#, Code::InvalidField, &["/headers/X-A"]),
    (r#"{"task":"a","headers":{"Host":"x"}}"#, Code::InvalidField, &["/headers/Host"]),
    (r#"{"task":"a","headers":[]}"#, Code::InvalidField, &["/headers"]),
    (r#"{"task":"a","id":""}"#, Code::InvalidField, &["/id"]),
    (r#"{"task":"a","id":"a/b"}"#, Code::InvalidField, &["/id"]),
    (r#"{"task":"a","id":7}"#, Code::InvalidField, &["/id"]),
    (r#"{"task":"a","name":""}"#, Code::InvalidField, &["/name"]),
    (r#"{"task":"a","name":"a\nb"}"#, Code::InvalidField, &["/name"]),
    (r#"{"task":"a","queue":"no good"}"#, Code::InvalidField, &["/queue"]),
    (r#"{"task":"a","queue":["x"]}"#, Code::InvalidField, &["/queue"]),
    (r#"{"task":"a","priority":10}"#, Code::InvalidField, &["/priority"]),
    (r#"{"task":"a","priority":-1}"#, Code::InvalidField, &["/priority"]),
    (r#"{"task":"a","priority":1.5}"#, Code::InvalidField, &["/priority"]),
    (r#"{"task":"a","priority":"4"}"#, Code::InvalidField, &["/priority"]),
    (r#"{"task":"a","delay":"soon"}"#, Code::InvalidField, &["/delay"]),
    (r#"{"task":"a","delay":-1}"#, Code::InvalidField, &["/delay"]),
    (r#"{"task":"a","delay":{}}"#, Code::InvalidField, &["/delay"]),
    (r#"{"task":"a","eta":"tomorrow"}"#, Code::InvalidField, &["/eta"]),
    (r#"{"task":"a","eta":12}"#, Code::InvalidField, &["/eta"]),
    (r#"{"task":"a","delay":1,"eta":"2027-01-01T00:00:00Z"}"#, Code::InvalidField, &["/eta"]),
    (r#"{"task":"a","expires_in":0}"#, Code::InvalidField, &["/expires_in"]),
    (r#"{"task":"a","expires_in":1,"expires_at":"2027-01-01T00:00:00Z"}"#, Code::InvalidField, &["/expires_at"]),
    (r#"{"task":"a","time_limit":"0s"}"#, Code::InvalidField, &["/time_limit"]),
    (r#"{"task":"a","retry":[]}"#, Code::InvalidField, &["/retry"]),
    (r#"{"task":"a","retry":{"max":"x"}}"#, Code::InvalidField, &["/retry/max"]),
    (r#"{"task":"a","retry":{"max_attempts":0}}"#, Code::InvalidField, &["/retry/max_attempts"]),
    (r#"{"task":"a","retry":{"min":"2h"}}"#, Code::InvalidField, &["/retry/min"]),
    (r#"{"task":"a","retry":{"backoff":"quadratic"}}"#, Code::InvalidField, &["/retry/backoff"]),
    (r#"{"task":"a","retry":{"tries":3}}"#, Code::UnknownField, &["/retry/tries"]),
    (r#"{"task":"a","callbacks":"http://a.example"}"#, Code::InvalidField, &["/callbacks"]),
    (r#"{"task":"a","callbacks":{"on_success":3}}"#, Code::InvalidField, &["/callbacks/on_success"]),
    (r#"{"task":"a","callbacks":{"on_success":{}}}"#, Code::InvalidField, &["/callbacks/on_success/url"]),
    (r#"{"task":"a","callbacks":{"on_success":"nope"}}"#, Code::InvalidField, &["/callbacks/on_success/url"]),
    (r#"{"task":"a","callbacks":{"on_succes":"http://a"}}"#, Code::UnknownField, &["/callbacks/on_succes"]),
    (
        r#"{"task":"a","callbacks":{"on_retry":{"url":"http://169.254.169.254"}}}"#,
        Code::DestinationForbidden,
        &["/callbacks/on_retry/url"],
    ),
    (
        r#"{"task":"a","callbacks":{"on_retry":{"url":"http://a","retry":{"factor":0}}}}"#,
        Code::InvalidField,
        &["/callbacks/on_retry/retry/factor"],
    ),
    (r#"{"task":"a","ignore_result":"yes"}"#, Code::InvalidField, &["/ignore_result"]),
    (r#"{"task":"a","result_ttl":"x"}"#, Code::InvalidField, &["/result_ttl"]),
    (r#"{"task":"a","retention":true}"#, Code::InvalidField, &["/retention"]),
    (r#"{"task":"a","labels":{"a":1}}"#, Code::InvalidField, &["/labels/a"]),
    (r#"{"task":"a","labels":{"a:b":"c"}}"#, Code::InvalidField, &["/labels/a:b"]),
    (r#"{"task":"a","labels":{"a/b~c":"c"}}"#, Code::InvalidField, &["/labels/a~1b~0c"]),
    (r#"{"task":"a","labels":["x"]}"#, Code::InvalidField, &["/labels"]),
    (r#"{"tsk":"a"}"#, Code::UnknownField, &["/tsk"]),
    (r#"{"task":"a","order_key":""}"#, Code::InvalidField, &["/order_key"]),
    (r#"{"task":"a","order_key":"k","batch":{"key":"b"}}"#, Code::InvalidField, &["/order_key"]),
    (r#"{"task":"a","fair_key":1}"#, Code::InvalidField, &["/fair_key"]),
    (r#"{"task":"a","limits":[{"key":"k","rate":"0/s"}]}"#, Code::InvalidField, &["/limits/0/rate"]),
    (r#"{"task":"a","limits":[{"key":"k","rate":"1e99/s"}]}"#, Code::InvalidField, &["/limits/0/rate"]),
    (r#"{"task":"a","limits":[{"key":"k","concurrency":-1}]}"#, Code::InvalidField, &["/limits/0/concurrency"]),
    (r#"{"task":"a","limits":[{"key":"k","rate":"1/s","burst":2,"cost":3}]}"#, Code::InvalidField, &["/limits/0/cost"]),
    (r#"{"task":"a","limits":[{"key":"k","rate":"1/s"},{"key":"k","rate":"2/s"}]}"#, Code::InvalidField, &["/limits/1/key"]),
    (
        r#"{"task":"a","limits":[{"key":"k","burst":2},{"key":"task:a","rate":"-1/s"}]}"#,
        Code::InvalidField,
        &["/limits/0/burst", "/limits/1/rate"],
    ),
    (r#"{"task":"a","limits":[{"key":"worker:w"}]}"#, Code::InvalidField, &["/limits/0/key"]),
    (r#"{"task":"a","chain":[]}"#, Code::UnknownField, &["/chain"]),
    (r#"{"task":"a","delay":"x","priority":"y","zzz":1}"#, Code::UnknownField, &["/delay", "/priority", "/zzz"]),
];

pub fn pointers(problem: &Value) -> Vec<&str> {
    let errors = problem["errors"].as_array();
    errors.into_iter().flatten().map(|error| error["pointer"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_malformed_signature_has_its_code_and_pointer() {
    let h = Harness::new();
    for (body, code, expected) in SIGNATURES {
        let problem = h.post("/v1/tasks", *body).await.is_problem(*code);
        assert_eq!(pointers(&problem), *expected, "{body}");
    }
    let counts = lovage_store::Store::counts(&*h.store, lovage_core::Partition(0)).await.unwrap();
    assert!(counts.is_empty(), "nothing was stored: {counts:?}");
}

#[tokio::test]
async fn labels_and_depth_have_limits() {
    let h = Harness::new();
    let labels: Vec<String> = (0..33).map(|n| format!("\"k{n}\":\"v\"")).collect();
    let problem =
        h.post("/v1/tasks", format!(r#"{{"task":"a","labels":{{{}}}}}"#, labels.join(","))).await.is_problem(Code::InvalidField);
    assert_eq!(pointers(&problem), ["/labels"]);
    let long = "x".repeat(256);
    let problem =
        h.post("/v1/tasks", format!(r#"{{"task":"a","labels":{{"k":"{long}"}}}}"#)).await.is_problem(Code::InvalidField);
    assert_eq!(pointers(&problem), ["/labels/k"]);
    let nested = |n: usize| format!(r#"{{"task":"a","payload":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    assert_eq!(h.post("/v1/tasks", nested(127)).await.status, 202);
    let problem = h.post("/v1/tasks", nested(128)).await.is_problem(Code::InvalidField);
    assert_eq!(pointers(&problem), ["/payload"]);
    h.post("/v1/tasks", format!("{{\"payload\":{}", "[".repeat(1 << 19))).await.is_problem(Code::Malformed);
}

#[tokio::test]
async fn raw_headers_are_checked_like_fields() {
    let h = Harness::new();
    let table: &[(&[(&str, &str)], Code, &str)] = &[
        (&[("lovage-task", "a"), ("lovage-colour", "red")], Code::UnknownField, "/lovage-colour"),
        (&[("lovage-task", "a"), ("lovage-priority", "11")], Code::InvalidField, "/priority"),
        (&[("lovage-task", "a"), ("lovage-delay", "soon")], Code::InvalidField, "/delay"),
        (&[("lovage-task", "a"), ("lovage-id", "a b")], Code::InvalidField, "/id"),
        (&[("lovage-url", "nope")], Code::InvalidField, "/url"),
        (&[("lovage-task", "a"), ("lovage-ignore-result", "maybe")], Code::InvalidField, "/ignore_result"),
        (&[("lovage-task", "a"), ("lovage-task", "b")], Code::InvalidField, "/task"),
    ];
    for (headers, code, pointer) in table {
        let problem = h.call(Method::POST, "/v1/tasks", headers, "x").await.is_problem(*code);
        assert_eq!(pointers(&problem), [*pointer]);
    }
}

#[tokio::test]
async fn wrong_types_paths_methods_and_parameters() {
    let h = Harness::new();
    let form = ("content-type", "application/x-www-form-urlencoded");
    h.call(Method::POST, "/v1/tasks", &[form], "{}").await.is_problem(Code::ContentTypeRefused);
    h.call(Method::POST, "/v1/tasks", &[], "{}").await.is_problem(Code::ContentTypeRefused);
    h.call(Method::POST, "/v1/tasks:batch", &[form], "[]").await.is_problem(Code::ContentTypeRefused);
    h.get("/v1/nothing").await.is_problem(Code::RouteUnknown);
    h.get("/v1/tasks/a/b/c/d").await.is_problem(Code::RouteUnknown);
    let reply = h.call(Method::PUT, "/v1/tasks", &[], "").await;
    reply.is_problem(Code::MethodNotAllowed);
    assert!(reply.header("allow").contains("POST"), "{:?}", reply.headers);
    for (query, pointer) in [("wait=x", "/wait"), ("wait=1s&wait=2s", "/wait")] {
        let problem = h.post(&format!("/v1/tasks?{query}"), r#"{"task":"a"}"#).await.is_problem(Code::InvalidField);
        assert_eq!(pointers(&problem), [pointer]);
    }
    let problem = h.post("/v1/tasks?dry=1", r#"{"task":"a"}"#).await.is_problem(Code::UnknownField);
    assert_eq!(pointers(&problem), ["/dry"]);
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::from("10s")),
        Just(Value::from("http://a.example")),
    ];
    let names = prop::sample::select(vec![
        "task",
        "url",
        "args",
        "kwargs",
        "payload",
        "method",
        "headers",
        "id",
        "name",
        "queue",
        "priority",
        "delay",
        "eta",
        "expires_in",
        "expires_at",
        "time_limit",
        "retry",
        "callbacks",
        "ignore_result",
        "result_ttl",
        "retention",
        "labels",
        "max_attempts",
        "backoff",
        "min",
        "max",
        "factor",
        "delays",
        "on_success",
        "on_terminal",
        "x",
    ]);
    leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((names.clone(), inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())),
        ]
    })
}

#[test]
fn random_bodies_never_are_a_fault_of_the_server() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let h = runtime.block_on(async { Harness::new() });
    let check = |status: u16| assert!(status < 500, "{status}");
    proptest!(ProptestConfig::with_cases(400), |(value in json(), cut in 0..200_usize, junk: Vec<u8>)| {
        let text = value.to_string();
        let cut: String = text.chars().take(cut).collect();
        runtime.block_on(async {
            for body in [text.clone().into_bytes(), cut.into_bytes(), junk, format!("[{text},{text}]").into_bytes()] {
                check(h.post("/v1/tasks", body.clone()).await.status.as_u16());
                let reply = h.post("/v1/tasks:batch", body.clone()).await;
                check(reply.status.as_u16());
                let lines = h.call(Method::POST, "/v1/tasks:batch", &[("content-type", "application/x-ndjson")], body).await;
                check(lines.status.as_u16());
                for answer in String::from_utf8_lossy(&lines.bytes).lines() {
                    check(serde_json::from_str::<Value>(answer).unwrap()["status"].as_u64().unwrap() as u16);
                }
            }
        });
    });
}
