//! The built-in worker of `lovage dev`: five functions to try the queue with, before there is a worker of one's own.
//!
//! It is a worker like any other: an HTTP server on a loopback port, called through the dispatcher. It keeps no state;
//! what it must know about earlier attempts is in the headers.
//!
//! | function | result |
//! |---|---|
//! | `demo.echo(value)` | `value`; several arguments come back as `{args, kwargs}`, a payload as it is |
//! | `demo.add(a, b, …)` | the sum |
//! | `demo.sleep(seconds)` | `{"slept": seconds}`, then |
//! | `demo.fail(message)` | fails for good |
//! | `demo.flaky(failures)` | fails that often, then `{"attempts": n}` |

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use lovage_core::worker::{InstanceConfig, SigningSecret, WorkerConfig};
use lovage_core::{Millis, Ns};
use lovage_store::{DocGuard, DocKind, DocOutcome, DocPut, Store};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

const NAME: &str = "demo";
/// How long a registration is good for.
const TTL: Duration = Duration::from_secs(30);
/// How long the end of the process waits for the store to forget it.
const LEAVE: Duration = Duration::from_secs(2);
/// `demo.sleep` sleeps no longer than a day.
const LONGEST: f64 = 86_400.0;

/// The worker of this process, registered as an instance so that several servers on one store do not take it from each
/// other.
pub(crate) struct Demo {
    store: Arc<dyn Store>,
    /// Of the instance's document.
    name: String,
    _renewal: AbortOnDropHandle<()>,
}

impl Demo {
    /// Starts the worker and registers it under its new port as `instance`, which replaces the one of an earlier life.
    pub async fn start(store: Arc<dyn Store>, instance: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/{{task}}", listener.local_addr()?);
        let app = Router::new().fallback(answer);
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the demo worker ended");
            }
        });
        define(&*store).await?;
        let name = format!("{NAME}/{instance}");
        register(&*store, &name, &url).await?;
        let renewal = renew(Arc::clone(&store), name.clone(), url);
        Ok(Self { store, name, _renewal: AbortOnDropHandle::new(tokio::spawn(renewal)) })
    }

    /// Takes the registration back. If that fails it runs out.
    pub async fn stop(self) {
        let put = DocPut { kind: DocKind::Instance, ns: Ns::DEFAULT, name: self.name, guard: DocGuard::Any, bytes: None };
        if let Ok(Err(error)) = tokio::time::timeout(LEAVE, self.store.put_docs(vec![put])).await {
            error.log("take the demo worker back");
        }
    }
}

/// Makes the worker's document, unless it is there as it should be.
async fn define(store: &dyn Store) -> anyhow::Result<()> {
    loop {
        let stored = store.doc(DocKind::Worker, Ns::DEFAULT, NAME).await?;
        let guard = stored.as_ref().map_or(DocGuard::Absent, |doc| DocGuard::Version(doc.version));
        let before: Option<WorkerConfig> = stored.and_then(|doc| serde_json::from_slice(doc.bytes.as_deref()?).ok());
        let signing = match &before {
            Some(config) => config.signing.clone(),
            None => vec![SigningSecret { secret: secret()?, until: None }],
        };
        let config = WorkerConfig { tasks: vec!["demo.*".to_owned()], signing, ..WorkerConfig::default() };
        if before.as_ref() == Some(&config) {
            return Ok(());
        }
        let bytes = Some(Bytes::from(serde_json::to_vec(&config)?));
        let put = DocPut { kind: DocKind::Worker, ns: Ns::DEFAULT, name: NAME.to_owned(), guard, bytes };
        // Refused: another server starts at this moment; look at what it made.
        if store.put_docs(vec![put]).await?.iter().all(|outcome| matches!(outcome, DocOutcome::Ok { .. })) {
            return Ok(());
        }
    }
}

async fn register(store: &dyn Store, name: &str, url: &str) -> anyhow::Result<()> {
    let until = store.clock().now().after(TTL);
    let config = InstanceConfig { url: url.to_owned(), until, since: Millis(0), capacity: None, version: None };
    let bytes = Some(Bytes::from(serde_json::to_vec(&config)?));
    let put = DocPut { kind: DocKind::Instance, ns: Ns::DEFAULT, name: name.to_owned(), guard: DocGuard::Any, bytes };
    store.put_docs(vec![put]).await?;
    Ok(())
}

async fn renew(store: Arc<dyn Store>, name: String, url: String) {
    loop {
        tokio::time::sleep(TTL / 3).await;
        if let Err(error) = register(&*store, &name, &url).await {
            tracing::debug!(%error, "cannot renew the demo worker");
        }
    }
}

fn secret() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("no random numbers for a signing secret")?;
    Ok(format!("whsec_{}", STANDARD.encode(bytes)))
}

async fn answer(headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let task = header("lovage-task").unwrap_or_default();
    if task == "demo.echo" {
        return echo(&headers, &body);
    }
    let attempt = header("lovage-attempt").and_then(|text| text.parse().ok()).unwrap_or(1);
    match call(task, &Arguments::read(&body), attempt).await {
        Ok(value) => axum::Json(value).into_response(),
        Err((status, kind, message)) => (status, axum::Json(json!({ "type": kind, "message": message }))).into_response(),
    }
}

