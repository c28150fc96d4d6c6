//! A task in each state, for tables of what may be done to it there.

use lovage_tests::Reply;
use serde_json::json;

use crate::contract::site::{Site, Store, slow_retry};

/// Where a task can be; `accepted` is running without a connection.
pub const STATES: [&str; 10] =
    ["blocked", "scheduled", "queued", "running", "accepted", "retrying", "succeeded", "failed", "canceled", "expired"];

/// The answer of a worker that starts others and waits for them.
pub fn spawn(tasks: &serde_json::Value) -> Reply {
    let document = json!({"outcome": "spawn", "then": "wait", "tasks": tasks});
    Reply::bytes("application/vnd.lovage.outcome+json", document.to_string())
}

/// A site whose worker `w` makes tasks go where [`in_state`] wants them, with this grace for cancels.
pub async fn site(store: Store, grace: &str) -> Site {
    let site = store.dev().await;
    let children = json!([{"task": "s.running"}]);
    site.worker
        .on("s.blocked", spawn(&children))
        .on("s.running", Reply::never())
        .on("s.accepted", Reply::accepted("1h"))
        .on("s.retrying", Reply::status(500))
        .on("s.succeeded", Reply::json(&json!(1)))
        .on("s.failed", Reply::status(422));
    let settings = json!({"url": site.worker.url(), "tasks": ["s.*"], "cancel_grace": grace});
    site.register_worker_with("w", &settings).await;
    site
}

/// The id of a new task in this state.
pub async fn in_state(site: &Site, state: &str) -> String {
    let signature = match state {
        "scheduled" => json!({"task": "nobody", "delay": "1h"}),
        "queued" | "canceled" => json!({"task": "nobody"}),
        "expired" => json!({"task": "nobody", "expires_in": "10ms"}),
        other => json!({"task": format!("s.{other}"), "retry": slow_retry()}),
    };
    let id = site.submit(&signature).await;
    match state {
        "canceled" => drop(site.post(&format!("/v1/tasks/{id}/cancel"), &json!({})).await),
        "accepted" => drop(site.until(&id, "accepted", |record| record["reason"] == "accepted").await),
        other => drop(site.until_state(&id, other).await),
    }
    id
}

/// Whether nothing happens to a task in this state any more.
pub fn is_final(state: &str) -> bool {
    matches!(state, "succeeded" | "failed" | "canceled" | "expired")
}
