//! Why a task that may start has not started: who serves it, whether that one may be called, and who is before it.

use lovage_core::redact::{HIDDEN, Redaction};
use lovage_core::standing::{BreakerState, Standing};
use lovage_core::worker::{WorkerConfig, route};
use lovage_core::{Flags, LaneDef, Millis, Route};
use lovage_store::{Cursor, DocKind, Index};

use super::{Case, LanePlace, Story, WorkerStanding};
use crate::directory::all_docs;
use crate::documents::content;
use crate::problem::Refusal;

/// Tasks of a lane that are counted.
const COUNTED: u32 = 1_000;
/// Heads that are read at once.
const PAGE: usize = 250;

impl Case<'_> {
    pub(super) async fn queued(&self, story: &mut Story) -> Result<(), Refusal> {
        let lane = self.spec.lane(self.key.ns, self.head.priority);
        self.paused(&lane, story).await?;
        let together = self.callee(&lane, story).await?;
        self.dispatcher(story).await?;
        if let Some(batch) = self.spec.batch.as_ref().filter(|_| together) {
            let text = format!("It waits up to {} for others to be delivered with.", batch.max_wait);
            story.cause("batching", text, None);
        }
        let place = self.place(lane).await?;
        let before = match (place.ahead, place.more) {
            (0, false) => "It is the first of its lane.".to_owned(),
            (1, false) => "One task of its lane is before it.".to_owned(),
            (n, false) => format!("{n} tasks of its lane are before it."),
            (n, true) => format!("More than {n} tasks of its lane are before it."),
        };
        if story.causes.is_empty() {
            let known = self.app.options.standings.is_some();
            story.say(if known {
                "It may start now."
            } else {
                "Nothing stored keeps it from starting; whether its worker has a free slot is known to the dispatchers."
            });
        }
        story.say(before);
        story.lane = Some(place);
        Ok(())
    }

    /// Its queue or its task type is paused.
    async fn paused(&self, lane: &LaneDef, story: &mut Story) -> Result<(), Refusal> {
        let types = self.app.types(self.key.ns).await?;
        if let Some(pause) = types.dispatch_pause(&lane.queue, self.spec.task.as_deref(), self.app.now()) {
            let until = pause.until.map(|until| format!(" until {}", until.rfc3339())).unwrap_or_default();
            story.cause("paused", format!("Its queue or its task type is paused{until}."), pause.until);
        }
        Ok(())
    }

    /// Nobody starts it if no dispatcher looks after its partition.
    async fn dispatcher(&self, story: &mut Story) -> Result<(), Refusal> {
        let seen = self.app.store.ownership(self.app.lives_in(self.key, self.spec)).await?;
        if !story.pulled && seen.owner.is_none_or(|(_, until)| until <= seen.now) {
            let text = "No dispatcher looks after its partition: none runs, or all are drained.";
            story.cause("no_dispatcher", text, None);
        }
        Ok(())
    }

    /// Who would get it, and what keeps it from being sent there. Whether that one takes tasks together.
    async fn callee(&self, lane: &LaneDef, story: &mut Story) -> Result<bool, Refusal> {
        let mut together = false;
        let (name, standing) = match &self.spec.gates(self.key.ns).route {
            Route::Mixed => return Ok(false),
            Route::Origin(origin) => {
                let shown = self.shown_origin(origin);
                story.say(format!("It is pushed straight to {shown}."));
                (shown, self.known(|all, now| all.origin(self.key.ns, origin, now)))
            }
            Route::Task(task) => {
                let Some((name, config)) = self.serving(&lane.queue, task).await? else {
                    let text = format!("No worker serves `{task}` in queue `{}`.", lane.queue);
                    story.cause("no_worker", text, None);
                    return Ok(false);
                };
                together = config.batch.is_some();
                if config.pull {
                    // Nobody calls it, so nothing keeps anybody from doing so.
                    story.pulled = true;
                    story.say(format!("Worker `{name}` takes its tasks itself and gets it when it asks for tasks."));
                    (name, None)
                } else {
                    story.say(format!("Worker `{name}` serves it."));
                    let standing = self.known(|all, now| all.worker(self.key.ns, &name, now));
                    (name, standing)
                }
            }
        };
        if let Some(standing) = standing {
            keeps_away(&name, &standing, story);
        }
        story.worker = Some(shown(name, standing));
        Ok(together)
    }

    fn shown_origin(&self, origin: &str) -> String {
        if Redaction::of(&self.spec.redact).hides("url") { HIDDEN.to_owned() } else { origin.to_owned() }
    }

    /// How the worker with this name is doing.
    pub(super) fn standing(&self, name: &str) -> WorkerStanding {
        shown(name.to_owned(), self.known(|all, now| all.worker(self.key.ns, name, now)))
    }

    fn known(&self, ask: impl FnOnce(&dyn lovage_core::standing::Standings, Millis) -> Option<Standing>) -> Option<Standing> {
        self.app.options.standings.as_deref().and_then(|all| ask(all, self.app.now()))
    }

    /// The worker that serves this task name.
    async fn serving(&self, queue: &str, task: &str) -> Result<Option<(String, WorkerConfig)>, Refusal> {
        let documents = all_docs(&*self.app.store, DocKind::Worker, Some(self.key.ns)).await?;
        let mut configs = Vec::with_capacity(documents.len());
        for document in documents {
            configs.push((content::<WorkerConfig>(&document)?, document.name));
        }
        let types = self.app.types(self.key.ns).await?;
        if let Some(worker) = types.queue(queue).and_then(|queue| queue.worker.as_deref()) {
            return Ok(configs.into_iter().find(|(_, name)| name == worker).map(|(config, name)| (name, config)));
        }
        let workers = configs.iter().map(|(config, name)| (name.as_str(), config, (name, config)));
        Ok(route(workers, queue, task).map(|(name, config)| (name.clone(), config.clone())))
    }

    /// How many tasks of its lane start before it. Those that are held do not.
    async fn place(&self, lane: LaneDef) -> Result<LanePlace, Refusal> {
        let (task, origin) = match lane.route {
            Route::Task(task) => (Some(task), None),
            Route::Origin(origin) => (None, Some(self.shown_origin(&origin))),
            Route::Mixed => (None, None),
        };
        let mut place = LanePlace { queue: lane.queue, task, origin, ahead: 0, more: false };
        let mine = self.head.score();
        let index = Index::Lane { lane: self.head.lane, after: None };
        let p = self.app.lives_in(self.key, self.spec);
        let mut from = Cursor::default();
        let mut looked = 0;
        loop {
            let page = self.app.store.scan(p, &index, from, PAGE).await?;
            for (_, head) in page.items {
                if head.score() >= mine {
                    return Ok(place);
                }
                if looked == COUNTED {
                    place.more = true;
                    return Ok(place);
                }
                looked += 1;
                place.ahead += u32::from(!head.flags.has(Flags::HELD));
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(place),
            }
        }
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
        let text = format!("All {} slots of `{name}` are taken.", standing.slots);
        story.cause("concurrency", text, None);
    }
}
