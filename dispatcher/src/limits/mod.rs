//! Who may start under limits: one for all owners of a process.
//!
//! A task is held by every limit that names it: that of its queue, of its task type, of its worker, and its own. Here is known
//! what this process may still start of each key, so a start asks nobody: it takes what is there of all its keys, or nothing. What
//! is lacking is asked of the store beforehand and in batches (`ask`), for as many starts as those who wait can use soon; whoever
//! waits is woken in order of arrival. Attempts are counted also where no rule says how many may be, so that a rule that
//! comes later knows of them. A key that nothing depends on is forgotten.

mod ask;
mod key;
mod line;
mod rules;
mod starts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use lovage_core::{LaneDef, LaneId, LimitRule, Millis, Ns, Partition, Route, SessionId};
use lovage_store::Store;
use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use self::key::{Accepted, Complete, State};
use self::line::Line;
use self::rules::Kind;
use self::starts::LATE;
use crate::registry::{Registry, Worker};

/// How often the store is told what is held.
const RENEW: Duration = Duration::from_secs(2);
/// Lanes that wait because too many keys are in use wait for this, and those that wait until rules and accepted attempts are known.
pub(crate) const NO_ROOM: u64 = 0;
/// How often keys that are not used any more are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(1);
/// Maps that are this empty are made smaller.
const SPARSE: usize = 4;

/// Lanes of a partition that wait for this number may try again. Told whenever the store has answered: also if none of them may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub number: u64,
    /// How many of them.
    pub lanes: u32,
}

/// What a task needs of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// One of those that may run at once.
    Slot,
    /// A start of its rate.
    Start,
}

impl Need {
    /// The number of those who wait for this of the key with this number: who waits for something else of it is not woken for them.
    fn number(self, key: u64) -> u64 {
        key << 1 | u64::from(self == Self::Start)
    }

    fn opened(self, key: u64, lanes: u32) -> Opened {
        Opened { number: self.number(key), lanes }
    }

    /// The key, and what is needed of it, that have this number.
    fn of(number: u64) -> (u64, Self) {
        (number >> 1, if number & 1 == 0 { Self::Slot } else { Self::Start })
    }
}

/// Who wants to start something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct From {
    pub partition: Partition,
    pub lane: LaneId,
}

/// Whether a task may start.
pub(crate) enum Verdict {
    /// It is counted until the permit is dropped.
    Go(Permit),
    /// Its lane is told when it may try again.
    Wait(Wait),
    /// Not before.
    Until(Millis),
}

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// The number of its limit and of what it needs of it.
    pub number: u64,
    /// The store is being asked, and [`Opened`] tells when it has answered. Else it may take as long as it likes.
    pub asks: bool,
}

/// One of the limits of a task.
#[derive(Clone, Copy)]
struct Part {
    number: u64,
    cost: u32,
    /// What the task says of it.
    says: Option<LimitRule>,
}

/// The limits of the tasks of a lane. Known as long as somebody has them.
pub(crate) struct Gates {
    limits: Arc<Limits>,
    /// In order of their keys; `None`: too many are in use.
    parts: Option<SmallVec<[Part; 4]>>,
}

/// The right to run of one task, given back when it is dropped.
pub(crate) struct Permit(Arc<Gates>);

/// An accepted attempt that the owner of its partition counts, until this is dropped.
pub(crate) struct Count {
    gates: Arc<Gates>,
    partition: Partition,
}

/// See the module.
pub(crate) struct Limits {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    session: SessionId,
    lease: Duration,
    most: usize,
    book: Mutex<Book>,
    /// Somebody is to be asked or woken.
    work: Notify,
    /// Something is known to say how many tasks may run at once.
    counts: AtomicBool,
    meters: Meters,
}

struct Meters {
    keys: Gauge,
    calls: Counter,
    waits: Counter,
    unused: Counter,
}

