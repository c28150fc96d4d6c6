//! The owner of a partition: claim → admit → push → settle, as one single-threaded loop with I/O at its edges.
//!
//! The loop keeps a disposable view (lanes, timers, open attempts). Every call of the store is a future in `calls`
//! whose answer comes back as a [`Done`]; every push is a task whose answer comes back over one channel. So nothing
//! blocks anything, and a wedged loop renews nothing and loses its partition.

mod accepted;
mod admit;
mod asking;
mod background;
mod batch;
mod broadcast;
mod calls;
mod meters;
mod orders;
mod outbox;
mod settle;
mod tenure;
mod updates;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ahash::{AHashMap, AHashSet};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use lovage_core::{Event, Flags, Head, Millis, Partition, SessionId, State, TaskKey, placement};
use lovage_store::{FeedBatch, FeedPos, FeedRow, OwnToken, Store};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::accepted::Accepted;
use self::admit::{Plan, Right};
use self::asking::Asking;
use self::calls::Done;
use self::meters::Meters;
use self::orders::Soft;
use self::outbox::Outbox;
use self::settle::{Settlement, Told};
use self::tenure::Seat;
use self::updates::Streaming;
use crate::control::{About, Control, Order};
use crate::egress::Transport;
use crate::gate::Slot;
use crate::lanes::{Bounds, Lanes};
use crate::limits::{Limits, Opened};
use crate::notice::Notices;
use crate::options::Options;
use crate::pulse::Pulse;
use crate::push::Common;
use crate::registry::{Registry, Worker};
use crate::timers::Timers;

/// Random numbers, injected so that a seed decides a simulation.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The time since some moment, by a clock that never stands still or jumps; injected so that simulations have their own.
pub type Uptime = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What all owners of a process share.
pub(crate) struct Shared {
    pub store: Arc<dyn Store>,
    pub transport: Arc<dyn Transport>,
    pub control: Control,
    pub registry: Arc<Registry>,
    pub options: Options,
    pub random: Random,
    pub session: SessionId,
    /// One permit for each attempt that may be open in this process.
    pub room: Arc<Semaphore>,
    /// Held by claims that are on their way.
    pub turns: Arc<Semaphore>,
    /// The right of one partition at a time to be let go of for the sake of balance.
    pub handing: Arc<Semaphore>,
    /// Who should own which partition, for the candidates that were seen last.
    pub shares: Mutex<Option<(Vec<SessionId>, Arc<[SessionId]>)>>,
    pub notices: Notices,
    /// The session is over: somebody fenced it.
    pub fenced: CancellationToken,
    /// Judges leases.
    pub uptime: Uptime,
    /// Says that the loops turn.
    pub pulse: Pulse,
    /// Who may start under limits.
    pub limits: Arc<Limits>,
    /// Records that have been given up and told of.
    pub given_up: Mutex<AHashSet<TaskKey>>,
}

impl Shared {
    /// The store cannot handle this record, whatever is tried. Told once, because it is met again at every look.
    fn give_up(&self, key: &TaskKey, error: &lovage_store::Error) {
        metrics::counter!("lovage_records_given_up_total").increment(1);
        let mut known = self.given_up.lock();
        if known.len() >= MOST_GIVEN_UP {
            known.clear();
        }
        if known.insert(key.clone()) {
            tracing::error!(task.id = %key.id, %error, "the store cannot handle this task; it is left as it is");
        }
    }
}

/// An open attempt of this session.
struct Running {
    head: Head,
    spec: Arc<lovage_core::Spec>,
    queue: Arc<str>,
    worker: Arc<Worker>,
    /// The push; when the last task of it drops it, its connection is closed.
    push: Option<Arc<AbortOnDropHandle<()>>>,
    /// Given back as soon as the connection is done with, before the end is stored. Tasks that are delivered together have
    /// none: their push has it.
    slot: Option<Arc<Slot>>,
    /// Counts for its limits; given back together with the slot, or with its own end if the connection is shared.
    permit: Option<Right>,
    /// Given back when the end is stored: what waits for that takes memory too.
    _room: OwnedSemaphorePermit,
    /// The end of the attempt is on its way to the store.
    ending: bool,
    /// The store says that the attempt is over: a report ended it. Its connection may end by itself, for a moment.
    over: bool,
    /// Its answer comes line by line.
    streaming: Option<Box<Streaming>>,
    /// Its worker was told of a cancel.
    told_cancel: bool,
}

