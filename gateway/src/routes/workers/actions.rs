//! `POST /v1/workers/{name}/recycle|ping|test`
//!
//! A gateway calls nobody. It leaves a document, which reaches a dispatcher in whatever process, and waits for the answer in it.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use lovage_core::errand::{Called, Errand, ErrandKind};
use lovage_core::fields;
use lovage_core::instance::Recycling;
use lovage_core::problem::{Code, Problem};
use lovage_core::worker::{InstanceConfig, WorkerConfig};
use lovage_core::{Millis, Ns};
use lovage_store::{DocGuard, DocKind, DocOutcome, DocPut};
use serde::Serialize;

use super::unknown;
use crate::app::App;
use crate::ask::Ask;
use crate::documents::{Precondition, bytes_of, content};
use crate::problem::Refusal;
use crate::{schema, view};

/// How long a dispatcher may take to answer; its calls take at most five seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Errands of a namespace that are open at once.
const MOST_ERRANDS: usize = 16;
/// Registered instances that one request names at most.
const MOST_INSTANCES: usize = 1_000;

#[derive(Serialize)]
struct CalledView<'a> {
    id: &'a str,
    url: &'a str,
    status: Option<u16>,
    error: Option<&'a str>,
    latency_ms: u64,
}

impl<'a> CalledView<'a> {
    fn new(called: &'a Called) -> Self {
        let Called { instance, url, status, error, took_ms } = called;
        Self { id: instance, url, status: *status, error: error.as_deref(), latency_ms: *took_ms }
    }
}

/// Start instances of a worker anew
///
/// One after the other they get no new tasks, end those that they have, and are asked at the control URL to start anew.
#[utoipa::path(
    post, path = "/v1/workers/{name}/recycle", operation_id = "recycleWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name")),
    request_body(content = Option<schema::OneInstance>),
    responses((status = 202, description = "Which ones", body = schema::RecycleAsked))
)]
pub(crate) async fn recycle(ask: Ask) -> Result<Response, Refusal> {
    let one = instance(&ask).await?;
    let config = called(&ask).await?;
    if config.control_url.is_none() {
        let message = "the worker has no control URL: nobody would be told to start anew";
        return Err(Problem::invalid("/control_url", message).into());
    }
    let wanted = instances(&ask, &config, one).await?;
    let edited = ask.app.edit_doc(DocKind::Recycling, ask.ns, &ask.name, Precondition::None, |stored| {
        let mut state: Recycling = stored.unwrap_or_default();
        let known: BTreeSet<&str> = state.asked.iter().map(String::as_str).collect();
        let more: Vec<String> = wanted.iter().filter(|name| !known.contains(name.as_str())).cloned().collect();
        state.asked.extend(more);
        Ok(state)
    });
    if !wanted.is_empty() {
        edited.await?;
    }
    Ok(view::json(StatusCode::ACCEPTED, &serde_json::json!({ "instances": wanted })))
}

/// Ask the instances of a worker whether they are there
///
/// A dispatcher asks each for its health path, or for `/`. Of an answer only its status is shown.
#[utoipa::path(
    post, path = "/v1/workers/{name}/ping", operation_id = "pingWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name")),
    request_body(content = Option<schema::OneInstance>),
    responses((status = 200, description = "What each answered", body = schema::CalledInstances))
)]
pub(crate) async fn ping(ask: Ask) -> Result<Response, Refusal> {
    run(ask, ErrandKind::Ping).await
}

/// Send a test task to the instances of a worker
///
/// A dispatcher sends each a signed call of the task `lovage.test`. It is no task: nothing is stored, and whatever is answered has
/// no effect. Of an answer only its status is shown.
#[utoipa::path(
    post, path = "/v1/workers/{name}/test", operation_id = "testWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name")),
    request_body(content = Option<schema::OneInstance>),
    responses((status = 200, description = "What each answered", body = schema::CalledInstances))
)]
pub(crate) async fn test(ask: Ask) -> Result<Response, Refusal> {
    run(ask, ErrandKind::Test).await
}

/// The instance that the body names, if it names one.
async fn instance(ask: &Ask) -> Result<Option<String>, Problem> {
    fields::only(&ask.json_if_any().await?, "instance", |raw, at, errors| fields::string(raw, at, errors).map(Into::into))
}

/// The worker, if somebody calls it.
async fn called(ask: &Ask) -> Result<WorkerConfig, Refusal> {
    let document = ask.app.store.doc(DocKind::Worker, ask.ns, &ask.name).await?.ok_or_else(|| unknown(&ask.name))?;
    let config: WorkerConfig = content(&document)?;
    if config.pull {
        return Err(Problem::invalid("/name", "a worker that pulls is not called: it has no instances").into());
    }
    Ok(config)
}

