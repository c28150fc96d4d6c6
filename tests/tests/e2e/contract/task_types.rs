//! `/v1/task-types/{pattern}`: defaults for tasks of a name, and a schema for their arguments.

use std::time::Duration;

use lovage_tests::{Lovage, Redis, Reply, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use super::site::{PATIENCE, Store};

on_both_stores!(
    a_type_decides_how_a_task_runs,
    the_signature_beats_its_type,
    spawned_and_linked_tasks_have_types_too,
    arguments_that_do_not_fit_are_refused,
    a_type_is_a_document,
    what_a_type_gave_stays,
    types_survive_a_restart,
);

async fn a_type_decides_how_a_task_runs(store: Store) {
    let site = store.dev().await;
    site.worker.on("mail.send", Reply::status(500)).on("/told", Reply::status(204)).on("mail.log", Reply::status(204));
    site.serves(&["mail.*"]).await;
    let settings = json!({
        "queue": "mail", "retry": {"max_attempts": 2, "backoff": "fixed", "min": "10ms", "jitter": "none"},
        "labels": {"team": "a"}, "headers": {"X-Tenant": "t1"}, "callbacks": {"on_failure": site.worker.url_of("/told")},
    });
    assert_eq!(site.put("/v1/task-types/mail.*", &settings).await.status, 201);
    let exact = json!({"queue": "logs", "ignore_result": true});
    assert_eq!(site.put("/v1/task-types/mail.log", &exact).await.status, 201);

    let failed = site.submit(&json!({"task": "mail.send"})).await;
    let record = site.wait_final(&failed).await;
    assert_eq!((&record["state"], &record["attempt"], &record["queue"]), (&json!("failed"), &json!(2), &json!("mail")));
    assert_eq!(record["labels"], json!({"team": "a"}));
    let calls = site.worker.wait_until("the callback", PATIENCE, |calls| calls.iter().any(|call| call.path == "/told")).await;
    let pushes: Vec<_> = calls.iter().filter(|call| call.header("lovage-task") == "mail.send").collect();
    assert!(pushes.len() == 2 && pushes.iter().all(|call| call.header("x-tenant") == "t1"), "{pushes:?}");

    let logged = site.submit(&json!({"task": "mail.log"})).await;
    let record = site.wait_final(&logged).await;
    assert_eq!((&record["queue"], &record["labels"]), (&json!("logs"), &json!({})), "the closest type alone");
    let raw = site.request(Method::POST, "/v1/tasks").header("lovage-task", "mail.log").body("bytes");
    assert_eq!(site.task(&site.send(raw).await.id()).await["queue"], "logs");
    for id in site.submit_batch(&[json!({"task": "mail.log"}), json!({"task": "mail.log"})]).await.ids() {
        assert_eq!(site.task(&id).await["queue"], "logs");
    }
    for id in site.submit_ndjson(&[json!({"task": "mail.log"})]).await.ids() {
        assert_eq!(site.task(&id).await["queue"], "logs");
    }
}

async fn the_signature_beats_its_type(store: Store) {
    let site = store.dev().await;
    let settings = json!({"queue": "q", "priority": 9, "delay": "1h", "labels": {"a": "1", "b": "1"}, "time_limit": "5s"});
    site.put("/v1/task-types/*", &settings).await;
    let typed = site.task(&site.submit(&json!({"task": "nobody"})).await).await;
    assert_eq!((&typed["state"], &typed["priority"], &typed["time_limit"]), (&json!("scheduled"), &json!(9), &json!("5s")));
    let own = json!({"task": "nobody", "queue": "default", "priority": 0, "delay": 0, "labels": {"b": "2"}, "time_limit": null});
    let own = site.task(&site.submit(&own).await).await;
    assert_eq!((&own["state"], &own["queue"], &own["priority"]), (&json!("queued"), &json!("default"), &json!(0)));
    assert_eq!((&own["labels"], &own["time_limit"]), (&json!({"a": "1", "b": "2"}), &json!("5s")));
}

async fn spawned_and_linked_tasks_have_types_too(store: Store) {
    let site = store.dev().await;
    let spawn = json!({"outcome": "spawn", "then": "detach", "tasks": [{"task": "child", "id": null}]});
    site.worker
        .on("parent", Reply::bytes("application/vnd.lovage.outcome+json", spawn.to_string()))
        .on("child", Reply::status(204))
        .on("linked", Reply::status(204));
    for task in ["child", "linked"] {
        let settings = json!({"queue": task, "unique": {"key": "one"}, "labels": {"typed": task}});
        site.put(&format!("/v1/task-types/{task}"), &settings).await;
    }
    // Whoever pushes to this worker knows what was stored before it.
    site.serves(&["parent", "child", "linked"]).await;
    site.submit(&json!({"task": "parent", "link": {"task": "linked"}})).await;
    for task in ["child", "linked"] {
        let found = eventually(task, PATIENCE, async || site.list(&format!("/v1/tasks?task={task}")).await.pop()).await;
        assert_eq!((&found["queue"], &found["labels"]["typed"]), (&json!(task), &json!(task)));
    }
}

fn schema() -> Value {
    json!({"args_schema": {
        "properties": {
            "args": {"prefixItems": [{"type": "string"}]},
            "kwargs": {"properties": {"width": {"type": "integer", "maximum": 100}}, "required": ["width"]},
            "payload": {"type": "object"},
        },
    }})
}

async fn arguments_that_do_not_fit_are_refused(store: Store) {
    let site = store.dev().await;
    site.put("/v1/task-types/images.*", &schema()).await;
    let refused = site.post_task(&json!({"task": "images.resize", "args": [3], "kwargs": {"width": 1000}})).await;
    assert_eq!((refused.status, refused.code()), (422, "arguments_refused"));
    assert_eq!(refused.pointers(), ["/args/0", "/kwargs/width"]);
    assert_eq!(site.post_task(&json!({"task": "images.resize"})).await.pointers(), ["/kwargs"]);
    assert_eq!(site.post_task(&json!({"task": "images.resize", "payload": [1]})).await.pointers(), ["/payload"]);
    let raw = site.request(Method::POST, "/v1/tasks").header("lovage-task", "images.resize");
    let raw = raw.header("content-type", "image/png").body(vec![0_u8; 10]);
    assert_eq!(site.send(raw).await.pointers(), ["/payload"]);
    let good = json!({"task": "images.resize", "args": ["a"], "kwargs": {"width": 10}});
    let bad = json!({"task": "images.resize", "kwargs": {"width": "10"}});
    for answer in [site.submit_batch(&[good.clone(), bad.clone()]).await, site.submit_ndjson(&[good.clone(), bad.clone()]).await]
    {
        let items = answer.items();
        assert_eq!((&items[0]["status"], &items[1]["problem"]["code"]), (&json!(202), &json!("arguments_refused")));
        assert_eq!(items[1]["problem"]["errors"][0]["pointer"], "/kwargs/width");
    }
    let atomic = site.post("/v1/tasks:batch?atomic=true", &json!([good, bad])).await;
    assert_eq!((atomic.code(), atomic.pointers()), ("arguments_refused", vec!["/1/kwargs/width"]));
    assert_eq!(site.list("/v1/tasks").await.len(), 2, "only the good ones");
}

async fn a_type_is_a_document(store: Store) {
    let site = store.dev().await;
    let path = "/v1/task-types/a%2Fb.%2A";
    let made = site.put(path, &json!({"queue": "q", "priority": 3})).await;
    assert_eq!((made.status, &made.json["pattern"]), (201, &json!("a/b.*")));
    assert_eq!(made.header("etag"), format!("\"{}\"", made.json["version"]));
    let guarded = |method: Method, tag: &str, body: &Value| {
        let request = site.request(method, path).header("if-match", tag).json(body);
        site.send(request)
    };
    let changed = guarded(Method::PATCH, made.header("etag"), &json!({"queue": null, "priority": 4})).await;
    assert_eq!((changed.status, &changed.json["queue"], &changed.json["priority"]), (200, &Value::Null, &json!(4)));
    for method in [Method::PUT, Method::PATCH, Method::DELETE] {
        assert_eq!(guarded(method, made.header("etag"), &json!({})).await.code(), "version_mismatch");
    }
    assert_eq!(site.get(path).await.json, changed.json);
    assert_eq!(site.list("/v1/task-types").await, std::slice::from_ref(&changed.json));
    for (body, code, pointer) in [
        (json!({"rate": "0/s"}), "invalid_field", "/rate"),
        (json!({"burst": 2}), "invalid_field", "/burst"),
        (json!({"args": []}), "invalid_field", "/args"),
        (json!({"qeue": "q"}), "unknown_field", "/qeue"),
        (json!({"args_schema": {"$ref": "https://example.com/schema.json"}}), "invalid_field", "/args_schema/$ref"),
        (
            json!({"args_schema": {"properties": {"args": {"$ref": "#"}}}}),
            "invalid_field",
            "/args_schema/properties/args/$ref/properties/args/$ref",
        ),
    ] {
        let refused = site.put(path, &body).await;
        assert_eq!((refused.code(), refused.pointers()), (code, vec![pointer]), "{body}");
    }
    assert_eq!(site.get(path).await.json, changed.json, "nothing of what was refused");
    assert_eq!(site.delete(path).await.status, 204);
    assert_eq!(site.delete(path).await.code(), "task_type_unknown");
    assert_eq!(site.get(path).await.code(), "task_type_unknown");
    assert_eq!(site.patch(path, &json!({})).await.code(), "task_type_unknown");
    assert_eq!(site.put("/v1/task-types/no%20good", &json!({})).await.pointers(), ["/pattern"]);
}

async fn what_a_type_gave_stays(store: Store) {
    let site = store.dev().await;
    site.put("/v1/task-types/nobody", &json!({"queue": "before"})).await;
    let early = site.submit(&json!({"task": "nobody", "id": "early"})).await;
    site.put("/v1/task-types/nobody", &json!({"queue": "after"})).await;
    let late = site.submit_plain("nobody").await;
    assert_eq!((&site.task(&early).await["queue"], &site.task(&late).await["queue"]), (&json!("before"), &json!("after")));
    let again = site.post_task(&json!({"task": "nobody", "id": "early"})).await;
    assert_eq!((again.status, &again.json["queue"]), (200, &json!("before")), "the same request is the same task");
    site.delete("/v1/task-types/nobody").await;
    assert_eq!(site.task(&site.submit_plain("nobody").await).await["queue"], "default");
}

async fn types_survive_a_restart(store: Store) {
    let mut site = store.dev().await;
    site.put("/v1/task-types/nobody", &json!({"queue": "kept"})).await;
    site.restart_as(Lovage::dev()).await;
    assert_eq!(site.task(&site.submit_plain("nobody").await).await["queue"], "kept", "also for the first submit");
}

/// One server changes a type, another one takes the tasks.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_change_is_in_force_everywhere_within_a_second() {
    let redis = Redis::start();
    let one = Lovage::dev().redis(&redis).start().await;
    let other = Lovage::dev().redis(&redis).start().await;
    other.client().submit(&json!({"task": "nobody"})).await;
    for queue in ["first", "second", "third"] {
        one.client().put("/v1/task-types/nobody", &json!({"queue": queue})).await;
        eventually(queue, Duration::from_secs(1), async || {
            let id = other.client().submit(&json!({"task": "nobody"})).await;
            (other.client().task(&id).await["queue"] == queue).then_some(())
        })
        .await;
    }
}