/// A task whose claim is on its way.
struct Claiming {
    /// What it was when it was taken from its lane.
    version: u64,
    /// The newest head of a running attempt that the feed showed meanwhile.
    newer: Option<Head>,
}

pub(crate) struct Owner {
    shared: Arc<Shared>,
    partition: Partition,
    token: Option<OwnToken>,
    /// Start of the last renewal that succeeded, as uptime.
    renewed: Duration,
    /// It was too long ago: everything has been given up.
    lapsed: bool,
    renewing: bool,
    seat: Seat,
    lanes: Lanes,
    timers: Timers,
    running: AHashMap<TaskKey, Running>,
    claiming: AHashMap<TaskKey, Claiming>,
    claim_calls: usize,
    /// This process has as many attempts open as it may; a permit has been asked for.
    waits_for_room: bool,
    room: Option<OwnedSemaphorePermit>,
    /// The right to claim now.
    turn: Option<OwnedSemaphorePermit>,
    /// The right to claim was asked for.
    waits_for_turn: bool,
    /// The session was given up while a claim was on its way: what it starts is not pushed.
    claims_void: bool,
    /// When to look next for attempts that nobody here knows.
    audit_at: Instant,
    auditing: bool,
    last_claim: Instant,
    freed: usize,
    /// A lane that waits for a slot may find one.
    slots_freed: bool,
    /// … also then: one that is free was left to others.
    slots_at: Option<Millis>,
    accepted: Accepted,
    /// Lanes that wait for a limit may try again.
    opened: mpsc::UnboundedReceiver<Opened>,
    asking: Asking,
    /// Not all open lanes were looked at.
    more_lanes: bool,
    settling: Vec<Box<Settlement>>,
    settling_since: Instant,
    /// When ends of attempts were last sent.
    settled_at: Instant,
    settle_calls: usize,
    /// After a fault of the store: no new calls before this.
    pause_until: Instant,
    due_calls: usize,
    sweeping: bool,
    outbox: Outbox,
    /// The feed is being read.
    feeding: bool,
    /// The definitions of new lanes are being read.
    learning: bool,
    /// What tasks have to pass is being read.
    reading_specs: bool,
    /// Lanes whose first tasks are being read.
    loading: usize,
    recovering: AHashSet<SessionId>,
    recovered: Vec<SessionId>,
    /// Soft cancels: when the connection is closed.
    graces: BTreeMap<(Instant, TaskKey), u32>,
    /// When workers are told of soft time limits.
    softs: BTreeMap<(Instant, TaskKey), Soft>,
    /// When what a worker said is stored.
    updates: BTreeSet<(Instant, TaskKey)>,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
    common: Common,
    meters: Meters,
    ends: mpsc::UnboundedReceiver<Told>,
    ends_in: mpsc::UnboundedSender<Told>,
    stopping: Option<Instant>,
}

/// Claims of a process that are on their way at once. If all partitions claimed as they pleased, each would take a few of
/// the slots that become free, and a call costs the store more than a task.
pub(crate) const TURNS: usize = 2;
/// How long nothing is asked of a store that just failed.
const STORE_PAUSE: Duration = Duration::from_millis(200);
/// Batches of due tasks handled at the same time.
const DUE_CALLS: usize = 4;
const FEED_WAIT: Duration = Duration::from_secs(10);
/// How long the connection of an attempt that a report has ended may stay open: a worker may complete and then answer.
const AFTER_REPORT: Duration = Duration::from_secs(2);
/// How often attempts of this session are looked for that nobody here knows.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// How long after the grace of a stop a store that stays away is waited for.
const HOPELESS: Duration = Duration::from_secs(5);
/// So many given up records are remembered.
const MOST_GIVEN_UP: usize = 10_000;

