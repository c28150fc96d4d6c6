//! `POST /v1/tasks`: what a signature may say of the work itself, and what the worker then gets.

use lovage_tests::Reply;
use serde_json::json;

use super::site::Store;

on_both_stores!(
    a_task_comes_back_with_its_result,
    a_call_is_delivered_with_name_id_and_arguments,
    a_payload_arrives_byte_for_byte,
    null_is_a_payload,
    a_url_needs_no_worker,
    a_name_beside_a_url_only_names_it,
    method_and_headers_are_the_deliverys,
    the_same_id_is_the_same_task,
    ids_may_use_all_their_characters,
    generated_ids_are_ordered_by_time,
    what_was_asked_for_is_in_the_record,
);

async fn a_task_comes_back_with_its_result(store: Store) {
    let site = store.dev().await;
    site.worker.on("sum", Reply::json(&json!(5)));
    site.serves(&["sum"]).await;
    let accepted = site.post_task(&json!({"task": "sum", "args": [2, 3]})).await;
    let id = accepted.id();
    assert_eq!((accepted.status, &accepted.json["state"]), (202, &json!("queued")));
    assert_eq!(accepted.header("location"), format!("/v1/tasks/{id}"));
    assert!(accepted.json["created_at"].as_str().unwrap().ends_with('Z'), "{}", accepted.json);
    // Links lead somewhere.
    for link in ["self", "payload", "attempts"] {
        assert_eq!(site.get(accepted.json["links"][link].as_str().unwrap()).await.status, 200, "{link}");
    }
    let done = site.wait_final(&id).await;
    assert_eq!((&done["state"], &done["result"], &done["worker"]), (&json!("succeeded"), &json!(5), &json!("w")));
    assert_eq!(site.get(accepted.json["links"]["result"].as_str().unwrap()).await.json, json!(5));
}

async fn a_call_is_delivered_with_name_id_and_arguments(store: Store) {
    let site = store.dev().await;
    site.worker.on("*", Reply::status(204));
    site.serves(&["*"]).await;
    let cases = [
        (json!({}), json!([]), json!({})),
        (json!({"args": [1, "two", null]}), json!([1, "two", null]), json!({})),
        (json!({"kwargs": {"size": {"w": 3}}}), json!([]), json!({"size": {"w": 3}})),
        (json!({"args": [], "kwargs": {"a": []}}), json!([]), json!({"a": []})),
        (json!({"args": null, "kwargs": null}), json!([]), json!({})),
    ];
    for (given, args, kwargs) in cases {
        let mut signature = given.clone();
        signature["task"] = json!("images.resize");
        let id = site.submit(&signature).await;
        site.wait_final(&id).await;
        let [call] = &site.worker.received_for(&id)[..] else { panic!("called once: {given}") };
        assert_eq!(call.json(), json!({"task": "images.resize", "id": id, "args": args, "kwargs": kwargs}));
        assert_eq!((&*call.method, call.header("content-type")), ("POST", "application/json"));
    }
}

