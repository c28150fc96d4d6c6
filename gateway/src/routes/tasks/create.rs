//! `POST /v1/tasks`

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use lovage_core::{Draft, IdRun, Ns, TaskKey};
use lovage_store::{Inserted, Mode};
use tokio::time::Instant;

use super::dry_run;
use crate::app::Shared;
use crate::auth::Caller;
use crate::body;
use crate::formats::{Bounds, Format};
use crate::intake::{Idempotency, odd_answer};
use crate::lane_cache::LaneCache;
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
        (status = 200, description = "Final within `wait`, or the same request was made before, or only asked about", content(
            (schema::Created = "application/json")
        )),
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
    let draft = if is_raw { app.read_raw(&types, &headers, bytes)? } else { app.read_signature(&types, &bytes, &bytes)? };
    if dry_run {
        return dry_run::answer(&app, caller.ns, &draft, app.now()).await;
    }
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
    let now = app.now();
    let id = draft.id.clone().unwrap_or_else(|| {
        let slot = idempotency.as_ref().map_or_else(|| app.next_slot(1), |key| key.slot(ns));
        IdRun::new(now, slot, app.random()).nth(0)
    });
    let key = TaskKey::new(ns, id);
    let mut insert = LaneCache::default().insert(&draft, key.clone(), now);
    insert.keys.extend(idempotency.as_ref().map(|key| key.put(app, now, 1)));
    let head = insert.head.clone();

    // Entered before the insert: whatever happens to the task afterwards is noticed without a look at it.
    let until = Instant::now() + wait;
    let waiter = if wait.is_zero() { None } else { Some(app.hub.subscribe(&key)?) };
    if let Some(waiter) = &waiter {
        waiter.live(until).await;
    }
    app.ensure_queues(ns, std::iter::once(&draft.spec)).await?;
    let inserted = app.store.insert(app.partition(&key), vec![insert], Mode::Each).await?.pop();
    match inserted {
        Some(Inserted::Ok { .. }) => match waiter {
            None => Ok(view::accepted(&key, &head)),
            Some(waiter) => match app.watch(&waiter, &key, until, false).await? {
                Some(stored) if stored.head.state.is_final() => view::record(app, &key, &stored),
                Some(stored) => Ok(view::accepted(&key, &stored.head)),
                None => Ok(view::accepted(&key, &head)),
            },
        },
        Some(Inserted::Exists(_)) => {
            let mut answers = app.repeated(&[(key.clone(), draft.spec.request_hash)]).await?;
            answers.pop().unwrap_or(Ok(()))?;
            existing(app, &key, wait).await
        }
        Some(ref conflict @ Inserted::Conflict { ref entry, .. }) => {
            let key = match &idempotency {
                Some(idempotency) => idempotency.replay(entry)?,
                None => return Err(odd_answer(conflict).into()),
            };
            let mut response = existing(app, &key, wait).await?;
            response.headers_mut().insert("idempotency-replayed", http::HeaderValue::from_static("true"));
            Ok(response)
        }
        Some(odd @ (Inserted::Late | Inserted::Aborted)) => Err(odd_answer(&odd).into()),
        None => Err(odd_answer(&Inserted::Aborted).into()),
    }
}

/// 200 for a task that an earlier request made.
async fn existing(app: &Shared, key: &TaskKey, wait: Duration) -> Result<Response, Refusal> {
    match app.load_final(key, wait).await? {
        Some(stored) => view::record(app, key, &stored),
        None => Err(Refusal::no_task(&key.id.to_string())),
    }
}