impl Owner {
    pub(crate) fn new(shared: Arc<Shared>, partition: Partition) -> Self {
        let (ends_in, ends) = mpsc::unbounded_channel();
        let now = Instant::now();
        let renewed = (shared.uptime)();
        let bounds = Bounds { window: shared.options.lane_window, lanes: shared.options.lanes };
        let lanes = Lanes::new(bounds, shared.options.aging);
        let common = Common::new(&shared.options.user_agent);
        let opened = shared.limits.door(partition);
        Self {
            shared,
            partition,
            token: None,
            renewed,
            lapsed: false,
            renewing: false,
            seat: Seat::default(),
            lanes,
            timers: Timers::default(),
            running: AHashMap::new(),
            claiming: AHashMap::new(),
            claim_calls: 0,
            waits_for_room: false,
            room: None,
            turn: None,
            waits_for_turn: false,
            claims_void: false,
            audit_at: now + AUDIT_EVERY,
            auditing: false,
            last_claim: now,
            freed: 0,
            slots_freed: false,
            slots_at: None,
            accepted: Accepted::default(),
            opened,
            asking: Asking::default(),
            more_lanes: false,
            settling: Vec::new(),
            settling_since: now,
            settled_at: now,
            settle_calls: 0,
            pause_until: now,
            due_calls: 0,
            sweeping: false,
            outbox: Outbox::new(now),
            feeding: false,
            learning: false,
            reading_specs: false,
            loading: 0,
            recovering: AHashSet::new(),
            recovered: Vec::new(),
            graces: BTreeMap::new(),
            softs: BTreeMap::new(),
            updates: BTreeSet::new(),
            calls: FuturesUnordered::new(),
            common,
            meters: Meters::new(partition),
            ends,
            ends_in,
            stopping: None,
        }
    }

    fn now(&self) -> Millis {
        self.shared.store.clock().now()
    }

