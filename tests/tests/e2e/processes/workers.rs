//! Workers take tasks and report at any gateway; what a gateway stores is in force where tasks are delivered.

use lovage_tests::{Answered, Client, Reply, eventually};
use serde_json::{Value, json};

use super::Site;
use crate::contract::site::PATIENCE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_pulls_at_one_gateway_what_came_in_at_another() {
    let site = Site::start().await;
    site.here.register_worker_with("p", &json!({"pull": true, "tasks": ["t"]})).await;
    let (wish, task) = (json!({"worker": "p", "wait": "20s"}), json!({"task": "t", "args": [7]}));
    let (leased, id) = tokio::join!(site.there.post("/v1/leases", &wish), site.here.submit(&task));
    let item = leased.items().remove(0);
    assert_eq!((&item["id"], &item["args"]), (&json!(id), &json!([7])));
    let path = path_of(&site, item["attempt_url"].as_str().unwrap());
    assert_eq!(site.there.post(&format!("{path}/heartbeat"), &json!({})).await.status, 200);
    assert_eq!(site.here.post(&format!("{path}/complete"), &json!(8)).await.status, 200);
    assert_eq!(site.there.wait_final(&id).await["result"], 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_reports_to_any_gateway() {
    let site = Site::start().await;
    site.worker.on("t", Reply::accepted("1h"));
    site.here.register_worker("w", &site.worker.url(), &["t"]).await;
    let id = site.here.submit(&json!({"task": "t"})).await;
    let path = accepted(&site, &id).await;
    for gateway in [&site.there, &site.here] {
        let told = gateway.post(&format!("{path}/heartbeat"), &json!({"lease": "2h"})).await;
        assert_eq!((told.status, &told.json["continue"]), (200, &json!(true)), "{told:?}");
    }
    assert_eq!(site.there.post(&format!("{path}/progress"), &json!(0.5)).await.status, 200);
    assert_eq!(site.here.task(&id).await["progress"], json!(0.5));
    let done = format!("{path}/complete");
    assert_eq!(site.there.post(&done, &json!("done")).await.status, 200);
    // Again, elsewhere: no harm.
    assert_eq!(site.here.post(&done, &json!("done")).await.status, 200);
    let record = site.here.wait_final(&id).await;
    assert_eq!((&record["result"], &record["attempt"], site.worker.count()), (&json!("done"), &json!(1), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_at_a_gateway_reaches_what_a_dispatcher_runs() {
    let site = Site::start().await;
    site.worker.on("t", Reply::never()).on("/control", Reply::status(204));
    let control = site.worker.url_of("/control");
    let settings = json!({"url": site.worker.url(), "tasks": ["t"], "control_url": control, "cancel_grace": "300ms"});
    site.here.register_worker_with("w", &settings).await;
    let id = site.here.submit(&json!({"task": "t"})).await;
    site.worker.wait_for(1).await;
    let asked = site.there.post(&format!("/v1/tasks/{id}/cancel"), &json!({})).await;
    assert_eq!((asked.status, &asked.json["cancel_requested"]), (202, &json!(true)));
    let record = site.there.wait_final(&id).await;
    assert_eq!((&record["state"], &record["reason"]), (&json!("canceled"), &json!("requested")));
    let told = site.worker.wait_until("both calls", PATIENCE, |calls| {
        let left = calls.iter().any(|call| call.id == id && call.answered == Answered::ClientLeft);
        left && calls.iter().any(|call| call.path == "/control" && call.answered == Answered::Status(204))
    });
    let calls = told.await;
    let order = calls.iter().find(|call| call.path == "/control").unwrap().json();
    assert_eq!((&order["type"], &order["id"]), (&json!("task.cancel"), &json!(id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_document_is_in_force_where_tasks_are_delivered() {
    let site = Site::start().await;
    site.worker.on("/one", Reply::json(&json!(1))).on("/two", Reply::json(&json!(2)));
    // Each time at the other gateway, and a task at once: it waits for the document, not the other way round.
    let mut id = String::new();
    for (number, (gateway, path)) in [(&site.here, "/one"), (&site.there, "/two"), (&site.here, "/one")].into_iter().enumerate() {
        gateway.register_worker("w", &site.worker.url_of(path), &["t"]).await;
        let called = async || {
            id = site.there.submit(&json!({"task": "t"})).await;
            site.here.wait_final(&id).await;
            (site.worker.received_for(&id)[0].path == path).then_some(())
        };
        eventually(&format!("change {number} to be in force"), PATIENCE, called).await;
    }
    assert_eq!(site.here.delete("/v1/workers/w").await.status, 204);
    let unserved = async || {
        let id = site.there.submit(&json!({"task": "t"})).await;
        let shown = site.there.get(&format!("/v1/tasks/{id}?wait=200ms")).await;
        (shown.json["state"] == "queued").then_some(())
    };
    eventually("the worker to be gone", PATIENCE, unserved).await;
}

/// Waits until the first attempt of a task is accepted; the path to which it reports.
async fn accepted(site: &Site, id: &str) -> String {
    let is_accepted = |record: &Value| record["reason"] == "accepted";
    eventually("it is accepted", PATIENCE, async || Some(site.there.task(id).await).filter(is_accepted)).await;
    path_of(site, site.worker.received_for(id)[0].header("lovage-attempt-url"))
}

fn path_of(site: &Site, attempt_url: &str) -> String {
    let public: &Client = &site.here;
    attempt_url.strip_prefix(public.url()).expect("it leads to the first gateway").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_shows_what_a_dispatcher_sees() {
    let site = Site::start().await;
    site.worker.on("t", Reply::status(503).header("retry-after", "60"));
    site.here.register_worker("w", &site.worker.url(), &["t"]).await;
    let id = site.here.submit(&json!({"task": "t"})).await;
    for gateway in [&site.here, &site.there] {
        let shown = eventually("what the dispatcher sees", PATIENCE, async || {
            let shown = gateway.get("/v1/workers/w").await.json;
            (shown["paused_because"] == "throttled").then_some(shown)
        });
        let shown = shown.await;
        assert_eq!((&shown["live"]["open"], &shown["live"]["breaker"]), (&json!(0), &json!("closed")), "{shown}");
        assert!(shown["live"]["effective_rate"].as_f64() >= Some(1.0), "{shown}");
    }
    let nodes = site.there.get("/v1/nodes").await.items();
    let of = |role: &str| nodes.iter().find(|node| node["roles"] == json!([role])).unwrap()["open_attempts"].clone();
    assert_eq!((of("dispatcher"), of("gateway")), (json!(0), serde_json::Value::Null));
    // One that waits for its next attempt is explained by the worker of its last, and one behind it by the pause.
    let next = site.there.submit(&json!({"task": "t"})).await;
    let said = site.there.get(&format!("/v1/tasks/{next}/explain")).await.json;
    assert!(said["causes"].to_string().contains("throttled"), "{said}");
    assert_eq!(site.here.task(&id).await["reason"], "throttled");
}
