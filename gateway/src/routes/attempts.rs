//! `POST /v1/attempts/{token}/{verb}`: what the worker of an attempt reports. The token in the path is the only credential.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use lovage_core::problem::Code;
use lovage_core::{AttemptToken, Report, report};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::Shared;
use crate::path::PathOf;
use crate::problem::Refusal;
use crate::query::Query;
use crate::{body, schema, view};

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(heartbeat))
        .routes(routes!(progress))
        .routes(routes!(complete))
        .routes(routes!(fail))
        .routes(routes!(snooze))
        .routes(routes!(spawn))
        .routes(routes!(replace))
        .routes(routes!(logs))
}

/// A report whose token is genuine and whose body has not been read.
struct Incoming {
    app: Shared,
    token: AttemptToken,
    headers: HeaderMap,
    body: Body,
}

impl FromRequest<Shared> for Incoming {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let PathOf(text) = PathOf::<String>::from_request_parts(&mut parts, app).await?;
        // Before anything else is looked at: nobody is told what the rest of a forged request lacks.
        let token = app.options.attempt_urls.read(&text);
        let token = token.ok_or_else(|| Refusal::new(Code::TokenUnknown, "no attempt has this token"))?;
        Query::from_request_parts(&mut parts, app).await?.done()?;
        Ok(Self { app: app.clone(), token, headers: parts.headers, body })
    }
}

impl Incoming {
    async fn take(self, verb: &str) -> Result<Response, Refusal> {
        let Self { app, token, headers, body } = self;
        let limits = &app.options.limits;
        let (what, limit) = match verb {
            "complete" => ("a result", limits.task_bytes),
            "spawn" => ("a list of tasks", limits.array_bytes),
            "replace" => ("a task", limits.task_bytes),
            _ => ("a report", limits.document_bytes),
        };
        let bytes = body::read(body, &headers, what, limit, &app.options.times).await?;
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let types = app.types(token.key.ns).await?;
        let rules = types.rules(app.rules());
        let report = Report::read(verb, content_type, &bytes, &rules)
            .ok_or_else(|| Refusal::new(Code::RouteUnknown, "an attempt takes no report of this name"))??;
        match &report {
            Report::Spawn { tasks, .. } => app.ensure_queues(token.key.ns, tasks.iter().map(|draft| &draft.spec)).await?,
            Report::Replace { replacement } => app.ensure_queues(token.key.ns, std::iter::once(&replacement.spec)).await?,
            _ => {}
        }
        let mark = report::mark(verb, content_type, &bytes);
        let standing = app.report(&token, &report, mark).await?;
        if let Report::Heartbeat { memory_rss: Some(memory), .. } = report {
            app.heard_of_memory(&token, memory).await?;
        }
        Ok(view::json(StatusCode::OK, &standing))
    }
}

/// Report that the worker is alive
///
/// Renews the lease of an accepted attempt.
#[utoipa::path(
    post, path = "/v1/attempts/{token}/heartbeat", operation_id = "reportHeartbeat", tag = "attempts",
    params(("token" = String, Path, description = "From `Lovage-Attempt-Url`")),
    request_body(content = Option<schema::Heartbeat>),
    responses((status = 200, description = "How the attempt stands", body = schema::Standing))
)]
async fn heartbeat(report: Incoming) -> Result<Response, Refusal> {
    report.take("heartbeat").await
}

/// Report progress
///
/// JSON of up to 16 KiB and 100 levels that every reader can read; the last value is shown in the record until the attempt is
/// over. It does not renew the lease.
#[utoipa::path(
    post, path = "/v1/attempts/{token}/progress", operation_id = "reportProgress", tag = "attempts",
    params(("token" = String, Path, description = "From `Lovage-Attempt-Url`")),
    request_body(content = serde_json::Value),
    responses((status = 200, description = "How the attempt stands", body = schema::Standing))
)]
async fn progress(report: Incoming) -> Result<Response, Refusal> {
    report.take("progress").await
}

