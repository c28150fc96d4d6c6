//! Changes that callers ask for: an event, `decide`, a guarded commit. There is no other way to change a task.

use lovage_core::problem::{Code, Problem};
use lovage_core::{Body, Event, Head, Refusal as Decision, SessionId, State, TaskKey, decide};
use lovage_store::{Committed, Mode, Parts, Sync};

use crate::app::App;
use crate::documents::Precondition;
use crate::problem::Refusal;
use crate::view::taken_apart;

/// How often a change is tried again because the task moved under it.
pub(crate) const TRIES: usize = 16;

/// What came of a change.
pub(crate) enum Changed {
    /// Applied, or it was so already; the head after it, `None`: deleted.
    Applied(Option<Head>),
    /// Nothing to do: the state does not allow it (any more).
    Not(State),
}

impl App {
    /// Lets `event` happen to a task; `None`: there is no such task.
    pub(crate) async fn happen(&self, key: &TaskKey, event: Event) -> Result<Option<Changed>, Refusal> {
        self.happen_if(key, Precondition::None, event).await
    }

    /// Lets `event` happen to a task that has the version that was asked for, else `version_mismatch`.
    pub(crate) async fn happen_if(&self, key: &TaskKey, wanted: Precondition, event: Event) -> Result<Option<Changed>, Refusal> {
        self.change(key, |head, _| wanted.check_version(Some(head.version)).map(|()| event.clone())).await
    }

    /// Lets happen to a task what `event` makes of its head and body as they are stored, each time that it looks.
    pub(crate) async fn change(
        &self,
        key: &TaskKey,
        event: impl Fn(&Head, &Body) -> Result<Event, Problem> + Send + std::marker::Sync,
    ) -> Result<Option<Changed>, Refusal> {
        let parts = Parts { body: true, result: true, attempts: false };
        // A task that has the unique key of this one but holds it no longer.
        let mut rival = None;
        for _ in 0..TRIES {
            let Some((p, stored)) = self.find(key, parts).await? else { return Ok(None) };
            let (spec, body) = taken_apart(&stored)?;
            let event = event(&stored.head, &body)?;
            self.not_awaited(key, &stored.head, &spec, &event).await?;
            let now = self.now();
            let transition = match decide(key, &stored.head, &spec, event, now, self.random()) {
                Ok(transition) => transition,
                Err(Decision::Unchanged) => return Ok(Some(Changed::Applied(Some(stored.head)))),
                Err(Decision::WrongState(state)) => return Ok(Some(Changed::Not(state))),
                Err(Decision::LastGeneration) => return Err(last_generation(stored.head.state)),
                Err(Decision::Superseded | Decision::NotDue) => return Ok(Some(Changed::Not(stored.head.state))),
            };
            let after = transition.head.clone();
            let mut commit = self.commit(key, stored.head, transition, &spec, None, now);
            if let Some(rival) = rival.take() {
                commit.steal_from(&rival);
            }
            let done = self.store.commit(p, SessionId(0), vec![commit], Mode::Each, Sync::Durable).await?;
            match done.into_iter().next() {
                Some(Committed::Ok) => return Ok(Some(Changed::Applied(after))),
                Some(Committed::Conflict { entry, .. }) => rival = Some(self.loser_of(p, &entry, now).await?),
                Some(Committed::Stale(_) | Committed::Aborted) | None => {}
            }
        }
        Err(Problem::new(Code::Overloaded, "the task changes too fast; try again").into())
    }
}

/// `wrong_state`
pub(crate) fn wrong_state(state: State, what: &str) -> Refusal {
    Problem::new(Code::WrongState, format!("a task that is {state} cannot be {what}")).in_state(state.as_str()).into()
}

/// `wrong_state` of a task that was started anew too often.
pub(crate) fn last_generation(state: State) -> Refusal {
    let detail = format!("it was retried or replaced {} times, which is the most; replay it as a new task", u8::MAX);
    Problem::new(Code::WrongState, detail).in_state(state.as_str()).into()
}
