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

/// A URL whose password may be read over a shoulder is shown without it.
fn without_password(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let mut shown = text.to_owned();
    if let Ok(mut url) = url::Url::parse(text)
        && url.password().is_some()
        && url.set_password(Some("***")).is_ok()
    {
        shown = url.to_string();
    }
    format!("\"{shown}\"")
}
