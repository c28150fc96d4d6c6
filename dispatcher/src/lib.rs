//! Claims tasks, pushes them to HTTP workers and settles the answers.
//!
//! `service` starts an owner per partition; `owner` is the loop; `lanes` and `timers` are its view of what may start and
//! what comes due; `registry` and `gate` know the workers; `push` builds the request; `egress` is the only code that
//! opens outgoing connections.

mod balance;
mod batch;
mod board;
mod breaker;
mod control;
pub mod egress;
mod gate;
mod instances;
#[doc(hidden)] // For `examples/lanes.rs`.
pub mod lanes;
mod limits;
mod line;
mod notice;
mod options;
mod owner;
mod pulse;
mod push;
mod registry;
mod service;
pub mod signing;
mod standing;
mod stream;
mod timers;

pub use options::Options;
pub use owner::{Random, Uptime};
pub use pulse::Pulse;
pub use registry::Registry;
pub use service::Dispatcher;
