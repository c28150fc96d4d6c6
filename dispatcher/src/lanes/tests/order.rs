//! Tasks that keep their order, against a model of the store with a feed that lags behind.

use std::collections::VecDeque;

use lovage_core::{Flags, State};

use super::*;

/// The lane of an order key in a queue.
fn ordered(queue: &str, key: &str) -> LaneDef {
    LaneDef { order_key: Some(key.into()), ..LaneDef::of(Ns(0), queue, Route::Mixed) }
}

/// Tells what the tasks that are asked for have to pass.
fn tell(lanes: &mut Lanes) {
    let unread = lanes.take_unread(200);
    let found = unread.into_iter().map(|task| (task, Some(LaneDef::of(Ns(0), "q", Route::Task("t".into()))))).collect();
    lanes.told(lanes.life(), found);
}

fn next_told(lanes: &mut Lanes) -> Option<LaneId> {
    tell(lanes);
    next(lanes)
}

fn with_state(mut task: Waiting, state: State) -> Waiting {
    (task.head.state, task.head.version) = (state, task.head.version + 1);
    task
}

#[test]
fn whatever_is_first_and_does_not_wait_for_its_start_keeps_the_others() {
    let def = ordered("q", "k");
    let id = def.id();
    let mut lanes = lanes(10);
    lanes.add(def.clone(), false);
    for seq in [2, 1, 3] {
        lanes.offer(task(&def, 9 - seq as u8, seq));
    }
    let turn = {
        tell(&mut lanes);
        lanes.next().unwrap()
    };
    assert_eq!(turn.gates.route, Route::Task("t".into()));
    assert_eq!(lanes.take(id).unwrap().head.seq, 1, "whatever the priority");
    assert_eq!(next_told(&mut lanes), None, "its claim is on its way");
    for state in [State::Running, State::Retrying, State::Scheduled, State::Blocked] {
        lanes.offer(with_state(task(&def, 8, 1), state));
        assert_eq!(next_told(&mut lanes), None, "{state}");
    }
    let mut held = with_state(task(&def, 8, 1), State::Queued);
    held.head.flags = held.head.flags.with(Flags::HELD);
    lanes.offer(held);
    assert_eq!(next_told(&mut lanes), None, "held");
    lanes.show(&task(&def, 8, 1).key, &with_state(task(&def, 8, 1), State::Failed).head);
    assert_eq!(next_told(&mut lanes), Some(id));
    assert_eq!(lanes.take(id).unwrap().head.seq, 2);
    // One that is tried again by hand goes before those that wait, not before the one that runs.
    let mut again = task(&def, 8, 1);
    again.head.version = 9;
    lanes.offer(again);
    assert_eq!(next_told(&mut lanes), None);
    lanes.show(&task(&def, 8, 2).key, &with_state(task(&def, 8, 2), State::Succeeded).head);
    next_told(&mut lanes);
    assert_eq!(lanes.take(id).unwrap().head.seq, 1);
}

#[test]
fn a_fifo_lane_asks_of_each_task_what_it_has_to_pass() {
    let def = LaneDef { order: LaneOrder::Fifo, ..LaneDef::of(Ns(0), "q", Route::Mixed) };
    let id = def.id();
    let mut lanes = lanes(10);
    lanes.add(def.clone(), false);
    for seq in [1, 2, 3] {
        lanes.offer(task(&def, seq as u8, seq));
    }
    assert_eq!(next(&lanes), None, "nothing is known yet");
    let unread = lanes.take_unread(200);
    assert_eq!((unread.len(), lanes.take_unread(200).len()), (3, 0));
    let gates = |at: usize| LaneDef::of(Ns(0), "q", Route::Task(if at == 1 { "slow" } else { "t" }.into()));
    lanes.told(lanes.life(), unread.into_iter().enumerate().map(|(at, task)| (task, Some(gates(at)))).collect());
    assert_eq!(lanes.take(id).unwrap().head.seq, 1, "several may run at once, in their order");
    assert_eq!(lanes.next().unwrap().gates.route, Route::Task("slow".into()));
    lanes.close(id, Closed::Busy(5));
    assert_eq!(next(&lanes), None, "the rest waits behind it");
    lanes.show(&task(&def, 2, 2).key, &with_state(task(&def, 2, 2), State::Canceled).head);
    assert_eq!(lanes.next().unwrap().gates.route, Route::Task("t".into()), "the next one has to pass something else");
    assert!(lanes.busy_gates().is_empty());
}

