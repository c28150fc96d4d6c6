//! Made-up tasks and changes, mostly sensible, sometimes not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use lovage_core::units::Dur;
use lovage_core::{
    Batching, Flags, Head, IdRun, LaneDef, LaneId, LaneOrder, Millis, Ns, Partition, Reason, Route, SessionId, Slot, State,
    TaskId, TaskKey, TaskLimit,
};

use crate::conformance::kit::first_head;
use crate::{Commit, Effect, Insert, KeyKind, KeyPut, OnExists};

/// Longer than a sequence takes in real time, shorter than most steps of a clock that is moved by hand.
pub(super) const LEASE: Duration = Duration::from_secs(1_800);
/// The tenants.
pub(super) const NAMESPACES: [Ns; 2] = [Ns(0), Ns(9)];
/// The sessions.
pub(super) const SESSIONS: [SessionId; 3] = [SessionId(1), SessionId(0x00aa_0000_0000_0002), SessionId(u64::MAX)];
/// The keys that inserts take.
pub(super) const KEYS: [&[u8]; 3] = [b"a", b"b:\0", b"\xff"];

impl Commit {
    /// Whether the wait of this task may be over with the change.
    pub(super) fn may_wake(&self, key: &TaskKey) -> bool {
        self.effects.iter().any(|effect| match effect {
            Effect::Arrive { barrier, .. } => barrier == key,
            Effect::Barrier { members } => *members == 0 && self.key == *key,
            Effect::Spawn(_) | Effect::TakeKey(_) | Effect::FreeKey { .. } | Effect::Send { .. } => false,
        })
    }
}

/// The source of everything random in a sequence.
pub(super) struct Source {
    pub(super) rng: Rng,
    lanes: Vec<Arc<LaneDef>>,
    client_ids: Vec<TaskKey>,
    ids: IdRun,
    made: u32,
}

impl Source {
    pub(super) fn new(seed: u64, p: Partition, partitions: u16) -> Self {
        let rng = Rng::with_seed(seed);
        let lane = |ns, queue: &str, route: &str, batch| {
            Arc::new(LaneDef { batch, ..LaneDef::of(ns, queue, Route::Task(route.into())) })
        };
        let batch = Batching { key: "k\u{e9}y".into(), max: 7, max_wait: Dur::from_millis(50) };
        let lanes = NAMESPACES.into_iter().flat_map(|ns| {
            let batched = lane(ns, "mail", "a", Some(batch.clone()));
            let fifo = LaneDef { order: LaneOrder::Fifo, ..LaneDef::of(ns, "mail", Route::Mixed) };
            let limits = vec![TaskLimit { key: "l".into(), rate: None, burst: None, concurrency: Some(2), cost: 1 }];
            let limited = LaneDef { limits, fair_key: Some("f".into()), ..(*lane(ns, "default", "a", None)).clone() };
            let plain = [lane(ns, "default", "a", None), lane(ns, "default", "b", None), lane(ns, "mail", "a", None)];
            plain.into_iter().chain([batched, Arc::new(fifo), Arc::new(limited)])
        });
        let client_ids = NAMESPACES.into_iter().flat_map(|ns| {
            let keys = (0u32..).map(move |n| TaskKey::new(ns, TaskId::Client(format!("order-{n}").into())));
            keys.filter(move |key| key.slot().partition(partitions) == p).take(4)
        });
        let ids = IdRun::new(Millis(1_767_225_600_000), Slot::in_partition(p, partitions, 1), seed);
        Self { rng, lanes: lanes.collect(), client_ids: client_ids.collect(), ids, made: 0 }
    }

    pub(super) fn lanes(&self) -> &[Arc<LaneDef>] {
        &self.lanes
    }

    /// One of the lanes.
    pub(super) fn lane(&mut self) -> LaneId {
        self.lanes[self.rng.usize(0..self.lanes.len())].id()
    }

