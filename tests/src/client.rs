//! The public API as a test speaks it: one method per thing a test says often, and `request` for the rest.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use lovage_testkit::eventually;

use crate::clock::now_ns;

/// How long [`Client::wait_final`] waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tasks that [`Client::wait_all_final`] asks for at once.
const AT_ONCE: usize = 32;

/// States that a task leaves only by a manual retry.
const FINAL: [&str; 4] = ["succeeded", "failed", "canceled", "expired"];

/// A client of one server. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<String>,
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// All headers.
    pub headers: http::HeaderMap,
    /// The body, as received.
    pub body: Bytes,
    /// The body as JSON; `null` when it is none.
    pub json: Value,
    /// When the last byte had been read; see [`crate::clock`]. What the answer says must be durable at this instant.
    pub received_ns: u64,
}

impl Client {
    /// A client of the server at `url`, with a bearer key if the server wants one.
    pub fn new(url: &str, key: Option<String>) -> Self {
        Self { http: http_client(), url: url.trim_end_matches('/').to_owned(), key }
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same client with another key, or none.
    #[must_use]
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// A request to refine and then [`Client::send`]. The credential is already on it.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a request and reads the whole answer. An error means that no complete answer came.
    pub async fn try_send(&self, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.bytes().await?;
        let received_ns = now_ns();
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Answer { status, headers, body, json, received_ns })
    }

    /// Like [`Client::try_send`]; panics when no answer came.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request).await.unwrap_or_else(|error| panic!("no answer from {}: {error:?}", self.url))
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// `PUT path` with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// `PATCH path` with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// `DELETE path`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// `POST /v1/tasks`.
    pub async fn post_task(&self, signature: &Value) -> Answer {
        self.post("/v1/tasks", signature).await
    }

    /// `POST /v1/tasks` against a server that may be dying.
    pub async fn try_post_task(&self, signature: &Value) -> Result<Answer, reqwest::Error> {
        self.try_send(self.request(Method::POST, "/v1/tasks").json(signature)).await
    }

    /// Submits a task that must be accepted and returns its id.
    pub async fn submit(&self, signature: &Value) -> String {
        let answer = self.post_task(signature).await;
        assert!(matches!(answer.status, 200 | 202), "the task was not accepted: {answer:?}");
        answer.id()
    }

    /// `POST /v1/tasks:batch` with a JSON array.
    pub async fn submit_batch(&self, signatures: &[Value]) -> Answer {
        self.post("/v1/tasks:batch", &json!(signatures)).await
    }

    /// `POST /v1/tasks:batch` against a server that may be dying.
    pub async fn try_submit_batch(&self, signatures: &[Value]) -> Result<Answer, reqwest::Error> {
        self.try_send(self.request(Method::POST, "/v1/tasks:batch").json(signatures)).await
    }

    /// `POST /v1/tasks:batch` with NDJSON, a line per signature. The answer's lines are in [`Answer::items`].
    pub async fn submit_ndjson(&self, signatures: &[Value]) -> Answer {
        let lines: Vec<String> = signatures.iter().map(|signature| format!("{signature}\n")).collect();
        self.send_ndjson(lines.concat()).await
    }

    /// The same with lines written by the test, well-formed or not.
    pub async fn send_ndjson(&self, body: String) -> Answer {
        let request = self.request(Method::POST, "/v1/tasks:batch").header("content-type", "application/x-ndjson");
        self.send(request.body(body)).await
    }

    /// `GET /v1/tasks/{id}`: the record; panics if there is none.
    pub async fn task(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/tasks/{id}")).await;
        assert_eq!(answer.status, 200, "no record of task {id}: {answer:?}");
        answer.json
    }

    /// Waits until a task is final and returns its record; panics after 60 s. A server that is down meanwhile is waited for.
    pub async fn wait_final(&self, id: &str) -> Value {
        self.wait_final_for(id, PATIENCE).await
    }

