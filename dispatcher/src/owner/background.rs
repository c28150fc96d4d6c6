//! What an owner does beside pushing: due timers, attempts of dead sessions, retention. Each is a short loop of its own
//! that reads, decides and commits; what it changes comes back by the feed.

use std::sync::Arc;
use std::time::Duration;

use lovage_core::answer::TIMED_OUT;
use lovage_core::resume::Children;
use lovage_core::{Body, Event, Head, Partition, SessionId, Spec, TaskId, TaskKey, decide};
use lovage_store::{Commit, Committed, Cursor, Error, FeedRow, Index, Mode, Sync};

use super::{STORE_PAUSE, Shared};

/// Records swept or recovered at once.
const BATCH: usize = 200;
/// Batches swept in one go: the janitor never holds up the work.
const SWEEPS: usize = 25;

/// Hands due tasks to the rules. Tries until the store has answered: a timer is not forgotten.
pub(super) async fn due(shared: &Shared, p: Partition, keys: Vec<TaskKey>) {
    let mut parts = vec![keys];
    while let Some(part) = parts.pop() {
        match due_once(shared, p, &part).await {
            Ok(()) => {}
            Err(error) if error.is_of_the_items() => parts.extend(halves(shared, part, |key| key, &error)),
            Err(error) => {
                error.log("handle due tasks");
                tokio::time::sleep(STORE_PAUSE).await;
                parts.push(part);
            }
        }
    }
}

async fn due_once(shared: &Shared, p: Partition, keys: &[TaskKey]) -> Result<(), Error> {
    let heads = shared.store.heads(p, keys).await?;
    let found = keys.iter().zip(heads).filter_map(|(key, head)| Some((key.clone(), head?))).collect();
    change(shared, p, found, |_| Event::Due).await.map(|_| ())
}

/// One of these items makes the store refuse them all: both halves are to be tried apart. A single one is given up.
fn halves<T>(shared: &Shared, mut items: Vec<T>, key: impl Fn(&T) -> &TaskKey, error: &Error) -> Vec<Vec<T>> {
    if let [bad] = &items[..] {
        shared.give_up(key(bad), error);
        return Vec::new();
    }
    let rest = items.split_off(items.len() / 2);
    vec![rest, items]
}

/// The first records of an index, and whether there are more. A store may have sorted out all of a page as out of date: then
/// what comes first is further on.
pub(super) async fn first(
    shared: &Shared,
    p: Partition,
    index: &Index,
    limit: usize,
) -> Result<(Vec<(TaskKey, Head)>, bool), Error> {
    let mut from = Cursor::default();
    loop {
        let page = shared.store.scan(p, index, from, limit).await?;
        match page.next {
            Some(next) if page.items.is_empty() => from = next,
            next => return Ok((page.items, next.is_some())),
        }
    }
}

