//! The gateway over the memory store.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod batch;
mod bulk;
mod codings;
mod create;
mod edge;
mod events;
mod flow;
mod formats;
mod harness;
mod holds;
mod insight;
mod leases;
mod life;
mod limits;
mod malformed;
mod nodes;
mod openapi;
mod pauses;
mod queues;
mod serve;
mod task_types;
mod tasks;
mod views;
mod wait;
mod workers;
