//! Tasks and problems as they are answered.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Batch, Debounce, RetryPolicy, TaskLimit, Unique};

/// A stored task, at submit.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskAccepted {
    /// Its id.
    pub id: String,
    /// `queued` or `scheduled`.
    pub state: String,
    /// When it was accepted.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// Where it and its parts are.
    pub links: BTreeMap<String, String>,
}

/// The record of a task.
#[derive(ToSchema, Serialize)]
pub(crate) struct Task {
    /// Its id.
    pub id: String,
    /// `blocked`, `scheduled`, `queued`, `running`, `retrying`, `succeeded`, `failed`, `canceled` or `expired`.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// Its name.
    pub task: Option<String>,
    /// The address it is pushed to.
    pub url: Option<String>,
    /// Its name for people.
    pub name: Option<String>,
    /// The queue it waits in.
    pub queue: String,
    /// 0 to 9, higher first.
    pub priority: u8,
    /// Attempts started so far.
    pub attempt: u32,
    /// Attempts that the retry budget still allows.
    pub attempts_left: u32,
    /// Rises with every manual retry.
    pub generation: u8,
    /// Somebody keeps it from starting.
    pub held: Option<bool>,
    /// A cancel was asked for while it ran.
    pub cancel_requested: Option<bool>,
    /// When it was accepted.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// Not before.
    #[schema(format = DateTime)]
    pub due_at: Option<String>,
    /// Never started after.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// Start of the latest attempt.
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// When it became final.
    #[schema(format = DateTime)]
    pub finished_at: Option<String>,
    /// The worker of the latest attempt.
    pub worker: Option<String>,
    /// Positional arguments, when small.
    pub args: Option<Vec<Value>>,
    /// Named arguments, when small.
    pub kwargs: Option<BTreeMap<String, Value>>,
    /// The payload, when it is JSON and small.
    pub payload: Option<Value>,
    /// The result, when it is JSON of up to 16 KiB; null while there is none. Left out when there is one that is larger,
    /// nested deeper than 100 levels, or no JSON.
    pub result: Option<Value>,
    /// What went wrong: at last, or in the last attempt.
    pub error: Option<TaskError>,
    /// How far the open attempt is, as its worker last said.
    pub progress: Option<Value>,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// The retry policy in force.
    pub retry: RetryPolicy,
    /// After this long of an attempt its worker is told to come to an end.
    pub soft_time_limit: Option<String>,
    /// How long the open request of one attempt may take.
    pub time_limit: String,
    /// How long an attempt may take in all after it was accepted.
    pub max_run: Option<String>,
    /// The method of the delivery, if it is not POST.
    pub method: Option<String>,
    /// Names of the headers of the delivery; values are not shown.
    pub headers: Option<BTreeMap<String, Option<String>>>,
    /// Not before, as it was asked for.
    #[schema(format = DateTime)]
    pub eta: Option<String>,
    /// Its own limits, by key.
    pub limits: Option<Vec<TaskLimit>>,
    /// Its place in an order.
    pub order_key: Option<String>,
    /// Its share of the queue.
    pub fair_key: Option<String>,
    /// The key that one task at a time holds.
    pub unique: Option<Unique>,
    /// The key of which only the last task runs.
    pub debounce: Option<Debounce>,
    /// With which tasks it may be delivered.
    pub batch: Option<Batch>,
    /// As a link it does not take the result of the task before.
    pub immutable: Option<bool>,
    /// The result is not kept.
    pub ignore_result: Option<bool>,
    /// How long the result is kept, if that was said.
    pub result_ttl: Option<String>,
    /// How long the record is kept after its end, if that was said.
    pub retention: Option<String>,
    /// JSON pointers to what no view shows.
    pub redact: Option<Vec<String>>,
    /// Signatures that run after success; not in lists. Header values and what they hide are not shown.
    #[schema(value_type = Option<Vec<Object>>)]
    pub link: Option<Vec<Value>>,
    /// Signatures that run after final failure; as `link`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub link_error: Option<Vec<Value>>,
    /// Where its callbacks go (`on_success`, …), without queries; not in lists.
    pub callback_urls: Option<BTreeMap<String, String>>,
    /// The task that spawned this one.
    pub parent: Option<String>,
    /// The first ancestor.
    pub root: Option<String>,
    /// Set on a callback: what it reports.
    pub callback: Option<String>,
    /// The callbacks that were made for it, when one task is shown that asks for some.
    pub callbacks: Option<Vec<CallbackMade>>,
    /// Rises by one with every change; also the `ETag`.
    pub version: u64,
    /// Where its parts are.
    pub links: Option<BTreeMap<String, String>>,
}

/// A callback of a task: a task of its own.
#[derive(ToSchema, Serialize)]
pub(crate) struct CallbackMade {
    /// `success`, `failure`, `retry`, `progress` or `terminal`.
    pub kind: String,
    /// The id of its task.
    pub id: String,
    /// The state of its task.
    pub state: String,
}

/// What went wrong with a task or an attempt.
#[derive(ToSchema, Serialize)]
pub(crate) struct TaskError {
    /// A short name to group by.
    #[serde(rename = "type")]
    pub kind: String,
    /// One or a few sentences.
    pub message: String,
    /// The worker's stack trace.
    pub stack: Option<String>,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
}

/// The answers to a batch.
#[derive(ToSchema, Serialize)]
pub(crate) struct BatchAnswers {
    /// One per item, in order.
    pub items: Vec<BatchAnswer>,
}

/// The answer to one item.
#[derive(ToSchema, Serialize)]
pub(crate) struct BatchAnswer {
    /// 202 stored, 200 stored before, else refused.
    pub status: u16,
    /// The task's id.
    pub id: Option<String>,
    /// Why it was refused.
    pub problem: Option<Problem>,
}

/// A refused request (RFC 9457).
#[derive(ToSchema, Serialize)]
pub(crate) struct Problem {
    /// The page about the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// The code for programs.
    pub code: String,
    /// The same as in `X-Request-Id`.
    pub request_id: String,
    /// The refused fields.
    pub errors: Option<Vec<FieldError>>,
    /// The task that is in the way.
    pub existing_id: Option<String>,
    /// The state that does not allow it.
    pub state: Option<String>,
}

/// A refused field.
#[derive(ToSchema, Serialize)]
pub(crate) struct FieldError {
    /// A JSON pointer into the request.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
}
