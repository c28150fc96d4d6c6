//! `lovage inspect active | scheduled | reserved | revoked | registered | stats`: Celery's words for what there is now.

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, encoded};
use super::{ClientArgs, Failure, show};

/// What to look at.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum InspectCommand {
    /// Tasks that run.
    Active(InspectArgs),
    /// Tasks that wait for a time: scheduled ones, and those between two attempts.
    Scheduled(InspectArgs),
    /// Tasks that may start as soon as it is their turn.
    Reserved(InspectArgs),
    /// Tasks that were canceled.
    Revoked(InspectArgs),
    /// The task names that workers serve.
    Registered(InspectArgs),
    /// Workers with their slots, and queues with what is in them.
    Stats(InspectArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct InspectArgs {
    /// Show at most so many.
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub limit: usize,
    #[command(flatten)]
    pub client: ClientArgs,
}

impl InspectCommand {
    /// How to reach the server.
    pub fn client(&self) -> &ClientArgs {
        &self.args().client
    }

    fn args(&self) -> &InspectArgs {
        match self {
            Self::Active(args)
            | Self::Scheduled(args)
            | Self::Reserved(args)
            | Self::Revoked(args)
            | Self::Registered(args)
            | Self::Stats(args) => args,
        }
    }
}

/// Carries out a command.
pub(crate) async fn inspect(client: &Client, command: &InspectCommand) -> Result<(), Failure> {
    let limit = command.args().limit;
    match command {
        InspectCommand::Active(_) => tasks(client, limit, &["running"], ("STARTED", "started_at")).await,
        InspectCommand::Scheduled(_) => tasks(client, limit, &["scheduled", "retrying"], ("DUE", "due_at")).await,
        InspectCommand::Reserved(_) => tasks(client, limit, &["queued"], ("ACCEPTED", "created_at")).await,
        InspectCommand::Revoked(_) => tasks(client, limit, &["canceled"], ("CANCELED", "finished_at")).await,
        InspectCommand::Registered(_) => registered(client, limit).await,
        InspectCommand::Stats(_) => stats(client, limit).await,
    }
}

async fn tasks(client: &Client, limit: usize, states: &[&str], (title, time): (&str, &str)) -> Result<(), Failure> {
    let filter: Vec<String> = states.iter().map(|state| format!("state={state}")).collect();
    let (items, cursor) = client.pages(&format!("/v1/tasks?{}", filter.join("&")), limit).await?;
    if client.wants_json() {
        show::line(&json!({ "items": items, "next_cursor": cursor }).to_string());
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["ID", "TASK", "QUEUE", "STATE", "ATTEMPT", "WORKER", title]);
    for item in &items {
        let name = ["task", "url"].iter().map(|name| show::text(item, name)).find(|name| !name.is_empty());
        table.add_row([
            show::text(item, "id").into_owned(),
            name.unwrap_or_default().into_owned(),
            show::text(item, "queue").into_owned(),
            client.style.state(&show::text(item, "state")),
            item["attempt"].to_string(),
            show::cell(&item["worker"]),
            show::cell(&item[time]),
        ]);
    }
    finish(client, table, items.len(), cursor.is_some(), "no such tasks");
    Ok(())
}

async fn registered(client: &Client, limit: usize) -> Result<(), Failure> {
    let (items, cursor) = client.pages("/v1/workers", limit).await?;
    if client.wants_json() {
        show::line(&json!({ "items": items, "next_cursor": cursor }).to_string());
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["WORKER", "TASKS", "QUEUES"]);
    for worker in &items {
        let queues = words(&worker["queues"]);
        let queues = if queues.is_empty() { "all".to_owned() } else { queues };
        table.add_row([show::text(worker, "name").into_owned(), words(&worker["tasks"]), queues]);
    }
    finish(client, table, items.len(), cursor.is_some(), "no workers are registered");
    Ok(())
}

async fn stats(client: &Client, limit: usize) -> Result<(), Failure> {
    let (workers, more_workers) = client.pages("/v1/workers", limit).await?;
    let (mut queues, more_queues) = client.pages("/v1/queues", limit).await?;
    for queue in &mut queues {
        let path = format!("/v1/queues/{}/stats", encoded(queue["name"].as_str().unwrap_or_default()));
        queue["stats"] = client.send(client.request(Method::GET, &path)).await?.json()?;
    }
    if client.wants_json() {
        show::line(&json!({ "workers": workers, "queues": queues }).to_string());
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["WORKER", "CONCURRENCY", "RATE", "PAUSED", "PAUSED UNTIL"]);
    for worker in &workers {
        let mut row = vec![show::text(worker, "name").into_owned()];
        row.extend(["concurrency", "rate", "paused_because"].map(|name| show::cell(&worker[name])));
        row.push(show::until(!worker["paused_because"].is_null(), &worker["paused_until"]));
        table.add_row(row);
    }
    finish(client, table, workers.len(), more_workers.is_some(), "no workers are registered");
    let mut table = Table::new();
    let states = ["blocked", "scheduled", "queued", "running", "retrying"];
    let header = ["QUEUE", "BLOCKED", "SCHEDULED", "QUEUED", "RUNNING", "RETRYING", "OLDEST", "IN/S", "OUT/S"];
    table.load_preset(presets::NOTHING).set_header(header);
    for queue in &queues {
        let stats = &queue["stats"];
        let mut row = vec![show::text(queue, "name").into_owned()];
        row.extend(states.map(|state| show::cell(&stats["depth"][state])));
        row.extend(["oldest_age", "in_rate", "out_rate"].map(|name| show::cell(&stats[name])));
        table.add_row(row);
    }
    finish(client, table, queues.len(), more_queues.is_some(), "no queues");
    Ok(())
}

/// The strings of a list.
fn words(list: &Value) -> String {
    let words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    crate::style::plain(&words.collect::<Vec<_>>().join(" ")).into_owned()
}

fn finish(client: &Client, table: Table, rows: usize, more: bool, none: &str) {
    if rows == 0 {
        eprintln!("{}", client.style.dim(none));
    } else {
        show::table(table);
    }
    if more {
        eprintln!("{}", client.style.dim("there are more; show them with --limit"));
    }
}
