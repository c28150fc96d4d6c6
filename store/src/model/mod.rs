//! The model test: random sequences of calls on a store and on the memory store in lock step.
//!
//! A sequence is decided by its seed. Every answer is compared; at the end heads, parts, indexes, counts and feeds are,
//! and the store is audited against itself. Only what the contract leaves open may differ: the numbers behind `seq`
//! and document versions, the text of tokens, and the order of equals.
//!
//! | variable | meaning |
//! |---|---|
//! | `LOVAGE_MODEL_SEQUENCES` | how many sequences |
//! | `LOVAGE_MODEL_SEED` | the seed of the first, the others follow; default 0 |
//! | `LOVAGE_MODEL_JOBS` | how many at a time; default 4 |

mod compare;
mod effects;
mod generate;
mod pair;
mod reads;
mod writes;

use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;

use crate::conformance::Fixture;
use pair::Pair;

/// Calls of a sequence.
pub const STEPS: usize = 50;
/// Seeds of sequences that once failed.
const KNOWN: &str = include_str!("seeds.txt");
/// How many failures are shown in full.
const SHOWN: usize = 5;

/// Runs the known seeds and then as many sequences as the environment says, `default` if it does not. Each gets the
/// store of a fixture of its own. Panics with the failing seeds.
pub async fn check<F, M>(name: &str, make: M, default: u64)
where
    F: Fixture + 'static,
    M: Fn() -> F,
{
    let sequences = number("LOVAGE_MODEL_SEQUENCES").unwrap_or(default);
    let first = number("LOVAGE_MODEL_SEED").unwrap_or(0);
    let jobs = number("LOVAGE_MODEL_JOBS").unwrap_or(4).max(1) as usize;
    let known: Vec<u64> = KNOWN.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let total = known.len() as u64 + sequences;
    let seeds = known.into_iter().chain(first..first + sequences);

    let started = Instant::now();
    let mut shown = started;
    let mut done = 0u64;
    let mut failures = Vec::new();
    let run = |seed: u64| {
        let running = tokio::spawn(sequence(Arc::new(make()), seed, STEPS));
        async move { (seed, running.await.unwrap_or_else(|panic| Err(panic.to_string()))) }
    };
    let mut results = stream::iter(seeds).map(run).buffer_unordered(jobs);
    while let Some((seed, result)) = results.next().await {
        done += 1;
        if let Err(difference) = result {
            eprintln!("model test on {name}, seed {seed}: {difference}");
            failures.push(seed);
        }
        if shown.elapsed() > Duration::from_secs(5) || done == total {
            shown = Instant::now();
            let rate = done as f64 / started.elapsed().as_secs_f64();
            eprintln!(
                "model test on {name}: {done} of {total} sequences of {STEPS} calls, {rate:.0} a second, {} failed",
                failures.len()
            );
        }
        if failures.len() >= SHOWN {
            break;
        }
    }
    assert!(failures.is_empty(), "the model test failed on {name} with the seeds {failures:?}; keep them in seeds.txt");
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Runs one sequence; `Err` names the call and what differs.
pub async fn sequence(fixture: Arc<dyn Fixture>, seed: u64, steps: usize) -> Result<(), String> {
    let mut pair = Pair::new(fixture, seed).await?;
    for step in 0..steps {
        pair.step().await.map_err(|difference| format!("in step {step}: {difference}"))?;
    }
    pair.finish().await.map_err(|difference| format!("at the end: {difference}"))
}

/// A memory store with a random past.
#[cfg(test)]
pub(crate) async fn past(fixture: Arc<dyn Fixture>, seed: u64, steps: usize) -> crate::MemoryStore {
    let mut pair = Pair::new(fixture, seed).await.unwrap();
    for _ in 0..steps {
        pair.step().await.unwrap();
    }
    pair.model
}
