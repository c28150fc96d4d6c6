//! `POST /v1/tasks?dry_run=true`: what would be stored, where it would go and when it would be tried again.

use std::collections::BTreeMap;

use axum::response::Response;
use http::StatusCode;
use lovage_core::redact::Redaction;
use lovage_core::retry::{RetryPolicy, Slot};
use lovage_core::units::Dur;
use lovage_core::units::Rate;
use lovage_core::{Draft, Millis, Ns, Spec, State};
use serde::Serialize;

use crate::app::App;
use crate::limits::Gate;
use crate::problem::Refusal;
use crate::view;

/// The names are those of the wire.
#[allow(clippy::struct_field_names)]
#[derive(Serialize)]
struct DryRun<'a> {
    dry_run: bool,
    state: &'static str,
    task: Option<&'a str>,
    url: Option<String>,
    /// Who would get it now; null if it is pushed to its URL or nobody serves it.
    worker: Option<String>,
    queue: &'a str,
    priority: u8,
    due_at: Option<String>,
    expires_at: Option<String>,
    soft_time_limit: Option<Dur>,
    time_limit: Dur,
    max_run: Option<Dur>,
    result_ttl: Dur,
    retention: Dur,
    retention_failed: Dur,
    labels: BTreeMap<String, String>,
    order_key: Option<&'a str>,
    fair_key: Option<&'a str>,
    limits: Vec<Limit>,
    retry: RetryPolicy,
    timetable: Vec<Attempt>,
}

/// A limit that it has to pass, as it is in force for it.
#[derive(Serialize)]
struct Limit {
    key: String,
    rate: Option<Rate>,
    burst: Option<u32>,
    concurrency: Option<u32>,
    cost: u32,
}

impl Limit {
    fn of(gate: Gate) -> Self {
        let rule = gate.rule();
        Self {
            rate: rule.rate,
            burst: rule.rate.map(|_| rule.burst()),
            concurrency: rule.concurrency,
            cost: gate.cost,
            key: gate.key,
        }
    }
}

#[allow(clippy::struct_field_names)] // as above
#[derive(Serialize)]
struct Attempt {
    attempt: u32,
    delay: Range,
    after: Range,
}

#[derive(Serialize)]
struct Range {
    min: Dur,
    max: Dur,
}

impl From<(std::time::Duration, std::time::Duration)> for Range {
    fn from((min, max): (std::time::Duration, std::time::Duration)) -> Self {
        Self { min: dur(min), max: dur(max) }
    }
}

fn dur(duration: std::time::Duration) -> Dur {
    Dur::from_millis(duration.as_millis() as u64)
}

/// The answer about a task that would be stored now.
pub(super) async fn answer(app: &App, ns: Ns, draft: &Draft, now: Millis) -> Result<Response, Refusal> {
    let (spec, redaction) = (&draft.spec, Redaction::of(&draft.spec.redact));
    let due = draft.due(now).filter(|due| *due > now);
    let attempt = |slot: &Slot| Attempt { attempt: slot.attempt, delay: slot.delay.into(), after: slot.after.into() };
    let worker = worker(app, ns, spec).await?;
    let gates = app.gates_of(ns, spec, worker.as_deref()).await?;
    let answer = DryRun {
        dry_run: true,
        state: if due.is_some() { State::Scheduled } else { State::Queued }.as_str(),
        task: spec.task.as_deref(),
        url: redaction.url(spec),
        worker,
        queue: spec.queue(),
        priority: draft.priority(),
        due_at: due.map(Millis::rfc3339),
        expires_at: draft.expires(now).map(Millis::rfc3339),
        soft_time_limit: spec.soft_time_limit,
        time_limit: spec.time_limit(),
        max_run: spec.max_run,
        result_ttl: dur(spec.result_ttl()),
        retention: dur(spec.retention(false)),
        retention_failed: dur(spec.retention(true)),
        labels: redaction.labels(&spec.labels),
        order_key: spec.order_key.as_deref(),
        fair_key: spec.fair_key.as_deref(),
        limits: gates.into_iter().map(Limit::of).collect(),
        retry: spec.retry(),
        timetable: spec.retry().timetable().iter().map(attempt).collect(),
    };
    Ok(view::json(StatusCode::OK, &answer))
}

/// The worker that would get the task if it started now.
async fn worker(app: &App, ns: Ns, spec: &Spec) -> Result<Option<String>, Refusal> {
    let (None, Some(task)) = (&spec.url, &spec.task) else { return Ok(None) };
    Ok(app.serving(ns, spec.queue(), task).await?.map(|(name, _)| name))
}
