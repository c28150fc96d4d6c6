//! The one way to change a task: head and event in, transition out. Pure.
//!
//! An answer, a report, a crash, a cancel, a give-back, an expiry, a manual verb and the janitor all come through here.
//! Nothing is decided in stores, routes or loops; they carry out what the transition says.

mod answer;
mod ending;
mod family;
mod manual;
mod report;
#[cfg(test)]
mod tests;
mod waiting;

use std::time::Duration;

use bytes::Bytes;

use crate::answer::TaskError;
use crate::attempt::AttemptEntry;
use crate::body::ResultValue;
use crate::callback::CallbackKind;
use crate::event::Event;
use crate::head::{Attempt, Flags, Head};
use crate::id::TaskKey;
use crate::keys::HeldKey;
use crate::lane::LaneDef;
use crate::spec::{Arrival, Spec};
use crate::state::{Reason, State};
use crate::submit::NewTask;
use crate::time::Millis;

pub use ending::result_end;
pub use waiting::claim;

/// A task that was lost this often in a row while it ran (its dispatcher died, its lease ran out) fails as `poison`.
pub const POISON_AFTER: u8 = 3;
/// How long, at most, a task waits that was lost a second time. What kills its dispatcher then does it by itself: tasks that were
/// only near it have other times, and deaths that follow each other faster do not count against them.
pub const SUSPECT_PAUSE: Duration = Duration::from_secs(30);
/// The least wait of a task that is snoozed: nothing else bounds those attempts.
pub const SNOOZE_PAUSE: Duration = Duration::from_secs(1);
/// How long a worker that says "not now" without a time is left alone at least.
pub const THROTTLE_PAUSE: Duration = Duration::from_secs(1);
/// The least wait after a fault of the endpoint, whatever the policy says: nothing else bounds those attempts.
pub const ENDPOINT_PAUSE: Duration = Duration::from_millis(100);

/// What follows from an event. Everything in it happens together or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transition {
    /// The head after; `None`: the record is deleted.
    pub head: Option<Head>,
    /// `Some(Some(_))` stores a result (or progress, or the error of the last attempt), `Some(None)` removes it.
    pub result: Option<Option<ResultValue>>,
    /// An entry for the attempts. A first-try success has none: it is told by head and result.
    pub attempt: Option<AttemptEntry>,
    /// Who is told, in order.
    pub notices: Vec<CallbackKind>,
    /// Takes the place of the body ([`crate::Body`], encoded).
    pub body: Option<Bytes>,
    /// The task moves to this lane, perhaps of another queue.
    pub lane: Option<LaneDef>,
    /// New tasks, children and links: in the slot of this one, or in that of their order. Their ids depend on nothing but the task,
    /// its version and that slot.
    pub spawns: Vec<NewTask>,
    /// The task waits for so many arrivals; whatever it waited for before is forgotten.
    pub barrier: Option<u32>,
    /// A task that waits for this one is told.
    pub arrive: Option<Arrival>,
    /// It takes its unique key again; if another task holds that, nothing of this happens.
    pub holds_again: bool,
    /// Keys that are given up if this task still has them.
    pub frees: Vec<HeldKey>,
}

/// Why an event changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The state does not allow it.
    #[error("not possible in state {0}")]
    WrongState(State),
    /// It speaks of an attempt that is not the open one.
    #[error("the attempt is not the open one")]
    Superseded,
    /// Its time has not come.
    #[error("not due yet")]
    NotDue,
    /// It is so already.
    #[error("nothing to change")]
    Unchanged,
    /// It was started anew so often that a further generation could not be told from this one.
    #[error("there is no generation after {}", u8::MAX)]
    LastGeneration,
}

/// What follows when `event` happens to the task at `now`. `random` decides the jitter.
pub fn decide(key: &TaskKey, head: &Head, spec: &Spec, event: Event, now: Millis, random: u64) -> Result<Transition, Refusal> {
    let task = Task { key, head, spec, now, random };
    let mut transition = happens(task, event)?;
    if head.state == State::Running && head.flags.has(Flags::NOW) {
        task.no_longer_now(&mut transition);
    }
    Ok(transition)
}

