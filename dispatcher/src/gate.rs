//! Gates: what a push must get past in this process – a free slot of an instance, and a worker that wants to be called.
//!
//! A healthy worker costs one look: nothing but its slots counts. One that failed or said "not now" is judged under a lock: its pause,
//! its breaker, the ramp after either, and the pace that it asked for, all of which are functions of times and counts.
//!
//! Gates outlive changes of a worker's document, so that counts stay right, and the worker itself for as long as something is
//! open or it wanted to be left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use lovage_core::Millis;
use lovage_core::board::LATELY;
use lovage_core::pace::{Allowance, Pace, RAMP, ramp};
use lovage_core::recent::Recent;
use lovage_core::standing::BreakerState;
use lovage_core::worker::Breaker as Settings;
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::breaker::{Breaker, Way};
use crate::line::{Asker, Line};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// However long an answer asks for: the other tasks of the worker do not wait longer for it.
const LONGEST_ASKED: Duration = Duration::from_secs(300);
/// While a ramp holds something back it is looked at so often: also a slot that is free again lets the next one through.
const RAMP_STEP: Duration = Duration::from_millis(50);

/// The state of one worker, or of one origin of bare URLs.
#[derive(Debug)]
pub struct Gate {
    /// Tells gates apart.
    pub number: u64,
    /// Somebody waits for a slot.
    wanted: AtomicBool,
    /// Those who do.
    line: Line,
    freed: watch::Sender<u64>,
    /// Requests that were let through.
    sent: Recent<{ LATELY as usize }>,
    /// Something beside the slots counts: `state` has to be looked at.
    uneasy: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    paused_until: Millis,
    /// Consecutive rounds of "not now".
    throttled: u32,
    breaker: Breaker,
    pace: Pace,
    /// When the latest pause or outage ended.
    ramp: Option<Millis>,
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// No slot is free for it.
    Busy,
    /// The free slots are for others; then it may be another matter.
    Behind(Millis),
    /// Nothing goes before that.
    Until(Millis),
}

/// What others may see of a gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sight {
    /// Whether the worker is left alone because its endpoint fails.
    pub breaker: BreakerState,
    /// Until when nothing is sent to it.
    pub paused_until: Option<Millis>,
    /// Requests a second that it is sent at most.
    pub effective_rate: Option<f64>,
    /// Requests that may be open at once.
    pub allowed: Option<u32>,
    /// Requests a second that it was sent lately.
    pub out_rate: f64,
}

impl State {
    /// Lets a request through, or not. `load`: open requests and slots. A trial is the taker's to end.
    fn pass(&mut self, now: Millis, asker: u64, load: impl FnOnce() -> (u32, u32)) -> Result<bool, Held> {
        if self.paused_until > now {
            return Err(Held::Until(self.paused_until));
        }
        match self.breaker.way(now) {
            Way::Free => {}
            Way::Trial => return Ok(true),
            Way::TrialOut => return Err(Held::Busy),
            Way::Until(until) => return Err(Held::Until(until)),
        }
        let (open, slots) = load();
        if self.allowed(now, slots).is_some_and(|allowed| open >= allowed) {
            self.pace.held(now);
            return Err(Held::Until(now.after(RAMP_STEP)));
        }
        self.pace.take(asker, now).map_err(Held::Until)?;
        Ok(false)
    }

    /// How many of so many slots may be taken, if it is starting again.
    fn allowed(&self, now: Millis, slots: u32) -> Option<u32> {
        self.ramp.and_then(|since| ramp(slots, now.since(since)))
    }

    fn is_easy(&self, now: Millis) -> bool {
        let ended = self.ramp.map_or(self.paused_until, |since| self.paused_until.max(since.after(RAMP)));
        self.throttled == 0 && ended <= now && self.breaker.is_calm() && self.pace.is_free(now)
    }
}

