//! What an answer means: the table of the contract, a row at a time.

use std::time::Duration;

use lovage_tests::{Port, Reply, eventually};
use serde_json::{Value, json};

use super::site::{PATIENCE, Site, Store, quick_retry, slow_retry};

on_both_stores!(
    success_is_any_2xx,
    the_status_decides,
    faults_of_the_endpoint_are_not_charged,
    broken_answers_are_charged,
    the_outcome_header_overrides_the_status,
    errors_are_taken_from_the_body,
    a_status_map_changes_the_meaning,
    bare_urls_retry_whatever_is_no_success,
    not_now_without_a_time_is_a_second,
);

/// What a task is after its first attempt.
#[derive(Debug, PartialEq)]
struct Judged(&'static str, Option<&'static str>, u64);

const RETRY: Judged = Judged("retrying", Some("backoff"), 9);
const PERMANENT: Judged = Judged("failed", Some("permanent"), 0);
const ENDPOINT: Judged = Judged("retrying", Some("endpoint"), 10);
const THROTTLED: Judged = Judged("retrying", Some("throttled"), 10);
const SNOOZED: Judged = Judged("retrying", Some("snoozed"), 10);
const SUCCESS: Judged = Judged("succeeded", None, 0);
const CANCELED: Judged = Judged("canceled", Some("requested"), 0);

/// Gives each reply to a task of its own, of a worker of its own (so that none is slowed by another), and compares.
async fn rows(site: &Site, name: &str, settings: &Value, rows: Vec<(Reply, Judged)>) {
    let mut expected = Vec::new();
    for (n, (reply, judged)) in rows.into_iter().enumerate() {
        let task = format!("{name}-{n}");
        site.worker.on(&task, reply.clone());
        let mut settings = settings.clone();
        (settings["url"], settings["tasks"]) = (json!(site.worker.url()), json!([task]));
        site.register_worker_with(&task, &settings).await;
        let id = site.submit(&json!({"task": task, "time_limit": "300ms", "retry": slow_retry()})).await;
        expected.push((id, reply, judged));
    }
    for (id, reply, judged) in expected {
        assert_judged(site, &id, &judged, &format!("{reply:?}")).await;
    }
}

async fn assert_judged(site: &Site, id: &str, judged: &Judged, what: &str) {
    let record = site.judged(id).await;
    let told = (record["state"].as_str().unwrap(), record["reason"].as_str(), record["attempts_left"].as_u64().unwrap());
    assert_eq!(told, (judged.0, judged.1, judged.2), "{what}: {}", record["error"]);
}

async fn success_is_any_2xx(store: Store) {
    let site = store.dev().await;
    let statuses = [200, 201, 203, 204, 205, 206, 226, 299];
    let mut table: Vec<(Reply, Judged)> = statuses.into_iter().map(|status| (Reply::status(status), SUCCESS)).collect();
    table.push((Reply::json(&json!(1)).with_status(201), SUCCESS));
    table.push((Reply::bytes("text/plain", "not JSON"), SUCCESS));
    rows(&site, "row", &json!({}), table).await;
}

async fn the_status_decides(store: Store) {
    let site = store.dev().await;
    let mut table = Vec::new();
    for status in [408, 409, 423, 425, 500, 502, 504, 507, 599] {
        table.push((Reply::status(status), RETRY));
    }
    for status in [400, 402, 406, 410, 411, 413, 415, 422, 451, 499] {
        table.push((Reply::status(status), PERMANENT));
    }
    for status in [300, 301, 302, 304, 307, 308, 401, 403, 404, 405, 407, 421, 501] {
        table.push((Reply::status(status), ENDPOINT));
    }
    for status in [429, 503] {
        table.push((Reply::status(status).header("retry-after", "3600"), THROTTLED));
    }
    rows(&site, "row", &json!({}), table).await;
}

async fn faults_of_the_endpoint_are_not_charged(store: Store) {
    let site = store.dev().await;
    let closed = Port::reserve();
    let urls = [
        ("refused", format!("http://127.0.0.1:{}/", closed.number()), "ConnectionRefused"),
        // Somebody who answers, but not in TLS.
        ("tls", site.url().replace("http:", "https:"), "TlsFailed"),
        ("dns", "http://does-not-exist.invalid/".to_owned(), "DnsFailed"),
    ];
    for (task, url, _) in &urls {
        site.register_worker(task, url, &[task]).await;
        site.submit(&json!({"task": task, "id": task, "retry": slow_retry()})).await;
    }
    for (task, _, error) in &urls {
        assert_judged(&site, task, &ENDPOINT, task).await;
        let attempt = site.attempts(task).await.remove(0);
        assert_eq!((&attempt["error"]["type"], &attempt["status"]), (&json!(error), &json!(null)), "{attempt}");
    }
    // It is bounded by the age all the same.
    let retry = json!({"max_attempts": 1, "backoff": "fixed", "min": "20ms", "jitter": "none", "max_age": "400ms"});
    let id = site.submit(&json!({"task": "refused", "retry": retry})).await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("failed"), &json!("exhausted")));
    assert!(record["attempt"].as_u64() > Some(1), "{record}");
}

