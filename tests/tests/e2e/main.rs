//! End-to-end tests: one binary, a module per area.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod contract;
mod documents;
mod examples;
mod faults;
mod harness;
mod server;
