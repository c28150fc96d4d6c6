//! Answers for people, and the server's JSON for programs.

use std::borrow::Cow;
use std::io::Write;

use comfy_table::{Table, presets};
use http::StatusCode;
use serde_json::Value;

use super::Failure;
use super::client::{Answer, Client};
use crate::style::plain;

/// A line to standard output. Whoever has closed it (`lovage get ID | head -1`) has read enough, which is no error.
macro_rules! say {
    ($($text:tt)*) => { drop(writeln!(std::io::stdout(), $($text)*)) };
}

/// Fields of a record in the order in which they are shown. Those that are absent or null are left out.
const FIELDS: [&str; 20] = [
    "id",
    "name",
    "task",
    "url",
    "state",
    "reason",
    "queue",
    "priority",
    "attempt",
    "attempts_left",
    "worker",
    "created_at",
    "due_at",
    "started_at",
    "finished_at",
    "expires_at",
    "labels",
    "error",
    "progress",
    "result",
];

/// A task was submitted and nobody waits for it.
pub(super) fn submitted(client: &Client, answer: &Answer, record: &Value) {
    if client.wants_json() {
        json(answer);
        return;
    }
    let id = text(record, "id");
    say!("{id}  {}", client.style.state(&text(record, "state")));
    eprintln!("{}", client.style.dim(&format!("wait for it: lovage wait {id}")));
}

/// The whole record.
pub(super) fn record(client: &Client, answer: &Answer, record: &Value) {
    if client.wants_json() {
        json(answer);
        return;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for name in FIELDS {
        if name == "result" && record.get(name).is_none() && record["state"] == "succeeded" {
            table.add_row([client.style.dim(name), format!("(read it with `lovage result {}`)", text(record, "id"))]);
            continue;
        }
        let value = &record[name];
        let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
        if empty && !(name == "result" && record["state"] == "succeeded") {
            continue;
        }
        let shown = match (name, value.as_str()) {
            ("state", Some(state)) => client.style.state(&plain(state)),
            ("error", _) => error(value),
            (_, Some(text)) if name != "result" => plain(text).into_owned(),
            _ => plain(&value.to_string()).into_owned(),
        };
        table.add_row([client.style.dim(name), shown]);
    }
    self::table(table);
}

/// A table without lines.
pub(super) fn table(mut table: Table) {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    say!("{}", table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
}

/// A line for people.
pub(super) fn line(text: &str) {
    say!("{text}");
}

/// A task is final: its result to standard output if it succeeded, else why not, and exit code 1.
pub(super) fn ended(client: &Client, answer: &Answer, record: &Value) -> Result<(), Failure> {
    let (id, state) = (text(record, "id"), text(record, "state"));
    let succeeded = state == "succeeded";
    if client.wants_json() {
        json(answer);
        return if succeeded { Ok(()) } else { Err(Failure::Task) };
    }
    if succeeded {
        // A result that is large or no JSON is not part of the record.
        match record.get("result") {
            Some(result) => say!("{id}  {}  {}", client.style.state(&state), plain(&result.to_string())),
            None => say!("{id}  {}  (read it with `lovage result {id}`)", client.style.state(&state)),
        }
        return Ok(());
    }
    say!("{id}  {}  {}", client.style.state(&state), text(record, "reason"));
    let why = &record["error"];
    if why.is_object() {
        eprintln!("{}", error(why));
    }
    Err(Failure::Task)
}

/// The time was over before the task was final.
pub(super) fn timed_out(client: &Client, answer: &Answer, record: &Value) -> Result<(), Failure> {
    let (id, state) = (text(record, "id"), text(record, "state"));
    if client.wants_json() {
        json(answer);
    } else {
        say!("{id}  {}", client.style.state(&state));
    }
    let hint = match &*text(record, "reason") {
        "no_worker" => "; no worker serves it: register one with PUT /v1/workers/NAME".to_owned(),
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    Err(Failure::TimedOut(format!("task {id} is still {state}{hint}; it goes on, wait for it with `lovage wait {id}`")))
}

/// Where a task is after a change.
pub(super) fn state(client: &Client, answer: &Answer, record: &Value) {
    if client.wants_json() {
        json(answer);
        return;
    }
    let held = if record["held"] == true { "  held" } else { "" };
    say!("{}  {}{held}", text(record, "id"), client.style.state(&text(record, "state")));
}

/// A cancel was taken.
pub(super) fn canceled(client: &Client, answer: &Answer, record: &Value) {
    if client.wants_json() {
        json(answer);
        return;
    }
    let id = text(record, "id");
    say!("{id}  {}", client.style.state(&text(record, "state")));
    if answer.status == StatusCode::ACCEPTED {
        eprintln!("{}", client.style.dim(&format!("its worker is being asked to stop; see the end with: lovage wait {id}")));
    }
}

/// The answer's body as it came.
pub(super) fn json(answer: &Answer) {
    say!("{}", String::from_utf8_lossy(&answer.body).trim_end());
}

/// A text of the record, fit for a terminal.
pub(super) fn text<'a>(record: &'a Value, name: &str) -> Cow<'a, str> {
    plain(record[name].as_str().unwrap_or_default())
}

/// A value in a table; null is nothing.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text).into_owned(),
        other => plain(&other.to_string()).into_owned(),
    }
}

/// Until when something is paused, as it stands in a table.
pub(super) fn until(is_paused: bool, until: &Value) -> String {
    if is_paused && until.is_null() { "until resumed".to_owned() } else { cell(until) }
}

/// `1 task`, `2 tasks`.
pub(super) fn count(n: &Value, what: &str) -> String {
    format!("{} {what}{}", cell(n), if *n == 1 { "" } else { "s" })
}

/// `Type: message`.
fn error(value: &Value) -> String {
    format!("{}: {}", text(value, "type"), text(value, "message"))
}