async fn a_payload_arrives_byte_for_byte(store: Store) {
    let site = store.dev().await;
    site.worker.on("echo", Reply::status(204));
    site.serves(&["echo"]).await;
    // Digits, order, spaces and escapes that a parser would lose; and keys that repeat, which JSON allows.
    let texts = [
        r#"{"z": 1.50, "a": 12345678901234567890123, "m": 1E+2, "z": -0.0}"#,
        "[ 1 ,\t2 ]",
        r#""\u00e9\/ü""#,
        "0.1000000000000000055511151231257827",
        "false",
    ];
    for text in texts {
        let body = format!(r#"{{"task": "echo", "payload": {text}}}"#);
        let request = site.request(reqwest::Method::POST, "/v1/tasks").header("content-type", "application/json");
        let id = site.send(request.body(body)).await.id();
        site.wait_final(&id).await;
        assert_eq!(site.worker.received_for(&id)[0].body, text);
        let kept = site.get(&format!("/v1/tasks/{id}/payload")).await;
        assert_eq!((kept.status, &kept.body[..], kept.header("content-type")), (200, text.as_bytes(), "application/json"));
    }
    // Numbers of a call keep their digits, too.
    let body = r#"{"task": "echo", "args": [1.50, 12345678901234567890123]}"#;
    let request = site.request(reqwest::Method::POST, "/v1/tasks").header("content-type", "application/json");
    let id = site.send(request.body(body)).await.id();
    site.wait_final(&id).await;
    let got = String::from_utf8(site.worker.received_for(&id)[0].body.to_vec()).unwrap();
    assert!(got.contains("[1.50, 12345678901234567890123]"), "{got}");
}

async fn null_is_a_payload(store: Store) {
    let site = store.dev().await;
    site.worker.on("echo", Reply::status(204));
    site.serves(&["echo"]).await;
    let id = site.submit(&json!({"task": "echo", "payload": null})).await;
    site.wait_final(&id).await;
    assert_eq!(site.worker.received_for(&id)[0].body, "null");
    let both = site.post_task(&json!({"task": "echo", "payload": null, "args": []})).await;
    assert_eq!((both.status, both.pointers()), (422, vec!["/payload"]));
}

async fn a_url_needs_no_worker(store: Store) {
    let site = store.dev().await;
    site.worker.on("/hook?x=1%202", Reply::json(&json!({"ok": true})));
    let id = site.submit(&json!({"url": site.worker.url_of("/hook?x=1%202"), "payload": {"n": 1}})).await;
    let done = site.wait_final(&id).await;
    assert_eq!((&done["result"], &done["worker"], &done["task"]), (&json!({"ok": true}), &json!(null), &json!(null)));
    let [call] = &site.worker.received()[..] else { panic!("called once") };
    assert_eq!((&*call.path, call.json(), &*call.id), ("/hook?x=1%202", json!({"n": 1}), &*id));
}

async fn a_name_beside_a_url_only_names_it(store: Store) {
    let site = store.dev().await;
    site.worker.on("/direct", Reply::json(&json!("direct"))).on("/worker", Reply::json(&json!("worker")));
    site.register_worker("w", &site.worker.url_of("/worker"), &["both"]).await;
    let id = site.submit(&json!({"task": "both", "url": site.worker.url_of("/direct")})).await;
    // The script of a path is looked up by path; this task's name has none.
    assert_eq!(site.wait_final(&id).await["result"], json!("direct"));
    assert_eq!(site.worker.received()[0].task, "both");
}

async fn method_and_headers_are_the_deliverys(store: Store) {
    let site = store.dev().await;
    site.worker.on("/", Reply::status(204));
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET"] {
        let headers = json!({"Authorization": "Bearer t0k", "X-Team": "a, b", "X-Empty": ""});
        let signature = json!({"url": site.worker.url_of("/"), "method": method, "headers": headers, "payload": 1});
        let id = site.submit(&signature).await;
        assert_eq!(site.wait_final(&id).await["state"], "succeeded");
        let call = &site.worker.received_for(&id)[0];
        assert_eq!((&*call.method, call.header("authorization"), call.header("x-team")), (method, "Bearer t0k", "a, b"));
        assert!(call.headers.contains_key("x-empty"));
    }
}

async fn the_same_id_is_the_same_task(store: Store) {
    let site = store.dev().await;
    let body = json!({"task": "nobody", "id": "order-42", "args": [1]});
    let first = site.post_task(&body).await;
    assert_eq!((first.status, &*first.id()), (202, "order-42"));
    let again = site.post_task(&body).await;
    assert_eq!((again.status, &*again.id(), &again.json["state"]), (200, "order-42", &json!("queued")));
    let other = site.post_task(&json!({"task": "nobody", "id": "order-42", "args": [2]})).await;
    assert_eq!((other.status, other.code()), (409, "id_exists"));
    assert_eq!(site.task("order-42").await["args"], json!([1]));
    // A final task keeps its id as well.
    assert_eq!(site.post("/v1/tasks/order-42/cancel", &json!({})).await.status, 200);
    let again = site.post_task(&body).await;
    assert_eq!((again.status, &again.json["state"]), (200, &json!("canceled")));
    assert_eq!(site.list("/v1/tasks?task=nobody").await.len(), 1);
}

