//! What must hold when workers, servers, stores and disks fail: nothing acknowledged is lost, nothing shown is undone.
//!
//! Sizes fit a test run of a few minutes. `LOVAGE_FULL=1` makes them those of the demands.

mod accepted;
mod flaky;
mod fleet;
mod hostile;
mod keys;
mod kills;
mod load;
mod outbox;
mod power;
mod races;
mod seen;
mod store_away;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use lovage_tests::{Answer, Call, Client};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

/// How long a client insists.
const PATIENCE: Duration = Duration::from_secs(60);

/// The size demanded if `LOVAGE_FULL` is set, else the usual one.
fn size(usual: usize, demanded: usize) -> usize {
    if is_full() { demanded } else { usual }
}

/// Whether the demands are tested in full, on a machine that has nothing else to do.
fn is_full() -> bool {
    std::env::var_os("LOVAGE_FULL").is_some()
}

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
    none_in(client, &["blocked", "scheduled", "queued", "running", "retrying"], timeout).await;
    records(client).await
}

/// Waits until no task of a server is in one of these states, given in the order in which tasks pass them.
async fn none_in(client: &Client, states: &[&str], timeout: Duration) {
    let start = Instant::now();
    let mut left = "nothing was shown".to_owned();
    let (mut passed, mut cursor) = (0, String::new());
    while passed < states.len() {
        assert!(start.elapsed() < timeout, "waited {timeout:?} in vain for tasks to move on: {left}");
        let request = client.request(Method::GET, &format!("/v1/tasks?limit=5&state={}{cursor}", states[passed]));
        match client.try_send(request).await {
            // A page may be empty and have a next one: only the last page is an end.
            Ok(page) if page.status == 200 && page.items().is_empty() => {
                if let Some(next) = page.json["next_cursor"].as_str() {
                    cursor = format!("&cursor={next}");
                } else {
                    (passed, cursor) = (passed + 1, String::new());
                }
            }
            answer => {
                left = answer.map_or_else(|error| error.to_string(), |page| page.json.to_string());
                (passed, cursor) = (0, String::new());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// The records of these tasks with their results, by id.
async fn details(client: &Client, ids: impl Iterator<Item = &String>) -> HashMap<String, Value> {
    stream::iter(ids).map(async |id| (id.clone(), client.task(id).await)).buffer_unordered(16).collect().await
}

/// Repeats a request until it is carried out. Meanwhile the server may be away or say 503 with `Retry-After`, nothing else.
async fn insist(client: &Client, request: impl Fn() -> RequestBuilder) -> Answer {
    let start = Instant::now();
    loop {
        if let Ok(answer) = client.try_send(request()).await {
            if matches!(answer.status, 200 | 202) {
                return answer;
            }
            assert_honest_503(&answer);
        }
        assert!(start.elapsed() < PATIENCE, "no answer of the server in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A refusal that tells a client what is the matter and when to come back.
fn assert_honest_503(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
    assert!(matches!(answer.code(), "store_unavailable" | "store_full" | "overloaded" | "draining"), "{answer:?}");
}

/// Attempt numbers of one task only go up.
fn assert_rising(calls: &[Call], story: &impl Fn() -> String) {
    assert!(calls.is_sorted_by(|one, next| one.attempt < next.attempt), "{}", story());
}

fn id_of(record: &Value) -> String {
    record["id"].as_str().unwrap().to_owned()
}

/// The attempt numbers of calls of one task, as text for a message.
fn shown(calls: &[Call]) -> String {
    let words: Vec<String> = calls.iter().map(|call| format!("{}:{:?}", call.attempt, call.answered)).collect();
    words.join(" ")
}
