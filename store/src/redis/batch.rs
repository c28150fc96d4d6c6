//! Group commit on the client's side: what arrives for a partition while a few calls run goes together in the next.
//!
//! A call costs Redis far more than an item, so under load this is where the throughput comes from; without load a job
//! goes at once. The calls run on a task of their own: a caller that gives up does not take others with it.

use std::collections::VecDeque;
use std::sync::Arc;

use lovage_core::SessionId;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::MAX_BATCH;
use crate::{Error, Mode, Result};

/// Calls do not grow beyond this, so that none blocks Redis for long.
const MAX_BYTES: usize = 4 << 20;
/// Calls of one partition and verb that are on their way at once. With `appendfsync always` Redis answers a call after a
/// sync, which covers all that came before it: callers that wait for the call before theirs wait for two syncs.
pub(super) const FLIGHT: usize = 4;
/// With so many items on their way the others wait: a larger call is worth more than an earlier one.
const BUSY: usize = 64;

/// What can be sent in batches.
pub(super) trait Batched: Send + Sized + 'static {
    type Answer: Send + 'static;

    /// About how many bytes the item is.
    fn size(&self) -> usize;
}

/// Sends one call.
pub(super) trait Calls<T: Batched>: Send + Sync + 'static {
    fn send(&self, source: SessionId, items: Vec<T>, mode: Mode) -> impl Future<Output = Result<Vec<T::Answer>>> + Send;
}

struct Job<T: Batched> {
    source: SessionId,
    mode: Mode,
    bytes: usize,
    items: Vec<T>,
    reply: oneshot::Sender<Result<Vec<T::Answer>>>,
}

struct Queue<T: Batched> {
    waiting: VecDeque<Job<T>>,
    /// Calls that are on their way, and their items.
    running: usize,
    items: usize,
}

/// The jobs of one partition and verb.
pub(super) struct Batcher<T: Batched, S> {
    queue: Mutex<Queue<T>>,
    sender: S,
    runtime: Handle,
}

impl<T: Batched, S: Calls<T>> Batcher<T, S> {
    pub(super) fn new(sender: S, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::new(Queue { waiting: VecDeque::new(), running: 0, items: 0 }), sender, runtime })
    }

    /// Sends the items, alone or with others.
    pub(super) async fn submit(self: &Arc<Self>, source: SessionId, items: Vec<T>, mode: Mode) -> Result<Vec<T::Answer>> {
        let (reply, answer) = oneshot::channel();
        let bytes = items.iter().map(T::size).sum();
        let start = {
            let mut queue = self.queue.lock();
            queue.waiting.push_back(Job { source, mode, bytes, items, reply });
            let start = queue.running < FLIGHT && queue.items < BUSY;
            queue.running += usize::from(start);
            start
        };
        if start {
            self.runtime.spawn(Arc::clone(self).run());
        }
        answer.await.unwrap_or_else(|_| Err(Error::Unknown("the runtime of the store is shutting down".into())))
    }

    /// How many items are on their way or wait for the next call.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        let queue = self.queue.lock();
        queue.items + queue.waiting.iter().map(|job| job.items.len()).sum::<usize>()
    }

    async fn run(self: Arc<Self>) {
        let mut done = 0;
        while let Some(jobs) = self.next(done) {
            let (source, mode) = (jobs[0].source, jobs[0].mode);
            let mut items = Vec::with_capacity(jobs.iter().map(|job| job.items.len()).sum());
            let mut replies = Vec::with_capacity(jobs.len());
            for job in jobs {
                replies.push((job.items.len(), job.reply));
                items.extend(job.items);
            }
            done = items.len();
            // A caller that has gone away does not need its answer.
            match self.sender.send(source, items, mode).await {
                Ok(answers) => {
                    let mut answers = answers.into_iter();
                    for (count, reply) in replies {
                        let _ = reply.send(Ok(answers.by_ref().take(count).collect()));
                    }
                }
                Err(error) => {
                    for (_, reply) in replies {
                        let _ = reply.send(Err(same(&error)));
                    }
                }
            }
        }
    }

    /// The jobs of the next call after one of `done` items; `None` ends the run.
    fn next(&self, done: usize) -> Option<Vec<Job<T>>> {
        let mut queue = self.queue.lock();
        queue.items -= done;
        let Some(first) = queue.waiting.pop_front() else {
            queue.running -= 1;
            return None;
        };
        let (mut count, mut bytes) = (first.items.len(), first.bytes);
        let mut jobs = vec![first];
        while let Some(next) = queue.waiting.front() {
            let fits = count + next.items.len() <= MAX_BATCH && bytes + next.bytes <= MAX_BYTES;
            let alike = jobs[0].mode == Mode::Each && next.mode == Mode::Each && next.source == jobs[0].source;
            if !(fits && alike) {
                break;
            }
            count += next.items.len();
            bytes += next.bytes;
            jobs.extend(queue.waiting.pop_front());
        }
        queue.items += count;
        Some(jobs)
    }
}

/// The same error for another caller.
pub(super) fn same(error: &Error) -> Error {
    match error {
        Error::Unavailable(text) => Error::Unavailable(text.clone()),
        Error::Unknown(text) => Error::Unknown(text.clone()),
        Error::Full(text) => Error::Full(text.clone()),
        Error::Fenced => Error::Fenced,
        Error::Corrupt(text) => Error::Corrupt(text.clone()),
        Error::Format { found, known } => Error::Format { found: *found, known: *known },
        Error::Locked(text) => Error::Locked(text.clone()),
        Error::Invalid(text) => Error::Invalid(text.clone()),
    }
}
