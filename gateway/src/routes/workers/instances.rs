//! `GET /v1/workers/{name}/instances`, `PUT|GET|DELETE /v1/workers/{name}/instances/{id}`

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lovage_core::fields::{self, Errors};
use lovage_core::instance::Balance;
use lovage_core::problem::{Code, Problem};
use lovage_core::units::Dur;
use lovage_core::worker::{InstanceConfig, WorkerConfig};
use lovage_core::{Millis, Ns};
use lovage_store::{DocGuard, DocKind, DocPut, Document};
use serde::Serialize;

use super::seen::{self, Status};
use super::upkeep::check_number;
use super::{check_name, unknown};
use crate::app::{App, Shared};
use crate::ask::Ask;
use crate::auth::Caller;
use crate::documents::{content, shown};
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{schema, view};

const FIELDS: [&str; 4] = ["url", "ttl", "capacity", "version"];
const DEFAULT_TTL: Dur = Dur::from_secs(60);
const LONGEST_TTL: Dur = Dur::from_secs(24 * 3_600);
/// Registrations that ended are removed in steps of this.
const SWEEP: usize = 100;

#[derive(Serialize)]
struct InstanceView<'a> {
    id: &'a str,
    worker: &'a str,
    url: String,
    expires_at: String,
    capacity: Option<u32>,
    version: Option<String>,
    /// What the dispatchers see of it now; no part of the document.
    status: Option<Status>,
}

impl<'a> InstanceView<'a> {
    fn new(worker: &'a str, id: &'a str, config: InstanceConfig, status: Option<Status>) -> Self {
        let expires_at = config.until.rfc3339();
        Self { id, worker, url: config.url, expires_at, capacity: config.capacity, version: config.version, status }
    }
}

/// Register an instance
///
/// It is called until `ttl` has passed, unless it registers again.
#[utoipa::path(
    put, path = "/v1/workers/{name}/instances/{id}", operation_id = "putInstance", tag = "workers",
    params(("name" = String, Path, description = "The worker"), ("id" = String, Path, description = "The instance"), schema::Preconditions),
    request_body = schema::InstanceIn,
    responses(
        (status = 201, description = "Registered", body = schema::Instance),
        (status = 200, description = "Renewed", body = schema::Instance),
    )
)]
pub(crate) async fn put(ask: Ask<(String, String)>) -> Result<Response, Refusal> {
    check_name(&ask.name.1, "/id")?;
    let (wanted, text) = (ask.wanted()?, ask.json("a document").await?);
    let Ask { app, ns, name: (worker, id), .. } = ask;
    let registered = app.store.doc(DocKind::Worker, ns, &worker).await?.ok_or_else(|| unknown(&worker))?;
    let served: WorkerConfig = content(&registered)?;
    if served.pull {
        return Err(Problem::invalid("/url", "a worker that pulls is not called: it has no instances").into());
    }
    let config = read(&app, &text)?;
    let name = format!("{worker}/{id}");
    if served.balance == Balance::Broadcast {
        let most = app.options.limits.broadcast_instances;
        let (others, _) = app.page_docs(DocKind::Instance, ns, &format!("{worker}/"), None, most + 1).await?;
        let now = app.now();
        let live = |document: &&Document| content::<InstanceConfig>(document).is_ok_and(|other| other.until > now);
        let others = others.iter().filter(|document| document.name != name).filter(live).count();
        check_number(&served, others + 1, most, "/url")?;
    }
    let put = app.edit_doc(DocKind::Instance, ns, &name, wanted, |stored: Option<InstanceConfig>| {
        // As long as it renews its lease in time it is the same, unless it says otherwise.
        let same = |it: &InstanceConfig| it.until > app.now() && it.url == config.url && it.version == config.version;
        let since = stored.filter(same).map_or(app.now(), |it| it.since);
        Ok(InstanceConfig { since, ..config.clone() })
    });
    let put = put.await?;
    if put.created {
        sweep(&app, ns, &worker).await?;
    }
    let seen = app.seen_worker(ns, &worker, false).await;
    let seen = seen::one(seen.as_ref(), &id, &served);
    let status = put.status();
    Ok(shown(status, &InstanceView::new(&worker, &id, put.content, seen), Some(put.version)))
}

fn read(app: &App, text: &str) -> Result<InstanceConfig, Problem> {
    let now = app.now();
    let rules = app.rules();
    let mut errors = Errors::default();
    let mut config = InstanceConfig { url: String::new(), until: Millis(0), since: Millis(0), capacity: None, version: None };
    let mut ttl = DEFAULT_TTL;
    for (name, raw) in fields::document(text)? {
        match &*name {
            _ if fields::is_null(raw) && FIELDS.contains(&&*name) => {}
            "url" => {
                config.url = fields::string(raw, "/url", &mut errors).unwrap_or_default().into_owned();
                rules.url(&config.url, "/url", &mut errors);
            }
            "ttl" => {
                ttl = fields::value(raw, "/ttl", &mut errors).unwrap_or(DEFAULT_TTL);
                if ttl < Dur::from_secs(1) || ttl > LONGEST_TTL {
                    errors.invalid("/ttl", "must be from 1s to 24h");
                }
            }
            "capacity" => config.capacity = fields::number(raw, 1, 100_000, "/capacity", &mut errors).map(|n| n as u32),
            "version" => {
                config.version = fields::string(raw, "/version", &mut errors).map(Into::into);
                if config.version.as_ref().is_some_and(|version| version.len() > 128) {
                    errors.invalid("/version", "may have at most 128 bytes");
                }
            }
            other => errors.unknown("", other, &FIELDS),
        }
    }
    if config.url.is_empty() && errors.is_empty() {
        errors.invalid("/url", "must be given");
    }
    config.until = now.after(ttl.get());
    errors.problem().map_or(Ok(config), Err)
}

