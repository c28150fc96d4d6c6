//! A store that is away, hangs, is full or cannot sync: 503 and never an acknowledgement in vain, and recovery without help.

use std::time::{Duration, Instant};

use lovage_tests::clock::now_ns;
use lovage_tests::power::Disk;
use lovage_tests::{Lovage, Redis, RedisOptions, Reply, Setup, Worker, wait_until};

use super::load::Load;
use super::power;

const TASK: &str = "away.work";

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

async fn start(setup: Setup) -> (Lovage, Worker) {
    let worker = Worker::start();
    worker.on(TASK, Reply::status(204).after(Duration::from_millis(5)));
    let lovage = setup.start().await;
    lovage.client().register_worker("away", &worker.url(), &["away.*"]).await;
    (lovage, worker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_and_restarted() {
    let mut redis = Redis::start();
    let (lovage, worker) = start(Lovage::dev().redis(&redis)).await;
    let mut load = Load::start(lovage.client(), TASK);
    for _ in 0..super::size(3, 10) {
        load.flows(200).await;
        redis.kill9();
        load.is_refused(20).await;
        redis.restart();
        load.recovers(TASK).await;
    }
    load.end().await;
    assert!(worker.overlaps().is_empty());
    // Whoever asked was refused; the log tells of the outage, not of each of them.
    let said = lovage.stderr();
    assert!(said.contains("the store fails"), "{said}");
    assert!(said.lines().count() < 10 + 10 * super::size(3, 10), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_away_for_longer_than_the_lease() {
    let mut redis = Redis::start();
    let setup = Lovage::dev().redis(&redis).option("--set", "dispatcher.lease=2s");
    let setup = setup.option("--set", "dispatcher.close_after=1500ms").option("--set", "dispatcher.renew_every=300ms");
    let (lovage, worker) = start(setup).await;
    let mut load = Load::start(lovage.client(), TASK);
    load.flows(200).await;
    redis.kill9();
    let away = Instant::now();
    load.is_refused(20).await;
    wait_until("the end of the lease", Duration::from_secs(10), || away.elapsed() > Duration::from_secs(3));
    redis.restart();
    load.recovers(TASK).await;
    load.end().await;
    assert!(worker.overlaps().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_halted() {
    let redis = Redis::start();
    let (lovage, worker) = start(Lovage::dev().redis(&redis)).await;
    let mut load = Load::start(lovage.client(), TASK);
    load.flows(200).await;
    redis.pause();
    load.is_refused(3).await;
    redis.resume();
    load.recovers(TASK).await;
    load.end().await;
    assert!(worker.overlaps().is_empty());
}

/// After a restart Redis answers to everything that it is loading its files, for as long as that takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_loading() {
    let mut redis = Redis::start();
    let (mut lovage, worker) = start(Lovage::dev().redis(&redis)).await;
    let mut load = Load::start(lovage.client(), TASK);
    load.flows(2_000).await;
    // Some seconds of loading; in between, once in 1024 commands, Redis answers.
    redis.command(&["EVAL", "for i = 1, 25000 do redis.call('SET', 'junk' .. i, i) end", "0"]).unwrap();
    let slow = RedisOptions::default().with("key-load-delay", "10");
    redis.kill9();
    load.is_refused(20).await;
    redis.restart_unready_with(slow.clone());
    wait_until("Redis loads", PATIENCE, || redis.command(&["DBSIZE"]).is_err_and(|error| error.to_string().contains("LOADING")));
    load.is_refused(5).await;
    redis.wait_ready();
    load.recovers(TASK).await;
    load.end().await;
    assert!(worker.overlaps().is_empty());

    // A server that starts meanwhile waits for it; one whose Redis is away says so and ends.
    lovage.kill9();
    redis.kill9();
    let refused = Lovage::dev().redis(&redis).run_to_end().await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("cannot use Redis"), "{said}");
    redis.restart_unready_with(slow);
    wait_until("Redis loads", PATIENCE, || redis.command(&["DBSIZE"]).is_err_and(|error| error.to_string().contains("LOADING")));
    lovage.restart().await;
    assert!(lovage.stderr().contains("is there and not ready"), "{}", lovage.stderr());
    let id = lovage.client().submit(&serde_json::json!({"task": TASK})).await;
    lovage.client().wait_final(&id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_full() {
    disk_fails(Disk::set_full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_failing() {
    disk_fails(Disk::set_sync_failing).await;
}

/// What was acknowledged around the fault is there, and a power cut does not take it either.
async fn disk_fails(set: impl Fn(&Disk, bool)) {
    let disk = Disk::new();
    let (mut lovage, worker) = start(Lovage::dev().on_disk(&disk).option("--set", "embedded.wal_bytes=512KiB")).await;
    let mut load = Load::start(lovage.client(), TASK);
    let mut faults = Vec::new();
    for _ in 0..2 {
        load.flows(200).await;
        let start = now_ns();
        set(&disk, true);
        load.is_refused(20).await;
        set(&disk, false);
        load.recovers(TASK).await;
        faults.push((start, now_ns()));
    }
    load.flows(200).await;
    load.end().await;
    assert!(worker.overlaps().is_empty());
    assert!(lovage.stop().await.success());
    disk.assert_complete();
    let history = disk.history();
    // Most cuts strike while the fault lasts or right after it.
    let count = super::size(12, 200);
    let mut cuts = history.cuts(1, count);
    for (number, (from_ns, to_ns)) in faults.into_iter().enumerate() {
        cuts.extend(history.cuts_between(from_ns, to_ns, number as u64, 2 * count));
    }
    for (cut, image) in history.images(&cuts) {
        let folder = image.restore();
        let kept =
            power::kept_in(folder.path()).await.unwrap_or_else(|error| panic!("{cut:?}: the store does not open: {error}"));
        let broken = load.journal().broken(cut.at_ns, &kept);
        assert!(broken.is_empty(), "{cut:?} breaks {} promises: {broken:#?}", broken.len());
    }
}