impl Gate {
    /// A gate that raises `freed` when a slot that somebody waits for is free.
    pub fn new(number: u64, freed: watch::Sender<u64>) -> Self {
        Self {
            number,
            wanted: AtomicBool::new(false),
            line: Line::default(),
            freed,
            sent: Recent::default(),
            uneasy: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Ask to be told when a slot is free; look for one once more afterwards.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// Lets a request through that `take` finds a slot for, if it is the turn of `asker`. `load` tells open requests and slots,
    /// `free` how many of them are free.
    pub fn admit<T>(
        &self,
        now: Millis,
        asker: &Asker,
        load: impl Fn() -> (u32, u32),
        free: impl FnOnce() -> u32,
        take: impl FnOnce() -> Option<(Slot, T)>,
    ) -> Result<(Slot, T), Held> {
        let turn = self.line.look(now, asker, || (free(), load().1)).map_err(Held::Behind);
        let taken = turn.and_then(|()| self.let_through(now, asker.number, load, take));
        match &taken {
            Ok(_) => self.line.took(asker),
            Err(Held::Busy | Held::Behind(_)) => self.line.wait(asker),
            Err(Held::Until(_)) => self.line.leave(asker),
        }
        taken
    }

    /// Somebody has taken what it wanted of the free slots: those who were refused because of it may ask again.
    pub fn pass_on(&self) {
        if self.line.take_refused() {
            self.tell();
        }
    }

    fn let_through<T>(
        &self,
        now: Millis,
        asker: u64,
        load: impl FnOnce() -> (u32, u32),
        take: impl FnOnce() -> Option<(Slot, T)>,
    ) -> Result<(Slot, T), Held> {
        // Held while the slot is taken: nobody else may take the place that was found free.
        let mut careful = self.uneasy.load(Ordering::Relaxed).then(|| self.state.lock());
        let trial = careful.as_mut().map_or(Ok(false), |state| state.pass(now, asker, load))?;
        let Some((mut slot, taken)) = take() else {
            if let Some(state) = &mut careful {
                if trial { state.breaker.trial_ended() } else { state.pace.give_back(now) }
            }
            return Err(Held::Busy);
        };
        (slot.trial, slot.since) = (trial, now);
        self.sent.add(now);
        Ok((slot, taken))
    }

    /// What is to be seen of it, with so many slots.
    pub fn sight(&self, now: Millis, slots: u32) -> Sight {
        let state = self.state.lock();
        let left_alone = state.breaker.until();
        Sight {
            breaker: match left_alone {
                Millis(0) => BreakerState::Closed,
                until if until > now => BreakerState::Open,
                _ => BreakerState::HalfOpen,
            },
            paused_until: Some(left_alone.max(state.paused_until)).filter(|until| *until > now),
            effective_rate: state.pace.rate(now),
            allowed: state.allowed(now, slots).filter(|_| state.ramp <= Some(now)),
            out_rate: self.sent.sum(now) as f64 / LATELY as f64,
        }
    }

    /// Whether it knows more than a new one: how long the worker wants to be left alone, and how often it said so.
    pub fn remembers(&self, now: Millis) -> bool {
        let state = self.state.lock();
        state.paused_until.max(state.breaker.until()).max(state.ramp.unwrap_or_default()).after(LONGEST_PAUSE) > now
    }

    /// The worker said "not now" to what was sent at `sent`, with a time or without: 1 s, doubling to a minute. Answers when the
    /// attempt may be made again; the worker itself is left alone for at most five minutes.
    pub fn throttle(&self, now: Millis, sent: Millis, after: Option<Duration>) -> Duration {
        let mut state = self.change();
        // Answers that were open together count once.
        if state.pace.is_news(sent) {
            state.throttled = state.throttled.saturating_add(1);
        }
        let pause = after.unwrap_or_else(|| {
            let doublings = state.throttled.saturating_sub(1).min(6);
            FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
        });
        let until = now.after(pause.min(LONGEST_ASKED)).max(state.paused_until);
        if state.pace.not_now(now, sent, until, self.sent.rate(now)) {
            counter!("lovage_workers_slowed_total").increment(1);
        }
        (state.paused_until, state.ramp) = (until, Some(until));
        pause
    }

    /// The worker said how many requests it takes until when.
    pub fn told(&self, now: Millis, allowance: Allowance) {
        let mut state = self.change();
        if let Some(until) = state.pace.told(allowance, now, self.sent.rate(now)) {
            state.paused_until = state.paused_until.max(until);
            state.ramp = state.ramp.max(Some(state.paused_until));
        }
    }

    /// The endpoint failed with what was sent at `sent`: perhaps it is left alone now.
    pub fn fault(&self, now: Millis, sent: Millis, settings: Settings) {
        if self.change().breaker.fault(now, sent, settings).is_some() {
            counter!("lovage_breakers_opened_total").increment(1);
        }
    }

    /// The endpoint answered what was sent at `sent`, whatever it was. `good`: it did what it was asked to do.
    pub fn works(&self, now: Millis, sent: Millis, good: bool) {
        if !self.uneasy.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        let was_open = state.breaker.works(sent);
        if was_open {
            state.ramp = state.ramp.max(Some(now));
        }
        if good {
            state.pace.good(now, sent);
        }
        let easy = state.is_easy(now);
        self.uneasy.store(!easy, Ordering::Relaxed);
        drop(state);
        if was_open {
            self.tell();
        }
    }

    /// The worker did not say "not now" to what was sent at `sent`.
    pub fn recovered(&self, sent: Millis) {
        if self.uneasy.load(Ordering::Relaxed) {
            let mut state = self.state.lock();
            if state.pace.is_news(sent) {
                state.throttled = 0;
            }
        }
    }

    /// The state, to be looked at from now on.
    fn change(&self) -> parking_lot::MutexGuard<'_, State> {
        let state = self.state.lock();
        // Under the lock, so that nobody who finds all at ease takes this back.
        self.uneasy.store(true, Ordering::Relaxed);
        state
    }

    /// The trial of the breaker is over.
    fn trial_ended(&self) {
        self.state.lock().breaker.trial_ended();
        self.tell();
    }

    /// Somebody who waits for a slot may find one now.
    pub fn tell(&self) {
        if self.wanted.swap(false, Ordering::SeqCst) {
            self.freed.send_modify(|n| *n += 1);
        }
    }
}

/// Open pushes of one instance, and whether it can be reached.
#[derive(Debug)]
pub struct Slots {
    open: AtomicU32,
    gate: Arc<Gate>,
    /// `breaker` has to be looked at.
    uneasy: AtomicBool,
    /// Of connections that came about or did not. The worker's own breaker counts only when all of its instances fail.
    breaker: Mutex<Breaker>,
}

impl Slots {
    /// No open push, behind this gate.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { open: AtomicU32::new(0), gate, uneasy: AtomicBool::new(false), breaker: Mutex::default() }
    }