    /// One of the lanes of a namespace.
    pub(super) fn lane_of(&mut self, ns: Ns) -> Arc<LaneDef> {
        let of_ns: Vec<_> = self.lanes.iter().filter(|lane| lane.ns == ns).cloned().collect();
        self.pick(&of_ns)
    }

    /// True this often in a hundred.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.rng.usize(0..from.len())].clone()
    }

    pub(super) fn bytes(&mut self) -> Bytes {
        let n = self.rng.usize(0..40);
        (0..n).map(|_| self.rng.u8(..)).collect()
    }

    /// Around `now`, never so near that the real time of the test decides what is before what.
    pub(super) fn time(&mut self, now: Millis) -> Millis {
        let minutes = self.rng.u64(1..90) * 60_000;
        if self.chance(30) { Millis(now.0.saturating_sub(minutes)) } else { Millis(now.0 + minutes) }
    }

    fn time_or_none(&mut self, now: Millis) -> Millis {
        if self.chance(50) { Millis(0) } else { self.time(now) }
    }

    /// A task with a generated id and nothing that could refuse it.
    pub(super) fn plain_task(&mut self, now: Millis, root: Option<TaskKey>) -> Insert {
        let lane = self.lanes[self.rng.usize(0..self.lanes.len())].clone();
        let mut head = first_head(lane.id(), now);
        head.state = if self.chance(60) { State::Queued } else { self.pick(State::ALL) };
        head.priority = self.rng.u8(0..10);
        head.due = self.time(now);
        head.expires = self.time_or_none(now);
        head.deadline = self.time_or_none(now);
        head.flags = if self.chance(20) { Flags::ORDERED } else { lane.flags() };
        self.made += 1;
        Insert {
            key: TaskKey::new(lane.ns, self.ids.nth(self.made)),
            head,
            body: self.bytes(),
            lane,
            exists: OnExists::Generated,
            not_after: None,
            keys: Vec::new(),
            root,
        }
    }

    /// A task that may be refused for any reason.
    pub(super) fn task(&mut self, now: Millis, root: Option<TaskKey>) -> Insert {
        let mut item = self.plain_task(now, root);
        if self.chance(40) {
            let of_ns: Vec<_> = self.client_ids.iter().filter(|key| key.ns == item.key.ns).cloned().collect();
            item.key = self.pick(&of_ns);
            item.exists = OnExists::Return;
        }
        while item.keys.len() < 3 && self.chance(25) {
            item.keys.push(self.key(now));
        }
        if self.chance(15) {
            item.not_after = Some(self.time(now));
        }
        item
    }

    /// A key that steals from nobody.
    pub(super) fn key(&mut self, now: Millis) -> KeyPut {
        let until = if self.chance(50) { Some(self.time(now)) } else { None };
        let key = Bytes::from_static(self.pick(&KEYS));
        KeyPut { kind: self.pick(&KeyKind::ALL), key, value: self.bytes(), until, steal: None }
    }

    /// A later head of the same task.
    pub(super) fn next_head(&mut self, was: &Head, now: Millis) -> Head {
        let mut head = Head { version: was.version + 1, ..was.clone() };
        head.state = self.pick(State::ALL);
        head.reason = self.pick(Reason::ALL);
        head.session = if head.state == State::Running { self.pick(&SESSIONS) } else { SessionId(0) };
        head.attempt += self.rng.u32(0..2);
        head.due = self.time(now);
        if self.chance(20) {
            head.priority = self.rng.u8(0..10);
            head.flags =
                self.pick(&[Flags(0), Flags::FIFO, Flags::ORDERED, Flags::ORDERED.with(Flags::HAS_RESULT), Flags::CANCEL]);
            head.expires = self.time_or_none(now);
            head.deadline = self.time_or_none(now);
            head.generation = head.generation.wrapping_add(1);
            head.worker = self.rng.u32(..);
            (head.budget, head.lost) = (self.rng.u16(..), self.rng.u8(..));
            (head.started, head.first_started, head.ended) = (self.time(now), self.time(now), self.time(now));
        }
        head
    }
}
