//! `GET /v1/workers`, `GET /v1/workers/{name}`

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lovage_core::board::Board;
use lovage_core::classify::StatusMap;
use lovage_core::instance::{Balance, Health, Recycle};
use lovage_core::units::{Dur, Rate};
use lovage_core::worker::{Breaker, WorkerBatch, WorkerConfig};
use lovage_core::{Millis, Ns, Version};
use lovage_store::DocKind;
use serde::Serialize;

use super::live::{self, Live};
use super::seen::{self, SeenInstance};
use super::unknown;
use crate::app::{App, Shared};
use crate::ask::Ask;
use crate::auth::Caller;
use crate::documents::{Put, content, shown};
use crate::problem::Refusal;
use crate::query::Query;
use crate::{schema, view};

/// Whether a secret is part of an answer.
pub(super) enum Secret {
    /// Only in the store.
    Hidden,
    /// Made by this request.
    Shown(String),
}

#[derive(Serialize)]
struct WorkerView<'a> {
    name: &'a str,
    urls: &'a [String],
    tasks: &'a [String],
    queues: &'a [String],
    balance: Balance,
    concurrency: u32,
    rate: Option<Rate>,
    burst: Option<u32>,
    cancel_grace: String,
    r#async: bool,
    pull: bool,
    control_url: Option<&'a str>,
    breaker: Breaker,
    health: Option<&'a Health>,
    recycle: Option<Recycle>,
    batch: Option<WorkerBatch>,
    /// Names only: values are written, never read.
    headers: BTreeMap<&'a str, Option<&'a str>>,
    status_map: StatusMap,
    /// What this server sees of it now; no part of the document.
    paused_until: Option<String>,
    paused_because: Option<&'static str>,
    /// Only of one that is shown by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<Vec<SeenInstance>>,
    state: &'static str,
    live: Option<Live>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing: Option<&'a str>,
    version: Version,
}

impl<'a> WorkerView<'a> {
    fn new(
        app: &App,
        ns: Ns,
        (name, config): (&'a str, &'a WorkerConfig),
        version: Version,
        secret: &'a Secret,
        boards: &[Board],
    ) -> Self {
        let now = app.now();
        let seen = app.seen_on(boards, ns, name, false);
        let (until, because) = live::pause(config, seen.as_ref(), now);
        Self {
            name,
            urls: &config.urls,
            tasks: &config.tasks,
            queues: &config.queues,
            balance: config.balance,
            concurrency: config.concurrency(),
            rate: config.rate,
            burst: config.burst,
            cancel_grace: config.cancel_grace.map_or_else(default_grace, |grace| grace.to_string()),
            r#async: config.accepts,
            pull: config.pull,
            control_url: config.control_url.as_deref(),
            breaker: config.breaker(),
            health: config.health.as_ref(),
            recycle: config.recycle,
            batch: config.batch,
            headers: config.headers.keys().map(|name| (name.as_str(), None)).collect(),
            status_map: config.status_map.clone().unwrap_or_default(),
            signing: match secret {
                Secret::Hidden => None,
                Secret::Shown(secret) => Some(secret),
            },
            paused_until: until.map(Millis::rfc3339),
            paused_because: because,
            instances: None,
            state: live::state(config, seen.as_ref(), now),
            live: seen.as_ref().map(Live::new),
            version,
        }
    }
}

fn default_grace() -> String {
    Dur::from_millis(lovage_core::worker::DEFAULT_CANCEL_GRACE.as_millis() as u64).to_string()
}

/// A worker after a change as the whole answer.
pub(super) async fn answer(ask: &Ask, put: &Put<WorkerConfig>, secret: &Secret) -> Response {
    let boards = ask.app.boards().await;
    let view = WorkerView::new(&ask.app, ask.ns, (&ask.name, &put.content), put.version, secret, &boards);
    shown(put.status(), &view, Some(put.version))
}

/// Show a worker
#[utoipa::path(
    get, path = "/v1/workers/{name}", operation_id = "getWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "The worker, without secrets", body = schema::Worker))
)]
pub(crate) async fn get(Ask { app, ns, name, .. }: Ask) -> Result<Response, Refusal> {
    let document = app.store.doc(DocKind::Worker, ns, &name).await?.ok_or_else(|| unknown(&name))?;
    let config: WorkerConfig = content(&document)?;
    let (hidden, boards) = (Secret::Hidden, app.boards().await);
    let board = app.seen_on(&boards, ns, &name, false).filter(|_| !config.pull);
    let instances = board.map(|board| seen::all(&board, &config));
    let view = WorkerView::new(&app, ns, (&name, &config), document.version, &hidden, &boards);
    Ok(shown(StatusCode::OK, &WorkerView { instances, ..view }, Some(document.version)))
}

/// List workers
#[utoipa::path(
    get, path = "/v1/workers", operation_id = "listWorkers", tag = "workers",
    params(schema::PageQuery),
    responses((status = 200, description = "A page of workers", body = schema::Workers))
)]
pub(crate) async fn list(State(app): State<Shared>, caller: Caller, query: Query) -> Result<Response, Refusal> {
    let (limit, from) = query.page()?;
    let (documents, next) = app.page_docs(DocKind::Worker, caller.ns, "", from, limit).await?;
    let mut configs = Vec::with_capacity(documents.len());
    for document in &documents {
        configs.push((document, content::<WorkerConfig>(document)?));
    }
    let (hidden, boards) = (Secret::Hidden, app.boards().await);
    let items: Vec<_> = configs
        .iter()
        .map(|(document, config)| WorkerView::new(&app, caller.ns, (&document.name, config), document.version, &hidden, &boards))
        .collect();
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": next })))
}
