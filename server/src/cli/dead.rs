//! `lovage dead list | retry | delete`

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, encoded, task_id};
use super::{ClientArgs, Failure, show};
use crate::style::plain;

/// What to do with dead letters: tasks that failed and are kept for inspection.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// Show them, with what went wrong.
    List(DeadListArgs),
    /// Try them again from the start, with a whole retry budget.
    Retry(DeadVerbArgs),
    /// Delete their records.
    Delete(DeadVerbArgs),
}

impl DeadCommand {
    /// How to reach the server.
    pub fn client(&self) -> &ClientArgs {
        match self {
            Self::List(args) => &args.client,
            Self::Retry(args) | Self::Delete(args) => &args.client,
        }
    }
}

/// Which dead letters.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeadFilter {
    /// Only tasks with this name.
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Only tasks of this queue.
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// Only tasks that failed with an error of this type.
    #[arg(long, value_name = "TYPE")]
    pub error_type: Option<String>,
    /// Only tasks with this label; may be repeated.
    #[arg(long, value_name = "KEY:VALUE")]
    pub label: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DeadListArgs {
    #[command(flatten)]
    pub filter: DeadFilter,
    /// Show at most so many.
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub limit: usize,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DeadVerbArgs {
    /// The ids of the tasks.
    #[arg(value_name = "ID", value_parser = task_id, conflicts_with_all = ["all", "task", "queue", "error_type", "label"])]
    pub ids: Vec<String>,
    /// All of them.
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub filter: DeadFilter,
    /// Only count them.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}

impl DeadFilter {
    /// As query parameters and as a JSON filter.
    fn pairs(&self) -> Vec<(&'static str, &str)> {
        let one = [("task", &self.task), ("queue", &self.queue), ("error_type", &self.error_type)];
        let labels = self.label.iter().map(|label| ("label", label.as_str()));
        one.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).chain(labels).collect()
    }

    fn json(&self) -> Value {
        let mut filter = Map::new();
        for (name, value) in self.pairs().into_iter().filter(|(name, _)| *name != "label") {
            filter.insert(name.to_owned(), json!(value));
        }
        if !self.label.is_empty() {
            filter.insert("label".to_owned(), json!(self.label));
        }
        Value::Object(filter)
    }
}

/// Carries out a command.
pub(crate) async fn dead(client: &Client, command: &DeadCommand) -> Result<(), Failure> {
    match command {
        DeadCommand::List(args) => list(client, args).await,
        DeadCommand::Retry(args) => verb(client, "retry", "retried", args).await,
        DeadCommand::Delete(args) => verb(client, "delete", "deleted", args).await,
    }
}

async fn list(client: &Client, args: &DeadListArgs) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["ID", "TASK", "QUEUE", "ATTEMPTS", "FAILED AT", "ERROR"]);
    let mut path = "/v1/dead-letters?".to_owned();
    for (name, value) in args.filter.pairs() {
        path.extend([name, "=", &encoded(value), "&"]);
    }
    let (items, cursor) = client.pages(path.trim_end_matches(['?', '&']), args.limit).await?;
    if client.wants_json() {
        show::line(&json!({ "items": items, "next_cursor": cursor }).to_string());
        return Ok(());
    }
    for item in &items {
        let name = ["task", "url"].iter().find_map(|name| item[name].as_str()).unwrap_or_default();
        let error = format!("{}: {}", show::text(&item["error"], "type"), show::text(&item["error"], "message"));
        table.add_row([
            show::text(item, "id").into_owned(),
            plain(name).into_owned(),
            show::text(item, "queue").into_owned(),
            item["attempt"].to_string(),
            show::text(item, "finished_at").into_owned(),
            error,
        ]);
    }
    if items.is_empty() {
        eprintln!("{}", client.style.dim("there are no dead letters"));
    } else {
        show::table(table);
    }
    if cursor.is_some() {
        eprintln!("{}", client.style.dim("there are more; show them with --limit"));
    }
    Ok(())
}

/// Calls a bulk verb until it is done.
async fn verb(client: &Client, verb: &str, done: &str, args: &DeadVerbArgs) -> Result<(), Failure> {
    let filtered = args.all || !args.filter.pairs().is_empty();
    let mut body = if filtered {
        json!({ "filter": args.filter.json(), "dry_run": args.dry_run })
    } else if args.ids.is_empty() {
        return Err(Failure::Usage("name the tasks by their ids, by a filter such as --task, or with --all".to_owned()));
    } else {
        json!({ "ids": args.ids, "dry_run": args.dry_run })
    };
    let (mut matched, mut changed, mut failed) = (0, 0, 0);
    let mut errors: Vec<Value> = Vec::new();
    loop {
        let request = client.request(Method::POST, &format!("/v1/dead-letters:{verb}")).json(&body);
        let mut tally = client.send(request).await?.json()?;
        let count = |name: &str| tally[name].as_u64().unwrap_or_default();
        matched += count("matched");
        changed += count("changed");
        failed += count("failed");
        errors.extend(tally["errors"].as_array_mut().map(std::mem::take).unwrap_or_default());
        match tally["next_cursor"].take() {
            Value::Null => break,
            cursor => body["cursor"] = cursor,
        }
    }
    if client.wants_json() {
        let whole = json!({ "matched": matched, "changed": changed, "failed": failed, "errors": errors });
        show::line(&whole.to_string());
    } else if args.dry_run {
        show::line(&format!("{matched} found, {} would be {done}", matched.saturating_sub(failed)));
    } else {
        show::line(&format!("{matched} found, {changed} {done}"));
        for error in &errors {
            eprintln!("{}: {}", show::text(error, "id"), show::text(error, "detail"));
        }
    }
    if failed > 0 && !args.dry_run { Err(Failure::Task) } else { Ok(()) }
}
