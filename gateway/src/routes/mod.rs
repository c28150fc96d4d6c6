//! All routes. Mounting one and documenting it is one act.

mod attempts;
mod dead_letters;
mod leases;
mod limits;
mod nodes;
mod ops;
mod queues;
mod reference;
mod signing_keys;
mod task_types;
mod tasks;
pub(crate) mod workers;

pub use signing_keys::{EnsureError, ensure_signing_key};

use axum::Router;
use axum::middleware::from_fn_with_state;
use bytes::Bytes;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::app::Shared;
use crate::{document, edge};

fn documented() -> (Router<Shared>, OpenApi) {
    let (router, api) = OpenApiRouter::with_openapi(document::base())
        .merge(tasks::router())
        .merge(dead_letters::router())
        .merge(attempts::router())
        .merge(workers::router())
        .merge(leases::router())
        .merge(queues::router())
        .merge(limits::router())
        .merge(task_types::router())
        .merge(signing_keys::router())
        .merge(nodes::router())
        .merge(ops::router())
        .split_for_parts();
    (router, document::finish(api))
}

/// The document of the API as JSON.
pub(crate) fn document() -> String {
    let (_, api) = documented();
    // The document is made of strings and maps with string keys.
    let mut text = api.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// The service of this gateway.
pub(crate) fn router(app: Shared) -> Router {
    let (router, _) = documented();
    app.openapi.get_or_init(|| Bytes::from(document()));
    edged(router.fallback(edge::no_route), app)
}

/// The service of a process that serves no API: how it is doing.
pub(crate) fn operation_router(app: Shared) -> Router {
    let (router, _) = ops::health().split_for_parts();
    edged(router.fallback(edge::no_route_here), app)
}

fn edged(router: Router<Shared>, app: Shared) -> Router {
    router.method_not_allowed_fallback(edge::no_method).layer(from_fn_with_state(app.clone(), edge::edge)).with_state(app)
}
