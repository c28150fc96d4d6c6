//! The head of a task: the small part that every transition rewrites, apart from the body.
//!
//! Redis keeps it as 96 bytes, SQLite as columns. The first eight bytes are the version in big-endian order:
//! the guard of every change. What a store writes by itself has a named place: `seq` at insert, and version and deadline
//! when the last member has arrived at a barrier.

use crate::lane::Score;
use crate::spec::DEFAULT_PRIORITY;
use crate::state::{Reason, State};
use crate::time::Millis;

/// Bytes of a packed head.
pub const HEAD_BYTES: usize = 96;
/// Where a packed head holds the version (8 bytes, big-endian).
pub const VERSION_OFFSET: usize = 0;
/// Where a packed head holds the number of its state (1 byte).
pub const STATE_OFFSET: usize = 9;
/// Where a packed head holds `seq` (8 bytes, big-endian).
pub const SEQ_OFFSET: usize = 40;
const TIMES_OFFSET: usize = 48;
const TIME_BYTES: usize = 6;
/// Where a packed head holds `expires` (6 bytes, big-endian).
pub const EXPIRES_OFFSET: usize = TIMES_OFFSET + 2 * TIME_BYTES;
/// Where a packed head holds `deadline` (6 bytes, big-endian).
pub const DEADLINE_OFFSET: usize = TIMES_OFFSET + 3 * TIME_BYTES;
const WORKER_OFFSET: usize = 90;
/// The packed format that this version writes.
pub const HEAD_FORMAT: u8 = 1;

/// Rises by one with every change of a task; the guard of every commit.
pub type Version = u64;

/// A life of a dispatcher process. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The lane a task waits in. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u64);

/// Yes/no facts of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// Waits until somebody releases it.
    pub const HELD: Self = Self(1);
    /// A cancel was asked for while it ran.
    pub const CANCEL: Self = Self(1 << 1);
    /// … and without grace.
    pub const HARD: Self = Self(1 << 2);
    /// Keeps its place in its lane until it is final (order key).
    pub const ORDERED: Self = Self(1 << 3);
    /// A result or an error is stored.
    pub const HAS_RESULT: Self = Self(1 << 4);
    /// A result was stored and its time is over.
    pub const RESULT_GONE: Self = Self(1 << 5);
    /// Has a parent task.
    pub const HAS_PARENT: Self = Self(1 << 6);
    /// Attempt entries are stored.
    pub const HAS_ATTEMPTS: Self = Self(1 << 7);
    /// All it waited for is there: the worker is called again with the results of the children.
    pub const RESUMED: Self = Self(1 << 8);
    /// In the place of the result stands something passing: progress, or the error of the last attempt.
    pub const INTERIM: Self = Self(1 << 9);
    /// Three bits: which of the seven reasons a cancel that was asked for has.
    const CANCEL_REASON: Self = Self(0b111 << 10);
    /// It was final before and was started anew: whoever waited for its end has been told.
    pub const TOLD: Self = Self(1 << 13);
    /// Starts in order of acceptance, whatever its priority (FIFO queue).
    pub const FIFO: Self = Self(1 << 14);
    /// Starts whatever its limits say, until an attempt has ended: somebody asked for it.
    pub const NOW: Self = Self(1 << 15);

    /// The reason of the cancel that was asked for while it ran.
    pub fn cancel_reason(self) -> Reason {
        let code = (self.0 & Self::CANCEL_REASON.0) >> 10;
        Reason::from_u8(Reason::Requested as u8 + code as u8).unwrap_or(Reason::Requested)
    }

    /// These with the reason of a cancel; one that is none counts as a request.
    #[must_use]
    pub fn with_cancel_reason(self, reason: Reason) -> Self {
        let code = (reason as u8).checked_sub(Reason::Requested as u8).filter(|code| *code < 7).unwrap_or(0);
        self.without(Self::CANCEL_REASON).with(Self(u16::from(code) << 10))
    }

    /// Those that a new generation of the task keeps.
    #[must_use]
    pub fn of_next_generation(self) -> Self {
        let kept =
            Self::HELD.with(Self::ORDERED).with(Self::FIFO).with(Self::HAS_PARENT).with(Self::HAS_ATTEMPTS).with(Self::TOLD);
        Self(self.0 & kept.0)
    }

    /// Whether all of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These with `other` set.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These with `other` cleared.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The head of a task. Times of zero mean "none".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Rises by one with every change.
    pub version: Version,
    /// Where the task is in its life.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// 0–9, higher first.
    pub priority: u8,
    /// Yes/no facts.
    pub flags: Flags,
    /// Attempts started so far, over all generations: only grows.
    pub attempt: u32,
    /// Attempts charged to the retry budget in this generation.
    pub budget: u16,
    /// Attempts in a row that were lost while it ran.
    pub lost: u8,
    /// Rises with every manual retry or replacement, up to 255: then there is no further one.
    pub generation: u8,
    /// The session that owns the open attempt.
    pub session: SessionId,
    /// The lane it waits in.
    pub lane: LaneId,
    /// The worker of the latest attempt, by [`worker_mark`]; 0: none.
    pub worker: u32,
    /// Order of acceptance in its partition; assigned by the store at insert.
    pub seq: u64,
    /// When it was accepted.
    pub created: Millis,
    /// Waiting: when it may start. Accepted: the length of its lease. Final: when the janitor has to look at it next.
    pub due: Millis,
    /// Never started at or after this; zero: no expiry.
    pub expires: Millis,
    /// When a lease (accepted) or a wait (blocked) runs out; zero in any other state.
    pub deadline: Millis,
    /// Start of the latest attempt.
    pub started: Millis,
    /// Start of the first attempt of this generation: `max_age` counts from here.
    pub first_started: Millis,
    /// When it became final.
    pub ended: Millis,
}

