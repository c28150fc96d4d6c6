//! `lovage nodes`, `lovage nodes drain | resume | fence`

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, encoded};
use super::{ClientArgs, Failure, show};

/// The processes of the cluster.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NodesArgs {
    #[command(subcommand)]
    pub verb: Option<NodeVerb>,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// Let a node take nothing new: others take its partitions, its open attempts end.
    Drain(NodeArgs),
    /// Let a drained node work again.
    Resume(NodeArgs),
    /// End the lease of a node that is dead, so that its attempts are made again at once.
    Fence(FenceArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct NodeArgs {
    /// The node's id.
    #[arg(value_name = "ID")]
    pub id: String,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FenceArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// Although it was heard of just now. If it still works, its attempts run twice for a moment.
    #[arg(long)]
    pub force: bool,
}

impl NodesArgs {
    /// How to reach the server.
    pub fn client(&self) -> &ClientArgs {
        match &self.verb {
            None => &self.client,
            Some(NodeVerb::Drain(args) | NodeVerb::Resume(args)) => &args.client,
            Some(NodeVerb::Fence(args)) => &args.node.client,
        }
    }
}

/// Carries out a command.
pub(crate) async fn nodes(client: &Client, args: &NodesArgs) -> Result<(), Failure> {
    let (id, verb, body) = match &args.verb {
        None => return list(client).await,
        Some(NodeVerb::Drain(node)) => (&node.id, "drain", json!({})),
        Some(NodeVerb::Resume(node)) => (&node.id, "resume", json!({})),
        Some(NodeVerb::Fence(fence)) => (&fence.node.id, "fence", json!({ "force": fence.force })),
    };
    let path = format!("/v1/nodes/{}/{verb}", encoded(id));
    let answer = client.send(client.request(Method::POST, &path).json(&body)).await?;
    if client.wants_json() {
        show::json(&answer);
    } else {
        let node = answer.json()?;
        show::line(&format!("{} ({}) is {}", show::text(&node, "id"), show::text(&node, "name"), show::text(&node, "state")));
    }
    Ok(())
}

async fn list(client: &Client) -> Result<(), Failure> {
    let answer = client.send(client.request(Method::GET, "/v1/nodes")).await?;
    if client.wants_json() {
        show::json(&answer);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["ID", "NAME", "ROLES", "VERSION", "STATE", "SINCE", "SILENT", "PARTITIONS"]);
    for node in answer.json()?["items"].as_array().into_iter().flatten() {
        let all = |name: &str, between: &str| {
            let words = node[name].as_array().into_iter().flatten();
            words.map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned)).collect::<Vec<_>>().join(between)
        };
        let mut row: Vec<String> =
            vec![show::text(node, "id").into_owned(), show::text(node, "name").into_owned(), all("roles", " ")];
        row.extend(["version", "state", "started_at", "silent_for"].map(|name| show::text(node, name).into_owned()));
        row.push(match &node["partitions"] {
            Value::Array(partitions) if partitions.is_empty() => "none".to_owned(),
            _ => all("partitions", " "),
        });
        table.add_row(row);
    }
    show::table(table);
    Ok(())
}
