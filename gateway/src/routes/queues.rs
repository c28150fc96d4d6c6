//! `GET /v1/queues`, `/v1/queues/{queue}`, `/v1/queues/{queue}/stats`

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lovage_core::problem::Code;
use lovage_core::spec::DEFAULT_QUEUE;
use lovage_core::{Millis, Ns, State as TaskState};
use lovage_store::{Cursor, DocKind, Document, Index};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::directory::all_docs;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{cursor, schema, view};

const KIND: &str = "queues";
/// Lanes that are looked at for the oldest task of a queue.
const MOST_LANES: usize = 256;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(stats))
}

#[derive(Default, Deserialize)]
struct QueueDoc {
    created_at: Option<String>,
}

#[derive(Serialize)]
struct QueueView {
    name: String,
    created_at: Option<String>,
}

#[derive(Serialize)]
struct Stats {
    depth: BTreeMap<&'static str, u64>,
    oldest_age: Option<String>,
}

type Counts = BTreeMap<String, [u64; 9]>;

impl App {
    /// The counts of all queues of a namespace, over all partitions.
    async fn counts(&self, ns: Ns) -> Result<Counts, Refusal> {
        let mut sums = Counts::new();
        for p in self.all_partitions() {
            for row in self.store.counts(p).await?.into_iter().filter(|row| row.ns == ns) {
                let sum = sums.entry(row.queue).or_default();
                sum.iter_mut().zip(row.states).for_each(|(sum, n)| *sum += n);
            }
        }
        Ok(sums)
    }
}

/// List queues
#[utoipa::path(
    get, path = "/v1/queues", operation_id = "listQueues", tag = "queues",
    params(schema::PageQuery),
    responses((status = 200, description = "A page of queues", body = schema::Queues))
)]
async fn list(State(app): State<Shared>, caller: Caller, mut query: Query) -> Result<Response, Refusal> {
    let limit = query.limit()?;
    let from = query.one("cursor")?;
    query.done()?;
    let after = from.map(|text| cursor::decode(KIND, &text)).transpose()?;
    let after = after.map(|bytes| String::from_utf8(bytes).map_err(|_| cursor::refused())).transpose()?;
    let documents = all_docs(&*app.store, DocKind::Queue, Some(caller.ns)).await?;
    let mut queues: BTreeMap<String, Option<String>> = documents.into_iter().map(|d| (d.name.clone(), created(&d))).collect();
    queues.entry(DEFAULT_QUEUE.to_owned()).or_default();
    let mut rest = queues.into_iter().filter(|(name, _)| after.as_ref().is_none_or(|after| name > after));
    let items: Vec<QueueView> = rest.by_ref().take(limit).map(|(name, created_at)| QueueView { name, created_at }).collect();
    let more = rest.next().is_some();
    let next = items.last().filter(|_| more).map(|last| cursor::encode(KIND, last.name.as_bytes()));
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": next })))
}

/// Show a queue
#[utoipa::path(
    get, path = "/v1/queues/{queue}", operation_id = "getQueue", tag = "queues",
    params(("queue" = String, Path, description = "Its name")),
    responses((status = 200, description = "The queue", body = schema::Queue))
)]
async fn get(State(app): State<Shared>, caller: Caller, PathOf(name): PathOf<String>, query: Query) -> Result<Response, Refusal> {
    query.done()?;
    let created_at = known(&app, caller.ns, &name).await?;
    Ok(view::json(StatusCode::OK, &QueueView { name, created_at }))
}

/// What is in a queue
#[utoipa::path(
    get, path = "/v1/queues/{queue}/stats", operation_id = "getQueueStats", tag = "queues",
    params(("queue" = String, Path, description = "Its name")),
    responses((status = 200, description = "Tasks by state, and how long the oldest has been waiting", body = schema::QueueStats))
)]
async fn stats(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
) -> Result<Response, Refusal> {
    query.done()?;
    known(&app, caller.ns, &name).await?;
    let counts = app.counts(caller.ns).await?.remove(&name).unwrap_or_default();
    let depth = TaskState::ALL.iter().map(|state| (state.as_str(), counts[*state as usize])).collect();
    let oldest = oldest(&app, caller.ns, &name).await?;
    let age = |since: Millis| lovage_core::units::Dur::from_millis(app.now().since(since).as_millis() as u64).to_string();
    Ok(view::json(StatusCode::OK, &Stats { depth, oldest_age: oldest.map(age) }))
}

/// When a queue was made; `queue_unknown` if it was not.
async fn known(app: &App, ns: Ns, name: &str) -> Result<Option<String>, Refusal> {
    match app.store.doc(DocKind::Queue, ns, name).await? {
        Some(document) => Ok(created(&document)),
        None if name == DEFAULT_QUEUE => Ok(None),
        None => {
            let shown: String = name.chars().take(128).collect();
            Err(Refusal::new(Code::QueueUnknown, format!("there is no queue `{shown}`")))
        }
    }
}

fn created(document: &Document) -> Option<String> {
    serde_json::from_slice::<QueueDoc>(document.bytes.as_deref()?).ok()?.created_at
}

/// When the task was accepted that is first in line of its lane and older than the first of every other lane.
async fn oldest(app: &App, ns: Ns, queue: &str) -> Result<Option<Millis>, Refusal> {
    let mut oldest: Option<Millis> = None;
    for p in app.all_partitions() {
        let lanes = lovage_store::all_lanes(&*app.store, p).await?;
        let mine = lanes.into_iter().filter(|(_, lane)| lane.ns == ns && lane.queue == queue);
        for (lane, _) in mine.take(MOST_LANES) {
            let index = Index::Lane { lane, after: None };
            let first = app.store.scan(p, &index, Cursor::default(), 1).await?.items.pop();
            let created = first.map(|(_, head)| head.created);
            oldest = [oldest, created].into_iter().flatten().min();
        }
    }
    Ok(oldest)
}
