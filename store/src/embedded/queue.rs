//! The way into the writer: a bounded queue of operations with their answers.

use std::collections::VecDeque;
use std::time::Instant;

use lovage_core::SessionId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    Claim, Claimed, Commit, Committed, DocOutcome, DocPut, Error, FeedPos, Insert, Inserted, KeyEntry, KeyTake, Mode, OwnToken,
    Result,
};

/// Where an answer goes. Nobody may wait for it any more; the operation is carried out all the same.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// One call of a writing verb.
pub(super) enum Work {
    Insert {
        items: Vec<Insert>,
        mode: Mode,
        reply: Reply<Vec<Inserted>>,
    },
    Claim {
        own: OwnToken,
        source: SessionId,
        items: Vec<Claim>,
        reply: Reply<Vec<Claimed>>,
    },
    Commit {
        source: SessionId,
        items: Vec<Commit>,
        mode: Mode,
        ordered: bool,
        reply: Reply<Vec<Committed>>,
    },
    Documents {
        items: Vec<DocPut>,
        reply: Reply<Vec<DocOutcome>>,
    },
    Key {
        take: KeyTake,
        reply: Reply<Option<KeyEntry>>,
    },
    Delivered {
        messages: Vec<FeedPos>,
        reply: Reply<()>,
    },
    /// Bounded housekeeping, whose result nobody waits for.
    Tidy,
    /// A test's way to make the disk fail.
    #[cfg(test)]
    Break {
        how: fn(&rusqlite::Connection),
        reply: Reply<()>,
    },
}

/// How urgent an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Need not be synced.
    Claim,
    /// May wait a little for others.
    Ordered,
    /// Is synced with the next round.
    Durable,
    /// Has its own small transaction.
    Aside,
}

impl Work {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Claim { .. } => Kind::Claim,
            Self::Commit { ordered: true, .. } | Self::Delivered { .. } => Kind::Ordered,
            Self::Insert { .. } | Self::Commit { .. } | Self::Documents { .. } | Self::Key { .. } => Kind::Durable,
            Self::Tidy => Kind::Aside,
            #[cfg(test)]
            Self::Break { .. } => Kind::Aside,
        }
    }

    pub(super) fn items(&self) -> usize {
        match self {
            Self::Insert { items, .. } => items.len(),
            Self::Claim { items, .. } => items.len(),
            Self::Commit { items, .. } => items.len(),
            Self::Documents { items, .. } => items.len(),
            Self::Key { .. } => 1,
            Self::Delivered { messages, .. } => messages.len(),
            Self::Tidy => 0,
            #[cfg(test)]
            Self::Break { .. } => 0,
        }
    }

    /// Roughly the bytes that it writes, apart from heads.
    fn bytes(&self) -> usize {
        match self {
            Self::Insert { items, .. } => items.iter().map(|i| i.body.len()).sum(),
            Self::Commit { items, .. } => {
                items.iter().map(|i| i.result.iter().flatten().map(bytes::Bytes::len).sum::<usize>()).sum()
            }
            _ => 0,
        }
    }

    /// Answers with an error.
    pub(super) fn refuse(self, e: &Error) {
        // A caller that went away needs no answer.
        match self {
            Self::Insert { reply, .. } => drop(reply.send(Err(e.again()))),
            Self::Claim { reply, .. } => drop(reply.send(Err(e.again()))),
            Self::Commit { reply, .. } => drop(reply.send(Err(e.again()))),
            Self::Documents { reply, .. } => drop(reply.send(Err(e.again()))),
            Self::Key { reply, .. } => drop(reply.send(Err(e.again()))),
            Self::Delivered { reply, .. } => drop(reply.send(Err(e.again()))),
            Self::Tidy => {}
            #[cfg(test)]
            Self::Break { reply, .. } => drop(reply.send(Err(e.again()))),
        }
    }
}

/// An operation on its way.
pub(super) struct Op {
    pub(super) work: Work,
    /// Room in the queue, given back once the operation is answered.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// The most operations and bytes of one round.
const ROUND_ITEMS: usize = 2_000;
const ROUND_BYTES: usize = 1 << 20;

#[derive(Default)]
struct Waiting {
    ops: VecDeque<Op>,
    closed: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

/// What [`Queue::take`] found.
pub(super) enum Taken {
    Ops(Vec<Op>),
    TimedOut,
    Closed,
}

impl Queue {
    /// Puts an operation in; it is refused once the queue is closed.
    pub(super) fn put(&self, op: Op) {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            drop(waiting);
            op.work.refuse(&closed());
            return;
        }
        waiting.ops.push_back(op);
        drop(waiting);
        self.filled.notify_one();
    }

    /// Lets no more operations in. Those inside are still carried out.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.waiting.lock().closed
    }

    /// The operations of one round, waiting for the first until `deadline`.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Taken {
        let mut waiting = self.waiting.lock();
        while waiting.ops.is_empty() {
            if waiting.closed {
                return Taken::Closed;
            }
            match deadline {
                None => self.filled.wait(&mut waiting),
                Some(at) => {
                    if self.filled.wait_until(&mut waiting, at).timed_out() && waiting.ops.is_empty() {
                        return Taken::TimedOut;
                    }
                }
            }
        }
        let (mut count, mut items, mut bytes) = (0, 0, 0);
        for op in &waiting.ops {
            if count > 0 && (items >= ROUND_ITEMS || bytes >= ROUND_BYTES) {
                break;
            }
            count += 1;
            items += op.work.items();
            bytes += op.work.bytes();
        }
        Taken::Ops(waiting.ops.drain(..count).collect())
    }
}

/// Answers all of them with the same error.
pub(super) fn refuse_all(ops: Vec<Op>, e: &Error) {
    for op in ops {
        op.work.refuse(e);
    }
}

/// The answer of a store that was closed.
pub(super) fn closed() -> Error {
    Error::Unavailable("the store is closed".into())
}
