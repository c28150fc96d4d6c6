//! `lovage run-now | retry | hold | release | replay`

use clap::Args;
use reqwest::Method;
use serde::Serialize;
use serde_json::value::RawValue;

use super::client::{Client, task_id, task_path};
use super::{ClientArgs, Failure, show};

#[derive(Clone, Debug, Args)]
pub(crate) struct VerbArgs {
    /// The task's id.
    #[arg(value_parser = task_id)]
    pub id: String,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The task's id.
    #[arg(value_parser = task_id)]
    pub id: String,
    /// Fields of a signature that take the place of the stored ones; null removes one.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub edits: String,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Serialize)]
struct Replay<'a> {
    edits: &'a RawValue,
}

/// Lets the server do `verb` to the task.
pub(crate) async fn verb(client: &Client, args: &VerbArgs, verb: &str) -> Result<(), Failure> {
    let answer = client.send(client.request(Method::POST, &format!("{}/{verb}", task_path(&args.id)))).await?;
    show::state(client, &answer, &answer.json()?);
    Ok(())
}

/// Submits the task again as a new one.
pub(crate) async fn replay(client: &Client, args: &ReplayArgs) -> Result<(), Failure> {
    // Sent as it was written, with all digits of its numbers.
    let edits: &RawValue =
        serde_json::from_str(&args.edits).map_err(|error| Failure::Usage(format!("--edits is not JSON: {error}")))?;
    let request = client.request(Method::POST, &format!("{}/replay", task_path(&args.id)));
    let answer = client.send(request.json(&Replay { edits })).await?;
    show::submitted(client, &answer, &answer.json()?);
    Ok(())
}
