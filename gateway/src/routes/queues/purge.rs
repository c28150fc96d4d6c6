//! `POST /v1/queues/{queue}/purge`

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::known;
use crate::app::Shared;
use crate::auth::Caller;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{body, schema, view};

#[derive(Serialize)]
struct Purged {
    count: usize,
}

/// Empty a queue
///
/// All tasks that wait in it when this is asked, for whatever, are canceled with the reason `purged`; those that run are left
/// alone. It may take a while, and one that broke off can be repeated.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/purge", operation_id = "purgeQueue", tag = "queues",
    params(("queue" = String, Path, description = "Its name")),
    responses((status = 200, description = "How many were canceled", body = schema::Purged))
)]
pub(super) async fn purge(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(name): PathOf<String>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    query.done()?;
    body::read_none(&app, &headers, body).await?;
    known(&app, caller.ns, &name).await?;
    let count = app.purge(caller.ns, &name, app.now()).await?;
    app.lengths.is_stale();
    Ok(view::json(StatusCode::OK, &Purged { count }))
}
