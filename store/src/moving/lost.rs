//! Attempts of servers that died in the source: over by the rules before anything is moved, as after any take-over.

use std::sync::Arc;

use lovage_core::{Body, Event, Partition, Spec, decide};

use super::journal::send;
use crate::{Commit, Committed, Cursor, Index, Result, Store};

/// Records of one page.
const PAGE: usize = 200;

/// Declares all open attempts lost, but not those that a worker has accepted: the caller has seen that no session lives.
/// Answers how many.
pub async fn settle_lost(store: &dyn Store, p: Partition, random: impl Fn() -> u64) -> Result<u64> {
    let mut lost = 0;
    let mut from = Cursor::default();
    loop {
        let page = store.scan(p, &Index::Running { session: None }, from, PAGE).await?;
        let mut dead = page.items;
        dead.retain(|(_, head)| !head.is_accepted());
        let keys: Vec<_> = dead.iter().map(|(key, _)| key.clone()).collect();
        let bodies = store.bodies(p, &keys).await?;
        let now = store.clock().now();
        let mut commits = Vec::new();
        for ((key, head), body) in dead.into_iter().zip(bodies) {
            // A record without a readable body is still led to its end.
            let spec = body.and_then(|body| Spec::decode(&Body::decode(&body)?.spec)).unwrap_or_default();
            let session = head.session;
            if let Ok(transition) = decide(&key, &head, &spec, Event::Lost { session }, now, random()) {
                let queue: Arc<str> = spec.queue().into();
                commits.push(Commit::of(&key, head, transition, &spec, queue, None, now, &random, store.caps().partitions));
            }
        }
        let answers = send(store, p, commits).await?;
        lost += answers.iter().filter(|answer| **answer == Committed::Ok).count() as u64;
        match page.next {
            Some(next) => from = next,
            None => return Ok(lost),
        }
    }
}
