//! The dispatcher over the memory store with a scripted transport and paused time: whole lives of tasks in milliseconds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod batches;
mod cluster;
mod life;
mod ordering;
mod outage;
mod outbox;
mod protocol;
mod simulation;
mod streams;
mod wedged;
mod world;