#[test]
fn what_could_not_be_read_is_asked_for_again() {
    let def = ordered("q", "k");
    let mut lanes = lanes(10);
    lanes.add(def.clone(), false);
    lanes.offer(task(&def, 4, 1));
    let unread = lanes.take_unread(200);
    lanes.told(lanes.life(), unread.into_iter().map(|task| (task, None)).collect());
    assert_eq!(next(&lanes), None);
    assert_eq!(next_told(&mut lanes), Some(def.id()));
}

#[test]
fn no_order_starts_before_all_lanes_are_known() {
    let def = ordered("q", "k");
    let mut lanes = Lanes::new(Bounds { window: 10, lanes: 100 }, Duration::ZERO);
    lanes.begin(FeedPos::default());
    lanes.take_page().unwrap();
    lanes.add(def.clone(), false);
    lanes.offer(task(&def, 4, 2));
    assert_eq!(next_told(&mut lanes), None);
    lanes.paged(0, Some((vec![ordered("other", "k")], None)));
    assert_eq!(next_told(&mut lanes), None, "what the other one holds is not known");
    let (id, after) = lanes.take_hungry(1)[0];
    assert_eq!((id, after), (ordered("other", "k").id(), None));
    lanes.loaded(0, id, Some((vec![task(&ordered("other", "k"), 4, 1)], false)));
    assert_eq!(next_told(&mut lanes), Some(id));
}

/// The store: tasks of three keys in two queues, and what the feed has not told yet.
struct Model {
    lanes: Lanes,
    defs: Vec<LaneDef>,
    tasks: BTreeMap<u64, (usize, Waiting)>,
    feed: VecDeque<Waiting>,
    /// Rows that the feed has told.
    told: u64,
    reading: Option<(LaneId, FeedPos, Vec<Waiting>)>,
    /// Were tried again by hand after they had failed, and the feed has not told yet.
    unseen: Vec<(u64, u64)>,
}

const KEYS: usize = 3;

impl Model {
    fn change(&mut self, seq: u64, change: impl FnOnce(&mut Head)) {
        let (_, task) = self.tasks.get_mut(&seq).unwrap();
        task.head.version += 1;
        change(&mut task.head);
        self.feed.push_back(task.clone());
    }

    fn any(&self, rng: &mut fastrand::Rng, which: impl Fn(&Head) -> bool) -> Option<u64> {
        let found: Vec<u64> = self.tasks.iter().filter(|(_, (_, task))| which(&task.head)).map(|(seq, _)| *seq).collect();
        (!found.is_empty()).then(|| found[rng.usize(..found.len())])
    }

    fn step(&mut self, rng: &mut fastrand::Rng) {
        match rng.u8(0..20) {
            0..=3 => {
                let (seq, def) = (self.tasks.len() as u64 + 1, rng.usize(..self.defs.len()));
                let task = task(&self.defs[def], rng.u8(0..10), seq);
                self.tasks.insert(seq, (def % KEYS, task.clone()));
                self.feed.push_back(task);
            }
            4..=9 => {
                for _ in 0..rng.usize(1..4) {
                    let Some(row) = self.feed.pop_front() else { break };
                    self.tell(&row);
                }
            }
            10 => self.read(),
            11 => self.answer(),
            12 => self.learn(),
            13 => {
                if let Some(seq) = self.any(rng, |head| head.state == State::Running) {
                    let states = [State::Succeeded, State::Failed, State::Retrying, State::Queued, State::Blocked];
                    let next = states[rng.usize(..states.len())];
                    self.change(seq, |head| head.state = next);
                }
            }
            14 => {
                if let Some(seq) = self.any(rng, |head| matches!(head.state, State::Retrying | State::Blocked)) {
                    self.change(seq, |head| head.state = State::Queued);
                }
            }
            15 if rng.bool() => {
                if let Some(seq) = self.any(rng, |head| head.state.is_waiting()) {
                    self.change(seq, |head| head.state = State::Canceled);
                }
            }
            15 => {
                if let Some(seq) = self.any(rng, |head| head.state == State::Failed) {
                    self.change(seq, |head| head.state = State::Queued);
                    self.unseen.push((seq, self.tasks[&seq].1.head.version));
                }
            }
            16 => {
                // To another queue.
                if let Some(seq) = self.any(rng, |head| head.state.is_waiting()) {
                    let key = self.tasks[&seq].0;
                    let def = self.defs[key + KEYS * rng.usize(0..2)].id();
                    self.change(seq, |head| head.lane = def);
                }
            }
            17 if rng.u8(0..20) == 0 => {
                // Read anew: the feed from now on, then everything.
                self.lanes.clear();
                self.told += self.feed.len() as u64;
                self.feed.clear();
                self.lanes.begin(Self::at(self.told));
                self.reading = None;
                self.unseen.clear();
                self.lanes.take_page().unwrap();
                self.lanes.paged(self.lanes.life(), Some((self.defs.clone(), None)));
            }
            17 => {
                self.lanes.tidy();
                self.lanes.forget_empty(0);
            }
            _ => self.start(),
        }
    }

