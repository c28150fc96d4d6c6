//! Why a task that may start has not started: who serves it, and whether that one may be called.

use lovage_core::board::{Board, InstanceBoard, WorkerBoard};
use lovage_core::redact::{HIDDEN, Redaction};
use lovage_core::standing::{BreakerState, Standing};
use lovage_core::{Flags, LaneDef, LaneOrder, Millis, Route, SessionId};

use super::{Case, Story, WorkerStanding};
use crate::problem::Refusal;

impl Case<'_> {
    pub(super) async fn queued(&self, story: &mut Story) -> Result<(), Refusal> {
        let lane = self.spec.lane(self.key.ns, self.head.priority);
        let lane = if self.head.flags.has(Flags::NOW) { lane.at_once() } else { lane };
        self.paused(story).await?;
        self.ordered(&lane, story).await?;
        let owner = self.owner().await?;
        let together = self.callee(&lane, owner, story).await?;
        let worker = story.worker.as_ref().map(|worker| worker.name.clone());
        let mut paces = self.limited(worker.filter(|_| self.spec.url.is_none()).as_deref(), story).await?;
        // Nobody starts it if no dispatcher looks after its partition.
        if !story.pulled && owner.is_none() {
            let text = "No dispatcher looks after its partition: none runs, or all are drained.";
            story.cause("no_dispatcher", text, None);
        }
        if let Some(batch) = self.spec.batch.as_ref().filter(|_| together) {
            let text = format!("It waits up to {} for others to be delivered with.", batch.max_wait);
            story.cause("batching", text, None);
        }
        let place = self.place(&lane, &mut paces).await?;
        if lane.order == LaneOrder::Fifo && lane.order_key.is_none() && place.ahead > 0 {
            story.cause("order", format!("Queue `{}` is kept in order, and others are before it.", lane.queue), None);
        }
        if let Some(owner) = owner.filter(|_| !story.pulled) {
            self.room(owner, story).await;
        }
        if story.causes.is_empty() {
            let known = story.worker.as_ref().is_some_and(|worker| worker.instances.is_some());
            let is_next = place.ahead == 0 && !place.more;
            story.say(match (known, is_next) {
                (true, true) => "It may start now.",
                (true, false) => "Nothing keeps its lane from starting, so it starts when it is its turn.",
                (false, _) => {
                    "Nothing stored keeps it from starting; whether its worker has a free slot is known to the dispatchers."
                }
            });
        }
        story.say(place.words(&lane));
        if let Some((at, why)) = self.estimate(&place, &paces, story).await? {
            if story.causes.is_empty() && place.ahead == 0 && place.higher == 0 {
                story.estimate = Some(at);
            } else {
                story.say(format!("It may start at about {}, to judge by {why}.", at.rfc3339()));
                story.estimate = Some(at);
            }
        }
        story.lane = Some(place);
        Ok(())
    }

    /// The dispatcher that would start it.
    async fn owner(&self) -> Result<Option<SessionId>, Refusal> {
        let seen = self.app.store.ownership(self.app.lives_in(self.key, self.spec)).await?;
        Ok(seen.owner.filter(|(_, until)| *until > seen.now).map(|(session, _)| session))
    }

    /// A dispatcher that has as many keys of limits in use as it may does not say which lanes wait for that: those of which nothing
    /// else is known to hold them.
    async fn room(&self, owner: SessionId, story: &mut Story) {
        let lacks_keys = |board: &Board| board.node == owner.0 && board.lacks_keys;
        if story.causes.is_empty() && self.app.boards().await.iter().any(lacks_keys) {
            let text =
                "As many keys of limits are in use as its dispatcher holds at once (`dispatcher.limits`); others wait for room.";
            story.cause("limit_keys", text, None);
        }
    }

    /// Who would get it, and what keeps its owner from sending it there. Whether that one takes tasks together.
    async fn callee(&self, lane: &LaneDef, owner: Option<SessionId>, story: &mut Story) -> Result<bool, Refusal> {
        let mut together = false;
        let (name, standing) = match &self.spec.gates(self.key.ns).route {
            Route::Mixed => return Ok(false),
            Route::Origin(origin) => {
                let shown = self.shown_origin(origin);
                story.say(format!("It is pushed straight to {shown}."));
                (shown, self.app.seen_by(owner, self.key.ns, origin, true).await.map(|seen| seen.standing()))
            }
            Route::Task(task) => {
                let Some((name, config)) = self.app.serving(self.key.ns, &lane.queue, task).await? else {
                    let text = format!("No worker serves `{task}` in queue `{}`.", lane.queue);
                    story.cause("no_worker", text, None);
                    return Ok(false);
                };
                together = config.batch.is_some();
                if let Some(pause) = config.paused(self.app.now()) {
                    let how = if pause.drain { "is being drained" } else { "is paused" };
                    let time = pause.until.map(|until| format!(" until {}", until.rfc3339())).unwrap_or_default();
                    story.cause("paused", format!("Worker `{name}` {how}{time}."), pause.until);
                }
                if config.pull {
                    // Nobody calls it, so nothing keeps anybody from doing so.
                    story.pulled = true;
                    story.say(format!("Worker `{name}` takes its tasks itself and gets it when it asks for tasks."));
                    (name, None)
                } else {
                    story.say(format!("Worker `{name}` serves it."));
                    let seen = self.app.seen_by(owner, self.key.ns, &name, false).await;
                    if let Some(seen) = &seen {
                        out_of_use(&name, seen, story);
                    }
                    (name, seen.map(|seen| seen.standing()))
                }
            }
        };
        if let Some(standing) = standing {
            keeps_away(&name, &standing, story);
        }
        story.worker = Some(shown(name, standing));
        Ok(together)
    }

    pub(super) fn shown_origin(&self, origin: &str) -> String {
        if Redaction::of(&self.spec.redact).hides("url") { HIDDEN.to_owned() } else { origin.to_owned() }
    }

    /// How the worker with this name is doing.
    pub(super) async fn standing(&self, name: &str) -> WorkerStanding {
        shown(name.to_owned(), self.app.seen_worker(self.key.ns, name, false).await.map(|worker| worker.standing()))
    }
}

