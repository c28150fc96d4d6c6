//! Workers and their instances.

mod actions;
mod edit;
mod heard;
mod instances;
mod live;
mod pause;
mod register;
mod seen;
mod show;
mod upkeep;

use lovage_core::names;
use lovage_core::problem::{Code, Problem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::Shared;
use crate::problem::Refusal;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(show::list))
        .routes(routes!(register::put, show::get, register::patch, register::delete))
        .routes(routes!(register::rotate_secret))
        .routes(routes!(actions::recycle))
        .routes(routes!(actions::ping))
        .routes(routes!(actions::test))
        .routes(routes!(pause::pause))
        .routes(routes!(pause::resume))
        .routes(routes!(pause::drain))
        .routes(routes!(instances::list))
        .routes(routes!(instances::put, instances::get, instances::delete))
}

/// `worker_unknown`
pub(crate) fn unknown(name: &str) -> Refusal {
    Refusal::unknown(Code::WorkerUnknown, "worker", name)
}

/// A name in a path that is to be made.
fn check_name(name: &str, at: &str) -> Result<(), Problem> {
    if names::is_name(name) { Ok(()) } else { Err(Problem::invalid(at, names::NAME_RULE)) }
}