async fn broken_answers_are_charged(store: Store) {
    let site = store.dev().await;
    let table = vec![
        (Reply::reset(), RETRY),
        (Reply::close(), RETRY),
        (Reply::raw("this is not HTTP\r\n\r\n"), RETRY),
        (Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"), RETRY),
        (Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"), RETRY),
        (Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"), RETRY),
        (Reply::never(), RETRY),
        (Reply::stream([(Duration::ZERO, "begun".into())]).header("content-type", "text/plain").then_reset(), RETRY),
    ];
    rows(&site, "row", &json!({}), table).await;
}

async fn the_outcome_header_overrides_the_status(store: Store) {
    let site = store.dev().await;
    let say = |status: u16, word: &str| Reply::status(status).header("lovage-outcome", word);
    let table = vec![
        (say(500, "success"), SUCCESS),
        (say(404, "Success"), SUCCESS),
        (say(200, "retry"), RETRY),
        (say(400, "retry"), RETRY),
        (say(200, "fail"), PERMANENT),
        (say(503, "fail"), PERMANENT),
        (say(200, "snooze").header("retry-after", "3600"), SNOOZED),
        (say(500, "snooze"), SNOOZED),
        (say(200, "cancel"), CANCELED),
        (say(500, ""), RETRY),
        // A misspelt word must not turn into a success.
        (say(200, "fial"), RETRY),
    ];
    rows(&site, "row", &json!({}), table).await;
}

async fn errors_are_taken_from_the_body(store: Store) {
    let site = store.dev().await;
    let body = |value: Value| Reply::json(&value).with_status(422);
    let table = [
        (
            body(json!({"type": "ValueError", "message": "bad", "stack": "line 3", "more": 1})),
            json!({"type": "ValueError", "message": "bad", "stack": "line 3", "status": 422}),
        ),
        (body(json!({"message": "only that"})), json!({"type": "HttpStatus", "message": "only that", "status": 422})),
        (body(json!({"type": 3, "message": null})), json!({"type": "HttpStatus", "message": "HTTP 422", "status": 422})),
        (body(json!(["x"])), json!({"type": "HttpStatus", "message": "HTTP 422", "status": 422})),
        (
            Reply::bytes("text/html", "<h1>500</h1>").with_status(422),
            json!({"type": "HttpStatus", "message": "HTTP 422", "status": 422}),
        ),
        (Reply::status(422), json!({"type": "HttpStatus", "message": "HTTP 422", "status": 422})),
    ];
    site.serves(&["bad-*"]).await;
    for (n, (reply, error)) in table.into_iter().enumerate() {
        let task = format!("bad-{n}");
        site.worker.on(&task, reply);
        let id = site.submit_plain(&task).await;
        assert_eq!(site.wait_final(&id).await["error"], error);
    }
}

async fn a_status_map_changes_the_meaning(store: Store) {
    let site = store.dev().await;
    let table = vec![
        (Reply::status(400), RETRY),
        (Reply::status(404), RETRY),
        (Reply::status(429).header("retry-after", "3600"), RETRY),
        (Reply::status(503).header("retry-after", "3600"), RETRY),
        (Reply::status(200), SUCCESS),
    ];
    rows(&site, "cloud-tasks", &json!({"status_map": "cloud-tasks"}), table).await;
    let table = vec![(Reply::status(400), RETRY), (Reply::status(429), RETRY), (Reply::status(302), RETRY)];
    rows(&site, "qstash", &json!({"status_map": "qstash"}), table).await;
    let own = json!({"status_map": {"preset": "lovage", "retry": [404], "permanent": [500], "endpoint": [400]}});
    let table = vec![
        (Reply::status(404), RETRY),
        (Reply::status(500), PERMANENT),
        (Reply::status(400), ENDPOINT),
        (Reply::status(502), RETRY),
        (Reply::status(422), PERMANENT),
    ];
    rows(&site, "own", &own, table).await;
}

async fn bare_urls_retry_whatever_is_no_success(store: Store) {
    let site = store.dev().await;
    let statuses = [200, 204, 301, 400, 401, 404, 422, 429, 500, 503];
    for status in statuses {
        let path = format!("/{status}");
        site.worker.on(&path, Reply::status(status));
        let signature = json!({"url": site.worker.url_of(&path), "id": status.to_string(), "retry": slow_retry()});
        site.submit(&signature).await;
    }
    for status in statuses {
        let judged = if status < 300 { SUCCESS } else { RETRY };
        assert_judged(&site, &status.to_string(), &judged, &status.to_string()).await;
    }
}

async fn not_now_without_a_time_is_a_second(store: Store) {
    let site = store.dev().await;
    site.worker.on("busy", [Reply::status(503), Reply::status(204)]);
    site.serves(&["busy"]).await;
    // One charged failure would be the end of it.
    let id = site.submit(&json!({"task": "busy", "retry": quick_retry(1)})).await;
    eventually("the throttled attempt", PATIENCE, async || {
        (site.attempts(&id).await.first()?["outcome"] == "throttled").then_some(())
    })
    .await;
    let record = site.wait_final(&id).await;
    assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(2)));
    let calls = site.worker.received_for(&id);
    let pause = (calls[1].started_ns - calls[0].ended_ns.unwrap()) as f64 / 1e9;
    assert!((0.97..5.0).contains(&pause), "{pause} s");
}
