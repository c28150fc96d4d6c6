//! The embedded store passes the conformance suite and agrees with the model, and answers a failing disk as promised.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lovage_core::{Millis, Partition, State};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::queue::{Op, Work};
use super::{EmbeddedOptions, EmbeddedStore, schema};
use crate::conformance::Fixture;
use crate::conformance::kit::{Kit, LONG, SESSION, ended, eventually, lane};
use crate::{Committed, Error, FeedBatch, Mode, Store, Sync};

struct Embedded {
    dir: tempfile::TempDir,
    time: Arc<AtomicU64>,
    store: Mutex<Option<Arc<EmbeddedStore>>>,
}

impl Embedded {
    fn new() -> Self {
        let time = Arc::new(AtomicU64::new(1_767_225_600_000));
        Self { dir: tempfile::tempdir().unwrap(), time, store: Mutex::default() }
    }

    fn options(&self) -> EmbeddedOptions {
        let time = self.time.clone();
        let clock: super::ReadClock = Arc::new(move || Millis(time.load(Ordering::Relaxed)));
        EmbeddedOptions { min_free: 0, clock: clock.clone(), lease_clock: clock, ..EmbeddedOptions::new(self.dir.path()) }
    }

    fn open(&self) -> Arc<EmbeddedStore> {
        let store = EmbeddedStore::open(self.options()).unwrap();
        *self.store.lock() = Some(store.clone());
        store
    }
}

#[async_trait]
impl Fixture for Embedded {
    async fn fresh(&self) -> Arc<dyn Store> {
        self.open()
    }

    async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        drop(store);
        // The last reference: dropping it ends the threads and frees the directory.
        drop(self.store.lock().take());
        self.open()
    }

    fn advance(&self, by: Duration) -> bool {
        self.time.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
        true
    }

    async fn forget_feed(&self, _: &Arc<dyn Store>, _: Partition) {
        self.store.lock().as_ref().unwrap().forget_feed();
    }
}

crate::conformance_suite!(Embedded::new());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agrees_with_the_model() {
    crate::model::check("embedded", Embedded::new, 100).await;
}

impl Embedded {
    /// Does something to the writer's connection, between two rounds.
    async fn meddle(&self, how: fn(&Connection)) {
        let (reply, done) = oneshot::channel();
        let store = self.store.lock().clone().unwrap();
        store.shared.queue.put(Op { work: Work::Break { how, reply }, _room: None });
        done.await.unwrap().unwrap();
    }
}

/// Waits until an insert is taken again: the writer has to reopen the database by itself.
async fn works_again(kit: &Kit<'_>) {
    eventually("inserts are taken again", async || kit.store.insert(kit.p, vec![kit.task()], Mode::Each).await.is_ok()).await;
    kit.store.ping().await.unwrap();
}

async fn stored(kit: &Kit<'_>) -> u64 {
    kit.store.counts(kit.p).await.unwrap().iter().flat_map(|row| row.states).sum()
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let fixture = Embedded::new();
    let kit = Kit::new(&fixture).await;
    let task = kit.put(kit.task()).await;
    fixture.meddle(|conn| conn.execute_batch("PRAGMA max_page_count = 1").unwrap()).await;
    let mut large = kit.task();
    large.body = vec![1; 1 << 20].into();
    let answer = kit.store.insert(kit.p, vec![kit.task(), large], Mode::Each).await;
    assert!(matches!(answer, Err(Error::Full(_))), "{answer:?}");
    works_again(&kit).await;
    assert_eq!(stored(&kit).await, 2, "nothing of the refused call was kept");
    assert_eq!(kit.head(&task.key).await, Some(task.head));
}

