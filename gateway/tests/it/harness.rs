//! A gateway over a memory store that can be made to fail, and a way to play the dispatcher.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use lovage_core::problem::Code;
use lovage_core::{AttemptUrls, Destinations, HeaderRefusal, TokenKey, UrlRefusal};
use lovage_core::{Event, Ns, Outcome, SessionId, Spec, TaskId, TaskKey, decide};
use lovage_gateway::{Auth, Cluster, Gateway, GatewayOptions, Limits, Random, Times};
use lovage_store::wrap::Faulty;
use lovage_store::{Commit, Committed, MemoryClock, MemoryOptions, MemoryStore, Mode, Parts, Store, Sync};
use serde_json::Value;
use tower::ServiceExt;

/// Policy of the tests: http and https; one forbidden address; one forbidden header; one URL that makes it panic.
pub struct Policy;

impl Destinations for Policy {
    fn check_url(&self, url: &str) -> Result<(), UrlRefusal> {
        if url.contains("169.254.169.254") {
            return Err(UrlRefusal::Forbidden("the address is not allowed".into()));
        }
        assert!(!url.contains("panic"), "asked to panic");
        let known = url.starts_with("http://") || url.starts_with("https://");
        if known { Ok(()) } else { Err(UrlRefusal::Invalid("must be an http or https URL".into())) }
    }

    fn check_headers(&self, headers: &[(String, String)]) -> Result<(), HeaderRefusal> {
        match headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host")) {
            Some((name, _)) => Err(HeaderRefusal { name: name.clone(), message: "the header is reserved".into() }),
            None => Ok(()),
        }
    }
}

pub struct Harness {
    pub gateway: Gateway,
    pub store: Arc<MemoryStore>,
    pub faulty: Arc<Faulty>,
    pub clock: MemoryClock,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("not JSON: {:?}", self.bytes))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts that it is this problem, whole and well-formed.
    pub fn is_problem(&self, code: Code) -> Value {
        let json = self.json();
        assert_eq!(json["code"], code.as_str(), "{json}");
        assert_eq!(self.status.as_u16(), code.status(), "{json}");
        assert_eq!(json["status"], code.status());
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(json["request_id"], self.header("x-request-id"));
        assert_eq!(self.headers.contains_key("retry-after"), matches!(code.status(), 429 | 503), "{json}");
        json
    }
}

pub fn options() -> GatewayOptions {
    GatewayOptions {
        auth: Auth::Open { hosts: Vec::new() },
        destinations: Arc::new(Policy),
        limits: Limits::default(),
        times: Times::default(),
        random: Random::seeded(7),
        public_url: None,
        attempt_urls: AttemptUrls::new("http://localhost", TokenKey::new(&[7; 32])),
        standings: None,
        metrics: Some(Arc::new(|| "lovage_up 1\n".to_owned())),
        cluster: Cluster { drain: Arc::default(), lease: Duration::from_secs(15), session: lovage_core::SessionId(0) },
    }
}

impl Harness {
    pub fn new() -> Self {
        Self::with(options(), |_| ())
    }

    pub fn with(options: GatewayOptions, set: impl FnOnce(&mut MemoryOptions)) -> Self {
        let clock = MemoryClock::manual(lovage_core::Millis(1_800_000_000_000));
        let mut memory = MemoryOptions::new(clock.clone());
        set(&mut memory);
        let store = Arc::new(MemoryStore::new(memory));
        let faulty = Arc::new(Faulty::new(store.clone()));
        Self { gateway: Gateway::start(faulty.clone(), options), store, faulty, clock }
    }

    pub async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.gateway.router().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        Reply { status: parts.status, headers: parts.headers, bytes: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.call(Method::POST, path, &[("content-type", "application/json")], body).await
    }

    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        self.call(Method::POST, path, &all, body).await
    }

    /// Submits a task and returns its id.
    pub async fn submit(&self, body: &str) -> String {
        let reply = self.post("/v1/tasks", body.to_owned()).await;
        assert_eq!(reply.status, 202, "{:?}", reply.bytes);
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// Plays the dispatcher: this event happens to the task.
    pub async fn happen(&self, id: &str, event: Event) {
        let key = TaskKey::new(Ns::DEFAULT, TaskId::parse(id).unwrap());
        let p = key.slot().partition(self.store.caps().partitions);
        let stored = self.store.get(p, &key, Parts { body: true, ..Parts::default() }).await.unwrap().unwrap();
        let body = lovage_core::Body::decode(&stored.body.unwrap()).unwrap();
        let spec = Spec::decode(&body.spec).unwrap();
        let change = decide(&key, &stored.head, &spec, event, self.store.clock().now(), 1).unwrap();
        let queue = spec.queue().into();
        let commit = Commit::of(
            &key,
            stored.head,
            change,
            &spec,
            queue,
            None,
            self.store.clock().now(),
            || 7,
            self.store.caps().partitions,
        );
        let done = self.store.commit(p, SessionId(1), vec![commit], Mode::Each, Sync::Durable).await.unwrap();
        assert_eq!(done, [Committed::Ok]);
    }

    /// The store's time as the API writes it.
    pub fn store_time(&self) -> String {
        self.store.clock().now().rfc3339()
    }

    pub async fn start(&self, id: &str) {
        self.happen(id, Event::Claim { session: SessionId(1), worker: lovage_core::worker_mark("w") }).await;
    }

    /// Starts the task and lets its attempt end like this.
    pub async fn finish(&self, id: &str, outcome: Outcome) {
        self.start(id).await;
        let key = TaskKey::new(Ns::DEFAULT, TaskId::parse(id).unwrap());
        let p = key.slot().partition(self.store.caps().partitions);
        let head = self.store.heads(p, std::slice::from_ref(&key)).await.unwrap().pop().flatten().unwrap();
        self.happen(id, Event::Answered { attempt: head.open_attempt(), outcome }).await;
    }

    pub async fn succeed(&self, id: &str, json: &'static str) {
        let outcome =
            Outcome::Success { content_type: Some("application/json".into()), body: Some(Bytes::from_static(json.as_bytes())) };
        self.finish(id, outcome).await;
    }
}

/// Lets every task of the runtime run until it waits for something: nothing here does real I/O.
pub async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("timed out: {what}"));
}
