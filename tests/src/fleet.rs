//! Lovage as several processes on one Redis: gateways that take requests, dispatchers that deliver.
//!
//! ```no_run
//! # use lovage_tests::{Fleet, Redis};
//! # use serde_json::json;
//! # async fn example() {
//! let redis = Redis::start();
//! let mut fleet = Fleet::of(2, 2).short_leases().start(&redis).await;
//! let id = fleet.gateways[0].client().submit(&json!({"task": "demo.add", "args": [2, 3]})).await;
//! fleet.dispatchers[0].kill9();
//! fleet.gateways[1].client().wait_final(&id).await;
//! fleet.dispatchers[0].restart().await;
//! # }
//! ```

use futures_util::future::join_all;
use tempfile::TempDir;

use lovage_testkit::Redis;

use crate::client::Client;
use crate::server::{Lovage, Setup};

/// The processes. Each is a [`Lovage`]: it can be killed, stopped, halted and started again alone. All end with this value.
pub struct Fleet {
    /// The processes that take requests. Workers are told to report to the first.
    pub gateways: Vec<Lovage>,
    /// The processes that call workers.
    pub dispatchers: Vec<Lovage>,
    /// Holds the key that all of them share.
    _home: TempDir,
}

/// A fleet to be.
#[must_use = "a setup does nothing until it is started"]
pub struct FleetSetup {
    gateways: usize,
    dispatchers: usize,
    options: Vec<(String, String)>,
}

impl Fleet {
    /// So many gateways and dispatchers. Test workers, on loopback addresses, may be called.
    pub fn of(gateways: usize, dispatchers: usize) -> FleetSetup {
        FleetSetup { gateways, dispatchers, options: Vec::new() }.option("--allow-network", "127.0.0.0/8")
    }

    /// A client of the first gateway.
    pub fn client(&self) -> &Client {
        self.gateways[0].client()
    }

    /// A client of each gateway.
    pub fn clients(&self) -> Vec<Client> {
        self.gateways.iter().map(|gateway| gateway.client().clone()).collect()
    }
}

impl FleetSetup {
    /// Adds an option with a value to every command line.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a key of the configuration everywhere.
    pub fn set(self, key: &str, value: &str) -> Self {
        self.option("--set", &format!("{key}={value}"))
    }

    /// What is left behind by a dispatcher that died is found after 2 s instead of 15, and equal shares are made after 1 s
    /// instead of 10.
    pub fn short_leases(self) -> Self {
        let this = self.set("dispatcher.lease", "2s").set("dispatcher.close_after", "1500ms");
        this.set("dispatcher.renew_every", "300ms").set("dispatcher.rebalance_after", "1s")
    }

    /// Starts all processes at the same moment and waits until every one is ready.
    pub async fn start(self, redis: &Redis) -> Fleet {
        self.start_at(&redis.url()).await
    }

    /// The same on the Redis, or cluster of them, at this URL.
    pub async fn start_at(self, redis_url: &str) -> Fleet {
        let home = tempfile::Builder::new().prefix("lovage-fleet-").tempdir().expect("a folder for the fleet can be made");
        let process = |role: Setup| {
            let setup = role.redis_url(redis_url).key_file(&home.path().join("admin.key"));
            self.options.iter().fold(setup, |setup, (name, value)| setup.option(name, value))
        };
        let first = process(Lovage::gateway()).prepare();
        // Its own address, unless told otherwise.
        let told = |role| process(role).option("--public-url", first.url()).prepare();
        let others: Vec<Lovage> = (1..self.gateways).map(|_| told(Lovage::gateway())).collect();
        let mut dispatchers: Vec<Lovage> = (0..self.dispatchers).map(|_| told(Lovage::dispatcher())).collect();
        let mut gateways: Vec<Lovage> = [first].into_iter().chain(others).collect();
        join_all(gateways.iter_mut().chain(&mut dispatchers).map(Lovage::launch)).await;
        Fleet { gateways, dispatchers, _home: home }
    }
}
