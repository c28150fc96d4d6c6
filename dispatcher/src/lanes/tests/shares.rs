//! Who gets how many starts.

use std::collections::HashMap;

use super::*;

/// A lane of this queue, key, limit and priority.
fn of(queue: &str, key: &str, limit: usize, priority: u8) -> LaneDef {
    let limits = vec![lovage_core::TaskLimit { key: limit.to_string(), rate: None, burst: None, concurrency: None, cost: 1 }];
    let plain = LaneDef::of(Ns(0), queue, Route::Task("t".into()));
    LaneDef { fair_key: Some(key.into()), limits, priority: Some(priority), ..plain }
}

/// A lane that never runs dry.
struct Endless {
    def: LaneDef,
    next: u64,
}

struct Load {
    lanes: Lanes,
    by_id: HashMap<LaneId, Endless>,
}

impl Load {
    fn new(defs: impl IntoIterator<Item = LaneDef>) -> Self {
        let mut load = Self { lanes: lanes(64), by_id: HashMap::new() };
        for def in defs {
            load.lanes.add(def.clone(), false);
            let id = def.id();
            load.by_id.insert(id, Endless { def, next: 1 });
            load.refill(id);
            load.refill(id);
        }
        load
    }

    fn refill(&mut self, id: LaneId) {
        let lane = self.by_id.get_mut(&id).unwrap();
        lane.next += 1;
        self.lanes.offer(task(&lane.def, lane.def.priority.unwrap_or(4), lane.next));
    }

    fn start(&mut self) -> LaneDef {
        let id = next(&self.lanes).unwrap();
        self.lanes.take(id).unwrap();
        self.refill(id);
        self.by_id[&id].def.clone()
    }

    /// Starts so many tasks; how many each has, by what `who` says.
    fn count(&mut self, starts: usize, who: impl Fn(&LaneDef) -> String) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for _ in 0..starts {
            *counts.entry(who(&self.start())).or_default() += 1;
        }
        counts
    }
}

fn key(def: &LaneDef) -> String {
    def.fair_key.clone().unwrap()
}

fn assert_equal(counts: &HashMap<String, usize>, of: usize) {
    let (starts, least, most) = (counts.values().sum::<usize>(), counts.values().min(), counts.values().max());
    let even = starts as f64 / of as f64;
    let within = |n: Option<&usize>| n.is_some_and(|n| (*n as f64 - even).abs() <= even / 10.0 + 1.0);
    assert!(counts.len() == of && within(least) && within(most), "{counts:?}");
}

/// `keys`: how many lanes each key has.
fn lanes_of(keys: &[usize]) -> Vec<LaneDef> {
    let of_key = |(at, lanes): (usize, &usize)| (0..*lanes).map(move |limit| of("q", &format!("k{at}"), limit, 4));
    keys.iter().enumerate().flat_map(of_key).collect()
}

/// A limit as an owner meets it: it tells how many lanes may try, and each tries until it is told to wait again.
#[derive(Default)]
struct Limited {
    free: usize,
    waiting: usize,
}

impl Limited {
    /// So much becomes free, and all that may start do.
    fn grant(&mut self, load: &mut Load, free: usize, counts: &mut HashMap<String, usize>) {
        self.free += free;
        let told = self.free.min(self.waiting);
        let opened = load.lanes.open_limit(7, told);
        assert_eq!(opened, told);
        self.waiting -= opened;
        self.try_all(load, counts);
    }

    fn try_all(&mut self, load: &mut Load, counts: &mut HashMap<String, usize>) {
        while let Some(id) = next(&load.lanes) {
            if self.free == 0 {
                load.lanes.close(id, Closed::Limit(7));
                self.waiting += 1;
            } else {
                self.free -= 1;
                *counts.entry(key(&load.start())).or_default() += 1;
            }
        }
    }
}

