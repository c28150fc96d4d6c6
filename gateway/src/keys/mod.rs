//! Keys that tasks take when they are submitted: `unique`, `debounce`, an `Idempotency-Key`, a client-chosen id.
//!
//! A task with a unique or debounce key lives where the key lives, so that the store can give it the key and its place in one
//! step. If its client-chosen id belongs elsewhere, a directory entry at the id's home says where it is ([`home`]). Who has a
//! key may have it no longer by right; that is judged when somebody else wants it ([`judge`]).

mod coming;
mod home;
mod judge;
mod request;
mod settle;

pub(crate) use coming::Coming;
pub(crate) use judge::Verdict;
pub(crate) use settle::{Replaced, Settled, Stop};