#[tokio::test]
async fn a_failed_commit_is_unknown_and_never_shown() {
    let fixture = Embedded::new();
    let kit = Kit::new(&fixture).await;
    let task = kit.put(kit.task()).await;
    let start = kit.store.tail(kit.p).await.unwrap();
    fixture.meddle(|conn| conn.commit_hook(Some(|| true)).unwrap()).await;
    let answer = kit.store.insert(kit.p, vec![kit.task()], Mode::Each).await;
    assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");
    let shown = kit.store.feed(kit.p, start, Duration::ZERO).await;
    assert!(!matches!(&shown, Ok(FeedBatch::Entries { entries, .. }) if !entries.is_empty()), "{shown:?}");
    works_again(&kit).await;
    // The database may hold it after all: whoever follows the feed has to look.
    let followed = kit.store.feed(kit.p, start, Duration::ZERO).await.unwrap();
    assert!(matches!(followed, FeedBatch::Behind { .. }), "{followed:?}");
    let second = kit.put(kit.task()).await;
    assert!(second.head.seq > task.head.seq);
    assert_eq!(stored(&kit).await, 3);
}

#[tokio::test]
async fn stays_unavailable_until_the_file_is_back() {
    let fixture = Embedded::new();
    let kit = Kit::new(&fixture).await;
    kit.put(kit.task()).await;
    let (here, away) = (fixture.dir.path().join("lovage.db"), fixture.dir.path().join("away.db"));
    // The log goes with its database.
    let files = ["", "-wal", "-shm"].map(|end| (format!("{}{end}", here.display()), format!("{}{end}", away.display())));
    for (from, to) in &files {
        std::fs::rename(from, to).unwrap();
    }
    fixture.meddle(|conn| conn.commit_hook(Some(|| true)).unwrap()).await;
    assert!(kit.store.insert(kit.p, vec![kit.task()], Mode::Each).await.is_err());
    for _ in 0..3 {
        let answer = kit.store.insert(kit.p, vec![kit.task()], Mode::Each).await;
        assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
        assert!(!here.exists(), "an empty database took the place of the lost one");
    }
    assert!(kit.store.ping().await.is_err());
    for (from, to) in files.iter().filter(|(_, to)| std::path::Path::new(to).exists()) {
        std::fs::rename(to, from).unwrap();
    }
    works_again(&kit).await;
    assert_eq!(stored(&kit).await, 2);
}

#[tokio::test]
async fn too_little_space_stops_inserts_alone() {
    let fixture = Embedded::new();
    let kit = Kit::new(&fixture).await;
    let task = kit.put(kit.task()).await;
    let Kit { store, .. } = kit;
    drop(store);
    drop(fixture.store.lock().take());
    let store = EmbeddedStore::open(EmbeddedOptions { min_free: u64::MAX, ..fixture.options() }).unwrap();
    let kit = Kit::over(&fixture, store);
    let answer = kit.store.insert(kit.p, vec![kit.task()], Mode::Each).await;
    assert!(matches!(answer, Err(Error::Full(_))), "{answer:?}");
    let token = kit.token().await;
    let task = kit.claimed(&token, &task).await;
    let done = task.commit(Some(ended(&task.head, State::Succeeded, kit.now(), LONG)));
    // A change that brings new tasks along needs room as they would alone.
    let child = crate::Effect::Spawn(Box::new(kit.task()));
    let spawning = crate::Commit { effects: vec![child], ..done.clone() };
    let answer = kit.store.commit(kit.p, SESSION, vec![spawning], Mode::Each, Sync::Durable).await;
    assert!(matches!(answer, Err(Error::Full(_))), "{answer:?}");
    let answers = kit.store.commit(kit.p, SESSION, vec![done], Mode::Each, Sync::Ordered).await.unwrap();
    assert_eq!(answers, [Committed::Ok]);
}

