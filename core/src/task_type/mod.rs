//! Task types: what tasks of a name get when their signature does not say it, and what their arguments must look like.
//!
//! A type is a signature with fewer fields, kept as the text that was given, beside a compiled JSON Schema. The most
//! specific pattern wins. A type is applied where a signature becomes a draft ([`crate::Rules`]), whoever made it: a client,
//! a link, or a worker that spawns. What a signature says always beats its type.

mod document;
mod fill;
mod library;
mod pause;
mod schema;
#[cfg(test)]
mod tests;
mod weight;

use std::sync::Arc;

use ahash::AHashMap;

use crate::fields::Errors;
use crate::limit::LimitRule;
use crate::problem::Problem;
use crate::queue::Pause;
use crate::signature::{self, Rules, Signature};
use crate::time::Millis;
use crate::worker::closeness;

use document::Parts;
pub use document::{FIELDS, merge};
pub use library::{Library, StoredType};
pub use pause::{take_pause, with_pause};
pub use schema::{MAX_SCHEMA_BYTES, Schema};

/// The most bytes of a type's defaults, without the schema.
pub const MAX_DEFAULT_BYTES: usize = 16 << 10;

/// Defaults for the tasks that a pattern names.
#[derive(Debug)]
pub struct TaskType {
    pattern: Box<str>,
    /// A signature as JSON; empty if there are no defaults.
    defaults: Box<str>,
    schema: Option<Schema>,
    paused: Option<Pause>,
    rule: LimitRule,
    worker: Option<Box<str>>,
}

/// Which of the missing fields a type may fill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Missing {
    /// `unique` and `debounce`, which only submitted tasks have.
    pub keys: bool,
    /// `order_key`, which a task that takes the place of another has from that.
    pub order: bool,
    /// `link` and `link_error`.
    pub links: bool,
}

impl TaskType {
    /// Reads a stored document, as [`merge`] makes it, and compiles its schema.
    pub fn read(pattern: &str, text: &str) -> Result<Self, Problem> {
        let (text, paused) = take_pause(text)?;
        let text = &*text;
        let mut errors = Errors::default();
        let Parts { defaults, schema, rule, worker } = document::split(text, &mut errors)?;
        if defaults.len() > MAX_DEFAULT_BYTES {
            errors.invalid("", format!("may have at most {MAX_DEFAULT_BYTES} bytes beside args_schema"));
        }
        let schema = schema.and_then(|raw| Schema::compile(raw, "/args_schema", &mut errors));
        if !defaults.is_empty() {
            signature::read(&defaults, &mut errors)?;
        }
        if let Some(problem) = errors.problem() {
            return Err(problem);
        }
        let worker = worker.map(Into::into);
        Ok(Self { pattern: pattern.into(), defaults: defaults.into(), schema, rule, worker, paused })
    }

    /// Applies the rules of signatures to the defaults.
    pub fn check(&self, rules: &Rules<'_>) -> Result<(), Problem> {
        let mut errors = Errors::default();
        let mut signature = self.signature(&mut errors);
        // Any name will do: a type has none of its own.
        signature.task = Some("task".into());
        Rules { types: None, queues: None, ..*rules }.check(signature, errors).map(|_| ())
    }

    /// The names that it is for.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// What the arguments of its tasks must look like.
    pub fn schema(&self) -> Option<&Schema> {
        self.schema.as_ref()
    }

    /// What is closed for its tasks at this moment.
    pub fn pause(&self, now: Millis) -> Option<Pause> {
        self.paused.filter(|pause| pause.holds(now))
    }

    /// The limit of each of its task names by itself, `task:NAME`.
    pub fn rule(&self) -> LimitRule {
        self.rule
    }

    /// The worker that gets its tasks, whatever patterns say.
    pub fn worker(&self) -> Option<&str> {
        self.worker.as_deref()
    }

    /// How much it can add to a signature.
    pub(crate) fn default_bytes(&self) -> usize {
        self.defaults.len()
    }

    /// Gives a signature what it leaves out.
    pub(crate) fn fill<'a>(&'a self, signature: &mut Signature<'a>, missing: Missing, errors: &mut Errors) {
        if !self.defaults.is_empty() {
            fill::fill(signature, self.signature(errors), missing);
        }
    }

    fn signature(&self, errors: &mut Errors) -> Signature<'_> {
        if self.defaults.is_empty() {
            return Signature::default();
        }
        // It was read before, so nothing is refused.
        signature::read(&self.defaults, errors).unwrap_or_default()
    }
}

/// The task types of a namespace.
#[derive(Debug, Default)]
pub struct TaskTypes {
    exact: AHashMap<Box<str>, Arc<TaskType>>,
    /// The closest first.
    patterns: Vec<Arc<TaskType>>,
}

impl TaskTypes {
    /// A table of these types.
    pub fn new(types: impl IntoIterator<Item = Arc<TaskType>>) -> Self {
        let mut table = Self::default();
        for one in types {
            if one.pattern.contains('*') {
                table.patterns.push(one);
            } else {
                table.exact.insert(one.pattern.clone(), one);
            }
        }
        // How closely a pattern names a task does not depend on the task.
        let literal = |pattern: &str| pattern.bytes().filter(|byte| *byte != b'*').count();
        table.patterns.sort_by(|a, b| literal(&b.pattern).cmp(&literal(&a.pattern)).then_with(|| a.pattern.cmp(&b.pattern)));
        table
    }

    /// The type of a task: the exact name, then the pattern with most characters other than `*`, then the first in
    /// alphabetical order.
    pub fn of(&self, task: &str) -> Option<&TaskType> {
        let exact = self.exact.get(task);
        exact.or_else(|| self.patterns.iter().find(|one| closeness(&one.pattern, task).is_some())).map(|one| &**one)
    }

    /// The worker that a type names for this task, whatever patterns say.
    pub fn worker_of(&self, task: &str) -> Option<&str> {
        self.of(task)?.worker()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.exact.len() + self.patterns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
