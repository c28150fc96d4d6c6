//! `PUT|PATCH|DELETE /v1/workers/{name}`, `POST /v1/workers/{name}/rotate-secret`

use axum::response::Response;
use http::StatusCode;
use lovage_core::worker::WorkerConfig;
use lovage_store::{DocGuard, DocKind, DocPut};

use super::edit::apply;
use super::show::{self, Secret};
use super::upkeep::check_number;
use super::{check_name, unknown};
use crate::ask::Ask;
use crate::problem::Refusal;
use crate::{schema, secrets, view};

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
pub(crate) async fn put(ask: Ask) -> Result<Response, Refusal> {
    check_name(&ask.name, "/name")?;
    let text = ask.json("a document").await?;
    // Made beforehand: it is needed only if there is no secret at all.
    let made = secrets::make()?;
    store(&ask, &text, Start::Empty(made)).await
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
pub(crate) async fn patch(ask: Ask) -> Result<Response, Refusal> {
    let text = ask.json("a document").await?;
    store(&ask, &text, Start::Stored).await
}

/// What the given fields are set on.
enum Start {
    /// A worker with defaults; this is its secret if the stored one has none.
    Empty(String),
    /// The stored worker, which must exist.
    Stored,
}

async fn store(ask: &Ask, text: &str, start: Start) -> Result<Response, Refusal> {
    let Ask { app, ns, name, .. } = ask;
    let now = app.now();
    let mut shown = Secret::Hidden;
    let most = app.options.limits.broadcast_instances;
    let (instances, _) = app.page_docs(DocKind::Instance, *ns, &format!("{name}/"), None, most + 1).await?;
    let put = ask.edit(DocKind::Worker, |stored: Option<WorkerConfig>| {
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
        let secret = apply(app, text, &mut config, &kept)?;
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
        Ok(config)
    });
    let put = put.await?;
    Ok(show::answer(ask, &put, &shown).await)
}

/// Remove a worker
///
/// Its instances go with it; tasks that nobody else serves wait.
#[utoipa::path(
    delete, path = "/v1/workers/{name}", operation_id = "deleteWorker", tag = "workers",
    params(("name" = String, Path, description = "Its name"), schema::Preconditions),
    responses((status = 204, description = "Removed"))
)]
pub(crate) async fn delete(ask: Ask) -> Result<StatusCode, Refusal> {
    if !ask.remove(DocKind::Worker).await? {
        return Err(unknown(&ask.name));
    }
    let Ask { app, ns, name, .. } = ask;
    let recycling = DocPut { kind: DocKind::Recycling, ns, name: name.clone(), guard: DocGuard::Any, bytes: None };
    app.store.put_docs(vec![recycling]).await?;
    let prefix = format!("{name}/");
    loop {
        let (instances, next) = app.page_docs(DocKind::Instance, ns, &prefix, None, 500).await?;
        let remove = |name| DocPut { kind: DocKind::Instance, ns, name, guard: DocGuard::Any, bytes: None };
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
pub(crate) async fn rotate_secret(ask: Ask) -> Result<Response, Refusal> {
    ask.nothing().await?;
    let (secret, now) = (secrets::make()?, ask.app.now());
    let edited = ask.edit(DocKind::Worker, |stored: Option<WorkerConfig>| {
        let mut config = stored.ok_or_else(|| unknown(&ask.name).0)?;
        secrets::rotate(&mut config.signing, secret.clone(), now);
        Ok(config)
    });
    edited.await?;
    Ok(view::json(StatusCode::OK, &serde_json::json!({ "signing": secret })))
}
