//! `PUT|PATCH|DELETE /v1/queues/{queue}`

use axum::response::Response;
use http::StatusCode;
use lovage_core::problem::{Code, Problem};
use lovage_core::spec::DEFAULT_QUEUE;
use lovage_core::{QueueConfig, State, names, queue};
use lovage_store::DocKind;

use super::{change, refresh, store, unknown};
use crate::ask::Ask;
use crate::problem::Refusal;
use crate::schema;

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
pub(super) async fn put(ask: Ask) -> Result<Response, Refusal> {
    if !names::is_name(&ask.name) {
        return Err(Problem::invalid("/queue", names::NAME_RULE).into());
    }
    let (text, now) = (ask.json("a document").await?, ask.app.now());
    store(&ask, |stored| {
        let (created_at, paused) = stored.map_or_else(|| (Some(now.rfc3339()), None), |it| (it.created_at, it.paused));
        let mut config = QueueConfig { created_at, paused, ..QueueConfig::default() };
        queue::apply(&mut config, &text).map(|()| config)
    })
    .await
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
pub(super) async fn patch(ask: Ask) -> Result<Response, Refusal> {
    let text = ask.json("a document").await?;
    change(&ask, |config| queue::apply(config, &text)).await
}

/// Remove a queue
///
/// It must be empty: purge it, or let it drain. Of `default` only the settings and a pause are removed, whatever is in it.
#[utoipa::path(
    delete, path = "/v1/queues/{queue}", operation_id = "deleteQueue", tag = "queues",
    params(("queue" = String, Path, description = "Its name"), schema::Preconditions),
    responses(
        (status = 204, description = "Removed"),
        (status = 409, description = "Tasks of it wait or run", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(ask: Ask) -> Result<StatusCode, Refusal> {
    let Ask { app, ns, name, .. } = &ask;
    if name != DEFAULT_QUEUE {
        let counts = app.lengths.counts(&*app.store, *ns, name).await?;
        let open: u64 = State::ALL.iter().filter(|state| !state.is_final()).map(|state| counts[*state as usize]).sum();
        if open > 0 {
            let tasks = if open == 1 { "1 task of it waits or runs" } else { &format!("{open} tasks of it wait or run") };
            let detail = format!("queue `{name}` is in use: {tasks}; purge it, or drain it and let them end");
            return Err(Problem::new(Code::WrongState, detail).in_state("in_use").into());
        }
    }
    if !ask.remove(DocKind::Queue).await? {
        return if name == DEFAULT_QUEUE { Ok(StatusCode::NO_CONTENT) } else { Err(unknown(name)) };
    }
    refresh(app).await;
    Ok(StatusCode::NO_CONTENT)
}