/// A start is kept for a lane that waits for one of a faster key: until that had so many, and for a call.
const KEPT_STARTS: u32 = 20;
const KEPT_MOST: Duration = Duration::from_secs(1);
const KEPT_LEAST: Duration = Duration::from_millis(50);
/// … and a slot for longer, so that those who have what the other waits for do not give both up at once.
const KEPT_FOR_START: Duration = Duration::from_millis(100);
/// A slot is kept for a lane that waits for a slot of another key, or for a start that comes so soon.
const KEPT_SLOT: Duration = Duration::from_millis(250);
/// Keys that are looked at in one go.
const VISITS: usize = 1_000;
/// How often others are looked for who said something of a key of the users' own.
const LOOK: Duration = Duration::from_secs(1);
/// … as long as there are no more keys than this.
const LOOKS: usize = 2_000;

#[derive(Default)]
struct Book {
    names: AHashMap<(Ns, Kind), AHashMap<Box<str>, u64>>,
    keys: AHashMap<u64, Box<State>>,
    last: u64,
    /// The documents have been read.
    ruled: bool,
    /// The edition of the registry that the rules are of.
    ruled_by: Option<u64>,
    /// When keys are to be looked at.
    visits: BTreeSet<(Instant, u64)>,
    /// Those to be asked for.
    queue: VecDeque<u64>,
    /// Those that may be forgotten.
    idle: Vec<u64>,
    /// Lanes that wait because there are too many keys, or until something is known.
    full: Line,
    /// When the last of them was told so.
    refused: Option<Instant>,
    complete: Complete,
    /// Where owners are told.
    doors: AHashMap<u16, mpsc::UnboundedSender<Opened>>,
}

