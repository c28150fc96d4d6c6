//! Which lanes are held, against a store that has more of them.

use std::collections::HashMap;

use super::*;

fn defs(number: usize) -> Vec<LaneDef> {
    let def = |n: usize| LaneDef { fair_key: Some(n.to_string()), ..LaneDef::of(Ns(0), "q", Route::Task("t".into())) };
    (0..number).map(def).collect()
}

/// A store with a task in each of these lanes.
struct Model {
    lanes: Lanes,
    stored: BTreeMap<LaneId, (LaneDef, BTreeMap<Score, Waiting>)>,
}

impl Model {
    fn new(lanes: usize, most: usize) -> Self {
        let mut stored = BTreeMap::new();
        for (seq, def) in (1u64..).zip(defs(lanes)) {
            let task = task(&def, 4, seq);
            stored.insert(def.id(), (def, BTreeMap::from([(task.head.score(), task)])));
        }
        let mut lanes = Lanes::new(Bounds { window: 8, lanes: most }, Duration::ZERO);
        lanes.begin(FeedPos::default());
        Self { lanes, stored }
    }

    /// What the owner reads.
    fn read(&mut self) {
        loop {
            let life = self.lanes.life();
            if let Some((from, most)) = self.lanes.take_page() {
                let after: Option<u64> = (!from.0.is_empty()).then(|| u64::from_be_bytes(from.0[..].try_into().unwrap()));
                let rest: Vec<_> = self
                    .stored
                    .iter()
                    .filter(|(id, (_, tasks))| !tasks.is_empty() && after.is_none_or(|after| id.0 > after))
                    .take(most + 1)
                    .collect();
                let next = (rest.len() > most).then(|| Cursor(rest[most - 1].0.0.to_be_bytes().to_vec()));
                let page = rest.into_iter().take(most).map(|(_, (def, _))| def.clone()).collect();
                self.lanes.paged(life, Some((page, next)));
                continue;
            }
            let unknown = self.lanes.take_unknown(5);
            if !unknown.is_empty() {
                let found = unknown.iter().map(|id| (*id, self.stored.get(id).map(|(def, _)| def.clone()))).collect();
                self.lanes.learned(life, found);
                continue;
            }
            let Some((id, after)) = self.lanes.take_hungry(1).pop() else { return };
            let tasks = self.stored[&id].1.range(after.map_or(Score(0), |after| Score(after.0 + 1))..);
            let page = tasks.map(|(_, task)| task.clone()).collect();
            self.lanes.loaded(life, id, Some((page, false)));
        }
    }

    /// Starts what may start; how many did.
    fn start_all(&mut self) -> usize {
        let mut started = 0;
        while let Some(id) = next(&self.lanes) {
            let task = self.lanes.take(id).unwrap();
            started += usize::from(self.stored.get_mut(&id).unwrap().1.remove(&task.head.score()).is_some());
            self.read();
        }
        started
    }
}

#[test]
fn more_lanes_than_may_be_held_all_have_their_turn() {
    let mut model = Model::new(500, 40);
    let (mut started, mut rounds) = (0, 0);
    while started < 500 {
        model.read();
        started += model.start_all();
        assert!(model.lanes.len() <= 40, "{}", model.lanes.len());
        model.lanes.tidy();
        rounds += 1;
        assert!(rounds < 500, "{started}");
    }
    // All that is there is known again, and what is empty is not held.
    model.lanes.tidy();
    model.read();
    model.lanes.forget_empty(0);
    assert_eq!((model.lanes.len(), model.lanes.hold.knows_orders()), (0, true));
}

#[test]
fn closed_lanes_make_room_for_those_that_may_start_something() {
    let mut model = Model::new(300, 30);
    let open: Vec<LaneId> = model.stored.keys().copied().skip(290).collect();
    let (mut seen, mut started) = (HashMap::new(), 0);
    for round in 0..400 {
        model.read();
        while let Some(id) = next(&model.lanes) {
            seen.entry(id).or_insert(round);
            if open.contains(&id) {
                model.lanes.take(id).unwrap();
                model.stored.get_mut(&id).unwrap().1.clear();
                started += 1;
            } else {
                model.lanes.close(id, Closed::Limit(id.0));
            }
        }
        if started == open.len() && seen.len() == 300 {
            return;
        }
        assert!(model.lanes.len() <= 30);
        model.lanes.tidy();
    }
    panic!("{started} of {} started, {} of 300 had a turn", open.len(), seen.len());
}

#[test]
fn what_the_feed_brings_of_lanes_that_are_not_held_is_found_later() {
    let mut model = Model::new(20, 10);
    model.read();
    let held: Vec<LaneId> = model.stored.keys().copied().filter(|id| model.lanes.known.contains_key(id)).collect();
    assert_eq!(held.len(), 10);
    let (away, (def, _)) = model.stored.iter().find(|(id, _)| !held.contains(id)).unwrap();
    let (away, another) = (*away, task(def, 4, 99));
    model.stored.get_mut(&away).unwrap().1.insert(another.head.score(), another.clone());
    model.lanes.offer(another);
    assert!(model.lanes.take_unknown(9).is_empty());
    let mut started = 0;
    for _ in 0..100 {
        model.read();
        started += model.start_all();
        model.lanes.tidy();
    }
    assert_eq!(started, 21);
}

#[test]
fn keys_that_were_used_once_leave_nothing_behind() {
    let mut lanes = lanes(100);
    for round in 0..20u64 {
        for (n, def) in (0u64..).zip(defs(3_000)) {
            let def = LaneDef { queue: round.to_string(), ..def };
            lanes.offer(task(&def, 4, round * 10_000 + n + 1));
            let asked = lanes.take_unknown(10);
            assert_eq!(asked, [def.id()]);
            lanes.learned(lanes.life(), vec![(def.id(), Some(def))]);
            assert!(lanes.take_hungry(1).is_empty(), "nothing else can be in it");
            let id = next(&lanes).unwrap();
            lanes.take(id).unwrap();
            if n % 3 == 0 {
                lanes.close(id, Closed::Limit(n));
            }
        }
        lanes.tidy();
    }
    assert_eq!(lanes.len(), 0);
    assert!(lanes.known.capacity() < 10_000, "{}", lanes.known.capacity());
    assert!(lanes.limits.is_empty() && lanes.ready.is_empty() && lanes.hold.strangers.is_empty());
}
