//! Sizes: what is too large is refused, and before it is in memory.

use lovage_tests::Lovage;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::site::{PATIENCE, Store};
use super::wire::Wire;

on_both_stores!(
    a_task_has_a_largest_size,
    an_announced_size_is_refused_unread,
    an_endless_body_is_answered_before_its_end,
    an_endless_array_is_answered_before_its_end,
    an_endless_line_costs_no_memory,
    headers_are_counted,
    nesting_is_counted,
    labels_are_counted,
    forwarded_headers_are_counted,
);

async fn a_task_has_a_largest_size(store: Store) {
    let site = store.dev().await;
    let of = |length: usize| {
        let frame = r#"{"task":"nobody","payload":""}"#.len();
        json!({"task": "nobody", "payload": "x".repeat(length - frame)})
    };
    assert_eq!(of(1 << 20).to_string().len(), 1 << 20);
    assert_eq!(site.post_task(&of(1 << 20)).await.status, 202);
    let refused = site.post_task(&of((1 << 20) + 1)).await;
    assert_eq!((refused.status, refused.code()), (413, "payload_too_large"));
    assert_eq!(refused.header("connection"), "close", "a client must not use a connection again whose rest is not read");
    let raw = site.request(Method::POST, "/v1/tasks").header("lovage-task", "nobody").body(vec![0_u8; (1 << 20) + 1]);
    assert_eq!(site.send(raw).await.code(), "payload_too_large");
    let worker = json!({"tasks": ["a"], "url": format!("http://a.example/{}", "x".repeat(300_000))});
    assert_eq!(site.put("/v1/workers/w", &worker).await.code(), "payload_too_large");
}

async fn an_announced_size_is_refused_unread(store: Store) {
    let site = store.dev().await;
    for (path, extra) in [("/v1/tasks", ""), ("/v1/tasks", "lovage-task: a\r\n"), ("/v1/tasks:batch", "")] {
        let mut wire = Wire::open(&site).await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{extra}content-length: 1073741824\r\n\r\n"
        );
        assert!(wire.send(head).await);
        let answer = wire.read_until("payload_too_large").await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
}

/// Sends a body without an announced size until the answer is there; what was sent by then.
async fn pour(site: &super::site::Site, path: &str, content_type: &str, start: &str) -> (usize, String) {
    let mut wire = Wire::open(site).await;
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
    assert!(wire.send(head).await && wire.send_chunk(start).await);
    let piece = "x".repeat(64 * 1024);
    let mut sent = 0;
    while sent < 64 << 20 {
        if !wire.send_chunk(&piece).await {
            break;
        }
        sent += piece.len();
        // What the kernel holds on its way is not much; the server has to stop taking it.
        tokio::task::yield_now().await;
    }
    (sent, wire.read_to_end(PATIENCE).await.unwrap_or_default())
}