#[tokio::test]
async fn a_relaxed_store_passes_on_what_it_has() {
    let fixture = Embedded::new();
    let options = EmbeddedOptions { durability: super::Durability::Relaxed, ..fixture.options() };
    let store = EmbeddedStore::open(options.clone()).unwrap();
    let kit = Kit::over(&fixture, store);
    let task = kit.put(kit.task()).await;
    assert!(kit.store.caps().durability.contains("100 ms"));
    let reader = schema::connect_reader(fixture.dir.path()).unwrap();
    let syncs = || reader.query_row("SELECT value FROM meta WHERE name = 'sync'", [], |row| row.get::<_, i64>(0)).unwrap();
    eventually("the writer syncs by itself", async || syncs() == 1).await;
    let Kit { store, .. } = kit;
    drop(store);
    let kit = Kit::over(&fixture, EmbeddedStore::open(options).unwrap());
    assert_eq!(kit.head(&task.key).await, Some(task.head));
}

#[tokio::test]
async fn one_process_at_a_time_and_no_newer_format() {
    let fixture = Embedded::new();
    let first = fixture.open();
    assert!(matches!(EmbeddedStore::open(fixture.options()), Err(Error::Locked(_))));
    let session = first.session();
    first.close().await;
    assert!(matches!(first.ping().await, Err(Error::Unavailable(_))));
    let second = EmbeddedStore::open(fixture.options()).unwrap();
    assert!(second.session() > session && session.0 > 0);
    second.close().await;
    drop((first, second));
    fixture.store.lock().take();
    let raw = |sql: &str| Connection::open(fixture.dir.path().join("lovage.db")).unwrap().execute_batch(sql).unwrap();
    raw("PRAGMA user_version = 9");
    assert!(matches!(EmbeddedStore::open(fixture.options()), Err(Error::Format { found: 9, known: 1 })));
    raw("PRAGMA user_version = 1; PRAGMA application_id = 7");
    assert!(matches!(EmbeddedStore::open(fixture.options()), Err(Error::Corrupt(_))));
}

/// Head and key are checked together: a head of one task never changes another.
#[tokio::test]
async fn lanes_and_keys_are_tidied_away() {
    let fixture = Embedded::new();
    let kit = Kit::new(&fixture).await;
    let unique = crate::KeyPut {
        kind: crate::KeyKind::Idempotency,
        key: "k".into(),
        value: "v".into(),
        until: Some(kit.now().after(Duration::from_secs(1))),
        steal: None,
    };
    let task = kit.put(crate::Insert { keys: vec![unique], ..kit.task() }).await;
    assert_eq!(kit.commit(vec![task.commit(None)]).await, [Committed::Ok]);
    fixture.advance(Duration::from_secs(2));
    kit.token().await;
    let reader = schema::connect_reader(fixture.dir.path()).unwrap();
    let rows =
        || reader.query_row("SELECT (SELECT count(*) FROM lane) + (SELECT count(*) FROM key)", [], |row| row.get::<_, i64>(0));
    eventually("the lane and the key are removed", async || rows().unwrap() == 0).await;
    let again = kit.put(kit.task()).await;
    assert_eq!(crate::all_lanes(&*kit.store, kit.p).await.unwrap().len(), 1);
    assert!(again.head.seq > task.head.seq);
}

/// A file that was made before lanes could say all that they say now is read, and can keep such lanes from then on.
#[tokio::test]
async fn a_file_with_plain_lanes_is_read() {
    let fixture = Embedded::new();
    let kit = Kit::new(&fixture).await;
    kit.put(kit.task()).await;
    let plain = crate::all_lanes(&*kit.store, kit.p).await.unwrap();
    let Kit { store, .. } = kit;
    drop((store, fixture.store.lock().take()));
    let old = rusqlite::Connection::open(fixture.dir.path().join(schema::FILE)).unwrap();
    old.execute_batch(
        "DROP INDEX lane_live; DROP INDEX lane_empty; ALTER TABLE lane DROP COLUMN batch; ALTER TABLE lane DROP COLUMN more;",
    )
    .unwrap();
    drop(old);
    let kit = Kit::over(&fixture, fixture.open());
    assert_eq!(crate::all_lanes(&*kit.store, kit.p).await.unwrap(), plain);
    // The first id is taken.
    kit.task();
    let batch = lovage_core::Batching { key: "k".into(), max: 9, max_wait: lovage_core::units::Dur::from_millis(5) };
    let lane = std::sync::Arc::new(lovage_core::LaneDef { batch: Some(batch), fair_key: Some("f".into()), ..plain[0].1.clone() });
    kit.put(kit.task_in(lane.clone())).await;
    let Kit { store, .. } = kit;
    drop((store, fixture.store.lock().take()));
    let kit = Kit::over(&fixture, fixture.open());
    assert!(crate::all_lanes(&*kit.store, kit.p).await.unwrap().contains(&(lane.id(), (*lane).clone())));
}

