//! What a worker sees: the headers of a delivery, and what becomes of redirects and of `Retry-After`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lovage_core::Millis;
use lovage_tests::{Reply, Worker};
use reqwest::Method;
use serde_json::json;

use super::site::{Store, quick_retry, slow_retry};
use super::time::{now, rfc3339};

on_both_stores!(
    every_header_is_there,
    headers_of_a_bare_url,
    id_and_key_stay_attempts_rise,
    a_trace_is_handed_on_to_all_who_are_called,
    redirects_are_never_followed,
    retry_after_is_honoured_in_both_forms,
    a_throttled_worker_is_left_alone,
    connections_are_kept,
);

async fn every_header_is_there(store: Store) {
    let site = store.dev().await;
    site.worker.on("images.resize", Reply::status(204));
    let secret = site.serves(&["images.*"]).await["signing"].as_str().unwrap().to_owned();
    let eta = rfc3339(now());
    let id = site
        .submit(&json!({
            "task": "images.resize", "id": "the-id", "queue": "bulk", "eta": eta, "time_limit": "90s", "args": [1],
            "retry": {"max_attempts": 7}, "labels": {"Team": "a", "cost-centre": "42"}, "headers": {"X-Own": "x"},
        }))
        .await;
    let record = site.wait_final(&id).await;
    let call = &site.worker.received_for(&id)[0];
    for (name, value) in [
        ("content-type", "application/json"),
        ("webhook-id", "the-id"),
        ("idempotency-key", "the-id"),
        ("lovage-task", "images.resize"),
        ("lovage-queue", "bulk"),
        ("lovage-attempt", "1"),
        ("lovage-max-attempts", "7"),
        ("lovage-eta", &eta),
        ("lovage-label-team", "a"),
        ("lovage-label-cost-centre", "42"),
        ("x-own", "x"),
        ("host", &site.worker.address().to_string()),
    ] {
        assert_eq!(call.header(name), value, "{name}");
    }
    for absent in ["lovage-root", "lovage-parent", "lovage-workflow", "lovage-schedule", "lovage-batch"] {
        assert!(!call.headers.contains_key(absent), "{absent}");
    }
    assert!(call.is_signed_with(&secret));
    let version = call.header("user-agent").strip_prefix("Lovage/").expect("User-Agent: Lovage/x.y");
    assert!(version.split('.').count() >= 2 && version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    let sent: u64 = call.header("webhook-timestamp").parse().unwrap();
    let time = |field: &str| Millis::parse_rfc3339(record[field].as_str().unwrap()).unwrap();
    let (started, finished) = (time("started_at"), time("finished_at"));
    assert!((started.0 / 1_000..=finished.0 / 1_000).contains(&sent), "{sent} {record}");
    assert_eq!(call.header("lovage-deadline"), started.after(Duration::from_secs(90)).rfc3339());
    // Nothing is sent twice.
    assert!(call.headers.keys().all(|name| call.headers.get_all(name).iter().count() == 1), "{:?}", call.headers);
}

async fn a_trace_is_handed_on_to_all_who_are_called(store: Store) {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let site = store.dev().await;
    let document = json!({"outcome": "spawn", "tasks": [{"task": "child"}]}).to_string();
    let spawn = Reply::bytes("application/vnd.lovage.outcome+json", document);
    site.worker.on("parent", [Reply::status(500), spawn, Reply::status(204)]).on("*", Reply::status(204));
    site.serves(&["*"]).await;
    let submit = async |path: &str, parent: &str, content_type: &str, body: String| {
        let request = site.request(Method::POST, path).header("traceparent", parent).header("tracestate", "a=1");
        site.send(request.header("tracestate", "b=2").header("content-type", content_type).body(body)).await
    };
    let signature = json!({
        "task": "parent", "id": "p", "retry": quick_retry(3), "link": {"task": "link"},
        "callbacks": {"on_success": format!("{}/callback", site.worker.url())},
    });
    let answer = submit("/v1/tasks", PARENT, "application/json", signature.to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    // Three attempts, a child, a link and a callback.
    let calls = site.worker.wait_for(6).await;
    for (body, content_type) in [(r#"[{"task": "t"}]"#, "application/json"), (r#"{"task": "t"}"#, "application/x-ndjson")] {
        assert_eq!(submit("/v1/tasks:batch", PARENT, content_type, body.to_owned()).await.status, 200);
    }
    let more = site.worker.wait_for(8).await;
    for call in calls.iter().chain(&more) {
        assert_eq!((call.header("traceparent"), call.header("tracestate")), (PARENT, "a=1,b=2"), "{call:?}");
    }
    // A repetition may belong to another trace; one that cannot be read is none.
    let other = PARENT.replace("00f067", "11f067");
    assert_eq!(submit("/v1/tasks", &other, "application/json", signature.to_string()).await.status, 200);
    let answer = submit("/v1/tasks", "junk", "application/json", json!({"task": "t", "id": "none"}).to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    site.wait_final("none").await;
    let call = &site.worker.received_for("none")[0];
    assert!(!call.headers.contains_key("traceparent") && !call.headers.contains_key("tracestate"));
}

async fn headers_of_a_bare_url(store: Store) {
    let site = store.dev().await;
    site.worker.on("/hook", Reply::status(204));
    let id = site.submit(&json!({"url": site.worker.url_of("/hook"), "payload": [1]})).await;
    site.wait_final(&id).await;
    let call = &site.worker.received_for(&id)[0];
    let sent =
        [call.header("content-type"), call.header("webhook-id"), call.header("idempotency-key"), call.header("lovage-queue")];
    assert_eq!(sent, ["application/json", &id, &id, "default"]);
    assert_eq!((call.header("lovage-attempt"), call.header("lovage-max-attempts")), ("1", "10"));
    assert!(!call.headers.contains_key("lovage-task") && call.headers.contains_key("lovage-deadline"));
}

async fn id_and_key_stay_attempts_rise(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", [Reply::status(500), Reply::reset(), Reply::status(204)]);
    site.serves(&["work"]).await;
    let id = site.submit(&json!({"task": "work", "retry": quick_retry(5)})).await;
    site.wait_final(&id).await;
    let calls = site.worker.received_for(&id);
    assert_eq!(calls.iter().map(|call| call.header("lovage-attempt")).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert!(calls.iter().all(|call| call.header("webhook-id") == id && call.header("idempotency-key") == id));
    assert!(
        calls
            .windows(2)
            .all(|pair| pair[0].body == pair[1].body && pair[0].header("lovage-deadline") < pair[1].header("lovage-deadline"))
    );
}

async fn redirects_are_never_followed(store: Store) {
    let site = store.dev().await;
    let elsewhere = Worker::start();
    elsewhere.on("*", Reply::json(&json!("followed"))).on("/there", Reply::json(&json!("followed")));
    site.worker.on("/there", Reply::json(&json!("followed")));
    for (n, status) in [301, 302, 303, 307, 308].into_iter().enumerate() {
        for (m, location) in [elsewhere.url_of("/there"), "/there".to_owned()].into_iter().enumerate() {
            let task = format!("moved-{n}-{m}");
            site.worker.on(&task, Reply::status(status).header("location", &location));
            site.register_worker(&task, &site.worker.url_of("/here"), &[&task]).await;
            let id = site.submit(&json!({"task": task, "retry": slow_retry()})).await;
            let record = site.judged(&id).await;
            assert_eq!((&record["state"], &record["reason"]), (&json!("retrying"), &json!("endpoint")), "{status}");
        }
    }
    assert_eq!(elsewhere.count(), 0);
    assert!(site.worker.received().iter().all(|call| call.path == "/here"));
}

async fn retry_after_is_honoured_in_both_forms(store: Store) {
    let site = store.dev().await;
    // A date is cut to whole seconds, so one that is two seconds away is more than one second away.
    let date = http_date(now() + Duration::from_secs(2));
    for (task, status, wish) in [("seconds", 429, "1"), ("date", 503, &*date), ("failed", 500, "1")] {
        site.worker.on(task, [Reply::status(status).header("retry-after", wish), Reply::status(204)]);
        site.register_worker(task, &site.worker.url(), &[task]).await;
        site.submit(&json!({"task": task, "id": task, "retry": quick_retry(5)})).await;
    }
    for (task, least) in [("seconds", 0.97), ("date", 0.3), ("failed", 0.97)] {
        let record = site.wait_final(task).await;
        assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(2)), "{task}");
        let calls = site.worker.received_for(task);
        let pause = (calls[1].started_ns - calls[0].ended_ns.unwrap()) as f64 / 1e9;
        assert!((least..5.0).contains(&pause), "{task}: {pause} s");
    }
}

/// A time as HTTP writes it, made from the one form we have: the weekday is not looked at by anybody.
fn http_date(time: SystemTime) -> String {
    let text = rfc3339(time);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months[text[5..7].parse::<usize>().unwrap() - 1];
    let days = time.duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400;
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    format!("{weekday}, {} {month} {} {} GMT", &text[8..10], &text[..4], &text[11..19])
}

async fn a_throttled_worker_is_left_alone(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    site.worker.on_call("busy", |call| {
        if call.attempt == 1 { Reply::status(503).header("retry-after", "1") } else { Reply::status(204) }
    });
    site.serves(&["work", "busy"]).await;
    site.submit(&json!({"task": "busy", "id": "busy"})).await;
    site.until_state("busy", "retrying").await;
    // It asked for a second of peace, also from other tasks.
    let id = site.submit_plain("work").await;
    assert_eq!(site.wait_final(&id).await["state"], "succeeded");
    let calls = site.worker.received();
    let pause = (calls[1].started_ns - calls[0].ended_ns.unwrap()) as f64 / 1e9;
    assert!((0.97..5.0).contains(&pause), "{pause} s");
    // The budget is not charged for it.
    let record = site.wait_final("busy").await;
    assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(2)));
}

async fn connections_are_kept(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    site.register_worker_with("w", &json!({"url": site.worker.url(), "tasks": ["work"], "concurrency": 1})).await;
    let ids = site.submit_batch(&vec![json!({"task": "work"}); 20]).await.ids();
    site.wait_all_final(&ids, Duration::from_secs(30)).await;
    let calls = site.worker.received();
    assert!(calls.iter().all(|call| call.connection == calls[0].connection));
}
