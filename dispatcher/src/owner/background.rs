//! What an owner does beside pushing: due timers, attempts of dead sessions, retention. Each is a short loop of its own
//! that reads, decides and commits; what it changes comes back by the feed.

use std::sync::Arc;

use lovage_core::{Body, Event, Head, Partition, Refusal, SessionId, Spec, TaskKey, decide};
use lovage_store::{Commit, Cursor, Error, FeedRow, Index, Mode, Sync};
use tokio::time::Instant;

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

/// Declares the attempts of a dead session lost, until `until`: later it may be alive and own the partition again. True:
/// none are left.
pub(super) async fn recover(shared: &Shared, p: Partition, session: SessionId, until: Instant) -> bool {
    let index = Index::Running { session: Some(session) };
    let (mut count, mut from, mut before) = (0, Cursor::default(), 0);
    let all = loop {
        if Instant::now() >= until {
            break false;
        }
        let step = async {
            let page = shared.store.scan(p, &index, from.clone(), BATCH).await?;
            Ok::<_, Error>((page.next, change(shared, p, page.items, |_| Event::Lost { session }).await?))
        };
        match step.await {
            // An empty page is not the end: a store may look through the attempts of all sessions.
            Ok((next, changed)) => {
                count += changed;
                match next {
                    Some(next) => from = next,
                    None if count == before => break true,
                    // Some may have changed at the same moment: a walk that finds nothing to do is the last.
                    None => (from, before) = (Cursor::default(), count),
                }
            }
            Err(error) => {
                tracing::warn!(partition = p.0, %error, "cannot recover the attempts of a dead session; trying again");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    };
    if count > 0 {
        tracing::info!(partition = p.0, attempts = count, "recovered the attempts of a session that died");
        metrics::counter!("lovage_attempts_lost_total").increment(count as u64);
    }
    all
}

/// These records as a feed would tell them. Tries until the store has answered.
pub(super) async fn rows(shared: &Shared, p: Partition, keys: &[TaskKey]) -> Vec<FeedRow> {
    let mut rows = Vec::with_capacity(keys.len());
    for keys in keys.chunks(BATCH) {
        let heads = loop {
            match shared.store.heads(p, keys).await {
                Ok(heads) => break heads,
                Err(_) => tokio::time::sleep(STORE_PAUSE).await,
            }
        };
        rows.extend(keys.iter().zip(heads).map(|(key, head)| FeedRow { key: key.clone(), head }));
    }
    rows
}

/// The open attempts of this session as stored.
pub(super) async fn own_attempts(shared: &Shared, p: Partition) -> Result<Vec<(TaskKey, Head)>, Error> {
    let index = Index::Running { session: Some(shared.session) };
    let (mut found, mut from) = (Vec::new(), Cursor::default());
    loop {
        let page = shared.store.scan(p, &index, from, BATCH).await?;
        // What a worker has accepted is held by its lease, not by this session.
        found.extend(page.items.into_iter().filter(|(_, head)| !head.is_accepted()));
        match page.next {
            Some(next) => from = next,
            None => return Ok(found),
        }
    }
}

/// Gives attempts back that this session holds but does not push. True: the store knows.
pub(super) async fn give_back(shared: &Shared, p: Partition, found: Vec<(TaskKey, Head)>) -> bool {
    tracing::warn!(partition = p.0, attempts = found.len(), "gives back tasks that were claimed without an answer");
    let given = change(shared, p, found, |head| Event::GivenBack { attempt: head.open_attempt() }).await;
    given.inspect_err(|error| tracing::warn!(partition = p.0, %error, "cannot give them back; trying again later")).is_ok()
}

/// Whether nothing of this session is left in the store, at the latest after this.
pub(super) async fn nothing_left(shared: &Shared, p: Partition) -> bool {
    match own_attempts(shared, p).await {
        Ok(found) => found.is_empty() || give_back(shared, p, found).await,
        Err(_) => false,
    }
}

/// Deletes results and records whose time is over. True: there are more.
pub(super) async fn sweep(shared: &Shared, p: Partition) -> bool {
    for _ in 0..SWEEPS {
        let step = async {
            let until = shared.store.clock().now();
            let page = shared.store.scan(p, &Index::Done { until }, Cursor::default(), BATCH).await?;
            let size = page.items.len();
            change(shared, p, page.items, |_| Event::Sweep).await.map(|_| size)
        };
        match step.await {
            Ok(size) if size == BATCH => {}
            Ok(_) => return false,
            Err(error) => {
                tracing::warn!(partition = p.0, %error, "cannot delete old tasks; trying again later");
                return false;
            }
        }
    }
    true
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
        match decide(&key, &head, &spec, event(&head), now, (shared.random)()) {
            Ok(transition) => {
                let queue: Arc<str> = spec.queue().into();
                commits.push(Commit::of(&key, head, transition, &spec, queue, None, now, &*shared.random));
            }
            Err(Refusal::WrongState(_) | Refusal::Superseded | Refusal::NotDue | Refusal::Unchanged) => {}
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
