//! Health, metrics, and the document of the API.

use std::path::Path;

use lovage_tests::{Lovage, Reply};
use serde_json::{Value, json};

use super::access::operations;
use super::site::Store;

on_both_stores!(
    health_and_readiness,
    metrics_are_prometheus_text,
    metrics_need_a_key_in_serve_mode,
    the_document_is_the_checked_in_one,
    every_documented_route_is_mounted,
    every_route_of_the_contract_is_documented,
    the_start_page_leads_on,
);

async fn health_and_readiness(store: Store) {
    let site = store.dev().await;
    for path in ["/healthz", "/readyz"] {
        let answer = site.get(path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{path}");
    }
    let head = site.send(site.request(reqwest::Method::HEAD, "/healthz")).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

async fn metrics_are_prometheus_text(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    site.serves(&["work"]).await;
    for _ in 0..3 {
        let id = site.submit_plain("work").await;
        site.wait_final(&id).await;
    }
    site.get("/v1/tasks/secret-task-id").await;
    site.get("/v1/secret-route").await;
    let metrics = site.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.header("content-type").starts_with("text/plain"), "{:?}", metrics.headers);
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    let posted = r#"lovage_http_requests_total{route="/v1/tasks",method="POST",status="202"} 3"#;
    assert!(text.lines().any(|line| line == posted), "{text}");
    // Labels are of a bounded number: no ids, no paths that clients invent.
    assert!(!text.contains("secret"), "{text}");
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("lovage_") && value.parse::<f64>().is_ok(), "{line}");
    }
}

async fn metrics_need_a_key_in_serve_mode(store: Store) {
    let site = store.start(Lovage::serve()).await;
    assert_eq!(site.with_key(None).get("/metrics").await.status, 401);
    assert_eq!(site.get("/metrics").await.status, 200);
}

async fn the_document_is_the_checked_in_one(store: Store) {
    let site = store.dev().await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi/lovage.json");
    let served = site.get("/openapi.json").await;
    assert_eq!((served.status, served.header("content-type")), (200, "application/json"));
    assert!(served.body == std::fs::read(file).unwrap(), "openapi/lovage.json is out of date");
    assert!(served.json["openapi"].as_str().unwrap().starts_with("3.1"), "{}", served.json["openapi"]);
}

async fn every_documented_route_is_mounted(store: Store) {
    let site = store.dev().await;
    for (method, path) in operations() {
        let answer = site.send(site.request(method.clone(), &path)).await;
        let mounted = !["route_unknown", "method_not_allowed"].contains(&answer.code()) || path.starts_with("/docs/errors/");
        assert!(mounted && answer.status < 500, "{method} {path}: {answer:?}");
    }
}

async fn every_route_of_the_contract_is_documented(store: Store) {
    let site = store.dev().await;
    let document = site.get("/openapi.json").await.json;
    let expected = [
        ("/v1/tasks", vec!["get", "post"]),
        ("/v1/tasks:batch", vec!["post"]),
        ("/v1/tasks/{id}", vec!["delete", "get"]),
        ("/v1/tasks/{id}/payload", vec!["get"]),
        ("/v1/tasks/{id}/result", vec!["get"]),
        ("/v1/tasks/{id}/attempts", vec!["get"]),
        ("/v1/tasks/{id}/cancel", vec!["post"]),
        ("/v1/workers", vec!["get"]),
        ("/v1/workers/{name}", vec!["delete", "get", "patch", "put"]),
        ("/v1/workers/{name}/rotate-secret", vec!["post"]),
        ("/v1/workers/{name}/instances", vec!["get"]),
        ("/v1/workers/{name}/instances/{id}", vec!["delete", "get", "put"]),
        ("/v1/queues", vec!["get"]),
        ("/v1/queues/{queue}", vec!["get"]),
        ("/v1/queues/{queue}/stats", vec!["get"]),
        ("/v1/signing-keys", vec!["get"]),
        ("/v1/signing-keys/rotate", vec!["post"]),
        ("/healthz", vec!["get"]),
        ("/readyz", vec!["get"]),
        ("/metrics", vec!["get"]),
        ("/openapi.json", vec!["get"]),
        ("/docs", vec!["get"]),
    ];
    for (path, methods) in expected {
        for method in methods {
            assert!(document["paths"][path][method].is_object(), "{method} {path}");
        }
    }
    // Every method that a documented path answers to is documented: the server itself tells which ones.
    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete = path.split('{').map(|part| part.split_once('}').map_or(part.to_owned(), |(_, rest)| format!("x{rest}")));
        let concrete: String = concrete.collect();
        let refused = site.send(site.request(reqwest::Method::OPTIONS, &concrete)).await;
        assert_eq!(refused.status, 405, "{path}");
        for method in refused.header("allow").split(',').map(|method| method.trim().to_lowercase()) {
            assert!(method == "head" || item[&method].is_object(), "{method} {path} is mounted and not documented");
        }
    }
    let names: Vec<&Value> =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values()).collect();
    assert!(names.iter().all(|operation| operation["operationId"].is_string()), "generated clients need names");
}

async fn the_start_page_leads_on(store: Store) {
    let site = store.dev().await;
    let page = site.get("/").await;
    let text = String::from_utf8_lossy(&page.body).into_owned();
    assert_eq!(page.status, 200);
    assert!(text.contains("Lovage") && text.contains("/openapi.json"), "{text}");
    assert_eq!(json!(page.code()), json!(""));
}
