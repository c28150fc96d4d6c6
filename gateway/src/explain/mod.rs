//! Why a task does not go on, or how it ended, in plain sentences and for programs (API: `GET /v1/tasks/{id}/explain`).
//!
//! Everything here is observed at the moment of the question. The reasons of a queued task are no part of its record: they
//! change without the task changing.

mod gates;
mod place;
mod queued;
mod words;

use lovage_core::redact::Redaction;
use lovage_core::{AttemptEntry, Flags, Head, Millis, Reason, ResultValue, Spec, State, TaskError, TaskKey};
use lovage_store::Parts;
use serde::Serialize;

use crate::app::App;
use crate::problem::Refusal;
use crate::view;

/// One thing that keeps a task from going on.
#[derive(Debug, Serialize)]
struct Cause {
    code: &'static str,
    message: String,
    until: Option<String>,
    /// Of a limit: its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Of a limit: how many run and how many may.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_use: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

impl Cause {
    fn new(code: &'static str, message: impl Into<String>, until: Option<Millis>) -> Self {
        Self { code, message: message.into(), until: until.map(Millis::rfc3339), key: None, in_use: None, limit: None }
    }
}

/// Where a task stands among those that pass the same gate.
#[derive(Debug, Default, Serialize)]
struct LanePlace {
    queue: String,
    task: Option<String>,
    origin: Option<String>,
    ahead: u32,
    more: bool,
    /// Tasks of the queue with a higher priority.
    higher: u64,
    higher_more: bool,
    /// Tasks of the same lane in other partitions that are likely to start before it.
    #[serde(skip)]
    alike: u64,
}

/// A worker, or an origin of bare URLs, as this server sees it.
#[derive(Debug, Serialize)]
struct WorkerStanding {
    name: String,
    instances: Option<u32>,
    open: Option<u32>,
    slots: Option<u32>,
    breaker: Option<&'static str>,
    paused_until: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    id: String,
    state: &'static str,
    reason: Option<&'static str>,
    text: String,
    causes: Vec<Cause>,
    next_at: Option<String>,
    estimated_start: Option<String>,
    lane: Option<LanePlace>,
    worker: Option<WorkerStanding>,
}

/// What is being found out.
#[derive(Default)]
struct Story {
    /// What is said besides the causes.
    sentences: Vec<String>,
    causes: Vec<(Cause, Option<Millis>)>,
    lane: Option<LanePlace>,
    /// When it may start, to judge by what is known.
    estimate: Option<Millis>,
    worker: Option<WorkerStanding>,
    /// Its worker fetches it, without a dispatcher.
    pulled: bool,
}

impl Story {
    fn say(&mut self, sentence: impl Into<String>) {
        self.sentences.push(sentence.into());
    }

    fn cause(&mut self, code: &'static str, message: impl Into<String>, until: Option<Millis>) {
        self.causes.push((Cause::new(code, message, until), until));
    }

    /// When it may go on by itself: once the last of its causes has passed, if all of them do.
    fn next(&self) -> Option<Millis> {
        let ends: Option<Vec<Millis>> = self.causes.iter().map(|(_, until)| *until).collect();
        ends?.into_iter().max()
    }
}

/// A task in question.
struct Case<'a> {
    app: &'a App,
    key: &'a TaskKey,
    head: &'a Head,
    spec: &'a Spec,
    error: Option<TaskError>,
    entries: Vec<AttemptEntry>,
}

impl App {
    /// What there is to say about a task.
    pub(crate) async fn explain(&self, key: &TaskKey) -> Result<Option<Explanation>, Refusal> {
        let parts = Parts { body: true, result: true, attempts: true };
        let Some((_, stored)) = self.find(key, parts).await? else { return Ok(None) };
        let (spec, _) = view::taken_apart(&stored)?;
        let redaction = Redaction::of(&spec.redact);
        let error = match stored.result.as_ref().and_then(ResultValue::decode) {
            Some(ResultValue::Error(bytes)) => serde_json::from_slice(&bytes).ok().map(|error| redaction.error(error)),
            Some(ResultValue::Value { .. } | ResultValue::Progress(_)) | None => None,
        };
        let entries = stored.attempts.iter().filter_map(|bytes| AttemptEntry::decode(bytes)).collect();
        let case = Case { app: self, key, head: &stored.head, spec: &spec, error, entries };
        Ok(Some(case.explained().await?))
    }
}

