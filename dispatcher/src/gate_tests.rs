//! What gates let through, and when.
#![allow(clippy::unwrap_used)]

use super::*;

const T0: Millis = Millis(1_800_000_000_000);
const ASKER: Asker = Asker { number: 0, wants: 0, waits: None };
const AFTER_ONE: Settings = Settings { failures: 1, open_for: lovage_core::units::Dur::from_secs(10) };

fn at(ms: u64) -> Millis {
    Millis(T0.0 + ms)
}

/// A gate with slots.
struct Door {
    gate: Arc<Gate>,
    slots: Arc<Slots>,
    count: u32,
}

impl Door {
    fn new(count: u32) -> Self {
        let gate = Arc::new(Gate::new(1, watch::Sender::default()));
        Self { slots: Arc::new(Slots::new(Arc::clone(&gate))), gate, count }
    }

    fn ask(&self, now: Millis) -> Result<Slot, Held> {
        let load = || (self.slots.open(), self.count);
        self.gate
            .admit(now, &ASKER, load, || self.count - self.slots.open(), || Some((self.slots.take(self.count)?, ())))
            .map(|(slot, ())| slot)
    }

    /// As many as go at once.
    fn fill(&self, now: Millis) -> Vec<Slot> {
        std::iter::from_fn(|| self.ask(now).ok()).collect()
    }

    fn answer(&self, slot: Slot, now: Millis) {
        self.gate.recovered(slot.since());
        self.gate.works(now, slot.since(), true);
    }

    fn paused(&self, now: Millis) -> Option<Millis> {
        self.gate.sight(now, self.count).paused_until
    }

    fn rate(&self, now: Millis) -> Option<f64> {
        self.gate.sight(now, self.count).effective_rate
    }
}

#[test]
fn slots_are_bounded_and_come_back() {
    let door = Door::new(2);
    let mut taken = door.fill(T0);
    assert_eq!((taken.len(), door.ask(T0).unwrap_err()), (2, Held::Busy));
    taken.pop();
    assert_eq!(door.slots.open(), 1);
    assert!(door.ask(T0).is_ok());
    let unused = door.gate.sent.sum(T0);
    door.ask(T0).unwrap().unused();
    assert_eq!((door.gate.sent.sum(T0), door.slots.open()), (unused, 1));
}

#[test]
fn pauses_double_once_per_round_and_end_with_an_answer() {
    let door = Door::new(100);
    let gate = &door.gate;
    assert_eq!(gate.throttle(at(10), at(5), None), Duration::from_secs(1));
    // A second answer of the same round doubles nothing.
    assert_eq!(gate.throttle(at(12), at(5), None), Duration::from_secs(1));
    let mut now = at(12);
    for seconds in [2, 4, 8, 16, 32, 60, 60] {
        now = door.paused(now).unwrap();
        assert_eq!(door.paused(now), None);
        assert_eq!(gate.throttle(now.after(Duration::from_millis(2)), now, None), Duration::from_secs(seconds));
    }
    // An answer to what was sent before says nothing; a later one ends it.
    gate.recovered(at(5));
    now = door.paused(now).unwrap().after(Duration::from_millis(5));
    gate.recovered(now);
    assert_eq!(gate.throttle(now.after(Duration::from_millis(2)), now, None), Duration::from_secs(1));
    // The attempt waits as long as the answer says, the worker's other tasks do not.
    let now = now.after(Duration::from_secs(5));
    assert_eq!(gate.throttle(now, now, Some(Duration::from_secs(86_400))), Duration::from_secs(86_400));
    assert_eq!(door.paused(now), Some(now.after(LONGEST_ASKED)));
}

