//! What comes into a queue through several gateways and is done by a dispatcher beside them.

use lovage_tests::{Reply, eventually};
use serde_json::json;

use super::Site;
use crate::contract::site::PATIENCE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_processes_do_to_a_queue_is_shown_by_each_gateway() {
    let site = Site::start().await;
    site.worker.on("t", Reply::status(204));
    site.here.register_worker("w", &site.worker.url(), &["t"]).await;
    let tasks = |task: &str, count| vec![json!({"task": task, "queue": "q"}); count];
    site.here.submit_batch(&tasks("t", 30)).await;
    let left = site.there.submit_batch(&[tasks("t", 30), tasks("nobody", 60)].concat()).await.ids();
    // Through another gateway than they came, and without a dispatcher.
    for id in left.iter().rev().take(30) {
        site.here.post(&format!("/v1/tasks/{id}/cancel"), &json!({})).await;
    }
    for gateway in [&site.here, &site.there] {
        eventually("the rates", PATIENCE, async || {
            let stats = gateway.get("/v1/queues/q/stats").await.json;
            ((&stats["in_rate"], &stats["out_rate"]) == (&json!(2.0), &json!(1.5))).then_some(())
        })
        .await;
    }
}
