//! The life of tasks with real processes: what is done to them and what is seen of them.

mod bulk;
mod cancel;
mod cascade;
mod command;
mod dead;
mod hidden;
mod inspect;
mod patch;
mod queues;
mod replay;
mod states;
mod verbs;
mod views;
