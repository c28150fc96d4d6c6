//! What must hold when workers, servers, stores and disks fail: nothing acknowledged is lost, nothing shown is undone.

mod flaky;

use std::collections::HashMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use lovage_tests::{Call, Client, eventually};
use serde_json::Value;

/// All tasks of a server as a list shows them, which is without results, by id.
async fn records(client: &Client) -> HashMap<String, Value> {
    let items = client.list("/v1/tasks?limit=1000").await;
    let count = items.len();
    let records: HashMap<String, Value> = items.into_iter().map(|record| (id_of(&record), record)).collect();
    assert_eq!(records.len(), count, "a list shows a task twice");
    records
}

/// Waits until every task of a server is final and returns them all, by id. A server that is away is waited for.
async fn all_final(client: &Client, timeout: Duration) -> HashMap<String, Value> {
    eventually("the end of all tasks", timeout, async || {
        for state in ["blocked", "scheduled", "queued", "running", "retrying"] {
            let request = client.request(reqwest::Method::GET, &format!("/v1/tasks?limit=1&state={state}"));
            let answer = client.try_send(request).await.ok()?;
            // A page may be empty and have a next one: only an empty list is an end.
            if answer.status != 200 || !answer.items().is_empty() || !answer.json["next_cursor"].is_null() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                return None;
            }
        }
        Some(())
    })
    .await;
    records(client).await
}

/// The records of these tasks with their results, by id.
async fn details(client: &Client, ids: impl Iterator<Item = &String>) -> HashMap<String, Value> {
    stream::iter(ids).map(async |id| (id.clone(), client.task(id).await)).buffer_unordered(16).collect().await
}

fn id_of(record: &Value) -> String {
    record["id"].as_str().unwrap().to_owned()
}

/// The attempt numbers of calls of one task, as text for a message.
fn shown(calls: &[Call]) -> String {
    calls.iter().map(|call| format!("{}:{:?} ", call.attempt, call.answered)).collect()
}
