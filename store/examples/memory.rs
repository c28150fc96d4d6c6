//! What a task costs in memory (Redis) or on disk (embedded): bytes beyond its body, by state, and for what may come with it.
//!
//! `cargo run --release -p lovage-store --example memory -- redis|embedded [TASKS [BODY_BYTES]]` prints a table. Redis is a
//! server of its own on a free loopback port. A figure is the growth of `used_memory`, or of the pages in use, for one
//! task; the feeds in Redis, whose size is bounded by `[redis] feed_bytes` whatever is stored, are emptied before each
//! reading.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use lovage_core::{Flags, Head, IdRun, LaneDef, Millis, Ns, Partition, Reason, Route, SessionId, Slot, State, TaskKey};
use lovage_store::moving::Inside;
use lovage_store::{
    Claim, Claimed, Commit, Committed, Durability, EmbeddedOptions, EmbeddedStore, Insert, Inserted, KeyKind, KeyPut, Mode,
    OnExists, OwnRequest, RedisOptions, RedisStore, Store, Sync, Want,
};
use lovage_testkit::{Fsync, Redis};

const SESSION: SessionId = SessionId(1);
const PARTITIONS: u16 = 16;
const BATCH: usize = 100;
const RESULT: usize = 40;
const ATTEMPT: usize = 120;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap_or_else(|| "redis".into());
    let mut args = args.map(|arg| arg.parse::<usize>().expect("a number"));
    let (tasks, body) = (args.next().unwrap_or(100_000), args.next().unwrap_or(640));
    let server =
        (kind == "redis").then(|| Redis::start_with(lovage_testkit::redis::RedisOptions::default().fsync(Fsync::NoFile)));
    println!("{kind}: {tasks} tasks, bodies of {body} bytes; bytes per task beyond its body");
    let bench = Bench::open(server.as_ref(), tasks, body).await;
    bench.row("queued", true, |_, _| {}).await;
    let bench = Bench::open(server.as_ref(), tasks, body).await;
    bench.row("queued, with a unique key of 16 bytes", false, |item, n| item.keys.push(key(KeyKind::Unique, n))).await;
    let bench = Bench::open(server.as_ref(), tasks, body).await;
    let keyed = |item: &mut Insert, n| item.keys.push(key(KeyKind::Idempotency, n));
    bench.row("queued, with an Idempotency-Key of 16 bytes", false, keyed).await;
    let bench = Bench::open(server.as_ref(), tasks, body).await;
    bench.row("queued, expires", false, |item, _| item.head.expires = Millis(u64::MAX >> 20)).await;
    let bench = Bench::open(server.as_ref(), tasks, body).await;
    bench.row("scheduled", false, |item, _| item.head.state = State::Scheduled).await;
}

fn key(kind: KeyKind, n: u64) -> KeyPut {
    let until = (kind == KeyKind::Idempotency).then_some(Millis(1 << 44));
    KeyPut { kind, key: format!("key-{n:012}").into(), value: vec![b'v'; 32].into(), until, steal: None }
}

struct Bench<'a> {
    server: Option<&'a Redis>,
    _folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    inside: Arc<dyn Inside>,
    tasks: usize,
    body: usize,
}

