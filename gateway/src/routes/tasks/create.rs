//! `POST /v1/tasks`

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use lovage_core::problem::Problem;
use lovage_core::{Draft, Ns, TaskKey};
use tokio::time::Instant;

use super::dry_run;
use crate::app::Shared;
use crate::auth::Caller;
use crate::body;
use crate::formats::{Bounds, Format};
use crate::intake::{Idempotency, trace};
use crate::keys::Settled;
use crate::problem::Refusal;
use crate::query::Query;
use crate::raw;
use crate::{schema, view};

const TARGET: &str = "POST /v1/tasks";

/// Submit a task
///
/// The body is a signature. With a `Lovage-Task` or `Lovage-Url` header it is the payload itself, of any content type,
/// and the other scalar fields come as `Lovage-*` headers. Bodies may be compressed (`Content-Encoding`).
#[utoipa::path(
    post, path = "/v1/tasks", operation_id = "createTask", tag = "tasks",
    params(schema::WaitQuery, schema::DryRunQuery, schema::IdempotencyHeader),
    request_body(content(
        (schema::Signature = "application/json"), (schema::Signature = "application/msgpack"),
        (schema::Signature = "application/yaml"), (Vec<u8> = "application/octet-stream")
    )),
    responses(
        (status = 202, description = "Stored", body = schema::TaskAccepted, headers(("Location" = String, description = "Where the task is"))),
        (status = 200, description = "Final within `wait`, made by an earlier request, the task that holds the unique key, or only asked about", content(
            (schema::Created = "application/json")
        )),
        (status = 409, description = "The id or the unique key belongs to another task", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    caller: Caller,
    mut query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let wait = query.wait(app.options.times.wait)?;
    let dry_run = query.flag("dry_run")?.unwrap_or(false);
    query.done()?;
    let is_raw = raw::is_raw(&headers);
    let format = if is_raw { Format::Json } else { Format::of(&headers)? };
    let limits = &app.options.limits;
    let bytes = body::read(body, &headers, "a task", limits.task_bytes, &app.options.times).await?;
    let bytes = format.json(bytes, Bounds { what: "a task", bytes: limits.task_bytes, depth: limits.json_depth }).await?;

    let idempotency = Idempotency::of(&headers, TARGET, &bytes)?;
    let types = app.types(caller.ns).await?;
    let read = if is_raw {
        app.read_raw(&types, &headers, bytes)
    } else {
        app.read_signature(&types, trace(&headers).as_ref(), &bytes, &bytes)
    };
    if dry_run {
        let draft = read.and_then(|(draft, refused)| refused.map_or(Ok(draft), Err))?;
        return dry_run::answer(&app, caller.ns, &draft, app.now()).await;
    }
    let draft = app.accept(caller.ns, read, idempotency.as_ref()).await?;
    store(&app, caller.ns, draft, idempotency, wait).await
}

/// Stores a new task and answers as a submit does.
pub(super) async fn store(
    app: &Shared,
    ns: Ns,
    draft: Draft,
    idempotency: Option<Idempotency>,
    wait: Duration,
) -> Result<Response, Refusal> {
    let room = app.room(ns, &draft, idempotency.as_ref()).await?;
    let mut coming = app.coming(ns, draft, idempotency, app.now());

    // Entered before the insert: whatever happens to the task afterwards is noticed without a look at it.
    let until = Instant::now() + wait;
    let waiter = if wait.is_zero() { None } else { Some(app.hub.subscribe(&coming.key, coming.partition)?) };
    if let Some(waiter) = &waiter {
        waiter.live(until).await;
    }
    app.ensure_queues(ns, std::iter::once(coming.spec())).await?;
    let settled = app.settle(&mut coming).await;
    if let Some(room) = room {
        room.settle_one(&settled);
    }
    match settled.map_err(Problem::from)? {
        Settled::Stored(head) => match waiter {
            None => Ok(view::accepted(&coming.key, &head)),
            Some(waiter) => match app.watch(&waiter, &coming.key, until, false).await? {
                Some(stored) if stored.head.state.is_final() => view::record(app, &coming.key, &stored),
                Some(stored) => Ok(view::accepted(&coming.key, &stored.head)),
                None => Ok(view::accepted(&coming.key, &head)),
            },
        },
        Settled::Existing(key) => existing(app, &key, wait).await,
        Settled::Replayed(key) => {
            let mut response = existing(app, &key, wait).await?;
            response.headers_mut().insert("idempotency-replayed", http::HeaderValue::from_static("true"));
            Ok(response)
        }
    }
}

/// 200 for a task that an earlier request made. Of one whose record is gone only the id is known.
async fn existing(app: &Shared, key: &TaskKey, wait: Duration) -> Result<Response, Refusal> {
    match app.load_final(key, wait).await? {
        Some(stored) => view::record(app, key, &stored),
        None => Ok(view::json(StatusCode::OK, &schema::TaskGone { id: key.id.to_string() })),
    }
}
