//! What the tests of more than one crate need: a port of their own, a way to wait for a condition, and a real Redis.
//!
//! Only tests depend on this crate. Its functions therefore panic with an explanation where production code would return an
//! error: a helper that cannot do its work must fail the test that asked for it, never be skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

mod command_line;
pub mod port;
pub mod redis;
pub mod redis_cluster;
pub mod redis_sentinel;
pub mod signal;
pub mod wait;

pub use port::Port;
pub use redis::{Fsync, Redis, RedisOptions};
pub use redis_cluster::{ClusterOptions, RedisCluster};
pub use redis_sentinel::RedisSentinels;
pub use wait::{eventually, wait_until};