fn shown(name: String, standing: Option<Standing>) -> WorkerStanding {
    WorkerStanding {
        name,
        instances: standing.map(|it| it.instances),
        open: standing.map(|it| it.open),
        slots: standing.map(|it| it.slots),
        breaker: standing.map(|it| it.breaker.as_str()),
        paused_until: standing.and_then(|it| it.paused_until).map(Millis::rfc3339),
    }
}

/// Why none of the instances that are there gets a task.
fn out_of_use(name: &str, seen: &WorkerBoard, story: &mut Story) {
    if seen.instances.is_empty() || seen.instances.iter().any(InstanceBoard::is_usable) {
        return;
    }
    if seen.instances.iter().any(|instance| !instance.healthy) {
        story.cause("unhealthy", format!("No instance of `{name}` answers its health probes."), None);
    } else {
        story.cause("recycling", format!("The instance of `{name}` is about to start anew."), None);
    }
}

fn keeps_away(name: &str, standing: &Standing, story: &mut Story) {
    let until = standing.paused_until;
    let time = until.map(|until| format!(" until {}", until.rfc3339())).unwrap_or_default();
    if standing.instances == 0 {
        story.cause("no_worker", format!("`{name}` has no instance that can be called."), None);
    }
    match standing.breaker {
        BreakerState::Open => story.cause("breaker", format!("`{name}` is left alone{time} because it failed."), until),
        BreakerState::HalfOpen if standing.open > 0 => {
            story.cause("breaker", format!("`{name}` failed; it is being tried with one attempt."), None);
        }
        BreakerState::HalfOpen | BreakerState::Closed if until.is_some() => {
            story.cause("throttled", format!("`{name}` asked to be left alone{time}."), until);
        }
        BreakerState::HalfOpen | BreakerState::Closed => {}
    }
    if standing.instances > 0 && standing.open >= standing.slots {
        let text = match standing.slots {
            1 => format!("The one slot of `{name}` is taken."),
            slots => format!("All {slots} slots of `{name}` are taken."),
        };
        story.cause("concurrency", text, None);
    }
}
