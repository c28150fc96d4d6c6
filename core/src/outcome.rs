//! What an answer means for its task.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::answer::{BAD_OUTCOME, TaskError};
use crate::fields::Errors;
use crate::problem::Problem;
use crate::signature::{Draft, Rules, read_children};
use crate::spec::Spec;

/// The error type of an attempt that was accepted with a lease that cannot be read.
pub const BAD_LEASE: &str = "BadLease";
/// The lease of a worker that accepts a task without saying for how long.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(5 * 60);
/// The shortest lease that a worker may ask for where it can be told that it is too short.
pub const MIN_LEASE: Duration = Duration::from_millis(100);
/// The longest lease, so that no attempt is silent for ever. A longer one in an answer is taken as this; in a request it is refused.
pub const MAX_LEASE: Duration = Duration::from_secs(24 * 3600);

/// What a parent does after it spawned tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// It waits until all of them are final and is called again with their results.
    #[default]
    Wait,
    /// It goes its own way.
    Detach,
}

/// What an answer means for the task. `S` is a signature inside it: [`Bytes`] as the worker wrote it ([`RawOutcome`]), or
/// a [`Draft`] once the rules were applied.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<S = Draft> {
    /// The worker did it.
    Success {
        /// The worker's content type.
        content_type: Option<String>,
        /// The result; `None` is null.
        body: Option<Bytes>,
    },
    /// The worker took it and will report to the attempt URL.
    Accepted {
        /// How long it may be silent; none: [`DEFAULT_LEASE`].
        lease: Option<Duration>,
    },
    /// The attempt failed and is charged; the retry policy decides.
    Retry {
        /// When the worker wants the next one, instead of the policy's delay.
        after: Option<Duration>,
        /// What went wrong.
        error: TaskError,
    },
    /// As [`Outcome::Retry`], but the time limit ended the attempt, which is the reason shown if it was the last.
    TimedOut {
        /// What went wrong.
        error: TaskError,
    },
    /// Not now: the worker is slowed down, the attempt is not charged.
    Throttled {
        /// For how long, if the worker said so.
        after: Option<Duration>,
        /// What it answered.
        error: TaskError,
    },
    /// The endpoint is at fault, not the task: its breaker counts it, the attempt is not charged.
    Endpoint {
        /// What went wrong.
        error: TaskError,
    },
    /// Another attempt is useless: the task has failed.
    Permanent {
        /// What went wrong.
        error: TaskError,
    },
    /// The worker wants to see the task later; the attempt is not charged.
    Snooze {
        /// How much later.
        after: Duration,
    },
    /// The worker calls the task off.
    Cancel,
    /// The worker starts other tasks.
    Spawn {
        /// At least one.
        tasks: Vec<S>,
        /// Whether the task waits for them or has succeeded.
        then: Then,
        /// With [`Then::Detach`]: its result as JSON; `None` is null.
        result: Option<Bytes>,
    },
    /// Another signature takes the place of this one, under the same id.
    Replace {
        /// It.
        replacement: Box<S>,
    },
}

impl Outcome {
    /// Refuses signatures that cannot stand beside that of the task itself.
    pub fn fits(&self, spec: &Spec) -> Result<(), Problem> {
        match self {
            // Its id stays, and with it where it lives: another key would belong elsewhere.
            Self::Replace { replacement }
                if replacement.spec.order_key.is_some() && replacement.spec.order_key != spec.order_key =>
            {
                let message = "must be that of the task that is replaced, which keeps its place in the order; leave it out, or spawn a \
                               task with this key";
                Err(Problem::invalid("/replacement/order_key", message))
            }
            Self::Spawn { tasks, then: Then::Wait, .. } if spec.order_key.is_some() => {
                let Some(n) = tasks.iter().position(|task| task.spec.order_key == spec.order_key) else { return Ok(()) };
                let message = "is that of the task itself, which keeps its place in the order while it waits, so neither would ever go \
                               on; give another key, or spawn it with then: \"detach\"";
                Err(Problem::invalid(format!("/tasks/{n}/order_key"), message))
            }
            _ => Ok(()),
        }
    }
}

/// An outcome with the signatures as the worker wrote them.
pub type RawOutcome = Outcome<Bytes>;

impl RawOutcome {
    /// A charged failure of an answer that cannot be read.
    pub fn bad(reason: impl Into<String>) -> Self {
        Self::Retry { after: None, error: TaskError::new(BAD_OUTCOME, reason) }
    }

    /// The end of an attempt whose answer, or a line or result in it, has more than `limit` bytes. The work was done, and doing
    /// it again gives the same.
    pub fn too_large(limit: usize) -> Self {
        Self::Permanent {
            error: TaskError::new("ResultTooLarge", format!("the answer has more than the {limit} bytes that are taken")),
        }
    }

    /// With the status of the answer in its error, if it has one.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        if let Self::Retry { error, .. } | Self::Permanent { error } = &mut self {
            error.status = Some(status);
        }
        self
    }

    /// Applies the rules to the signatures in it. What is refused makes it a charged failure that says what and where.
    pub fn read(self, rules: &Rules<'_>) -> Outcome {
        match self {
            Self::Spawn { tasks, then, result } => match read_children(&tasks, rules) {
                Ok(tasks) => Outcome::Spawn { tasks, then, result },
                Err(error) => Outcome::Retry { after: None, error },
            },
            Self::Replace { replacement } => {
                let mut errors = Errors::default();
                let draft = rules.replacement(&replacement, "/replacement", &mut errors);
                match (draft, crate::signature::refused(errors)) {
                    (Some(draft), None) => Outcome::Replace { replacement: Box::new(draft) },
                    (_, error) => {
                        let error = error.unwrap_or_else(|| TaskError::new(BAD_OUTCOME, "/replacement: is not valid"));
                        Outcome::Retry { after: None, error }
                    }
                }
            }
            Self::Success { content_type, body } => Outcome::Success { content_type, body },
            Self::Accepted { lease } => Outcome::Accepted { lease },
            Self::Retry { after, error } => Outcome::Retry { after, error },
            Self::TimedOut { error } => Outcome::TimedOut { error },
            Self::Throttled { after, error } => Outcome::Throttled { after, error },
            Self::Endpoint { error } => Outcome::Endpoint { error },
            Self::Permanent { error } => Outcome::Permanent { error },
            Self::Snooze { after } => Outcome::Snooze { after },
            Self::Cancel => Outcome::Cancel,
        }
    }
}
