//! What has to be true of everything that was seen.

use std::time::Duration;

use super::world::{Pushed, Record};
use super::{KEYS, Push, Rule, Scenario};

/// How late a reserved start may be made.
const LATE: Duration = Duration::from_millis(25);
/// A document is in force everywhere after this.
const KNOWN: Duration = Duration::from_secs(1);
/// Nobody waits for longer without a reason: places in line of those who left are kept for two seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a crash everything may stand still for so long: leases have to end first.
const CRASH: Duration = Duration::from_secs(25);

/// The rules that some dispatcher may go by at a moment of this time.
fn rules(record: &Record, key: usize, from: Duration, to: Duration) -> impl Iterator<Item = Rule> {
    let all = &record.rules[key];
    let first = all.iter().rposition(|(since, _)| *since <= from.saturating_sub(KNOWN)).unwrap_or(0);
    all[first..].iter().filter(move |(since, _)| *since <= to).map(|(_, rule)| *rule)
}

fn starts<'a>(scenario: &'a Scenario, record: &'a Record, key: usize) -> Vec<(&'a Pushed, u32)> {
    record.pushes.iter().filter_map(|push| Some((push, scenario.cost(push.job, key)?))).collect()
}

pub(super) fn limits(scenario: &Scenario, record: &Record) {
    for key in 0..KEYS {
        let starts = starts(scenario, record, key);
        // What the first in line of a dispatcher lacks is kept for it however late it is.
        let dearest = starts.iter().map(|(_, cost)| *cost).max().unwrap_or(0);
        let kept = |rule: &Rule| dearest.min(rule.burst) * record.dispatchers as u32;
        for (at, (push, _)) in starts.iter().enumerate() {
            let allowed =
                rules(record, key, push.start, push.start).map(|rule| rule.concurrency.unwrap_or(u32::MAX)).max().unwrap();
            let open = 1 + starts[..at].iter().filter(|(before, _)| before.end > push.start).count();
            assert!(open <= allowed as usize, "key {key}: {open} run at {:?}, {allowed} may", push.start);
            let paused =
                record.pauses.iter().find(|(of, from, until)| *of == key && *from + KNOWN <= push.start && push.start < *until);
            // The pause itself is one of these.
            let since = |from: Duration| record.rules[key].iter().filter(|(at, _)| *at >= from && *at <= push.start).count();
            let resumed = paused.is_some_and(|(_, from, _)| since(*from) > 1);
            assert!(paused.is_none() || resumed, "key {key} is paused at {:?}", push.start);
            let mut count = 0;
            for (last, cost) in &starts[at..] {
                let mut in_force = rules(record, key, push.start, last.start);
                let Some(rule @ Rule { rate: Some(rate), burst, .. }) =
                    in_force.next().filter(|rule| in_force.all(|other| other == *rule))
                else {
                    break;
                };
                count += cost.min(&burst);
                let window = (last.start.saturating_sub(push.start) + LATE).as_secs_f64();
                let allowed = f64::from(rate) * window + f64::from(burst + kept(&rule));
                assert!(
                    f64::from(count) <= allowed + 1e-6,
                    "key {key}: {count} from {:?} to {:?}, {allowed} may",
                    push.start,
                    last.start
                );
            }
        }
    }
}

/// Tasks of an order key run one at a time, in order of acceptance.
pub(super) fn order(scenario: &Scenario, record: &Record) {
    for order in 0..3 {
        let of_it: Vec<usize> = (0..scenario.jobs.len()).filter(|job| scenario.jobs[*job].order == Some(order)).collect();
        let mut free = Duration::ZERO;
        for job in of_it {
            for push in record.pushes.iter().filter(|push| push.job == job) {
                assert!(free <= push.start, "job {job} starts at {:?}, before {free:?}", push.start);
                free = push.end;
            }
            free = free.max(record.ended[job]);
        }
    }
}

/// No task waits for long while nothing stands in its way.
pub(super) fn progress(scenario: &Scenario, record: &Record) {
    if scenario.room.is_some() {
        // Lanes wait for others to be forgotten.
        return;
    }
    let mut free = [Duration::ZERO; 3];
    for (number, job) in scenario.jobs.iter().enumerate() {
        let turn = job.order.map_or(Duration::ZERO, |order| free[usize::from(order)]);
        let mut ready = Some(record.submitted[number] + Duration::from_millis(job.delay));
        for push in record.pushes.iter().filter(|push| push.job == number) {
            if let Some(ready) = ready {
                waits(scenario, record, number, ready.max(turn), push.start);
            }
            let lost = record.crashes.contains(&push.end);
            let fails = matches!(job.push(push.attempt), Push::Retry | Push::TimesOut);
            ready = (fails && !lost).then_some(push.end + Duration::from_secs(1));
        }
        if let Some(order) = job.order {
            free[usize::from(order)] = turn.max(record.ended[number]);
        }
    }
}

/// From `from` to `to` a job could have been started as far as it is concerned: something else stood in its way, all the time.
fn waits(scenario: &Scenario, record: &Record, number: usize, from: Duration, to: Duration) {
    let job = &scenario.jobs[number];
    let mut reasons: Vec<(Duration, Duration)> = record.crashes.iter().map(|at| (*at, *at + CRASH)).collect();
    for key in (0..KEYS).filter(|key| job.cost(*key).is_some()) {
        let starts = starts(scenario, record, key);
        reasons.extend(record.pauses.iter().filter(|(of, ..)| *of == key).map(|(_, from, until)| (*from, *until)));
        reasons.extend(record.rules[key].iter().skip(1).map(|(at, _)| (*at, *at + KNOWN)));
        for rule in rules(record, key, from, to) {
            if let Some(rate) = rule.rate {
                let cost = job.cost(key).unwrap_or(1).min(rule.burst);
                let comes_back = Duration::from_secs_f64(f64::from(cost) / f64::from(rate));
                reasons.extend(starts.iter().map(|(push, _)| (push.start, push.start + comes_back)));
            }
            if let Some(most) = rule.concurrency {
                reasons.extend(full(&starts, most as usize));
            }
        }
    }
    reasons.sort_unstable();
    let mut known = from;
    for (begin, end) in reasons.into_iter().chain([(to, to)]) {
        let begin = begin.min(to);
        assert!(begin <= known + PATIENCE, "job {number} waits from {known:?} to {begin:?} for nothing");
        known = known.max(end);
    }
}

/// When so many run.
fn full(starts: &[(&Pushed, u32)], most: usize) -> Vec<(Duration, Duration)> {
    let mut edges: Vec<(Duration, isize)> = starts.iter().flat_map(|(push, _)| [(push.start, 1), (push.end, -1)]).collect();
    edges.sort_unstable();
    let (mut open, mut since, mut out) = (0isize, None, Vec::new());
    for (at, edge) in edges {
        open += edge;
        match since {
            None if open >= most as isize => since = Some(at),
            Some(from) if open < most as isize => {
                out.push((from, at));
                since = None;
            }
            _ => {}
        }
    }
    out
}
