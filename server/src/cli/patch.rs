//! What `patch` sends of a document: the fields that are given, and null for those that are taken away.

use clap::Args;
use serde_json::{Map, Value};

use super::Failure;

/// Fields to take away.
#[derive(Clone, Debug, Args)]
pub(crate) struct Unset {
    /// A field to take away, such as `max_length`: its default holds again; may be given several times.
    #[arg(long, value_name = "FIELD")]
    pub unset: Vec<String>,
}

impl Unset {
    /// The change. Nothing to change, and a field both given and taken away, are mistakes.
    pub fn patch(&self, mut fields: Map<String, Value>) -> Result<Map<String, Value>, Failure> {
        for name in &self.unset {
            let name = name.replace('-', "_");
            if fields.insert(name.clone(), Value::Null).is_some_and(|given| !given.is_null()) {
                return Err(Failure::Usage(format!("{name} is given and taken away at once")));
            }
        }
        if fields.is_empty() {
            return Err(Failure::Usage("nothing to change is given".to_owned()));
        }
        Ok(fields)
    }
}
