//! `lovage gateway` and `lovage dispatcher`: what each does, what each needs, and that those of one store agree.

use futures_util::future::join_all;
use lovage_tests::{Fleet, Lovage, Redis, Reply, Worker, eventually};
use serde_json::json;

use super::serve::Plain;
use super::stderr;
use crate::contract::site::PATIENCE;

#[tokio::test]
async fn a_gateway_takes_tasks_and_a_dispatcher_delivers_them() {
    let redis = Redis::start();
    let worker = Worker::start();
    worker.on("t", Reply::json(&json!("delivered")));
    let mut fleet = Fleet::of(1, 1).start(&redis).await;
    let (gateway, dispatcher) = (&fleet.gateways[0], &fleet.dispatchers[0]);
    gateway.client().register_worker("w", &worker.url(), &["t"]).await;
    let id = gateway.client().submit(&json!({"task": "t"})).await;
    assert_eq!(gateway.client().wait_final(&id).await["result"], "delivered");

    assert!(gateway.stdout().contains("gateway: takes requests"), "{}", gateway.stdout());
    let said = dispatcher.stdout();
    assert!(said.contains("dispatcher: delivers tasks"), "{said}");
    assert!(said.contains(&format!("workers report to {}", gateway.url())), "{said}");

    // A dispatcher tells how it is doing, to the same people as a gateway, and nothing else.
    let nobody = dispatcher.client().with_key(None);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(nobody.get(path).await.status, 200, "{path}");
    }
    assert_eq!(nobody.get("/metrics").await.status, 401);
    let metrics = async |server: &Lovage| String::from_utf8(server.client().get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics(dispatcher).await.contains("lovage_attempts_total{outcome=\"success\"} 1"));
    assert!(!metrics(gateway).await.contains("lovage_attempts_total"));
    for path in ["/v1/tasks", "/openapi.json", "/"] {
        let answer = dispatcher.client().get(path).await;
        assert_eq!((answer.status, answer.code()), (404, "route_unknown"), "{path}");
        assert!(answer.json["detail"].as_str().unwrap().contains("ask a gateway"), "{answer:?}");
    }
    for process in fleet.dispatchers.iter_mut().chain(&mut fleet.gateways) {
        assert_eq!(process.stop().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_dispatcher_lets_its_attempts_end_when_it_stops() {
    let redis = Redis::start();
    let worker = Worker::start();
    let gate = worker.hold("t", Reply::json(&json!("in time")));
    let mut fleet = Fleet::of(1, 1).start(&redis).await;
    let client = fleet.client().clone();
    client.register_worker("w", &worker.url(), &["t"]).await;
    let id = client.submit(&json!({"task": "t"})).await;
    worker.wait_for(1).await;
    let dispatcher = &mut fleet.dispatchers[0];
    dispatcher.sigterm();
    let drains = async || (dispatcher.client().get("/readyz").await.status == 503).then_some(());
    eventually("it drains", PATIENCE, drains).await;
    assert_eq!(dispatcher.client().get("/healthz").await.status, 200);
    gate.open();
    assert_eq!(dispatcher.wait_exit().await.code(), Some(0));
    let record = client.wait_final(&id).await;
    assert_eq!((&record["result"], &record["attempt"]), (&json!("in time"), &json!(1)));
}

#[tokio::test]
async fn a_gateway_says_what_only_dispatchers_know() {
    let redis = Redis::start();
    let worker = Worker::start();
    let gate = worker.hold("t", Reply::json(&json!(null)));
    let mut fleet = Fleet::of(1, 1).start(&redis).await;
    let client = fleet.client().clone();
    client.register_worker_with("w", &json!({"url": worker.url(), "tasks": ["t"], "concurrency": 1})).await;
    client.submit(&json!({"task": "t"})).await;
    worker.wait_for(1).await;
    let id = client.submit(&json!({"task": "t"})).await;
    let said = client.get(&format!("/v1/tasks/{id}/explain")).await.json;
    let standing = json!({"name": "w", "instances": null, "open": null, "slots": null, "breaker": null, "paused_until": null});
    assert_eq!((&said["reason"], &said["worker"]), (&json!("ready"), &standing));
    let text = said["text"].as_str().unwrap();
    assert!(text.contains("known to the dispatchers") && !text.contains("It may start now"), "{text}");
    // Without a dispatcher there is more to say.
    gate.open();
    client.wait_final(&id).await;
    fleet.dispatchers[0].stop().await;
    let id = client.submit(&json!({"task": "t"})).await;
    let said = client.get(&format!("/v1/tasks/{id}/explain")).await.json;
    assert_eq!(said["reason"], "no_dispatcher", "{said}");
}

#[tokio::test]
async fn what_a_role_lacks_is_named() {
    for role in [Lovage::gateway(), Lovage::dispatcher()] {
        let output = role.run_to_end().await;
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("--redis-url URL") && stderr(&output).contains("lovage serve"), "{}", stderr(&output));
    }
    let output = Lovage::dispatcher().redis_url("redis://127.0.0.1:1").run_to_end().await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--public-url URL"), "{}", stderr(&output));
}

/// All processes start at the same moment on an empty store: one key is shown, by one of them, and it opens every door. The
/// address that a dispatcher gives to a worker is good at every gateway.
#[tokio::test]
async fn processes_that_start_together_agree_on_their_keys() {
    let redis = Redis::start();
    let (url, public) = (redis.url(), "http://127.0.0.1:9");
    let words = ["--redis-url", &url, "--public-url", public, "--allow-network", "127.0.0.0/8"];
    let folders: Vec<_> = (0..6).map(|_| tempfile::tempdir().unwrap()).collect();
    let roles = ["gateway", "dispatcher"].into_iter().cycle();
    let processes = join_all(folders.iter().zip(roles).map(|(folder, role)| Plain::start_as(role, folder.path(), &words))).await;
    let keys: Vec<&str> = processes.iter().filter_map(Plain::printed_key).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let key = Some(keys[0]);
    let gateways: Vec<_> = processes.iter().step_by(2).map(|process| process.client.with_key(key)).collect();
    for process in &processes {
        assert_eq!(process.client.with_key(key).get("/metrics").await.status, 200, "{}", process.printed);
    }

    let worker = Worker::start();
    worker.on("t", Reply::accepted("1h"));
    gateways[0].register_worker("w", &worker.url(), &["t"]).await;
    let id = gateways[1].submit(&json!({"task": "t"})).await;
    let attempt = worker.wait_for(1).await[0].header("lovage-attempt-url").to_owned();
    let path = attempt.strip_prefix(public).expect("the URL is the public one").to_owned();
    let accepted = async || (gateways[0].task(&id).await["reason"] == "accepted").then_some(());
    eventually("it is accepted", PATIENCE, accepted).await;
    for gateway in &gateways {
        assert_eq!(gateway.with_key(None).post(&format!("{path}/heartbeat"), &json!({})).await.status, 200);
    }
}

#[tokio::test]
async fn processes_that_share_a_missing_key_file_agree_on_its_key() {
    let redis = Redis::start();
    let fleet = Fleet::of(4, 0).start(&redis).await;
    // The key of each client is what is in the file now.
    for client in fleet.clients() {
        assert_eq!(client.get("/v1/tasks").await.status, 200);
    }
}
