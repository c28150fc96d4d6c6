//! The instances of a worker: who gets the next task, when one is asked how it is, and when one is to be started anew.
//!
//! Everything here is a rule or a document. What dispatchers count and see is theirs; a document says what all of them
//! follow ([`Recycling`]).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::head::SessionId;
use crate::time::Millis;
use crate::units::{Dur, Size};

/// Which instance of a worker gets the next task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The one with the fewest open requests.
    #[default]
    LeastLoaded,
    /// In turn.
    RoundRobin,
    /// All of them.
    Broadcast,
}

impl Balance {
    /// The words of the API.
    pub const WORDS: [&str; 3] = ["least_loaded", "round_robin", "broadcast"];

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeastLoaded => Self::WORDS[0],
            Self::RoundRobin => Self::WORDS[1],
            Self::Broadcast => Self::WORDS[2],
        }
    }

    /// Reads a word of the API.
    pub fn of(word: &str) -> Option<Self> {
        [Self::LeastLoaded, Self::RoundRobin, Self::Broadcast].into_iter().find(|it| it.as_str() == word)
    }

    // serde passes a reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How instances are asked whether they are well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The path that is asked for at the origin of each instance; with its slash.
    pub path: String,
    /// How often.
    #[serde(default = "Health::interval")]
    pub interval: Dur,
}

impl Health {
    /// Between two questions, when nothing is said.
    pub const INTERVAL: Dur = Dur::from_secs(10);
    /// The shortest time between two questions.
    pub const SHORTEST: Duration = Duration::from_secs(1);
    /// So many bad answers in a row take an instance out of the choice.
    pub const FAILURES: u8 = 3;

    const fn interval() -> Dur {
        Self::INTERVAL
    }
}

/// When an instance is to be started anew. Nothing set: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recycle {
    /// After so many tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tasks: Option<u64>,
    /// When it says that it has so much memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<Size>,
    /// After so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Dur>,
    /// After so many attempts that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_errors: Option<u64>,
}

/// What an instance has done since its counters began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// When they began, as far as it is known; zero: not known.
    pub since: Millis,
    /// Tasks that it answered.
    pub tasks: u64,
    /// Attempts of those that failed.
    pub errors: u64,
    /// The memory that it said it has last, in bytes; 0: it never said.
    pub memory: u64,
}

impl Counters {
    /// Those of two dispatchers together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let since = match (self.since.0, other.since.0) {
            (0, known) | (known, 0) => Millis(known),
            (a, b) => Millis(a.min(b)),
        };
        let memory = self.memory.max(other.memory);
        Self { since, tasks: self.tasks + other.tasks, errors: self.errors + other.errors, memory }
    }
}

/// Why an instance is to be started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecycleReason {
    /// It has had `max_tasks`.
    Tasks,
    /// It has `max_memory`.
    Memory,
    /// It is as old as `max_age`.
    Age,
    /// `max_errors` of its attempts failed.
    Errors,
    /// Somebody asked for it.
    Requested,
}

impl RecycleReason {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tasks => "max_tasks",
            Self::Memory => "max_memory",
            Self::Age => "max_age",
            Self::Errors => "max_errors",
            Self::Requested => "requested",
        }
    }
}

impl Recycle {
    /// The first bound that is reached.
    pub fn reached(&self, counters: &Counters, now: Millis) -> Option<RecycleReason> {
        let age = if counters.since.0 == 0 { Duration::ZERO } else { now.since(counters.since) };
        let reached = [
            (self.max_tasks.is_some_and(|most| counters.tasks >= most), RecycleReason::Tasks),
            (self.max_memory.is_some_and(|most| counters.memory >= most.0 && counters.memory > 0), RecycleReason::Memory),
            (self.max_age.is_some_and(|most| age >= most.get()), RecycleReason::Age),
            (self.max_errors.is_some_and(|most| counters.errors >= most), RecycleReason::Errors),
        ];
        reached.into_iter().find_map(|(yes, reason)| yes.then_some(reason))
    }
}

