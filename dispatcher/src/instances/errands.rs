//! Makes the calls that users ask for: pings and tests of a worker's instances.
//!
//! They take no slot, count for no breaker and say nothing of what was answered but the status: the user must not learn by them
//! what an address answers that he could not read himself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderName, USER_AGENT};
use lovage_core::errand::{Called, Errand, ErrandKind, MOST_CALLED, TEST_TASK};
use lovage_core::{Fault, Ns};
use lovage_store::{DocGuard, DocKind, DocOutcome, DocPut, Document};
use metrics::counter;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::health;
use crate::egress::{FaultKind, HeaderLines, PushRequest, Pushed};
use crate::owner::Shared;
use crate::push::{QUEUE, TASK, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP, set};
use crate::registry::{Instance, Worker};

/// Errands of this process at once; others wait, or another process takes them.
const AT_ONCE: usize = 8;
/// The longest that a call may take.
const LIMIT: Duration = Duration::from_secs(5);
/// What is read of an answer, and thrown away.
const READ: usize = 4096;

/// Runs errands until `stop`.
pub(crate) async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    let mut errands = shared.registry.errands();
    let mut running = JoinSet::new();
    let mut begun: Vec<(Ns, String)> = Vec::new();
    loop {
        let open = Arc::clone(&errands.borrow_and_update());
        begun.retain(|(ns, name)| open.iter().any(|document| document.ns == *ns && document.name == *name));
        for document in open.iter() {
            let key = (document.ns, document.name.clone());
            if running.len() < AT_ONCE && !begun.contains(&key) {
                begun.push(key);
                running.spawn(run(Arc::clone(&shared), document.clone()));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = errands.changed() => if changed.is_err() { return },
            Some(_) = running.join_next() => {}
        }
    }
}

async fn run(shared: Arc<Shared>, document: Document) {
    let Some(errand) = document.bytes.as_deref().and_then(|bytes| serde_json::from_slice::<Errand>(bytes).ok()) else { return };
    if errand.session.is_some() || errand.until <= shared.store.clock().now() {
        return;
    }
    let taken = Errand { session: Some(shared.session.0), ..errand };
    let Some(version) = put(&shared, &document, document.version, &taken).await else { return };
    let answers = match shared.registry.named(document.ns, &taken.worker) {
        Some(worker) => call(&shared, &worker, &taken, &document.name).await,
        None => Vec::new(),
    };
    let kind = if taken.kind == ErrandKind::Ping { "ping" } else { "test" };
    counter!("lovage_errands_total", "kind" => kind).increment(1);
    put(&shared, &document, version, &Errand { answers: Some(answers), ..taken }).await;
}

/// Stores an errand if it is still the one that was read; its version then.
async fn put(shared: &Shared, document: &Document, was: u64, errand: &Errand) -> Option<u64> {
    let put = DocPut {
        kind: DocKind::Errand,
        ns: document.ns,
        name: document.name.clone(),
        guard: DocGuard::Version(was),
        // Plain data into a Vec cannot fail.
        bytes: Some(serde_json::to_vec(errand).unwrap_or_default().into()),
    };
    match shared.store.put_docs(vec![put]).await {
        Ok(outcomes) => outcomes.into_iter().find_map(|outcome| match outcome {
            DocOutcome::Ok { version, .. } => Some(version),
            DocOutcome::Refused(_) => None,
        }),
        Err(error) => {
            error.log("run an errand");
            None
        }
    }
}

async fn call(shared: &Shared, worker: &Worker, errand: &Errand, id: &str) -> Vec<Called> {
    let now = shared.store.clock().now();
    let wanted = |instance: &&Instance| errand.instance.as_deref().is_none_or(|name| name == &*instance.name);
    let calls = worker.live_instances(now).filter(wanted).take(MOST_CALLED).map(async |instance| {
        let request = match errand.kind {
            ErrandKind::Ping => {
                let path = worker.config.health.as_ref().map_or("/", |health| &health.path);
                health::request(shared, worker, instance, path, LIMIT)
            }
            ErrandKind::Test => test(shared, worker, instance, id),
        };
        let pushed = match request {
            Some(request) => Some(shared.transport.push(request).await),
            None => None,
        };
        told(instance, pushed)
    });
    join_all(calls).await
}

/// A signed call of the test task.
fn test(shared: &Shared, worker: &Worker, instance: &Instance, id: &str) -> Option<PushRequest> {
    let target = instance.target.as_ref()?;
    let target = if target.is_template() { Arc::new(target.with_task(TEST_TASK).ok()?) } else { Arc::clone(target) };
    let body = Bytes::from(serde_json::json!({ "task": TEST_TASK, "id": id, "args": [], "kwargs": {} }).to_string());
    let seconds = shared.store.clock().now().0 / 1000;
    let mut lines = HeaderLines::with_capacity(512);
    for (name, value) in &worker.headers {
        lines.push(name, value.as_bytes());
    }
    lines.push(&CONTENT_TYPE, b"application/json");
    lines.push(&USER_AGENT, shared.options.user_agent.as_bytes());
    lines.push(&WEBHOOK_ID, id.as_bytes());
    lines.push_number(&WEBHOOK_TIMESTAMP, seconds);
    if let Some(signer) = &worker.signer {
        lines.push(&WEBHOOK_SIGNATURE, signer.sign(id, seconds as i64, &body).as_bytes());
    }
    set(&mut lines, &TASK, TEST_TASK);
    set(&mut lines, &QUEUE, "default");
    lines.push_number(&HeaderName::from_static("lovage-attempt"), 1);
    let mut request = PushRequest::new(target, Method::POST, lines, body);
    request.timeout = LIMIT;
    request.connect_timeout = shared.options.connect_timeout.min(LIMIT);
    request.max_body = READ;
    Some(request)
}

fn told(instance: &Instance, pushed: Option<Pushed>) -> Called {
    let took_ms = pushed.as_ref().map_or(0, |pushed| pushed.elapsed.as_millis() as u64);
    let (status, error) = match pushed.map(|pushed| pushed.outcome) {
        None => (None, Some(Fault::Forbidden.describe().0)),
        Some(Ok(response)) => (Some(response.status.as_u16()), None),
        Some(Err(fault)) => (None, Some(word(fault.kind()))),
    };
    let (name, url) = (instance.name.to_string(), instance.url.to_string());
    Called { instance: name, url, status, error: error.map(ToOwned::to_owned), took_ms }
}

fn word(kind: FaultKind) -> &'static str {
    let fault = match kind {
        FaultKind::Forbidden => Fault::Forbidden,
        FaultKind::Dns => Fault::Dns,
        FaultKind::Refused => Fault::Refused,
        FaultKind::Tls => Fault::Tls,
        FaultKind::ConnectTimeout => Fault::ConnectTimeout,
        FaultKind::Reset => Fault::Reset,
        FaultKind::TimedOut => Fault::TimedOut,
        FaultKind::Malformed => return "MalformedAnswer",
    };
    fault.describe().0
}
