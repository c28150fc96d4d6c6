//! `lovage explain | tree`

use std::collections::HashMap;

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::Value;

use super::client::{Client, task_id, task_path};
use super::{ClientArgs, Failure, show};
use crate::style::plain;

#[derive(Clone, Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The task's id.
    #[arg(value_parser = task_id)]
    pub id: String,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TreeArgs {
    /// The id of any task of the tree.
    #[arg(value_parser = task_id)]
    pub id: String,
    /// Draw it for Graphviz or Mermaid instead.
    #[arg(long, value_enum)]
    pub format: Option<Picture>,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Languages in which a tree is drawn.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Picture {
    Dot,
    Mermaid,
}

/// Says why a task does not go on.
pub(crate) async fn explain(client: &Client, args: &ExplainArgs) -> Result<(), Failure> {
    let answer = client.send(client.request(Method::GET, &format!("{}/explain", task_path(&args.id)))).await?;
    if client.wants_json() {
        show::json(&answer);
        return Ok(());
    }
    let said = answer.json()?;
    show::line(&format!("{}  {}", show::text(&said, "id"), client.style.state(&show::text(&said, "state"))));
    show::line(&show::text(&said, "text"));
    Ok(())
}

/// Shows a task with all that came of it.
pub(crate) async fn tree(client: &Client, args: &TreeArgs) -> Result<(), Failure> {
    let path = format!("{}/tree", task_path(&args.id));
    let format = match args.format {
        Some(Picture::Dot) => "?format=dot",
        Some(Picture::Mermaid) => "?format=mermaid",
        None => "",
    };
    let answer = client.send(client.request(Method::GET, &format!("{path}{format}"))).await?;
    if client.wants_json() || args.format.is_some() {
        show::json(&answer);
        return Ok(());
    }
    let tree = answer.json()?;
    let nodes = tree["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let known: HashMap<&str, usize> = nodes.iter().enumerate().filter_map(|(n, node)| Some((node["id"].as_str()?, n))).collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut open: Vec<(usize, usize)> = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        // A parent comes before its children.
        match node["parent"].as_str().and_then(|parent| known.get(parent)).filter(|parent| **parent < n) {
            Some(parent) => children[*parent].push(n),
            None => open.push((n, 0)),
        }
    }
    open.reverse();
    while let Some((n, depth)) = open.pop() {
        show::line(&line(client, &nodes[n], depth, &args.id));
        open.extend(children[n].iter().rev().map(|child| (*child, depth + 1)));
    }
    if tree["truncated"] == true {
        eprintln!("{}", client.style.dim("there are more tasks than the server shows"));
    }
    Ok(())
}

fn line(client: &Client, node: &Value, depth: usize, asked: &str) -> String {
    let name = ["name", "task", "url"].iter().find_map(|name| node[name].as_str()).unwrap_or_default();
    let reason = node["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let kind = node["kind"].as_str().filter(|kind| *kind != "root").map(|kind| format!("{kind} ")).unwrap_or_default();
    let mark = if node["id"] == asked && depth > 0 { "  <" } else { "" };
    let (indent, id) = ("  ".repeat(depth), show::text(node, "id"));
    let state = client.style.state(&show::text(node, "state"));
    format!("{indent}{}{id}  {}  {state}{}{mark}", client.style.dim(&plain(&kind)), plain(name), plain(&reason))
}
