//! One verb for many tasks, found by a filter or named by their ids (API: Conventions, Bulk verbs).
//!
//! A call does a bounded amount of work and says where the next one goes on; no job runs in the background that could be
//! lost or would have to be watched. Every task is changed by `decide` and a guarded commit of its own, as the verbs for one
//! task do it, so a call that breaks off has done a part and can be repeated.

mod apply;
mod read;
mod replay;
mod run;

use ahash::AHashSet;
use axum::response::Response;
use http::StatusCode;
use lovage_core::problem::{Code, Problem};
use lovage_core::{Patch, State};
use serde::Serialize;

use crate::ask::Ask;
use crate::filter::Filter;
use crate::problem::Refusal;
use crate::view;

/// Refused tasks that an answer names.
const SHOWN: usize = 20;

/// What can be done to many tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cancel,
    Retry,
    Replay,
    Delete,
    Patch,
}

impl Kind {
    /// The word of the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Replay => "replay",
            Self::Delete => "delete",
            Self::Patch => "patch",
        }
    }

    /// Whether the verb is for tasks in this state: the others a filter passes over unless it names states.
    fn is_for(self, state: State) -> bool {
        match self {
            Self::Cancel => !state.is_final(),
            Self::Retry => matches!(state, State::Failed | State::Retrying),
            Self::Replay | Self::Delete => state.is_final(),
            Self::Patch => state.is_waiting(),
        }
    }
}

/// A verb with what it needs.
enum Verb {
    Cancel {
        hard: bool,
        /// What they have started is canceled as well.
        cascade: bool,
    },
    Retry,
    /// New tasks with the signatures of these and these edits, a JSON object.
    Replay(String),
    Delete,
    Patch(Box<Patch>),
}

/// Which tasks.
enum Target {
    /// All that pass, from this cursor on.
    Filter(Box<Filter>, Option<String>),
    /// These, as the client wrote them, each once.
    Ids(Vec<String>),
}

/// What a request asks for.
struct Order {
    kind: Kind,
    verb: Verb,
    target: Target,
    /// Count only.
    dry_run: bool,
    /// Only failed tasks are meant.
    dead: bool,
}

/// What came of it.
#[derive(Default, Serialize)]
struct Tally {
    matched: usize,
    changed: usize,
    failed: usize,
    next_cursor: Option<String>,
    /// The first of those that failed.
    errors: Vec<Failed>,
    /// Unique keys that tasks would have taken, in a dry run: the next one that wants one would be refused.
    #[serde(skip)]
    keys: AHashSet<String>,
    /// Records of trees that this call may still look at.
    #[serde(skip)]
    room: usize,
}

#[derive(Serialize)]
struct Failed {
    id: String,
    code: Code,
    detail: String,
}

impl Tally {
    fn fail(&mut self, id: impl Into<String>, problem: Problem) {
        self.failed += 1;
        if self.errors.len() < SHOWN {
            self.errors.push(Failed { id: id.into(), code: problem.code, detail: problem.detail });
        }
    }
}

/// Carries out the verb of a route; `dead`: on dead letters.
pub(crate) async fn call(ask: Ask<()>, kind: Kind, dead: bool) -> Result<Response, Refusal> {
    if kind == Kind::Replay && ask.headers.contains_key("idempotency-key") {
        let message = "many tasks take no Idempotency-Key: replay them one by one to repeat it safely";
        return Err(Problem::invalid("/idempotency_key", message).into());
    }
    let text = ask.json("this body").await?;
    let order = read::order(&ask.app, kind, dead, &text)?;
    let tally = ask.app.carry_out(ask.ns, order).await?;
    Ok(view::json(StatusCode::OK, &tally))
}
