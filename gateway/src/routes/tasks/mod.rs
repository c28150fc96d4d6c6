//! Tasks.

mod batch;
mod create;
mod get;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::Shared;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(create::create)).routes(routes!(batch::batch)).routes(routes!(get::get))
}
