//! The dispatcher over the memory store with a scripted transport and paused time: whole lives of tasks in milliseconds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod batches;
mod cluster;
mod family;
mod flow;
mod instances;
mod life;
mod limits;
mod ordering;
mod outage;
mod outbox;
mod pace;
mod protocol;
mod queues;
mod simulation;
mod slots;
mod streams;
mod wedged;
mod world;
