//! Flow control as a whole: random tasks under random limits over one to three dispatchers that come, leave and die, while rules
//! change and keys are paused. What the workers saw has to agree with every rule at every instant, and nobody waits for nothing.

mod check;
mod world;

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The user's own keys, then the queue `q`, then the task type `t`.
const KEYS: usize = 5;
const OWN: usize = 3;
const QUEUE: usize = 3;
const TYPE: usize = 4;

/// No scenario takes longer.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rule {
    /// Starts a second.
    rate: Option<u32>,
    burst: u32,
    concurrency: Option<u32>,
}

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug)]
enum Push {
    /// Succeeds after so many milliseconds.
    Takes(u64),
    Retry,
    TimesOut,
    /// Is accepted and reports its success after so many milliseconds.
    Accepted(u64),
}

#[derive(Clone, Debug)]
struct Job {
    /// Milliseconds after the one before.
    gap: u64,
    delay: u64,
    /// What it costs of each of the user's keys; 0: it does not have the key.
    costs: [u32; OWN],
    in_queue: bool,
    of_type: bool,
    priority: u8,
    order: Option<u8>,
    fair: u8,
    /// Its attempts; further ones are like the last.
    pushes: Vec<Push>,
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Joins,
    Leaves(usize),
    Crashes(usize),
    /// The rule of a key, if it is stored.
    Rule(usize, Rule),
    /// A key that is stored, for so many milliseconds.
    Pause(usize, u64),
    Cancel(usize),
}

#[derive(Clone, Debug)]
struct Scenario {
    rules: [Rule; KEYS],
    /// The first own key is ruled by its tasks, not by a document.
    said: bool,
    dispatchers: usize,
    /// Keys of limits that are held in memory.
    room: Option<usize>,
    jobs: Vec<Job>,
    /// Each after a job.
    happenings: Vec<(usize, Happening)>,
}

impl Job {
    /// What it costs of this key, if it has it.
    fn cost(&self, key: usize) -> Option<u32> {
        match key {
            QUEUE => self.in_queue.then_some(1),
            TYPE => self.of_type.then_some(1),
            own => Some(self.costs[own]).filter(|cost| *cost > 0),
        }
    }

    fn push(&self, attempt: u32) -> Push {
        self.pushes[(attempt as usize - 1).min(self.pushes.len() - 1)]
    }
}

impl Scenario {
    /// What a job says that it costs of this key, if it has it: what the first rule allows at most.
    fn cost(&self, job: usize, key: usize) -> Option<u32> {
        Some(self.jobs[job].cost(key)?.min(self.rules[key].burst))
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    (prop::option::of(1u32..30), 1u32..6, prop::option::of(1u32..5)).prop_map(|(rate, burst, concurrency)| Rule {
        rate,
        burst,
        concurrency,
    })
}

fn job() -> impl Strategy<Value = Job> {
    let ends = prop_oneof![4 => (0u64..300).prop_map(Push::Takes), 1 => (50u64..2_000).prop_map(Push::Accepted)];
    let fails = prop_oneof![2 => Just(Push::Retry), 1 => Just(Push::TimesOut)];
    let pushes = (prop::collection::vec(fails, 0..3), ends).prop_map(|(mut pushes, end)| {
        pushes.push(end);
        pushes
    });
    let cost = || prop_oneof![Just(0u32), 0u32..4];
    let gap = prop_oneof![3 => Just(0u64), 2 => 0u64..100, 1 => 0u64..3_000];
    let when = (gap, prop_oneof![3 => Just(0u64), 1 => 0u64..2_000]);
    let how = (any::<bool>(), any::<bool>(), 0u8..10, prop::option::weighted(0.3, 0u8..3), 0u8..3);
    (when, [cost(), cost(), cost()], how, pushes).prop_map(|((gap, delay), costs, how, pushes)| {
        let (in_queue, of_type, priority, order, fair) = how;
        Job { gap, delay, costs, in_queue, of_type, priority, order, fair, pushes }
    })
}

fn happening(jobs: usize) -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => Just(Happening::Joins),
        2 => (0usize..3).prop_map(Happening::Leaves),
        3 => (0usize..3).prop_map(Happening::Crashes),
        2 => (0..KEYS, rule()).prop_map(|(key, rule)| Happening::Rule(key, rule)),
        2 => (0..KEYS, 0u64..4_000).prop_map(|(key, time)| Happening::Pause(key, time)),
        2 => (0..jobs).prop_map(Happening::Cancel),
    ]
}

prop_compose! {
    fn scenario()(jobs in prop::collection::vec(job(), 1..50))(
        rules in [rule(), rule(), rule(), rule(), rule()],
        said in any::<bool>(),
        dispatchers in 1usize..4,
        room in prop::option::weighted(0.2, 5usize..9),
        happenings in prop::collection::vec((0..jobs.len(), happening(jobs.len())), 0..5),
        jobs in Just(jobs),
    ) -> Scenario {
        Scenario { rules, said, dispatchers, room, jobs, happenings }
    }
}

/// Runs it in paused time.
fn run(scenario: &Scenario) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let seen = runtime.block_on(async { tokio::time::timeout(LONGEST, world::run(scenario)).await }).expect("all tasks end");
    check::limits(scenario, &seen);
    check::order(scenario, &seen);
    check::progress(scenario, &seen);
}

/// No key runs more than it allows at once, or starts more than `rate × (window + 25 ms) + burst` in any window, but for what one
/// start of each dispatcher costs; tasks of an order key run one at a time in order of acceptance; every task ends, and none waits while all of its
/// keys have something for it.
#[test]
fn every_limit_is_kept_and_nobody_waits_for_nothing() {
    // The same scenarios each time, unless more are asked for.
    let asked: Option<u32> = std::env::var("LOVAGE_SIMULATIONS").ok().and_then(|n| n.parse().ok());
    let base = Config { failure_persistence: None, max_shrink_iters: 3_000, max_shrink_time: 60_000, ..Config::default() };
    let mut runner = if let Some(cases) = asked {
        TestRunner::new(Config { cases, ..base })
    } else {
        TestRunner::new_with_rng(Config { cases: 40, ..base }, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
    };
    runner
        .run(&scenario(), |scenario| {
            run(&scenario);
            Ok(())
        })
        .unwrap();
}