impl Head {
    /// Its place in its lane.
    pub fn score(&self) -> Score {
        let in_order = self.flags.has(Flags::ORDERED) || self.flags.has(Flags::FIFO);
        Score::new(if in_order { DEFAULT_PRIORITY } else { self.priority }, self.seq)
    }

    /// Whether this is the same state of the same task as `was`. A version is given once in the life of a task, an order of
    /// acceptance to one task of a partition, so nothing else need be compared: a task that was forgotten and made anew
    /// under its id is another one, whatever its version.
    pub fn is_still(&self, was: &Self) -> bool {
        (self.version, self.seq) == (was.version, was.seq)
    }

    /// Packs into the format that Redis keeps.
    pub fn pack(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0u8; HEAD_BYTES];
        out[VERSION_OFFSET..8].copy_from_slice(&self.version.to_be_bytes());
        out[8] = HEAD_FORMAT;
        out[STATE_OFFSET] = self.state as u8;
        out[10] = self.reason as u8;
        out[11] = self.priority;
        out[12..14].copy_from_slice(&self.flags.0.to_be_bytes());
        out[14..16].copy_from_slice(&self.budget.to_be_bytes());
        out[16..20].copy_from_slice(&self.attempt.to_be_bytes());
        out[20] = self.lost;
        out[21] = self.generation;
        out[24..32].copy_from_slice(&self.session.0.to_be_bytes());
        out[32..40].copy_from_slice(&self.lane.0.to_be_bytes());
        out[SEQ_OFFSET..48].copy_from_slice(&self.seq.to_be_bytes());
        for (i, time) in self.times().into_iter().enumerate() {
            let at = TIMES_OFFSET + i * TIME_BYTES;
            out[at..at + TIME_BYTES].copy_from_slice(&time.0.to_be_bytes()[2..]);
        }
        out[WORKER_OFFSET..WORKER_OFFSET + 4].copy_from_slice(&self.worker.to_be_bytes());
        out
    }

    /// Reads a packed head; `None` if it is not one, or of a format that this version does not know.
    pub fn unpack(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEAD_BYTES] = bytes.try_into().ok()?;
        if bytes[8] != HEAD_FORMAT {
            return None;
        }
        let u64_at = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(word)
        };
        let time_at = |i: usize| {
            let mut word = [0; 8];
            let at = TIMES_OFFSET + i * TIME_BYTES;
            word[2..].copy_from_slice(&bytes[at..at + TIME_BYTES]);
            Millis(u64::from_be_bytes(word))
        };
        Some(Self {
            version: u64_at(VERSION_OFFSET),
            state: State::from_u8(bytes[STATE_OFFSET])?,
            reason: Reason::from_u8(bytes[10])?,
            priority: bytes[11],
            flags: Flags(u16::from_be_bytes([bytes[12], bytes[13]])),
            budget: u16::from_be_bytes([bytes[14], bytes[15]]),
            attempt: u32::from_be_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]),
            lost: bytes[20],
            generation: bytes[21],
            session: SessionId(u64_at(24)),
            lane: LaneId(u64_at(32)),
            worker: u32::from_be_bytes([bytes[90], bytes[91], bytes[92], bytes[93]]),
            seq: u64_at(SEQ_OFFSET),
            created: time_at(0),
            due: time_at(1),
            expires: time_at(2),
            deadline: time_at(3),
            started: time_at(4),
            first_started: time_at(5),
            ended: time_at(6),
        })
    }

    fn times(&self) -> [Millis; 7] {
        [self.created, self.due, self.expires, self.deadline, self.started, self.first_started, self.ended]
    }

    /// The attempt that is open now: what an answer must name to be taken.
    pub fn open_attempt(&self) -> Attempt {
        Attempt { number: self.attempt, generation: self.generation, session: self.session }
    }

    /// Whether an attempt is open that its worker has accepted: nobody's connection holds it, its lease does.
    pub fn is_accepted(&self) -> bool {
        self.state == State::Running && self.deadline.0 != 0
    }

    /// Whether the task has an expiry and it has passed.
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expires.0 != 0 && self.expires <= now
    }
}

