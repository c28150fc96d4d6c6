//! `GET /v1/tasks/{id}/result` and the result inside the record.

use bytes::Bytes;
use lovage_tests::Reply;
use serde_json::json;

use super::site::{Site, Store, slow_retry};

on_both_stores!(
    bytes_and_content_type_are_the_workers,
    json_is_shown_in_the_record_as_it_came,
    null_is_no_content,
    before_the_end_there_is_no_result,
    a_task_without_success_has_no_result,
    a_result_has_a_largest_size,
    foreign_bytes_are_harmless_in_a_browser,
    an_unknown_task_has_nothing,
);

/// The id of a task that was answered with this.
async fn answered(site: &Site, reply: Reply) -> String {
    site.worker.on("work", reply);
    let id = site.submit_plain("work").await;
    site.wait_final(&id).await;
    id
}

async fn working_site(store: Store) -> Site {
    let site = store.dev().await;
    site.serves(&["work"]).await;
    site
}

async fn bytes_and_content_type_are_the_workers(store: Store) {
    let site = working_site(store).await;
    let binary: Vec<u8> = (0..=255).cycle().take(50_000).collect();
    let cases = [
        ("image/png", Bytes::from(binary)),
        ("text/plain; charset=utf-8", Bytes::from("größer")),
        ("application/json", Bytes::from(r#"{"z": 1.50, "a": 12345678901234567890}"#)),
        ("application/problem+json", Bytes::from("{}")),
        ("application/json", Bytes::from("not JSON at all")),
    ];
    for (content_type, body) in cases {
        let id = answered(&site, Reply::bytes(content_type, body.clone())).await;
        let result = site.get(&format!("/v1/tasks/{id}/result")).await;
        assert_eq!((result.status, result.header("content-type")), (200, content_type));
        assert!(result.body == body, "{content_type}");
    }
}

async fn json_is_shown_in_the_record_as_it_came(store: Store) {
    let site = working_site(store).await;
    let text = r#"{"z":1.50,"a":12345678901234567890123}"#;
    let id = answered(&site, Reply::bytes("application/json", text)).await;
    let record = site.get(&format!("/v1/tasks/{id}")).await;
    assert!(String::from_utf8_lossy(&record.body).contains(&format!(r#""result":{text}"#)), "{:?}", record.body);
    // Up to 16 KiB; what is larger, or no JSON, has its own route only.
    let fits = format!("\"{}\"", "x".repeat(16 * 1024 - 2));
    let id = answered(&site, Reply::bytes("application/json", fits.clone())).await;
    assert_eq!(site.task(&id).await["result"].to_string(), fits);
    for reply in [Reply::bytes("application/json", format!("{fits} ")), Reply::bytes("text/plain", "3")] {
        let id = answered(&site, reply).await;
        assert_eq!(site.task(&id).await["result"], json!(null));
        assert_eq!(site.get(&format!("/v1/tasks/{id}/result")).await.status, 200);
    }
}

async fn null_is_no_content(store: Store) {
    let site = working_site(store).await;
    for reply in [Reply::status(204), Reply::status(205), Reply::status(200), Reply::json(&json!(null))] {
        let id = answered(&site, reply).await;
        let result = site.get(&format!("/v1/tasks/{id}/result")).await;
        assert_eq!((result.status, result.body.len()), (204, 0));
        let record = site.task(&id).await;
        assert_eq!((&record["state"], &record["result"]), (&json!("succeeded"), &json!(null)));
    }
}

async fn before_the_end_there_is_no_result(store: Store) {
    let site = store.dev().await;
    site.worker.on("again", Reply::status(500));
    let gate = site.worker.hold("held", Reply::json(&json!(1)));
    site.serves(&["again", "held"]).await;
    let queued = site.submit_plain("nobody").await;
    let scheduled = site.submit(&json!({"task": "nobody", "delay": "1h"})).await;
    let retrying = site.submit(&json!({"task": "again", "retry": slow_retry()})).await;
    let running = site.submit_plain("held").await;
    for (id, state) in [(&queued, "queued"), (&scheduled, "scheduled"), (&retrying, "retrying"), (&running, "running")] {
        site.until_state(id, state).await;
        let result = site.get(&format!("/v1/tasks/{id}/result")).await;
        assert_eq!((result.status, &result.json["state"], &result.json["id"]), (202, &json!(state), &json!(id)));
        assert!(result.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1));
    }
    gate.open();
    assert_eq!(site.get(&format!("/v1/tasks/{running}/result?wait=20s")).await.json, json!(1));
}

async fn a_task_without_success_has_no_result(store: Store) {
    let site = store.dev().await;
    site.worker.on("bad", Reply::json(&json!({"type": "ValueError", "message": "no such image"})).with_status(400));
    site.serves(&["bad"]).await;
    let failed = site.submit_plain("bad").await;
    let expired = site.submit(&json!({"task": "nobody", "expires_in": "20ms"})).await;
    let canceled = site.submit_plain("nobody").await;
    site.post(&format!("/v1/tasks/{canceled}/cancel"), &json!({})).await;
    for (id, code, state) in
        [(&failed, "task_failed", "failed"), (&expired, "task_expired", "expired"), (&canceled, "task_canceled", "canceled")]
    {
        site.wait_final(id).await;
        let result = site.get(&format!("/v1/tasks/{id}/result")).await;
        assert_eq!((result.status, result.code(), &result.json["state"]), (424, code, &json!(state)));
    }
    let detail = site.get(&format!("/v1/tasks/{failed}/result")).await.json["detail"].to_string();
    assert!(detail.contains("ValueError") && detail.contains("no such image"), "{detail}");
}

async fn a_result_has_a_largest_size(store: Store) {
    let site = working_site(store).await;
    let id = answered(&site, Reply::bytes("text/plain", "x".repeat(1 << 20))).await;
    assert_eq!(site.get(&format!("/v1/tasks/{id}/result")).await.body.len(), 1 << 20);
    let id = answered(&site, Reply::bytes("text/plain", "x".repeat((1 << 20) + 1))).await;
    let record = site.task(&id).await;
    // The work was done; doing it again would give the same bytes.
    assert_eq!((&record["state"], &record["reason"], &record["attempt"]), (&json!("failed"), &json!("permanent"), &json!(1)));
    assert_eq!(record["error"]["type"], "ResultTooLarge");
}

async fn foreign_bytes_are_harmless_in_a_browser(store: Store) {
    let site = working_site(store).await;
    let id = answered(&site, Reply::bytes("text/html", "<script>alert(1)</script>")).await;
    let result = site.get(&format!("/v1/tasks/{id}/result")).await;
    assert_eq!(result.header("x-content-type-options"), "nosniff");
    assert!(result.header("content-security-policy").contains("sandbox"), "{:?}", result.headers);
}

async fn an_unknown_task_has_nothing(store: Store) {
    let site = store.dev().await;
    for path in ["", "/result", "/payload", "/attempts", "/result?wait=5s"] {
        for id in ["unknown", "01890a5d-ac96-774b-bcce-b302099a8057", "not%20an%20id", "a%2Fb"] {
            let answer = site.get(&format!("/v1/tasks/{id}{path}")).await;
            assert_eq!((answer.status, answer.code()), (404, "task_unknown"), "{id}{path}");
        }
    }
    assert_eq!(site.delete("/v1/tasks/unknown").await.code(), "task_unknown");
    assert_eq!(site.post("/v1/tasks/unknown/cancel", &json!({})).await.code(), "task_unknown");
}
