//! Writes that replicas have to confirm: gathered into rounds that end with one WAIT each.
//!
//! WAIT keeps a connection to itself, so these writes have one of their own, and what comes while a round runs goes
//! together in the next: a thousand writers pay for the way to the replica once, not one after the other. A round that
//! fewer replicas confirmed than asked for has been carried out by the master all the same: its writes are
//! [`Error::Unknown`].

use std::sync::Arc;

use parking_lot::Mutex;
use redis::{Arg, Cmd, Pipeline, Value};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::RedisWait;
use super::batch::same;
use super::link::Kind;
use super::node::Node;
use super::value;
use crate::{Error, Result};

// A round has to be on the replicas within the time-out of WAIT, which is a setting; these only keep one from growing beyond
// that.

/// The most commands of a round; each may be a batch of 200 items.
const MAX_COMMANDS: usize = 64;
/// The most bytes of a round, unless one job has more: 0.3 s of a line of 100 Mbit/s.
const MAX_BYTES: usize = 4 << 20;

struct Job {
    pipe: Pipeline,
    bytes: usize,
    reply: oneshot::Sender<Result<Vec<Value>>>,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    running: bool,
}

/// The writes to one server.
pub(super) struct Rounds {
    node: Arc<Node>,
    wait: RedisWait,
    runtime: Handle,
    queue: Mutex<Queue>,
}

impl Rounds {
    pub(super) fn new(node: Arc<Node>, wait: RedisWait, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { node, wait, runtime, queue: Mutex::default() })
    }

    /// Ends the calls that are on their way.
    pub(super) fn leave(&self) {
        self.node.leave();
    }

    /// Several commands in the next round.
    pub(super) async fn exchange(self: &Arc<Self>, pipe: Pipeline) -> Result<Vec<Value>> {
        let (reply, answer) = oneshot::channel();
        let start = {
            let mut queue = self.queue.lock();
            queue.jobs.push(Job { bytes: size(&pipe), pipe, reply });
            !std::mem::replace(&mut queue.running, true)
        };
        if start {
            // Not by the caller: one that gives up must not take others with it.
            self.runtime.spawn(Arc::clone(self).run());
        }
        answer.await.unwrap_or_else(|_| Err(Error::Unknown("the runtime of the store is shutting down".into())))
    }

    async fn run(self: Arc<Self>) {
        while let Some(jobs) = self.next() {
            self.round(jobs).await;
        }
    }

    fn next(&self) -> Option<Vec<Job>> {
        let mut queue = self.queue.lock();
        let (mut commands, mut bytes) = (0, 0);
        let fits = |job: &&Job| {
            commands += job.pipe.len();
            bytes += job.bytes;
            commands <= MAX_COMMANDS && bytes <= MAX_BYTES
        };
        let count = queue.jobs.iter().take_while(fits).count().max(1).min(queue.jobs.len());
        queue.running = count > 0;
        (count > 0).then(|| queue.jobs.drain(..count).collect())
    }

    async fn round(&self, jobs: Vec<Job>) {
        let mut pipe = Pipeline::new();
        let mut replies = Vec::with_capacity(jobs.len());
        for job in jobs {
            replies.push((job.pipe.len(), job.reply));
            for cmd in job.pipe.cmd_iter() {
                pipe.add_command(cmd.clone());
            }
        }
        pipe.cmd("WAIT").arg(self.wait.replicas).arg(self.wait.timeout.as_millis() as u64);
        match self.node.exchange(Kind::Write, &pipe).await {
            Ok(mut answers) => {
                let confirmed = self.confirmed(answers.pop().unwrap_or_default());
                let mut answers = answers.into_iter();
                for (count, reply) in replies {
                    let own: Vec<_> = answers.by_ref().take(count).collect();
                    let refused = own.iter().all(|answer| matches!(answer, Value::ServerError(_)));
                    // What was refused has not been written, so there is nothing to confirm.
                    let answer = if refused { Ok(own) } else { confirmed.as_ref().map(|()| own).map_err(same) };
                    // A caller that has gone away does not need its answer.
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                for (_, reply) in replies {
                    let _ = reply.send(Err(same(&error)));
                }
            }
        }
    }

    fn confirmed(&self, answer: Value) -> Result<()> {
        let wanted = self.wait.replicas;
        match value::number(value::no_error(answer).unwrap_or_default()) {
            Ok(count) if count >= u64::from(wanted) => Ok(()),
            counted => {
                let count = counted.unwrap_or_default();
                let (endpoint, timeout) = (&self.node.endpoint, self.wait.timeout);
                Err(Error::Unknown(format!(
                    "redis at {endpoint} has the write, but only {count} of {wanted} replicas confirmed it within {timeout:?}"
                )))
            }
        }
    }
}

/// About how many bytes the commands are.
fn size(pipe: &Pipeline) -> usize {
    let bytes = |arg| if let Arg::Simple(bytes) = arg { <[u8]>::len(bytes) } else { 0 };
    pipe.cmd_iter().flat_map(Cmd::args_iter).map(bytes).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::redis::RedisTls;
    use crate::redis::address::Address;
    use crate::redis::dial::Dialer;

    fn rounds(sizes: &[(usize, usize)]) -> Vec<usize> {
        let Address { seeds, template, .. } = Address::read("redis://127.0.0.1:1").unwrap();
        let dialer = Dialer::new(template, &RedisTls::default()).unwrap();
        let limit = Duration::from_secs(1);
        let node = Node::start(&Handle::current(), dialer, seeds[0].clone(), limit, Arc::default(), Arc::default());
        let wait = RedisWait { replicas: 1, timeout: limit };
        let rounds = Rounds::new(Arc::new(node), wait, Handle::current());
        for (commands, bytes) in sizes {
            let mut pipe = Pipeline::new();
            for _ in 0..*commands {
                pipe.cmd("SET").arg("k").arg(vec![0; bytes - 4]);
            }
            rounds.queue.lock().jobs.push(Job { bytes: size(&pipe), pipe, reply: oneshot::channel().0 });
        }
        std::iter::from_fn(|| rounds.next().map(|jobs| jobs.len())).collect()
    }

    #[tokio::test]
    async fn rounds_are_bounded_in_commands_and_bytes() {
        assert_eq!(rounds(&[(1, 100); 130]), [64, 64, 2]);
        assert_eq!(rounds(&[(2, 100); 33]), [32, 1]);
        assert_eq!(rounds(&[(1, 1 << 20); 9]), [4, 4, 1]);
        // What is larger than a round is one.
        assert_eq!(rounds(&[(1, 100), (1, 5 << 20), (70, 100), (1, 100)]), [1, 1, 1, 1]);
    }
}
