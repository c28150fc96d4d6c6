//! The filters of task lists.

use ahash::AHashSet;
use lovage_core::problem::Problem;
use lovage_core::redact::Redaction;
use lovage_core::{Head, Millis, Ns, ResultValue, Spec, State, TaskError, TaskId, TaskKey, worker_mark};
use lovage_store::ListQuery;

use crate::query::{Query, refuse};

/// The names of the parameters.
pub(crate) const NAMES: [&str; 10] =
    ["state", "task", "queue", "worker", "label", "root", "created_after", "created_before", "error_type", "dead"];
/// Parameters of the API that this version does not have.
pub(crate) const LATER: [&str; 2] = ["workflow", "schedule"];

/// What a list shows.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// Empty: all.
    pub states: Vec<State>,
    pub created_after: Option<Millis>,
    pub created_before: Option<Millis>,
    pub root: Option<TaskId>,
    worker: Option<u32>,
    task: Option<String>,
    queue: Option<String>,
    labels: Vec<(String, String)>,
    error_type: Option<String>,
    /// Nothing can match.
    pub nothing: bool,
}

impl Filter {
    /// Takes its parameters out of a query.
    pub(crate) fn take(query: &mut Query) -> Result<Self, Problem> {
        for later in LATER {
            if query.one(later)?.is_some() {
                return Err(refuse(later, "is not supported by this version"));
            }
        }
        let mut filter = Self {
            created_after: query.time("created_after")?,
            created_before: query.time("created_before")?,
            worker: query.one("worker")?.map(|name| worker_mark(&name)),
            task: query.one("task")?,
            queue: query.one("queue")?,
            error_type: query.one("error_type")?,
            ..Self::default()
        };
        for text in query.all("state") {
            let message = || format!("must be one of {}", State::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", "));
            filter.states.push(State::parse(&text).ok_or_else(|| refuse("state", message()))?);
        }
        for text in query.all("label") {
            let (key, value) = text.split_once(':').ok_or_else(|| refuse("label", "must be KEY:VALUE"))?;
            filter.labels.push((key.to_owned(), value.to_owned()));
        }
        if let Some(text) = query.one("root")? {
            filter.root = Some(TaskId::parse(&text).map_err(|error| refuse("root", error.to_string()))?);
        }
        if let Some(dead) = query.flag("dead")? {
            filter.narrow(|state| (state == State::Failed) == dead);
        }
        if filter.error_type.is_some() {
            filter.narrow(|state| state == State::Failed);
        }
        Ok(filter)
    }

    /// Tasks of this queue in these states that were created at this time or before.
    pub(crate) fn of_queue(queue: &str, states: &[State], last: Millis) -> Self {
        let mut filter = Self { queue: Some(queue.to_owned()), states: states.to_vec(), ..Self::default() };
        filter.up_to(last);
        filter
    }

    /// Only failed tasks.
    pub(crate) fn only_dead(&mut self) {
        self.narrow(|state| state == State::Failed);
    }

    /// If it says nothing of states: only tasks in these.
    pub(crate) fn or_in(&mut self, states: impl Fn(State) -> bool) {
        if self.states.is_empty() {
            self.narrow(states);
        }
    }

    /// Only tasks that were created at this time or before.
    pub(crate) fn up_to(&mut self, last: Millis) {
        let end = Millis(last.0.saturating_add(1));
        self.created_before = Some(self.created_before.map_or(end, |before| before.min(end)));
    }

    /// Whether errors decide.
    pub(crate) fn asks_for_errors(&self) -> bool {
        self.error_type.is_some()
    }

    /// Keeps only the states that pass.
    fn narrow(&mut self, pass: impl Fn(State) -> bool) {
        let asked: AHashSet<u8> = self.states.iter().map(|state| *state as u8).collect();
        self.states = State::ALL
            .iter()
            .copied()
            .filter(|state| pass(*state) && (asked.is_empty() || asked.contains(&(*state as u8))))
            .collect();
        self.nothing |= self.states.is_empty();
    }

    /// The part that a store knows.
    pub(crate) fn query(&self, ns: Ns) -> ListQuery {
        ListQuery { ns, states: self.states.clone(), created_after: self.created_after, created_before: self.created_before }
    }

    /// Whether a head may pass; the store's part is checked again because members of a tree come without it.
    pub(crate) fn passes_head(&self, head: &Head) -> bool {
        (self.states.is_empty() || self.states.contains(&head.state))
            && self.created_after.is_none_or(|after| head.created >= after)
            && self.created_before.is_none_or(|before| head.created < before)
            && self.worker.is_none_or(|worker| head.worker == worker)
    }

    /// Whether a signature passes. What it hides matches nothing: a filter would tell whether a guess is right.
    pub(crate) fn passes_spec(&self, spec: &Spec) -> bool {
        let redaction = Redaction::of(&spec.redact);
        let shown = |key: &str| !redaction.hides_entry("labels", key);
        self.task.as_ref().is_none_or(|task| spec.task.as_ref() == Some(task))
            && self.queue.as_ref().is_none_or(|queue| spec.queue() == queue)
            && self.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value) && shown(key))
            && !(self.error_type.is_some() && redaction.hides_entry("error", "type"))
    }

    /// Whether an error passes.
    pub(crate) fn passes_error(&self, result: Option<&ResultValue>) -> bool {
        let Some(wanted) = &self.error_type else { return true };
        let Some(ResultValue::Error(bytes)) = result else { return false };
        serde_json::from_slice::<TaskError>(bytes).is_ok_and(|error| error.kind == *wanted)
    }

    /// The tree that the list is about.
    pub(crate) fn tree(&self, ns: Ns) -> Option<TaskKey> {
        self.root.clone().map(|root| TaskKey::new(ns, root))
    }
}
