//! `lovage submit`

use std::io::{IsTerminal, Read};
use std::path::Path;

use clap::Args;
use lovage_core::units::Dur;
use reqwest::{Method, RequestBuilder};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::client::{Client, is_final, wait_query};
use super::{ClientArgs, Failure, show};

/// What to submit.
#[derive(Clone, Debug, Args)]
pub(crate) struct SubmitArgs {
    /// The task's name, such as `demo.add`; with --to it may be left out.
    #[arg(value_name = "TASK", required_unless_present = "to")]
    pub task: Option<String>,
    /// Positional arguments: a JSON array.
    #[arg(long, value_name = "JSON", conflicts_with = "payload", allow_hyphen_values = true)]
    pub args: Option<String>,
    /// Named arguments: a JSON object.
    #[arg(long, value_name = "JSON", conflicts_with = "payload")]
    pub kwargs: Option<String>,
    /// The body to deliver: JSON, `@FILE`, or `-` for standard input.
    #[arg(long, value_name = "-|@FILE|JSON", allow_hyphen_values = true)]
    pub payload: Option<String>,
    /// The payload is not JSON: it is delivered as it is, as `text/plain`.
    #[arg(long, requires = "payload", conflicts_with = "max_attempts")]
    pub text: bool,
    /// Deliver to this URL instead of a registered worker.
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// The queue [default: default].
    #[arg(long)]
    pub queue: Option<String>,
    /// Not before this long from now, such as `90s` or `1h30m`.
    #[arg(long, value_name = "DURATION")]
    pub delay: Option<Dur>,
    /// Not before this time (RFC 3339).
    #[arg(long, value_name = "TIME", conflicts_with = "delay")]
    pub eta: Option<String>,
    /// Never started after this long from now.
    #[arg(long, value_name = "DURATION")]
    pub expires_in: Option<Dur>,
    /// 0 to 9, higher first [default: 4].
    #[arg(long)]
    pub priority: Option<u8>,
    /// An id of one's own: submitting it again answers the same task.
    #[arg(long)]
    pub id: Option<String>,
    /// A label; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// The longest one attempt may take.
    #[arg(long, value_name = "DURATION")]
    pub time_limit: Option<Dur>,
    /// The most attempts that are charged.
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<u32>,
    /// Wait until the task is final, at most this long.
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<Dur>,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Submits the task and shows what became of it.
pub(crate) async fn submit(client: &Client, args: &SubmitArgs) -> Result<(), Failure> {
    let query = args.wait.map(|wait| wait_query(wait.get())).unwrap_or_default();
    let request = client.request(Method::POST, &format!("/v1/tasks{query}"));
    let started = std::time::Instant::now();
    let request = if args.text {
        as_text(request, args)?
    } else {
        request.header("content-type", "application/json").body(signature(args)?)
    };
    let answer = client.send(request).await.map_err(once_only)?;
    let record = answer.json()?;
    let Some(wait) = args.wait else {
        show::submitted(client, &answer, &record);
        return Ok(());
    };
    if is_final(&record) {
        return show::ended(client, &answer, &record);
    }
    let id = record["id"].as_str().unwrap_or_default();
    let left = wait.get().saturating_sub(started.elapsed());
    let (answer, is_final) = client.wait_final(id, Some(left)).await?;
    let record = answer.json()?;
    if is_final { show::ended(client, &answer, &record) } else { show::timed_out(client, &answer, &record) }
}

/// A refusal that passes, with what makes it safe to repeat.
fn once_only(failure: Failure) -> Failure {
    match failure {
        Failure::Refused(said) if said.ends_with(super::client::LATER) => {
            Failure::Refused(format!("{said}; the same --id makes sure that it is not done twice"))
        }
        other => other,
    }
}

/// The payload as the body, and everything else as headers.
fn as_text(request: RequestBuilder, args: &SubmitArgs) -> Result<RequestBuilder, Failure> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let mut request = request.header("content-type", "text/plain; charset=utf-8");
    for (name, value) in scalars(args) {
        request = request.header(format!("lovage-{}", name.replace('_', "-")), text(&value).as_bytes());
    }
    for (key, value) in labels(&args.labels)? {
        if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(Failure::Usage(format!("--label {key}: with --text a label's key is lower case")));
        }
        request = request.header(format!("lovage-label-{key}"), text(&value).as_bytes());
    }
    Ok(request.body(payload(args.payload.as_deref().unwrap_or_default())?))
}

/// The fields that are one value.
fn scalars(args: &SubmitArgs) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    set("task", args.task.clone().map(Value::from));
    set("url", args.to.clone().map(Value::from));
    set("queue", args.queue.clone().map(Value::from));
    set("delay", args.delay.map(|delay| delay.to_string().into()));
    set("eta", args.eta.clone().map(Value::from));
    set("expires_in", args.expires_in.map(|expiry| expiry.to_string().into()));
    set("priority", args.priority.map(Value::from));
    set("id", args.id.clone().map(Value::from));
    set("time_limit", args.time_limit.map(|limit| limit.to_string().into()));
    fields
}

/// The signature as text. A JSON payload is not rewritten: it goes in as it was given.
fn signature(args: &SubmitArgs) -> Result<String, Failure> {
    let mut fields = scalars(args);
    fields.extend(args.max_attempts.map(|most| ("retry".to_owned(), json!({ "max_attempts": most }))));
    let labels = labels(&args.labels)?;
    if !labels.is_empty() {
        fields.insert("labels".to_owned(), labels.into());
    }
    let mut members: Vec<String> = fields.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    for (name, text) in [("args", &args.args), ("kwargs", &args.kwargs)] {
        if let Some(text) = text {
            members.push(format!("\"{name}\":{}", raw(&format!("--{name}"), text, "")?));
        }
    }
    if let Some(text) = &args.payload {
        members.push(format!("\"payload\":{}", raw("--payload", &payload(text)?, "; --text sends it as it is")?));
    }
    Ok(format!("{{{}}}", members.join(",")))
}

/// Checked JSON, with its digits and order as they were given. What else can be done is a `hint`.
fn raw(flag: &str, text: &str, hint: &str) -> Result<Box<RawValue>, Failure> {
    serde_json::from_str(text.trim()).map_err(|error| {
        Failure::Usage(format!(
            "{flag} is not JSON: {error}; text needs its own quotes, as in {flag} '\"text\"', and a list is '[2,3]'{hint}"
        ))
    })
}

fn payload(text: &str) -> Result<String, Failure> {
    let unread = |from: &dyn std::fmt::Display, error| Failure::Usage(format!("--payload: cannot read {from}: {error}"));
    match (text, text.strip_prefix('@')) {
        ("-", _) => {
            let mut stdin = std::io::stdin();
            if stdin.is_terminal() {
                eprintln!("reading the payload from the keyboard; end it with ctrl-d");
            }
            let mut read = String::new();
            stdin.read_to_string(&mut read).map_err(|error| unread(&"standard input", error))?;
            Ok(read)
        }
        (_, Some(file)) => std::fs::read_to_string(file).map_err(|error| unread(&Path::new(file).display(), error)),
        (json, None) => Ok(json.to_owned()),
    }
}

fn labels(items: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut labels = Map::new();
    for item in items {
        let (key, value) =
            item.split_once('=').ok_or_else(|| Failure::Usage(format!("--label {item}: write it as KEY=VALUE")))?;
        labels.insert(key.to_owned(), value.into());
    }
    Ok(labels)
}