/// A short mark of a worker's name, kept in heads instead of the name: 32-bit FNV-1a, never 0.
pub fn worker_mark(name: &str) -> u32 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

/// One attempt of a task: the fence that keeps late answers out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u32,
    /// The generation it belongs to.
    pub generation: u8,
    /// The session that pushed it.
    pub session: SessionId,
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_head() -> impl Strategy<Value = Head> {
        let time = || (0u64..1 << 48).prop_map(Millis);
        let small =
            (any::<u64>(), 0usize..9, 0usize..23, 0u8..10, any::<u16>(), any::<u32>(), any::<u16>(), any::<u8>(), any::<u8>());
        let wide = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
        (small, wide, prop::collection::vec(time(), 7)).prop_map(|(s, w, t)| Head {
            version: s.0,
            state: State::ALL[s.1],
            reason: Reason::ALL[s.2],
            priority: s.3,
            flags: Flags(s.4),
            attempt: s.5,
            budget: s.6,
            lost: s.7,
            generation: s.8,
            session: SessionId(w.0),
            lane: LaneId(w.1),
            worker: w.3,
            seq: w.2,
            created: t[0],
            due: t[1],
            expires: t[2],
            deadline: t[3],
            started: t[4],
            first_started: t[5],
            ended: t[6],
        })
    }

    proptest! {
        #[test]
        fn packs_and_unpacks(head in any_head()) {
            prop_assert_eq!(Head::unpack(&head.pack()).unwrap(), head.clone());
            prop_assert_eq!(&head.pack()[..8], &head.version.to_be_bytes());
            prop_assert_eq!(&head.pack()[SEQ_OFFSET..SEQ_OFFSET + 8], &head.seq.to_be_bytes());
            prop_assert_eq!(&head.pack()[EXPIRES_OFFSET..EXPIRES_OFFSET + 6], &head.expires.0.to_be_bytes()[2..]);
            prop_assert_eq!(&head.pack()[DEADLINE_OFFSET..DEADLINE_OFFSET + 6], &head.deadline.0.to_be_bytes()[2..]);
            prop_assert_eq!(head.pack()[STATE_OFFSET], head.state as u8);
        }

        #[test]
        fn junk_never_panics(bytes: Vec<u8>, mut exact in prop::collection::vec(any::<u8>(), HEAD_BYTES)) {
            let _ = Head::unpack(&bytes);
            exact[8] = HEAD_FORMAT;
            let _ = Head::unpack(&exact);
        }
    }

    #[test]
    fn a_newer_format_is_not_guessed_at() {
        let mut bytes = [0; HEAD_BYTES];
        bytes[8] = HEAD_FORMAT + 1;
        assert_eq!(Head::unpack(&bytes), None);
    }
}
