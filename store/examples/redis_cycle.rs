//! What the life of a task costs Redis: CPU per task for insert, claim, settle and deletion at several batch sizes.
//!
//! `cargo run -p lovage-store --example redis_cycle [-- TASKS [BODY_BYTES]]` starts a server of its own with
//! `appendfsync everysec` on a free loopback port and prints a table. The figures are Redis's own (`used_cpu_user` and
//! `used_cpu_sys` of `INFO cpu`), so the profile of this program does not matter to them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage_core::{Flags, Head, IdRun, LaneDef, Millis, Ns, Partition, Reason, Route, SessionId, Slot, State, TaskKey};
use lovage_store::{
    Claim, Claimed, Commit, Committed, Insert, Inserted, Mode, OnExists, OwnRequest, OwnToken, RedisOptions, RedisStore, Store,
    Sync, Want,
};
use lovage_testkit::{Fsync, Redis};

const SESSION: SessionId = SessionId(1);
const P: Partition = Partition(0);

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let (tasks, body) = (args.next().unwrap_or(20_000), args.next().unwrap_or(640));
    let server = Redis::start_with(lovage_testkit::redis::RedisOptions::default().fsync(Fsync::EverySecond));
    println!("{tasks} tasks a row, bodies of {body} bytes, results of 40; Redis CPU in µs per task");
    println!("{:>6} {:>8} {:>8} {:>8} {:>8} | {:>8} {:>10}", "batch", "insert", "claim", "settle", "delete", "life", "lives/s");
    for (round, batch) in [1, 6, 20, 100, 200].into_iter().enumerate() {
        let options = RedisOptions { prefix: format!("c{round}"), partitions: 1, ..RedisOptions::new(server.url()) };
        let store = RedisStore::open(options).await.unwrap();
        let request = OwnRequest { session: SESSION, want: Want::Own, lease: Duration::from_secs(3_600), drop: Vec::new() };
        let token = store.own(P, request).await.unwrap().token.unwrap();
        let calls = if batch == 1 { tasks / 4 } else { tasks / batch };
        Row::measure(&server, &store, &token, calls, batch, body).await.print(batch);
    }
    println!("\nper call, all rows (INFO commandstats):");
    for line in server.command(&["INFO", "commandstats"]).unwrap().lines() {
        let calls = line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u64>().ok());
        if calls.is_some_and(|calls| calls > 500) {
            println!("  {}", line.trim_start_matches("cmdstat_"));
        }
    }
}

struct Row {
    steps: [f64; 4],
    rate: f64,
}

impl Row {
    async fn measure(server: &Redis, store: &Arc<RedisStore>, token: &OwnToken, calls: usize, batch: usize, body: usize) -> Self {
        let tasks = (calls * batch) as f64;
        let mut meter = Meter { server, cpu: cpu(server), tasks };
        let start = Instant::now();
        let mut batches = Vec::with_capacity(calls);
        for n in 0..calls {
            let mut items = new_tasks(store.clock().now(), n as u64, batch, body);
            let answers = store.insert(P, items.clone(), Mode::Each).await.unwrap();
            for (item, answer) in items.iter_mut().zip(answers) {
                let Inserted::Ok { seq } = answer else { panic!("{answer:?}") };
                item.head.seq = seq;
            }
            batches.push(items.into_iter().map(|item| (item.key, item.head)).collect::<Vec<_>>());
        }
        let insert = meter.lap();
        for tasks in &mut batches {
            let items: Vec<_> = tasks.iter().map(|(key, head)| claim(key, head)).collect();
            let answers = store.claim(P, token, SESSION, items.clone()).await.unwrap();
            assert!(answers.iter().all(|answer| matches!(answer, Claimed::Ok(_))));
            *tasks = items.into_iter().map(|item| (item.key, item.head)).collect();
        }
        let claim = meter.lap();
        for tasks in &mut batches {
            let now = store.clock().now();
            let items: Vec<_> = tasks.iter().map(|(key, head)| ending(key, head, now)).collect();
            commit(store, &items).await;
            *tasks = items.into_iter().filter_map(|item| Some((item.key, item.head?))).collect();
        }
        let settle = meter.lap();
        let rate = tasks / start.elapsed().as_secs_f64();
        for tasks in &batches {
            let items: Vec<_> = tasks.iter().map(|(key, head)| change(key, head, None)).collect();
            commit(store, &items).await;
        }
        Self { steps: [insert, claim, settle, meter.lap()], rate }
    }

