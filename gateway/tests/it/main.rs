//! The gateway over the memory store.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod batch;
mod create;
mod edge;
mod harness;
mod malformed;
mod openapi;
mod serve;
mod tasks;
mod wait;
mod workers;