    /// Runs until `stop`, then gives back what is unfinished after `grace` and leaves.
    pub(crate) async fn run(mut self, stop: CancellationToken, grace: Duration) {
        let mut freed = self.shared.registry.freed();
        let mut changed = self.shared.registry.changed();
        let mut heard = self.shared.notices.heard();
        let fenced = self.shared.fenced.clone();
        let beating = self.shared.pulse.start(self.partition, (self.shared.uptime)());
        let mut tick = tokio::time::interval(self.shared.options.renew_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.work();
            if self.stopping.is_some() && self.is_done() {
                break;
            }
            let wake = self.next_wake();
            tokio::select! {
                biased;
                // What is open here is closed with the loop.
                () = fenced.cancelled() => return,
                () = stop.cancelled(), if self.stopping.is_none() => self.begin_stop(grace),
                // Before all that may come without end: a busy owner renews in time.
                _ = tick.tick() => {
                    beating.beat((self.shared.uptime)());
                    self.on_tick();
                }
                Some(end) = self.ends.recv() => {
                    self.on_told(end);
                    while let Ok(end) = self.ends.try_recv() {
                        self.on_told(end);
                    }
                }
                Some(done) = self.calls.next(), if !self.calls.is_empty() => self.on_done(done),
                Some(opened) = self.opened.recv() => {
                    self.open_limit(opened);
                    while let Ok(opened) = self.opened.try_recv() {
                        self.open_limit(opened);
                    }
                }
                Ok(()) = freed.changed() => self.slots_freed = true,
                Ok(()) = changed.changed() => {
                    self.shared.limits.take_rules();
                    self.lanes.open_all();
                }
                Ok(()) = heard.changed() => self.on_notice(),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.leave().await;
    }

    /// Everything that can be done without waiting.
    fn work(&mut self) {
        self.check_lease();
        self.look_at_seat();
        self.close_overdue();
        self.tell_soft_limits();
        if Instant::now() >= self.pause_until {
            self.look_at_timers();
            self.admit();
            self.read_lanes();
            self.flush();
            self.send_updates();
            self.deliver();
            self.read_accepted();
        } else {
            self.turn = None;
        }
    }

    /// When to look again although nothing happened.
    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let store_now = self.now();
        let at = |then: Millis| now + then.since(store_now) + Duration::from_millis(1);
        // The timer stands still while the machine is suspended, and the lease does not: it is looked at after a second.
        let mut wake = now + Duration::from_secs(1);
        if let Some(look_at) = self.seat.look_at() {
            wake = wake.min(look_at);
        }
        if self.token.is_some() {
            if let Some(timer) = self.timers.next(self.due_calls == 0).filter(|_| self.due_calls < DUE_CALLS) {
                wake = wake.min(at(timer));
            }
            if let Some(opening) = self.lanes.next_opening() {
                wake = wake.min(at(opening));
            }
            if let Some(again) = self.slots_at {
                wake = wake.min(at(again));
            }
            if let Some(round) = self.outbox.next() {
                wake = wake.min(round);
            }
            // Only while a claim lingers: what else keeps tasks from starting ends with an event.
            if self.more_lanes {
                wake = now;
            }
            let linger = self.last_claim + self.shared.options.claim_linger;
            if self.claim_calls == 0 && linger > now && self.lanes.is_any_open() {
                wake = wake.min(linger);
            }
        }
        if !self.settling.is_empty() {
            wake = wake.min(self.settling_since + self.shared.options.settle_linger);
        }
        if let Some(((grace, _), _)) = self.graces.first_key_value() {
            wake = wake.min(*grace);
        }
        if let Some(((soft, _), _)) = self.softs.first_key_value() {
            wake = wake.min(*soft);
        }
        if let Some((update, _)) = self.updates.first() {
            wake = wake.min(*update);
        }
        if let Some(stop) = self.stopping {
            wake = wake.min(if stop > now { stop } else { stop + HOPELESS });
        }
        let wake = wake.max(self.pause_until.min(now + STORE_PAUSE)).max(now);
        if self.lapsed { wake } else { wake.min(now + self.lease_left()) }
    }

    fn on_tick(&mut self) {
        self.renew();
        self.audit();
        self.asking.clear();
        if self.token.is_some() {
            self.sweep();
            let evicted = self.lanes.tidy();
            self.meters.lanes_evicted.increment(evicted as u64);
        }
        self.show_outbox();
        self.meters.lanes.set(self.lanes.len() as f64);
        self.meters.open.set(self.running.len() as f64);
        self.meters.lease_age.set((self.shared.uptime)().saturating_sub(self.renewed).as_secs_f64());
    }

    /// How long the session may go on without a renewal; zero: somebody else may think it dead.
    fn lease_left(&self) -> Duration {
        self.shared.options.close_after.saturating_sub((self.shared.uptime)().saturating_sub(self.renewed))
    }

    fn check_lease(&mut self) {
        if !self.lapsed && self.lease_left().is_zero() {
            self.lapsed = true;
            self.lose_everything();
        }
    }

    /// Closes all open attempts. Their ends are still told to the store, as are those that wait for it: if this session was
    /// thought dead meanwhile, versions refuse them, and if it was not, nobody else would.
    fn lose_everything(&mut self) {
        let open: Vec<TaskKey> = self.running.iter().filter(|(_, r)| !r.ending).map(|(key, _)| key.clone()).collect();
        if self.token.take().is_some() || !open.is_empty() {
            tracing::error!(partition = self.partition.0, "the lease was not renewed in time; closing all open attempts");
        }
        for key in open {
            self.end_attempt(&key, Event::Lost { session: self.shared.session }, None);
        }
        self.meters.owned.set(0.0);
        self.claims_void = self.claim_calls > 0;
        self.audit_at = Instant::now();
        self.graces.clear();
        self.forget_lanes();
    }

    /// The feed says what each record looks like now.
    fn on_feed(&mut self, batch: FeedBatch) {
        match batch {
            FeedBatch::Entries { entries, next } => {
                for entry in entries {
                    if entry.sends {
                        self.outbox.look();
                    }
                    for row in &entry.rows {
                        self.on_row(row, entry.source);
                    }
                }
                self.lanes.follow(next);
                if self.is_done_here() {
                    self.feeding = false;
                } else {
                    self.read_feed(next);
                }
            }
            FeedBatch::Behind { .. } if self.is_done_here() => self.feeding = false,
            FeedBatch::Behind { tail } => {
                tracing::warn!(partition = self.partition.0, "fell behind the feed; reading the lanes anew");
                self.feeding = false;
                self.look_at_running();
                self.reload(Some(tail));
            }
        }
    }

    fn on_row(&mut self, row: &FeedRow, source: SessionId) {
        self.look_at_accepted(&row.key, row.head.as_ref());
        let Some(head) = &row.head else { return };
        self.look_if_over(&row.key, head);
        if head.is_accepted() && self.token.is_some() {
            self.timers.add(head.deadline, &row.key);
            if source != self.shared.session {
                self.tell_accepted_cancel(&row.key, head);
            }
        }
        // What keeps its place while it runs is followed there.
        let ordered = head.flags.has(Flags::ORDERED);
        if ordered && self.token.is_some() {
            self.lanes.show(&row.key, head);
        }
        if head.state == State::Running {
            if source == self.shared.session {
                return;
            }
            if let Some(running) = self.running.get_mut(&row.key) {
                if running.head.open_attempt() == head.open_attempt() && running.head.version < head.version {
                    running.head = head.clone();
                    self.on_cancel_wish(&row.key);
                }
                return;
            }
            if let Some(claim) = self.claiming.get_mut(&row.key) {
                if claim.newer.as_ref().is_none_or(|known| known.version < head.version) {
                    claim.newer = Some(head.clone());
                }
                return;
            }
        }
        if self.token.is_none() {
            return;
        }
        if let Some(at) = placement(head).timer {
            self.timers.add(at, &row.key);
        }
        if !ordered {
            self.lanes.show(&row.key, head);
        }
    }

    /// A report ended the attempt whose connection is open here.
    fn look_if_over(&mut self, key: &TaskKey, head: &Head) {
        let Some(running) = self.running.get_mut(key).filter(|running| !running.ending && !running.over) else { return };
        let open = head.state == State::Running && head.open_attempt() == running.head.open_attempt() && !head.is_accepted();
        if !open && head.version > running.head.version {
            running.over = true;
            self.graces.insert((Instant::now() + AFTER_REPORT, key.clone()), running.head.attempt);
        }
    }

    /// A cancel of an open attempt: hard at once, soft after the worker's grace.
    fn on_cancel_wish(&mut self, key: &TaskKey) {
        let now = self.now();
        let Some(running) = self.running.get_mut(key) else { return };
        if !running.head.flags.has(Flags::CANCEL) || running.ending {
            return;
        }
        let grace = if running.head.flags.has(Flags::HARD) { Duration::ZERO } else { running.worker.config.cancel_grace() };
        self.graces.insert((Instant::now() + grace, key.clone()), running.head.attempt);
        if !std::mem::replace(&mut running.told_cancel, true) {
            let about = About { key: key.clone(), attempt: running.head.attempt, deadline: now.after(grace) };
            let worker = Arc::clone(&running.worker);
            self.tell(&worker, Order::Cancel, &about);
        }
    }

    /// Closes connections whose cancel has waited long enough.
    fn close_overdue(&mut self) {
        let now = Instant::now();
        while let Some(((at, _), _)) = self.graces.first_key_value()
            && *at <= now
        {
            let Some(((_, key), number)) = self.graces.pop_first() else { break };
            let Some(running) = self.running.get(&key).filter(|r| r.head.attempt == number && !r.ending) else { continue };
            if running.over {
                self.drop_over(&key);
                continue;
            }
            let attempt = running.head.open_attempt();
            self.end_attempt(&key, Event::Aborted { attempt }, None);
        }
    }

    /// Lets go of an attempt that a report has ended.
    fn drop_over(&mut self, key: &TaskKey) {
        self.running.remove(key);
        self.freed += 1;
        self.slots_freed = true;
    }

    fn begin_stop(&mut self, grace: Duration) {
        self.stopping = Some(Instant::now() + grace);
        // Others may claim at once; this session stays alive while its attempts run.
        self.renew();
    }

    /// Nothing of this session is left in the partition.
    fn is_done(&mut self) -> bool {
        let over = self.stopping.is_some_and(|at| Instant::now() >= at);
        if over {
            self.give_back();
        }
        // A store that stays away cannot be told; the next start finds the attempts by their dead session.
        let hopeless = self.stopping.is_some_and(|at| Instant::now() >= at + HOPELESS);
        self.is_idle() || hopeless
    }

    /// The store knows of no attempt of this session.
    fn is_idle(&self) -> bool {
        self.running.is_empty()
            && self.claiming.is_empty()
            && self.settling.is_empty()
            && self.settle_calls == 0
            && self.claim_calls == 0
    }

    fn give_back(&mut self) {
        let open: Vec<TaskKey> = self.running.iter().filter(|(_, r)| !r.ending).map(|(key, _)| key.clone()).collect();
        for key in open {
            if let Some(attempt) = self.running.get(&key).map(|r| r.head.open_attempt()) {
                self.end_attempt(&key, Event::GivenBack { attempt }, None);
            }
        }
        if Instant::now() >= self.pause_until {
            self.flush_now();
        }
    }

    /// Forgets what waits here, and for what.
    fn forget_lanes(&mut self) {
        self.lanes.clear();
        self.timers.clear();
        self.asking.clear();
        // Nothing is told of what goes with these.
        self.shared.limits.forget(self.partition);
        self.accepted.clear();
    }

    /// A limit has something for lanes that wait for it.
    fn open_limit(&mut self, opened: Opened) {
        self.asking.answered(opened.number);
        let most = opened.lanes as usize;
        let lanes = most - self.lanes.open_limit(opened.number, most);
        if lanes > 0 {
            self.shared.limits.pass_on(self.partition, Opened { lanes: lanes as u32, ..opened });
        }
    }

    /// Starts over: reads the lanes, then follows the feed from before.
    fn reload(&mut self, tail: Option<FeedPos>) {
        self.forget_lanes();
        self.load(tail);
    }
}
