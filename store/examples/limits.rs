//! What limits cost: CPU of Redis for calls of one, three and two hundred keys, and the time of the stores of one process.
//!
//! `cargo run --release -p lovage-store --example limits [-- KEYS]` starts a Redis of its own on a free loopback port and prints
//! two tables. Figures of Redis are its own (`INFO cpu`), so the profile of this program matters only to the second.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage_core::units::{Period, Rate};
use lovage_core::{LimitRule, Millis, Ns, SessionId};
use lovage_store::{
    Hold, Holder, LimitRequest, MemoryClock, MemoryOptions, MemoryStore, RedisOptions, RedisStore, SlotWish, Store, TokenWish,
};
use lovage_testkit::{Fsync, Redis};

const SESSION: SessionId = SessionId(1);

/// What is asked of each key.
#[derive(Clone, Copy)]
enum Ask {
    /// Starts of a rate.
    Rate,
    /// What runs, and more of it.
    Concurrency,
    /// Both.
    Both,
}

impl Ask {
    const ALL: [(Self, &str); 3] = [(Self::Rate, "rate"), (Self::Concurrency, "concurrency"), (Self::Both, "both")];

    fn of(self, key: u64) -> LimitRequest {
        let (rate, most) = (Rate::new(1_000_000, Period::Second), Some(1_000));
        let rule = match self {
            Self::Rate => LimitRule { rate, ..LimitRule::default() },
            Self::Concurrency => LimitRule { concurrency: most, ..LimitRule::default() },
            Self::Both => LimitRule { rate, concurrency: most, ..LimitRule::default() },
        };
        let holder = Holder::Session(SESSION);
        let lease = Duration::from_secs(15);
        let tokens = TokenWish { least: 1, most: 20, ahead: Duration::from_millis(50) };
        LimitRequest {
            holds: if rule.concurrency.is_some() { vec![Hold { holder: holder.clone(), count: 5, lease }] } else { Vec::new() },
            slots: rule.concurrency.map(|_| SlotWish { holder, most: 20, lease, wait: Some(SESSION) }),
            tokens: rule.rate.map(|_| tokens),
            ..LimitRequest::look(Ns(0), format!("tenant-{key}"), rule)
        }
    }
}

#[tokio::main]
async fn main() {
    let keys: u64 = std::env::args().nth(1).map_or(60_000, |keys| keys.parse().expect("a number"));
    let server = Redis::start_with(lovage_testkit::redis::RedisOptions::default().fsync(Fsync::Never));
    let store = RedisStore::open(RedisOptions { partitions: 1, ..RedisOptions::new(server.url()) }).await.unwrap();
    println!("redis: CPU in µs per call, and per key; ms until the answer, one call after the other");
    for (ask, name) in Ask::ALL {
        for width in [1, 3, 200] {
            let calls = (keys / width).min(20_000);
            let (cpu, start) = (used(&server), Instant::now());
            for call in 0..calls {
                let requests = (0..width).map(|n| ask.of((call * width + n) % 1_000)).collect();
                assert!(store.limit(requests).await.unwrap().iter().all(Result::is_ok));
            }
            let per_call = (used(&server) - cpu) * 1e6 / calls as f64;
            let ms = start.elapsed().as_secs_f64() * 1e3 / calls as f64;
            println!("{name:>12} {width:>4} keys: {per_call:>8.1} {:>6.1} {ms:>8.3}", per_call / width as f64);
        }
    }

    println!("\nwithin one process: ns per key in calls of three, while so many keys are in use");
    let started = Instant::now();
    let clock = MemoryClock::following(move || Millis(1_767_225_600_000 + started.elapsed().as_millis() as u64));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(MemoryOptions::new(clock)));
    for (ask, name) in Ask::ALL {
        for of in [3, 100_000] {
            let calls = 200_000;
            let requests: Vec<Vec<_>> = (0..calls).map(|call| (0..3).map(|n| ask.of((call * 3 + n) % of)).collect()).collect();
            let start = Instant::now();
            for request in requests {
                store.limit(request).await.unwrap();
            }
            println!("{name:>12} {of:>7} keys: {:>6.0}", start.elapsed().as_secs_f64() * 1e9 / (calls * 3) as f64);
        }
    }
}

/// Seconds of CPU that Redis has used.
fn used(server: &Redis) -> f64 {
    let info = server.command(&["INFO", "cpu"]).unwrap();
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap();
    field("used_cpu_user:") + field("used_cpu_sys:")
}
