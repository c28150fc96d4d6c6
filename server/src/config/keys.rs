//! The names of all settings, found in the defaults themselves, and the nearest one to a slip.

use figment::value::{Dict, Num, Value};

/// What kind of value a key takes, as its default shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Number,
    Bool,
    List,
    Text,
}

/// A setting.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// `limits.task_bytes`.
    pub path: String,
    pub shape: Shape,
}

impl Key {
    /// `LOVAGE_LIMITS_TASK_BYTES`.
    pub fn variable(&self) -> String {
        format!("LOVAGE_{}", self.path.replace('.', "_").to_uppercase())
    }

    /// `--listen`; not every key has a flag of its own, but all can be `--set`.
    pub fn flag(&self) -> String {
        format!("--{}", self.path.replace('_', "-"))
    }

    /// Reads a value that came as text.
    pub fn read(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match self.shape {
            Shape::Number => text.parse::<u64>().map(Value::from).map_err(|_| format!("`{text}` is not a whole number")),
            Shape::Bool => text.parse::<bool>().map(Value::from).map_err(|_| format!("`{text}` is neither true nor false")),
            Shape::List => Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect::<Vec<_>>().into()),
            Shape::Text => Ok(text.into()),
        }
    }
}

/// The keys of these defaults, tables opened.
pub(super) fn all(defaults: &Dict) -> Vec<Key> {
    let mut keys = Vec::new();
    walk("", defaults, &mut |path, value| {
        let shape = match value {
            Value::Num(_, Num::F32(_) | Num::F64(_)) | Value::String(..) | Value::Char(..) | Value::Empty(..) => Shape::Text,
            Value::Num(..) => Shape::Number,
            Value::Bool(..) => Shape::Bool,
            Value::Array(..) | Value::Dict(..) => Shape::List,
        };
        keys.push(Key { path, shape });
    });
    keys
}

/// Shows every value that is no table with its path.
pub(super) fn walk(prefix: &str, dict: &Dict, see: &mut dyn FnMut(String, &Value)) {
    for (name, value) in dict {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Dict(_, inner) => walk(&path, inner, see),
            value => see(path, value),
        }
    }
}

/// The candidate that differs in the fewest letters, if it is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let best = candidates.map(|candidate| (distance(name, candidate), candidate)).min()?;
    (best.0 <= 1 + name.len() / 4).then_some(best.1)
}

/// Letters to change, add or drop.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