    fn print(&self, batch: usize) {
        let [insert, claim, settle, delete] = self.steps;
        let life = insert + claim + settle;
        println!("{batch:>6} {insert:>8.1} {claim:>8.1} {settle:>8.1} {delete:>8.1} | {life:>8.1} {:>10.0}", self.rate);
    }
}

fn new_tasks(now: Millis, n: u64, count: usize, body: usize) -> Vec<Insert> {
    let lane = Arc::new(LaneDef::of(Ns::DEFAULT, "default", Route::Task("demo.add".into())));
    let ids = IdRun::new(now, Slot::new(7), n << 20);
    let task = |i| Insert {
        key: TaskKey::new(Ns::DEFAULT, ids.nth(i)),
        head: Head {
            version: 1,
            state: State::Queued,
            reason: Reason::None,
            priority: 5,
            flags: Flags(0),
            attempt: 0,
            budget: 0,
            lost: 0,
            generation: 0,
            session: SessionId(0),
            lane: lane.id(),
            worker: 0,
            seq: 0,
            created: now,
            due: now,
            expires: Millis(0),
            deadline: Millis(0),
            started: Millis(0),
            first_started: Millis(0),
            ended: Millis(0),
        },
        body: vec![b'b'; body].into(),
        lane: lane.clone(),
        exists: OnExists::Generated,
        not_after: None,
        keys: Vec::new(),
        root: None,
    };
    (0..count as u32).map(task).collect()
}

fn claim(key: &TaskKey, was: &Head) -> Claim {
    let mut head = was.clone();
    head.version += 1;
    (head.state, head.reason, head.attempt, head.session) = (State::Running, Reason::Dispatched, 1, SESSION);
    Claim { key: key.clone(), was: was.clone(), head, queue: "default".into() }
}

fn ending(key: &TaskKey, was: &Head, now: Millis) -> Commit {
    let mut head = was.clone();
    head.version += 1;
    (head.state, head.reason, head.ended) = (State::Succeeded, Reason::None, now);
    head.due = now.after(Duration::from_secs(86_400));
    let mut item = change(key, was, Some(head));
    item.result = Some(Some(vec![b'r'; 40].into()));
    item
}

fn change(key: &TaskKey, was: &Head, head: Option<Head>) -> Commit {
    Commit {
        key: key.clone(),
        was: was.clone(),
        head,
        queue: "default".into(),
        lane: None,
        body: None,
        result: None,
        attempt: None,
        effects: Vec::new(),
    }
}

async fn commit(store: &RedisStore, items: &[Commit]) {
    let answers = store.commit(P, SESSION, items.to_vec(), Mode::Each, Sync::Durable).await.unwrap();
    assert!(answers.iter().all(|answer| *answer == Committed::Ok));
}

struct Meter<'a> {
    server: &'a Redis,
    cpu: f64,
    tasks: f64,
}

impl Meter<'_> {
    /// CPU of Redis per task since the last lap, in µs.
    fn lap(&mut self) -> f64 {
        let now = cpu(self.server);
        let used = now - std::mem::replace(&mut self.cpu, now);
        used * 1e6 / self.tasks
    }
}

/// Seconds of CPU that Redis has used.
fn cpu(server: &Redis) -> f64 {
    let info = server.command(&["INFO", "cpu"]).unwrap();
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap();
    field("used_cpu_user:") + field("used_cpu_sys:")
}
