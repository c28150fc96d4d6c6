//! Workers, instances, queues and signing keys.

use std::time::Duration;

use axum::http::Method;
use lovage_core::Ns;
use lovage_core::errand::{Called, Errand, ErrandKind};
use lovage_core::instance::Recycling;
use lovage_core::problem::Code;
use lovage_core::worker::{InstanceConfig, SigningKey, WorkerConfig};
use lovage_store::{DocGuard, DocKind, DocPut, Store};
use serde_json::{Value, json};

use crate::harness::{Harness, Reply, until};

async fn put(h: &Harness, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut all = vec![("content-type", "application/json")];
    all.extend(headers);
    h.call(Method::PUT, path, &all, body.to_owned()).await
}

async fn stored(h: &Harness, name: &str) -> WorkerConfig {
    let document = h.store.doc(DocKind::Worker, Ns::DEFAULT, name).await.unwrap().unwrap();
    serde_json::from_slice(&document.bytes.unwrap()).unwrap()
}

const FULL: &str = r#"{"url":"http://w.example/{task}","tasks":["images.*","x"],"queues":["q"],"concurrency":7,
    "cancel_grace":"5s","headers":{"X-Token":"secret"},"status_map":{"preset":"qstash","permanent":[404]}}"#;

#[tokio::test]
async fn a_worker_is_registered_shown_and_replaced() {
    let h = Harness::new();
    let made = put(&h, "/v1/workers/w1", &[], FULL).await;
    assert_eq!((made.status.as_u16(), made.header("etag")), (201, "\"1\""));
    let made = made.json();
    let secret = made["signing"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"));
    let shown = h.get("/v1/workers/w1").await;
    assert_eq!(shown.json()["signing"], Value::Null);
    assert!(!String::from_utf8_lossy(&shown.bytes).contains("secret"), "{:?}", shown.bytes);
    assert_eq!(shown.json()["headers"], json!({"X-Token": null}));
    assert_eq!(shown.json()["urls"], json!(["http://w.example/{task}"]));
    assert_eq!(shown.json()["status_map"]["permanent"], json!([404]));
    let config = stored(&h, "w1").await;
    assert_eq!((config.concurrency, config.signing[0].secret.as_str()), (Some(7), &*secret));
    assert_eq!(config.headers["X-Token"], "secret");

    let again = put(&h, "/v1/workers/w1", &[], r#"{"urls":["http://a.example"],"tasks":["y"],"headers":{"X-Token":null}}"#).await;
    assert_eq!((again.status.as_u16(), &again.json()["signing"]), (200, &Value::Null));
    let config = stored(&h, "w1").await;
    assert_eq!(
        (config.concurrency, config.headers["X-Token"].as_str(), config.signing[0].secret.as_str()),
        (None, "secret", &*secret)
    );
    put(&h, "/v1/workers/w1", &[], r#"{"tasks":["y"]}"#).await;
    assert!(stored(&h, "w1").await.headers.is_empty(), "a PUT without headers removes them");

    assert_eq!(h.get("/v1/workers?limit=1").await.json()["items"][0]["name"], "w1");
    assert_eq!(h.call(Method::DELETE, "/v1/workers/w1", &[], "").await.status, 204);
    h.get("/v1/workers/w1").await.is_problem(Code::WorkerUnknown);
    h.call(Method::DELETE, "/v1/workers/w1", &[], "").await.is_problem(Code::WorkerUnknown);
}

#[tokio::test]
async fn a_patch_changes_only_what_it_names() {
    let h = Harness::new();
    put(&h, "/v1/workers/w", &[], FULL).await;
    let json = [("content-type", "application/json")];
    let reply = h.call(Method::PATCH, "/v1/workers/w", &json, r#"{"concurrency":null,"tasks":["z"]}"#).await;
    assert_eq!(reply.status, 200, "{:?}", reply.bytes);
    let reply = reply.json();
    assert_eq!((&reply["concurrency"], &reply["tasks"], &reply["queues"]), (&json!(100), &json!(["z"]), &json!(["q"])));
    assert_eq!(stored(&h, "w").await.headers["X-Token"], "secret");
    h.call(Method::PATCH, "/v1/workers/none", &json, "{}").await.is_problem(Code::WorkerUnknown);
}

#[tokio::test]
async fn versions_guard_changes() {
    let h = Harness::new();
    let body = r#"{"tasks":["a"]}"#;
    put(&h, "/v1/workers/w", &[("if-match", "*")], body).await.is_problem(Code::VersionMismatch);
    let etag = put(&h, "/v1/workers/w", &[("if-none-match", "*")], body).await.header("etag").to_owned();
    put(&h, "/v1/workers/w", &[("if-none-match", "*")], body).await.is_problem(Code::VersionMismatch);
    assert_eq!(put(&h, "/v1/workers/w", &[("if-match", &etag)], body).await.status, 200);
    put(&h, "/v1/workers/w", &[("if-match", &etag)], body).await.is_problem(Code::VersionMismatch);
    put(&h, "/v1/workers/w", &[("if-match", "W/\"x\"")], body).await.is_problem(Code::VersionMismatch);
    h.call(Method::DELETE, "/v1/workers/w", &[("if-match", &etag)], "").await.is_problem(Code::VersionMismatch);
}

#[tokio::test]
async fn bad_workers_are_refused() {
    let h = Harness::new();
    for (body, code, pointer) in [
        ("{}", Code::InvalidField, "/tasks"),
        (r#"{"tasks":[]}"#, Code::InvalidField, "/tasks"),
        (r#"{"tasks":"a"}"#, Code::InvalidField, "/tasks"),
        (r#"{"tasks":["a","b c"]}"#, Code::InvalidField, "/tasks/1"),
        (r#"{"tasks":["a"],"url":"ftp://x"}"#, Code::InvalidField, "/url"),
        (r#"{"tasks":["a"],"url":"http://a","urls":["http://b"]}"#, Code::InvalidField, "/urls"),
        (r#"{"tasks":["a"],"urls":["http://a","http://169.254.169.254"]}"#, Code::DestinationForbidden, "/urls/1"),
        (r#"{"tasks":["a"],"queues":["x y"]}"#, Code::InvalidField, "/queues/0"),
        (r#"{"tasks":["a"],"concurrency":0}"#, Code::InvalidField, "/concurrency"),
        (r#"{"tasks":["a"],"cancel_grace":"x"}"#, Code::InvalidField, "/cancel_grace"),
        (r#"{"tasks":["a"],"headers":{"Host":"x"}}"#, Code::InvalidField, "/headers/Host"),
        (r#"{"tasks":["a"],"headers":{"X-A":null}}"#, Code::InvalidField, "/headers/X-A"),
        (r#"{"tasks":["a"],"status_map":"best"}"#, Code::InvalidField, "/status_map"),
        (r#"{"tasks":["a"],"status_map":{"retry":[200]}}"#, Code::InvalidField, "/status_map/retry/0"),
        (r#"{"tasks":["a"],"signing":"abc"}"#, Code::InvalidField, "/signing"),
        (r#"{"tasks":["a"],"rate":"0/s"}"#, Code::InvalidField, "/rate"),
        (r#"{"tasks":["a"],"burst":3}"#, Code::InvalidField, "/burst"),
        (r#"{"task":["a"]}"#, Code::UnknownField, "/task"),
    ] {
        let problem = put(&h, "/v1/workers/w", &[], body).await.is_problem(code);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
    put(&h, "/v1/workers/a%20b", &[], r#"{"tasks":["a"]}"#).await.is_problem(Code::InvalidField);
    h.get("/v1/workers/w").await.is_problem(Code::WorkerUnknown);
}

#[tokio::test]
async fn instances_come_and_go() {
    let h = Harness::new();
    let body = r#"{"url":"http://10.0.0.1:80","ttl":"30s","capacity":3,"version":"1.2"}"#;
    put(&h, "/v1/workers/w/instances/i1", &[], body).await.is_problem(Code::WorkerUnknown);
    put(&h, "/v1/workers/w", &[], r#"{"tasks":["a"]}"#).await;
    put(&h, "/v1/workers/w2", &[], r#"{"tasks":["a"]}"#).await;
    let made = put(&h, "/v1/workers/w/instances/i1", &[], body).await;
    assert_eq!((made.status.as_u16(), &made.json()["expires_at"]), (201, &json!("2027-01-15T08:00:30.000Z")));
    assert_eq!(put(&h, "/v1/workers/w/instances/i1", &[], body).await.status, 200);
    put(&h, "/v1/workers/w/instances/i2", &[], body).await;
    put(&h, "/v1/workers/w2/instances/i3", &[], body).await;
    let list = h.get("/v1/workers/w/instances?limit=1").await.json();
    assert_eq!(list["items"][0]["id"], "i1");
    let next = list["next_cursor"].as_str().unwrap();
    let list = h.get(&format!("/v1/workers/w/instances?cursor={next}")).await.json();
    assert_eq!((list["items"].as_array().unwrap().len(), &list["next_cursor"]), (1, &Value::Null));
    assert_eq!(h.call(Method::DELETE, "/v1/workers/w/instances/i2", &[], "").await.status, 204);
    let gone = h.get("/v1/workers/w/instances/i2").await.is_problem(Code::WorkerUnknown);
    assert_eq!(gone["detail"], "worker `w` has no instance `i2`");
    let gone = h.call(Method::DELETE, "/v1/workers/w/instances/i2", &[], "").await.is_problem(Code::WorkerUnknown);
    assert_eq!(gone["detail"], "worker `w` has no instance `i2`");

    h.clock.advance(Duration::from_secs(31));
    h.get("/v1/workers/w/instances/i1").await.is_problem(Code::WorkerUnknown);
    assert_eq!(h.get("/v1/workers/w/instances").await.json()["items"], json!([]));
    put(&h, "/v1/workers/w/instances/i9", &[], body).await;
    let left = h.store.doc(DocKind::Instance, Ns::DEFAULT, "w/i1").await.unwrap();
    assert!(left.is_none(), "ended registrations are swept");
    h.call(Method::DELETE, "/v1/workers/w", &[], "").await;
    assert!(h.store.doc(DocKind::Instance, Ns::DEFAULT, "w/i9").await.unwrap().is_none());
    assert!(h.store.doc(DocKind::Instance, Ns::DEFAULT, "w2/i3").await.unwrap().is_some());
    for (body, pointer) in [("{}", "/url"), (r#"{"url":"x"}"#, "/url"), (r#"{"url":"http://a","ttl":"25h"}"#, "/ttl")] {
        let problem = put(&h, "/v1/workers/w2/instances/i", &[], body).await.is_problem(Code::InvalidField);
        assert_eq!(problem["errors"][0]["pointer"], pointer);
    }
}

#[tokio::test]
async fn secrets_are_rotated_and_shown_once() {
    let h = Harness::new();
    let first = put(&h, "/v1/workers/w", &[], r#"{"tasks":["a"]}"#).await.json()["signing"].clone();
    let second = h.call(Method::POST, "/v1/workers/w/rotate-secret", &[], "").await.json()["signing"].clone();
    let secrets = stored(&h, "w").await.signing;
    assert_eq!((json!(secrets[0].secret), json!(secrets[1].secret)), (second, first));
    assert!(secrets[1].until.is_some());
    h.call(Method::POST, "/v1/workers/none/rotate-secret", &[], "").await.is_problem(Code::WorkerUnknown);

    assert_eq!(h.get("/v1/signing-keys").await.json()["items"], json!([]));
    let secret = h.call(Method::POST, "/v1/signing-keys/rotate", &[], "").await.json()["signing"].clone();
    let document = h.store.doc(DocKind::SigningKey, Ns::DEFAULT, "default").await.unwrap().unwrap();
    let key: SigningKey = serde_json::from_slice(&document.bytes.unwrap()).unwrap();
    assert_eq!(json!(key.secrets[0].secret), secret);
    assert_eq!(h.get("/v1/signing-keys").await.json()["items"], json!([{"name": "default", "secrets": [{"expires_at": null}]}]));
}

#[tokio::test]
async fn how_a_worker_takes_tasks_together() {
    let h = Harness::new();
    let worker = |batch: &str| format!(r#"{{"tasks":["a"],"batch":{batch}}}"#);
    for (batch, shown) in [("null", json!(null)), ("{}", json!({"max": 1000})), (r#"{"max":1}"#, json!({"max": 1}))] {
        assert_eq!(put(&h, "/v1/workers/w", &[], &worker(batch)).await.json()["batch"], shown);
    }
    for (batch, pointer) in
        [("7", "/batch"), (r#"{"max":0}"#, "/batch/max"), (r#"{"max":1001}"#, "/batch/max"), (r#"{"most":1}"#, "/batch/most")]
    {
        let refused = put(&h, "/v1/workers/w", &[], &worker(batch)).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["errors"][0]["pointer"]), (422, &json!(pointer)), "{batch}");
    }
}

#[tokio::test]
async fn the_record_names_its_worker() {
    let h = Harness::new();
    put(&h, "/v1/workers/w", &[], r#"{"tasks":["a"]}"#).await;
    let id = h.submit(r#"{"task":"a"}"#).await;
    h.start(&id).await;
    let path = format!("/v1/tasks/{id}");
    until("the directory is read", async || h.get(&path).await.json()["worker"] == "w").await;
}

#[tokio::test]
async fn queues_are_made_on_first_use() {
    let h = Harness::new();
    assert_eq!(
        h.get("/v1/queues").await.json()["items"],
        json!([{"name": "default", "created_at": null, "paused": null, "version": null}])
    );
    h.submit(r#"{"task":"a","queue":"mail"}"#).await;
    h.clock.advance(Duration::from_secs(5));
    h.submit(r#"{"task":"a","queue":"mail","delay":"1h"}"#).await;
    h.post("/v1/tasks:batch", r#"[{"task":"a","queue":"b1"},{"task":"a","queue":"b2"},{"task":"a","queue":"b1"}]"#).await;
    let page = h.get("/v1/queues?limit=3").await.json();
    let names: Vec<_> = page["items"].as_array().unwrap().iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b1", "b2", "default"]);
    let next = page["next_cursor"].as_str().unwrap();
    assert_eq!(h.get(&format!("/v1/queues?cursor={next}")).await.json()["items"][0]["name"], "mail");
    assert_eq!(h.get("/v1/queues/mail").await.json()["created_at"], "2027-01-15T08:00:00.000Z");
    let stats = h.get("/v1/queues/mail/stats").await.json();
    assert_eq!(
        (&stats["depth"]["queued"], &stats["depth"]["scheduled"], &stats["depth"]["failed"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!(stats["oldest_age"], "5s");
    assert_eq!(h.get("/v1/queues/default/stats").await.json()["oldest_age"], Value::Null);
    h.get("/v1/queues/none").await.is_problem(Code::QueueUnknown);
    h.get("/v1/queues/none/stats").await.is_problem(Code::QueueUnknown);
    h.get("/v1/queues?cursor=zzz").await.is_problem(Code::BadCursor);
}

#[tokio::test]
async fn instances_are_chosen_probed_and_started_anew_as_the_document_says() {
    let h = Harness::new();
    let body = r#"{"tasks":["a"],"urls":["http://a","http://b"],"control_url":"http://c","balance":"round_robin",
        "health":{"path":"/up?x=1"},"recycle":{"max_tasks":1000,"max_memory":"800MiB","max_age":"1h","max_errors":null}}"#;
    assert_eq!(put(&h, "/v1/workers/w", &[], body).await.status, 201);
    let shown = h.get("/v1/workers/w").await.json();
    assert_eq!((&shown["balance"], &shown["health"]), (&json!("round_robin"), &json!({"path": "/up?x=1", "interval": "10s"})));
    assert_eq!(shown["recycle"], json!({"max_tasks": 1000, "max_memory": "800MiB", "max_age": "1h"}));
    let json = [("content-type", "application/json")];
    let plain = h.call(Method::PATCH, "/v1/workers/w", &json, r#"{"balance":null,"health":null,"recycle":null}"#).await.json();
    let left = (&plain["balance"], &plain["health"], &plain["recycle"]);
    assert_eq!(left, (&json!("least_loaded"), &Value::Null, &Value::Null));
    for (body, code, pointer) in [
        (r#"{"tasks":["a"],"balance":"random"}"#, Code::InvalidField, "/balance"),
        (r#"{"tasks":["a"],"balance":"broadcast","batch":{}}"#, Code::InvalidField, "/batch"),
        (r#"{"tasks":["a"],"balance":"broadcast","async":true}"#, Code::InvalidField, "/async"),
        (r#"{"tasks":["a"],"pull":true,"health":{"path":"/"}}"#, Code::InvalidField, "/health"),
        (r#"{"tasks":["a"],"health":{}}"#, Code::InvalidField, "/health/path"),
        (r#"{"tasks":["a"],"health":{"path":"up"}}"#, Code::InvalidField, "/health/path"),
        (r#"{"tasks":["a"],"health":{"path":"/a b"}}"#, Code::InvalidField, "/health/path"),
        (r#"{"tasks":["a"],"health":{"path":"/","interval":"999ms"}}"#, Code::InvalidField, "/health/interval"),
        (r#"{"tasks":["a"],"health":{"path":"/","port":1}}"#, Code::UnknownField, "/health/port"),
        (r#"{"tasks":["a"],"recycle":{}}"#, Code::InvalidField, "/recycle"),
        (r#"{"tasks":["a"],"recycle":{"max_tasks":0}}"#, Code::InvalidField, "/recycle/max_tasks"),
        (r#"{"tasks":["a"],"recycle":{"max_memory":"0B"}}"#, Code::InvalidField, "/recycle/max_memory"),
        (r#"{"tasks":["a"],"recycle":{"max_age":"10ms"}}"#, Code::InvalidField, "/recycle/max_age"),
        (r#"{"tasks":["a"],"recycle":{"max_requests":1}}"#, Code::UnknownField, "/recycle/max_requests"),
    ] {
        let problem = put(&h, "/v1/workers/x", &[], body).await.is_problem(code);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
}

#[tokio::test]
async fn a_broadcast_has_a_bounded_number_of_instances() {
    let h = Harness::new();
    let urls = |count: usize| (0..count).map(|n| format!("http://i{n}")).collect::<Vec<_>>();
    let body = |count: usize| json!({"tasks": ["a"], "balance": "broadcast", "urls": urls(count)}).to_string();
    put(&h, "/v1/workers/w", &[], &body(65)).await.is_problem(Code::InvalidField);
    assert_eq!(put(&h, "/v1/workers/w", &[], &body(63)).await.status, 201);
    let instance = r#"{"url":"http://x","ttl":"30s"}"#;
    assert_eq!(put(&h, "/v1/workers/w/instances/a", &[], instance).await.status, 201);
    assert_eq!(put(&h, "/v1/workers/w/instances/a", &[], instance).await.status, 200, "it renews its lease");
    let problem = put(&h, "/v1/workers/w/instances/b", &[], instance).await.is_problem(Code::InvalidField);
    assert_eq!(problem["errors"][0]["pointer"], "/url");
    let problem = put(&h, "/v1/workers/w", &[], &body(64)).await.is_problem(Code::InvalidField);
    assert_eq!(problem["errors"][0]["pointer"], "/balance");
}

#[tokio::test]
async fn a_renewed_instance_stays_the_same_and_another_version_is_another() {
    let h = Harness::new();
    put(&h, "/v1/workers/w", &[], r#"{"tasks":["a"]}"#).await;
    let since = async || {
        let document = h.store.doc(DocKind::Instance, Ns::DEFAULT, "w/i").await.unwrap().unwrap();
        serde_json::from_slice::<InstanceConfig>(&document.bytes.unwrap()).unwrap().since
    };
    let register = async |version: u8| {
        let body = json!({"url": "http://x", "ttl": "10s", "version": version.to_string()});
        put(&h, "/v1/workers/w/instances/i", &[], &body.to_string()).await;
        since().await
    };
    let first = register(1).await;
    h.clock.advance(Duration::from_secs(9));
    assert_eq!(register(1).await, first);
    h.clock.advance(Duration::from_secs(9));
    let second = register(2).await;
    assert_eq!(second, first.after(Duration::from_secs(18)));
    h.clock.advance(Duration::from_secs(11));
    assert_eq!(register(2).await, second.after(Duration::from_secs(11)), "its lease had run out");
}

#[tokio::test]
async fn a_new_start_is_asked_for_in_a_document() {
    let h = Harness::new();
    let recycle =
        async |path: &str, body: &str| h.call(Method::POST, path, &[("content-type", "application/json")], body.to_owned()).await;
    recycle("/v1/workers/w/recycle", "{}").await.is_problem(Code::WorkerUnknown);
    put(&h, "/v1/workers/w", &[], r#"{"tasks":["a"],"urls":["http://a"]}"#).await;
    let problem = recycle("/v1/workers/w/recycle", "{}").await.is_problem(Code::InvalidField);
    assert_eq!(problem["errors"][0]["pointer"], "/control_url");
    put(&h, "/v1/workers/w", &[], r#"{"tasks":["a"],"urls":["http://a"],"control_url":"http://c"}"#).await;
    put(&h, "/v1/workers/w/instances/i", &[], r#"{"url":"http://b"}"#).await;
    recycle("/v1/workers/w/recycle", r#"{"instance":"j"}"#).await.is_problem(Code::InvalidField);
    let one = recycle("/v1/workers/w/recycle", r#"{"instance":"i"}"#).await;
    assert_eq!((one.status.as_u16(), one.json()), (202, json!({"instances": ["i"]})));
    assert_eq!(h.call(Method::POST, "/v1/workers/w/recycle", &[], "").await.json(), json!({"instances": ["http://a", "i"]}));
    let stored = async || h.store.doc(DocKind::Recycling, Ns::DEFAULT, "w").await.unwrap();
    let state: Recycling = serde_json::from_slice(&stored().await.unwrap().bytes.unwrap()).unwrap();
    assert_eq!(state.asked, ["i", "http://a"]);
    h.call(Method::DELETE, "/v1/workers/w", &[], "").await;
    assert!(stored().await.is_none());
}

#[tokio::test]
async fn a_ping_waits_for_a_dispatcher_and_leaves_nothing_behind() {
    let h = Harness::new();
    h.call(Method::POST, "/v1/workers/w/ping", &[], "").await.is_problem(Code::WorkerUnknown);
    put(&h, "/v1/workers/w", &[], r#"{"tasks":["a"],"urls":["http://a"]}"#).await;
    let errands = async || h.store.docs(DocKind::Errand, None, None, 10).await.unwrap().items;
    let dispatcher = async {
        loop {
            if let Some(document) = errands().await.pop() {
                let mut errand: Errand = serde_json::from_slice(document.bytes.as_deref().unwrap()).unwrap();
                assert_eq!((errand.kind, &*errand.worker), (ErrandKind::Ping, "w"));
                let called =
                    Called { instance: "http://a".into(), url: "http://a".into(), status: Some(204), error: None, took_ms: 7 };
                errand.answers = Some(vec![called]);
                let bytes = Some(serde_json::to_vec(&errand).unwrap().into());
                let guard = DocGuard::Version(document.version);
                let put = DocPut { kind: DocKind::Errand, ns: document.ns, name: document.name, guard, bytes };
                h.store.put_docs(vec![put]).await.unwrap();
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let (reply, ()) = tokio::join!(h.call(Method::POST, "/v1/workers/w/ping", &[], ""), dispatcher);
    let item = json!({"id": "http://a", "url": "http://a", "status": 204, "error": null, "latency_ms": 7});
    assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({"items": [item]})));
    assert!(errands().await.is_empty());
    put(&h, "/v1/workers/p", &[], r#"{"tasks":["a"],"pull":true}"#).await;
    h.call(Method::POST, "/v1/workers/p/test", &[], "").await.is_problem(Code::InvalidField);
}
