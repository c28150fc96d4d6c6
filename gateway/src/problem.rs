//! How a refusal becomes an answer.
//!
//! A handler returns a [`Refusal`]; it travels as an extension of an empty response to the edge, the one place that knows
//! the request's id and writes the body. So every error has the same form, whoever raised it.

use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use lovage_core::problem::{Code, Problem};

/// A refused request on its way out.
#[derive(Debug)]
pub(crate) struct Refusal(pub Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<lovage_store::Error> for Refusal {
    fn from(error: lovage_store::Error) -> Self {
        Self(store_problem(&error))
    }
}

impl Refusal {
    /// A refusal with nothing but a sentence.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Problem::new(code, detail))
    }

    /// `task_unknown`.
    pub(crate) fn no_task(id: &str) -> Self {
        Self::unknown(Code::TaskUnknown, "task", id)
    }

    /// There is no `what` of this name.
    pub(crate) fn unknown(code: Code, what: &str, name: &str) -> Self {
        let name: String = name.chars().take(128).collect();
        Self::new(code, format!("there is no {what} `{name}`"))
    }
}

/// What a failure of the store means to a client. The cause is logged and never sent.
pub(crate) fn store_problem(error: &lovage_store::Error) -> Problem {
    use lovage_store::Error;
    error.log("carry out a request");
    match error {
        Error::Full(_) => Problem::new(Code::StoreFull, "there is no room for new tasks; nothing was stored"),
        Error::Unknown(_) => Problem::new(
            Code::StoreUnavailable,
            "it is not known whether the change was stored; try again with the same id or idempotency key",
        ),
        Error::Unavailable(_) | Error::Fenced | Error::Locked(_) => {
            Problem::new(Code::StoreUnavailable, "the store cannot be reached; nothing was changed")
        }
        Error::Corrupt(_) | Error::Format { .. } | Error::Invalid(_) => {
            Problem::new(Code::Fault, "the request could not be carried out; the server's log has the cause")
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = status(self.0.code).into_response();
        response.extensions_mut().insert(self.0);
        response
    }
}

pub(crate) fn status(code: Code) -> StatusCode {
    // The catalogue holds only statuses between 400 and 599.
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// The problem as the whole answer. Headers that are already set, such as `Allow`, stay.
pub(crate) fn render(problem: &Problem, request_id: &str, response: Response) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.status = status(problem.code);
    parts.headers.remove(http::header::CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = problem.retry_after_secs() {
        parts.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if matches!(problem.code, Code::PayloadTooLarge | Code::Draining) {
        // The rest of the body is not read, or the server ends, and this connection with it: a client that is not told would
        // use it again.
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if problem.code == Code::Unauthenticated {
        parts.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"lovage\""));
    }
    Response::from_parts(parts, problem.to_json(request_id).into())
}
