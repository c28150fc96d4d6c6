//! Masters of a Redis cluster die under a fleet: what replicas have confirmed outlives them, and the rest goes on.

use std::collections::HashMap;
use std::time::Duration;

use lovage_tests::clock::now_ns;
use lovage_tests::{Call, ClusterOptions, Fleet, FleetSetup, Fsync, RedisCluster, RedisOptions, Reply, Worker, eventually};
use serde_json::Value;

use super::super::{is_full, size};
use super::PATIENCE;
use super::by_partition::{Load, partition_of};

const TASK: &str = "failover.work";

const PARTITIONS: u16 = 6;

/// Enough for a failover on a busy machine.
const FAILOVER: Duration = Duration::from_secs(40);

/// From the new master to the first acknowledgement in its partitions.
fn resume() -> Duration {
    // What is promised; a busy machine gets more.
    Duration::from_secs(if is_full() { 2 } else { 6 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_takes_no_confirmed_task_with_it() {
    let fsync = if is_full() { Fsync::Always } else { Fsync::Never };
    let mut cluster = cluster(2, fsync);
    let fleet = fleet(&cluster, Fleet::of(2, 2), 1).await;
    let worker = worker(&fleet).await;
    let load = Load::start(&fleet.clients(), TASK, PARTITIONS);
    let all: Vec<usize> = (0..usize::from(PARTITIONS)).collect();
    load.flows(&all, size(20, 200), PATIENCE).await;
    for round in 0..size(1, 6) {
        // In turn the master of the settings, that of the first partition, and so on.
        let key = if round == 0 { "lv{doc}meta".to_owned() } else { key_of(round - 1) };
        let victim = cluster.master_of(&key).unwrap();
        outage(&mut cluster, victim, &load, &worker).await;
        cluster.restart(victim);
        cluster.wait_ok(FAILOVER);
        load.flows(&all, size(20, 200), PATIENCE).await;
    }
    let (refused, missing, longest) = (load.refused(), load.missing(), load.longest());
    let acked = load.end().await;
    let records = super::super::all_final(fleet.client(), PATIENCE).await;
    let lost: Vec<&String> = acked.keys().filter(|id| !records.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} of {} tasks were acknowledged and are lost: {lost:?}", lost.len(), acked.len());
    assert_eq!(missing, 0, "tasks were acknowledged and unknown right after");
    let repeated = check_calls(&worker, &records, false);
    let overlaps = worker.overlaps();
    assert!(overlaps.is_empty(), "{} pairs of live attempts, such as {:?}", overlaps.len(), overlaps[0]);
    println!(
        "{} tasks acknowledged, none lost, {refused} requests refused, {repeated} calls repeated, longest answer {longest:?}",
        acked.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_loses_what_it_lacks_and_no_more() {
    let mut cluster = cluster(1, Fsync::Never);
    let fleet = fleet(&cluster, Fleet::of(2, 2), 0).await;
    let worker = worker(&fleet).await;
    let load = Load::start(&fleet.clients(), TASK, PARTITIONS);
    let all: Vec<usize> = (0..usize::from(PARTITIONS)).collect();
    load.flows(&all, 20, PATIENCE).await;
    let victim = cluster.master_of(&key_of(0)).unwrap();
    let lagging = partitions_of(&cluster, victim);
    let replica = cluster.replicas_of(victim)[0];
    let cut_ns = now_ns();
    cluster.cut_off(replica);
    load.flows(&lagging, 20, PATIENCE).await;
    outage(&mut cluster, victim, &load, &worker).await;
    let killed_ns = now_ns();
    load.flows(&all, 20, PATIENCE).await;
    let (refused, longest) = (load.refused(), load.longest());
    let acked = load.end().await;
    let records = super::super::all_final(fleet.client(), PATIENCE).await;
    let lost: Vec<_> = acked.values().filter(|ack| !records.contains_key(&ack.id)).collect();
    let lacking = |id: &str| lagging.contains(&partition_of(id, PARTITIONS));
    let since = acked.values().filter(|ack| lacking(&ack.id) && (cut_ns..killed_ns).contains(&ack.received_ns)).count();
    for ack in &lost {
        assert!(lacking(&ack.id) && ack.received_ns > cut_ns && ack.sent_ns < killed_ns, "{ack:?} is lost");
    }
    assert!(!lost.is_empty(), "the replica had everything");
    let repeated = check_calls(&worker, &records, true);
    println!(
        "without WAIT {} of {since} tasks are lost that were acknowledged after the link was cut, of {} in all; \
         {refused} requests refused, {repeated} calls repeated, {} of them at once, longest answer {longest:?}",
        lost.len(),
        acked.len(),
        worker.overlaps().len()
    );
}

/// One gateway and one dispatcher on a cluster, of whose slots one goes to another master while tasks come in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_stops_its_own_partition_alone() {
    let cluster = cluster(0, Fsync::Never);
    let fleet = fleet(&cluster, Fleet::of(1, 1), 0).await;
    let worker = worker(&fleet).await;
    let load = Load::start(&fleet.clients(), TASK, PARTITIONS);
    let (all, others): (Vec<usize>, Vec<usize>) =
        ((0..usize::from(PARTITIONS)).collect(), (1..usize::from(PARTITIONS)).collect());
    for _ in 0..size(2, 10) {
        load.flows(&all, size(20, 200), PATIENCE).await;
        let key = key_of(0);
        let to = (cluster.master_of(&key).unwrap() + 1) % 3;
        let refused = load.refused();
        cluster.begin_move(&key, to);
        load.flows(&others, 20, PATIENCE).await;
        while cluster.move_keys(&key, to, 10) > 0 {}
        load.flows(&others, 20, PATIENCE).await;
        cluster.end_move(&key, to);
        let moved_ns = now_ns();
        load.flows(&all, 20, PATIENCE).await;
        let resumed = Duration::from_nanos(load.first_ack_ns(0, moved_ns).unwrap() - moved_ns);
        println!("{} requests refused, first acknowledgement {resumed:?} after the move", load.refused() - refused);
        assert!(resumed <= resume(), "the partition took tasks again {resumed:?} after its move");
    }
    let missing = load.missing();
    let acked = load.end().await;
    let records = super::super::all_final(fleet.client(), PATIENCE).await;
    assert!(acked.keys().all(|id| records.contains_key(id)), "acknowledged tasks are lost");
    assert_eq!((missing, check_calls(&worker, &records, false)), (0, 0));
}

fn cluster(replicas: usize, fsync: Fsync) -> RedisCluster {
    RedisCluster::start_with(ClusterOptions::new(3, replicas).node(RedisOptions::default().fsync(fsync)))
}

async fn fleet(cluster: &RedisCluster, fleet: FleetSetup, wait: u32) -> Fleet {
    let setup = super::leases(fleet).option("--partitions", &PARTITIONS.to_string());
    let fleet = setup.option("--redis-wait", &wait.to_string()).start_at(&cluster.url()).await;
    super::all_have_shares(&fleet).await;
    fleet
}

async fn worker(fleet: &Fleet) -> Worker {
    let worker = Worker::start();
    worker.on(TASK, Reply::status(204).after(Duration::from_millis(20)));
    fleet.client().register_worker("failover", &worker.url(), &["failover.*"]).await;
    worker
}

fn key_of(partition: usize) -> String {
    format!("lv{{p{partition:02}}}own")
}

fn partitions_of(cluster: &RedisCluster, master: usize) -> Vec<usize> {
    (0..usize::from(PARTITIONS)).filter(|partition| cluster.master_of(&key_of(*partition)) == Some(master)).collect()
}

/// Kills a master and waits until its partitions work again. Meanwhile the others go on.
async fn outage(cluster: &mut RedisCluster, victim: usize, load: &Load, worker: &Worker) {
    let (hit, others): (Vec<usize>, Vec<usize>) =
        (0..usize::from(PARTITIONS)).partition(|partition| cluster.master_of(&key_of(*partition)) == Some(victim));
    cluster.kill9(victim);
    let killed_ns = now_ns();
    load.flows(&others, 20, Duration::from_secs(10)).await;
    let others_ns = now_ns();
    let key = hit.first().map_or("lv{doc}meta".to_owned(), |partition| key_of(*partition));
    eventually("a new master", FAILOVER, async || cluster.master_of(&key).filter(|master| *master != victim)).await;
    let master_ns = now_ns();
    load.flows(&hit, 10, PATIENCE).await;
    let after = |ns: u64| Duration::from_nanos(ns.saturating_sub(killed_ns));
    println!("node {victim} with partitions {hit:?} killed; {:?} later the others had 20 more tasks each", after(others_ns));
    for partition in hit {
        let ack_ns = load.first_ack_ns(partition, killed_ns).unwrap();
        let started = |call: &&Call| call.started_ns > master_ns && partition_of(&call.id, PARTITIONS) == partition;
        let call_ns = eventually("a call of the worker", PATIENCE, async || {
            worker.received().iter().filter(started).map(|call| call.started_ns).min()
        })
        .await;
        let resumed = Duration::from_nanos(ack_ns.saturating_sub(master_ns));
        println!(
            "partition {partition}: new master seen {:?} after the kill, first acknowledgement after {:?}, first call after {:?}",
            after(master_ns),
            after(ack_ns),
            after(call_ns)
        );
        assert!(resumed <= resume(), "partition {partition} took tasks again {resumed:?} after it had a new master");
    }
}

/// Every task that is there has succeeded, and its attempts are numbered upwards; unless claims may have been taken back, each
/// has a number of its own. Returns how many calls there were beyond one for each task.
fn check_calls(worker: &Worker, records: &HashMap<String, Value>, taken_back: bool) -> usize {
    let calls = worker.by_task();
    let mut repeated = 0;
    for (id, record) in records {
        assert_eq!(record["state"], "succeeded", "{record}");
        let calls = calls.get(id).map_or(&[][..], Vec::as_slice);
        let upwards = |one: &Call, next: &Call| one.attempt < next.attempt || (taken_back && one.attempt == next.attempt);
        assert!(calls.is_sorted_by(upwards), "task {id}: the worker had {}", super::super::shown(calls));
        repeated += calls.len().saturating_sub(1);
    }
    repeated
}
