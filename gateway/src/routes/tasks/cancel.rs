//! `POST /v1/tasks/{id}/cancel`

use axum::response::Response;
use http::StatusCode;
use lovage_core::fields::{self, Errors};
use lovage_core::problem::Problem;
use lovage_core::{Event, Reason, State as TaskState};

use crate::ask::Ask;
use crate::change::{Changed, wrong_state};
use crate::problem::Refusal;
use crate::{schema, view};

const FIELDS: [&str; 2] = ["mode", "cascade"];

/// Call a task off
///
/// A waiting task never starts. A running one is asked to stop; after its worker's `cancel_grace`, or at once in mode
/// `hard`, its connection is closed. What it has started (children, links) is canceled too unless `cascade` is false: of a
/// large tree behind the answer. A cancel that broke off may be repeated for that.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/cancel", operation_id = "cancelTask", tag = "tasks",
    params(("id" = String, Path, description = "The task's id"), schema::IfMatchHeader),
    request_body(content = Option<schema::Cancel>),
    responses(
        (status = 200, description = "Canceled", body = schema::Task),
        (status = 202, description = "It runs, or has started very many tasks; they are being canceled", body = schema::Task),
        (status = 409, description = "It is final", body = schema::Problem, content_type = "application/problem+json"),
        (status = 412, description = "It has another version", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(ask: Ask) -> Result<Response, Refusal> {
    let Wish { hard, cascade } = wish(&ask.json_if_any().await?)?;
    let (app, key) = (&ask.app, ask.task()?);
    let stored = app.load(&key).await?.ok_or_else(|| ask.no_task())?;
    let grace = app.cancel_grace(key.ns, &stored.head).await?;
    let event = Event::Cancel { hard, reason: Reason::Requested, grace };
    let changed = app.happen_if(&key, ask.wanted()?, event).await?.ok_or_else(|| ask.no_task())?;
    let mut status = match &changed {
        Changed::Applied(head) if head.as_ref().is_some_and(|head| head.state.is_final()) => StatusCode::OK,
        // Running: asked now, or before.
        Changed::Applied(_) | Changed::Not(TaskState::Running) => StatusCode::ACCEPTED,
        // An earlier request may not have come to all that the task has started.
        Changed::Not(TaskState::Canceled) if cascade => StatusCode::OK,
        Changed::Not(state) => return Err(wrong_state(*state, "canceled")),
    };
    // What has never run has started nothing.
    let never_ran = matches!(&changed, Changed::Applied(Some(head)) if head.attempt == 0);
    if cascade && !never_ran {
        let (spec, _) = view::taken_apart(&stored)?;
        let mut room = app.options.limits.cascade_tasks;
        match app.cascade(&key, &spec, hard, &mut room).await? {
            Some(0) if matches!(changed, Changed::Not(TaskState::Canceled)) => {
                return Err(wrong_state(TaskState::Canceled, "canceled"));
            }
            Some(_) => {}
            None => status = StatusCode::ACCEPTED,
        }
    }
    let stored = app.load(&key).await?.ok_or_else(|| ask.no_task())?;
    let mut response = view::record(app, &key, &stored)?;
    *response.status_mut() = status;
    Ok(response)
}

/// What a cancel is to be.
struct Wish {
    hard: bool,
    /// What the task has started is canceled as well.
    cascade: bool,
}

fn wish(text: &str) -> Result<Wish, Problem> {
    let mut wish = Wish { hard: false, cascade: true };
    if text.is_empty() {
        return Ok(wish);
    }
    let mut errors = Errors::default();
    for (name, raw) in fields::document(text)? {
        match &*name {
            "mode" => match fields::string(raw, "/mode", &mut errors).as_deref() {
                Some("hard") => wish.hard = true,
                Some("soft") | None => {}
                Some(_) => errors.invalid("/mode", "must be \"soft\" or \"hard\""),
            },
            "cascade" => wish.cascade = fields::boolean(raw, "/cascade", &mut errors).unwrap_or(true),
            other => errors.unknown("", other, &FIELDS),
        }
    }
    errors.problem().map_or(Ok(wish), Err)
}
