//! `lovage control rate_limit | time_limit | pause | resume | revoke`: what Celery's remote control does.
//!
//! All of it changes stored settings or tasks, so it holds for every node and stays when processes end.

use clap::{Args, Subcommand, ValueEnum};
use http::StatusCode;
use lovage_core::units::{Dur, Rate};
use lovage_core::worker::closeness;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Answer, Client, encoded, task_id};
use super::{ClientArgs, Failure, show};
use crate::style::plain;

/// What to change while everything runs.
#[derive(Clone, Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub(crate) enum ControlCommand {
    /// How often tasks of a name start, over all nodes.
    RateLimit(RateArgs),
    /// How long an attempt of a task may take.
    TimeLimit(TimeArgs),
    /// Let nothing of a queue, a worker, a task type or a limit start.
    Pause(PauseArgs),
    /// End a pause.
    Resume(ResumeArgs),
    /// Cancel tasks.
    Revoke(RevokeArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RateArgs {
    /// The task's name, or a pattern of a task type.
    #[arg(value_name = "TASK")]
    pub task: String,
    /// Such as `10/s`, `200/m`, `5000/h`; `none`: as often as can be.
    #[arg(value_name = "RATE|none", value_parser = rate)]
    pub rate: OrNone<Rate>,
    /// Starts that may come at once [default: 1].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub burst: Option<i64>,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TimeArgs {
    /// The task's name, or a pattern of a task type.
    #[arg(value_name = "TASK")]
    pub task: String,
    /// After this long the attempt is cut off, such as `30s`; `none`: the default.
    #[arg(value_name = "HARD|none", value_parser = duration)]
    pub hard: OrNone<Dur>,
    /// After this long its worker is told to come to an end.
    #[arg(value_name = "SOFT")]
    pub soft: Option<Dur>,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What can be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Queue,
    Worker,
    Task,
    Limit,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ResumeArgs {
    /// What it is.
    #[arg(value_enum)]
    pub kind: Kind,
    /// Its name; of a task type the pattern.
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub what: ResumeArgs,
    /// Until this time (RFC 3339) [default: until it is resumed].
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The ids of the tasks.
    #[arg(value_name = "ID", value_parser = task_id, required = true)]
    pub ids: Vec<String>,
    /// Cut running attempts off at once instead of asking their workers first.
    #[arg(long)]
    pub hard: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// A value, or the word `none`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrNone<T>(Option<T>);

impl<T: ToString> OrNone<T> {
    fn json(&self) -> Value {
        self.0.as_ref().map_or(Value::Null, |value| value.to_string().into())
    }
}

fn or_none<T: std::str::FromStr>(text: &str) -> Result<OrNone<T>, T::Err> {
    if text == "none" { Ok(OrNone(None)) } else { text.parse().map(|value| OrNone(Some(value))) }
}

fn rate(text: &str) -> Result<OrNone<Rate>, String> {
    or_none(text).map_err(|error: lovage_core::units::UnitError| error.to_string())
}

fn duration(text: &str) -> Result<OrNone<Dur>, String> {
    or_none(text).map_err(|error: lovage_core::units::UnitError| error.to_string())
}

impl ControlCommand {
    /// How to reach the server.
    pub fn client(&self) -> &ClientArgs {
        match self {
            Self::RateLimit(args) => &args.client,
            Self::TimeLimit(args) => &args.client,
            Self::Pause(args) => &args.what.client,
            Self::Resume(args) => &args.client,
            Self::Revoke(args) => &args.client,
        }
    }
}

/// Carries out a command.
pub(crate) async fn control(client: &Client, command: &ControlCommand) -> Result<(), Failure> {
    match command {
        ControlCommand::RateLimit(args) => {
            let change = json!({ "rate": args.rate.json(), "burst": args.burst });
            change_type(client, &args.task, &change).await
        }
        ControlCommand::TimeLimit(args) => {
            let soft = args.soft.map(|soft| soft.to_string());
            let change = json!({ "time_limit": args.hard.json(), "soft_time_limit": soft });
            change_type(client, &args.task, &change).await
        }
        ControlCommand::Pause(args) => switch(client, &args.what, "pause", Some(json!({ "until": args.until }))).await,
        ControlCommand::Resume(args) => switch(client, args, "resume", None).await,
        ControlCommand::Revoke(args) => revoke(client, args).await,
    }
}

/// Changes these fields of a task type; one that is not there is made.
async fn change_type(client: &Client, task: &str, change: &Value) -> Result<(), Failure> {
    let changed = client.send_any(client.request(Method::PATCH, &type_path(task)).json(change)).await?;
    let answer = match changed.status {
        StatusCode::NOT_FOUND => make_type(client, task, change).await?,
        status if status.is_success() => changed,
        _ => return Err(client.refusal(&changed)),
    };
    note_unserved(client, task).await?;
    if client.wants_json() {
        show::json(&answer);
        return Ok(());
    }
    let said = change.as_object().into_iter().flatten().filter(|(name, value)| !value.is_null() || *name == "rate");
    let said: Vec<String> =
        said.map(|(name, value)| format!("{name} {}", value.as_str().map_or_else(|| null_or(value), str::to_owned))).collect();
    show::line(&plain(&format!("{task}  {}", said.join(", "))));
    Ok(())
}

fn type_path(task: &str) -> String {
    format!("/v1/task-types/{}", encoded(task))
}

fn note(client: &Client, text: &str) {
    eprintln!("{}", client.style.dim(&plain(text)));
}

/// Makes a task type with the fields, and the pause, of the type that its tasks had until now: types are not joined.
async fn make_type(client: &Client, task: &str, change: &Value) -> Result<Answer, Failure> {
    let (types, _) = client.pages("/v1/task-types", usize::MAX).await?;
    let pattern = |one: &Value| one["pattern"].as_str().unwrap_or_default().to_owned();
    // The closest; of equals the first in alphabetical order, which is the order of the list.
    let near = types.iter().rev().filter_map(|one| Some((closeness(&pattern(one), task)?, one)));
    let base = near.max_by_key(|(near, _)| *near).map(|(_, one)| one);
    let mut document: Map<String, Value> = base.and_then(Value::as_object).cloned().unwrap_or_default();
    let paused = document.remove("paused");
    document.retain(|name, _| !matches!(name.as_str(), "pattern" | "version"));
    document.extend(change.as_object().cloned().unwrap_or_default());
    let request = client.request(Method::PUT, &type_path(task)).header("if-none-match", "*").json(&document);
    let mut answer = client.send(request).await?;
    if let Some(paused) = paused {
        let request = client.request(Method::POST, &format!("{}/pause", type_path(task))).json(&paused);
        answer = client.send(request).await?;
    }
    let from = base.map(|base| format!(" from `{}`, which it had until now", pattern(base))).unwrap_or_default();
    note(client, &format!("task type `{task}` made{from}"));
    Ok(answer)
}

/// Says so if nobody serves the tasks of this name: it may be misspelt.
async fn note_unserved(client: &Client, task: &str) -> Result<(), Failure> {
    // A pattern may be meant for names that are to come.
    if task.contains('*') {
        return Ok(());
    }
    let (workers, _) = client.pages("/v1/workers", usize::MAX).await?;
    let patterns = workers.iter().filter_map(|worker| worker["tasks"].as_array()).flatten().filter_map(Value::as_str);
    if patterns.into_iter().all(|pattern| closeness(pattern, task).is_none()) {
        note(client, &format!("no worker serves `{task}` now"));
    }
    Ok(())
}

fn null_or(value: &Value) -> String {
    if value.is_null() { "none".to_owned() } else { value.to_string() }
}

/// Pauses or resumes something.
async fn switch(client: &Client, what: &ResumeArgs, verb: &str, body: Option<Value>) -> Result<(), Failure> {
    let place = match what.kind {
        Kind::Queue => "queues",
        Kind::Worker => "workers",
        Kind::Task => "task-types",
        Kind::Limit => "limits",
    };
    let request = || {
        let request = client.request(Method::POST, &format!("/v1/{place}/{}/{verb}", encoded(&what.name)));
        if let Some(body) = &body { request.json(body) } else { request }
    };
    let mut answer = client.send_any(request()).await?;
    // The pause is kept in the type.
    if what.kind == Kind::Task && verb == "pause" && answer.status == StatusCode::NOT_FOUND {
        make_type(client, &what.name, &json!({})).await?;
        answer = client.send_any(request()).await?;
    }
    if !answer.status.is_success() {
        return Err(client.refusal(&answer));
    }
    if what.kind == Kind::Task {
        note_unserved(client, &what.name).await?;
    }
    if client.wants_json() {
        show::json(&answer);
    } else {
        let until = match body.as_ref().map(|body| &body["until"]) {
            Some(Value::String(until)) => format!(" until {until}"),
            Some(_) => " until resumed".to_owned(),
            None => String::new(),
        };
        show::line(&plain(&format!("{}  {verb}d{until}", what.name)));
    }
    Ok(())
}

async fn revoke(client: &Client, args: &RevokeArgs) -> Result<(), Failure> {
    let mode = if args.hard { "hard" } else { "soft" };
    let mut body = json!({ "ids": args.ids, "mode": mode });
    let mut failed = 0;
    loop {
        let answer = client.send(client.request(Method::POST, "/v1/tasks:cancel").json(&body)).await?;
        if client.wants_json() {
            show::json(&answer);
        }
        let mut tally = answer.json()?;
        failed += tally["failed"].as_u64().unwrap_or_default();
        if !client.wants_json() {
            show::line(&format!("{} found, {} canceled", tally["matched"], tally["changed"]));
        }
        for error in tally["errors"].as_array().into_iter().flatten() {
            eprintln!("{}: {}", show::text(error, "id"), show::text(error, "detail"));
        }
        match tally["next_cursor"].take() {
            Value::Null => break,
            cursor => body["cursor"] = cursor,
        }
    }
    if failed > 0 { Err(Failure::Task) } else { Ok(()) }
}