/// The names of a worker's instances, or of the one that is wanted, which must be one of them.
async fn instances(Ask { app, ns, name, .. }: &Ask, config: &WorkerConfig, one: Option<String>) -> Result<Vec<String>, Refusal> {
    let all = all_instances(app, *ns, name, config).await?;
    match one {
        None => Ok(all),
        Some(one) if all.contains(&one) => Ok(vec![one]),
        Some(_) => Err(Problem::invalid("/instance", "the worker has no such instance").into()),
    }
}

/// The names of a worker's instances.
pub(super) async fn all_instances(app: &App, ns: Ns, name: &str, config: &WorkerConfig) -> Result<Vec<String>, Refusal> {
    let prefix = format!("{name}/");
    let (documents, _) = app.page_docs(DocKind::Instance, ns, &prefix, None, MOST_INSTANCES).await?;
    let now = app.now();
    let mut all = config.urls.clone();
    for document in &documents {
        if content::<InstanceConfig>(document)?.until > now {
            all.push(document.name[prefix.len()..].to_owned());
        }
    }
    Ok(all)
}

async fn run(ask: Ask, kind: ErrandKind) -> Result<Response, Refusal> {
    let one = instance(&ask).await?;
    let config = called(&ask).await?;
    if one.is_some() {
        instances(&ask, &config, one.clone()).await?;
    }
    let Ask { app, ns, name: worker, .. } = ask;
    let now = app.now();
    make_room(&app, ns, now).await?;
    let errand = Errand { kind, worker, instance: one, until: now.after(PATIENCE), session: None, answers: None };
    let name = format!("{:016x}{:016x}", app.random(), app.random());
    let put = |bytes, guard| DocPut { kind: DocKind::Errand, ns, name: name.clone(), guard, bytes };
    app.store.put_docs(vec![put(Some(bytes_of(&errand)?), DocGuard::Absent)]).await?;
    let answers = answers(&app, ns, &name).await;
    // Nobody reads it any more; what cannot be removed now is removed with a later one.
    let removed = app.store.put_docs(vec![put(None, DocGuard::Any)]).await;
    if let Err(error) = removed {
        error.log("remove an errand");
    }
    let Some(answers) = answers? else {
        let problem = Problem::new(Code::Overloaded, "no dispatcher made the calls in time: none runs, or all are busy");
        return Err(problem.into());
    };
    let items: Vec<CalledView<'_>> = answers.iter().map(CalledView::new).collect();
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "items": items })))
}

/// Refuses more errands than may be open at once, and removes those that nobody waits for.
async fn make_room(app: &App, ns: Ns, now: Millis) -> Result<(), Refusal> {
    let open = app.store.docs(DocKind::Errand, Some(ns), None, 2 * MOST_ERRANDS).await?.items;
    let over = |document: &lovage_store::Document| content::<Errand>(document).map_or(true, |errand| errand.until <= now);
    let (over, open): (Vec<_>, Vec<_>) = open.into_iter().partition(over);
    if !over.is_empty() {
        let remove = |document: lovage_store::Document| DocPut {
            kind: DocKind::Errand,
            ns,
            name: document.name,
            guard: DocGuard::Version(document.version),
            bytes: None,
        };
        let removed = app.store.put_docs(over.into_iter().map(remove).collect()).await?;
        tracing::debug!(
            removed = removed.iter().filter(|it| matches!(it, DocOutcome::Ok { .. })).count(),
            "errands that nobody read"
        );
    }
    if open.len() >= MOST_ERRANDS {
        return Err(Problem::new(Code::Overloaded, "too many pings and tests are under way; try again").into());
    }
    Ok(())
}

/// The answers, once they are there; `None`: nobody gave any in time.
async fn answers(app: &App, ns: Ns, name: &str) -> Result<Option<Vec<Called>>, Refusal> {
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut seen = u64::MAX;
    loop {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() || app.draining.is_cancelled() {
            return Ok(None);
        }
        seen = tokio::select! {
            () = app.draining.cancelled() => return Ok(None),
            version = app.store.doc_version(seen, left) => version?,
        };
        let Some(document) = app.store.doc(DocKind::Errand, ns, name).await? else { return Ok(None) };
        if let Some(answers) = content::<Errand>(&document)?.answers {
            return Ok(Some(answers));
        }
    }
}
