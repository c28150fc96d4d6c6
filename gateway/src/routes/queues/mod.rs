//! `/v1/queues` and what can be done to a queue.

mod pause;
mod purge;
mod settings;
mod stats;

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lovage_core::problem::{Code, Problem};
use lovage_core::spec::DEFAULT_QUEUE;
use lovage_core::{Millis, Ns, Pause, QueueConfig};
use lovage_store::{DocKind, Document, all_docs};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{App, Shared};
use crate::ask::Ask;
use crate::auth::Caller;
use crate::documents::{content, shown};
use crate::problem::Refusal;
use crate::query::Query;
use crate::{cursor, schema, view};

const KIND: &str = "queues";

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, settings::put, settings::patch, settings::delete))
        .routes(routes!(pause::pause))
        .routes(routes!(pause::resume))
        .routes(routes!(pause::drain))
        .routes(routes!(purge::purge))
        .routes(routes!(stats::stats))
}

/// `queue_unknown`
fn unknown(name: &str) -> Refusal {
    Refusal::unknown(Code::QueueUnknown, "queue", name)
}

/// A queue as it is shown.
#[derive(Serialize)]
struct QueueView<'a> {
    name: &'a str,
    created_at: Option<String>,
    #[serde(flatten)]
    config: QueueConfig,
    paused: Option<Pause>,
    version: Option<u64>,
}

impl<'a> QueueView<'a> {
    fn of(name: &'a str, mut config: QueueConfig, version: Option<u64>, now: Millis) -> Self {
        let (created_at, paused) = (config.created_at.take(), config.pause(now));
        config.paused = None;
        Self { name, created_at, config, paused, version }
    }

    /// One without a document has the defaults.
    fn stored(name: &'a str, document: Option<&Document>, now: Millis) -> Result<Self, Problem> {
        let config = document.map(content).transpose()?.unwrap_or_default();
        Ok(Self::of(name, config, document.map(|document| document.version), now))
    }

    fn answer(&self, status: StatusCode) -> Response {
        shown(status, self, self.version)
    }
}

/// List queues
#[utoipa::path(
    get, path = "/v1/queues", operation_id = "listQueues", tag = "queues",
    params(schema::PageQuery),
    responses((status = 200, description = "A page of queues", body = schema::Queues))
)]
async fn list(State(app): State<Shared>, caller: Caller, query: Query) -> Result<Response, Refusal> {
    let (limit, from) = query.page()?;
    let after = from.map(|text| cursor::decode(KIND, &text)).transpose()?;
    let after = after.map(|bytes| String::from_utf8(bytes).map_err(|_| cursor::refused())).transpose()?;
    let without = app.lengths.in_use(&*app.store, caller.ns).await?.into_iter().chain([DEFAULT_QUEUE.to_owned()]);
    let mut queues: BTreeMap<String, Option<Document>> = without.map(|name| (name, None)).collect();
    let documents = all_docs(&*app.store, DocKind::Queue, Some(caller.ns)).await?;
    queues.extend(documents.into_iter().map(|document| (document.name.clone(), Some(document))));
    let now = app.now();
    let mut rest = queues.iter().filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
    let mut items = Vec::new();
    for (name, document) in rest.by_ref().take(limit) {
        items.push(QueueView::stored(name, document.as_ref(), now)?);
    }
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
async fn get(ask: Ask) -> Result<Response, Refusal> {
    Ok(known(&ask.app, ask.ns, &ask.name).await?.answer(StatusCode::OK))
}

/// A queue that there is; `queue_unknown` if there is not.
async fn known<'a>(app: &App, ns: Ns, name: &'a str) -> Result<QueueView<'a>, Refusal> {
    let document = app.store.doc(DocKind::Queue, ns, name).await?;
    if document.is_none() && !is_there(app, ns, name).await? {
        return Err(unknown(name));
    }
    Ok(QueueView::stored(name, document.as_ref(), app.now())?)
}

/// Whether there is such a queue without a document. What tasks start themselves may wait in one that nobody has submitted to.
async fn is_there(app: &App, ns: Ns, name: &str) -> Result<bool, Refusal> {
    Ok(name == DEFAULT_QUEUE || app.lengths.in_use(&*app.store, ns).await?.contains(name))
}

/// Changes a queue that there is, and shows it.
async fn change(ask: &Ask, edit: impl Fn(&mut QueueConfig) -> Result<(), Problem>) -> Result<Response, Refusal> {
    let is_there = is_there(&ask.app, ask.ns, &ask.name).await?;
    let mut response = store(ask, |stored| {
        let mut config = stored.or_else(|| is_there.then(QueueConfig::default)).ok_or_else(|| unknown(&ask.name).0)?;
        edit(&mut config).map(|()| config)
    })
    .await?;
    // Its document may have been made now.
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

/// Stores what `edit` makes of a queue, puts it in force here, and shows it.
async fn store(ask: &Ask, edit: impl Fn(Option<QueueConfig>) -> Result<QueueConfig, Problem>) -> Result<Response, Refusal> {
    let put = ask.edit(DocKind::Queue, edit).await?;
    refresh(&ask.app).await;
    let status = put.status();
    Ok(QueueView::of(&ask.name, put.content, Some(put.version), ask.app.now()).answer(status))
}

/// Puts a change in force here before it is answered. It is stored: if this fails, the watch of the documents does it.
async fn refresh(app: &App) {
    if let Err(error) = app.directory.load_queues(&*app.store).await {
        error.log("read queues");
    }
}