    /// Whether the last request found nobody there.
    pub fn fails(&self) -> bool {
        self.uneasy.load(Ordering::Relaxed)
    }

    /// Until when it is passed over because nobody is there; zero: it is not. After that it is tried.
    pub fn unreachable(&self) -> Millis {
        if self.fails() { self.breaker.lock().until() } else { Millis(0) }
    }

    /// It is known to be there again.
    pub fn forget_faults(&self) {
        let mut breaker = self.breaker.lock();
        *breaker = Breaker::default();
        self.uneasy.store(false, Ordering::Relaxed);
    }

    /// How many pushes are open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a slot if fewer than `limit` are taken.
    pub fn take(self: &Arc<Self>, limit: u32) -> Option<Slot> {
        let grow = |open: u32| (open < limit).then(|| open + 1);
        self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, grow).ok()?;
        Some(Slot { slots: Arc::clone(self), trial: false, tries: false, since: Millis(0), others: Vec::new() })
    }

    /// … of an instance that can be reached or is to be tried now: with one request at a time.
    pub fn take_reachable(self: &Arc<Self>, limit: u32, now: Millis) -> Option<Slot> {
        let mut slot = self.take(limit)?;
        if self.fails() {
            match self.breaker.lock().way(now) {
                Way::Free => {}
                Way::Trial => slot.tries = true,
                Way::TrialOut | Way::Until(_) => return None,
            }
        }
        Some(slot)
    }
}

/// A taken slot; free again when dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    /// Of the attempt that the breaker tries.
    trial: bool,
    /// Of the attempt that finds out whether the instance can be reached again.
    tries: bool,
    since: Millis,
    /// Those of the other instances that get the same task.
    others: Vec<Slot>,
}

impl Slot {
    /// Together with those of other instances: they are free again when this one is.
    #[must_use]
    pub fn with(mut self, others: Vec<Slot>) -> Self {
        self.others = others;
        self
    }

    /// The gate that the slot belongs to.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.slots.gate
    }

    /// When it was taken.
    pub fn since(&self) -> Millis {
        self.since
    }

    /// Nobody was there: perhaps the instance is passed over now. Answers for how long.
    pub fn unreached(&self, now: Millis, settings: Settings) -> Option<Duration> {
        let mut breaker = self.slots.breaker.lock();
        let pause = breaker.fault(now, self.since, settings);
        self.slots.uneasy.store(!breaker.is_calm(), Ordering::Relaxed);
        pause
    }

    /// Somebody was there.
    pub fn reached(&self) {
        if self.slots.fails() {
            let mut breaker = self.slots.breaker.lock();
            breaker.works(self.since);
            self.slots.uneasy.store(!breaker.is_calm(), Ordering::Relaxed);
        }
    }

    /// Nothing was sent after all: it does not count as a request.
    pub fn unused(self) {
        let gate = self.gate();
        gate.sent.take_back(self.since);
        if gate.uneasy.load(Ordering::Relaxed) && !self.trial {
            gate.state.lock().pace.give_back(self.since);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.open.fetch_sub(1, Ordering::SeqCst);
        if self.tries {
            self.slots.breaker.lock().trial_ended();
        }
        if self.trial {
            self.slots.gate.trial_ended();
        } else {
            self.slots.gate.tell();
        }
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