type Failure = (StatusCode, &'static str, String);

async fn call(task: &str, arguments: &Arguments, attempt: u64) -> Result<Value, Failure> {
    let refuse = |message: &str| (StatusCode::UNPROCESSABLE_ENTITY, "ArgumentError", message.to_owned());
    match task {
        "demo.add" => arguments.sum().ok_or_else(|| refuse("demo.add takes numbers")),
        "demo.sleep" => {
            let seconds = arguments.get(0, "seconds").map_or(Some(1.0), Value::as_f64);
            let seconds =
                seconds.filter(|s| (0.0..=LONGEST).contains(s)).ok_or_else(|| refuse("demo.sleep takes seconds, up to a day"))?;
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            Ok(json!({ "slept": seconds }))
        }
        "demo.fail" => {
            let message = arguments.get(0, "message").and_then(Value::as_str).unwrap_or("failed as asked");
            Err((StatusCode::BAD_REQUEST, "DemoFailure", message.to_owned()))
        }
        "demo.flaky" => {
            let failures = arguments.get(0, "failures").map_or(Some(1), Value::as_u64);
            let failures = failures.ok_or_else(|| refuse("demo.flaky takes the number of failures"))?;
            if attempt > failures {
                return Ok(json!({ "attempts": attempt }));
            }
            Err((StatusCode::INTERNAL_SERVER_ERROR, "DemoFlaky", format!("attempt {attempt} of {failures} that fail")))
        }
        other => Err((StatusCode::UNPROCESSABLE_ENTITY, "UnknownTask", format!("the demo worker has no `{other}`"))),
    }
}

fn echo(headers: &HeaderMap, body: &Bytes) -> Response {
    let arguments = Arguments::read(body);
    if arguments.is_call {
        let one = arguments.args.len() == 1 && arguments.kwargs.is_empty();
        let value = if one { arguments.args[0].clone() } else { json!({ "args": arguments.args, "kwargs": arguments.kwargs }) };
        return axum::Json(value).into_response();
    }
    let mut response = body.clone().into_response();
    match headers.get(CONTENT_TYPE) {
        Some(kind) => drop(response.headers_mut().insert(CONTENT_TYPE, kind.clone())),
        None => drop(response.headers_mut().remove(CONTENT_TYPE)),
    }
    response
}

/// What a function was called with: a call's own arguments, or those that a payload spells out.
#[derive(Debug, Default)]
struct Arguments {
    is_call: bool,
    args: Vec<Value>,
    kwargs: Map<String, Value>,
}

impl Arguments {
    fn read(body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(Value::Object(mut call)) if ["task", "id", "args", "kwargs"].iter().all(|name| call.contains_key(*name)) => {
                let (args, kwargs) = (call.remove("args"), call.remove("kwargs"));
                let args = args.and_then(|args| args.as_array().cloned()).unwrap_or_default();
                let kwargs = kwargs.and_then(|kwargs| kwargs.as_object().cloned()).unwrap_or_default();
                Self { is_call: true, args, kwargs }
            }
            Ok(Value::Object(kwargs)) => Self { kwargs, ..Self::default() },
            Ok(Value::Array(args)) => Self { args, ..Self::default() },
            Ok(Value::Null) | Err(_) => Self::default(),
            Ok(single) => Self { args: vec![single], ..Self::default() },
        }
    }

    fn get(&self, place: usize, name: &str) -> Option<&Value> {
        self.args.get(place).or_else(|| self.kwargs.get(name))
    }

    /// The sum of all arguments, exact as long as they are whole numbers.
    fn sum(&self) -> Option<Value> {
        let all = || self.args.iter().chain(self.kwargs.values());
        let whole: Option<i64> = all().try_fold(0i64, |sum, value| sum.checked_add(value.as_i64()?));
        match whole {
            Some(sum) => Some(sum.into()),
            None => all().map(Value::as_f64).sum::<Option<f64>>().map(Value::from),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    async fn run(task: &str, args: Value, attempt: u64) -> Result<Value, Failure> {
        let body = json!({ "task": task, "id": "1", "args": args, "kwargs": {} }).to_string();
        call(task, &Arguments::read(body.as_bytes()), attempt).await
    }

    #[tokio::test]
    async fn the_functions_do_what_they_say() {
        assert_eq!(run("demo.add", json!([2, 3]), 1).await, Ok(json!(5)));
        assert_eq!(run("demo.add", json!([0.5, 3]), 1).await, Ok(json!(3.5)));
        assert_eq!(run("demo.add", json!(["x"]), 1).await.unwrap_err().0, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(run("demo.sleep", json!([0]), 1).await, Ok(json!({"slept": 0.0})));
        assert_eq!(run("demo.sleep", json!([-1]), 1).await.unwrap_err().1, "ArgumentError");
        assert_eq!(run("demo.fail", json!(["no"]), 1).await.unwrap_err().2, "no");
        assert_eq!(run("demo.flaky", json!([2]), 2).await.unwrap_err().0, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(run("demo.flaky", json!([2]), 3).await, Ok(json!({"attempts": 3})));
        assert_eq!(run("demo.other", json!([]), 1).await.unwrap_err().1, "UnknownTask");
    }

    #[test]
    fn payloads_are_arguments_too() {
        assert_eq!(Arguments::read(br#"{"a": 1, "b": 2}"#).sum(), Some(json!(3)));
        assert_eq!(Arguments::read(b"[1, 2, 3]").sum(), Some(json!(6)));
        assert_eq!(Arguments::read(b"not JSON").sum(), Some(json!(0)));
    }
}
