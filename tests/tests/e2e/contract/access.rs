//! Who may call, and what may be called: keys in serve mode, hosts and origins in dev mode, destinations in both.

use std::path::Path;

use lovage_tests::{Lovage, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use super::site::{Site, Store, slow_retry};
use super::wire::Wire;

on_both_stores!(
    every_route_but_the_public_ones_needs_a_key,
    a_wrong_key_opens_nothing,
    foreign_hosts_and_origins_are_refused_in_dev_mode,
    private_destinations_are_refused_in_serve_mode,
    an_allowed_network_may_be_called,
    what_was_allowed_once_is_judged_again,
    metadata_services_are_never_called,
);

/// Every method and path of the checked-in document, with something in place of the parameters.
pub fn operations() -> Vec<(Method, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi/lovage.json");
    let document: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "patch", "delete"].into_iter().filter(|method| item[method].is_object()) {
            let path = path.split('{').map(|part| part.split_once('}').map_or(part.to_owned(), |(_, rest)| format!("x{rest}")));
            operations.push((method.to_uppercase().parse().unwrap(), path.collect::<String>()));
        }
    }
    assert!(operations.len() > 20, "{operations:?}");
    operations
}

async fn every_route_but_the_public_ones_needs_a_key(store: Store) {
    let site = store.start(Lovage::serve()).await;
    let nobody = site.with_key(None);
    for (method, path) in operations() {
        let answer = nobody.send(nobody.request(method.clone(), &path)).await;
        let is_public = ["/", "/healthz", "/readyz", "/openapi.json", "/docs"].contains(&&*path) || path.starts_with("/docs/");
        if is_public {
            assert_ne!(answer.status, 401, "{method} {path}");
            continue;
        }
        if path.starts_with("/v1/attempts/") {
            // The token in the path is the key, and this one is none.
            assert_eq!((answer.status, answer.code()), (404, "token_unknown"), "{method} {path}");
            continue;
        }
        assert_eq!((answer.status, answer.code()), (401, "unauthenticated"), "{method} {path}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{method} {path}");
        // With the key the same request gets further.
        let answer = site.send(site.request(method.clone(), &path)).await;
        assert_ne!(answer.status, 401, "{method} {path}");
    }
    // Nobody without a key learns which routes there are.
    assert_eq!(nobody.get("/v1/nothing").await.status, 401);
    assert_eq!(site.get("/v1/nothing").await.code(), "route_unknown");
}

async fn a_wrong_key_opens_nothing(store: Store) {
    let site = store.start(Lovage::serve()).await;
    let id = site.submit_plain("nobody").await;
    let path = format!("/v1/tasks/{id}");
    let nobody = site.with_key(None);
    for value in ["Bearer lvg_wrong", "Bearer ", "Bearer", "Basic dXNlcjpwYXNz", "lvg_wrong", ""] {
        let request = nobody.request(Method::GET, &path).header("authorization", value);
        let answer = nobody.send(request).await;
        assert_eq!((answer.status, answer.code()), (401, "unauthenticated"), "{value:?}");
    }
    // A public route does not look at keys.
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs", "/docs/errors/malformed", "/"] {
        for value in [&b"Bearer lvg_wrong"[..], b"Bearer", b"Basic dXNlcjpwYXNz", b"\xff"] {
            let request = nobody.request(Method::GET, path).header("authorization", value);
            assert_eq!(nobody.send(request).await.status, 200, "{path}");
        }
    }
    assert_eq!(site.task(&id).await["state"], "queued");
    // Any host name is fine: the key is what counts.
    let request = site.request(Method::GET, &path).header("host", "lovage.example").header("origin", "https://app.example");
    assert_eq!(site.send(request).await.status, 200);
}

async fn foreign_hosts_and_origins_are_refused_in_dev_mode(store: Store) {
    let site = store.dev().await;
    let ask = async |headers: &str| {
        let mut wire = Wire::open(&site).await;
        assert!(wire.send(format!("GET /v1/tasks HTTP/1.1\r\n{headers}connection: close\r\n\r\n")).await);
        wire.read_to_end(super::site::PATIENCE).await.expect("the server closes the connection")
    };
    for headers in [
        "host: evil.example\r\n",
        "host: localhost.evil.example\r\n",
        "host: 10.0.0.1:8275\r\n",
        "host: 127.0.0.1\r\norigin: https://evil.example\r\n",
        "host: 127.0.0.1\r\norigin: null\r\n",
        "host: localhost\r\norigin: http://localhost.evil.example\r\n",
    ] {
        let answer = ask(headers).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("foreign_origin"), "{headers:?}: {answer}");
    }
    for headers in [
        "host: 127.0.0.1:8275\r\n",
        "host: localhost\r\norigin: http://localhost:3000\r\n",
        "host: [::1]:80\r\norigin: http://127.0.0.1\r\n",
        "host: app.localhost\r\n",
    ] {
        let answer = ask(headers).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{headers:?}: {answer}");
    }
}