/// Three keys with one, ten and three hundred lanes and more or fewer tasks at hand, behind one limit of which so much becomes
/// free each time.
fn assert_shares_of_a_limit(mut free: impl FnMut() -> usize) {
    let lanes = [1, 10, 300];
    for backlogs in [[10, 1, 1], [1, 10, 1], [1, 1, 10]] {
        let mut load = Load::new(lanes_of(&lanes));
        for (at, tasks) in backlogs.into_iter().enumerate() {
            for limit in 0..lanes[at] {
                (0..tasks).for_each(|_| load.refill(of("q", &format!("k{at}"), limit, 4).id()));
            }
        }
        let (mut limit, mut counts) = (Limited::default(), HashMap::new());
        limit.try_all(&mut load, &mut counts);
        while counts.values().sum::<usize>() < 1_000 {
            limit.grant(&mut load, free(), &mut counts);
        }
        assert_equal(&counts, lanes.len());
    }
}

#[test]
fn keys_have_equal_shares_of_a_concurrency() {
    for most in [1, 3, 10] {
        let mut rng = fastrand::Rng::with_seed(most as u64);
        assert_shares_of_a_limit(|| rng.usize(1..=most));
        assert_shares_of_a_limit(|| most);
    }
}

#[test]
fn keys_have_equal_shares_of_a_rate() {
    for at_once in 1..=5 {
        assert_shares_of_a_limit(|| at_once);
    }
}

/// Lanes that wait for two limits and a gate. Of the limits nothing is known but how many lanes they have told to wait and not
/// called again: one that was called and forgets it would wait for ever.
struct Crossing {
    lanes: Lanes,
    rng: fastrand::Rng,
    free: [usize; 2],
    told: [usize; 2],
}

impl Crossing {
    fn call(&mut self, limit: usize, most: usize) {
        let lanes = self.told[limit].min(most);
        self.told[limit] -= lanes;
        self.lanes.open_limit(limit as u64 + 7, lanes);
    }

