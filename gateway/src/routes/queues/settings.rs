//! `PUT|PATCH|DELETE /v1/queues/{queue}`

use axum::body::Body;
use axum::extract::State as Extract;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use lovage_core::problem::{Code, Problem};
use lovage_core::spec::DEFAULT_QUEUE;
use lovage_core::{QueueConfig, State, names, queue};
use lovage_store::DocKind;

use super::{QueueView, change, refresh, unknown};
use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::documents::{Precondition, bytes_of, content};
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{body, schema};

/// Set up a queue
///
/// What it says of its tasks holds for those that are accepted from now on; limits, worker and length hold for all. A pause
/// stays as it is.
#[utoipa::path(
    put, path = "/v1/queues/{queue}", operation_id = "putQueue", tag = "queues",
    params(("queue" = String, Path, description = "Its name"), schema::Preconditions),
    request_body = schema::QueueIn,
    responses(
        (status = 201, description = "Made", body = schema::Queue),
        (status = 200, description = "Replaced", body = schema::Queue),
        (status = 412, description = "The stored one is another", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn put(
    Extract(app): Extract<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    if !names::is_name(&name) {
        return Err(Problem::invalid("/queue", names::NAME_RULE).into());
    }
    let precondition = Precondition::of(&headers)?;
    let bytes = read(&app, &headers, body).await?;
    let (text, now) = (text(&bytes)?, app.now());
    let mut last = QueueConfig::default();
    let put = app.edit_doc(DocKind::Queue, caller.ns, &name, precondition, |stored| {
        let stored: Option<QueueConfig> = stored.map(content).transpose()?;
        let (created_at, paused) = stored.map_or_else(|| (Some(now.rfc3339()), None), |it| (it.created_at, it.paused));
        last = QueueConfig { created_at, paused, ..QueueConfig::default() };
        queue::apply(&mut last, text)?;
        bytes_of(&last)
    });
    let put = put.await?;
    refresh(&app).await;
    let status = if put.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(QueueView::of(&name, last, Some(put.version), now).answer(status))
}

/// Change a queue
///
/// Fields that are not given stay; `null` takes one away.
#[utoipa::path(
    patch, path = "/v1/queues/{queue}", operation_id = "patchQueue", tag = "queues",
    params(("queue" = String, Path, description = "Its name"), schema::Preconditions),
    request_body = schema::QueueIn,
    responses(
        (status = 200, description = "Changed", body = schema::Queue),
        (status = 412, description = "The stored one is another", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn patch(
    Extract(app): Extract<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    let bytes = read(&app, &headers, body).await?;
    let text = text(&bytes)?;
    change(&app, caller.ns, &name, &headers, |config| queue::apply(config, text)).await
}

/// Remove a queue
///
/// It must be empty: purge it, or let it drain. `default` stays, without its settings.
#[utoipa::path(
    delete, path = "/v1/queues/{queue}", operation_id = "deleteQueue", tag = "queues",
    params(("queue" = String, Path, description = "Its name"), schema::Preconditions),
    responses(
        (status = 204, description = "Removed"),
        (status = 409, description = "Tasks of it wait or run", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(
    Extract(app): Extract<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    query.done()?;
    let precondition = Precondition::of(&headers)?;
    let stored = app.store.doc(DocKind::Queue, caller.ns, &name).await?;
    if stored.is_some() && name != DEFAULT_QUEUE {
        let counts = app.lengths.counts(&*app.store, caller.ns, &name).await?;
        let open: u64 = State::ALL.iter().filter(|state| !state.is_final()).map(|state| counts[*state as usize]).sum();
        if open > 0 {
            let detail = format!("{open} tasks of queue `{name}` wait or run; purge it, or drain it and let them end");
            return Err(Problem::new(Code::WrongState, detail).in_state("in_use").into());
        }
    }
    if !app.delete_doc(DocKind::Queue, caller.ns, &name, precondition).await? {
        return if name == DEFAULT_QUEUE { Ok(StatusCode::NO_CONTENT) } else { Err(unknown(&name).into()) };
    }
    refresh(&app).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    body::require_json(headers)?;
    body::read(body, headers, "a document", app.options.limits.document_bytes, &app.options.times).await
}

fn text(bytes: &Bytes) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|_| Problem::new(Code::Malformed, "the body is not UTF-8"))
}
