//! The means to test Lovage from outside: real servers, real HTTP, real crashes.
//!
//! - [`Worker`]: an HTTP worker that answers by script and remembers every call.
//! - [`Lovage`]: the real binary as a process that can be killed and comes back on the same data and port.
//! - [`Fleet`]: several of them on one Redis, gateways and dispatchers.
//! - [`Client`]: the public API as a test speaks it.
//! - [`power`]: a disk that can lose its power at any instant of a recorded run.
//! - [`Redis`] and waiting come from the test kit that the store's tests use too.
//!
//! The tests themselves live in `tests/e2e`, one binary with a module per area. As everywhere in tests, a helper that cannot
//! do its work panics with an explanation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

mod binary;
mod client;
pub mod clock;
mod fleet;
pub mod power;
mod process;
mod server;
pub mod worker;

pub use binary::lovage_binary;
pub use client::{Answer, Client};
pub use fleet::{Fleet, FleetSetup};
pub use lovage_testkit::{ClusterOptions, Fsync, Port, Redis, RedisCluster, RedisOptions, eventually, signal, wait_until};
pub use server::{Lovage, Setup};
pub use worker::{Answered, Call, Flaky, Gate, Reply, Script, Worker};
