//! Operation: health, metrics, the document of the API, the pages about problem codes.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use lovage_core::problem::{Code, Problem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{nodes, reference};
use crate::app::Shared;
use crate::path::PathOf;
use crate::problem::{Refusal, store_problem};
use crate::view;

/// How long the store may take to show that it is there.
const PING: Duration = Duration::from_secs(2);

/// How the process is doing.
pub(super) fn health() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz)).routes(routes!(metrics))
}

pub(super) fn router() -> OpenApiRouter<Shared> {
    health()
        .routes(routes!(openapi))
        .routes(routes!(reference::reference))
        .routes(routes!(error_page))
        .routes(routes!(start_page))
}

/// Whether the process answers
#[utoipa::path(get, path = "/healthz", operation_id = "healthz", tag = "operation",
    responses((status = 200, description = "It does")))]
async fn healthz() -> Response {
    view::json_bytes(StatusCode::OK, br#"{"status":"ok"}"#.to_vec())
}

/// Whether requests can be served
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "operation",
    responses((status = 200, description = "They can")))]
async fn readyz(State(app): State<Shared>) -> Result<Response, Refusal> {
    // A server that shuts down has said so at the edge.
    nodes::check_drain(&app)?;
    match tokio::time::timeout(PING, app.store.ping()).await {
        Ok(Ok(())) => Ok(view::json_bytes(StatusCode::OK, br#"{"status":"ready"}"#.to_vec())),
        Ok(Err(error)) => Err(store_problem(&error).into()),
        Err(_) => Err(Problem::new(Code::StoreUnavailable, "the store does not answer in time").into()),
    }
}

/// Metrics for Prometheus
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "operation",
    responses((status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain")))]
async fn metrics(State(app): State<Shared>) -> Result<Response, Refusal> {
    let render = app.options.metrics.as_ref();
    let render = render.ok_or_else(|| Refusal::new(Code::RouteUnknown, "metrics are switched off on this listener"))?;
    Ok(text("text/plain; version=0.0.4; charset=utf-8", render()))
}

/// This document
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
async fn openapi(State(app): State<Shared>) -> Response {
    let bytes = app.openapi.get().cloned().unwrap_or_default();
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response()
}

/// The page about a problem code
#[utoipa::path(get, path = "/docs/errors/{code}", operation_id = "errorPage", tag = "operation",
    params(("code" = String, Path, description = "The code of a problem")),
    responses((status = 200, description = "Markdown", body = String, content_type = "text/markdown")))]
async fn error_page(PathOf(code): PathOf<String>) -> Result<Response, Refusal> {
    let found = Code::parse(code.strip_suffix(".md").unwrap_or(&code));
    let found = found.ok_or_else(|| Refusal::new(Code::RouteUnknown, "there is no page about this code"))?;
    Ok(text("text/markdown; charset=utf-8", found.page().to_owned()))
}

/// Where to start
#[utoipa::path(get, path = "/", operation_id = "startPage", tag = "operation",
    responses((status = 200, description = "A few words", body = String, content_type = "text/plain")))]
async fn start_page(State(app): State<Shared>) -> Response {
    let base = app.options.public_url.as_deref().unwrap_or_default().trim_end_matches('/');
    let page = format!(
        "Lovage, a task queue for HTTP, version {}.\n\n\
         {base}/docs           the API, to read\n\
         {base}/openapi.json   the API, for programs\n\
         {base}/v1/tasks       tasks\n\
         {base}/v1/workers     workers\n\
         {base}/v1/queues      queues\n\
         {base}/readyz         whether it is ready\n",
        env!("CARGO_PKG_VERSION")
    );
    text("text/plain; charset=utf-8", page)
}

fn text(content_type: &'static str, text: String) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(content_type))], text).into_response()
}