impl Limits {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        session: SessionId,
        lease: Duration,
        most: usize,
    ) -> Arc<Self> {
        gauge!("lovage_limit_keys_limit").set(most as f64);
        let meters = Meters {
            keys: gauge!("lovage_limit_keys"),
            calls: counter!("lovage_limit_calls_total"),
            waits: counter!("lovage_limit_waits_total"),
            unused: counter!("lovage_limit_starts_unused_total"),
        };
        Arc::new(Self {
            store,
            registry,
            session,
            lease,
            most,
            book: Mutex::default(),
            work: Notify::new(),
            counts: AtomicBool::new(false),
            meters,
        })
    }

    /// Where the owner of a partition hears which of its lanes may try again.
    pub(crate) fn door(&self, partition: Partition) -> mpsc::UnboundedReceiver<Opened> {
        let (door, opened) = mpsc::unbounded_channel();
        self.book.lock().doors.insert(partition.0, door);
        opened
    }

    /// There are tasks with these gates: here, or with a worker that takes them itself.
    pub(crate) fn hear_of<'a>(&self, lanes: impl IntoIterator<Item = &'a LaneDef>) {
        if lanes.into_iter().flat_map(|lane| &lane.limits).any(|limit| limit.concurrency.is_some()) {
            self.counts.store(true, Ordering::Relaxed);
        }
    }

    /// The limits of tasks with these gates that this worker gets.
    pub(crate) fn gates(self: &Arc<Self>, lane: &LaneDef, worker: Option<&Worker>) -> Arc<Gates> {
        self.find(lane, worker, self.most)
    }

    /// The limits of an attempt that its worker has accepted. It is counted, however many keys are in use.
    pub(crate) fn gates_of_accepted(self: &Arc<Self>, lane: &LaneDef) -> Arc<Gates> {
        self.find(lane, None, usize::MAX)
    }

    fn find(self: &Arc<Self>, lane: &LaneDef, worker: Option<&Worker>, most: usize) -> Arc<Gates> {
        self.hear_of([lane]);
        let rated = worker.filter(|worker| worker.mark != 0 && !worker.config.rule().is_free());
        let mut book = self.book.lock();
        let mut parts = SmallVec::new();
        let named = [
            (Kind::Queue, Some(&*lane.queue)),
            (
                Kind::Task,
                match &lane.route {
                    Route::Task(name) => Some(&**name),
                    _ => None,
                },
            ),
            (Kind::Worker, rated.map(|worker| &*worker.name)),
        ];
        let built_in = named.into_iter().filter_map(|(kind, name)| Some((kind, name?, 1, None)));
        let own = lane.limits.iter().map(|limit| (Kind::Own, &*limit.key, limit.cost, Some(limit.rule())));
        for (kind, name, cost, says) in built_in.chain(own) {
            let Some(number) = book.key(&self.registry, lane.ns, kind, name, most) else {
                book.leave(&parts);
                return Arc::new(Gates { limits: Arc::clone(self), parts: None });
            };
            parts.push(Part { number, cost, says });
        }
        Arc::new(Gates { limits: Arc::clone(self), parts: Some(parts) })
    }

    /// Takes what a task of this lane needs of all its limits, or nothing. It was accepted at `created`; `tasks`: so many of its
    /// lane are at hand, which is what is asked for if there is too little.
    pub(crate) fn try_start(&self, gates: &Arc<Gates>, from: From, created: Millis, tasks: usize) -> Verdict {
        let From { partition: p, lane } = from;
        let tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
        let (now, store_now) = (Instant::now(), self.store.clock().now());
        let mut book = self.book.lock();
        let Some(parts) = gates.parts.as_ref().filter(|_| book.ruled) else {
            book.refused = book.ruled.then_some(now);
            book.full.join(p.0, 1, tasks);
            return Verdict::Wait(Wait { number: NO_ROOM, asks: false });
        };
        for part in parts {
            let Some(key) = book.keys.get_mut(&part.number) else { continue };
            if part.says.is_some_and(|says| key.submit(created, says)) {
                book.visit(part.number, now);
                self.work.notify_one();
            }
        }
        let keys = |part: &Part| book.keys.get(&part.number);
        if !book.complete.partitions.contains(&p.0) && parts.iter().filter_map(keys).any(|key| key.counts()) {
            // Where the store has forgotten what runs, as one does that belongs to a process, nobody else knows what is accepted here.
            book.full.join(p.0, 1, tasks);
            return Verdict::Wait(Wait { number: NO_ROOM, asks: false });
        }
        if let Some(until) = parts.iter().filter_map(|part| keys(part)?.paused(store_now)).max() {
            return Verdict::Until(until);
        }
        // Of those that are slower than this, the slowest: what is kept of it while the others come is not missed by anybody.
        let start = |least: Option<Duration>| {
            let lacks = |part| {
                let (key, of_it) = (keys(part)?, |interval| (part, Need::Start, interval));
                let slow = Some(key.interval()).filter(|interval| least.is_none_or(|least| least < *interval));
                slow.filter(|_| key.lacks_start(p.0, lane, part.cost, now)).map(of_it)
            };
            parts.iter().filter_map(lacks).max_by_key(|(.., interval)| *interval)
        };
        let slot = || {
            let lacks = |part: &&Part| keys(part).is_some_and(|key| key.lacks_slot(p.0, lane));
            parts.iter().find(lacks).map(|part| (part, Need::Slot, Duration::ZERO))
        };
        // What comes once in a while first, so that no slot is kept for it; then what runs, and last what comes soon.
        let lack = start(Some(KEPT_SLOT)).or_else(slot).or_else(|| start(None));
        let Some((part, need, interval)) = lack else {
            for part in parts {
                if let Some(key) = book.keys.get_mut(&part.number) {
                    key.start(p.0, lane, part.cost, now);
                }
            }
            return Verdict::Go(Permit(Arc::clone(gates)));
        };
        // Of a start that may be there once it is asked for, what counts is how long that takes.
        let at_once = need == Need::Start && keys(part).is_some_and(|key| key.has_starts_by(now + KEPT_LEAST));
        let wait = if at_once { Duration::ZERO } else { interval };
        let mut before = true;
        for other in parts {
            let Some(key) = book.keys.get_mut(&other.number) else { continue };
            let is_it = other.number == part.number;
            before &= !is_it;
            let keep = |what, wait| Some(now + keep_for(what, key.interval(), before, need, wait)?);
            let (slot, start) = (keep(Need::Slot, wait), keep(Need::Start, interval));
            let changed = match (is_it, need) {
                (false, _) => key.release_slot(p.0, lane, slot) | key.release_start(p.0, lane, other.cost, start),
                (true, Need::Slot) => {
                    key.slot_line.join(p.0, 1, tasks);
                    key.release_start(p.0, lane, other.cost, start)
                }
                (true, Need::Start) => {
                    let cost = key.cost(part.cost);
                    key.start_line.join(p.0, cost, tasks);
                    key.release_slot(p.0, lane, slot)
                }
            };
            if is_it || changed {
                // What it was woken for goes to the next.
                book.visit(other.number, now);
            }
        }
        let look = book.look_every();
        let asks = book.keys.get(&part.number).is_some_and(|key| key.asks(now, look));
        drop(book);
        self.meters.waits.increment(1);
        self.work.notify_one();
        Verdict::Wait(Wait { number: need.number(part.number), asks })
    }

    /// Fewer lanes than were woken had something to start: it is the next one's.
    pub(crate) fn pass_on(&self, partition: Partition, opened: Opened) {
        let now = Instant::now();
        let mut book = self.book.lock();
        if opened.number == NO_ROOM {
            return book.make_room(opened.lanes);
        }
        let (number, need) = Need::of(opened.number);
        if let Some(key) = book.keys.get_mut(&number) {
            key.pass_on(need, partition.0, opened.lanes);
            book.visit(number, now);
            self.work.notify_one();
        }
    }

    /// Whether anything is known to say how many tasks may run at once: if not, accepted attempts need not be counted.
    pub(crate) fn counts(&self) -> bool {
        self.counts.load(Ordering::Relaxed) || self.registry.counts()
    }

    /// Whether lanes wait because too many keys are in use.
    pub(crate) fn lacks_keys(&self) -> bool {
        let book = self.book.lock();
        // Each time that keys are forgotten some of them are told to try, most of them in vain.
        book.refused.is_some_and(|at| !book.full.is_empty() || at.elapsed() < 2 * FORGET_EVERY)
    }

    /// Counts an attempt that its worker has accepted until `until` for its partition, which is owned here. It had this permit
    /// until now; or its task, accepted at this time, was started without one, or taken by its worker itself: then it is counted under
    /// the name `taken`. `silent`: not all of the partition are known yet.
    pub(crate) fn accept(
        &self,
        from: Result<Permit, (Arc<Gates>, Millis)>,
        partition: Partition,
        until: Millis,
        taken: Option<&str>,
        silent: bool,
    ) -> Count {
        let now = Instant::now();
        let from_here = from.is_ok();
        let (gates, created) = match from {
            Ok(permit) => (permit.defused(), None),
            Err((gates, created)) => (gates, Some(created)),
        };
        let mut book = self.book.lock();
        let new = Accepted { partition: partition.0, count: 1, until, news: true, silent };
        for part in gates.parts.iter().flatten() {
            let says = created.zip(part.says);
            let look = |key: &mut Box<State>| {
                let changed = says.is_some_and(|(created, says)| key.submit(created, says));
                key.accept(new, from_here, taken) || changed
            };
            if book.keys.get_mut(&part.number).is_some_and(look) {
                book.visit(part.number, now);
            }
        }
        drop(book);
        self.work.notify_one();
        Count { gates, partition }
    }

    /// All accepted attempts of a partition are known.
    pub(crate) fn tell_accepted(&self, partition: Partition) {
        let now = Instant::now();
        let mut book = self.book.lock();
        book.complete.partitions.insert(partition.0);
        book.complete.edition += 1;
        book.make_room(u32::MAX);
        let mut numbers = Vec::new();
        for key in book.keys.values_mut() {
            for accepted in key.accepted.iter_mut().filter(|accepted| accepted.partition == partition.0) {
                accepted.silent = false;
                numbers.push(key.number);
            }
        }
        for number in numbers {
            book.visit(number, now);
        }
        drop(book);
        self.work.notify_one();
    }

    /// What a partition waits for and has accepted is another owner's matter, or is read anew.
    pub(crate) fn forget(&self, partition: Partition) {
        let now = Instant::now();
        let mut book = self.book.lock();
        book.complete.partitions.remove(&partition.0);
        let Book { keys, full, .. } = &mut *book;
        full.forget(partition.0);
        let mut freed = Vec::new();
        for key in keys.values_mut() {
            key.slot_line.forget(partition.0);
            key.start_line.forget(partition.0);
            key.accepted.retain(|accepted| accepted.partition != partition.0);
            freed.push(key.number);
        }
        for number in freed {
            book.visit(number, now);
        }
        self.work.notify_one();
    }
}

