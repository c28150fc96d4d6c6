//! An attempt that goes to all instances of a worker at once: one attempt, one end.
//!
//! The requests share the attempt's number, token and time limit; when the attempt is dropped all of them are closed. Their
//! answers are taken as a whole: a streaming one is read to its end, and nobody may accept the task for later.

use std::sync::Arc;

use futures_util::future::join_all;
use lovage_core::broadcast::{Part, join};
use lovage_core::classify::classify;
use lovage_core::spec::delivered;
use lovage_core::{Answer, Flags, Outcome, Rules, TaskId, TaskKey, resume};
use tokio_util::task::AbortOnDropHandle;

use super::admit::Begun;
use super::settle::{Note, Told, tell_gate};
use super::{Owner, background};
use crate::egress::Pushed;
use crate::instances;
use crate::push::{self, Attempt, Common};
use crate::stream;

/// All requests of an attempt came back.
pub(super) struct BroadcastEnd {
    key: TaskKey,
    attempt: lovage_core::Attempt,
    waited_for: Vec<TaskId>,
    parts: Vec<(Arc<str>, Pushed)>,
}

impl Owner {
    /// Pushes a task to all places at once.
    pub(super) fn push_to_all(&mut self, begun: Begun) {
        let Begun { key, attempt, body, target, instance, others } = begun;
        let Some(running) = self.running.get_mut(&key) else { return };
        let (shared, p, ends) = (Arc::clone(&self.shared), self.partition, self.ends_in.clone());
        let (head, spec, worker) = (running.head.clone(), Arc::clone(&running.spec), Arc::clone(&running.worker));
        let asked = key.clone();
        let task = tokio::spawn(async move {
            let (body, content_type, waited_for) = if head.flags.has(Flags::RESUMED) {
                let (children, waited_for) = background::children(&shared, p, &asked).await;
                (resume::body(&spec, &asked.id, &body, &children), None, waited_for)
            } else {
                (delivered(&spec, &asked.id, &body.payload), Some(body.content_type), Vec::new())
            };
            let mut common = Common::new(&shared.options.user_agent);
            let places: Vec<_> = std::iter::once((instance, target)).chain(others).collect();
            // Together they may answer as much as a single one.
            let most = shared.options.max_answer / places.len();
            let pushes = places.into_iter().map(|(instance, target)| {
                let mut request = Attempt {
                    key: &asked,
                    head: &head,
                    spec: &spec,
                    content_type: content_type.as_deref().unwrap_or_default(),
                    body: body.clone(),
                    worker: &worker,
                    target,
                    instance: &instance,
                    common: &mut common,
                }
                .request(&shared.options);
                request.max_body = most;
                let shared = Arc::clone(&shared);
                async move { (instance, shared.transport.push(request).await) }
            });
            // The requests are made one after the other, before the first of them is sent.
            let pushes: Vec<_> = pushes.collect();
            let parts = join_all(pushes).await;
            // The owner outlives its pushes; if it is gone nobody wants the answer.
            let _ = ends.send(Told::Broadcast(BroadcastEnd { key: asked, attempt, waited_for, parts }));
        });
        running.push = Some(Arc::new(AbortOnDropHandle::new(task)));
        if running.head.flags.has(Flags::CANCEL) {
            self.on_cancel_wish(&key);
        }
    }

    pub(super) fn on_broadcast_end(&mut self, end: BroadcastEnd) {
        let BroadcastEnd { key, attempt, waited_for, parts } = end;
        let Some(running) = self.running.get_mut(&key).filter(|r| r.head.open_attempt() == attempt && !r.ending) else {
            return;
        };
        if running.over {
            // What it says was reported before, or came too late.
            return self.drop_over(&key);
        }
        running.push = None;
        let slot = running.slot.take();
        self.freed += 1;
        self.slots_freed = true;
        let (shared, worker, now) = (Arc::clone(&self.shared), Arc::clone(&running.worker), self.now());
        let most = shared.options.max_answer;
        let each = most / parts.len().max(1);
        let allowance = parts.iter().find_map(|(_, pushed)| push::allowance(pushed, now));
        let longest = parts.iter().map(|(_, pushed)| pushed.elapsed).max().unwrap_or_default();
        let (mut judged, mut excerpts) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
        for (instance, pushed) in parts {
            let memory = instances::memory(&pushed);
            let streamed = pushed.outcome.as_ref().ok().and_then(|response| stream::collected(response, each));
            let answer = push::answer(pushed, each);
            // Nobody can accept it for the others.
            let outcome = streamed.unwrap_or_else(|| classify(&answer, &worker.status_map, false, now.0));
            instances::count(&worker, &instance, [&outcome], memory);
            let status = if let Answer::Response { status, .. } = &answer { Some(*status) } else { None };
            excerpts.push((Arc::clone(&instance), push::excerpt(&answer)));
            judged.push(Part { instance: instance.to_string(), status, outcome });
        }
        let (mut joined, decided) = join(&judged, most);
        let sent = slot.as_ref().map_or(now, |slot| slot.since());
        tell_gate(&worker, &mut joined, (sent, now), allowance, false);
        drop(slot);
        self.meters.attempt_seconds.record(longest.as_secs_f64());
        let registry = &shared.registry;
        let (types, queues) = (registry.types(key.ns), registry.queues(key.ns));
        let limits = &shared.options.signatures;
        let rules =
            Rules { limits, destinations: registry.policy(), types: types.as_deref(), queues: queues.as_deref(), source: None };
        let outcome = joined.read(&rules);
        let Some((instance, (status, excerpt))) = excerpts.into_iter().nth(decided) else { return };
        // The bodies of successes are the result: they need no excerpt.
        let excerpt = excerpt.filter(|_| !matches!(outcome, Outcome::Success { .. }));
        self.answered(&key, attempt, outcome, Note { instance, status, excerpt, waited_for });
    }
}