    /// Like [`Client::wait_final`] with a time-out of the caller's.
    pub async fn wait_final_for(&self, id: &str, timeout: Duration) -> Value {
        let start = Instant::now();
        let path = format!("/v1/tasks/{id}?wait=5s");
        loop {
            let answer = self.try_send(self.request(Method::GET, &path)).await;
            let seen = match answer {
                Ok(answer) if answer.status == 200 && answer.is_final() => return answer.json,
                Ok(answer) if answer.status == 404 => panic!("task {id} is unknown to {}: {answer:?}", self.url),
                Ok(answer) => format!("{} {}", answer.status, answer.json),
                Err(error) => format!("{error:?}"),
            };
            assert!(start.elapsed() < timeout, "task {id} was not final after {timeout:?}: {seen}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all tasks are final and returns their records by id; panics when one is not final after `timeout`.
    pub async fn wait_all_final(&self, ids: &[String], timeout: Duration) -> HashMap<String, Value> {
        let start = Instant::now();
        let unique: HashSet<&String> = ids.iter().collect();
        let records = stream::iter(unique).map(|id| async move {
            let left = timeout.saturating_sub(start.elapsed()).max(Duration::from_secs(1));
            (id.clone(), self.wait_final_for(id, left).await)
        });
        records.buffer_unordered(AT_ONCE).collect().await
    }

    /// Every item of a collection, page by page. `path` may carry filters but no cursor.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut next = path.to_owned();
        loop {
            let answer = self.get(&next).await;
            assert_eq!(answer.status, 200, "cannot list {next}: {answer:?}");
            items.extend(answer.items());
            let Some(cursor) = answer.json["next_cursor"].as_str() else { return items };
            let joint = if path.contains('?') { '&' } else { '?' };
            let encoded: Vec<String> = cursor.bytes().map(|byte| format!("%{byte:02X}")).collect();
            next = format!("{path}{joint}cursor={}", encoded.concat());
        }
    }

    /// `PUT /v1/workers/{name}`: registers a worker that serves these task patterns. Returns the answer's body, which shows
    /// the signing secret once.
    pub async fn register_worker(&self, name: &str, url: &str, tasks: &[&str]) -> Value {
        self.register_worker_with(name, &json!({"url": url, "tasks": tasks})).await
    }

    /// Registers a worker with further settings.
    pub async fn register_worker_with(&self, name: &str, settings: &Value) -> Value {
        let answer = self.put(&format!("/v1/workers/{name}"), settings).await;
        assert!(matches!(answer.status, 200 | 201), "worker {name} was not accepted: {answer:?}");
        answer.json
    }
}

/// Changes documents by a limit that nobody names, and takes it away again.
const PROBE: [(Method, &str); 4] = [(Method::PUT, "one"), (Method::DELETE, "one"), (Method::PUT, "two"), (Method::DELETE, "two")];
/// How long [`Client::until_known_to`] waits for a dispatcher to read its documents.
const READ_LIMIT: Duration = Duration::from_secs(30);

impl Client {
    /// Waits until these dispatchers go by the documents as they are now: by contract that may take a second.
    ///
    /// They count how often they have read them, and read them one time after another, but only after a change. So something else
    /// is changed until they have read them often enough: the first read may have begun before this call, the second begins in
    /// it, and who is told by the second has heard of it when the fourth is over.
    pub async fn until_known_to(&self, dispatchers: impl IntoIterator<Item = &Client>) {
        let dispatchers: Vec<&Self> = dispatchers.into_iter().collect();
        for (method, name) in PROBE {
            let before = join_all(dispatchers.iter().map(|dispatcher| dispatcher.reads())).await;
            let probe = self.request(method, &format!("/v1/limits/harness:{name}"));
            let changed = self.send(probe.json(&json!({"rate": "1/s"}))).await;
            assert!(matches!(changed.status, 201 | 204), "documents cannot be changed: {changed:?}");
            for (dispatcher, before) in dispatchers.iter().zip(before) {
                let read = async || (dispatcher.reads().await > before).then_some(());
                eventually(&format!("{} to read the documents", dispatcher.url), READ_LIMIT, read).await;
            }
        }
    }

    /// How often a dispatcher has read the documents.
    async fn reads(&self) -> u64 {
        let metrics = self.get("/metrics").await;
        let text = String::from_utf8_lossy(&metrics.body);
        let count = text.lines().find_map(|line| line.strip_prefix("lovage_registry_load_seconds_count "));
        count.map_or(0, |count| count.parse().unwrap_or_else(|error| panic!("{error}: {count}")))
    }
}

impl Answer {
    /// The `id` of a single answer; panics if there is none.
    pub fn id(&self) -> String {
        self.json["id"].as_str().unwrap_or_else(|| panic!("no id in {self:?}")).to_owned()
    }

    /// The `code` of a problem; empty if there is none.
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// The pointers of all field errors of a problem.
    pub fn pointers(&self) -> Vec<&str> {
        let errors = self.json["errors"].as_array().map_or(&[][..], Vec::as_slice);
        errors.iter().filter_map(|error| error["pointer"].as_str()).collect()
    }

    /// `items` of a batch or a page, or the lines of an NDJSON answer.
    pub fn items(&self) -> Vec<Value> {
        if let Some(items) = self.json["items"].as_array() {
            return items.clone();
        }
        let text = std::str::from_utf8(&self.body).expect("answers are text");
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in line {line:?}"))).collect()
    }

    /// The ids of all accepted items.
    pub fn ids(&self) -> Vec<String> {
        self.items().iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect()
    }

    /// A header as text; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers of answers are text"))
    }

    /// Whether the body is the record of a task in a final state.
    pub fn is_final(&self) -> bool {
        self.json["state"].as_str().is_some_and(|state| FINAL.contains(&state))
    }
}

/// One per [`Client`]: connections belong to the runtime that opened them, and every test has a runtime of its own.
fn http_client() -> reqwest::Client {
    // A second installation in this process fails and changes nothing.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(90))
        .build()
        .expect("the HTTP client can be built")
}
