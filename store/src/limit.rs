//! Limits over all nodes: what is asked of the state of a key, and what is answered.
//!
//! A store judges rates and concurrency by one clock and in one place, so that all who ask share them. It knows no rule by
//! itself: whoever asks says which one is in force. Of a key that nobody uses nothing is kept.
//!
//! What runs is held by name, with an end: a holder's count is always told as a whole, never as a difference, so a call that is
//! repeated or got lost counts nothing twice. What was granted and not used is given back, or simply not told the next time.
//! Whoever tells of a holder has one call about it under way at a time: what one call is granted, the next one has to know.
//!
//! Sessions that want more of the concurrency than there is stand in line: whoever got something goes to its end, so that all
//! have their turn; of what becomes free, as much is left to those in front as they asked for.

mod book;
mod rate;
mod state;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lovage_core::gcra::Lot;
use lovage_core::{LimitRule, Millis, Ns, Partition, SessionId, TaskKey};

pub(crate) use self::book::{Book, Times};
pub(crate) use self::rate::allowed_burst;

/// A limit's tenant and key.
pub type LimitKey = (Ns, String);

/// For so long a session keeps its place in line after it asked last.
pub(crate) const LINE: Duration = Duration::from_secs(2);

/// Who holds some of a key's concurrency.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// The attempts that a dispatcher has open.
    Session(SessionId),
    /// The accepted attempts of a partition, told by its owner.
    Partition(Partition),
    /// One attempt that a worker took itself, until the owner of its partition counts it: task and attempt.
    Attempt(String),
}

/// The name under which an attempt is held that a worker took itself.
pub fn attempt_holder(task: &TaskKey, attempt: u32) -> String {
    format!("{}:{attempt}", task.id)
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(session) => write!(f, "s{}", session.0),
            Self::Partition(p) => write!(f, "p{}", p.0),
            Self::Attempt(name) => write!(f, "a{name}"),
        }
    }
}

impl FromStr for Holder {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, rest) = text.split_at_checked(1).ok_or(())?;
        match kind {
            "s" => rest.parse().map(|n| Self::Session(SessionId(n))).map_err(drop),
            "p" => rest.parse().map(|n| Self::Partition(Partition(n))).map_err(drop),
            "a" => Ok(Self::Attempt(rest.to_owned())),
            _ => Err(()),
        }
    }
}

/// What a holder holds from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who.
    pub holder: Holder,
    /// How many of what runs; 0: none any more.
    pub count: u32,
    /// For so long, from the moment of the call, unless it is told again.
    pub lease: Duration,
}

/// A wish for more of the concurrency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotWish {
    /// For whom; what is granted is added to what this one holds, until it is told anew.
    pub holder: Holder,
    /// How many at most; 0 leaves the line.
    pub most: u32,
    /// How long a grant is good for.
    pub lease: Duration,
    /// Whoever gets less than it wants waits in line, for 2 s from its last call: what it asks for is not granted to those
    /// behind it. The session that is to be woken; `None`: does not wait, and is behind all who do.
    pub wait: Option<SessionId>,
}

/// A wish for starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenWish {
    /// Fewer are of no use. More than the rule's burst are never granted.
    pub least: u32,
    /// More are not wanted.
    pub most: u32,
    /// How long before they are due they may be reserved.
    pub ahead: Duration,
}

/// What is asked of the state of one key, in this order: holds, starts given back, slots, starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRequest {
    /// The tenant.
    pub ns: Ns,
    /// The key.
    pub key: String,
    /// The rule in force.
    pub rule: LimitRule,
    /// What tasks say of the key, of the latest accepted that the caller knows, with the time of its acceptance: the state
    /// remembers the latest of all that was told.
    pub submitted: Option<(Millis, LimitRule)>,
    /// What is held.
    pub holds: Vec<Hold>,
    /// Starts that were reserved and are not needed: their number, and the `tat` that came with the last of them. They are
    /// given back if nobody reserved any since.
    pub unused: Option<(u32, u64)>,
    /// Wanted of the concurrency; without one in the rule all of them are granted.
    pub slots: Option<SlotWish>,
    /// Wanted of the rate; without one in the rule all of them are granted, due at once. None are reserved if slots were wanted
    /// and their holder has none: neither granted now nor held before.
    pub tokens: Option<TokenWish>,
}

impl LimitRequest {
    /// Asks nothing but what there is.
    pub fn look(ns: Ns, key: impl Into<String>, rule: LimitRule) -> Self {
        Self { ns, key: key.into(), rule, submitted: None, holds: Vec::new(), unused: None, slots: None, tokens: None }
    }

    /// Whether it changes nothing.
    pub(crate) fn only_looks(&self) -> bool {
        self.submitted.is_none()
            && self.holds.is_empty()
            && self.unused.is_none()
            && self.slots.is_none()
            && self.tokens.is_none()
    }
}

/// The answer to a [`LimitRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitReply {
    /// When it was judged: microseconds of the clock that counts.
    pub now: u64,
    /// Granted of the concurrency.
    pub slots: u32,
    /// Reserved starts with their times; `None`: none, or there is no rate.
    pub lot: Option<Lot>,
    /// The theoretical arrival time of the rate now, in microseconds; 0: never used.
    pub tat: u64,
    /// When the least that is of use can be had, if there were fewer than wanted: microseconds.
    pub retry_at: Option<u64>,
    /// What runs, by all holders, with what was granted now.
    pub in_use: u32,
    /// Sessions that wait in line.
    pub waiting: u32,
    /// Who waits and may find something now; each is told once, until it asks again. A request that only looks tells nobody.
    pub wake: Vec<SessionId>,
    /// What the latest task says that anybody told of.
    pub submitted: Option<(Millis, LimitRule)>,
}
