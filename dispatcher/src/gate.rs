//! Gates: what a push must get past in this process – a free slot of an instance, and a worker that wants to be called.
//!
//! Gates outlive changes of a worker's document, so that counts stay right, and the worker itself for as long as something is
//! open or it wanted to be left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use lovage_core::Millis;
use lovage_core::worker::Breaker as Settings;
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::breaker::{Breaker, Way};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// However long an answer asks for: the other tasks of the worker do not wait longer for it.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// The state of one worker, or of one origin of bare URLs.
#[derive(Debug)]
pub struct Gate {
    /// Tells gates apart.
    pub number: u64,
    /// Somebody waits for a slot.
    wanted: AtomicBool,
    freed: watch::Sender<u64>,
    paused_until: AtomicU64,
    /// Consecutive "not now" answers without a time of their own.
    throttled: AtomicU32,
    breaker: Mutex<Breaker>,
}

impl Gate {
    /// A gate that raises `freed` when a slot that somebody waits for is free.
    pub fn new(number: u64, freed: watch::Sender<u64>) -> Self {
        Self {
            number,
            wanted: AtomicBool::new(false),
            freed,
            paused_until: AtomicU64::new(0),
            throttled: AtomicU32::new(0),
            breaker: Mutex::default(),
        }
    }

    /// Ask to be told when a slot is free; look for one once more afterwards.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// Until when the worker wants to be left alone, if it does.
    pub fn paused(&self, now: Millis) -> Option<Millis> {
        let until = Millis(self.paused_until.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// Until when its breaker is or was open; zero: closed.
    pub fn breaker_until(&self) -> Millis {
        self.breaker.lock().until()
    }

    /// Whether it knows more than a new one: how long the worker wants to be left alone, and how often it said so.
    pub fn remembers(&self, now: Millis) -> bool {
        let paused = Millis(self.paused_until.load(Ordering::Relaxed));
        paused.max(self.breaker.lock().until()).after(LONGEST_PAUSE) > now
    }

    /// The worker said "not now", with a time or without: 1 s, doubling to a minute. Answers when the attempt may be made
    /// again; the worker itself is left alone for at most five minutes.
    pub fn throttle(&self, now: Millis, after: Option<Duration>) -> Duration {
        let pause = after.unwrap_or_else(|| {
            let times = self.throttled.load(Ordering::Relaxed);
            FIRST_PAUSE.saturating_mul(1 << times.min(6)).min(LONGEST_PAUSE)
        });
        let until = now.after(pause.min(LONGEST_ASKED)).0;
        // Answers that were open together count once: only the first of them finds the gate open.
        if self.paused_until.fetch_max(until, Ordering::Relaxed) <= now.0 {
            self.throttled.fetch_add(1, Ordering::Relaxed);
        }
        pause
    }

    /// What the breaker lets through now; a trial is the taker's to end.
    pub fn way(&self, now: Millis) -> Way {
        self.breaker.lock().way(now)
    }

    /// The trial of the breaker is over.
    pub fn trial_ended(&self) {
        self.breaker.lock().trial_ended();
        self.tell();
    }

    /// The endpoint failed: perhaps it is left alone now.
    pub fn fault(&self, now: Millis, settings: Settings) {
        if self.breaker.lock().fault(now, settings).is_some() {
            counter!("lovage_breakers_opened_total").increment(1);
        }
    }

    /// The endpoint answered, whatever it was.
    pub fn works(&self) {
        if self.breaker.lock().works() {
            self.tell();
        }
    }

    fn tell(&self) {
        if self.wanted.swap(false, Ordering::SeqCst) {
            self.freed.send_modify(|n| *n += 1);
        }
    }

    /// The worker answered in earnest: it is not throttled any more.
    pub fn recovered(&self) {
        if self.throttled.load(Ordering::Relaxed) != 0 {
            self.throttled.store(0, Ordering::Relaxed);
        }
    }
}

/// Open pushes of one instance.
#[derive(Debug)]
pub struct Slots {
    open: AtomicU32,
    gate: Arc<Gate>,
}

impl Slots {
    /// No open push, behind this gate.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { open: AtomicU32::new(0), gate }
    }

    /// How many pushes are open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a slot if fewer than `limit` are taken.
    pub fn take(self: &Arc<Self>, limit: u32) -> Option<Slot> {
        let grow = |open: u32| (open < limit).then(|| open + 1);
        self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, grow).ok()?;
        Some(Slot { slots: Arc::clone(self), trial: false, others: Vec::new() })
    }
}

/// A taken slot; free again when dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    /// Of the attempt that the breaker tries.
    trial: bool,
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

    /// The slot of a trial: it ends when the slot is free.
    #[must_use]
    pub fn of_trial(mut self) -> Self {
        self.trial = true;
        self
    }

    /// The gate that the slot belongs to.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.slots.gate
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.open.fetch_sub(1, Ordering::SeqCst);
        if self.trial {
            self.slots.gate.trial_ended();
        } else {
            self.slots.gate.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn gate() -> Arc<Gate> {
        Arc::new(Gate::new(1, watch::Sender::default()))
    }

    #[test]
    fn slots_are_bounded_and_come_back() {
        let slots = Arc::new(Slots::new(gate()));
        let one = slots.take(2).unwrap();
        let _two = slots.take(2).unwrap();
        assert!(slots.take(2).is_none());
        drop(one);
        assert_eq!(slots.open(), 1);
        assert!(slots.take(2).is_some());
    }

    #[test]
    fn pauses_double_once_per_round_and_end_with_an_answer() {
        let gate = gate();
        let now = Millis(1_000);
        assert_eq!(gate.throttle(now, None), Duration::from_secs(1));
        // A second answer of the same round does not double it again.
        assert_eq!(gate.throttle(now, None), Duration::from_secs(2));
        assert_eq!(gate.throttle(now, None), Duration::from_secs(2));
        let mut now = now;
        for _ in 0..10 {
            now = gate.paused(now).unwrap();
            assert_eq!(gate.paused(now), None);
            assert!(gate.throttle(now, None) <= LONGEST_PAUSE);
        }
        gate.recovered();
        let now = gate.paused(now).unwrap();
        assert_eq!(gate.throttle(now, None), Duration::from_secs(1));
        assert_eq!(gate.throttle(now, Some(Duration::from_secs(300))), Duration::from_secs(300));
        assert_eq!(gate.paused(now), Some(now.after(Duration::from_secs(300))));
        // The attempt waits as long as the answer says, the worker's other tasks do not.
        assert_eq!(gate.throttle(now, Some(Duration::from_secs(86_400))), Duration::from_secs(86_400));
        assert_eq!(gate.paused(now), Some(now.after(LONGEST_ASKED)));
    }

    #[tokio::test]
    async fn whoever_wants_a_slot_is_told() {
        let freed = watch::Sender::default();
        let mut told = freed.subscribe();
        let slots = Arc::new(Slots::new(Arc::new(Gate::new(1, freed))));
        drop(slots.take(1).unwrap());
        assert!(!told.has_changed().unwrap(), "nobody asked");
        let slot = slots.take(1).unwrap();
        slot.gate().want();
        drop(slot);
        told.changed().await.unwrap();
    }
}