/// Which instance of a worker is being started anew: the document that all dispatchers follow. It has room for one, so there
/// never is a second at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recycling {
    /// Those that somebody asked for, in turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<String>,
    /// The one that it is about now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    /// Memory that instances have told of in heartbeats, by name: only what reaches the bound.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub heard: BTreeMap<String, Heard>,
    /// What became of others, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: BTreeMap<String, Mark>,
}

/// An instance on its way to a new start. It gets no new task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// It.
    pub instance: String,
    /// Why.
    pub reason: RecycleReason,
    /// Since when; tells turns apart.
    pub since: Millis,
    /// The session that sees to it.
    pub session: u64,
    /// What it had done.
    pub counters: Counters,
}

impl Turn {
    /// The session that sees to it.
    pub fn session(&self) -> SessionId {
        SessionId(self.session)
    }
}

/// What became of an instance that was to be started anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mark {
    /// Its counters began anew then; zero: they go on.
    pub born: Millis,
    /// It did not answer: it is left alone until then.
    pub rest: Millis,
}

/// Memory that an instance has told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heard {
    /// When.
    pub at: Millis,
    /// Bytes.
    pub memory: u64,
}

/// How long what was heard of an instance is not said again.
const HEARD_FOR: Duration = Duration::from_secs(5);

/// Marks that are kept: those of instances that are gone are of no use.
const MOST_MARKS: usize = 1_000;

impl Recycling {
    /// When the counters of an instance began, if it was started anew or said so itself.
    pub fn born(&self, instance: &str, registered: Millis) -> Millis {
        self.marks.get(instance).map_or(registered, |mark| mark.born.max(registered))
    }

    /// An instance says that it has so much memory; `false`: that is known.
    pub fn hear(&mut self, instance: &str, memory: u64, now: Millis) -> bool {
        if self.heard.get(instance).is_some_and(|heard| now.since(heard.at) < HEARD_FOR) {
            return false;
        }
        if self.heard.len() >= MOST_MARKS
            && let Some(oldest) = self.heard.iter().min_by_key(|(_, heard)| heard.at).map(|(name, _)| name.clone())
        {
            self.heard.remove(&oldest);
        }
        self.heard.insert(instance.to_owned(), Heard { at: now, memory });
        true
    }

    /// These counters of an instance, with what was heard of it since they began.
    #[must_use]
    pub fn with_heard(&self, instance: &str, counters: Counters) -> Counters {
        let heard = self.heard.get(instance).filter(|heard| heard.at > counters.since);
        Counters { memory: heard.map_or(0, |heard| heard.memory).max(counters.memory), ..counters }
    }