impl Drop for Gates {
    fn drop(&mut self) {
        if let Some(parts) = &self.parts {
            self.limits.book.lock().leave(parts);
        }
    }
}

impl Count {
    /// It goes on until then.
    pub(crate) fn renew(&self, until: Millis) {
        let mut book = self.gates.limits.book.lock();
        for part in self.gates.parts.iter().flatten() {
            let Some(key) = book.keys.get_mut(&part.number) else { continue };
            for accepted in key.accepted.iter_mut().filter(|accepted| accepted.partition == self.partition.0) {
                accepted.until = accepted.until.max(until);
            }
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let now = Instant::now();
        let limits = &self.gates.limits;
        let mut book = limits.book.lock();
        for part in self.gates.parts.iter().flatten() {
            if book.keys.get_mut(&part.number).is_some_and(|key| key.unaccept(self.partition.0)) {
                book.visit(part.number, now);
            }
        }
        drop(book);
        limits.work.notify_one();
    }
}

impl Permit {
    /// Its limits, without giving anything back.
    fn defused(mut self) -> Arc<Gates> {
        let nothing = Arc::new(Gates { limits: Arc::clone(&self.0.limits), parts: None });
        std::mem::replace(&mut self.0, nothing)
    }

    /// The task was not started after all.
    pub(crate) fn unused(self) {
        let limits = &self.0.limits;
        let mut book = limits.book.lock();
        for part in self.0.parts.iter().flatten() {
            if let Some(key) = book.keys.get_mut(&part.number) {
                key.unmake(part.cost);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = Instant::now();
        let limits = &self.0.limits;
        let mut book = limits.book.lock();
        let mut told = false;
        for part in self.0.parts.iter().flatten() {
            if book.keys.get_mut(&part.number).is_some_and(|key| key.end(now)) {
                book.visit(part.number, now);
                told = true;
            }
        }
        drop(book);
        if told {
            limits.work.notify_one();
        }
    }
}

/// How long what a lane was woken for is kept for it while it waits for something else; `None`: others may have it at once. `interval`:
/// between two starts of its key. `before`: its key comes before that of what is awaited.
///
/// Who needs several would else give back one while another comes, over and over, where others take each as it comes. A start is kept
/// while one of a faster key comes, and for a moment while a slot comes if it is of a slow one: nobody misses it. A slot is kept while a start
/// comes soon, or may be there as soon as it is asked for, and while another slot comes whose key is behind: this order is the same
/// everywhere, so those who have what the other waits for do not both keep it.
fn keep_for(what: Need, interval: Duration, before: bool, awaited: Need, wait: Duration) -> Option<Duration> {
    match (what, awaited) {
        (Need::Start, Need::Start) if interval >= wait => Some((wait * KEPT_STARTS).min(KEPT_MOST) + KEPT_LEAST),
        (Need::Start, Need::Slot) if interval > KEPT_SLOT => Some(LATE),
        (Need::Slot, Need::Slot) if before => Some(KEPT_SLOT),
        (Need::Slot, Need::Start) if wait <= KEPT_SLOT => Some(wait * 2 + KEPT_FOR_START),
        _ => None,
    }
}

impl Book {
    /// The number of a key, which is known from now on until it is left; `None`: there are too many.
    fn key(&mut self, registry: &Registry, ns: Ns, kind: Kind, name: &str, most: usize) -> Option<u64> {
        if let Some(number) = self.names.get(&(ns, kind)).and_then(|names| names.get(name)).copied() {
            self.keys.get_mut(&number)?.refs += 1;
            return Some(number);
        }
        if self.keys.len() >= most {
            return None;
        }
        self.last += 1;
        let mut key = Box::new(State::new(self.last, ns, kind, name, kind.stored(registry, ns, name)));
        key.refs = 1;
        self.keys.insert(self.last, key);
        self.names.entry((ns, kind)).or_default().insert(name.into(), self.last);
        Some(self.last)
    }

    fn leave(&mut self, parts: &[Part]) {
        for part in parts {
            let Some(key) = self.keys.get_mut(&part.number) else { continue };
            key.refs -= 1;
            if key.is_idle() {
                self.idle.push(part.number);
            }
        }
    }

    /// A key is to be looked at then.
    fn visit(&mut self, number: u64, at: Instant) {
        let Some(key) = self.keys.get_mut(&number) else { return };
        if key.visit_at.is_none_or(|known| at < known) {
            if let Some(known) = key.visit_at.replace(at) {
                self.visits.remove(&(known, number));
            }
            self.visits.insert((at, number));
        }
    }

    /// How often it is looked what others said of a key of the users' own: less often if there are very many.
    fn look_every(&self) -> Duration {
        LOOK * u32::try_from(self.keys.len() / LOOKS).unwrap_or(u32::MAX).max(1)
    }

    /// Looks at all keys whose time has come. Answers when the next one's comes.
    fn look(&mut self, now: Instant) -> Option<Instant> {
        let every = self.look_every();
        // In parts: owners share the thread.
        for _ in 0..VISITS {
            let Some((at, number)) = self.visits.first().copied().filter(|(at, _)| *at <= now) else { break };
            self.visits.remove(&(at, number));
            let Some(key) = self.keys.get_mut(&number) else { continue };
            key.visit_at = None;
            let doors = &self.doors;
            let asks = key.visit(now, every, &mut |need, partition, lanes| tell(doors, partition, need.opened(number, lanes)));
            if asks && !std::mem::replace(&mut key.queued, true) {
                self.queue.push_back(number);
            }
            let next = key.next(now, every);
            if key.is_idle() {
                self.idle.push(number);
            }
            if let Some(next) = next {
                self.visit(number, next);
            }
        }
        self.visits.first().map(|(at, _)| *at)
    }

    /// The rules of now.
    fn rule(&mut self, registry: &Registry, now: Instant) {
        let changed = self.keys.values_mut().filter_map(|key| {
            let stored = key.kind.stored(registry, key.ns, &key.name);
            key.store(stored).then_some(key.number)
        });
        let mut changed: Vec<u64> = changed.collect();
        changed.sort_unstable();
        for number in changed {
            self.changed(number, now);
        }
        if !std::mem::replace(&mut self.ruled, true) {
            self.make_room(u32::MAX);
        }
    }

    /// The rule of a key changed: whoever waits for it tries anew.
    fn changed(&mut self, number: u64, now: Instant) {
        let doors = &self.doors;
        if let Some(key) = self.keys.get_mut(&number) {
            key.dissolve(&mut |need, partition, lanes| tell(doors, partition, need.opened(number, lanes)));
        }
        self.visit(number, now);
    }

    /// Forgets keys that nothing depends on.
    fn forget_idle(&mut self) {
        let mut gone = 0;
        for number in std::mem::take(&mut self.idle) {
            let Some(key) = self.keys.get(&number).filter(|key| key.is_idle()) else { continue };
            if let Some(at) = key.visit_at {
                self.visits.remove(&(at, number));
            }
            let place = (key.ns, key.kind);
            if let Some(names) = self.names.get_mut(&place) {
                names.remove(&*key.name);
                shrink(names);
                if names.is_empty() {
                    self.names.remove(&place);
                }
            }
            self.keys.remove(&number);
            gone += 1;
        }
        shrink(&mut self.keys);
        if gone > 0 {
            self.make_room(gone);
        }
    }

    /// So many more keys have room.
    fn make_room(&mut self, keys: u32) {
        if self.full.is_empty() || !self.ruled {
            return;
        }
        let Self { full, doors, .. } = self;
        full.serve(keys, Instant::now(), |partition, lanes| tell(doors, partition, Opened { number: NO_ROOM, lanes }));
        // Nobody keeps it for them.
        full.settle_all();
    }
}

fn tell(doors: &AHashMap<u16, mpsc::UnboundedSender<Opened>>, partition: u16, opened: Opened) {
    if let Some(door) = doors.get(&partition) {
        // An owner that has gone has no lanes any more.
        let _ = door.send(opened);
    }
}

fn shrink<K: std::hash::Hash + Eq, V>(map: &mut AHashMap<K, V>) {
    if map.capacity() > 1_000 && map.len() < map.capacity() / SPARSE {
        map.shrink_to_fit();
    }
}