/// Declares the attempts of a dead session lost, until this uptime: later it may be alive and own the partition again. True:
/// none are left.
pub(super) async fn recover(shared: &Shared, p: Partition, session: SessionId, until: Duration) -> bool {
    let index = Index::Running { session: Some(session) };
    let (mut count, mut from, mut before) = (0, Cursor::default(), 0);
    let mut given_up = 0;
    let all = loop {
        if (shared.uptime)() >= until {
            break false;
        }
        let step = async {
            let page = shared.store.scan(p, &index, from.clone(), BATCH).await?;
            Ok::<_, Error>((page.next, change(shared, p, page.items, |_| Event::Lost { session }).await?))
        };
        match step.await {
            // An empty page is not the end: a store may look through the attempts of all sessions.
            Ok((next, done)) => {
                count += done.changed;
                given_up += done.given_up;
                match next {
                    Some(next) => from = next,
                    None if count == before => break true,
                    // Some may have changed at the same moment: a walk that finds nothing to do is the last.
                    None => (from, before) = (Cursor::default(), count),
                }
            }
            Err(error) => {
                error.log("recover the attempts of a dead session");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    };
    // The session is not forgotten while the store says that something of it is left.
    let all = all && given_up == 0;
    if count > 0 {
        tracing::info!(partition = p.0, attempts = count, "recovered the attempts of a session that died");
        metrics::counter!("lovage_attempts_lost_total").increment(count as u64);
    }
    all
}

/// These records as a feed would tell them. Tries until the store has answered.
pub(super) async fn rows(shared: &Shared, p: Partition, keys: &[TaskKey]) -> Vec<FeedRow> {
    let mut rows = Vec::with_capacity(keys.len());
    let mut parts: Vec<Vec<TaskKey>> = keys.chunks(BATCH).map(<[_]>::to_vec).collect();
    while let Some(part) = parts.pop() {
        match shared.store.heads(p, &part).await {
            Ok(heads) => rows.extend(part.into_iter().zip(heads).map(|(key, head)| FeedRow { key, head })),
            Err(error) if error.is_of_the_items() => parts.extend(halves(shared, part, |key| key, &error)),
            Err(_) => {
                tokio::time::sleep(STORE_PAUSE).await;
                parts.push(part);
            }
        }
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
    given.inspect_err(|error| error.log("give them back")).is_ok_and(|done| done.given_up == 0)
}

/// Whether nothing of this session is left in the store, at the latest after this.
pub(super) async fn nothing_left(shared: &Shared, p: Partition) -> bool {
    match own_attempts(shared, p).await {
        Ok(found) => found.is_empty() || give_back(shared, p, found).await,
        Err(_) => false,
    }
}

/// The children that a parent waited for ([`lovage_store::children`]). Tries until the store has answered; whoever drops this
/// does not want them any more.
pub(super) async fn children(shared: &Shared, p: Partition, parent: &TaskKey) -> (Children, Vec<TaskId>) {
    loop {
        match lovage_store::children(&*shared.store, p, parent).await {
            Ok(children) => return children,
            Err(error) => {
                error.log("read what became of spawned tasks");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    }
}

/// Deletes results and records whose time is over. True: there are more.
pub(super) async fn sweep(shared: &Shared, p: Partition) -> bool {
    for _ in 0..SWEEPS {
        let step = async {
            let until = shared.store.clock().now();
            let (found, more) = first(shared, p, &Index::Done { until }, BATCH).await?;
            let size = found.len();
            let done = change(shared, p, found, |_| Event::Sweep).await?;
            // What cannot be deleted comes again with the next page.
            Ok::<_, Error>(more && done.given_up < size)
        };
        match step.await {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                error.log("delete old tasks");
                return false;
            }
        }
    }
    true
}

/// What became of records that were to change.
#[derive(Default)]
struct Changed {
    changed: usize,
    given_up: usize,
}

/// The rules applied to records as they are stored. Those that the store cannot handle do not keep the others.
async fn change(
    shared: &Shared,
    p: Partition,
    found: Vec<(TaskKey, Head)>,
    event: impl Fn(&Head) -> Event,
) -> Result<Changed, Error> {
    let mut done = Changed::default();
    let mut parts = vec![found];
    while let Some(part) = parts.pop() {
        match change_together(shared, p, &part, &event).await {
            Ok(changed) => done.changed += changed,
            Err(error) if error.is_of_the_items() => {
                let rest = halves(shared, part, |(key, _)| key, &error);
                done.given_up += usize::from(rest.is_empty());
                parts.extend(rest);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Answers how many changed.
async fn change_together(
    shared: &Shared,
    p: Partition,
    found: &[(TaskKey, Head)],
    event: impl Fn(&Head) -> Event,
) -> Result<usize, Error> {
    if found.is_empty() {
        return Ok(0);
    }
    let keys: Vec<TaskKey> = found.iter().map(|(key, _)| key.clone()).collect();
    let bodies = shared.store.bodies(p, &keys).await?;
    let now = shared.store.clock().now();
    let mut commits: Vec<Commit> = Vec::with_capacity(found.len());
    // Accepted attempts that `max_run` ends.
    let mut overrun: Vec<TaskKey> = Vec::new();
    for ((key, head), body) in found.iter().zip(bodies) {
        // A record without a readable body is still led to its end.
        let spec = body.and_then(|body| Spec::decode(&Body::decode(&body)?.spec)).unwrap_or_default();
        // What is refused needs nothing from here: it moved, or its time has not come.
        if let Ok(transition) = decide(key, head, &spec, event(head), now, (shared.random)()) {
            let error = transition.attempt.as_ref().and_then(|entry| entry.error.as_ref());
            if error.is_some_and(|error| error.kind == TIMED_OUT) {
                overrun.push(key.clone());
            }
            let queue: Arc<str> = spec.queue().into();
            commits.push(Commit::of(
                key,
                head.clone(),
                transition,
                &spec,
                queue,
                None,
                now,
                &*shared.random,
                shared.store.caps().partitions,
            ));
        }
    }
    let changed = commits.len();
    let most = shared.store.caps().max_batch.max(1);
    while !commits.is_empty() {
        let rest = commits.split_off(commits.len().min(most));
        let each: Vec<_> = commits
            .iter()
            .map(|commit| overrun.contains(&commit.key).then(|| (commit.key.clone(), commit.was.clone())))
            .collect();
        let done = shared.store.commit(p, shared.session, commits, Mode::Each, Sync::Ordered).await?;
        for (overrun, _) in each.into_iter().zip(done).filter(|(_, done)| *done == Committed::Ok) {
            if let Some((key, was)) = overrun {
                shared.tell_overrun(key, &was);
            }
        }
        commits = rest;
    }
    Ok(changed)
}
