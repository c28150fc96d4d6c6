//! What the store does when a cluster, or a master behind sentinels, changes under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lovage_core::{LimitRule, Ns, Partition, TaskKey};
use lovage_testkit::redis::RedisOptions as ServerOptions;
use lovage_testkit::{ClusterOptions, Fsync, Redis, RedisCluster, RedisSentinels, eventually};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::{OnCluster, OnRedis, RedisOptions, RedisStore};
use crate::conformance::kit::{Kit, LONG, OTHER, PATIENCE, SESSION};
use crate::redis::RedisWait;
use crate::{Claimed, Error, FeedBatch, LimitRequest, Mode, OwnToken, Store, Want};

/// The promise: working again this soon after there is a master again.
const RECOVERY: Duration = Duration::from_secs(5);
/// Enough for a failover on a busy machine.
const FAILOVER: Duration = Duration::from_secs(40);
const ONE: RedisWait = RedisWait { replicas: 1, timeout: Duration::from_secs(1) };

fn cluster(replicas: usize) -> RedisCluster {
    RedisCluster::start_with(ClusterOptions::new(3, replicas).node(ServerOptions::default().fsync(Fsync::Never)))
}

async fn open(url: String, wait: Option<RedisWait>) -> Arc<RedisStore> {
    let options = RedisOptions { timeout: Duration::from_secs(1), partitions: 6, wait, ..RedisOptions::new(url) };
    RedisStore::open(options).await.unwrap()
}

fn key_of(p: Partition) -> String {
    format!("lv{{p{:02}}}own", p.0)
}

/// A partition whose master is another one.
fn elsewhere(cluster: &RedisCluster, p: Partition) -> Partition {
    let home = cluster.master_of(&key_of(p));
    (0..6).map(Partition).find(|other| cluster.master_of(&key_of(*other)) != home).unwrap()
}

/// How many of 60 limits can be judged.
async fn judged(store: &RedisStore) -> usize {
    let rule = LimitRule { concurrency: Some(1), ..LimitRule::default() };
    let requests = (0..60).map(|n| LimitRequest::look(Ns(0), format!("k{n}"), rule));
    store.limit(requests.collect()).await.unwrap().iter().filter(|reply| reply.is_ok()).count()
}

/// Inserts tasks one after the other, whatever happens, and remembers those that were acknowledged.
struct Writer {
    p: Partition,
    acked: Arc<Mutex<Vec<TaskKey>>>,
    count: Arc<AtomicUsize>,
    errors: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    running: JoinHandle<()>,
}

