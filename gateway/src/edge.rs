//! What every request passes on its way in and out: its id, who calls, limits, panics, the form of problems, metrics.
//!
//! One function instead of a stack of layers: the order is visible, and a request pays for one boxed future.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{ACCEPT_ENCODING, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use lovage_core::problem::{Code, Problem};
use metrics::{counter, gauge, histogram};

use crate::app::{App, Shared};
use crate::auth::Caller;
use crate::deflate::Wanted;
use crate::inflate;
use crate::problem::{Refusal, render};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id under which a request is found in logs and answers.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub Arc<str>);

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self("-".into())))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    // The finished answer, because `Caller` is public and refusals are not.
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        // Put there by the edge below; without it nobody was admitted.
        parts.extensions.get::<Self>().copied().ok_or_else(|| Refusal::new(Code::Unauthenticated, "send a key").into_response())
    }
}

/// Counts requests that are being answered, also when their future is dropped.
struct InFlight;

impl InFlight {
    fn enter() -> Self {
        gauge!("lovage_http_in_flight").increment(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!("lovage_http_in_flight").decrement(1.0);
    }
}

/// The edge itself; wraps every route and the fallbacks.
pub(crate) async fn edge(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _in_flight = InFlight::enter();
    let id = request_id(request.headers(), &app);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = method_label(request.method());
    let wanted = Wanted::of(request.method(), request.headers());
    let odd_coding = inflate::is_unknown(request.headers());

    let mut response = answer(&app, &id, request, next).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = render(&problem, &id.0, response);
    }
    if odd_coding && response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, br, zstd, deflate"));
    }
    response = wanted.apply(response).await;
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }

    let route = route.map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let status = response.status().as_u16().to_string();
    counter!("lovage_http_requests_total", "route" => route.clone(), "method" => method, "status" => status).increment(1);
    histogram!("lovage_http_request_duration_seconds", "route" => route, "method" => method).record(started.elapsed());
    response
}

async fn answer(app: &App, id: &RequestId, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let admitted = check_draining(&parts, app)
        .and_then(|()| check_host(&parts))
        .and_then(|()| check_headers(&parts.headers, app))
        .and_then(|()| app.options.auth.admit(&parts));
    let caller = match admitted {
        Ok(caller) => caller,
        Err(problem) => return Refusal(problem).into_response(),
    };
    // A stop waits for it. Those that are refused come without end.
    let _open = app.open.token();
    parts.extensions.insert(caller);
    parts.extensions.insert(id.clone());
    let run = AssertUnwindSafe(next.run(Request::from_parts(parts, body))).catch_unwind();
    match tokio::time::timeout(app.options.times.request, run).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!(request_id = %id.0, "a handler panicked");
            counter!("lovage_http_panics_total").increment(1);
            Refusal::new(Code::Fault, "the request could not be carried out; the server's log has the cause").into_response()
        }
        Err(_) => {
            tracing::warn!(request_id = %id.0, "a request ran into its time limit");
            Refusal::new(Code::StoreUnavailable, "no answer within the time limit of a request").into_response()
        }
    }
}

/// While the server shuts down it takes nothing new. That the process lives, and what it counts, is told to the end.
fn check_draining(parts: &Parts, app: &App) -> Result<(), Problem> {
    let told = matches!(parts.uri.path(), "/healthz" | "/metrics");
    if app.draining.is_cancelled() && !told {
        return Err(Problem::new(Code::Draining, "the server is shutting down"));
    }
    Ok(())
}

/// HTTP/1.1 wants one host (RFC 9112, section 3.2): a proxy and a server that guess differently are a way around the proxy.
fn check_host(parts: &Parts) -> Result<(), Problem> {
    let given = parts.headers.get_all(HOST).iter().count();
    if given > 1 || (given == 0 && parts.version == Version::HTTP_11) {
        return Err(Problem::new(Code::Malformed, "a request names its host in one Host header"));
    }
    Ok(())
}

fn check_headers(headers: &HeaderMap, app: &App) -> Result<(), Problem> {
    let limits = &app.options.limits;
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() > limits.headers || bytes > limits.header_bytes {
        counter!("lovage_http_bodies_refused_total", "reason" => "headers").increment(1);
        let detail = format!("a request may have at most {} headers and {} bytes of them", limits.headers, limits.header_bytes);
        return Err(Problem::new(Code::PayloadTooLarge, detail));
    }
    Ok(())
}

/// The caller's own id if it is a harmless one, else a new one.
fn request_id(headers: &HeaderMap, app: &App) -> RequestId {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let harmless = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
    };
    match given.filter(harmless) {
        Some(text) => RequestId(text.into()),
        None => RequestId(format!("{:016x}", app.random()).into()),
    }
}

/// Metrics have no label that a client can invent.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Any path that is no route.
pub(crate) async fn no_route(request: Request) -> Refusal {
    let path = request.uri().path();
    if path.starts_with("/v1/attempts/") {
        // The path is a secret.
        let verbs = "heartbeat, progress, complete, fail, snooze, spawn, replace and logs";
        return Refusal::new(Code::RouteUnknown, format!("the URL of an attempt ends with a verb: {verbs}"));
    }
    let shown: String = path.chars().take(200).collect();
    Refusal::new(Code::RouteUnknown, format!("there is no route `{shown}`"))
}

/// Any path but those of health and metrics, in a process that serves no API.
pub(crate) async fn no_route_here() -> Refusal {
    Refusal::new(Code::RouteUnknown, "this process delivers tasks and takes no requests: ask a gateway")
}

/// A route that has no such method.
pub(crate) async fn no_method(request: Request) -> Refusal {
    let shown: String = request.method().as_str().chars().take(32).collect();
    Refusal::new(Code::MethodNotAllowed, format!("this route has no method {shown}"))
}
