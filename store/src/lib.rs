//! Durable storage of tasks: one trait, three stores.
//!
//! Rules live in `lovage-core`; a store only guards versions, keeps placements and orders changes. Every verb takes a
//! batch of one partition. The memory store is the reference that the others are compared with.

pub mod bell;
mod check;
mod children;
#[cfg(any(test, feature = "conformance"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)] // cases of tests: they panic with what they found
pub mod conformance;
pub mod directory;
mod docs;
pub mod embedded;
mod error;
mod feed;
mod follow;
mod footprint;
mod key;
mod limit;
mod lists;
mod local;
pub mod memory;
#[cfg(any(test, feature = "conformance"))]
#[allow(clippy::missing_panics_doc)] // a test: it panics with what it found
pub mod model;
pub mod moving;
mod outbox;
mod own;
mod ownership;
pub mod redis;
mod rest;
mod showing;
mod store;
mod traffic;
pub mod wrap;
mod write;

pub use children::children;
pub use directory::Residence;
pub use docs::{DocGuard, DocKind, DocOutcome, DocPage, DocPut, Document};
pub use embedded::{Durability, EmbeddedOptions, EmbeddedStore};
pub use error::{Error, Result};
pub use feed::{FeedBatch, FeedEntry, FeedPos, FeedRow};
pub use follow::{all_docs, follow_docs};
pub use footprint::Footprint;
pub use key::{KeyEntry, KeyKind, KeyPut, KeyTake, MAX_KEYS};
pub use limit::{Hold, Holder, LimitKey, LimitReply, LimitRequest, SlotWish, TokenWish, attempt_holder};
pub use lists::{Cursor, Index, LanePage, ListQuery, Page, Parts, QueueCounts, Stored, all_lanes};
pub use local::{BOARD_LEASE, MAX_BOARD};
pub use memory::{MemoryClock, MemoryOptions, MemoryStore};
pub use outbox::{Message, OutboxPage, Sent};
pub use own::{Lease, OwnReply, OwnRequest, OwnToken, Ownership, Stake, Want};
pub use redis::{RedisOptions, RedisStore, RedisTls, RedisWait};
pub use showing::show;
pub use store::{Caps, Store, StoreClock};
pub use traffic::Traffic;
pub use write::{Claim, Claimed, Commit, Committed, Effect, Insert, Inserted, MAX_MEMBERS, Mode, OnExists, Sync};
