//! Tasks.

mod attempts;
mod batch;
mod bulk;
mod cancel;
mod create;
mod delete;
mod dry_run;
mod events;
mod explain;
mod get;
mod list;
mod patch;
mod payload;
mod replay;
mod result;
mod tree;
mod verbs;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::Shared;

pub(super) use list::page;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(create::create, list::list))
        .routes(routes!(batch::batch))
        .routes(routes!(get::get, patch::patch, delete::delete))
        .routes(routes!(payload::payload))
        .routes(routes!(result::result, result::forget))
        .routes(routes!(attempts::attempts))
        .routes(routes!(events::events))
        .routes(routes!(cancel::cancel))
        .routes(routes!(verbs::run))
        .routes(routes!(verbs::retry))
        .routes(routes!(verbs::hold))
        .routes(routes!(verbs::release))
        .routes(routes!(replay::replay))
        .routes(routes!(tree::tree))
        .routes(routes!(explain::explain))
        .routes(routes!(bulk::cancel))
        .routes(routes!(bulk::retry))
        .routes(routes!(bulk::replay))
        .routes(routes!(bulk::delete))
        .routes(routes!(bulk::patch))
}
