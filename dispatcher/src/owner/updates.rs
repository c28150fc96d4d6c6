//! What workers say while they work: progress and log lines, gathered and stored at most every 200 ms for each task.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::attempt::LOG_BYTES;
use lovage_core::{Attempt, Event, Head, Refusal, State, TaskKey, Transition, decide};
use lovage_store::{Commit, Committed, Mode, Result, Sync};
use tokio::time::Instant;

use super::calls::Done;
use super::{Owner, Running};
use crate::stream::{News, Stream};

/// The least time between two changes of a task by what its worker says.
const PACE: Duration = Duration::from_millis(200);

/// The streaming answer of an open attempt.
pub(super) struct Streaming {
    stream: Arc<Stream>,
    /// When the last update was answered.
    updated: Option<Instant>,
    /// An update is planned or on its way.
    busy: bool,
}

impl Streaming {
    pub(super) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }
}

/// An update on its way to the store.
pub(super) struct Update {
    key: TaskKey,
    after: Head,
    attempt: Attempt,
    news: News,
}

impl Owner {
    /// There are news of an open attempt.
    pub(super) fn on_news(&mut self, key: &TaskKey, attempt: Attempt, stream: Arc<Stream>) {
        let Some(running) = self.open_attempt(key, attempt) else { return };
        let streaming = running.streaming.get_or_insert_with(|| Box::new(Streaming { stream, updated: None, busy: false }));
        if streaming.busy {
            return;
        }
        streaming.busy = true;
        let at = streaming.updated.map_or_else(Instant::now, |updated| updated + PACE);
        self.updates.insert((at, key.clone()));
    }

    fn open_attempt(&mut self, key: &TaskKey, attempt: Attempt) -> Option<&mut Running> {
        self.running.get_mut(key).filter(|running| running.head.open_attempt() == attempt && !running.ending && !running.over)
    }

    /// Stores what is due, together.
    pub(super) fn send_updates(&mut self) {
        let (now, store_now, random) = (Instant::now(), self.now(), Arc::clone(&self.shared.random));
        let partitions = self.shared.store.caps().partitions;
        let most = self.shared.options.settle_batch.min(self.shared.store.caps().max_batch);
        let (mut items, mut commits) = (Vec::new(), Vec::new());
        while items.len() < most
            && let Some((at, _)) = self.updates.first()
            && *at <= now
        {
            let Some((_, key)) = self.updates.pop_first() else { break };
            let Some(running) = self.running.get_mut(&key).filter(|running| !running.ending && !running.over) else { continue };
            let Some(news) = running.streaming.as_ref().map(|streaming| streaming.stream.take()) else { continue };
            let Ok(transition) = update(&key, running, &news, store_now) else {
                if let Some(streaming) = &mut running.streaming {
                    streaming.busy = false;
                }
                continue;
            };
            let Some(after) = transition.head.clone() else { continue };
            let (was, worker) = (running.head.clone(), (running.worker.mark != 0).then(|| &*running.worker.name));
            let queue = Arc::clone(&running.queue);
            commits.push(Commit::of(&key, was, transition, &running.spec, queue, worker, store_now, &*random, partitions));
            items.push(Update { attempt: after.open_attempt(), key, after, news });
        }
        if items.is_empty() {
            return;
        }
        let (shared, p) = (Arc::clone(&self.shared), self.partition);
        self.calls.push(Box::pin(async move {
            Done::Updated(items, shared.store.commit(p, shared.session, commits, Mode::Each, Sync::Ordered).await)
        }));
    }

    pub(super) fn on_updated(&mut self, items: Vec<Update>, outcome: Result<Vec<Committed>>) {
        let committed = match outcome {
            Ok(committed) => committed.into_iter().map(Some).collect(),
            Err(error) => {
                if !error.is_of_the_items() {
                    self.store_failed("store what workers say", &error);
                }
                items.iter().map(|_| None).collect::<Vec<_>>()
            }
        };
        for (item, committed) in items.into_iter().zip(committed) {
            let Some(running) = self.open_attempt(&item.key, item.attempt) else { continue };
            let stored = committed == Some(Committed::Ok);
            let head = match committed {
                Some(Committed::Ok) => Some(item.after),
                Some(Committed::Stale(head)) => head.filter(|head| head.state == State::Running),
                Some(Committed::Conflict { .. } | Committed::Aborted) | None => None,
            };
            if let Some(head) = head.filter(|head| head.open_attempt() == item.attempt && head.version > running.head.version) {
                running.head = head;
            }
            let Some(streaming) = &mut running.streaming else { continue };
            if !stored {
                streaming.stream.give_back(item.news);
            }
            streaming.busy = false;
            streaming.updated = Some(Instant::now());
            if streaming.stream.has_news() {
                streaming.busy = true;
                self.updates.insert((Instant::now() + PACE, item.key));
            }
        }
    }
}

/// Progress and log lines as one change.
fn update(key: &TaskKey, running: &Running, news: &News, now: lovage_core::Millis) -> std::result::Result<Transition, Refusal> {
    let (head, attempt) = (&running.head, running.head.open_attempt());
    let happens = |event| decide(key, head, &running.spec, event, now, 0);
    let logs = (!news.logs.is_empty()).then(|| Event::Logs { attempt, lines: news.logs.clone(), room: LOG_BYTES });
    let Some(value) = news.progress.clone() else { return logs.map_or(Err(Refusal::Unchanged), happens) };
    let mut both = happens(Event::Progress { attempt, value })?;
    if let Some(Ok(logs)) = logs.map(happens)
        && let (Some(head), Some(logged)) = (&mut both.head, &logs.head)
    {
        head.flags = head.flags.with(logged.flags);
        both.attempt = logs.attempt;
    }
    Ok(both)
}
