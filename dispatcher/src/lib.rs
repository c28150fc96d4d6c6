//! Claims tasks, pushes them to HTTP workers and settles the answers.

pub mod egress;
mod lanes;
mod options;
pub mod signing;
mod timers;

pub use options::Options;
