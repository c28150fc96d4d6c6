//! `lovage workers list | get | put | delete | pause | resume | drain | recycle | ping | test`

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, encoded};
use super::{ClientArgs, Failure, show};

/// What to do with workers and their instances.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// Show those that are registered.
    List(WorkerListArgs),
    /// Show one, and how its instances are doing.
    Get(WorkerArgs),
    /// Register one, or replace it.
    Put(WorkerPutArgs),
    /// Remove one; its tasks wait until another serves them.
    Delete(WorkerArgs),
    /// Send it no tasks.
    Pause(WorkerPauseArgs),
    /// Send it tasks again.
    Resume(WorkerArgs),
    /// Send it no more tasks and let end what it has.
    Drain(WorkerArgs),
    /// Start its instances anew, one after the other.
    Recycle(WorkerInstanceArgs),
    /// Ask its instances whether they are there.
    Ping(WorkerInstanceArgs),
    /// Send its instances a test task that has no effect.
    Test(WorkerInstanceArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerListArgs {
    /// Show at most so many.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub limit: usize,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The worker's name.
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerPutArgs {
    #[command(flatten)]
    pub worker: WorkerArgs,
    /// Where it is; may be given several times.
    #[arg(long = "at", value_name = "URL")]
    pub urls: Vec<String>,
    /// A pattern of the tasks that it serves, such as `images.*`; may be given several times.
    #[arg(long = "task", value_name = "PATTERN", required_unless_present = "fields")]
    pub tasks: Vec<String>,
    /// Other fields, as a JSON object.
    #[arg(long, value_name = "JSON")]
    pub fields: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerPauseArgs {
    #[command(flatten)]
    pub worker: WorkerArgs,
    /// Until this time (RFC 3339) [default: until it is resumed].
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerInstanceArgs {
    #[command(flatten)]
    pub worker: WorkerArgs,
    /// Only this instance: its id, or its URL.
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
}

impl WorkersCommand {
    /// How to reach the server.
    pub fn client(&self) -> &ClientArgs {
        match self {
            Self::List(args) => &args.client,
            Self::Get(args) | Self::Delete(args) | Self::Resume(args) | Self::Drain(args) => &args.client,
            Self::Put(args) => &args.worker.client,
            Self::Pause(args) => &args.worker.client,
            Self::Recycle(args) | Self::Ping(args) | Self::Test(args) => &args.worker.client,
        }
    }
}

/// Carries out a command.
pub(crate) async fn workers(client: &Client, command: &WorkersCommand) -> Result<(), Failure> {
    let path = |worker: &WorkerArgs| format!("/v1/workers/{}", encoded(&worker.name));
    let post = |worker: &WorkerArgs, verb: &str| client.request(Method::POST, &format!("{}/{verb}", path(worker)));
    let one = |args: &WorkerInstanceArgs, verb: &str| post(&args.worker, verb).json(&json!({ "instance": args.instance }));
    let (request, shown): (_, fn(&Value)) = match command {
        WorkersCommand::List(args) => return list(client, args).await,
        WorkersCommand::Get(args) => (client.request(Method::GET, &path(args)), worker),
        WorkersCommand::Put(args) => (client.request(Method::PUT, &path(&args.worker)).json(&document(args)?), worker),
        WorkersCommand::Delete(args) => {
            client.send(client.request(Method::DELETE, &path(args))).await?;
            if !client.wants_json() {
                show::line(&format!("{} deleted", crate::style::plain(&args.name)));
            }
            return Ok(());
        }
        WorkersCommand::Pause(args) => (post(&args.worker, "pause").json(&json!({ "until": args.until })), worker),
        WorkersCommand::Resume(args) => (post(args, "resume"), worker),
        WorkersCommand::Drain(args) => (post(args, "drain"), worker),
        WorkersCommand::Recycle(args) => (one(args, "recycle"), asked),
        WorkersCommand::Ping(args) => (one(args, "ping"), called),
        WorkersCommand::Test(args) => (one(args, "test"), called),
    };
    let answer = client.send(request).await?;
    if client.wants_json() {
        show::json(&answer);
    } else {
        shown(&answer.json()?);
    }
    Ok(())
}

fn document(args: &WorkerPutArgs) -> Result<Value, Failure> {
    let text = args.fields.as_deref().unwrap_or("{}");
    let read = serde_json::from_str::<serde_json::Map<String, Value>>(text);
    let mut fields = read.map_err(|error| Failure::Usage(format!("--fields is no JSON object: {error}")))?;
    for (name, list) in [("urls", &args.urls), ("tasks", &args.tasks)] {
        if !list.is_empty() {
            fields.insert(name.to_owned(), json!(list));
        }
    }
    Ok(fields.into())
}

async fn list(client: &Client, args: &WorkerListArgs) -> Result<(), Failure> {
    let (items, cursor) = client.pages("/v1/workers", args.limit).await?;
    if client.wants_json() {
        show::line(&json!({ "items": items, "next_cursor": cursor }).to_string());
        return Ok(());
    }
    if items.is_empty() {
        eprintln!("{}", client.style.dim("no workers are registered"));
    } else {
        table(&items);
    }
    if cursor.is_some() {
        eprintln!("{}", client.style.dim("there are more; show them with --limit"));
    }
    Ok(())
}

/// A list of texts as one.
fn words(value: &Value) -> String {
    value.as_array().into_iter().flatten().map(show::cell).collect::<Vec<_>>().join(" ")
}

fn table(workers: &[Value]) {
    let mut table = Table::new();
    let header = ["NAME", "TASKS", "QUEUES", "BALANCE", "CONCURRENCY", "PAUSED UNTIL", "BECAUSE"];
    table.load_preset(presets::NOTHING).set_header(header);
    for worker in workers {
        let mut row = vec![show::text(worker, "name").into_owned(), words(&worker["tasks"]), words(&worker["queues"])];
        row.push(if worker["pull"] == true { "pull".to_owned() } else { show::cell(&worker["balance"]) });
        let because = &worker["paused_because"];
        row.extend([
            show::cell(&worker["concurrency"]),
            show::until(!because.is_null(), &worker["paused_until"]),
            show::cell(because),
        ]);
        table.add_row(row);
    }
    show::table(table);
}

/// One worker and its instances.
fn worker(worker: &Value) {
    table(std::slice::from_ref(worker));
    if let Some(secret) = worker["signing"].as_str() {
        eprintln!("its signing secret, shown only now: {}", crate::style::plain(secret));
    }
    let Some(instances) = worker["instances"].as_array().filter(|instances| !instances.is_empty()) else { return };
    let mut table = Table::new();
    let header = ["INSTANCE", "STATE", "OPEN", "SLOTS", "BAD PROBES", "TASKS", "ERRORS", "MEMORY", "SINCE"];
    table.load_preset(presets::NOTHING).set_header(header);
    for instance in instances {
        let (counters, health) = (&instance["counters"], &instance["health"]);
        let mut row: Vec<String> = ["id", "state", "open", "slots"].map(|name| show::cell(&instance[name])).into();
        row.push(show::cell(&health["failures"]));
        row.extend(["tasks", "errors", "memory", "since"].map(|name| show::cell(&counters[name])));
        table.add_row(row);
    }
    show::line("");
    show::table(table);
}

fn asked(answer: &Value) {
    let instances = answer["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    for instance in instances {
        show::line(&format!("{} is to start anew", show::cell(instance)));
    }
    if instances.is_empty() {
        eprintln!("it has no instances");
    }
}

fn called(answer: &Value) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["INSTANCE", "STATUS", "ERROR", "MILLISECONDS"]);
    for instance in answer["items"].as_array().into_iter().flatten() {
        table.add_row(["id", "status", "error", "latency_ms"].map(|name| show::cell(&instance[name])));
    }
    show::table(table);
}
