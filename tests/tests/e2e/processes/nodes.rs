//! Who the processes are, who owns what, and what happens when one is drained, fenced or stopped.

use std::time::{Duration, Instant};

use lovage_tests::{Client, Fleet, Lovage, Redis, Reply, Worker, eventually};
use serde_json::{Value, json};

use crate::contract::site::PATIENCE;

async fn nodes(client: &Client) -> Vec<Value> {
    let answer = client.get("/v1/nodes").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json["items"].as_array().unwrap().clone()
}

/// The node that is this process.
async fn node_of(client: &Client, process: &Lovage) -> Option<Value> {
    node_with(client, process.pid()).await
}

async fn node_with(client: &Client, pid: u32) -> Option<Value> {
    nodes(client).await.into_iter().find(|node| node["pid"] == pid)
}

async fn owned(client: &Client, process: &Lovage) -> usize {
    node_of(client, process).await.map_or(0, |node| node["partitions"].as_array().unwrap().len())
}

/// Two dispatchers that share the partitions.
async fn fleet(redis: &Redis) -> Fleet {
    let fleet = Fleet::of(1, 2).short_leases().set("dispatcher.rebalance_after", "300ms").start(redis).await;
    shared(&fleet, [8, 8]).await;
    fleet
}

async fn shared(fleet: &Fleet, wanted: [usize; 2]) {
    let check = async || {
        let client = fleet.client();
        let owned = [owned(client, &fleet.dispatchers[0]).await, owned(client, &fleet.dispatchers[1]).await];
        (owned == wanted).then_some(())
    };
    eventually(&format!("shares of {wanted:?}"), PATIENCE, check).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_shown_and_leave() {
    let redis = Redis::start();
    let mut fleet = fleet(&redis).await;
    let client = fleet.client().clone();
    let all = nodes(&client).await;
    assert_eq!(all.len(), 3, "{all:?}");
    let gateway = node_of(&client, &fleet.gateways[0]).await.unwrap();
    assert_eq!((&gateway["roles"], &gateway["partitions"]), (&json!(["gateway"]), &json!([])));
    assert_eq!((&gateway["state"], &gateway["url"]), (&json!("active"), &json!(client.url())));
    let one = node_of(&client, &fleet.dispatchers[0]).await.unwrap();
    assert_eq!((&one["roles"], &one["state"]), (&json!(["dispatcher"]), &json!("active")));
    let said = fleet.gateways[0].cli(&["nodes"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && text.contains("PARTITIONS") && text.contains("dispatcher"), "{said:?}");

    let [first, second] = [0, 1].map(|place: usize| fleet.dispatchers[place].pid());
    fleet.dispatchers[0].stop().await;
    assert!(node_with(&client, first).await.is_none(), "a node that ends is shown no more");
    eventually("its partitions to change hands", Duration::from_secs(5), async || {
        (owned(&client, &fleet.dispatchers[1]).await == 16).then_some(())
    })
    .await;
    fleet.dispatchers[1].kill9();
    eventually("the dead one is gone", PATIENCE, async || {
        node_with(&client, second).await.filter(|node| node["state"] == "gone")
    })
    .await;
    fleet.dispatchers[0].restart().await;
    eventually("the dead one is cleared away", PATIENCE, async || (nodes(&client).await.len() == 2).then_some(())).await;
    assert_eq!(owned(&client, &fleet.dispatchers[0]).await, 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_dispatcher_takes_nothing_until_it_is_resumed() {
    let redis = Redis::start();
    let fleet = fleet(&redis).await;
    let (client, worker) = (fleet.client().clone(), Worker::start());
    worker.on("t", Reply::json(&json!(1)).after(Duration::from_secs(1)));
    client.register_worker("w", &worker.url(), &["t"]).await;
    let signatures = vec![json!({"task": "t"}); 40];
    let mut ids: Vec<String> = Vec::new();
    for signature in &signatures {
        ids.push(client.submit(signature).await);
    }
    worker.wait_for(40).await;
    let id = node_of(&client, &fleet.dispatchers[0]).await.unwrap()["id"].as_str().unwrap().to_owned();
    let drained = fleet.gateways[0].cli(&["nodes", "drain", &id]);
    assert!(drained.status.success(), "{drained:?}");
    shared(&fleet, [0, 16]).await;
    let ready = fleet.dispatchers[0].client().get("/readyz").await;
    assert_eq!((ready.status, &ready.json["code"]), (503.try_into().unwrap(), &json!("draining")));
    for (id, record) in client.wait_all_final(&ids, PATIENCE).await {
        assert_eq!((&record["state"], &record["attempt"]), (&json!("succeeded"), &json!(1)), "{id}");
    }
    assert_eq!(worker.count(), 40, "nothing was repeated");
    let resumed = fleet.gateways[0].cli(&["nodes", "resume", &id]);
    assert!(resumed.status.success(), "{resumed:?}");
    shared(&fleet, [8, 8]).await;
    assert_eq!(fleet.dispatchers[0].client().get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_fenced_node_had_is_made_again_at_once_and_the_node_ends() {
    let redis = Redis::start();
    // With leases of 15 s: without the fence nothing would happen in the time of this test.
    let mut fleet = Fleet::of(1, 1).start(&redis).await;
    let (client, worker) = (fleet.client().clone(), Worker::start());
    worker.on("t", Reply::never());
    client.register_worker("w", &worker.url(), &["t"]).await;
    let id = client.submit(&json!({"task": "t"})).await;
    worker.wait_for(1).await;
    worker.on("t", Reply::json(&json!(2)));
    let node = node_of(&client, &fleet.dispatchers[0]).await.unwrap()["id"].as_str().unwrap().to_owned();
    let refused = client.post(&format!("/v1/nodes/{node}/fence"), &json!({})).await;
    assert_eq!((refused.status, &refused.json["code"]), (409.try_into().unwrap(), &json!("wrong_state")));

    fleet.dispatchers[0].pause();
    let fenced = Instant::now();
    let done = fleet.gateways[0].cli(&["nodes", "fence", &node, "--force"]);
    assert!(done.status.success(), "{done:?}");
    let mut heir = Lovage::dispatcher()
        .redis(&redis)
        .option("--public-url", client.url())
        .option("--allow-network", "127.0.0.0/8")
        .start()
        .await;
    let record = client.wait_final(&id).await;
    assert_eq!((&record["result"], &record["attempt"]), (&json!(2), &json!(2)));
    assert!(fenced.elapsed() < Duration::from_secs(10), "{:?}", fenced.elapsed());
    // It hears of it with its first renewal.
    fleet.dispatchers[0].unpause();
    assert!(!fleet.dispatchers[0].wait_exit().await.success());
    assert_eq!(worker.count(), 2);
    heir.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_gateway_ends_as_a_fenced_dispatcher_does() {
    let redis = Redis::start();
    let mut fleet = Fleet::of(2, 1).start(&redis).await;
    let node = node_of(fleet.client(), &fleet.gateways[1]).await.unwrap()["id"].as_str().unwrap().to_owned();
    let done = fleet.gateways[0].cli(&["nodes", "fence", &node, "--force"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(fleet.gateways[1].wait_exit().await.code(), Some(1));
}
