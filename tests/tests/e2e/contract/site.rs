//! What a test of the contract stands on: a server on one of the stores, a worker, and a client.

use std::ops::Deref;
use std::time::Duration;

use lovage_tests::{Client, Fsync, Lovage, Redis, RedisOptions, Setup, Worker, eventually};
use serde_json::{Value, json};

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where the server keeps its data.
#[derive(Debug, Clone, Copy)]
pub enum Store {
    /// In a folder of its own.
    Embedded,
    /// In a Redis of its own, in several partitions.
    Redis,
}

/// A running server with a worker that has neither scripts nor a registration yet. It is a [`Client`] as well.
pub struct Site {
    pub lovage: Lovage,
    pub worker: Worker,
    /// How far the store's clock may be from that of the test. Times are whole milliseconds, and on Redis they are those of
    /// another process, known as well as the load of the machine allows.
    pub skew: Duration,
    /// Outlives the server.
    redis: Option<Redis>,
}

fn on(redis: Option<&Redis>, setup: Setup) -> Setup {
    match redis {
        None => setup,
        Some(redis) => setup.redis(redis),
    }
}

impl Store {
    /// `lovage dev` on this store.
    pub async fn dev(self) -> Site {
        self.start(Lovage::dev()).await
    }

    /// A server with options of the test's on this store.
    pub async fn start(self, setup: Setup) -> Site {
        let redis = match self {
            Self::Embedded => None,
            Self::Redis => Some(Redis::start_with(RedisOptions::default().fsync(Fsync::Never))),
        };
        let skew = Duration::from_millis(if redis.is_some() { 30 } else { 2 });
        Site { lovage: on(redis.as_ref(), setup).start().await, worker: Worker::start(), skew, redis }
    }
}

impl Deref for Site {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.lovage.client()
    }
}

impl Site {
    /// Kills the server and starts it with other options on the same data.
    pub async fn restart_as(&mut self, setup: Setup) {
        let redis = self.redis.as_ref();
        self.lovage.restart_with(|_| on(redis, setup)).await;
    }

    /// Registers the test's worker for these task names.
    pub async fn serves(&self, tasks: &[&str]) -> Value {
        self.register_worker("w", &self.worker.url(), tasks).await
    }

    /// Waits until the documents that are stored now are in force.
    pub async fn in_force(&self) {
        self.until_known_to([self.lovage.client()]).await;
    }

    /// Waits until the record of a task satisfies a condition, and returns it.
    pub async fn until(&self, id: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("task {id} to be {what}"), PATIENCE, async || Some(self.task(id).await).filter(&condition)).await
    }

    /// Waits until a task is in a state.
    pub async fn until_state(&self, id: &str, state: &str) -> Value {
        self.until(id, state, |record| record["state"] == state).await
    }

    /// Waits until the first attempts of a task have ended in something: it neither runs nor waits for its turn.
    pub async fn judged(&self, id: &str) -> Value {
        self.until(id, "judged", |record| {
            record["attempt"].as_u64() > Some(0) && !["queued", "running"].contains(&record["state"].as_str().unwrap())
        })
        .await
    }

    /// Submits a task of this name without arguments.
    pub async fn submit_plain(&self, task: &str) -> String {
        self.submit(&json!({"task": task})).await
    }

    /// The attempts of a task.
    pub async fn attempts(&self, id: &str) -> Vec<Value> {
        self.list(&format!("/v1/tasks/{id}/attempts")).await
    }
}

/// Retries at once, or nearly so, and without chance.
pub fn quick_retry(max_attempts: u32) -> Value {
    json!({"max_attempts": max_attempts, "backoff": "fixed", "min": "10ms", "jitter": "none"})
}

/// A retry policy whose first delay is longer than any test, so that a task can be looked at between two attempts.
pub fn slow_retry() -> Value {
    json!({"backoff": "fixed", "min": "1h", "jitter": "none"})
}