/// Report success
///
/// The body is the result, of any content type; an empty one is null.
#[utoipa::path(
    post, path = "/v1/attempts/{token}/complete", operation_id = "reportComplete", tag = "attempts",
    params(("token" = String, Path, description = "From `Lovage-Attempt-Url`")),
    request_body(content((serde_json::Value = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses(
        (status = 200, description = "Taken", body = schema::Standing),
        (status = 409, description = "It has ended with another report", body = schema::Problem, content_type = "application/problem+json"),
        (status = 410, description = "It is over", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
async fn complete(report: Incoming) -> Result<Response, Refusal> {
    report.take("complete").await
}

/// Report failure
///
/// For good, unless `retry` lets the retry policy decide.
#[utoipa::path(
    post, path = "/v1/attempts/{token}/fail", operation_id = "reportFail", tag = "attempts",
    params(("token" = String, Path, description = "From `Lovage-Attempt-Url`")),
    request_body(content = Option<schema::Fail>),
    responses(
        (status = 200, description = "Taken", body = schema::Standing),
        (status = 409, description = "It has ended with another report", body = schema::Problem, content_type = "application/problem+json"),
        (status = 410, description = "It is over", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
async fn fail(report: Incoming) -> Result<Response, Refusal> {
    report.take("fail").await
}

/// Put the task off
///
/// The attempt ends without a charge, and the next one starts so much later.
#[utoipa::path(
    post, path = "/v1/attempts/{token}/snooze", operation_id = "reportSnooze", tag = "attempts",
    params(("token" = String, Path, description = "From `Lovage-Attempt-Url`")),
    request_body = schema::Snooze,
    responses(
        (status = 200, description = "Taken", body = schema::Standing),
        (status = 409, description = "It has ended with another report", body = schema::Problem, content_type = "application/problem+json"),
        (status = 410, description = "It is over", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
async fn snooze(report: Incoming) -> Result<Response, Refusal> {
    report.take("snooze").await
}

/// Start other tasks
///
/// With `then: "wait"` the attempt ends, and the task is called again when all of them are final; with `"detach"` the attempt
/// goes on.
#[utoipa::path(
    post, path = "/v1/attempts/{token}/spawn", operation_id = "reportSpawn", tag = "attempts",
    params(("token" = String, Path, description = "From `Lovage-Attempt-Url`")),
    request_body = schema::Spawn,
    responses(
        (status = 200, description = "Stored, each task once", body = schema::Standing),
        (status = 409, description = "It has ended with another report", body = schema::Problem, content_type = "application/problem+json"),
        (status = 410, description = "It is over", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
async fn spawn(report: Incoming) -> Result<Response, Refusal> {
    report.take("spawn").await
}

/// Replace the task
///
/// Another signature takes the place of this one, under the same id, and starts anew.
#[utoipa::path(
    post, path = "/v1/attempts/{token}/replace", operation_id = "reportReplace", tag = "attempts",
    params(("token" = String, Path, description = "From `Lovage-Attempt-Url`")),
    request_body = schema::Replace,
    responses(
        (status = 200, description = "Taken", body = schema::Standing),
        (status = 409, description = "It has ended with another report", body = schema::Problem, content_type = "application/problem+json"),
        (status = 410, description = "It is over", body = schema::Problem, content_type = "application/problem+json"),
    )
)]
async fn replace(report: Incoming) -> Result<Response, Refusal> {
    report.take("replace").await
}

/// Add lines to the record of the attempt
///
/// The first 8 KiB of an attempt are kept; what comes later is dropped without a word.
#[utoipa::path(
    post, path = "/v1/attempts/{token}/logs", operation_id = "reportLogs", tag = "attempts",
    params(("token" = String, Path, description = "From `Lovage-Attempt-Url`")),
    request_body = schema::Logs,
    responses((status = 200, description = "How the attempt stands", body = schema::Standing))
)]
async fn logs(report: Incoming) -> Result<Response, Refusal> {
    report.take("logs").await
}
