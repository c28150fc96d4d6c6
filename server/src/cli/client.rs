//! Requests and what their answers mean to a command.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use lovage_core::TaskId;
use lovage_core::id::BadId;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ClientArgs, Failure, show};
use crate::style::Style;

/// What is said of refusals that pass.
pub(super) const LATER: &str = "try again later";

/// Items of one page of a list.
const PAGE: usize = 200;
/// The longest `?wait=` that a server keeps.
const ONE_WAIT: Duration = Duration::from_secs(60);
/// Time for an answer beyond what was waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b':');

/// A client of one server.
pub(crate) struct Client {
    http: reqwest::Client,
    args: ClientArgs,
    pub style: Style,
}

/// An answer that is no refusal.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON. A field that JSON allows and this program cannot hold (a payload or result with `1e400`, half of a
    /// surrogate pair, or nested very deep) is left out.
    pub fn json(&self) -> Result<Value, Failure> {
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(&self.body)
            .map_err(|_| Failure::Refused("the answer is not from a Lovage server; check --url".to_owned()))?;
        Ok(fields.into_iter().filter_map(|(name, raw)| Some((name, serde_json::from_str::<Value>(raw.get()).ok()?))).collect())
    }
}

/// Takes what can be the id of a task.
pub(crate) fn task_id(text: &str) -> Result<String, BadId> {
    TaskId::parse(text).map(|id| id.to_string())
}

/// The path of a task.
pub(crate) fn task_path(id: &str) -> String {
    format!("/v1/tasks/{}", encoded(id))
}

/// A part of a path or a query.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, &PLAIN).to_string()
}

/// A wait as the server takes it.
pub(crate) fn wait_query(left: Duration) -> String {
    format!("?wait={}ms", left.min(ONE_WAIT).as_millis())
}

impl Client {
    pub fn new(args: ClientArgs) -> Result<Self, Failure> {
        if !args.url.starts_with("http://") && !args.url.starts_with("https://") {
            return Err(Failure::Usage(format!("--url {}: it must begin with http:// or https://", args.url)));
        }
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .timeout(ONE_WAIT + PATIENCE)
            .build()
            .map_err(|error| Failure::Usage(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { http, args, style: Style::stdout() })
    }

    /// Whether the caller wants the server's JSON.
    pub fn wants_json(&self) -> bool {
        self.args.json
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.args.url.trim_end_matches('/')));
        match &self.args.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a request. Every status from 400 on is a refusal; with `--json` its body is printed.
    pub async fn send(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        let answer = self.send_any(request).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(&answer)) }
    }

    /// Sends a request and takes any answer.
    pub async fn send_any(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        let away = |error: reqwest::Error| self.unreachable(&error);
        let response = request.send().await.map_err(away)?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await.map_err(away)? })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if error.is_builder() {
            return Failure::Usage(format!("cannot call {}: {}", self.args.url, causes(error)));
        }
        Failure::Unreachable(format!(
            "cannot reach {} ({}); is the server running (`lovage dev`), and is --url or LOVAGE_URL right?",
            self.args.url,
            causes(error)
        ))
    }

    /// What the server's problem means to a person.
    pub fn refusal(&self, answer: &Answer) -> Failure {
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if self.wants_json() {
            show::json(answer);
        }
        let is_problem =
            answer.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/problem+json"));
        if !is_problem {
            return Failure::Refused(format!("HTTP {}; the answer is not from a Lovage server, check --url", answer.status));
        }
        let text = |name: &str| problem[name].as_str().unwrap_or_default();
        let mut said = format!("{} ({})", if text("detail").is_empty() { text("title") } else { text("detail") }, text("code"));
        for error in problem["errors"].as_array().into_iter().flatten() {
            let (pointer, message) =
                (error["pointer"].as_str().unwrap_or_default(), error["message"].as_str().unwrap_or_default());
            said.extend(["\n  ", pointer, ": ", message]);
        }
        match text("code") {
            "unauthenticated" => said.push_str("\ngive a key with --key or LOVAGE_KEY"),
            "overloaded" | "store_unavailable" | "store_full" | "draining" | "queue_full" | "queue_paused" => {
                said.extend(["\n", LATER]);
            }
            _ => {}
        }
        Failure::Refused(said)
    }

    /// The items of a list, at most `most`, and the cursor after them if there are more.
    pub async fn pages(&self, path: &str, most: usize) -> Result<(Vec<Value>, Option<String>), Failure> {
        let (mut items, mut cursor): (Vec<Value>, Option<String>) = (Vec::new(), None);
        while items.len() < most {
            let mark = if path.contains('?') { '&' } else { '?' };
            let mut page = format!("{path}{mark}limit={}", (most - items.len()).min(PAGE));
            if let Some(cursor) = &cursor {
                page.extend(["&cursor=", &encoded(cursor)]);
            }
            let mut page = self.send(self.request(Method::GET, &page)).await?.json()?;
            items.extend(page["items"].as_array_mut().map(std::mem::take).unwrap_or_default());
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Ok((items, cursor))
    }

    /// Asks for the task until it is final or `timeout` is over. The last record either way, and whether it is final.
    pub async fn wait_final(&self, id: &str, timeout: Option<Duration>) -> Result<(Answer, bool), Failure> {
        let started = Instant::now();
        loop {
            let left = timeout.map_or(ONE_WAIT, |timeout| timeout.saturating_sub(started.elapsed()));
            let path = format!("{}{}", task_path(id), wait_query(left));
            let answer = self.send(self.request(Method::GET, &path)).await?;
            let is_final = is_final(&answer.json()?);
            if is_final || timeout.is_some_and(|timeout| started.elapsed() >= timeout) {
                return Ok((answer, is_final));
            }
        }
    }
}

/// Whether this is the record of a task that nothing will happen to any more.
pub(crate) fn is_final(record: &Value) -> bool {
    matches!(record["state"].as_str(), Some("succeeded" | "failed" | "canceled" | "expired"))
}

/// The innermost cause says most: `connection refused` rather than `error sending request`.
fn causes(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