    /// The turn has ended: with a new start (`born`), or without (`rest`).
    pub fn end(&mut self, mark: Mark) {
        let Some(turn) = self.turn.take() else { return };
        self.asked.retain(|asked| *asked != turn.instance);
        self.heard.remove(&turn.instance);
        if self.marks.len() >= MOST_MARKS
            && let Some(oldest) = self.marks.iter().min_by_key(|(_, mark)| mark.born.max(mark.rest)).map(|(name, _)| name.clone())
        {
            self.marks.remove(&oldest);
        }
        let kept = self.marks.entry(turn.instance).or_default();
        *kept = Mark { born: kept.born.max(mark.born), rest: mark.rest };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    #[test]
    fn memory_that_was_heard_of_counts_until_a_new_start() {
        let mut state = Recycling::default();
        let counters = |since: Millis| Counters { since, memory: 5, ..Counters::default() };
        assert!(state.hear("i", 900, NOW) && !state.hear("i", 950, NOW.after(Duration::from_secs(1))));
        assert_eq!(state.with_heard("i", counters(Millis(0))).memory, 900);
        assert_eq!((state.with_heard("j", counters(Millis(0))).memory, state.with_heard("i", counters(NOW)).memory), (5, 5));
        let text = serde_json::to_string(&state).unwrap_or_default();
        assert_eq!(serde_json::from_str::<Recycling>(&text).ok().as_ref(), Some(&state));
        let turn = Turn { instance: "i".into(), reason: RecycleReason::Memory, since: NOW, session: 1, counters: counters(NOW) };
        state.turn = Some(turn);
        state.end(Mark { born: NOW, rest: Millis(0) });
        assert!(state.heard.is_empty());
        for n in 0..2 * MOST_MARKS as u64 {
            state.hear(&n.to_string(), 1, NOW.after(Duration::from_millis(n)));
        }
        assert!(state.heard.len() == MOST_MARKS && !state.heard.contains_key("0"));
    }

    #[test]
    fn the_first_bound_that_is_reached_is_told() {
        let counters = Counters { since: NOW, tasks: 10, errors: 3, memory: 4096 };
        let later = NOW.after(Duration::from_secs(60));
        for (bounds, reason) in [
            (Recycle::default(), None),
            (Recycle { max_tasks: Some(11), ..Recycle::default() }, None),
            (Recycle { max_tasks: Some(10), ..Recycle::default() }, Some(RecycleReason::Tasks)),
            (Recycle { max_memory: Some(Size(4097)), ..Recycle::default() }, None),
            (Recycle { max_memory: Some(Size(4096)), ..Recycle::default() }, Some(RecycleReason::Memory)),
            (Recycle { max_age: Some(Dur::from_secs(61)), ..Recycle::default() }, None),
            (Recycle { max_age: Some(Dur::from_secs(60)), ..Recycle::default() }, Some(RecycleReason::Age)),
            (Recycle { max_errors: Some(4), ..Recycle::default() }, None),
            (Recycle { max_errors: Some(3), ..Recycle::default() }, Some(RecycleReason::Errors)),
        ] {
            assert_eq!(bounds.reached(&counters, later), reason, "{bounds:?}");
        }
        let never_seen = Recycle { max_age: Some(Dur::from_secs(1)), ..Recycle::default() };
        assert_eq!(never_seen.reached(&Counters::default(), later), None);
    }

    #[test]
    fn counters_of_several_dispatchers_are_added() {
        let one = Counters { since: Millis(50), tasks: 1, errors: 1, memory: 900 };
        let two = Counters { since: Millis(40), tasks: 2, errors: 0, memory: 100 };
        let both = Counters { since: Millis(40), tasks: 3, errors: 1, memory: 900 };
        assert_eq!((one.with(two), two.with(one)), (both, both));
        assert_eq!(one.with(Counters::default()), one);
    }

    #[test]
    fn a_turn_that_ends_leaves_a_mark() {
        let turn = |instance: &str| Turn {
            instance: instance.into(),
            reason: RecycleReason::Requested,
            since: NOW,
            session: 1,
            counters: Counters::default(),
        };
        let mut it = Recycling { asked: vec!["a".into(), "b".into()], turn: Some(turn("a")), ..Recycling::default() };
        it.end(Mark { born: NOW, rest: Millis(0) });
        assert_eq!(
            (it.asked.as_slice(), it.born("a", Millis(5)), it.born("b", Millis(5))),
            (&["b".to_owned()][..], NOW, Millis(5))
        );
        it.turn = Some(turn("a"));
        it.end(Mark { born: Millis(0), rest: Millis(9) });
        assert_eq!((it.born("a", Millis(0)), it.marks["a"].rest), (NOW, Millis(9)), "its counters go on");
        for n in 0..2 * MOST_MARKS {
            it.turn = Some(turn(&n.to_string()));
            it.end(Mark { born: Millis(n as u64), rest: Millis(0) });
        }
        assert_eq!(it.marks.len(), MOST_MARKS);
    }

    #[test]
    fn what_is_not_set_is_not_stored() {
        assert_eq!(serde_json::to_string(&Recycle::default()).ok().as_deref(), Some("{}"));
        assert_eq!(serde_json::to_string(&Recycling::default()).ok().as_deref(), Some("{}"));
        for word in Balance::WORDS {
            assert_eq!(Balance::of(word).map(Balance::as_str), Some(word));
        }
        assert_eq!(Balance::of("random"), None);
    }
}