/// Asks every ten milliseconds of a minute; requests take 50 ms. Answers how many were sent in each second, and the most at once.
fn minute(door: &Door, from: u64, limit: impl Fn(u64) -> usize) -> (Vec<usize>, Vec<u32>) {
    let (mut sent, mut most) = (vec![0; 60], vec![0; 60]);
    let mut open: Vec<(u64, Slot)> = Vec::new();
    for ms in (from..from + 60_000).step_by(10) {
        let second = ((ms - from) / 1_000) as usize;
        let (done, rest): (Vec<_>, Vec<_>) = open.drain(..).partition(|(since, _)| since + 50 <= ms);
        open = rest;
        for (_, slot) in done {
            if sent[second] > limit(second as u64) {
                door.gate.throttle(at(ms), slot.since(), None);
                door.gate.works(at(ms), slot.since(), false);
            } else {
                door.answer(slot, at(ms));
            }
        }
        // Ten more are wanted every ten milliseconds: a thousand a second.
        for _ in 0..10 {
            let Ok(slot) = door.ask(at(ms)) else { break };
            sent[second] += 1;
            open.push((ms, slot));
        }
        most[second] = most[second].max(door.slots.open());
    }
    (sent, most)
}

#[test]
fn a_worker_that_asks_for_less_gets_less_and_everything_again() {
    let door = Door::new(100);
    let (sent, most) = minute(&door, 0, |_| usize::MAX);
    assert!(sent.iter().all(|n| *n == 1_000) && most.iter().all(|n| *n <= 100));
    assert!(!door.gate.uneasy.load(Ordering::Relaxed), "a healthy worker costs one look");
    // For ten seconds it takes a hundred a second.
    let (sent, most) = minute(&door, 60_000, |second| if second < 10 { 100 } else { usize::MAX });
    println!("sent a second: {sent:?}\nopen at most: {most:?}");
    assert!(sent[1..10].iter().all(|n| *n < 300), "slowed");
    assert!(sent[10..].windows(2).all(|pair| pair[1] as f64 <= pair[0] as f64 * 2.0 + 25.0), "no jump");
    assert!(most.iter().all(|n| *n <= 100), "never above what it is registered with");
    assert_eq!(sent[55..], [1_000; 5], "everything again");
    let (sent, _) = minute(&door, 120_000, |_| usize::MAX);
    assert_eq!(sent[59], 1_000);
    assert_eq!(door.rate(at(180_000)), None);
    assert!(!door.gate.uneasy.load(Ordering::Relaxed));
}

#[test]
fn after_an_outage_few_are_sent_at_first() {
    let door = Door::new(100);
    door.gate.fault(T0, T0, AFTER_ONE);
    assert_eq!(door.ask(T0).unwrap_err(), Held::Until(at(10_000)));
    let trial = door.ask(at(10_000)).unwrap();
    assert_eq!(door.ask(at(10_000)).unwrap_err(), Held::Busy, "one is tried");
    door.gate.works(at(10_020), trial.since(), true);
    drop(trial);
    let mut open = Vec::new();
    let rows: Vec<usize> = (0..=10)
        .map(|second| {
            open.extend(door.fill(at(10_020 + second * 1_000)));
            open.len()
        })
        .collect();
    assert_eq!(rows, [1, 1, 2, 3, 6, 10, 15, 25, 39, 63, 100]);
}

#[test]
fn an_allowance_that_is_used_up_closes_the_door() {
    let door = Door::new(100);
    let told = |remaining, secs| Allowance { remaining, reset: Duration::from_secs(secs), limit: Some(1_000) };
    door.gate.told(T0, told(900, 60));
    assert_eq!(door.fill(T0).len(), 100);
    door.gate.told(at(1_000), told(20, 10));
    assert_eq!(door.rate(at(1_000)), Some(2.0));
    assert!(door.ask(at(1_000)).is_ok());
    assert!(matches!(door.ask(at(1_000)).unwrap_err(), Held::Until(_)));
    door.gate.told(at(2_000), told(0, 9));
    assert_eq!((door.ask(at(2_000)).unwrap_err(), door.paused(at(2_000))), (Held::Until(at(11_000)), Some(at(11_000))));
    // And then gently.
    assert_eq!(door.fill(at(11_000)).len(), 1);
    assert_eq!(door.fill(at(21_000)).len(), 100);
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
