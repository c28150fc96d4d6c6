//! `lovage limits list | get | put | patch | delete | pause | resume`

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use lovage_core::units::Rate;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, encoded};
use super::patch::Unset;
use super::{ClientArgs, Failure, show};

/// What to do with limits: how often and how many at once tasks of a key start.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LimitsCommand {
    /// Show those that are stored.
    List(LimitListArgs),
    /// Show what holds for a key and how much of it is used; also `queue:NAME`, `task:NAME`, `worker:NAME`.
    Get(KeyArgs),
    /// Store what holds for all tasks of a key, whatever they say.
    Put(LimitPutArgs),
    /// Change what is stored of a key; what is not given stays as it is.
    Patch(LimitPatchArgs),
    /// Remove what is stored: what tasks say holds again.
    Delete(KeyArgs),
    /// Let no task of a key start.
    Pause(LimitPauseArgs),
    /// Let them start again.
    Resume(KeyArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LimitListArgs {
    /// Show at most so many.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub limit: usize,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KeyArgs {
    /// The key, such as `customer:42`.
    #[arg(value_name = "KEY")]
    pub name: String,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LimitPutArgs {
    #[command(flatten)]
    pub of: KeyArgs,
    #[command(flatten)]
    pub fields: LimitFields,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LimitPatchArgs {
    #[command(flatten)]
    pub of: KeyArgs,
    #[command(flatten)]
    pub fields: LimitFields,
    #[command(flatten)]
    pub unset: Unset,
}

/// What is stored of a key. Which numbers may be is the server's word.
#[derive(Clone, Debug, Args)]
pub(crate) struct LimitFields {
    /// Starts per second, minute or hour, such as `10/s`.
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    pub rate: Option<Rate>,
    /// Starts that may come at once.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub burst: Option<i64>,
    /// Tasks that may run at once; 0 stops all.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub concurrency: Option<i64>,
    /// No task starts before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub paused_until: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LimitPauseArgs {
    #[command(flatten)]
    pub of: KeyArgs,
    /// Until this time (RFC 3339) [default: until it is resumed].
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

impl LimitsCommand {
    /// How to reach the server.
    pub fn client(&self) -> &ClientArgs {
        match self {
            Self::List(args) => &args.client,
            Self::Get(args) | Self::Delete(args) | Self::Resume(args) => &args.client,
            Self::Put(args) => &args.of.client,
            Self::Patch(args) => &args.of.client,
            Self::Pause(args) => &args.of.client,
        }
    }
}

/// Carries out a command.
pub(crate) async fn limits(client: &Client, command: &LimitsCommand) -> Result<(), Failure> {
    let path = |key: &str| format!("/v1/limits/{}", encoded(key));
    let request = match command {
        LimitsCommand::List(args) => return list(client, args).await,
        LimitsCommand::Get(args) => client.request(Method::GET, &path(&args.name)),
        LimitsCommand::Put(args) => client.request(Method::PUT, &path(&args.of.name)).json(&fields(&args.fields)),
        LimitsCommand::Patch(args) => {
            client.request(Method::PATCH, &path(&args.of.name)).json(&args.unset.patch(fields(&args.fields))?)
        }
        LimitsCommand::Delete(args) => {
            client.send(client.request(Method::DELETE, &path(&args.name))).await?;
            if !client.wants_json() {
                show::line(&format!("{} deleted", crate::style::plain(&args.name)));
            }
            return Ok(());
        }
        LimitsCommand::Pause(args) => {
            client.request(Method::POST, &format!("{}/pause", path(&args.of.name))).json(&json!({ "until": args.until }))
        }
        LimitsCommand::Resume(args) => client.request(Method::POST, &format!("{}/resume", path(&args.name))),
    };
    let answer = client.send(request).await?;
    if client.wants_json() {
        show::json(&answer);
    } else {
        table(&[answer.json()?]);
    }
    Ok(())
}

fn fields(args: &LimitFields) -> Map<String, Value> {
    let fields = [
        ("rate", args.rate.map(|rate| rate.to_string().into())),
        ("burst", args.burst.map(Value::from)),
        ("concurrency", args.concurrency.map(Value::from)),
        ("paused_until", args.paused_until.clone().map(Value::from)),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

async fn list(client: &Client, args: &LimitListArgs) -> Result<(), Failure> {
    let (items, cursor) = client.pages("/v1/limits", args.limit).await?;
    if client.wants_json() {
        show::line(&json!({ "items": items, "next_cursor": cursor }).to_string());
        return Ok(());
    }
    if items.is_empty() {
        eprintln!("{}", client.style.dim("no limits are stored"));
    } else {
        table(&items);
    }
    if cursor.is_some() {
        eprintln!("{}", client.style.dim("there are more; show them with --limit"));
    }
    Ok(())
}

fn table(limits: &[Value]) {
    let mut table = Table::new();
    let header = ["KEY", "RATE", "BURST", "CONCURRENCY", "IN USE", "WAITING", "TOKENS", "NEXT AT", "PAUSED UNTIL"];
    table.load_preset(presets::NOTHING).set_header(header);
    for limit in limits {
        let rule = &limit["in_force"];
        let more = if limit["waiting_more"] == true { "+" } else { "" };
        table.add_row([
            show::text(limit, "key").into_owned(),
            show::cell(&rule["rate"]),
            show::cell(&rule["burst"]),
            show::cell(&rule["concurrency"]),
            show::cell(&limit["in_use"]),
            format!("{}{more}", show::cell(&limit["waiting"])),
            show::cell(&limit["tokens"]),
            show::cell(&limit["next_at"]),
            show::until(limit["paused"] == true, &limit["paused_until"]),
        ]);
    }
    show::table(table);
}
