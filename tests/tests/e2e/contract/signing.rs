//! Signatures after Standard Webhooks, `rotate-secret`, and the namespace's `/v1/signing-keys`.

use lovage_tests::{Answered, Call, Reply, Worker};
use serde_json::{Value, json};

use super::site::{Site, Store};

on_both_stores!(
    every_delivery_is_signed_with_the_workers_secret,
    a_secret_may_be_the_users_own,
    rotation_overlaps,
    bare_urls_are_signed_with_the_namespaces_key,
    a_busy_address_is_signed_with_the_new_key_as_well,
    signing_keys_are_shown_once,
);

/// The harness computes signatures on its own; this is what the authors of the standard publish as an example.
#[test]
fn the_harness_agrees_with_the_standard() {
    let mut headers = http::HeaderMap::new();
    headers.insert("webhook-timestamp", http::HeaderValue::from_static("1614265330"));
    headers.insert("webhook-signature", http::HeaderValue::from_static("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    let mut call = Call {
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(),
        task: String::new(),
        attempt: 0,
        method: "POST".into(),
        path: "/".into(),
        headers,
        body: bytes::Bytes::from_static(br#"{"test": 2432232314}"#),
        connection: 0,
        started_ns: 0,
        ended_ns: None,
        answered: Answered::Open,
    };
    assert!(call.is_signed_with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    call.body = bytes::Bytes::from_static(b"{}");
    assert!(!call.is_signed_with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
}

fn secret_in(answer: &Value) -> String {
    answer["signing"].as_str().expect("the secret is shown once").to_owned()
}

/// The call of a new task of this kind.
async fn delivered(site: &Site, signature: &Value) -> Call {
    let id = site.submit(signature).await;
    assert_eq!(site.wait_final(&id).await["state"], "succeeded");
    site.worker.received_for(&id).remove(0)
}

async fn every_delivery_is_signed_with_the_workers_secret(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", [Reply::status(500), Reply::status(204)]);
    let secret = secret_in(&site.serves(&["work"]).await);
    let payloads =
        [json!({"task": "work"}), json!({"task": "work", "payload": "größer"}), json!({"task": "work", "payload": null})];
    for mut signature in payloads {
        signature["retry"] = super::site::quick_retry(3);
        let id = site.submit(&signature).await;
        site.wait_final(&id).await;
        let calls = site.worker.received_for(&id);
        assert_eq!(calls.len(), 2);
        assert!(calls.iter().all(|call| call.is_signed_with(&secret)), "{calls:?}");
        assert!(!calls[0].is_signed_with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    }
}

async fn a_secret_may_be_the_users_own(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    let own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    site.register_worker_with("w", &json!({"url": site.worker.url(), "tasks": ["work"], "signing": own})).await;
    assert!(delivered(&site, &json!({"task": "work"})).await.is_signed_with(own));
    // A replacement without one keeps it.
    site.serves(&["work"]).await;
    assert!(delivered(&site, &json!({"task": "work"})).await.is_signed_with(own));
    for weak in ["whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_???", ""] {
        let body = json!({"url": site.worker.url(), "tasks": ["work"], "signing": weak});
        let refused = site.put("/v1/workers/w", &body).await;
        assert_eq!((refused.status, refused.pointers()), (422, vec!["/signing"]), "{weak}");
    }
}

async fn rotation_overlaps(store: Store) {
    let site = store.dev().await;
    site.worker.on("work", Reply::status(204));
    let first = secret_in(&site.serves(&["work"]).await);
    let second = secret_in(&site.post("/v1/workers/w/rotate-secret", &json!(null)).await.json);
    // The dispatcher follows documents; soon every delivery carries both signatures.
    let call = lovage_tests::eventually("a delivery with both signatures", super::site::PATIENCE, async || {
        Some(delivered(&site, &json!({"task": "work"})).await).filter(|call| call.is_signed_with(&second))
    });
    let call = call.await;
    assert!(call.is_signed_with(&first), "the secret before is used beside the new one");
    assert_eq!(call.header("webhook-signature").split(' ').count(), 2);
    // The overlap survives a change of the worker.
    site.patch("/v1/workers/w", &json!({"concurrency": 3})).await;
    let call = delivered(&site, &json!({"task": "work"})).await;
    assert!(call.is_signed_with(&first) && call.is_signed_with(&second));
}

async fn bare_urls_are_signed_with_the_namespaces_key(store: Store) {
    let site = store.dev().await;
    site.worker.on("/hook", Reply::status(204));
    let signature = json!({"url": site.worker.url_of("/hook"), "payload": {"n": 1}});
    let secret = secret_in(&site.post("/v1/signing-keys/rotate", &json!(null)).await.json);
    let call = lovage_tests::eventually("a signed delivery", super::site::PATIENCE, async || {
        Some(delivered(&site, &signature).await).filter(|call| call.is_signed_with(&secret))
    });
    call.await;
    let next = secret_in(&site.post("/v1/signing-keys/rotate", &json!(null)).await.json);
    let call = lovage_tests::eventually("a delivery signed anew", super::site::PATIENCE, async || {
        Some(delivered(&site, &signature).await).filter(|call| call.is_signed_with(&next))
    });
    assert!(call.await.is_signed_with(&secret), "the secret before is used beside the new one");
}

async fn a_busy_address_is_signed_with_the_new_key_as_well(store: Store) {
    let site = store.dev().await;
    let busy = Worker::start();
    let gate = busy.hold("/held", Reply::status(204));
    busy.on("/hook", Reply::status(204));
    site.submit(&json!({"url": busy.url_of("/held")})).await;
    busy.wait_for(1).await;
    let secret = secret_in(&site.post("/v1/signing-keys/rotate", &json!(null)).await.json);
    lovage_tests::eventually("a signed delivery", super::site::PATIENCE, async || {
        let id = site.submit(&json!({"url": busy.url_of("/hook")})).await;
        site.wait_final(&id).await;
        busy.received_for(&id)[0].is_signed_with(&secret).then_some(())
    })
    .await;
    gate.open();
}

async fn signing_keys_are_shown_once(store: Store) {
    let site = store.dev().await;
    let first = secret_in(&site.post("/v1/signing-keys/rotate", &json!(null)).await.json);
    let second = secret_in(&site.post("/v1/signing-keys/rotate", &json!(null)).await.json);
    assert!(first.starts_with("whsec_") && second.starts_with("whsec_") && first != second);
    let listed = site.get("/v1/signing-keys").await;
    let [key] = &listed.items()[..] else { panic!("one key: {}", listed.json) };
    assert_eq!(key["name"], "default");
    let ends: Vec<bool> = key["secrets"].as_array().unwrap().iter().map(|secret| secret["expires_at"].is_string()).collect();
    assert!(ends.starts_with(&[false, true]), "{}", listed.json);
    assert!(!String::from_utf8_lossy(&listed.body).contains("whsec_"), "{}", listed.json);
}
