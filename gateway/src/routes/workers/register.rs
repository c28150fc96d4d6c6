//! `PUT|PATCH|DELETE /v1/workers/{name}`, `POST /v1/workers/{name}/rotate-secret`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use lovage_core::Ns;
use lovage_core::problem::Problem;
use lovage_core::worker::WorkerConfig;
use lovage_store::{DocGuard, DocKind, DocPut};

use super::edit::apply;
use super::show::{self, Secret};
use super::upkeep::check_number;
use super::{check_name, read_json, unknown};
use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::documents::{Precondition, bytes_of, content};
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{body, schema, secrets, view};

/// Register a worker
///
/// Replaces it if it exists; its secrets stay unless a new one is given. The answer shows the secret if it was made now.
#[utoipa::path(
    put, path = "/v1/workers/{name}", operation_id = "putWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name"), schema::Preconditions),
    request_body = schema::WorkerIn,
    responses(
        (status = 201, description = "Registered", body = schema::Worker),
        (status = 200, description = "Replaced", body = schema::Worker),
        (status = 412, description = "The stored one is another", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn put(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    check_name(&name, "/name")?;
    let precondition = Precondition::of(&headers)?;
    let bytes = read_json(&app, &headers, body).await?;
    // Made beforehand: it is needed only if there is no secret at all.
    let made = secrets::make()?;
    store(&app, caller.ns, &name, precondition, &bytes, Start::Empty(made)).await
}

/// Change a worker
///
/// Fields that are not given stay; `null` gives a field its default again.
#[utoipa::path(
    patch, path = "/v1/workers/{name}", operation_id = "patchWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name"), schema::Preconditions),
    request_body = schema::WorkerIn,
    responses(
        (status = 200, description = "Changed", body = schema::Worker),
        (status = 412, description = "The stored one is another", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn patch(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    let precondition = Precondition::of(&headers)?;
    let bytes = read_json(&app, &headers, body).await?;
    store(&app, caller.ns, &name, precondition, &bytes, Start::Stored).await
}

/// What the given fields are set on.
enum Start {
    /// A worker with defaults; this is its secret if the stored one has none.
    Empty(String),
    /// The stored worker, which must exist.
    Stored,
}

async fn store(app: &App, ns: Ns, name: &str, wanted: Precondition, bytes: &Bytes, start: Start) -> Result<Response, Refusal> {
    let now = app.now();
    let mut last = WorkerConfig::default();
    let mut shown = Secret::Hidden;
    let most = app.options.limits.broadcast_instances;
    let (instances, _) = app.page_docs(DocKind::Instance, ns, &format!("{name}/"), None, most + 1).await?;
    let put = app.edit_doc(DocKind::Worker, ns, name, wanted, |stored| {
        let stored = stored.map(content::<WorkerConfig>).transpose()?;
        // Header values that are not shown can be kept by naming them, also by PUT.
        let kept = stored.as_ref().map(|stored| stored.headers.clone()).unwrap_or_default();
        let mut config = match (&start, stored) {
            (Start::Stored, None) => return Err(unknown(name).0),
            (Start::Stored, Some(stored)) => stored,
            (Start::Empty(_), stored) => {
                // A pause ends when somebody ends it.
                let (signing, paused) = stored.map(|stored| (stored.signing, stored.paused)).unwrap_or_default();
                WorkerConfig { signing, paused, ..WorkerConfig::default() }
            }
        };
        let secret = apply(app, bytes, &mut config, &kept)?;
        check_number(&config, instances.len(), most, "/balance")?;
        shown = Secret::Hidden;
        if let Some(secret) = secret {
            secrets::rotate(&mut config.signing, secret, now);
        } else if let Start::Empty(made) = &start
            && config.signing.is_empty()
        {
            secrets::rotate(&mut config.signing, made.clone(), now);
            shown = Secret::Shown(made.clone());
        }
        last = config;
        bytes_of(&last)
    });
    let put = put.await?;
    let status = if put.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(show::answer(app, ns, status, (name, &last), put.version, &shown).await)
}

/// Remove a worker
///
/// Its instances go with it; tasks that nobody else serves wait.
#[utoipa::path(
    delete, path = "/v1/workers/{name}", operation_id = "deleteWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name"), schema::Preconditions),
    responses((status = 204, description = "Removed"))
)]
pub(crate) async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    query.done()?;
    if !app.delete_doc(DocKind::Worker, caller.ns, &name, Precondition::of(&headers)?).await? {
        return Err(unknown(&name));
    }
    let recycling = DocPut { kind: DocKind::Recycling, ns: caller.ns, name: name.clone(), guard: DocGuard::Any, bytes: None };
    app.store.put_docs(vec![recycling]).await?;
    let prefix = format!("{name}/");
    loop {
        let (instances, next) = app.page_docs(DocKind::Instance, caller.ns, &prefix, None, 500).await?;
        let remove = |name| DocPut { kind: DocKind::Instance, ns: caller.ns, name, guard: DocGuard::Any, bytes: None };
        let removals: Vec<DocPut> = instances.into_iter().map(|document| remove(document.name)).collect();
        if !removals.is_empty() {
            app.store.put_docs(removals).await?;
        }
        if next.is_none() {
            return Ok(StatusCode::NO_CONTENT);
        }
    }
}

/// Make a new secret
///
/// It is shown once. The one before is used beside it for 24 hours.
#[utoipa::path(
    post, path = "/v1/workers/{name}/rotate-secret", operation_id = "rotateWorkerSecret", tag = "workers",
    params(("name" = String, Path, description = "Its name"), schema::Preconditions),
    responses((status = 200, description = "The new secret", body = schema::NewSecret))
)]
pub(crate) async fn rotate_secret(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    let precondition = Precondition::of(&headers)?;
    body::read_none(&app, &headers, body).await?;
    let secret = secrets::make()?;
    let now = app.now();
    let edited = app.edit_doc(DocKind::Worker, caller.ns, &name, precondition, |stored| {
        let stored = stored.ok_or_else(|| -> Problem { unknown(&name).0 })?;
        let mut config: WorkerConfig = content(stored)?;
        secrets::rotate(&mut config.signing, secret.clone(), now);
        bytes_of(&config)
    });
    edited.await?;
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "signing": secret })))
}
