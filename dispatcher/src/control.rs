//! What a worker is told apart from its tasks: signed posts to its control URL about cancels and time limits.
//!
//! They are not stored: a worker that misses one learns the same from its deadline, its closed connection or its next report.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderName, USER_AGENT};
use lovage_core::instance::Turn;
use lovage_core::{Millis, TaskKey};
use metrics::counter;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::egress::{HeaderLines, PushRequest, Transport};
use crate::registry::{Instance, Registry, Worker};

/// Posts under way in this process; more are dropped.
const MOST_POSTS: usize = 64;
const TRIES: u32 = 3;
/// The longest that all tries of a post may take.
const LIMIT: Duration = Duration::from_secs(5);
const TRY_LIMIT: Duration = Duration::from_millis(1_500);
const PAUSE: Duration = Duration::from_millis(200);

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const ATTEMPT: HeaderName = HeaderName::from_static("lovage-attempt");

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The task is called off; until the deadline the attempt may end by itself.
    Cancel,
    /// Come to an end: at the deadline the attempt is over.
    SoftTimeout,
    /// The attempt is over.
    HardTimeout,
}

impl Order {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "task.cancel",
            Self::SoftTimeout => "task.soft_timeout",
            Self::HardTimeout => "task.hard_timeout",
        }
    }
}

/// An attempt of a task that its worker is told of.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub key: TaskKey,
    pub attempt: u32,
    /// When the attempt is over.
    pub deadline: Millis,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    id: String,
    attempt: u32,
    deadline: String,
}

/// The type of the message that asks for a new start.
const RECYCLE: &str = "instance.recycle";

#[derive(Serialize)]
struct RecycleBody<'a> {
    r#type: &'a str,
    worker: &'a str,
    instance: &'a str,
    url: &'a str,
    reason: &'a str,
    counters: Counted,
}

#[derive(Serialize)]
struct Counted {
    tasks: u64,
    errors: u64,
    memory: u64,
    since: String,
}

/// Sends posts to control URLs.
pub(crate) struct Control {
    transport: Arc<dyn Transport>,
    user_agent: String,
    room: Arc<Semaphore>,
}

impl Control {
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str) -> Self {
        Self { transport, user_agent: user_agent.to_owned(), room: Arc::new(Semaphore::new(MOST_POSTS)) }
    }

    /// Tells `worker`, if it has a control URL, without waiting for it.
    pub fn tell(&self, registry: &Registry, worker: &Worker, order: Order, about: &About, now: Millis) {
        let Some(target) = worker.config.control_url.as_deref().and_then(|url| registry.target(url)) else { return };
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else { return count(order, "dropped") };
        let (headers, body) = self.message(worker, order, about, now);
        let transport = Arc::clone(&self.transport);
        tokio::spawn(async move {
            let _room = room;
            let tries = async {
                for _ in 0..TRIES {
                    let mut request = PushRequest::new(Arc::clone(&target), Method::POST, headers.clone(), body.clone());
                    request.timeout = TRY_LIMIT;
                    request.connect_timeout = TRY_LIMIT;
                    request.max_body = 1024;
                    if transport.push(request).await.outcome.is_ok_and(|response| response.status.is_success()) {
                        return true;
                    }
                    sleep(PAUSE).await;
                }
                false
            };
            let taken = timeout(LIMIT, tries).await.unwrap_or(false);
            count(order, if taken { "taken" } else { "failed" });
        });
    }

    /// Asks `worker` to start one of its instances anew; whether it took it. One try.
    pub async fn recycle(&self, registry: &Registry, worker: &Worker, instance: &Instance, turn: &Turn, now: Millis) -> bool {
        let Some(target) = worker.config.control_url.as_deref().and_then(|url| registry.target(url)) else { return false };
        let body = RecycleBody {
            r#type: RECYCLE,
            worker: &worker.name,
            instance: &instance.name,
            url: &instance.url,
            reason: turn.reason.as_str(),
            counters: Counted {
                tasks: turn.counters.tasks,
                errors: turn.counters.errors,
                memory: turn.counters.memory,
                since: turn.counters.since.rfc3339(),
            },
        };
        // Plain data into a Vec cannot fail.
        let body = Bytes::from(serde_json::to_vec(&body).unwrap_or_default());
        // Of one turn every try is the same message.
        let lines = self.signed(worker, &format!("{}.{}.{RECYCLE}", worker.name, turn.since.0), now, &body);
        let mut request = PushRequest::new(target, Method::POST, lines, body);
        request.timeout = LIMIT;
        request.connect_timeout = TRY_LIMIT;
        request.max_body = 1024;
        let taken = self.transport.push(request).await.outcome.is_ok_and(|response| response.status.is_success());
        let outcome = if taken { "taken" } else { "failed" };
        counter!("lovage_control_posts_total", "type" => RECYCLE, "outcome" => outcome).increment(1);
        taken
    }

    fn signed(&self, worker: &Worker, id: &str, now: Millis, body: &Bytes) -> HeaderLines {
        let seconds = now.0 / 1000;
        let mut lines = HeaderLines::with_capacity(512);
        lines.push(&CONTENT_TYPE, b"application/json");
        lines.push(&USER_AGENT, self.user_agent.as_bytes());
        lines.push(&WEBHOOK_ID, id.as_bytes());
        lines.push_number(&WEBHOOK_TIMESTAMP, seconds);
        if let Some(signer) = &worker.signer {
            lines.push(&WEBHOOK_SIGNATURE, signer.sign(id, seconds as i64, body).as_bytes());
        }
        lines
    }

    fn message(&self, worker: &Worker, order: Order, about: &About, now: Millis) -> (HeaderLines, Bytes) {
        let kind = order.as_str();
        let body =
            Body { r#type: kind, id: about.key.id.to_string(), attempt: about.attempt, deadline: about.deadline.rfc3339() };
        let id = format!("{}.{}.{kind}", body.id, body.attempt);
        // Plain data into a Vec cannot fail.
        let body = Bytes::from(serde_json::to_vec(&body).unwrap_or_default());
        let mut lines = self.signed(worker, &id, now, &body);
        lines.push_number(&ATTEMPT, about.attempt.into());
        (lines, body)
    }
}

fn count(order: Order, outcome: &'static str) {
    counter!("lovage_control_posts_total", "type" => order.as_str(), "outcome" => outcome).increment(1);
}
