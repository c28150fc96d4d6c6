//! Measures the life of a task in the embedded store: insert, claim, commit with a small result, in batches.
//!
//! `cargo run --release -p lovage-store --example cycle -- [directory] [tasks] [batch] [backlog]` prints a table with the rate and the
//! processor time per task, once on a short queue and once behind a backlog, and what one commit waits at most.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lovage_core::{
    Body, Flags, Head, IdRun, LaneDef, LaneId, Millis, Ns, Partition, Reason, ResultValue, Route, Score, SessionId, Slot, State,
    TaskKey,
};
use lovage_store::{
    Claim, Claimed, Commit, Committed, Cursor, EmbeddedOptions, EmbeddedStore, Index, Insert, Inserted, Mode, OnExists,
    OwnRequest, OwnToken, Store, Sync, Want,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

const P: Partition = Partition(0);
const PRODUCERS: usize = 2;
const IN_FLIGHT: usize = 3;

#[derive(Clone)]
struct Bench {
    store: Arc<EmbeddedStore>,
    lane: Arc<LaneDef>,
    lane_id: LaneId,
    token: OwnToken,
    body: Bytes,
    result: Bytes,
    batch: usize,
}

type Heads = Vec<(TaskKey, Head)>;

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(|| std::env::temp_dir().join("lovage-cycle"), PathBuf::from);
    let mut number = |default: usize| args.next().map_or(default, |text| text.parse().expect("a number"));
    let (tasks, batch, backlog) = (number(200_000), number(100), number(1_000_000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!(
        "{:<22} {:>9} {:>11} {:>12} {:>12} {:>10} {:>9}",
        "case", "tasks/s", "CPU µs/task", "insert p50", "insert max", "WAL MiB", "RSS MiB"
    );
    runtime.block_on(async {
        for (name, behind) in [("short queue", 0), ("behind a backlog", backlog)] {
            let _ = std::fs::remove_dir_all(&dir);
            let bench = Bench::open(&dir, batch).await;
            bench.fill(behind).await;
            bench.cycle(name, tasks, behind > 0, &dir).await;
            if behind > 0 {
                bench.reads().await;
            }
            bench.store.close().await;
            let began = Instant::now();
            let store = EmbeddedStore::open(EmbeddedOptions::new(&dir)).unwrap();
            store.counts(P).await.unwrap();
            println!("{:<22} {:?}", "  open again", began.elapsed());
            store.close().await;
        }
    });
    let _ = std::fs::remove_dir_all(&dir);
}

impl Bench {
    async fn open(dir: &Path, batch: usize) -> Self {
        let store = EmbeddedStore::open(EmbeddedOptions::new(dir)).unwrap();
        let lane = LaneDef::of(Ns::DEFAULT, "default", Route::Task("bench".into()));
        let request =
            OwnRequest { session: store.session(), want: Want::Own, lease: Duration::from_secs(3600), drop: Vec::new() };
        let token = store.own(P, request).await.unwrap().token.unwrap();
        Self {
            token,
            lane_id: lane.id(),
            lane: Arc::new(lane),
            body: Body::encode(&[7; 120], "", &[b'x'; 515]),
            result: ResultValue::Value { content_type: String::new(), bytes: Bytes::from_static(&[b'r'; 18]) }.encode(),
            batch,
            store,
        }
    }

    fn inserts(&self) -> (Heads, Vec<Insert>) {
        let now = self.store.clock().now();
        let run = IdRun::new(now, Slot::new(9), fastrand_like(now));
        let heads: Heads =
            (0..self.batch).map(|n| (TaskKey::new(Ns::DEFAULT, run.nth(n as u32)), first_head(self.lane_id, now))).collect();
        let items = heads.iter().map(|(key, head)| Insert {
            key: key.clone(),
            head: head.clone(),
            body: Bytes::copy_from_slice(&self.body),
            lane: self.lane.clone(),
            exists: OnExists::Generated,
            not_after: None,
            keys: Vec::new(),
            root: None,
        });
        let items = items.collect();
        (heads, items)
    }

    async fn insert(&self) -> Heads {
        let (mut heads, items) = self.inserts();
        let answers = self.store.insert(P, items, Mode::Each).await.unwrap();
        for ((_, head), answer) in heads.iter_mut().zip(answers) {
            let Inserted::Ok { seq } = answer else { panic!("{answer:?}") };
            head.seq = seq;
        }
        heads
    }

    async fn fill(&self, tasks: usize) {
        for _ in 0..tasks / self.batch {
            self.insert().await;
        }
    }

    async fn work(&self, heads: Heads) {
        let session = self.store.session();
        let now = self.store.clock().now();
        let queue: Arc<str> = "default".into();
        let running = |head: &Head| Head {
            version: head.version + 1,
            state: State::Running,
            reason: Reason::Dispatched,
            attempt: 1,
            session,
            started: now,
            first_started: now,
            ..head.clone()
        };
        let claims = heads.iter().map(|(key, head)| Claim {
            key: key.clone(),
            was: head.clone(),
            head: running(head),
            queue: queue.clone(),
        });
        let claims: Vec<_> = claims.collect();
        let commits: Vec<_> = claims
            .iter()
            .map(|claim| Commit {
                key: claim.key.clone(),
                was: claim.head.clone(),
                head: Some(Head {
                    version: claim.head.version + 1,
                    state: State::Succeeded,
                    reason: Reason::None,
                    session: SessionId(0),
                    flags: claim.head.flags.with(Flags::HAS_RESULT),
                    due: now.after(Duration::from_secs(86_400)),
                    ended: now,
                    ..claim.head.clone()
                }),
                queue: queue.clone(),
                lane: None,
                body: None,
                result: Some(Some(self.result.clone())),
                attempt: None,
                effects: Vec::new(),
            })
            .collect();
        let claimed = self.store.claim(P, &self.token, session, claims).await.unwrap();
        assert!(claimed.iter().all(|c| matches!(c, Claimed::Ok(body) if body.len() == self.body.len())));
        let done = self.store.commit(P, session, commits, Mode::Each, Sync::Ordered).await.unwrap();
        assert!(done.iter().all(|c| *c == Committed::Ok));
    }

    async fn cycle(&self, name: &str, tasks: usize, scan: bool, dir: &Path) {
        let (began, cpu) = (Instant::now(), processor_time());
        let (send, mut fresh) = mpsc::channel::<Heads>(8);
        let rounds = tasks / self.batch / PRODUCERS;
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|_| {
                let (bench, send) = (self.clone(), send.clone());
                tokio::spawn(async move {
                    let mut waits = Vec::with_capacity(rounds);
                    for _ in 0..rounds {
                        let began = Instant::now();
                        let heads = bench.insert().await;
                        waits.push(began.elapsed());
                        send.send(heads).await.unwrap();
                    }
                    waits
                })
            })
            .collect();
        drop(send);
        let mut working = tokio::task::JoinSet::new();
        let mut wal = 0;
        let mut after: Option<Score> = None;
        while let Some(mut heads) = fresh.recv().await {
            if scan {
                // The oldest of the lane go first, as its owner would read them.
                let index = Index::Lane { lane: self.lane_id, after };
                heads = self.store.scan(P, &index, Cursor::default(), self.batch).await.unwrap().items;
                after = heads.last().map(|(_, head)| head.score());
            }
            if working.len() >= IN_FLIGHT {
                working.join_next().await.unwrap().unwrap();
            }
            let bench = self.clone();
            working.spawn(async move { bench.work(heads).await });
            wal = wal.max(std::fs::metadata(dir.join("lovage.db-wal")).map_or(0, |m| m.len()));
        }
        while let Some(done) = working.join_next().await {
            done.unwrap();
        }
        let (took, cpu) = (began.elapsed(), processor_time().saturating_sub(cpu));
        let mut waits = Vec::new();
        for producer in producers {
            waits.extend(producer.await.unwrap());
        }
        waits.sort();
        println!(
            "{name:<22} {:>9.0} {:>11.1} {:>12.1?} {:>12.1?} {:>10.1} {:>9}",
            tasks as f64 / took.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / tasks as f64,
            waits[waits.len() / 2],
            waits[waits.len() - 1],
            wal as f64 / f64::from(1 << 20),
            resident_mib(),
        );
    }
}

impl Bench {
    /// How long reads of a few heads take on the caller's thread.
    async fn reads(&self) {
        let index = Index::Lane { lane: self.lane_id, after: None };
        let keys: Vec<_> =
            self.store.scan(P, &index, Cursor::default(), 1000).await.unwrap().items.into_iter().map(|i| i.0).collect();
        for count in [1, 16] {
            let began = Instant::now();
            for keys in keys.chunks_exact(count) {
                self.store.heads(P, keys).await.unwrap();
            }
            let calls = (keys.len() / count).max(1) as u32;
            println!("  {count} heads in one read {:?}", began.elapsed() / calls);
        }
    }
}

fn first_head(lane: LaneId, now: Millis) -> Head {
    Head {
        version: 1,
        state: State::Queued,
        reason: Reason::None,
        priority: 5,
        flags: Flags::default(),
        attempt: 0,
        budget: 0,
        lost: 0,
        generation: 0,
        session: SessionId(0),
        lane,
        worker: 0,
        seq: 0,
        created: now,
        due: now,
        expires: Millis(0),
        deadline: Millis(0),
        started: Millis(0),
        first_started: Millis(0),
        ended: Millis(0),
    }
}

/// A different number on every call is all that ids need here.
fn fastrand_like(now: Millis) -> u64 {
    static CALLS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    (now.0 << 32) | (CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) << 12)
}

/// User and system time of the whole process, the database's threads included.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}
