#![allow(clippy::unwrap_used)]

mod hold;
mod order;
mod shares;

use std::collections::BTreeMap;

use lovage_core::{IdRun, NewTask, Ns, Slot};
use lovage_store::{Cursor, FeedPos};
use proptest::prelude::*;

use super::*;

/// All lanes that there are in the store are known.
fn lanes(window: usize) -> Lanes {
    let mut lanes = Lanes::new(Bounds { window, lanes: 1_000_000 }, Duration::from_secs(30));
    lanes.begin(FeedPos::default());
    let from = lanes.take_page().unwrap().0;
    assert_eq!(from, Cursor::default());
    lanes.paged(lanes.life(), Some((Vec::new(), None)));
    lanes
}

fn lane(name: &str) -> Arc<LaneDef> {
    Arc::new(LaneDef::of(Ns(0), "q", Route::Task(name.into())))
}

fn task(def: &LaneDef, priority: u8, seq: u64) -> Waiting {
    let mut head = NewTask::first_head(def, priority, None, None, Millis(1));
    head.seq = seq;
    Waiting::new(TaskKey::new(Ns(0), IdRun::new(Millis(1), Slot::new(0), seq).nth(0)), head)
}

fn next(lanes: &Lanes) -> Option<LaneId> {
    lanes.next().map(|turn| turn.lane)
}

fn drain(lanes: &mut Lanes) -> Vec<u64> {
    let mut out = Vec::new();
    while let Some(turn) = lanes.next() {
        out.push(lanes.take(turn.lane).unwrap().head.seq);
    }
    out
}

#[test]
fn priority_first_then_lanes_take_turns() {
    let (a, b) = (lane("a"), lane("b"));
    let mut lanes = lanes(100);
    for def in [&a, &b] {
        lanes.add(LaneDef::clone(def), false);
    }
    for seq in 1..=3 {
        lanes.offer(task(&a, 4, seq));
        lanes.offer(task(&b, 4, 10 + seq));
    }
    lanes.offer(task(&b, 9, 99));
    let order = drain(&mut lanes);
    assert_eq!(order[0], 99);
    assert_eq!(order[1..], [1, 11, 2, 12, 3, 13]);
}

#[test]
fn a_lane_gathers_until_it_has_enough_or_its_time_is_over() {
    let def = lane("a");
    let id = def.id();
    let wait = Duration::from_millis(50);
    let mut lanes = lanes(100);
    lanes.add(LaneDef::clone(&def), false);
    lanes.offer(task(&def, 4, 1));
    assert!(!lanes.gather(id, 3, Millis(10), wait));
    assert_eq!((next(&lanes), lanes.next_opening()), (None, Some(Millis(60))));
    lanes.offer(task(&def, 4, 2));
    assert_eq!(next(&lanes), None);
    lanes.offer(task(&def, 4, 3));
    assert_eq!(next(&lanes), Some(id), "enough");
    assert!(lanes.gather(id, 3, Millis(20), wait));
    // One that is left has waited as long as those that went.
    lanes.take(id);
    lanes.take(id);
    assert!(!lanes.gather(id, 3, Millis(30), wait));
    lanes.open_until(Millis(59));
    assert_eq!(next(&lanes), None);
    lanes.open_until(Millis(60));
    assert_eq!(next(&lanes), Some(id), "its time is over");
    assert!(lanes.gather(id, 3, Millis(60), wait));
    lanes.take(id);
    // An empty lane begins anew.
    lanes.offer(task(&def, 4, 4));
    assert!(!lanes.gather(id, 3, Millis(100), wait));
    assert_eq!(lanes.next_opening(), Some(Millis(150)));
    lanes.remove(&task(&def, 4, 4).head);
    lanes.offer(task(&def, 4, 5));
    assert_eq!(next(&lanes), Some(id));
    assert!(!lanes.gather(id, 3, Millis(120), wait));
    lanes.open_until(Millis(169));
    assert_eq!(next(&lanes), None);
}

#[test]
fn a_lane_that_gathers_is_filled_from_the_store() {
    let def = lane("a");
    let mut lanes = lanes(10);
    lanes.add(LaneDef::clone(&def), true);
    assert_eq!(lanes.take_hungry(1).len(), 1);
    let page = |from: u64, to: u64| (from..to).map(|seq| task(&def, 4, seq)).collect();
    lanes.loaded(0, def.id(), Some((page(1, 6), true)));
    assert!(!lanes.gather(def.id(), 8, Millis(1), Duration::from_millis(50)));
    assert_eq!(lanes.take_hungry(1).len(), 1, "five are more than a quarter, and too few");
    lanes.loaded(0, def.id(), Some((page(6, 10), false)));
    assert_eq!(next(&lanes), Some(def.id()));
}