impl Writer {
    fn start(store: &Arc<RedisStore>, p: Partition) -> Self {
        let acked = Arc::new(Mutex::new(Vec::new()));
        let errors = Arc::new(Mutex::new(Vec::new()));
        let count = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let running = tokio::spawn({
            let (store, acked, count, errors, stop) =
                (store.clone(), Arc::clone(&acked), Arc::clone(&count), Arc::clone(&errors), Arc::clone(&stop));
            async move {
                let fixture = OnRedis::unused();
                let kit = Kit::in_partition(&fixture, store.clone(), p);
                while !stop.load(Ordering::Relaxed) {
                    let task = kit.task();
                    let key = task.key.clone();
                    match store.insert(p, vec![task], Mode::Each).await {
                        Ok(_) => {
                            acked.lock().push(key);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert!(error.is_transient(), "{error}");
                            errors.lock().push(error.to_string());
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            }
        });
        Self { p, acked, count, errors, stop, running }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for so many more tasks.
    async fn more(&self, tasks: usize, limit: Duration) {
        let from = self.count();
        let what = format!("partition {} takes {tasks} more tasks", self.p.0);
        eventually(&what, limit, async || (self.count() >= from + tasks).then_some(())).await;
    }

    /// As soon as the store can be read, as [`end`](Self::end).
    async fn end_when(self, store: &RedisStore, limit: Duration) -> (usize, usize) {
        eventually("the store works again", limit, async || store.counts(self.p).await.ok()).await;
        self.end(store).await
    }

    /// Stops; answers how many tasks were acknowledged and how many of them are gone.
    async fn end(self, store: &RedisStore) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.running.await.unwrap();
        let keys = self.acked.lock().clone();
        let heads = store.heads(self.p, &keys).await.unwrap();
        (keys.len(), heads.iter().filter(|head| head.is_none()).count())
    }
}

/// Waits until another node than `old` is the master of the partition.
async fn failed_over(cluster: &RedisCluster, p: Partition, old: usize) -> usize {
    eventually("another master", FAILOVER, async || cluster.master_of(&key_of(p)).filter(|master| *master != old)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmed_tasks_outlive_their_master() {
    let mut cluster = cluster(2);
    let store = open(cluster.url(), Some(ONE)).await;
    assert!(store.caps().durability.contains("one replica has it too"), "{}", store.caps().durability);
    let here = Partition(0);
    let there = elsewhere(&cluster, here);
    let writers = [Writer::start(&store, here), Writer::start(&store, there)];
    for writer in &writers {
        writer.more(50, PATIENCE).await;
    }
    let old = cluster.master_of(&key_of(here)).unwrap();
    cluster.kill9(old);
    // Nobody has been called failed yet, and the other partition goes on.
    let before = writers[0].count();
    writers[1].more(50, Duration::from_secs(2)).await;
    assert!(writers[0].count() <= before + 1, "the dead master takes no tasks");
    failed_over(&cluster, here, old).await;
    let start = Instant::now();
    writers[0].more(20, RECOVERY).await;
    eprintln!("tasks are taken again {:?} after the failover", start.elapsed());
    for writer in writers {
        let (acked, lost) = writer.end(&store).await;
        assert_eq!(lost, 0, "of {acked} confirmed tasks");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_confirmation_a_failover_loses_what_the_replica_lacks() {
    let mut cluster = cluster(1);
    let store = open(cluster.url(), None).await;
    assert!(store.caps().durability.contains("A failover may lose"), "{}", store.caps().durability);
    let p = Partition(0);
    let old = cluster.master_of(&key_of(p)).unwrap();
    let replica = cluster.replicas_of(old)[0];
    let confirmed = open(cluster.url(), Some(ONE)).await;
    let fixture = OnRedis::unused();
    let kit = Kit::in_partition(&fixture, confirmed.clone(), p);
    let kept = kit.put(kit.task()).await;
    cluster.cut_off(replica);
    let refused = confirmed.insert(p, vec![kit.task()], Mode::Each).await.unwrap_err();
    assert!(matches!(&refused, Error::Unknown(why) if why.contains("0 of 1 replicas")), "{refused}");

    let writer = Writer::start(&store, p);
    writer.more(50, PATIENCE).await;
    let at = store.tail(p).await.unwrap();
    cluster.kill9(old);
    let lagging = writer.count();
    assert_eq!(failed_over(&cluster, p, old).await, replica);
    writer.more(20, RECOVERY).await;
    let (acked, lost) = writer.end(&store).await;
    eprintln!("without WAIT {lost} of {acked} acknowledged tasks are lost; {lagging} had not reached the replica");
    assert!(lost >= 50 && lost <= lagging + 1 && lost < acked, "{lost} of {acked} lost, {lagging} not replicated");
    // The other store was idle and learns of it in its own time.
    let kept = eventually("the other store works again", RECOVERY, async || {
        confirmed.heads(p, std::slice::from_ref(&kept.key)).await.ok()
    })
    .await;
    assert!(kept[0].is_some());
    // A reader that has seen what is lost is told so.
    let answer = store.feed(p, at, Duration::ZERO).await.unwrap();
    assert!(matches!(answer, FeedBatch::Behind { .. }), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halted_master_is_left_and_not_used_again() {
    // The second replica confirms what the first one takes in its master's place.
    let cluster = cluster(2);
    let store = open(cluster.url(), Some(ONE)).await;
    let p = Partition(0);
    let writer = Writer::start(&store, p);
    writer.more(20, PATIENCE).await;
    let reader = tokio::spawn({
        let store = store.clone();
        async move {
            // As an owner does: what comes after a fault is read from where it stood.
            let mut at = store.tail(p).await.unwrap();
            let mut last = Instant::now();
            loop {
                match store.feed(p, at, Duration::from_millis(200)).await {
                    Ok(FeedBatch::Entries { entries, next }) => {
                        at = next;
                        if !entries.is_empty() {
                            last = Instant::now();
                        }
                    }
                    Ok(FeedBatch::Behind { tail }) => at = tail,
                    Err(error) => assert!(error.is_transient(), "{error}"),
                }
                if last.elapsed() > FAILOVER {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    });
    let old = cluster.master_of(&key_of(p)).unwrap();
    cluster.pause(old);
    failed_over(&cluster, p, old).await;
    let start = Instant::now();
    writer.more(20, RECOVERY).await;
    eprintln!("tasks are taken again {:?} after the failover", start.elapsed());
    // Readers hear of what is written now.
    let at = store.tail(p).await.unwrap();
    let FeedBatch::Entries { entries, .. } = store.feed(p, at, RECOVERY).await.unwrap() else { panic!("nothing was lost") };
    assert!(!entries.is_empty());
    cluster.resume(old);
    cluster.wait_ok(FAILOVER);
    writer.more(20, RECOVERY).await;
    assert!(!reader.is_finished());
    reader.abort();
    let (acked, lost) = writer.end(&store).await;
    assert_eq!(lost, 0, "of {acked} confirmed tasks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_moves_to_another_master_while_it_is_used() {
    let cluster = cluster(0);
    let store = open(cluster.url(), None).await;
    let p = Partition(0);
    let key = key_of(p);
    let writer = Writer::start(&store, p);
    writer.more(100, PATIENCE).await;
    let known = writer.acked.lock()[0].clone();
    let from = cluster.master_of(&key).unwrap();
    let to = (from + 1) % 3;
    cluster.begin_move(&key, to);
    // Calls that name new keys wait until all are there; reads follow each key.
    while cluster.move_keys(&key, to, 10) > 0 {
        let heads = store.heads(p, std::slice::from_ref(&known)).await.unwrap();
        assert!(heads[0].is_some());
    }
    let before = writer.count();
    eventually("writes are refused", PATIENCE, async || {
        let errors = writer.errors.lock();
        errors.iter().any(|error| error.contains("is being moved")).then_some(())
    })
    .await;
    assert_eq!(writer.count(), before);
    cluster.end_move(&key, to);
    writer.more(100, RECOVERY).await;
    assert_eq!(cluster.master_of(&key), Some(to));
    assert!(writer.errors.lock().iter().all(|error| !error.contains("unknown")), "nothing that ran was in doubt");
    let (acked, lost) = writer.end(&store).await;
    assert_eq!(lost, 0, "of {acked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_one_node_forgot_are_told_again() {
    let fixture = OnCluster::new(6);
    let store = RedisStore::open(fixture.options.clone()).await.unwrap();
    for _ in 0..2 {
        for node in 0..3 {
            fixture.cluster.command(node, &["SCRIPT", "FLUSH"]).unwrap();
        }
        for p in (0..6).map(Partition) {
            let kit = Kit::in_partition(&fixture, store.clone(), p);
            let token = kit.token().await;
            let task = kit.put(kit.task()).await;
            kit.claimed(&token, &task).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_without_replica_holds_up_its_partitions_alone() {
    let mut cluster = cluster(0);
    let store = open(cluster.url(), None).await;
    let here = Partition(0);
    let there = elsewhere(&cluster, here);
    let writers = [Writer::start(&store, here), Writer::start(&store, there)];
    for writer in &writers {
        writer.more(20, PATIENCE).await;
    }
    let master = cluster.master_of(&key_of(here)).unwrap();
    assert_eq!(judged(&store).await, 60);
    cluster.kill9(master);
    writers[1].more(100, Duration::from_secs(4)).await;
    // The limits whose keys are on other masters are judged.
    assert!((1..60).contains(&judged(&store).await));
    cluster.restart(master);
    writers[0].more(20, RECOVERY).await;
    eventually("all limits are judged", RECOVERY, async || (judged(&store).await == 60).then_some(())).await;
    for writer in writers {
        let (acked, lost) = writer.end(&store).await;
        assert_eq!(lost, 0, "of {acked}: the file is read again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_is_rolled_back_does_not_give_two_owners() {
    let cluster = cluster(1);
    let store = open(cluster.url(), None).await;
    let p = Partition(0);
    let fixture = OnRedis::unused();
    let kit = Kit::in_partition(&fixture, store.clone(), p);
    let task = kit.put(kit.task()).await;
    let first = kit.token().await;
    let master = cluster.master_of(&key_of(p)).unwrap();
    let replica = cluster.replicas_of(master)[0];
    assert_eq!(cluster.command(master, &["WAIT", "1", "5000"]).unwrap(), "1");
    cluster.cut_off(replica);
    // The second owner's take never reaches the replica.
    kit.own(SESSION, Want::Release, LONG).await;
    let second = kit.own(OTHER, Want::Own, LONG).await.token.unwrap();
    cluster.take_over(replica);
    let claim = async |token: &OwnToken, session| store.claim(p, token, session, vec![task.claim(session)]).await;
    eventually("the lost owner is refused", RECOVERY, async || match claim(&second, OTHER).await {
        Err(Error::Fenced) => Some(()),
        Err(error) if error.is_transient() => None,
        other => panic!("{other:?}"),
    })
    .await;
    // In what is left the first one never let go: it is the owner, and the only one, until it is asked again.
    assert_eq!(kit.own(OTHER, Want::Own, LONG).await.token, None);
    assert_eq!(kit.own(SESSION, Want::Own, LONG).await.token.as_ref(), Some(&first));
    kit.own(SESSION, Want::Release, LONG).await;
    let third = kit.own(OTHER, Want::Own, LONG).await.token.unwrap();
    assert!(third != second && third != first, "{third:?}");
    for (token, session) in [(&first, SESSION), (&second, OTHER)] {
        let refused = claim(token, session).await;
        assert!(matches!(refused, Err(Error::Fenced)), "{refused:?}");
    }
    assert!(matches!(claim(&third, OTHER).await.unwrap()[..], [Claimed::Ok(_)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_master_is_learnt_from_the_sentinels() {
    let mut lab = RedisSentinels::start(1, ServerOptions::default().fsync(Fsync::Never));
    let store = open(lab.url(), Some(ONE)).await;
    let p = Partition(0);
    let writer = Writer::start(&store, p);
    writer.more(20, PATIENCE).await;
    writer.stop.store(true, Ordering::Relaxed);
    lab.server(0).kill9();
    eventually("another master", FAILOVER, async || (lab.master() == 1).then_some(())).await;
    // Nobody confirms now, so the writer of this store has to wait; others need no confirmation.
    let (acked, lost) = writer.end_when(&store, RECOVERY).await;
    assert_eq!(lost, 0, "of {acked} confirmed tasks");
    assert!(store.ping().await.is_err(), "a store that can take no write is not ready");
    let plain = open(lab.url(), None).await;
    let writer = Writer::start(&plain, p);
    writer.more(20, RECOVERY).await;
    // The old master comes back, believes for a moment that it is one still, and is not used.
    lab.server(0).restart();
    writer.more(20, RECOVERY).await;
    let (acked, lost) = writer.end(&plain).await;
    assert_eq!(lost, 0, "of {acked}");
}

#[tokio::test]
async fn one_node_is_enough_to_find_a_cluster() {
    let fixture = OnCluster::new(6);
    let url = fixture.cluster.node(1).url();
    let store = RedisStore::open(RedisOptions { url: url.clone(), ..fixture.options.clone() }).await.unwrap();
    for p in (0..6).map(Partition) {
        let kit = Kit::in_partition(&fixture, store.clone(), p);
        kit.put(kit.task()).await;
    }
    let refused = RedisStore::open(RedisOptions { url: format!("{url}/1"), ..fixture.options.clone() }).await.unwrap_err();
    assert!(refused.to_string().contains("database"), "{refused}");
}

#[tokio::test]
async fn a_replica_is_no_place_for_a_store() {
    let master = Redis::start_with(ServerOptions::default().fsync(Fsync::NoFile));
    let replica = Redis::start_replica_of(&master);
    let refused = RedisStore::open(RedisOptions::new(replica.url())).await.unwrap_err();
    assert!(refused.to_string().contains("it is a replica"), "{refused}");
    let two = RedisWait { replicas: 2, ..ONE };
    let refused = RedisStore::open(RedisOptions { wait: Some(two), ..RedisOptions::new(master.url()) }).await.unwrap_err();
    assert!(refused.to_string().contains("has 1 replicas"), "{refused}");
}
