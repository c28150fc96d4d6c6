//! `/v1/queues` and what can be done to a queue.

mod pause;
mod purge;
mod settings;
mod stats;

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
use crate::documents::{bytes_of, content, shown};
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

    fn stored(document: &'a Document, now: Millis) -> Result<Self, Problem> {
        Ok(Self::of(&document.name, content(document)?, Some(document.version), now))
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
async fn get(ask: Ask) -> Result<Response, Refusal> {
    Ok(known(&ask.app, ask.ns, &ask.name).await?.answer(StatusCode::OK))
}

/// A queue that there is; `queue_unknown` if there is not.
async fn known<'a>(app: &App, ns: Ns, name: &'a str) -> Result<QueueView<'a>, Refusal> {
    let now = app.now();
    match app.store.doc(DocKind::Queue, ns, name).await? {
        Some(document) => Ok(QueueView::of(name, content(&document)?, Some(document.version), now)),
        None if name == DEFAULT_QUEUE => Ok(QueueView::of(name, QueueConfig::default(), None, now)),
        None => Err(unknown(name)),
    }
}

/// Changes a queue that there is, and shows it.
async fn change(ask: &Ask, edit: impl Fn(&mut QueueConfig) -> Result<(), Problem>) -> Result<Response, Refusal> {
    let mut response = store(ask, |stored| {
        let of_default = || (ask.name == DEFAULT_QUEUE).then(QueueConfig::default);
        let mut config = stored.or_else(of_default).ok_or_else(|| unknown(&ask.name).0)?;
        edit(&mut config).map(|()| config)
    })
    .await?;
    // That of `default` may have been made now.
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
