//! `/v1/queues` and what can be done to a queue.

mod pause;
mod purge;
mod settings;
mod stats;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use lovage_core::problem::{Code, Problem};
use lovage_core::spec::DEFAULT_QUEUE;
use lovage_core::{Millis, Ns, Pause, QueueConfig};
use lovage_store::{DocKind, Document};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::directory::all_docs;
use crate::documents::{Precondition, bytes_of, content, tag};
use crate::path::PathOf;
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
fn unknown(name: &str) -> Problem {
    let shown: String = name.chars().take(128).collect();
    Problem::new(Code::QueueUnknown, format!("there is no queue `{shown}`"))
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

    fn stored(document: &'a Document, now: Millis) -> Result<Self, Problem> {
        Ok(Self::of(&document.name, content(document)?, Some(document.version), now))
    }

    fn answer(&self, status: StatusCode) -> Response {
        let mut response = view::json(status, self);
        if let Some(version) = self.version {
            tag(response.headers_mut(), version);
        }
        response
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
    let mut documents = all_docs(&*app.store, DocKind::Queue, Some(caller.ns)).await?;
    let now = app.now();
    if let Err(place) = documents.binary_search_by(|document| document.name.as_str().cmp(DEFAULT_QUEUE)) {
        let bytes = Some(bytes_of(&QueueConfig::default())?);
        let default = Document { kind: DocKind::Queue, ns: caller.ns, name: DEFAULT_QUEUE.to_owned(), version: 0, bytes };
        documents.insert(place, default);
    }
    let mut rest = documents.iter().filter(|document| after.as_ref().is_none_or(|after| document.name > *after));
    let mut items = Vec::new();
    for document in rest.by_ref().take(limit) {
        let view = QueueView::stored(document, now)?;
        items.push(QueueView { version: view.version.filter(|version| *version > 0), ..view });
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
async fn get(State(app): State<Shared>, caller: Caller, PathOf(name): PathOf<String>, query: Query) -> Result<Response, Refusal> {
    query.done()?;
    Ok(known(&app, caller.ns, &name).await?.answer(StatusCode::OK))
}

/// A queue that there is; `queue_unknown` if there is not.
async fn known<'a>(app: &App, ns: Ns, name: &'a str) -> Result<QueueView<'a>, Refusal> {
    let now = app.now();
    match app.store.doc(DocKind::Queue, ns, name).await? {
        Some(document) => Ok(QueueView::of(name, content(&document)?, Some(document.version), now)),
        None if name == DEFAULT_QUEUE => Ok(QueueView::of(name, QueueConfig::default(), None, now)),
        None => Err(unknown(name).into()),
    }
}

/// Changes a queue that there is, puts the change in force here, and shows it.
async fn change(
    app: &App,
    ns: Ns,
    name: &str,
    headers: &HeaderMap,
    mut edit: impl FnMut(&mut QueueConfig) -> Result<(), Problem>,
) -> Result<Response, Refusal> {
    let precondition = Precondition::of(headers)?;
    let mut last = QueueConfig::default();
    let put = app.edit_doc(DocKind::Queue, ns, name, precondition, |stored| {
        last = match stored {
            Some(stored) => content(stored)?,
            None if name == DEFAULT_QUEUE => QueueConfig::default(),
            None => return Err(unknown(name)),
        };
        edit(&mut last)?;
        bytes_of(&last)
    });
    let put = put.await?;
    refresh(app).await;
    Ok(QueueView::of(name, last, Some(put.version), app.now()).answer(StatusCode::OK))
}

/// Puts a change in force here before it is answered. It is stored: if this fails, the watch of the documents does it.
async fn refresh(app: &App) {
    if let Err(error) = app.directory.load_queues(&*app.store).await {
        error.log("read queues");
    }
}