async fn ids_may_use_all_their_characters(store: Store) {
    let site = store.dev().await;
    let longest = "x".repeat(128);
    for id in ["a", "A-Z.a_z:0-9", "7", "...", &longest] {
        assert_eq!(site.submit(&json!({"task": "nobody", "id": id})).await, id);
        assert_eq!(site.get(&format!("/v1/tasks/{id}")).await.json["id"], id);
    }
    // One or two dots are a path to somewhere else, for clients that tidy URLs.
    for id in ["", ".", "..", "a/b", "a b", "ü", &"x".repeat(129)] {
        let refused = site.post_task(&json!({"task": "nobody", "id": id})).await;
        assert_eq!((refused.status, refused.code(), refused.pointers()), (422, "invalid_field", vec!["/id"]), "{id}");
    }
}

async fn generated_ids_are_ordered_by_time(store: Store) {
    let site = store.dev().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(site.submit_plain("nobody").await);
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    assert!(ids.is_sorted(), "{ids:?}");
    for id in &ids {
        let groups: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{id} is no UUID");
        assert!(["7", "8"].contains(&&id[14..15]), "{id} is not of a version that is ordered by time");
    }
}

async fn what_was_asked_for_is_in_the_record(store: Store) {
    let site = store.dev().await;
    let id = site
        .submit(&json!({
            "task": "nobody", "id": "full", "name": "Resize – größer", "queue": "images", "priority": 9, "delay": "1h",
            "expires_in": "2h", "time_limit": "90s", "retry": {"max_attempts": 3, "backoff": "linear", "min": "2s"},
            "labels": {"team": "a", "empty": ""}, "args": [1], "kwargs": {"k": 2},
        }))
        .await;
    let record = site.get(&format!("/v1/tasks/{id}")).await;
    assert_eq!(record.header("etag"), format!("\"{}\"", record.json["version"]));
    let record = record.json;
    let expected = json!({
        "id": "full", "state": "scheduled", "reason": null, "task": "nobody", "url": null, "name": "Resize – größer",
        "queue": "images", "priority": 9, "attempt": 0, "attempts_left": 3, "generation": record["generation"],
        "created_at": record["created_at"], "due_at": record["due_at"], "eta": record["due_at"], "expires_at": record["expires_at"],
        "started_at": null, "finished_at": null, "worker": null, "args": [1], "kwargs": {"k": 2}, "result": null,
        "error": null, "labels": {"team": "a", "empty": ""},
        "retry": {"max_attempts": 3, "backoff": "linear", "min": "2s"}, "time_limit": "1m30s",
        "parent": null, "root": null, "version": record["version"], "links": record["links"],
    });
    assert_eq!(record, expected);
    assert!(record["created_at"].as_str() < record["due_at"].as_str(), "{record}");
    assert!(record["due_at"].as_str() < record["expires_at"].as_str(), "{record}");
    // And what was not asked for has its default.
    let plain = site.submit_plain("nobody").await;
    let plain = site.task(&plain).await;
    assert_eq!((&plain["queue"], &plain["priority"]), (&json!("default"), &json!(4)));
    assert_eq!((&plain["attempts_left"], &plain["time_limit"]), (&json!(10), &json!("1m")));
    assert_eq!((&plain["labels"], &plain["due_at"], &plain["expires_at"]), (&json!({}), &json!(null), &json!(null)));
}
