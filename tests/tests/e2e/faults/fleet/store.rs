//! Redis dies or loses its power under several processes: what any gateway has acknowledged is there.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use lovage_tests::power::{Disk, Loss};
use lovage_tests::{Client, Fleet, Fsync, Redis, RedisCluster, RedisOptions, Reply, Worker};

use super::super::load::Load;
use super::super::seen::{Facts, Journal};
use super::super::size;

const TASK: &str = "store.work";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_a_fleet() {
    let mut redis = Redis::start();
    let fleet = Fleet::of(2, 2).start(&redis).await;
    let worker = Worker::start();
    worker.on(TASK, Reply::status(204).after(Duration::from_millis(5)));
    fleet.client().register_worker("store", &worker.url(), &["store.*"]).await;
    let mut loads: Vec<Load> = fleet.clients().iter().map(|client| Load::start(client, TASK)).collect();
    for _ in 0..size(2, 10) {
        for load in &loads {
            load.flows(200).await;
        }
        redis.kill9();
        for load in &loads {
            load.is_refused(20).await;
        }
        redis.restart();
        for load in &loads {
            load.recovers(TASK).await;
        }
    }
    end(&mut loads).await;
    assert!(worker.overlaps().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_redis_loses_nothing_acknowledged() {
    let broken = power_cuts(Fsync::Always, size(4, 20)).await;
    assert!(broken.is_empty(), "{} promises are broken: {broken:#?}", broken.len());
}

/// The control: were nothing missed here, the test above would prove nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_a_redis_that_syncs_every_second_is_found_out() {
    let broken = power_cuts(Fsync::EverySecond, 4).await;
    println!("{} promises are broken, as was to be expected", broken.len());
    assert!(!broken.is_empty());
}

/// Three masters share the partitions: what was stored on any of them goes on when a dispatcher dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_on_a_cluster_survives_a_dispatcher() {
    let cluster = RedisCluster::start(3, 0);
    let mut fleet = Fleet::of(2, 2).short_leases().start_at(&cluster.url()).await;
    super::all_have_shares(&fleet).await;
    let worker = Worker::start();
    worker.on(TASK, Reply::status(204).after(Duration::from_millis(50)));
    fleet.client().register_worker("store", &worker.url(), &["store.*"]).await;
    let mut loads: Vec<Load> = fleet.clients().iter().map(|client| Load::start(client, TASK)).collect();
    for load in &loads {
        load.flows(200).await;
    }
    fleet.dispatchers[0].kill9();
    for load in &loads {
        load.flows(200).await;
    }
    end(&mut loads).await;
    assert!(worker.overlaps().is_empty());
}

/// Lets all clients end before any of them looks.
async fn end(loads: &mut [Load]) {
    for load in &mut *loads {
        load.stop().await;
    }
    for load in loads {
        load.end().await;
    }
}

/// Lets a fleet work on a Redis whose writes are recorded, and asks after power cuts at several instants for all that was shown
/// until then. Returns what is missing.
async fn power_cuts(fsync: Fsync, cuts: usize) -> Vec<String> {
    let disk = disk_of_redis(fsync);
    let worker = Worker::start();
    worker.on(TASK, Reply::status(204).after(Duration::from_millis(5)));
    let mut redis = Redis::start_with(recorded(fsync, &disk));
    let fleet = Fleet::of(2, 2).short_leases().start(&redis).await;
    fleet.client().register_worker("store", &worker.url(), &["store.*"]).await;
    let mut loads: Vec<Load> = fleet.clients().iter().map(|client| Load::start(client, TASK)).collect();
    for load in &loads {
        load.flows(300).await;
    }
    end(&mut loads).await;
    drop(fleet);
    redis.stop();
    disk.assert_complete();

    let history = disk.history();
    let mut missing = Vec::new();
    // A file that is torn in its middle Redis does not open by itself; it wants `redis-check-aof --fix`.
    let clean: Vec<_> =
        history.cuts(1, 2 * cuts).into_iter().filter(|cut| matches!(cut.loss, Loss::Whole | Loss::Prefix)).collect();
    for (cut, image) in history.images(&clean) {
        let folder = image.restore();
        let redis = Redis::start_with(in_folder(fsync, folder.path()));
        let fleet = Fleet::of(1, 0).start(&redis).await;
        for load in &loads {
            let kept = kept(fleet.client(), load.journal()).await;
            missing.extend(load.journal().broken(cut.at_ns, &kept).into_iter().map(|broken| format!("{cut:?}: {broken}")));
        }
    }
    println!("{} writes and syncs, {cuts} cuts, {} promises broken", history.len(), missing.len());
    missing
}

/// A disk on which Redis has already begun its files: it makes the first of them by means that the recorder does not see.
fn disk_of_redis(fsync: Fsync) -> Disk {
    let disk = Disk::new();
    Redis::start_with(in_folder(fsync, disk.folder())).stop();
    disk.reconcile();
    Disk::with(&disk.history().current())
}

fn in_folder(fsync: Fsync, folder: &Path) -> RedisOptions {
    let options = RedisOptions::default().fsync(fsync).with("dir", folder.to_str().expect("the folder's path is text"));
    options.with("auto-aof-rewrite-percentage", "0")
}

fn recorded(fsync: Fsync, disk: &Disk) -> RedisOptions {
    let text = |word: std::ffi::OsString| word.into_string().expect("the environment is text");
    disk.environment()
        .into_iter()
        .fold(in_folder(fsync, disk.folder()), |options, (name, value)| options.env(&text(name), &text(value)))
}

/// What is stored of all tasks that were seen.
async fn kept(client: &Client, journal: &Journal) -> HashMap<String, Facts> {
    let found = stream::iter(journal.ids()).map(async |id| {
        let answer = client.get(&format!("/v1/tasks/{id}")).await;
        assert!(matches!(answer.status, 200 | 404), "{answer:?}");
        (answer.status == 200).then(|| (id, Facts::of(&answer.json)))
    });
    found.buffer_unordered(16).filter_map(async |found| found).collect().await
}
