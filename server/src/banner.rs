//! What a server says when it is ready: first the address, in a line that programs read, then what a person wants to know.

use std::fmt::Write;

use crate::config::Config;
use crate::role::Role;
use crate::storage::Storage;
use crate::style::Style;

/// What there is to tell.
pub(crate) struct Facts<'a> {
    pub role: Role,
    /// Where the server listens.
    pub url: &'a str,
    pub config: &'a Config,
    pub storage: &'a Storage,
    /// The key that was made at this start.
    pub new_key: Option<&'a str>,
}

/// The whole text.
pub(crate) fn text(facts: &Facts<'_>) -> String {
    let style = Style::stdout();
    let url = facts.config.public_url.as_deref().unwrap_or(facts.url).trim_end_matches('/');
    let mut out = format!("listening on {}\n\n", facts.url);
    let what = match facts.role {
        Role::Dev => "for development: no credentials, this machine only",
        Role::Serve => "requests need a key",
        Role::Gateway => "gateway: takes requests, which need a key; dispatchers deliver",
        Role::Dispatcher => "dispatcher: delivers tasks; gateways take the requests",
    };
    line(&mut out, &format!("{} {what}", style.bold(concat!("Lovage ", env!("CARGO_PKG_VERSION")))));
    let mut row = |name: &str, value: &str| line(&mut out, &format!("{} {value}", style.dim(&format!("{name:<11}"))));
    if facts.role.takes_requests() {
        row("start page", &format!("{url}/"));
        row("API", &format!("{url}/openapi.json"));
    } else {
        row("health", &format!("{}/readyz", facts.url));
        row("reports", &format!("workers report to {url}"));
    }
    row("data", &data(facts));
    if facts.role.takes_requests() {
        let durability = &facts.storage.store.caps().durability;
        row("durability", &format!("when a task is acknowledged, {}", durability.trim_end_matches('.')));
    }
    match facts.role {
        Role::Dev => row("worker", "demo: demo.echo, demo.add, demo.sleep, demo.fail, demo.flaky"),
        Role::Serve | Role::Gateway | Role::Dispatcher if facts.config.allow_network.is_empty() => {
            row("deliveries", "public addresses only");
        }
        Role::Serve | Role::Gateway | Role::Dispatcher => {
            row("deliveries", &format!("public addresses and {}", facts.config.allow_network.join(", ")));
        }
    }
    if let Some(key) = facts.new_key {
        row("key", &style.bold(key));
        row("", "shown only now: keep it. If it gets lost, set another one with --admin-key-file");
    }
    if facts.role == Role::Dev {
        line(&mut out, "");
        line(&mut out, "Try it:");
        let body = r#"{"task":"demo.add","args":[2,3]}"#;
        line(&mut out, &format!("curl -s '{}/v1/tasks?wait=10s' -H 'content-type: application/json' -d '{body}'", facts.url));
    }
    out.push('\n');
    out
}

/// Where the data is; of a store in Redis all that tells it from others there.
fn data(facts: &Facts<'_>) -> String {
    let place = &facts.storage.place;
    if !facts.storage.is_shared() {
        return place.clone();
    }
    format!("{place}, prefix {}, {} partitions", facts.config.redis_prefix, facts.storage.store.caps().partitions)
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", format!("  {text}").trim_end());
}