#[test]
fn a_closed_lane_waits_for_its_gate() {
    let (a, b) = (lane("a"), lane("b"));
    let mut lanes = lanes(100);
    for def in [&a, &b] {
        lanes.add(LaneDef::clone(def), false);
        lanes.offer(task(def, 4, 1));
        lanes.close(def.id(), Closed::Busy(7));
    }
    assert_eq!(next(&lanes), None);
    lanes.open_busy(7, 1);
    assert_eq!(next(&lanes), Some(a.id()));
    lanes.close(a.id(), Closed::Until(Millis(50)));
    lanes.open_until(Millis(49));
    // The slot is the next one's.
    assert_eq!((next(&lanes), lanes.next_opening()), (Some(b.id()), Some(Millis(50))));
    lanes.close(b.id(), Closed::Busy(7));
    assert_eq!(next(&lanes), None);
    lanes.open_until(Millis(50));
    lanes.open_busy(7, 5);
    assert_eq!(drain(&mut lanes).len(), 2);
    assert!(lanes.busy_gates().is_empty());
    lanes.offer(task(&lane("unknown"), 4, 1));
    assert_eq!(lanes.take_unknown(10), [lane("unknown").id()]);
}

proptest! {
    /// Whatever the order of offers, page reads and takes: every task is taken once, and within a lane by priority and order
    /// among those that were waiting.
    #[test]
    fn nothing_is_lost_behind_the_window(ops in prop::collection::vec((0u8..4, 0u8..3), 1..200), window in 2usize..12) {
        let def = lane("a");
        let mut lanes = lanes(window);
        lanes.add(LaneDef::clone(&def), true);
        // The store: everything that waits. `snapshot`: what the page being read will show.
        let mut stored: BTreeMap<Score, Waiting> = BTreeMap::new();
        let mut reading: Option<(Option<Score>, Vec<Waiting>)> = None;
        let (mut seq, mut offered, mut taken) = (0u64, 0usize, Vec::new());
        let mut step = |op: u8, rank: u8, lanes: &mut Lanes| match op {
            0 => {
                seq += 1;
                offered += 1;
                let t = task(&def, rank, seq);
                stored.insert(Score::new(rank, seq), t.clone());
                lanes.offer(t);
            }
            1 => {
                if reading.is_none() && let Some((_, after)) = lanes.take_hungry(1).pop() {
                    let page = stored.iter().filter(|(s, _)| after.is_none_or(|a| **s > a)).map(|(_, t)| t.clone()).collect();
                    reading = Some((after, page));
                }
            }
            2 => {
                if let Some((_, mut page)) = reading.take() {
                    let more = page.len() > 3;
                    page.truncate(3);
                    lanes.loaded(lanes.life(), def.id(), Some((page, more)));
                }
            }
            _ => {
                if let Some(id) = next(lanes) {
                    let t = lanes.take(id).unwrap();
                    // A stale view may show a task twice: the store's guard refuses the second claim.
                    if stored.remove(&Score::new(t.head.priority, t.head.seq)).is_some() { taken.push(t.head.seq); }
                }
            }
        };
        for (op, rank) in ops { step(op, rank, &mut lanes); }
        for _ in 0..2_000 { for op in [1, 2, 3] { step(op, 0, &mut lanes); } }
        taken.sort_unstable();
        taken.dedup();
        prop_assert_eq!(taken.len(), offered);
    }
}

#[test]
fn an_empty_lane_takes_no_slot_from_the_next() {
    let defs = [lane("a"), lane("b"), lane("c")];
    let mut lanes = lanes(100);
    for def in &defs {
        lanes.add(LaneDef::clone(def), false);
        lanes.offer(task(def, 4, 1));
        lanes.close(def.id(), Closed::Busy(7));
    }
    for def in &defs[..2] {
        lanes.remove(&task(def, 4, 1).head);
    }
    lanes.open_busy(7, 1);
    assert_eq!(next(&lanes), Some(defs[2].id()));
}

#[test]
fn the_last_of_the_window_is_replaced_by_its_newer_version_only() {
    let a = lane("a");
    let mut lanes = lanes(4);
    lanes.add(LaneDef::clone(&a), true);
    let asked = lanes.take_hungry(1);
    lanes.loaded(lanes.life(), asked[0].0, Some((vec![task(&a, 4, 1), task(&a, 4, 2)], true)));
    let version = |n| {
        let mut task = task(&a, 4, 2);
        task.head.version = n;
        task
    };
    lanes.offer(version(3));
    lanes.offer(version(2));
    lanes.take(a.id());
    assert_eq!(lanes.take(a.id()).unwrap().head.version, 3);
}

#[test]
fn a_page_from_before_everything_was_forgotten_is_of_no_use() {
    let a = lane("a");
    let mut lanes = lanes(4);
    lanes.add(LaneDef::clone(&a), true);
    let (life, asked) = (lanes.life(), lanes.take_hungry(1));
    lanes.clear();
    lanes.add(LaneDef::clone(&a), true);
    assert_eq!(lanes.take_hungry(1), asked);
    lanes.loaded(life, a.id(), Some((vec![task(&a, 4, 9)], false)));
    lanes.loaded(lanes.life(), a.id(), Some((vec![task(&a, 4, 1)], false)));
    assert_eq!(drain(&mut lanes), [1]);
}
