//! What an order does to the tasks that were found.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::problem::{Code, Problem};
use lovage_core::{Event, Millis, Partition, Reason, Refusal as Decision, SessionId, State, TaskKey, decide};
use lovage_store::{Committed, KeyKind, Mode, Sync};

use super::{Order, Tally, Verb};
use crate::app::App;
use crate::cascade::Graces;
use crate::change::{Changed, last_generation, wrong_state};
use crate::problem::Refusal;
use crate::walk::Found;

impl Verb {
    /// What happens to a task; `None`: it stays as it is.
    async fn event(&self, app: &App, found: &Found, grace: Duration, dry_run: bool) -> Result<Option<Event>, Refusal> {
        let event = match self {
            Self::Cancel { hard, .. } => Event::Cancel { hard: *hard, reason: Reason::Requested, grace },
            Self::Retry => Event::Retry,
            Self::Replay(_) => return Ok(None),
            Self::Delete => Event::Delete,
            Self::Patch(changes) => Event::Patch {
                changes: Box::new(app.changes_of(found.key.ns, changes, &found.spec, !dry_run).await?),
                content_type: found.body.content_type.clone(),
                payload: found.body.payload.clone(),
            },
        };
        Ok(Some(event))
    }

    /// Whether a task in this state, which refuses the verb, is what the verb wants it to be.
    fn is_done(&self, state: State) -> bool {
        // A running task that is being canceled already.
        matches!((self, state), (Self::Cancel { .. }, State::Running))
    }

    fn refused(&self, state: State) -> Refusal {
        let what = match self {
            Self::Cancel { .. } => "canceled",
            Self::Retry => "retried",
            Self::Replay(_) => "replayed",
            Self::Delete => "deleted",
            Self::Patch(_) => "changed",
        };
        wrong_state(state, what)
    }
}

impl Tally {
    /// Counts what is refused because of this one task; anything else concerns the whole call.
    fn fail_of_its_own(&mut self, key: &TaskKey, Refusal(problem): Refusal) -> Result<(), Refusal> {
        if !matches!(problem.code, Code::Overloaded | Code::UniqueConflict | Code::WrongState) {
            return Err(Refusal(problem));
        }
        self.fail(key.id.to_string(), problem);
        Ok(())
    }
}

impl Order {
    fn refuse(&self, key: &TaskKey, state: State, tally: &mut Tally) {
        if !self.verb.is_done(state) {
            tally.fail(key.id.to_string(), self.verb.refused(state).0);
        }
    }
}

impl App {
    /// Changes tasks of one partition, or only finds out which would be refused.
    pub(super) async fn apply(
        self: &Arc<Self>,
        order: &Order,
        p: Partition,
        found: Vec<Found>,
        tally: &mut Tally,
    ) -> Result<(), Refusal> {
        if let (Verb::Replay(edits), Some(first)) = (&order.verb, found.first()) {
            let ns = first.key.ns;
            return self.replay_all(ns, (edits, order.dry_run), found, tally).await;
        }
        let now = self.now();
        let (mut commits, mut asked, mut graces) = (Vec::new(), Vec::new(), Graces::default());
        for found in found {
            let grace = graces.of(self, found.key.ns, &found.head).await?;
            let Some(event) = order.verb.event(self, &found, grace, order.dry_run).await? else { continue };
            if let Err(refusal) = self.not_awaited(&found.key, &found.head, &found.spec, &event).await {
                tally.fail_of_its_own(&found.key, refusal)?;
                continue;
            }
            match decide(&found.key, &found.head, &found.spec, event.clone(), now, self.random()) {
                Ok(transition) if order.dry_run => {
                    if transition.holds_again
                        && let Some(problem) = self.would_conflict(p, &found, tally, now).await?
                    {
                        tally.fail(found.key.id.to_string(), problem);
                    }
                }
                Ok(transition) => {
                    let was = found.head.clone();
                    commits.push(self.commit(&found.key, was, transition, &found.spec, None, now));
                    asked.push((found, event));
                }
                Err(Decision::Unchanged) => {}
                Err(Decision::LastGeneration) => tally.fail(found.key.id.to_string(), last_generation(found.head.state).0),
                Err(_) => order.refuse(&found.key, found.head.state, tally),
            }
        }
        if commits.is_empty() {
            return Ok(());
        }
        let done = self.store.commit(p, SessionId(0), commits, Mode::Each, Sync::Durable).await?;
        for ((found, event), done) in asked.into_iter().zip(done) {
            let key = &found.key;
            if done == Committed::Ok {
                tally.changed += 1;
            } else {
                // It moved meanwhile: decided anew on what is stored now.
                match self.happen(key, event).await {
                    Ok(Some(Changed::Applied(_))) => tally.changed += 1,
                    Ok(Some(Changed::Not(state))) => order.refuse(key, state, tally),
                    Ok(None) => tally.fail(key.id.to_string(), Refusal::no_task(&key.id.to_string()).0),
                    Err(refusal) => tally.fail_of_its_own(key, refusal)?,
                }
            }
            match order.verb {
                // What has never run has started nothing.
                Verb::Cancel { hard, cascade: true } if found.head.attempt > 0 || done != Committed::Ok => {
                    if let Err(refusal) = self.cascade(key, &found.spec, hard, &mut tally.room).await {
                        tally.fail_of_its_own(key, refusal)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Why a task could not take its unique key again, as far as can be seen without trying.
    async fn would_conflict(
        &self,
        p: Partition,
        found: &Found,
        tally: &mut Tally,
        now: Millis,
    ) -> Result<Option<Problem>, Refusal> {
        let Some(name) = found.spec.unique_name() else { return Ok(None) };
        let entry = self.store.lookup(p, found.key.ns, KeyKind::Unique, name.as_bytes()).await?;
        if let Some(entry) = entry.filter(|entry| entry.task != found.key) {
            match self.loser_of(p, &entry, now).await {
                Ok(_) => {}
                Err(Refusal(problem)) if problem.code == Code::UniqueConflict => return Ok(Some(problem)),
                Err(refusal) => return Err(refusal),
            }
        }
        let is_first = tally.keys.insert(name);
        let conflict = || Problem::new(Code::UniqueConflict, "another of these tasks would hold its unique key");
        Ok((!is_first).then(conflict))
    }
}
