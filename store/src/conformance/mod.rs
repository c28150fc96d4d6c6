//! The contract of a store as cases that every store has to pass.
//!
//! Plain async functions that speak through the trait alone, so that they pin promises and no layout. A case panics
//! with what it found. [`conformance_suite!`](crate::conformance_suite) makes a test of each; a store needs a
//! [`Fixture`]. A difference between stores is an answer of its fixture, never a case left out.

pub mod audit;
pub mod barrier;
pub mod claim;
pub mod commit;
pub mod docs;
pub mod feed;
pub mod flow;
pub mod insert;
pub mod keys;
pub mod kit;
pub mod lanes;
pub mod limits;
pub mod moves;
pub mod outbox;
pub mod own;
pub mod places;
pub mod race;
mod suite;
pub mod talk;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lovage_core::Partition;

use crate::Store;

/// Makes stores to be tested. One fixture serves one test.
#[async_trait]
pub trait Fixture: Send + std::marker::Sync {
    /// An empty store.
    async fn fresh(&self) -> Arc<dyn Store>;

    /// The same data after the end of its process and a new start. A store that is the only place of its data stays.
    async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        store
    }

    /// Moves the time of the store made last forward, if that can be done; `false`: its time is real and passes by itself.
    fn advance(&self, by: Duration) -> bool {
        let _ = by;
        false
    }

    /// Makes the store forget the feed of `p` up to now, as its housekeeping does once the entries are old enough.
    async fn forget_feed(&self, store: &Arc<dyn Store>, p: Partition);
}
