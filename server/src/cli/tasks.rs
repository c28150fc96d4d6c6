//! `lovage get | result | wait | cancel`

use std::io::Write;

use clap::Args;
use http::StatusCode;
use lovage_core::units::Dur;
use reqwest::Method;
use serde_json::json;

use super::client::{Client, task_id, task_path};
use super::{ClientArgs, Failure, show};

#[derive(Clone, Debug, Args)]
pub(crate) struct GetArgs {
    /// The task's id.
    #[arg(value_parser = task_id)]
    pub id: String,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ResultArgs {
    /// The task's id.
    #[arg(value_parser = task_id)]
    pub id: String,
    /// Wait until the task is final, at most this long.
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<Dur>,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WaitArgs {
    /// The task's id.
    #[arg(value_parser = task_id)]
    pub id: String,
    /// Give up after this long.
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Dur>,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CancelArgs {
    /// The task's id.
    #[arg(value_parser = task_id)]
    pub id: String,
    /// Cut a running attempt off at once instead of asking the worker first.
    #[arg(long)]
    pub hard: bool,
    /// Leave alone what the task has started.
    #[arg(long)]
    pub no_cascade: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Shows the record.
pub(crate) async fn get(client: &Client, args: &GetArgs) -> Result<(), Failure> {
    let answer = client.send(client.request(Method::GET, &task_path(&args.id))).await?;
    show::record(client, &answer, &answer.json()?);
    Ok(())
}

/// Writes the result as the worker gave it.
pub(crate) async fn result(client: &Client, args: &ResultArgs) -> Result<(), Failure> {
    if let Some(wait) = args.wait {
        let (answer, is_final) = client.wait_final(&args.id, Some(wait.get())).await?;
        if !is_final {
            return show::timed_out(client, &answer, &answer.json()?);
        }
    }
    let answer = client.send(client.request(Method::GET, &format!("{}/result", task_path(&args.id)))).await?;
    if answer.status == StatusCode::ACCEPTED {
        return Err(Failure::Refused(format!("there is no result yet; wait for it with `lovage result {} --wait 60s`", args.id)));
    }
    let written = std::io::stdout().write_all(&answer.body).and_then(|()| std::io::stdout().flush());
    written.map_err(|error| Failure::Refused(format!("cannot write the result: {error}")))
}

/// Waits until the task is final.
pub(crate) async fn wait(client: &Client, args: &WaitArgs) -> Result<(), Failure> {
    let (answer, is_final) = client.wait_final(&args.id, args.timeout.map(Dur::get)).await?;
    let record = answer.json()?;
    if is_final { show::ended(client, &answer, &record) } else { show::timed_out(client, &answer, &record) }
}

/// Cancels the task.
pub(crate) async fn cancel(client: &Client, args: &CancelArgs) -> Result<(), Failure> {
    let body = json!({ "mode": if args.hard { "hard" } else { "soft" }, "cascade": !args.no_cascade });
    let answer = client.send(client.request(Method::POST, &format!("{}/cancel", task_path(&args.id))).json(&body)).await?;
    show::canceled(client, &answer, &answer.json()?);
    Ok(())
}