fn happens(task: Task<'_>, event: Event) -> Result<Transition, Refusal> {
    match event {
        Event::Claim { session, worker } => claim(task.head, session, worker, task.now).map(plain),
        Event::Answered { attempt, outcome } => task.fenced(attempt, |task| Ok(task.answered(outcome))),
        Event::Heartbeat { attempt, lease } => task.fenced(attempt, |task| task.heartbeat(lease)),
        Event::Progress { attempt, value } => task.fenced(attempt, |task| Ok(task.progress(value))),
        Event::Logs { attempt, lines, room } => task.fenced(attempt, |task| task.logs(lines, room)),
        Event::Spawned { attempt, tasks } => task.fenced(attempt, |task| task.spawned(tasks)),
        Event::GivenBack { attempt } => task.fenced(attempt, Task::given_back),
        Event::Lost { session } => task.session_lost(session),
        Event::Due => task.due(),
        Event::Cancel { hard, reason, grace } => task.cancel(hard, reason, grace),
        Event::Aborted { attempt } => task.fenced(attempt, Task::aborted),
        Event::Retry => task.retry(),
        Event::RunNow => task.run_now(),
        Event::Hold => task.hold(true),
        Event::Release => task.hold(false),
        Event::Patch { changes, content_type, payload } => task.patch(*changes, &content_type, &payload),
        Event::Forget => task.forget(),
        Event::Sweep => task.sweep(),
        Event::Delete => task.delete(),
    }
}

/// What every rule looks at.
#[derive(Clone, Copy)]
struct Task<'a> {
    key: &'a TaskKey,
    head: &'a Head,
    spec: &'a Spec,
    now: Millis,
    random: u64,
}

impl Task<'_> {
    /// Lets `then` decide if the attempt is the open one.
    fn fenced(self, attempt: Attempt, then: impl FnOnce(Self) -> Result<Transition, Refusal>) -> Result<Transition, Refusal> {
        let open = self.head.state == State::Running && self.head.open_attempt() == attempt;
        if open { then(self) } else { Err(Refusal::Superseded) }
    }

    /// The head after, with the version one higher.
    fn step(self, state: State, reason: Reason) -> Head {
        Head { version: self.head.version + 1, state, reason, ..self.head.clone() }
    }

    /// Puts the head after where a task with this signature waits; answers the lane if it is another one.
    fn lane_of(self, spec: &Spec, next: &mut Head) -> Option<LaneDef> {
        let mut lane = spec.lane(self.key.ns, next.priority);
        if next.flags.has(Flags::NOW) {
            lane = lane.at_once();
        }
        next.lane = lane.id();
        next.flags = next.flags.without(Flags::FIFO).without(Flags::ORDERED).with(lane.flags());
        (next.lane != self.head.lane).then_some(lane)
    }

    /// The attempt was started whatever its limits said; the next one is not, unless this one never took place.
    fn no_longer_now(self, transition: &mut Transition) {
        let Some(next) = &mut transition.head else { return };
        if next.flags.has(Flags::NOW) && !matches!(next.state, State::Running | State::Queued) {
            next.flags = next.flags.without(Flags::NOW);
            transition.lane = self.lane_of(self.spec, next);
        }
    }

    fn wrong_state(self) -> Refusal {
        Refusal::WrongState(self.head.state)
    }

    /// With the entry of the attempt that ends here.
    fn entry(self, mut transition: Transition, outcome: &str, error: Option<TaskError>) -> Transition {
        transition.attempt = Some(AttemptEntry::ended(self.head, self.now, outcome, error));
        transition.with_flag(Flags::HAS_ATTEMPTS)
    }

    /// Adds those of `kinds` that somebody wants to hear.
    fn notify(self, transition: &mut Transition, kinds: &[CallbackKind]) {
        if !self.spec.callbacks.is_empty() {
            transition.notices.extend(kinds.iter().filter(|kind| self.spec.callbacks.has(**kind)));
        }
    }
}

impl Transition {
    /// With the mark of the report that caused it, so that the same report is known again. An attempt that has no entry gets
    /// one. `was` is the head before.
    #[must_use]
    pub fn marked(mut self, was: &Head, now: Millis, mark: u64) -> Self {
        let Some(head) = &self.head else { return self };
        let entry = self.attempt.take().unwrap_or_else(|| {
            if head.state == State::Running {
                AttemptEntry::open(was)
            } else {
                AttemptEntry::ended(was, now, head.state.as_str(), None)
            }
        });
        self.attempt = Some(AttemptEntry { report: Some(mark), ..entry });
        self.with_flag(Flags::HAS_ATTEMPTS)
    }

    fn with_flag(mut self, flag: Flags) -> Self {
        if let Some(head) = &mut self.head {
            head.flags = head.flags.with(flag);
        }
        self
    }

    /// With a value in the place of the result although the task is not final.
    fn with_interim(mut self, value: ResultValue) -> Self {
        self.result = Some(Some(value));
        self.with_flag(Flags::INTERIM)
    }
}

fn plain(head: Head) -> Transition {
    Transition { head: Some(head), ..Transition::default() }
}

fn error_value(error: &TaskError) -> ResultValue {
    ResultValue::Error(Bytes::from(serde_json::to_vec(error).unwrap_or_default()))
}
