//! The Redis store keeps the contract, with one partition and with many, over a real server.

mod access;
mod cluster;
mod faults;
mod leftovers;
mod limits;
mod loss;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use lovage_core::Partition;
use lovage_testkit::redis::RedisOptions as ServerOptions;
use lovage_testkit::{ClusterOptions, Fsync, Redis, RedisCluster};
use parking_lot::Mutex;

use super::{RedisOptions, RedisStore};
use crate::Store;
use crate::conformance::Fixture;

/// The server that the cases of this process share; it ends with the last case that uses it.
fn shared_server() -> Arc<Redis> {
    static SERVER: Mutex<Weak<Redis>> = Mutex::new(Weak::new());
    let mut known = SERVER.lock();
    known.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Redis::start_with(ServerOptions::default().fsync(Fsync::Never)));
        *known = Arc::downgrade(&server);
        server
    })
}

/// A prefix that no other case of this process has.
fn fresh_prefix() -> String {
    static CASES: AtomicU32 = AtomicU32::new(0);
    format!("t{}", CASES.fetch_add(1, Ordering::Relaxed))
}

struct OnRedis {
    server: Arc<Redis>,
    options: RedisOptions,
}

impl OnRedis {
    /// For kits over stores that are elsewhere.
    fn unused() -> Self {
        Self::new(1)
    }

    fn new(partitions: u16) -> Self {
        let server = shared_server();
        let options = RedisOptions { prefix: fresh_prefix(), partitions, ..RedisOptions::new(server.url()) };
        Self { server, options }
    }
}

#[async_trait]
impl Fixture for OnRedis {
    async fn fresh(&self) -> Arc<dyn Store> {
        RedisStore::open(self.options.clone()).await.unwrap()
    }

    async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        drop(store);
        self.fresh().await
    }

    async fn forget_feed(&self, _: &Arc<dyn Store>, p: Partition) {
        let feed = format!("{}{{p{:02}}}f", self.options.prefix, p.0);
        // Housekeeping trims whole blocks; a case has too few entries for that.
        self.server.command(&["XTRIM", &feed, "MAXLEN", "1"]).unwrap();
    }
}

/// The cluster that the cases of this process share.
fn shared_cluster() -> Arc<RedisCluster> {
    static CLUSTER: Mutex<Weak<RedisCluster>> = Mutex::new(Weak::new());
    let mut known = CLUSTER.lock();
    known.upgrade().unwrap_or_else(|| {
        let options = ClusterOptions::new(3, 0).node(ServerOptions::default().fsync(Fsync::Never));
        // Nobody is to be called failed here, however busy the machine is.
        let cluster = Arc::new(RedisCluster::start_with(options.node_timeout(Duration::from_secs(30))));
        *known = Arc::downgrade(&cluster);
        cluster
    })
}

/// Three masters.
struct OnCluster {
    cluster: Arc<RedisCluster>,
    options: RedisOptions,
}

impl OnCluster {
    fn new(partitions: u16) -> Self {
        let cluster = shared_cluster();
        let options = RedisOptions { prefix: fresh_prefix(), partitions, ..RedisOptions::new(cluster.url()) };
        Self { cluster, options }
    }
}

#[async_trait]
impl Fixture for OnCluster {
    async fn fresh(&self) -> Arc<dyn Store> {
        RedisStore::open(self.options.clone()).await.unwrap()
    }

    async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        drop(store);
        self.fresh().await
    }

    async fn forget_feed(&self, _: &Arc<dyn Store>, p: Partition) {
        let feed = format!("{}{{p{:02}}}f", self.options.prefix, p.0);
        let master = self.cluster.master_of(&feed).unwrap();
        self.cluster.command(master, &["XTRIM", &feed, "MAXLEN", "1"]).unwrap();
    }
}

mod three_masters {
    use super::OnCluster;

    crate::conformance_suite!(OnCluster::new(16));

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn agrees_with_the_model() {
        crate::model::check("a redis cluster, 16 partitions", || OnCluster::new(16), 50).await;
    }
}

mod one_partition {
    use super::OnRedis;

    crate::conformance_suite!(OnRedis::new(1));

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn agrees_with_the_model() {
        crate::model::check("redis, 1 partition", || OnRedis::new(1), 50).await;
    }
}

mod many_partitions {
    use super::OnRedis;

    crate::conformance_suite!(OnRedis::new(16));

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn agrees_with_the_model() {
        crate::model::check("redis, 16 partitions", || OnRedis::new(16), 50).await;
    }
}
