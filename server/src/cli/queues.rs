//! `lovage queues list | get | put | patch | delete | pause | resume | drain | purge | stats`

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use lovage_core::units::{Dur, Rate};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, encoded};
use super::patch::Unset;
use super::{ClientArgs, Failure, show};
use crate::style::plain;

/// What to do with queues.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum QueuesCommand {
    /// Show all queues.
    List(QueueListArgs),
    /// Show a queue.
    Get(QueueArgs),
    /// Set up a queue; what is not given is taken away.
    Put(Box<QueuePutArgs>),
    /// Change settings of a queue; what is not given stays as it is.
    Patch(Box<QueuePatchArgs>),
    /// Remove a queue that is empty; of `default` only its settings.
    Delete(QueueArgs),
    /// Let its waiting tasks wait, or refuse new ones.
    Pause(QueuePauseArgs),
    /// End a pause or a drain.
    Resume(QueueArgs),
    /// Refuse new tasks and deliver the rest.
    Drain(QueueArgs),
    /// Cancel all tasks that wait in it.
    Purge(QueueArgs),
    /// Show what is in it.
    Stats(QueueArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct QueueListArgs {
    /// Show at most so many.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub limit: usize,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct QueueArgs {
    /// Its name.
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct QueuePutArgs {
    #[command(flatten)]
    pub queue: QueueArgs,
    #[command(flatten)]
    pub fields: QueueFields,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct QueuePatchArgs {
    #[command(flatten)]
    pub queue: QueueArgs,
    #[command(flatten)]
    pub fields: QueueFields,
    #[command(flatten)]
    pub unset: Unset,
}

/// The settings of a queue. Which numbers may be is the server's word.
#[derive(Clone, Debug, Args)]
pub(crate) struct QueueFields {
    /// Starts per second, minute or hour, such as `10/s`.
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    pub rate: Option<Rate>,
    /// Starts that may come at once.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub burst: Option<i64>,
    /// Tasks that may run at once.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub concurrency: Option<i64>,
    /// Tasks that may wait in it.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_length: Option<i64>,
    /// What happens to a task that would be one more.
    #[arg(long, value_name = "WHAT", value_parser = ["reject", "drop_oldest"])]
    pub on_full: Option<String>,
    /// No attempt of a task starts later than this after it could have started.
    #[arg(long, value_name = "TIME")]
    pub max_age: Option<Dur>,
    /// Of the open request of one attempt.
    #[arg(long, value_name = "TIME")]
    pub time_limit: Option<Dur>,
    /// After this long of an attempt its worker is told to come to an end.
    #[arg(long, value_name = "TIME")]
    pub soft_time_limit: Option<Dur>,
    /// Of an attempt in all once it was accepted.
    #[arg(long, value_name = "TIME")]
    pub max_run: Option<Dur>,
    /// How long finished tasks are kept.
    #[arg(long, value_name = "TIME")]
    pub retention: Option<Dur>,
    /// The worker of all its tasks.
    #[arg(long, value_name = "NAME")]
    pub worker: Option<String>,
    /// In which order its tasks start.
    #[arg(long, value_name = "ORDER", value_parser = ["priority", "fifo", "fair"])]
    pub order: Option<String>,
    /// A retry policy as JSON.
    #[arg(long, value_name = "JSON", value_parser = policy)]
    pub retry: Option<Value>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct QueuePauseArgs {
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Refuse new tasks as well.
    #[arg(long)]
    pub intake: bool,
    /// Go on starting those that wait.
    #[arg(long, requires = "intake")]
    pub no_dispatch: bool,
    /// Until this time (RFC 3339) [default: until it is resumed].
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

fn policy(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

impl QueuesCommand {
    /// How to reach the server.
    pub fn client(&self) -> &ClientArgs {
        match self {
            Self::List(args) => &args.client,
            Self::Put(args) => &args.queue.client,
            Self::Patch(args) => &args.queue.client,
            Self::Pause(args) => &args.queue.client,
            Self::Get(args)
            | Self::Delete(args)
            | Self::Resume(args)
            | Self::Drain(args)
            | Self::Purge(args)
            | Self::Stats(args) => &args.client,
        }
    }
}

/// Carries out a command.
pub(crate) async fn queues(client: &Client, command: &QueuesCommand) -> Result<(), Failure> {
    let request =
        |method, args: &QueueArgs, verb: &str| client.request(method, &format!("/v1/queues/{}{verb}", encoded(&args.queue)));
    let request = match command {
        QueuesCommand::List(args) => return list(client, args).await,
        QueuesCommand::Get(args) => request(Method::GET, args, ""),
        QueuesCommand::Put(args) => request(Method::PUT, &args.queue, "").json(&fields(&args.fields)),
        QueuesCommand::Patch(args) => request(Method::PATCH, &args.queue, "").json(&args.unset.patch(fields(&args.fields))?),
        QueuesCommand::Delete(args) => request(Method::DELETE, args, ""),
        QueuesCommand::Pause(args) => {
            let pause = json!({ "intake": args.intake, "dispatch": !args.no_dispatch, "until": args.until });
            request(Method::POST, &args.queue, "/pause").json(&pause)
        }
        QueuesCommand::Resume(args) => request(Method::POST, args, "/resume"),
        QueuesCommand::Drain(args) => request(Method::POST, args, "/drain"),
        QueuesCommand::Purge(args) => request(Method::POST, args, "/purge"),
        QueuesCommand::Stats(args) => request(Method::GET, args, "/stats"),
    };
    let answer = client.send(request).await?;
    match command {
        QueuesCommand::Delete(args) if !client.wants_json() && args.queue == lovage_core::spec::DEFAULT_QUEUE => {
            show::line("default has no settings any more; its tasks are still there");
        }
        QueuesCommand::Delete(args) if !client.wants_json() => show::line(&format!("{} deleted", plain(&args.queue))),
        QueuesCommand::Delete(_) => {}
        _ if client.wants_json() => show::json(&answer),
        QueuesCommand::Purge(_) => show::line(&format!("{} canceled", show::count(&answer.json()?["count"], "task"))),
        QueuesCommand::Stats(_) => stats(&answer.json()?),
        _ => table(&[answer.json()?]),
    }
    Ok(())
}

fn fields(args: &QueueFields) -> Map<String, Value> {
    let time = |time: Option<Dur>| time.map(|time| time.to_string().into());
    let fields = [
        ("rate", args.rate.map(|rate| rate.to_string().into())),
        ("burst", args.burst.map(Value::from)),
        ("concurrency", args.concurrency.map(Value::from)),
        ("max_length", args.max_length.map(Value::from)),
        ("on_full", args.on_full.clone().map(Value::from)),
        ("max_age", time(args.max_age)),
        ("time_limit", time(args.time_limit)),
        ("soft_time_limit", time(args.soft_time_limit)),
        ("max_run", time(args.max_run)),
        ("retention", time(args.retention)),
        ("worker", args.worker.clone().map(Value::from)),
        ("order", args.order.clone().map(Value::from)),
        ("retry", args.retry.clone()),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

async fn list(client: &Client, args: &QueueListArgs) -> Result<(), Failure> {
    let (items, cursor) = client.pages("/v1/queues", args.limit).await?;
    if client.wants_json() {
        show::line(&json!({ "items": items, "next_cursor": cursor }).to_string());
        return Ok(());
    }
    table(&items);
    if cursor.is_some() {
        eprintln!("{}", client.style.dim("there are more; show them with --limit"));
    }
    Ok(())
}

fn table(queues: &[Value]) {
    let mut table = Table::new();
    let header = ["QUEUE", "ORDER", "RATE", "CONCURRENCY", "MAX LENGTH", "ON FULL", "WORKER", "PAUSED", "UNTIL"];
    table.load_preset(presets::NOTHING).set_header(header);
    for queue in queues {
        let paused = &queue["paused"];
        let closed: Vec<&str> = ["intake", "dispatch"].into_iter().filter(|what| paused[what] == true).collect();
        let mut row = vec![show::text(queue, "name").into_owned()];
        row.extend(["order", "rate", "concurrency", "max_length", "on_full", "worker"].map(|name| show::cell(&queue[name])));
        let until = show::until(!closed.is_empty(), &paused["until"]);
        row.extend([closed.join(" "), until]);
        table.add_row(row);
    }
    show::table(table);
}

fn stats(stats: &Value) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["STATE", "TASKS"]);
    for (state, tasks) in stats["depth"].as_object().into_iter().flatten() {
        table.add_row([plain(state).into_owned(), show::cell(tasks)]);
    }
    for (what, name) in [("oldest", "oldest_age"), ("in a second", "in_rate"), ("out a second", "out_rate")] {
        table.add_row([what.to_owned(), show::cell(&stats[name])]);
    }
    show::table(table);
}
