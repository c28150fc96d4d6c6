//! The life of tasks with real processes: what is done to them and what is seen of them.

mod bulk;
mod dead;
mod views;