    fn at(row: u64) -> FeedPos {
        FeedPos { high: 1, low: row }
    }

    fn tell(&mut self, row: &Waiting) {
        self.told += 1;
        self.unseen.retain(|unseen| *unseen != (row.head.seq, row.head.version));
        self.lanes.show(&row.key, &row.head);
        self.lanes.follow(Self::at(self.told));
    }

    fn read(&mut self) {
        let Some((id, after)) = self.reading.is_none().then(|| self.lanes.take_hungry(1).pop()).flatten() else { return };
        let here = |task: &&Waiting| {
            placement(&task.head).lane.is_some_and(|(lane, score)| lane == id && after.is_none_or(|after| score > after))
        };
        let tail = Self::at(self.told + self.feed.len() as u64);
        self.reading = Some((id, tail, self.tasks.values().map(|(_, task)| task).filter(here).cloned().collect()));
    }

    fn answer(&mut self) {
        let Some((id, tail, mut page)) = self.reading.take() else { return };
        self.lanes.ahead_of_feed(self.lanes.life(), id, tail);
        let more = page.len() > 3;
        page.truncate(3);
        self.lanes.loaded(self.lanes.life(), id, Some((page, more)));
    }

    fn learn(&mut self) {
        let asked = self.lanes.take_unknown(10);
        let found = asked.iter().map(|id| (*id, self.defs.iter().find(|def| def.id() == *id).cloned())).collect();
        self.lanes.learned(self.lanes.life(), found);
    }

    fn start(&mut self) {
        let Some(id) = next_told(&mut self.lanes) else { return };
        let taken = self.lanes.take(id).unwrap().head;
        let (key, stored) = &self.tasks[&taken.seq];
        if !stored.head.is_still(&taken) {
            // Refused; the feed tells why.
            return;
        }
        assert_eq!((stored.head.state, stored.head.lane), (State::Queued, id));
        let of_key = self.tasks.values().filter(|(other, _)| other == key).map(|(_, task)| &task.head);
        for other in of_key.filter(|head| !head.state.is_final() && head.seq != taken.seq) {
            assert_ne!(other.state, State::Running, "{} and {} run at once", other.seq, taken.seq);
            assert!(
                other.seq > taken.seq || self.unseen.iter().any(|(seq, _)| *seq == other.seq),
                "{} before {}",
                taken.seq,
                other.seq
            );
        }
        self.change(taken.seq, |head| head.state = State::Running);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// One at a time and in order of acceptance, whatever happens to the tasks and however late the view learns of it; and
    /// all of them end.
    #[test]
    fn first_in_first_out_for_each_key(seed: u64, window in 2usize..8) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let defs = ["q", "other"].iter().flat_map(|queue| (0..KEYS).map(|key| ordered(queue, &key.to_string()))).collect();
        let mut model = Model {
            lanes: lanes(window),
            defs,
            tasks: BTreeMap::new(),
            feed: VecDeque::new(),
            told: 0,
            reading: None,
            unseen: Vec::new(),
        };
        for _ in 0..600 {
            model.step(&mut rng);
        }
        // From now on all goes well.
        for _ in 0..3_000 {
            while let Some(row) = model.feed.pop_front() {
                model.tell(&row);
            }
            model.read();
            model.answer();
            model.learn();
            if let Some(seq) = model.any(&mut rng, |head| head.state == State::Running) {
                model.change(seq, |head| head.state = State::Succeeded);
            }
            if let Some(seq) = model.any(&mut rng, |head| matches!(head.state, State::Retrying | State::Blocked)) {
                model.change(seq, |head| head.state = State::Queued);
            }
            model.start();
        }
        let left: Vec<_> = model.tasks.values().filter(|(_, task)| !task.head.state.is_final()).map(|(_, task)| task.head.seq).collect();
        prop_assert!(left.is_empty(), "never started: {left:?}");
    }
}
