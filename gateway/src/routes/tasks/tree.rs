//! `GET /v1/tasks/{id}/tree`

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::{Query, refuse};
use crate::{schema, tree, view};

/// The tree of a task
///
/// The first ancestor and all that came of it: spawned tasks, links and callbacks, in order of acceptance. As JSON, or as a
/// picture for Graphviz (`dot`) or Mermaid.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/tree", operation_id = "getTaskTree", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::TreeQuery),
    responses((status = 200, description = "The tree", content(
        (schema::Tree = "application/json"), (String = "text/vnd.graphviz"), (String = "text/vnd.mermaid")
    )))
)]
pub(crate) async fn tree(
    State(app): State<Shared>,
    caller: Caller,
    PathOf(id): PathOf<String>,
    mut query: Query,
) -> Result<Response, Refusal> {
    let draw: Option<(fn(&tree::Tree) -> String, _)> = match query.one("format")?.as_deref() {
        None | Some("json") => None,
        Some("dot") => Some((tree::dot, "text/vnd.graphviz; charset=utf-8")),
        Some("mermaid") => Some((tree::mermaid, "text/vnd.mermaid; charset=utf-8")),
        Some(_) => return Err(refuse("format", "must be json, dot or mermaid").into()),
    };
    query.done()?;
    let key = App::key(caller.ns, &id).ok_or_else(|| Refusal::no_task(&id))?;
    let tree = app.tree(&key).await?.ok_or_else(|| Refusal::no_task(&id))?;
    let Some((draw, content_type)) = draw else { return Ok(view::json(StatusCode::OK, &tree)) };
    let headers =
        [(CONTENT_TYPE, HeaderValue::from_static(content_type)), (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))];
    Ok((headers, draw(&tree)).into_response())
}
