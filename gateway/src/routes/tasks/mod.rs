//! Tasks.

mod attempts;
mod batch;
mod cancel;
mod create;
mod delete;
mod get;
mod list;
mod payload;
mod result;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::Shared;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(create::create, list::list))
        .routes(routes!(batch::batch))
        .routes(routes!(get::get, delete::delete))
        .routes(routes!(payload::payload))
        .routes(routes!(result::result))
        .routes(routes!(attempts::attempts))
        .routes(routes!(cancel::cancel))
}
