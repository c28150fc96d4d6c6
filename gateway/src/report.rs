//! What the worker of an attempt reports becomes a change of its task.
//!
//! The first report that ends an attempt counts. The same one again is answered as if it were the first, so that a worker
//! may repeat what got no answer. Another one is refused, and so is every report of an attempt that ended otherwise.

use lovage_core::problem::{Code, Problem};
use lovage_core::{
    Attempt, AttemptEntry, AttemptToken, Event, Flags, Head, Refusal as Decision, Report, SessionId, Spec, State, decide,
};
use lovage_store::{Committed, Mode, Parts, Sync};
use serde::Serialize;

use crate::app::App;
use crate::change::TRIES;
use crate::problem::Refusal;
use crate::view::taken_apart;

/// What every report is answered.
#[derive(Default, Serialize)]
pub(crate) struct Standing {
    /// Whether the worker should go on with this attempt.
    #[serde(rename = "continue")]
    goes_on: bool,
    cancel_requested: bool,
    soft_deadline_passed: bool,
    /// When the attempt is over: the end of its lease, or of its time limit.
    deadline: Option<String>,
}

impl App {
    /// Lets a report happen to its task; durable when this returns. `mark` tells it from others (`report::mark`).
    pub(crate) async fn report(&self, token: &AttemptToken, report: &Report, mark: u64) -> Result<Standing, Refusal> {
        let AttemptToken { key, attempt, created, .. } = token;
        let parts = Parts { body: true, result: false, attempts: true };
        for _ in 0..TRIES {
            let (p, stored) = self.find(key, parts).await?.ok_or_else(|| superseded(*attempt))?;
            let (spec, _) = taken_apart(&stored)?;
            let (now, was) = (self.now(), stored.head);
            if was.created != *created {
                // Another task that got the id of the deleted one.
                return Err(superseded(*attempt));
            }
            let entries: Vec<AttemptEntry> = stored.attempts.iter().filter_map(|bytes| AttemptEntry::decode(bytes)).collect();
            if entries.iter().any(|entry| entry.number == attempt.number && entry.report == Some(mark)) {
                return Ok(self.standing(Some(&was), &spec, *attempt));
            }
            let event = report.clone().event(*attempt, AttemptEntry::log_room(&entries, attempt.number));
            if let Event::Answered { attempt, outcome } = &event
                && was.state == State::Running
                && was.open_attempt() == *attempt
            {
                outcome.fits(&spec)?;
            }
            let transition = match decide(key, &was, &spec, event, now, self.random()) {
                Ok(transition) => transition,
                Err(Decision::Unchanged) => return Ok(self.standing(Some(&was), &spec, *attempt)),
                Err(Decision::Superseded) => return Err(too_late(&was, &entries, *attempt)),
                Err(Decision::WrongState(_) | Decision::NotDue | Decision::LastGeneration) => {
                    return Err(conflict(was.state, "the task does not allow this report; is it being canceled?".to_owned()));
                }
            };
            let mut transition = if is_remembered(report) { transition.marked(&was, now, mark) } else { transition };
            if let (Some(entry), (ids, true)) = (&mut transition.attempt, AttemptEntry::waited_for(&entries)) {
                entry.waited_for = ids.to_vec();
            }
            let standing = self.standing(transition.head.as_ref(), &spec, *attempt);
            let worker = self.directory.worker(key.ns, was.worker);
            let commit = self.commit(key, was, transition, &spec, worker.as_deref(), now);
            let done = self.store.commit(p, SessionId(0), vec![commit], Mode::Each, Sync::Durable).await?;
            if done.first() == Some(&Committed::Ok) {
                return Ok(standing);
            }
        }
        Err(Problem::new(Code::Overloaded, "the task changes too fast; try again").into())
    }

    /// How the attempt stands if this is the head of its task. There is nothing to say about one that is over.
    fn standing(&self, head: Option<&Head>, spec: &Spec, attempt: Attempt) -> Standing {
        let open = head.filter(|head| head.state == State::Running && head.open_attempt() == attempt);
        let Some(head) = open else { return Standing::default() };
        let cancel_requested = head.flags.has(Flags::CANCEL);
        let soft = spec.soft_time_limit.map(|limit| head.started.after(limit.get()));
        let end = if head.is_accepted() { head.deadline } else { head.started.after(spec.time_limit().get()) };
        Standing {
            goes_on: !cancel_requested,
            cancel_requested,
            soft_deadline_passed: soft.is_some_and(|soft| soft <= self.now()),
            deadline: Some(end.rfc3339()),
        }
    }
}

/// Whether doing it a second time would do something else: then the first time is kept in mind.
fn is_remembered(report: &Report) -> bool {
    !matches!(report, Report::Heartbeat { .. } | Report::Progress(_) | Report::Logs(_))
}

/// Why a report of an attempt that is over is refused: another one ended it, or something else did.
fn too_late(head: &Head, entries: &[AttemptEntry], attempt: Attempt) -> Refusal {
    let ended = |entry: &AttemptEntry| entry.number == attempt.number && entry.report.is_some() && !entry.outcome.is_empty();
    if head.attempt == attempt.number && entries.iter().any(ended) {
        return conflict(head.state, format!("attempt {} has ended with another report", attempt.number));
    }
    superseded(attempt)
}

/// `wrong_state`
fn conflict(state: State, detail: String) -> Refusal {
    Problem::new(Code::WrongState, detail).in_state(state.as_str()).into()
}

/// `attempt_superseded`
fn superseded(attempt: Attempt) -> Refusal {
    Refusal::new(Code::AttemptSuperseded, format!("attempt {} is no longer the current one", attempt.number))
}