/// Where a URL can be given, and what comes of it there.
async fn give_everywhere(site: &Site, url: &str) -> Vec<(u16, String, Vec<String>)> {
    let answers = [
        site.post_task(&json!({"url": url})).await,
        site.post_task(&json!({"task": "t", "callbacks": {"on_terminal": url}})).await,
        site.post_task(&json!({"task": "t", "callbacks": {"on_retry": {"url": url}}})).await,
        site.put("/v1/workers/refused", &json!({"url": url, "tasks": ["t"]})).await,
        site.put("/v1/workers/refused", &json!({"urls": ["https://one.example", url], "tasks": ["t"]})).await,
        site.put("/v1/workers/known/instances/i", &json!({"url": url})).await,
    ];
    let told = |answer: &lovage_tests::Answer| {
        let pointers = answer.pointers().into_iter().map(str::to_owned).collect();
        (answer.status, answer.code().to_owned(), pointers)
    };
    answers.iter().map(told).collect()
}

const PLACES: [&str; 6] = ["/url", "/callbacks/on_terminal/url", "/callbacks/on_retry/url", "/url", "/urls/1", "/url"];

async fn assert_forbidden(site: &Site, urls: &[&str]) {
    assert_eq!(site.put("/v1/workers/known", &json!({"tasks": ["known"]})).await.status, 201);
    for url in urls {
        let told = give_everywhere(site, url).await;
        let expected = PLACES.map(|place| (403, "destination_forbidden".to_owned(), vec![place.to_owned()]));
        assert_eq!(told, expected, "{url}");
    }
    assert_eq!(site.get("/v1/workers/refused").await.status, 404);
}

async fn private_destinations_are_refused_in_serve_mode(store: Store) {
    let site = store.start(Lovage::serve()).await;
    let urls = [
        "http://127.0.0.1:8080/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.1.1/",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://224.0.0.1/",
        "http://localhost:8080/",
    ];
    assert_forbidden(&site, &urls).await;
    assert!(site.list("/v1/tasks").await.is_empty());
    // What no address policy needs to look at is a mistake of the field, not a forbidden place.
    for url in ["nonsense", "ftp://a.example/", "file:///etc/passwd", "http://", "http://user:pw@a.example/", "//a.example"] {
        let refused = site.post_task(&json!({"url": url})).await;
        assert_eq!((refused.status, refused.code(), refused.pointers()), (422, "invalid_field", vec!["/url"]), "{url}");
    }
    assert_eq!(site.post_task(&json!({"url": "https://public.example/", "delay": "1h"})).await.status, 202);
    assert_eq!(site.worker.count(), 0);
}

async fn an_allowed_network_may_be_called(store: Store) {
    let site = store.start(Lovage::serve().option("--allow-network", "127.0.0.0/8")).await;
    site.worker.on("work", Reply::json(&json!("called"))).on("/hook", Reply::status(204));
    site.serves(&["work"]).await;
    let id = site.submit(&json!({"task": "work", "callbacks": {"on_success": site.worker.url_of("/hook")}})).await;
    assert_eq!(site.wait_final(&id).await["result"], "called");
    site.worker.wait_for(2).await;
    // That network and no other.
    assert_forbidden(&site, &["http://10.0.0.1/", "http://[::1]/"]).await;
}

async fn what_was_allowed_once_is_judged_again(store: Store) {
    let mut site = store.start(Lovage::serve().option("--allow-network", "127.0.0.0/8")).await;
    site.worker.on("/hook", Reply::status(204));
    let id = site.submit(&json!({"url": site.worker.url_of("/hook"), "delay": "1s", "retry": slow_retry()})).await;
    // The same data, and no network allowed any more.
    site.restart_as(Lovage::serve()).await;
    let record = site.judged(&id).await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("retrying"), &json!("endpoint")));
    assert_eq!(site.attempts(&id).await[0]["error"]["type"], "DestinationForbidden");
    assert_eq!(site.worker.count(), 0);
}

async fn metadata_services_are_never_called(store: Store) {
    let site = store.dev().await;
    assert_forbidden(&site, &["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/"]).await;
}
