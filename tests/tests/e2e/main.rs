//! End-to-end tests: one binary, a module per area.
// Tests look at the wall clock too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[macro_use]
mod contract;
mod documents;
mod example_workers;
mod examples;
mod faults;
mod harness;
mod life;
mod processes;
mod protocol;
mod server;
