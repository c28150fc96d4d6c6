//! The effective configuration, written as a configuration file that says where each value came from.

use std::fmt::Write;

use figment::value::{Dict, Empty, Value};

use super::Loaded;

impl Loaded {
    /// The whole configuration as TOML.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        let values: Dict = self.figment.extract()?;
        let mut text = String::new();
        for (name, value) in values.iter().filter(|(_, value)| value.as_dict().is_none()) {
            self.line(&mut text, name, name, value)?;
        }
        for (table, value) in &values {
            let Some(inner) = value.as_dict() else { continue };
            writeln!(text, "\n[{table}]")?;
            for (name, value) in inner {
                self.line(&mut text, &format!("{table}.{name}"), name, value)?;
            }
        }
        Ok(text)
    }

    fn line(&self, text: &mut String, path: &str, name: &str, value: &Value) -> anyhow::Result<()> {
        if matches!(value, Value::Empty(_, Empty::None | Empty::Unit)) {
            return Ok(writeln!(text, "# {name} is not set")?);
        }
        // Numbers, booleans, strings and lists of these are written alike in JSON and TOML.
        let shown = if name == "redis_url" { without_password(value) } else { serde_json::to_string(value)? };
        let assignment = format!("{name} = {shown}");
        Ok(writeln!(text, "{assignment:<40} # {}", self.source(path))?)
    }
}

/// A URL whose password may be read over a shoulder is shown without it. Lists of hosts are no URLs to a parser of URLs, so
/// it is cut out by hand.
fn without_password(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let shown = text.split_once("://").and_then(|(scheme, rest)| {
        let (who, rest) = rest.rsplit_once('@')?;
        let (user, _) = who.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{rest}"))
    });
    format!("\"{}\"", shown.unwrap_or_else(|| text.to_owned()))
}