impl<'a> Bench<'a> {
    async fn open(server: Option<&'a Redis>, tasks: usize, body: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, inside): (Arc<dyn Store>, Arc<dyn Inside>) = if let Some(server) = server {
            server.command(&["FLUSHALL"]).unwrap();
            let store =
                RedisStore::open(RedisOptions { partitions: PARTITIONS, ..RedisOptions::new(server.url()) }).await.unwrap();
            (store.clone(), store)
        } else {
            let options = EmbeddedOptions { durability: Durability::Relaxed, ..EmbeddedOptions::new(folder.path()) };
            let store = EmbeddedStore::open(options).unwrap();
            (store.clone(), store)
        };
        Self { server, _folder: folder, store, inside, tasks, body }
    }

    /// Bytes in use, without the feeds.
    async fn used(&self) -> f64 {
        for p in 0..PARTITIONS {
            if let Some(server) = self.server {
                server.command(&["XTRIM", &format!("lv{{p{p:02}}}f"), "MAXLEN", "0"]).unwrap();
            }
        }
        self.inside.footprint().await.unwrap().bytes as f64
    }

    fn partitions(&self) -> u16 {
        self.store.caps().partitions
    }

    async fn print(&self, name: &str, before: f64) {
        println!("{:>8.0}  {name}", (self.used().await - before) / self.tasks as f64 - self.body as f64);
    }

    /// Inserts tasks as `change` makes them; without changes they also live on.
    async fn row(&self, name: &str, lives: bool, change: impl Fn(&mut Insert, u64)) {
        let before = self.used().await;
        let mut batches = Vec::new();
        for n in 0..(self.tasks / BATCH) as u64 {
            let p = Partition((n % u64::from(self.partitions())) as u16);
            let mut items = new_tasks(self.store.clock().now(), Slot::in_partition(p, self.partitions(), 0), n, self.body);
            for (i, item) in items.iter_mut().enumerate() {
                change(item, n * BATCH as u64 + i as u64);
            }
            let answers = self.store.insert(p, items.clone(), Mode::Each).await.unwrap();
            for (item, answer) in items.iter_mut().zip(answers) {
                let Inserted::Ok { seq } = answer else { panic!("{answer:?}") };
                item.head.seq = seq;
            }
            batches.push((p, items.into_iter().map(|item| (item.key, item.head)).collect::<Vec<_>>()));
        }
        self.print(name, before).await;
        if lives {
            self.life(before, batches).await;
        }
    }

    /// The same tasks: running, then half of them succeeded and half failed after two attempts.
    async fn life(&self, before: f64, mut batches: Vec<(Partition, Vec<(TaskKey, Head)>)>) {
        let request = OwnRequest { session: SESSION, want: Want::Own, lease: Duration::from_secs(3_600), drop: Vec::new() };
        for (p, tasks) in &mut batches {
            let token = self.store.own(*p, request.clone()).await.unwrap().token.unwrap();
            let items: Vec<_> = tasks.iter().map(|(key, head)| claim(key, head)).collect();
            let answers = self.store.claim(*p, &token, SESSION, items.clone()).await.unwrap();
            assert!(answers.iter().all(|answer| matches!(answer, Claimed::Ok(_))));
            *tasks = items.into_iter().map(|item| (item.key, item.head)).collect();
        }
        self.print("running", before).await;
        self.commit(&mut batches, |key, head, now| ending(key, head, now, State::Succeeded)).await;
        self.print("succeeded, with a result of 40 bytes (beyond body and result)", before + (RESULT * self.tasks) as f64).await;
        for n in 1..=2 {
            self.commit(&mut batches, |key, head, now| Commit {
                attempt: Some(vec![b'a'; ATTEMPT].into()),
                ..ending(key, head, now, State::Failed)
            })
            .await;
            let parts = ((RESULT + n * ATTEMPT) * self.tasks) as f64;
            self.print(
                &format!("failed, with an error of 40 bytes and {n} attempt entries of 120 (beyond all of them)"),
                before + parts,
            )
            .await;
        }
        self.commit(&mut batches, |key, head, _| change(key, head, None)).await;
        let per_task = (self.used().await - before) / self.tasks as f64;
        println!("{per_task:>8.1}  deleted: what is left");
    }

    async fn commit(&self, batches: &mut [(Partition, Vec<(TaskKey, Head)>)], make: impl Fn(&TaskKey, &Head, Millis) -> Commit) {
        for (p, tasks) in batches {
            let now = self.store.clock().now();
            let items: Vec<_> = tasks.iter().map(|(key, head)| make(key, head, now)).collect();
            let answers = self.store.commit(*p, SESSION, items.clone(), Mode::Each, Sync::Ordered).await.unwrap();
            assert!(answers.iter().all(|answer| *answer == Committed::Ok), "{answers:?}");
            *tasks = items.into_iter().filter_map(|item| Some((item.key, item.head?))).collect();
        }
    }
}

fn new_tasks(now: Millis, slot: Slot, n: u64, body: usize) -> Vec<Insert> {
    let lane = Arc::new(LaneDef::of(Ns::DEFAULT, "default", Route::Task("demo.add".into())));
    let ids = IdRun::new(now, slot, n << 20);
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
    (0..BATCH as u32).map(task).collect()
}

fn claim(key: &TaskKey, was: &Head) -> Claim {
    let mut head = was.clone();
    head.version += 1;
    (head.state, head.reason, head.attempt, head.session) = (State::Running, Reason::Dispatched, 1, SESSION);
    Claim { key: key.clone(), was: was.clone(), head, queue: "default".into() }
}

fn ending(key: &TaskKey, was: &Head, now: Millis, state: State) -> Commit {
    let mut head = was.clone();
    head.version += 1;
    (head.state, head.reason, head.ended) = (state, Reason::None, now);
    head.due = now.after(Duration::from_secs(86_400));
    let mut item = change(key, was, Some(head));
    item.result = Some(Some(vec![b'r'; RESULT].into()));
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