    /// The lane whose turn it is tries to start something; false: there is none.
    fn step(&mut self, busy: bool) -> bool {
        let Some(id) = next(&self.lanes) else { return false };
        if busy && self.rng.u8(..8) == 0 {
            self.lanes.close(id, Closed::Busy(3));
        } else if let Some(limit) = self.free.iter().position(|free| *free == 0) {
            self.lanes.close(id, Closed::Limit(limit as u64 + 7));
            self.told[limit] += 1;
        } else {
            self.free.iter_mut().for_each(|free| *free -= 1);
            self.lanes.take(id);
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a lane does that was called by a limit, and whatever becomes of its tasks: none is forgotten.
    #[test]
    fn no_lane_waits_for_a_limit_that_has_called_it(tasks in prop::collection::vec((0usize..3, 0usize..6), 1..60), seed: u64) {
        let rng = fastrand::Rng::with_seed(seed);
        let mut it = Crossing { lanes: lanes(100), rng, free: [2, 3], told: [0, 0] };
        let mut heads = Vec::new();
        for (seq, (key, limit)) in (1u64..).zip(&tasks) {
            let def = of("q", &format!("k{key}"), *limit, 4);
            it.lanes.add(def.clone(), false);
            let task = task(&def, 4, seq);
            heads.push(task.head.clone());
            it.lanes.offer(task);
        }
        for _ in 0..200 {
            match it.rng.u8(..6) {
                0 => it.lanes.open_busy(3, 2),
                1 => {
                    let gone = it.rng.usize(..heads.len());
                    it.lanes.remove(&heads[gone]);
                }
                n @ 2..=3 => {
                    let (limit, most) = (usize::from(n - 2), it.rng.usize(1..4));
                    it.free[limit] += most;
                    it.call(limit, most);
                }
                _ => drop(it.step(true)),
            }
        }
        it.free = [1_000, 1_000];
        it.lanes.open_busy(3, 1_000);
        for _ in 0..1_000 {
            if !it.step(false) {
                it.call(0, 3);
                it.call(1, 3);
            }
        }
        let left: Vec<_> = it.lanes.known.values().filter(|lane| !lane.window.is_empty()).collect();
        prop_assert!(left.is_empty(), "{:?} {left:?}", it.told);
    }
}

#[test]
fn a_key_with_a_thousand_lanes_gets_no_more_than_one_with_a_single_lane() {
    let mut load = Load::new(lanes_of(&[1_000, 1]));
    assert_eq!(load.count(1_000, key), HashMap::from([("k0".into(), 500), ("k1".into(), 500)]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Any mix of lanes per key has equal shares.
    #[test]
    fn keys_have_equal_shares(keys in prop::collection::vec(1usize..30, 1..12)) {
        assert_equal(&Load::new(lanes_of(&keys)).count(1_000, key), keys.len());
    }

    /// … also if all of them wait for the slots of one worker, whenever these become free.
    #[test]
    fn keys_have_equal_shares_of_a_gate(
        keys in prop::collection::vec(1usize..30, 1..8),
        slots in 1usize..20,
        seed: u64,
    ) {
        let (mut load, mut rng) = (Load::new(lanes_of(&keys)), fastrand::Rng::with_seed(seed));
        let (mut free, mut counts, mut starts) = (slots, HashMap::new(), 0);
        while starts < 1_000 {
            let most = rng.usize(1..50);
            let mut planned = 0;
            while let Some(id) = next(&load.lanes).filter(|_| planned < most) {
                if free == 0 {
                    load.lanes.close(id, Closed::Busy(7));
                    continue;
                }
                (free, planned, starts) = (free - 1, planned + 1, starts + 1);
                *counts.entry(key(&load.start())).or_default() += 1;
            }
            if slots > free {
                free += rng.usize(1..=slots - free);
                load.lanes.open_busy(7, free);
            }
        }
        assert_equal(&counts, keys.len());
    }

    /// Without aging nothing starts while something of higher priority may.
    #[test]
    fn priority_is_strict_without_aging(
        tasks in prop::collection::vec((0u8..10, 0usize..5, 0usize..3), 1..100),
        waited in 0u64..1_000_000,
    ) {
        let mut lanes = Lanes { aging: Duration::ZERO, ..lanes(100) };
        for (seq, (priority, key, limit)) in (1u64..).zip(&tasks) {
            let def = of("q", &format!("k{key}"), *limit, *priority);
            lanes.add(def.clone(), false);
            lanes.offer(task(&def, *priority, seq));
        }
        lanes.open_until(Millis(waited));
        let mut last = 9;
        while let Some(turn) = lanes.next() {
            let priority = lanes.take(turn.lane).unwrap().head.priority;
            prop_assert!(priority <= last);
            last = priority;
        }
    }

    /// Under endless load of the highest priority every task starts some day.
    #[test]
    fn every_waiting_task_starts_some_day(low in prop::collection::vec((0u8..9, 0usize..4), 1..12)) {
        let high = of("q", "flood", 0, 9);
        let mut lanes = lanes(100);
        lanes.add(high.clone(), false);
        for (seq, (priority, key)) in (1u64..).zip(&low) {
            let def = of("q", &format!("k{key}"), 0, *priority);
            lanes.add(def.clone(), false);
            lanes.offer(task(&def, *priority, seq));
        }
        let (mut started, mut now) = (0, 1u64);
        for seq in 1_000.. {
            let mut fresh = task(&high, 9, seq);
            fresh.head.created = Millis(now);
            lanes.offer(fresh);
            lanes.open_until(Millis(now));
            started += usize::from(lanes.take(next(&lanes).unwrap()).unwrap().head.seq < 1_000);
            now += 1_000;
            if started == low.len() {
                break;
            }
            // Nine ranks of 30 s, and a turn of each of the others.
            prop_assert!(now < 1_000 * (9 * 30 + 100), "{started} of {}", low.len());
        }
    }
}

#[test]
fn a_flood_that_is_old_takes_nothing_from_those_of_its_priority() {
    let mut load = Load::new(lanes_of(&[1, 1]));
    load.lanes.open_until(Millis(3_600_000));
    let id = of("q", "k1", 0, 4).id();
    let fresh = load.by_id.get_mut(&id).unwrap();
    fresh.next += 1_000_000;
    assert_equal(&load.count(1_000, key), 2);
}

#[test]
fn who_comes_back_has_earned_nothing() {
    let (a, b) = (of("q", "a", 0, 4), of("q", "b", 0, 4));
    let mut load = Load::new([a.clone()]);
    load.count(500, key);
    load.lanes.add(b.clone(), false);
    load.by_id.insert(b.id(), Endless { def: b.clone(), next: 1 });
    load.refill(b.id());
    load.refill(b.id());
    assert_equal(&load.count(100, key), 2);
}

#[test]
fn namespaces_and_queues_share_evenly() {
    let mut defs = lanes_of(&[1, 1, 1, 1]);
    defs.push(of("other", "k0", 0, 4));
    defs.push(LaneDef { ns: Ns(1), ..of("q", "k0", 0, 4) });
    let counts = Load::new(defs).count(1_600, |def| format!("{} {} {}", def.ns.0, def.queue, key(def)));
    assert_eq!((counts["1 q k0"], counts["0 other k0"], counts["0 q k0"], counts["0 q k3"]), (800, 400, 100, 100));
}

#[test]
fn a_fair_queue_goes_by_priority_within_a_key_only() {
    let fair = |key, priority| LaneDef { order: LaneOrder::Fair, ..of("q", key, 0, priority) };
    let mut lanes = lanes(100);
    for (seq, (key, priority)) in (1u64..).zip([("a", 9), ("a", 9), ("a", 1), ("b", 2), ("b", 3), ("b", 3)]) {
        lanes.add(fair(key, priority), false);
        lanes.offer(task(&fair(key, priority), priority, seq));
    }
    let order = drain(&mut lanes);
    assert_eq!(order, [1, 5, 2, 6, 3, 4]);
    assert!(lanes.ready.is_empty());
}

#[test]
fn a_higher_priority_that_comes_later_gets_the_next_slot() {
    let defs = [of("q", "a", 0, 4), of("q", "b", 0, 4), of("q", "c", 0, 8)];
    let mut lanes = lanes(100);
    for (seq, def) in (1u64..).zip(&defs) {
        lanes.add(def.clone(), false);
        lanes.offer(task(def, def.priority.unwrap(), seq));
        lanes.close(def.id(), Closed::Limit(3));
    }
    assert_eq!((lanes.open_limit(4, 1), next(&lanes)), (0, None));
    assert_eq!((lanes.open_limit(3, 1), next(&lanes)), (1, Some(defs[2].id())));
    assert_eq!((lanes.open_limit(3, 9), drain(&mut lanes).len()), (2, 3));
}

#[test]
fn a_lane_that_had_to_wait_at_its_turn_goes_before_those_that_were_not_tried_yet() {
    let defs: Vec<LaneDef> = (0..50).map(|n| of("q", "one", n, 4)).collect();
    let mut load = Load::new(defs.clone());
    let first: Vec<LaneId> = (0..3)
        .map(|limit| {
            let id = next(&load.lanes).unwrap();
            load.lanes.close(id, Closed::Limit(limit));
            id
        })
        .collect();
    let untried = next(&load.lanes).unwrap();
    for limit in 0..3 {
        assert_eq!(load.lanes.open_limit(limit, 1), 1);
    }
    let turns: Vec<LaneId> = (0..4)
        .map(|_| {
            let id = next(&load.lanes).unwrap();
            load.start();
            id
        })
        .collect();
    assert_eq!((&turns[..3], turns[3]), (&first[..], untried), "in order, and once each");
}
