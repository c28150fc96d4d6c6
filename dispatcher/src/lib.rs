//! Claims tasks, pushes them to HTTP workers and settles the answers.

pub mod egress;
pub mod signing;
