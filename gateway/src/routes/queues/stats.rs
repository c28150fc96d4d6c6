//! `GET /v1/queues/{queue}/stats`

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lovage_core::State as TaskState;
use lovage_core::units::Dur;
use serde::Serialize;

use super::known;
use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{schema, view};

#[derive(Serialize)]
struct Stats {
    depth: BTreeMap<&'static str, u64>,
    oldest_age: Option<String>,
    in_rate: Option<f64>,
    out_rate: Option<f64>,
}

/// What is in a queue
#[utoipa::path(
    get, path = "/v1/queues/{queue}/stats", operation_id = "getQueueStats", tag = "queues",
    params(("queue" = String, Path, description = "Its name")),
    responses((status = 200, description = "Tasks by state, how long the oldest has been waiting, and how many come and go", body = schema::QueueStats))
)]
pub(super) async fn stats(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
) -> Result<Response, Refusal> {
    query.done()?;
    known(&app, caller.ns, &name).await?;
    let counts = app.lengths.counts(&*app.store, caller.ns, &name).await?;
    let depth = TaskState::ALL.iter().map(|state| (state.as_str(), counts[*state as usize])).collect();
    let (in_rate, out_rate) = app.rates(caller.ns, &name).await.unzip();
    let oldest_age = oldest_age(&app, &caller, &name).await?;
    Ok(view::json(StatusCode::OK, &Stats { depth, oldest_age, in_rate, out_rate }))
}

/// How long the oldest of the tasks has been waiting that are first in their lanes.
async fn oldest_age(app: &App, caller: &Caller, queue: &str) -> Result<Option<String>, Refusal> {
    let mut oldest = None;
    for p in app.all_partitions() {
        let first = app.first_in_lanes(p, caller.ns, queue, 1).await?.into_iter().next();
        oldest = [oldest, first.map(|(_, head)| head.created)].into_iter().flatten().min();
    }
    let now = app.now();
    Ok(oldest.map(|since| Dur::from_millis(now.since(since).as_millis() as u64).to_string()))
}
