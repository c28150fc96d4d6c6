//! Attempts of servers that died in the source: over by the rules before anything is moved, as after any take-over.

use std::sync::Arc;

use lovage_core::{Body, Event, Partition, SessionId, Spec, decide};

use super::journal::send;
use crate::{Commit, Committed, Cursor, Index, Result, Store};

/// Records of one page.
const PAGE: usize = 200;

/// Declares the open attempts of these sessions lost, but not those that a worker has accepted. Answers how many, and whose
/// other attempts are still open.
pub async fn settle_lost(
    store: &dyn Store,
    p: Partition,
    lapsed: &[SessionId],
    random: impl Fn() -> u64,
) -> Result<(u64, Vec<SessionId>)> {
    let mut lost = 0;
    let mut others = Vec::new();
    let mut from = Cursor::default();
    loop {
        let page = store.scan(p, &Index::Running { session: None }, from, PAGE).await?;
        let mut open = page.items;
        open.retain(|(_, head)| !head.is_accepted());
        let (dead, alive): (Vec<_>, Vec<_>) = open.into_iter().partition(|(_, head)| lapsed.contains(&head.session));
        others.extend(alive.into_iter().map(|(_, head)| head.session));
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
                commits.push(Commit::of(&key, head, transition, &spec, queue, None, now, &random));
            }
        }
        let answers = send(store, p, commits).await?;
        lost += answers.iter().filter(|answer| **answer == Committed::Ok).count() as u64;
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    others.sort_unstable();
    others.dedup();
    Ok((lost, others))
}