async fn an_endless_body_is_answered_before_its_end(store: Store) {
    let site = store.dev().await;
    let mut wire = Wire::open(&site).await;
    let head =
        "POST /v1/tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    assert!(wire.send(head).await && wire.send_chunk(r#"{"task": "nobody", "payload": ""#).await);
    let piece = "x".repeat(64 * 1024);
    for _ in 0..17 {
        assert!(wire.send_chunk(&piece).await);
    }
    // A little more than the limit has been sent, the end has not.
    let answer = wire.read_until("payload_too_large").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // A client that goes on talking is not listened to for ever.
    let before = site.lovage.resident_bytes();
    let (sent, _) = pour(&site, "/v1/tasks", "application/json", r#"{"task": "nobody", "payload": ""#).await;
    let grown = site.lovage.resident_bytes().saturating_sub(before);
    assert!(sent < 64 << 20, "the server took {sent} bytes of a refused body");
    assert!(grown < 16 << 20, "{grown} bytes more");
}

async fn an_endless_array_is_answered_before_its_end(store: Store) {
    let site = store.start(Lovage::dev().env("LOVAGE_LIMITS_ARRAY_BYTES", "1MiB")).await;
    let mut wire = Wire::open(&site).await;
    let head = "POST /v1/tasks:batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    assert!(wire.send(head).await && wire.send_chunk("[").await);
    let piece = r#"{"task": "nobody"},"#.repeat(4_000);
    for _ in 0..14 {
        assert!(wire.send_chunk(&piece).await);
    }
    let answer = wire.read_until("payload_too_large").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(site.list("/v1/tasks").await.is_empty());
}

async fn an_endless_line_costs_no_memory(store: Store) {
    let site = store.dev().await;
    let mut wire = Wire::open(&site).await;
    let head = "POST /v1/tasks:batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n\
                transfer-encoding: chunked\r\n\r\n";
    assert!(wire.send(head).await);
    let before = site.lovage.resident_bytes();
    let piece = "x".repeat(1 << 20);
    for _ in 0..24 {
        assert!(wire.send_chunk(&piece).await);
    }
    let grown = site.lovage.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert!(wire.send_chunk("\n{\"task\": \"nobody\", \"id\": \"after\"}\n").await);
    let answer = wire.read_until(r#""id":"after""#).await;
    assert!(answer.contains("payload_too_large"), "{answer}");
}

async fn headers_are_counted(store: Store) {
    let site = store.dev().await;
    let mut many = site.request(Method::GET, "/v1/tasks");
    for n in 0..101 {
        many = many.header(format!("x-{n}"), "1");
    }
    let refused = site.send(many).await;
    assert!(matches!(refused.status, 413 | 431), "{refused:?}");
    let long = site.request(Method::GET, "/v1/tasks").header("x-long", "x".repeat(17 * 1024));
    assert!(matches!(site.send(long).await.status, 413 | 431));
    // Far too long a head is not even read to its end.
    let mut wire = Wire::open(&site).await;
    wire.send(format!("GET /v1/tasks HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(1 << 20))).await;
    let answer = wire.read_to_end(PATIENCE).await.expect("the connection is closed");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(site.get("/v1/tasks").await.status, 200);
}

async fn nesting_is_counted(store: Store) {
    let site = store.dev().await;
    let post = async |body: String| {
        site.send(site.request(Method::POST, "/v1/tasks").header("content-type", "application/json").body(body)).await
    };
    let nested = |field: &str, depth: usize| format!(r#"{{"task": "a", "{field}": {}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    // The signature itself is the first level.
    for field in ["payload", "args"] {
        assert_eq!(post(nested(field, 127)).await.status, 202, "{field}");
        let refused = post(nested(field, 128)).await;
        assert_eq!((refused.status, refused.pointers()), (422, vec![&*format!("/{field}")]));
    }
    // So deep that a parser which descends would fall off its stack.
    for body in
        [nested("payload", 400_000), nested("labels", 400_000), "[".repeat(1_000_000), format!("{}1", r#"{"a":"#.repeat(200_000))]
    {
        let refused = post(body).await;
        assert!(matches!(refused.status, 400 | 422), "{refused:?}");
    }
    let refused = site
        .send(site.request(Method::POST, "/v1/tasks:batch").header("content-type", "application/json").body("[".repeat(1 << 20)));
    assert!(matches!(refused.await.status, 400 | 422));
}

async fn labels_are_counted(store: Store) {
    let site = store.dev().await;
    let labels = |count: usize| (0..count).map(|n| (format!("k{n}"), json!("v"))).collect::<Map<String, Value>>();
    assert_eq!(site.post_task(&json!({"task": "a", "labels": labels(32)})).await.status, 202);
    let refused = site.post_task(&json!({"task": "a", "labels": labels(33)})).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/labels"]));
    assert_eq!(site.post_task(&json!({"task": "a", "labels": {"k": "v".repeat(255)}})).await.status, 202);
    let refused = site.post_task(&json!({"task": "a", "labels": {"k": "v".repeat(256)}})).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/labels/k"]));
}

async fn forwarded_headers_are_counted(store: Store) {
    let site = store.dev().await;
    let headers = |count: usize| (0..count).map(|n| (format!("X-{n}"), json!("v"))).collect::<Map<String, Value>>();
    assert_eq!(site.post_task(&json!({"task": "a", "headers": headers(32)})).await.status, 202);
    let refused = site.post_task(&json!({"task": "a", "headers": headers(33)})).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/headers"]));
    let refused = site.post_task(&json!({"task": "a", "headers": {"X-Long": "v".repeat(9 * 1024)}})).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/headers"]));
}