impl Case<'_> {
    async fn explained(self) -> Result<Explanation, Refusal> {
        let mut story = Story::default();
        let head = self.head;
        if head.flags.has(Flags::HELD) && !head.state.is_final() {
            story.cause("held", "It is held: it does not start before it is released.", None);
        }
        let mut reason = (head.reason != Reason::None).then(|| head.reason.as_str());
        match head.state {
            State::Blocked => self.blocked(&mut story).await?,
            State::Scheduled => {
                let text = format!("It is scheduled: it starts at {} at the earliest.", head.due.rfc3339());
                story.cause("scheduled", text, Some(head.due));
            }
            State::Queued => {
                self.queued(&mut story).await?;
                reason = Some(story.causes.first().map_or("ready", |(cause, _)| cause.code));
            }
            State::Running => self.running(&mut story).await,
            State::Retrying => self.retrying(&mut story),
            State::Succeeded | State::Failed | State::Canceled | State::Expired => self.ended(&mut story),
        }
        if head.state.is_waiting() && head.expires.0 != 0 {
            story.say(format!("It expires at {} unless it has started by then.", head.expires.rfc3339()));
        }
        let next_at = story.next().filter(|_| !head.state.is_final()).map(Millis::rfc3339);
        let causes: Vec<Cause> = story.causes.into_iter().map(|(cause, _)| cause).collect();
        let sentences: Vec<&str> =
            causes.iter().map(|cause| &*cause.message).chain(story.sentences.iter().map(|said| &**said)).collect();
        Ok(Explanation {
            id: self.key.id.to_string(),
            state: head.state.as_str(),
            reason,
            text: sentences.join(" "),
            causes,
            next_at,
            estimated_start: story.estimate.map(Millis::rfc3339),
            lane: story.lane,
            worker: story.worker,
        })
    }

    /// Waits for others.
    async fn blocked(&self, story: &mut Story) -> Result<(), Refusal> {
        if self.head.reason != Reason::Children {
            story.cause(self.head.reason.as_str(), words::of_wait(self.head.reason), None);
            return Ok(());
        }
        // The attempt that made it wait is the last one.
        let children = self.entries.iter().rev().find(|entry| entry.outcome == "spawned").map(|entry| &entry.children[..]);
        let keys: Vec<TaskKey> = children.unwrap_or_default().iter().map(|id| TaskKey::new(self.key.ns, id.clone())).collect();
        let p = self.app.lives_in(self.key, self.spec);
        let heads = if keys.is_empty() { Vec::new() } else { self.app.store.heads(p, &keys).await? };
        let open = heads.iter().flatten().filter(|head| !head.state.is_final()).count();
        let text = format!("It waits for the tasks that it has spawned: {open} of {} are not final.", keys.len());
        story.cause("children", text, None);
        Ok(())
    }

    async fn running(&self, story: &mut Story) {
        let head = self.head;
        let at = self.worker_name().map(|name| format!(" at worker `{name}`")).unwrap_or_default();
        let since = format!("Attempt {} has been running{at} since {}", head.attempt, head.started.rfc3339());
        if head.is_accepted() {
            let end = head.deadline;
            let text = format!("{since}; it was accepted, and its lease ends at {} unless it reports.", end.rfc3339());
            story.cause("accepted", text, Some(end));
        } else {
            let end = head.started.after(self.spec.time_limit().get());
            let text = format!("{since}; the answer must come by {}.", end.rfc3339());
            story.cause("dispatched", text, Some(end));
        }
        if head.flags.has(Flags::CANCEL) {
            let how = if head.flags.has(Flags::HARD) { "hard" } else { "soft" };
            story.say(format!("A {how} cancel was asked for; it ends with the attempt."));
        }
        if let Some(name) = self.worker_name() {
            story.worker = Some(self.standing(&name).await);
        }
    }

    fn retrying(&self, story: &mut Story) {
        let head = self.head;
        let text = format!("{}; attempt {} is due at {}.", words::of_wait(head.reason), head.attempt + 1, head.due.rfc3339());
        story.cause(head.reason.as_str(), text, Some(head.due));
        self.say_error(story, "The last error was");
        let policy = self.spec.retry();
        let left = policy.max_attempts.saturating_sub(head.budget);
        story.say(format!("{left} of {} charged attempts are left.", policy.max_attempts));
    }

    fn ended(&self, story: &mut Story) {
        let head = self.head;
        let attempts = match head.attempt {
            0 => "without an attempt".to_owned(),
            n => format!("at attempt {n}"),
        };
        story.say(format!("It {} at {}, {attempts}: {}.", words::of_end(head.state), head.ended.rfc3339(), words::why(head)));
        self.say_error(story, "The error was");
        let name = self.worker_name();
        if let Some(name) = name.filter(|_| head.attempt > 0) {
            story.say(format!("The last attempt was made at worker `{name}`."));
        }
    }

    fn say_error(&self, story: &mut Story, before: &str) {
        if let Some(error) = &self.error {
            story.say(format!("{before} {}: {}.", error.kind, error.message.trim_end_matches('.')));
        }
    }

    /// The worker of the latest attempt.
    fn worker_name(&self) -> Option<String> {
        self.app.directory.worker(self.key.ns, self.head.worker).map(|name| name.to_string())
    }
}
