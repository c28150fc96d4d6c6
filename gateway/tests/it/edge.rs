//! What holds for every request.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, Version};
use lovage_core::problem::Code;
use lovage_gateway::{AdminKeys, Auth};
use tower::ServiceExt;

use crate::harness::{Harness, options};

#[tokio::test]
async fn request_ids_are_kept_or_made() {
    let h = Harness::new();
    assert_eq!(h.call(Method::GET, "/healthz", &[("x-request-id", "abc-1")], "").await.header("x-request-id"), "abc-1");
    for odd in ["", "a b", "\"", &"x".repeat(65)] {
        let made = h.call(Method::GET, "/healthz", &[("x-request-id", odd)], "").await;
        assert_eq!(made.header("x-request-id").len(), 16);
    }
}

#[tokio::test]
async fn without_keys_only_this_machine_is_answered() {
    let h = Harness::new();
    for (name, value) in
        [("host", "evil.example"), ("origin", "https://evil.example"), ("origin", "null"), ("host", "10.0.0.1:8275")]
    {
        h.call(Method::GET, "/v1/tasks/a", &[(name, value)], "").await.is_problem(Code::ForeignOrigin);
    }
    for (name, value) in [("host", "localhost:8275"), ("host", "[::1]"), ("origin", "http://127.0.0.1:3000")] {
        h.call(Method::GET, "/v1/tasks/a", &[(name, value)], "").await.is_problem(Code::TaskUnknown);
    }
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let h = Harness::new();
    let twice = h.call(Method::GET, "/healthz", &[("host", "localhost"), ("host", "localhost")], "").await;
    twice.is_problem(Code::Malformed);
    for (version, status) in [(Version::HTTP_11, 400), (Version::HTTP_10, 200), (Version::HTTP_2, 200)] {
        let request = Request::get("/healthz").version(version).body(Body::empty()).unwrap();
        assert_eq!(h.gateway.router().oneshot(request).await.unwrap().status(), status, "{version:?}");
    }
}

#[tokio::test]
async fn an_unknown_method_is_named() {
    let h = Harness::new();
    let refused = h.call("PURGE".parse().unwrap(), "/v1/tasks", &[], "").await;
    refused.is_problem(Code::MethodNotAllowed);
    assert_eq!(refused.json()["detail"], "this route has no method PURGE");
}

#[tokio::test]
async fn keys_open_all_but_public_routes() {
    let mut options = options();
    options.auth = Auth::Keys(Arc::new(AdminKeys::new(["lvg_secret"])));
    let h = Harness::with(options, |_| ());
    for path in ["/v1/tasks/a", "/metrics", "/nothing"] {
        for headers in [vec![], vec![("authorization", "Bearer wrong")], vec![("authorization", "Basic lvg_secret")]] {
            let reply = h.call(Method::GET, path, &headers, "").await;
            reply.is_problem(Code::Unauthenticated);
            assert!(reply.header("www-authenticate").starts_with("Bearer"));
        }
    }
    let key = [("authorization", "bearer lvg_secret"), ("host", "anywhere.example")];
    h.call(Method::GET, "/v1/tasks/a", &key, "").await.is_problem(Code::TaskUnknown);
    assert_eq!(h.call(Method::GET, "/metrics", &key, "").await.status, 200);
    for path in ["/", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/errors/task_unknown"] {
        assert_eq!(h.get(path).await.status, 200, "{path}");
    }
    let page = h.get("/docs").await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let h = Harness::new();
    let long = "x".repeat(17 << 10);
    h.call(Method::GET, "/healthz", &[("x-long", &long)], "").await.is_problem(Code::PayloadTooLarge);
    let many = vec![("x-many", "1"); 101];
    h.call(Method::GET, "/healthz", &many, "").await.is_problem(Code::PayloadTooLarge);
}

#[tokio::test]
async fn every_code_has_its_page() {
    let h = Harness::new();
    for code in Code::ALL {
        let reply = h.get(&code.page_path()).await;
        assert_eq!((reply.status.as_u16(), &reply.bytes[..]), (200, code.page().as_bytes()));
    }
    h.get("/docs/errors/nope").await.is_problem(Code::RouteUnknown);
}

#[tokio::test]
async fn what_says_that_it_is_too_long_is_not_read() {
    let h = Harness::new();
    // The body never comes: only the announced length can have decided.
    let endless = axum::body::Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let reply = h.post_with("/v1/tasks", &[("content-length", "1048577")], endless).await;
    reply.is_problem(Code::PayloadTooLarge);
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b' '; 65_536])));
    let reply = h.post("/v1/tasks", axum::body::Body::from_stream(endless)).await;
    reply.is_problem(Code::PayloadTooLarge);
}

#[tokio::test]
async fn a_panic_is_a_problem_like_any_other() {
    let h = Harness::new();
    h.post("/v1/tasks", r#"{"url":"http://panic.example"}"#).await.is_problem(Code::Fault);
    h.submit(r#"{"task":"a"}"#).await;
}
