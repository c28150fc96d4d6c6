//! What an owner does beside pushing: due timers, attempts of dead sessions, retention. Each is a short loop of its own
//! that reads, decides and commits; what it changes comes back by the feed.

use std::sync::Arc;

use lovage_core::{Body, Event, Head, Partition, Refusal, SessionId, Spec, TaskKey, decide};
use lovage_store::{Commit, Cursor, Error, Index, Mode, Sync};

use super::{STORE_PAUSE, Shared};

/// Records swept or recovered at once.
const BATCH: usize = 200;
/// Batches swept in one go: the janitor never holds up the work.
const SWEEPS: usize = 25;

/// Hands due tasks to the rules. Tries until the store has answered: a timer is not forgotten.
pub(super) async fn due(shared: &Shared, p: Partition, keys: Vec<TaskKey>) {
    while let Err(error) = due_once(shared, p, &keys).await {
        tracing::warn!(partition = p.0, %error, "cannot handle due tasks; trying again");
        tokio::time::sleep(STORE_PAUSE).await;
    }
}

async fn due_once(shared: &Shared, p: Partition, keys: &[TaskKey]) -> Result<(), Error> {
    let heads = shared.store.heads(p, keys).await?;
    let found = keys.iter().zip(heads).filter_map(|(key, head)| Some((key.clone(), head?))).collect();
    change(shared, p, found, |_| Event::Due).await.map(|_| ())
}

/// Declares the attempts of a dead session lost. True: none are left.
pub(super) async fn recover(shared: &Shared, p: Partition, session: SessionId) -> bool {
    let mut count = 0;
    loop {
        let index = Index::Running { session: Some(session) };
        let step = async {
            let page = shared.store.scan(p, &index, Cursor::default(), BATCH).await?;
            let size = page.items.len();
            change(shared, p, page.items, |_| Event::Lost { session }).await.map(|changed| (size, changed))
        };
        match step.await {
            Ok((0, _)) => break,
            Ok((_, changed)) => count += changed,
            Err(error) => {
                tracing::warn!(partition = p.0, %error, "cannot recover the attempts of a dead session; trying again");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    }
    if count > 0 {
        tracing::info!(partition = p.0, attempts = count, "recovered the attempts of a session that died");
        metrics::counter!("lovage_attempts_lost_total").increment(count as u64);
    }
    true
}

/// All tasks that run as attempts of this session.
pub(super) async fn mine(shared: &Shared, p: Partition) -> Result<Vec<(TaskKey, Head)>, Error> {
    let index = Index::Running { session: Some(shared.session) };
    let mut found = Vec::new();
    let mut next = Some(Cursor::default());
    while let Some(from) = next {
        let page = shared.store.scan(p, &index, from, BATCH).await?;
        found.extend(page.items);
        next = page.next;
    }
    Ok(found)
}

/// Declares attempts of this session lost. Tries until the store has answered; what has changed meanwhile stays as it is.
pub(super) async fn recover_strays(shared: &Shared, p: Partition, strays: Vec<(TaskKey, Head)>) {
    let session = shared.session;
    for batch in strays.chunks(BATCH) {
        while let Err(error) = change(shared, p, batch.to_vec(), |_| Event::Lost { session }).await {
            tracing::warn!(partition = p.0, %error, "cannot recover stray attempts; trying again");
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }
    tracing::info!(partition = p.0, attempts = strays.len(), "recovered attempts that were let go of");
    metrics::counter!("lovage_attempts_lost_total").increment(strays.len() as u64);
}

/// Deletes results and records whose time is over.
pub(super) async fn sweep(shared: &Shared, p: Partition) {
    for _ in 0..SWEEPS {
        let step = async {
            let until = shared.store.clock().now();
            let page = shared.store.scan(p, &Index::Done { until }, Cursor::default(), BATCH).await?;
            let size = page.items.len();
            change(shared, p, page.items, |_| Event::Sweep).await.map(|_| size)
        };
        match step.await {
            Ok(size) if size == BATCH => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(partition = p.0, %error, "cannot delete old tasks; trying again later");
                return;
            }
        }
    }
}

/// The rules applied to records as they are stored; answers how many changed.
async fn change(
    shared: &Shared,
    p: Partition,
    found: Vec<(TaskKey, Head)>,
    event: impl Fn(&Head) -> Event,
) -> Result<usize, Error> {
    if found.is_empty() {
        return Ok(0);
    }
    let keys: Vec<TaskKey> = found.iter().map(|(key, _)| key.clone()).collect();
    let bodies = shared.store.bodies(p, &keys).await?;
    let now = shared.store.clock().now();
    let mut commits: Vec<Commit> = Vec::with_capacity(found.len());
    for ((key, head), body) in found.into_iter().zip(bodies) {
        // A record without a readable body is still led to its end.
        let spec = body.and_then(|body| Spec::decode(&Body::decode(&body)?.spec)).unwrap_or_default();
        match decide(&head, &spec, event(&head), now, (shared.random)()) {
            Ok(transition) => {
                let queue: Arc<str> = spec.queue().into();
                commits.push(Commit::of(&key, head, transition, &spec, queue, None, now, &*shared.random));
            }
            Err(Refusal::WrongState(_) | Refusal::Superseded | Refusal::NotDue) => {}
        }
    }
    let changed = commits.len();
    let most = shared.store.caps().max_batch.max(1);
    while !commits.is_empty() {
        let rest = commits.split_off(commits.len().min(most));
        shared.store.commit(p, shared.session, commits, Mode::Each, Sync::Ordered).await?;
        commits = rest;
    }
    Ok(changed)
}
