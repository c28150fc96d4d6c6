//! `POST /v1/queues/{queue}/purge`

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use super::known;
use crate::ask::Ask;
use crate::problem::Refusal;
use crate::{schema, view};

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
pub(super) async fn purge(ask: Ask) -> Result<Response, Refusal> {
    ask.nothing().await?;
    let Ask { app, ns, name, .. } = ask;
    known(&app, ns, &name).await?;
    let count = app.purge(ns, &name, app.now()).await?;
    app.lengths.is_stale();
    Ok(view::json(StatusCode::OK, &Purged { count }))
}