/// The log starts anew while writes go on, instead of growing with everything that was ever written.
#[tokio::test]
async fn the_log_stays_bounded() {
    let fixture = Embedded::new();
    let options = EmbeddedOptions { wal_bytes: 1 << 20, ..fixture.options() };
    let store = EmbeddedStore::open(options).unwrap();
    let kit = Kit::over(&fixture, store);
    let log = fixture.dir.path().join("lovage.db-wal");
    let mut longest = 0;
    for _ in 0..64 {
        let mut task = kit.task();
        task.body = vec![1; 1 << 20].into();
        kit.put(task).await;
        longest = longest.max(std::fs::metadata(&log).unwrap().len());
    }
    assert!(longest < 32 << 20, "{longest} bytes after writing 64 MiB");
    let Kit { store, .. } = kit;
    drop(store);
    assert!(!log.exists(), "a clean end leaves no log");
}

/// More lanes than are kept in memory: each is counted as it is, listed while it has tasks to do, and gone with its records.
#[tokio::test]
async fn lanes_that_are_not_in_memory_are_counted() {
    let fixture = Embedded::new();
    let kit = Kit::new(&fixture).await;
    let lanes: Vec<_> = (0..6_000).map(|n| lane(lovage_core::Ns(0), "q", &format!("t{n}"))).collect();
    let mut tasks = Vec::new();
    for some in lanes.chunks(1_000) {
        tasks.extend(kit.put_all(some.iter().map(|lane| kit.task_in(lane.clone())).collect()).await);
    }
    kit.put_all(lanes[..500].iter().map(|lane| kit.task_in(lane.clone())).collect()).await;
    let counted = |what: &str| {
        let conn = Connection::open(fixture.dir.path().join(schema::FILE)).unwrap();
        conn.query_row(&format!("SELECT count(*) FROM lane WHERE {what}"), [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((counted("stored = 1 AND live = 1"), counted("stored = 2 AND live = 2")), (5_500, 500));
    let end =
        |task: &crate::conformance::kit::Task| task.commit(Some(ended(&task.head, State::Succeeded, kit.now(), Duration::ZERO)));
    for some in tasks.chunks(1_000) {
        kit.commit(some.iter().map(end).collect()).await;
    }
    assert_eq!((counted("live = 0"), counted("stored = 2 AND live = 1")), (5_500, 500));
    assert_eq!(crate::all_lanes(&*kit.store, kit.p).await.unwrap().len(), 500);
    for some in tasks.chunks(1_000) {
        let gone = |task: &crate::conformance::kit::Task| {
            let head = ended(&task.head, State::Succeeded, kit.now(), Duration::ZERO);
            crate::conformance::kit::Task { head, ..task.clone() }.commit(None)
        };
        kit.commit(some.iter().map(gone).collect()).await;
    }
    eventually("lanes without records are removed", async || {
        kit.own(SESSION, crate::Want::Own, LONG).await;
        counted("stored = 0") == 0
    })
    .await;
    assert_eq!((counted("true"), counted("stored = 1 AND live = 1")), (500, 500));
}
