//! `POST /v1/tasks:batch`

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use lovage_core::problem::Problem;

use crate::app::Shared;
use crate::auth::Caller;
use crate::batch::stream;
use crate::edge::RequestId;
use crate::formats::{Bounds, Format};
use crate::intake::trace;
use crate::problem::Refusal;
use crate::query::{self, Query};
use crate::{body, schema, view};

const NDJSON: &str = "application/x-ndjson";
const WHAT: &str = "an array of tasks";

/// Submit many tasks
///
/// An array is answered as a whole; with `application/x-ndjson` each line is a signature and is answered by a line, in
/// order, as soon as it is stored. Items of an `atomic` array have to live in one partition: client-chosen ids may not, and
/// are then refused. Give the items of a stream ids to repeat it safely; arrays also take an `Idempotency-Key`.
#[utoipa::path(
    post, path = "/v1/tasks:batch", operation_id = "createTasks", tag = "tasks",
    params(schema::BatchQuery, schema::IdempotencyHeader),
    request_body(content(
        (Vec<schema::Signature> = "application/json"), (Vec<schema::Signature> = "application/msgpack"),
        (Vec<schema::Signature> = "application/yaml"), (String = "application/x-ndjson")
    )),
    responses((status = 200, description = "What became of each item, in order", content(
        (schema::BatchAnswers = "application/json"), (String = "application/x-ndjson")
    )))
)]
pub(crate) async fn batch(
    State(app): State<Shared>,
    caller: Caller,
    RequestId(request_id): RequestId,
    mut query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let atomic = query.flag("atomic")?.unwrap_or(false);
    query.done()?;
    let media_type = body::media_type(&headers);
    if media_type == NDJSON {
        return lines(app, caller, request_id, atomic, &headers, body);
    }
    let format = Format::parse(&media_type).ok_or_else(|| {
        body::refused("send the tasks as application/json, application/msgpack, application/yaml or application/x-ndjson")
    })?;
    let limits = &app.options.limits;
    let bytes = body::read(body, &headers, WHAT, limits.array_bytes, &app.options.times).await?;
    // The array itself is one level more than a task has.
    let bounds = Bounds { what: WHAT, bytes: limits.array_bytes, depth: limits.json_depth + 1 };
    let bytes = format.json(bytes, bounds).await?;
    let answers = app.insert_array(caller.ns, &headers, &bytes, atomic).await?;
    let mut out = Vec::with_capacity(16 + answers.items.len() * 64);
    out.extend_from_slice(b"{\"items\":[");
    for (n, answer) in answers.items.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        answer.write(&mut out, &request_id);
    }
    out.extend_from_slice(b"]}");
    let mut response = view::json_bytes(StatusCode::OK, out);
    if answers.replayed {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn lines(
    app: Shared,
    caller: Caller,
    request_id: std::sync::Arc<str>,
    atomic: bool,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    if atomic {
        return Err(query::refuse("atomic", "is for arrays: the lines of a stream are stored as they come").into());
    }
    if headers.contains_key("idempotency-key") {
        let message = "a stream takes no Idempotency-Key: give its tasks ids to repeat it safely";
        return Err(Problem::invalid("/idempotency_key", message).into());
    }
    let pieces = body::Pieces::new(&app, headers, body)?;
    let answers = Body::from_stream(stream::answers(app, caller.ns, pieces, trace(headers), request_id));
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(NDJSON))], answers).into_response())
}