/// Removes registrations of a worker that have ended: instances with ever new names leave nothing behind.
async fn sweep(app: &App, ns: Ns, worker: &str) -> Result<(), Refusal> {
    let (documents, _) = app.page_docs(DocKind::Instance, ns, &format!("{worker}/"), None, SWEEP).await?;
    let ended = |document: &Document| content::<InstanceConfig>(document).is_ok_and(|config| config.until <= app.now());
    let remove = |document: Document| DocPut {
        kind: DocKind::Instance,
        ns,
        guard: DocGuard::Version(document.version),
        name: document.name,
        bytes: None,
    };
    let removals: Vec<DocPut> = documents.into_iter().filter(ended).map(remove).collect();
    if !removals.is_empty() {
        app.store.put_docs(removals).await?;
    }
    Ok(())
}

/// Show an instance
#[utoipa::path(
    get, path = "/v1/workers/{name}/instances/{id}", operation_id = "getInstance", tag = "workers",
    params(("name" = String, Path, description = "The worker"), ("id" = String, Path, description = "The instance")),
    responses((status = 200, description = "The instance", body = schema::Instance))
)]
pub(crate) async fn get(Ask { app, ns, name: (worker, id), .. }: Ask<(String, String)>) -> Result<Response, Refusal> {
    let name = format!("{worker}/{id}");
    let document = app.store.doc(DocKind::Instance, ns, &name).await?.ok_or_else(|| no_instance(&worker, &id))?;
    let config: InstanceConfig = content(&document)?;
    if config.until <= app.now() {
        return Err(no_instance(&worker, &id));
    }
    let served = app.store.doc(DocKind::Worker, ns, &worker).await?.ok_or_else(|| unknown(&worker))?;
    let seen = app.seen_worker(ns, &worker, false).await;
    let seen = seen::one(seen.as_ref(), &id, &content(&served)?);
    Ok(shown(StatusCode::OK, &InstanceView::new(&worker, &id, config, seen), Some(document.version)))
}

/// List the instances of a worker
#[utoipa::path(
    get, path = "/v1/workers/{name}/instances", operation_id = "listInstances", tag = "workers",
    params(("name" = String, Path, description = "The worker"), schema::PageQuery),
    responses((status = 200, description = "A page of instances that registered themselves", body = schema::Instances))
)]
pub(crate) async fn list(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(worker): PathOf<String>,
    query: Query,
) -> Result<Response, Refusal> {
    let (limit, from) = query.page()?;
    let served = app.store.doc(DocKind::Worker, caller.ns, &worker).await?.ok_or_else(|| unknown(&worker))?;
    let served: WorkerConfig = content(&served)?;
    let seen = app.seen_worker(caller.ns, &worker, false).await;
    let prefix = format!("{worker}/");
    let (documents, next) = app.page_docs(DocKind::Instance, caller.ns, &prefix, from, limit).await?;
    let now = app.now();
    let mut items = Vec::with_capacity(documents.len());
    for document in &documents {
        let config: InstanceConfig = content(document)?;
        if config.until > now {
            let id = &document.name[prefix.len()..];
            items.push(InstanceView::new(&worker, id, config, seen::one(seen.as_ref(), id, &served)));
        }
    }
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": next })))
}

/// `worker_unknown`, of an instance
fn no_instance(worker: &str, id: &str) -> Refusal {
    let [worker, id] = [worker, id].map(|name| name.chars().take(128).collect::<String>());
    Refusal::new(Code::WorkerUnknown, format!("worker `{worker}` has no instance `{id}`"))
}

/// Remove an instance
#[utoipa::path(
    delete, path = "/v1/workers/{name}/instances/{id}", operation_id = "deleteInstance", tag = "workers",
    params(("name" = String, Path, description = "The worker"), ("id" = String, Path, description = "The instance"), schema::Preconditions),
    responses((status = 204, description = "Removed"))
)]
pub(crate) async fn delete(ask: Ask<(String, String)>) -> Result<StatusCode, Refusal> {
    let name = format!("{}/{}", ask.name.0, ask.name.1);
    let removed = ask.app.delete_doc(DocKind::Instance, ask.ns, &name, ask.wanted()?).await?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(no_instance(&ask.name.0, &ask.name.1)) }
}
