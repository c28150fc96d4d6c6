//! Counts of the last ten seconds, cheap enough for every start: one look at the time and one addition.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ahash::AHashMap;
use lovage_core::board::{LATELY, QueueBoard};
use lovage_core::{Millis, Ns};
use parking_lot::RwLock;

/// A count by seconds. Threads that meet at the turn of a second may lose one or two.
#[derive(Debug, Default)]
pub struct Recent {
    /// The latest second that something was counted in.
    second: AtomicU64,
    counts: [AtomicU32; LATELY as usize],
}

impl Recent {
    /// One more.
    pub fn add(&self, now: Millis) {
        let second = now.0 / 1_000;
        self.turn(second);
        self.at(second).fetch_add(1, Ordering::Relaxed);
    }

    /// One less: it did not happen after all.
    pub fn take_back(&self, now: Millis) {
        let less = |count: u32| count.checked_sub(1);
        let _ = self.at(now.0 / 1_000).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// How many in the last ten seconds, this one included.
    pub fn sum(&self, now: Millis) -> u64 {
        self.turn(now.0 / 1_000);
        self.counts.iter().map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
    }

    /// How many a second in the last one or two, or over all ten if that was more: what came at once counts for a while.
    pub fn rate(&self, now: Millis) -> f64 {
        let (second, part) = (now.0 / 1_000, (now.0 % 1_000) as f64 / 1e3);
        let average = self.sum(now) as f64 / LATELY as f64;
        let of = |second| f64::from(self.at(second).load(Ordering::Relaxed));
        average.max(of(second) + of(second.wrapping_sub(1)) * (1.0 - part))
    }

    fn at(&self, second: u64) -> &AtomicU32 {
        &self.counts[(second % LATELY) as usize]
    }

    /// Empties what was counted longer ago.
    fn turn(&self, second: u64) {
        let was = self.second.load(Ordering::Relaxed);
        if was >= second || self.second.compare_exchange(was, second, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        for old in (was + 1).max(second.saturating_sub(LATELY - 1))..=second {
            self.at(old).store(0, Ordering::Relaxed);
        }
    }
}

/// Attempts that started and ended, by queue.
#[derive(Debug, Default)]
pub struct Queues {
    known: RwLock<AHashMap<Ns, AHashMap<Arc<str>, Arc<[Recent; 2]>>>>,
}

impl Queues {
    /// An attempt of a task of this queue started.
    pub fn started(&self, ns: Ns, queue: &Arc<str>, now: Millis) {
        self.of(ns, queue)[0].add(now);
    }

    /// … or ended.
    pub fn ended(&self, ns: Ns, queue: &Arc<str>, now: Millis) {
        self.of(ns, queue)[1].add(now);
    }

    fn of(&self, ns: Ns, queue: &Arc<str>) -> Arc<[Recent; 2]> {
        if let Some(counts) = self.known.read().get(&ns).and_then(|queues| queues.get(queue)) {
            return Arc::clone(counts);
        }
        Arc::clone(self.known.write().entry(ns).or_default().entry(Arc::clone(queue)).or_default())
    }

    /// What was counted lately, the busiest first; queues in which nothing happened are forgotten.
    pub fn board(&self, now: Millis) -> Vec<QueueBoard> {
        let mut rows = Vec::new();
        self.known.write().retain(|ns, queues| {
            queues.retain(|name, counts| {
                let [started, ended] = [&counts[0], &counts[1]].map(|count| count.sum(now));
                if started + ended > 0 {
                    rows.push(QueueBoard { ns: *ns, name: name.to_string(), started, ended });
                }
                started + ended > 0
            });
            !queues.is_empty()
        });
        rows.sort_by(|a, b| (b.started + b.ended).cmp(&(a.started + a.ended)).then_with(|| a.name.cmp(&b.name)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_ten_seconds_is_not_counted() {
        let recent = Recent::default();
        let at = |ms: u64| Millis(1_800_000_000_000 + ms);
        assert_eq!((recent.sum(at(0)), recent.rate(at(0))), (0, 0.0));
        for _ in 0..100 {
            recent.add(at(900));
        }
        assert_eq!((recent.rate(at(950)), recent.rate(at(1_500)), recent.rate(at(3_000))), (100.0, 50.0, 10.0));
        recent.add(at(10_999));
        recent.add(at(10_999));
        recent.take_back(at(10_999));
        assert_eq!((recent.sum(at(10_999)), recent.sum(at(19_000)), recent.sum(at(21_000))), (1, 1, 0));
    }

    #[test]
    fn queues_are_shown_while_something_happens() {
        let (queues, now) = (Queues::default(), Millis(1_800_000_000_000));
        let (busy, calm): (Arc<str>, Arc<str>) = ("busy".into(), "calm".into());
        queues.started(Ns::DEFAULT, &calm, now);
        for _ in 0..3 {
            queues.started(Ns::DEFAULT, &busy, now);
        }
        queues.ended(Ns::DEFAULT, &busy, Millis(now.0 + 5_000));
        let seen = |at| queues.board(at).iter().map(|row| (row.name.clone(), row.started, row.ended)).collect::<Vec<_>>();
        assert_eq!(seen(Millis(now.0 + 5_000)), [("busy".into(), 3, 1), ("calm".into(), 1, 0)]);
        assert_eq!(seen(Millis(now.0 + 12_000)), [("busy".into(), 0, 1)]);
        assert!(seen(Millis(now.0 + 60_000)).is_empty() && queues.known.read().is_empty());
    }
}
